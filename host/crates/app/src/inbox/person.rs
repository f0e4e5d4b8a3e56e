//! Finds a person in the inbox, and erases what is found. Requests are sealed and nothing of them
//! stands beside: each is opened and looked at.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use patchbay_model::redaction::Mask;
use patchbay_model::webhook::InboxState;
use patchbay_model::{DataPath, QueueName};
use patchbay_queue::{Broker, QueueError};
use patchbay_store::StoreError;
use tokio::task::block_in_place;
use uuid::Uuid;

use super::event::Content;
use super::seal::Part;
use super::{InboxParts, event};

/// Requests that are held at once: each may have megabytes.
const PAGE: i64 = 32;
/// What waits in Redis is in Postgres within a second or two.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is looked for. Any of it is enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought<'a> {
    /// One of these values at this path of a body in JSON, or in the form field or parameter of this
    /// name.
    pub person: Option<(&'a DataPath, &'a [String])>,
    /// The value anywhere; empty where it is too short.
    pub mask: &'a Mask,
    /// One of these jobs came of it.
    pub jobs: &'a HashSet<String>,
    /// Only webhooks with this queue.
    pub queue: Option<&'a QueueName>,
}

/// Requests with what was looked for.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    pub ids: Vec<Uuid>,
    /// Those whose jobs are being added, those that cannot be opened, and those that wait in Redis.
    pub left: u64,
    /// Whether all were looked at.
    pub is_complete: bool,
}

impl InboxParts {
    /// Looks at every request, until this time.
    pub(crate) async fn holding(
        &self,
        sought: Sought<'_>,
        until: Instant,
    ) -> Result<Holding, StoreError> {
        let mut holding = Holding::default();
        let mut cursor = None;
        loop {
            if Instant::now() >= until {
                return Ok(holding);
            }
            let page = self.store.inbox_sealed(cursor, PAGE).await?;
            let Some(last) = page.last() else {
                holding.is_complete = true;
                return Ok(holding);
            };
            cursor = Some((last.received_at, last.id));
            for request in &page {
                if !self.is_of_queue(request.plugin.as_str(), &request.webhook, sought.queue) {
                    continue;
                }
                let is_of_jobs = !sought.jobs.is_empty()
                    && request
                        .event_key
                        .is_some_and(|key| event::has_job(&key, request.processing, sought.jobs));
                let is_meant = match (is_of_jobs, sought.person.is_some()) {
                    (true, _) => true,
                    (false, false) => false,
                    (false, true) => {
                        let key = self.seals.key(&request.sealed_key).await?;
                        let sealed = request.sealed.as_deref().unwrap_or_default();
                        let looked = block_in_place(|| {
                            let opened = key?.open(request.id, Part::Request, sealed)?;
                            Some(holds(&Content::from_bytes(&opened)?, &sought))
                        });
                        match looked {
                            Some(is_meant) => is_meant,
                            None => {
                                holding.left += 1;
                                false
                            }
                        }
                    }
                };
                match (is_meant, request.state) {
                    (false, _) => {}
                    (true, InboxState::Accepted) => holding.left += 1,
                    (true, _) => holding.ids.push(request.id),
                }
            }
        }
    }

    fn is_of_queue(&self, plugin: &str, webhook: &str, queue: Option<&QueueName>) -> bool {
        let Some(queue) = queue else { return true };
        let table = self.plugins.route_table();
        table.webhooks().iter().any(|of| {
            of.plugin.as_str() == plugin && of.spec.name == webhook && of.spec.queue == *queue
        })
    }

    /// Erases these requests; their events stay known. How many were erased, and how many were not
    /// because their jobs are being added.
    pub(crate) async fn erase_all(&self, ids: &[Uuid]) -> Result<(u64, u64), StoreError> {
        let (mut erased, mut left) = (0, 0);
        for id in ids {
            match self.store.erase_from_inbox(*id).await? {
                Some(InboxState::Accepted) => left += 1,
                Some(_) => erased += 1,
                None => {}
            }
        }
        Ok((erased, left))
    }

    /// Waits until nothing waits in Redis, for some seconds; how many requests still do.
    pub(crate) async fn drained(&self, broker: &Broker) -> Result<u64, QueueError> {
        let until = Instant::now() + DRAINED_WITHIN;
        loop {
            let (entries, _) = broker.spill_size().await?;
            if entries == 0 || Instant::now() >= until {
                return Ok(entries);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn holds(content: &Content, sought: &Sought<'_>) -> bool {
    let request = &content.request;
    let body = String::from_utf8_lossy(&request.body);
    let headers = request.headers.iter();
    let mut headers = headers.map(|(_, value)| String::from_utf8_lossy(value));
    let says = |text: &str| !sought.mask.is_empty() && sought.mask.finds(text);
    if says(&body)
        || says(&request.query)
        || content.event_id.as_deref().is_some_and(says)
        || headers.any(|value| says(&value))
    {
        return true;
    }
    let Some((path, values)) = sought.person else {
        return false;
    };
    let in_pairs = |text: &str| {
        let mut pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.any(|(name, value)| {
            name == path.as_str() && values.iter().any(|wanted| *wanted == value)
        })
    };
    values.contains(&request.ip)
        || path.holds(&body, values)
        || in_pairs(&request.query)
        || in_pairs(&body)
}

#[cfg(test)]
mod tests {
    use patchbay_model::webhook::WebhookRequest;

    use super::super::event::Hides;
    use super::*;

    fn content(query: &str, header: &str, body: &str) -> Content {
        Content {
            request: WebhookRequest {
                name: "w".into(),
                method: "POST".into(),
                path: "/api/v/w".into(),
                query: query.into(),
                headers: vec![("x-a".into(), header.into())],
                body: body.into(),
                ip: "203.0.113.7".into(),
                received_at_ms: 1,
            },
            event_id: None,
            platform: None,
            hides: Hides::default(),
        }
    }

    #[test]
    fn a_person_is_found_by_path_field_and_parameter_and_a_long_value_anywhere() {
        let path: DataPath = "lead.phone".parse().expect("a path");
        let look = |value: &str, content: &Content| {
            let (values, jobs) = ([value.to_owned()], HashSet::new());
            let mask = match value.len() >= 9 {
                true => Mask::new([value.to_owned()]),
                false => Mask::default(),
            };
            let sought = Sought {
                person: Some((&path, &values)),
                mask: &mask,
                jobs: &jobs,
                queue: None,
            };
            holds(content, &sought)
        };
        for (query, header, body) in [
            ("", "", r#"{"lead":{"phone":"555"}}"#),
            ("", "", r#"{"lead":[{"phone":"1"},{"phone":"555"}]}"#),
            ("", "", "a=1&lead.phone=555"),
            ("lead.phone=5%355", "", ""),
        ] {
            assert!(look("555", &content(query, header, body)), "{query} {body}");
        }
        assert!(!look("555", &content("a=555", "555", r#"{"phone":"555"}"#)));
        let long = "ada@example.com";
        for (query, header, body) in [
            ("to=ADA%40example.com", "", ""),
            ("", "for ada@example.com", ""),
            ("", "", "--x\r\n\r\nada@example.com\r\n--x--"),
        ] {
            assert!(look(long, &content(query, header, body)), "{query} {body}");
        }
        assert!(!look(long, &content("", "", "ada@example.org")));
    }
}
