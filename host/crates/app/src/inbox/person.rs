//! Finds a person in the inbox, and erases what is found. Requests are sealed and nothing of them
//! stands beside: each is opened and looked at.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use patchbay_model::redaction::Mask;
use patchbay_model::webhook::InboxState;
use patchbay_model::{DataPath, QueueName};
use patchbay_queue::{Broker, QueueError};
use patchbay_store::{InboxFilter, StoreError};
use tokio::task::block_in_place;
use uuid::Uuid;

use super::event::Content;
use super::seal::Part;
use super::{InboxParts, event};

/// Requests that are held at once: each may have megabytes.
const PAGE: i64 = 32;
/// Requests that are found by their terms.
const MOST_FOUND: i64 = 100_000;
/// A shorter value may stand in a text by chance.
const LEAST_WITHIN: usize = 5;
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
    /// Those whose jobs are being added, those that cannot be opened or for which the time was too short,
    /// and those that wait in Redis.
    pub left: u64,
}

impl InboxParts {
    /// Looks at every request, until this time.
    pub(crate) async fn holding(
        &self,
        sought: Sought<'_>,
        until: Instant,
    ) -> Result<Holding, StoreError> {
        let mut holding = Holding::default();
        let found = self.found_by_terms(sought).await?;
        for (id, state) in &found {
            match state {
                InboxState::Accepted => holding.left += 1,
                _ => holding.ids.push(*id),
            }
        }
        let mut cursor = None;
        loop {
            if Instant::now() >= until {
                holding.left += self.store.inbox_sealed_after(cursor).await?;
                return Ok(holding);
            }
            let page = self.store.inbox_sealed(cursor, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(holding);
            };
            cursor = Some((last.received_at, last.id));
            for request in &page {
                if found.contains_key(&request.id) {
                    continue;
                }
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

    /// Those with the value at a path that was searchable when they came: at once, however many
    /// there are.
    async fn found_by_terms(
        &self,
        sought: Sought<'_>,
    ) -> Result<HashMap<Uuid, InboxState>, StoreError> {
        let mut found = HashMap::new();
        let Some((path, values)) = sought.person else {
            return Ok(found);
        };
        let keys = self.event_keys.get_or_try_init(|| self.store.event_keys());
        let keys = keys.await?.clone();
        for value in values {
            let filter = InboxFilter {
                terms: vec![keys.term(path, value)],
                ..InboxFilter::default()
            };
            let rows = self.store.inbox(&filter, MOST_FOUND).await?;
            let rows = rows
                .into_iter()
                .filter(|row| self.is_of_queue(row.plugin.as_str(), &row.webhook, sought.queue));
            found.extend(rows.map(|row| (row.id, row.state)));
        }
        Ok(found)
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
    let body = text(&request.body);
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
    // Of what has no form that is known, no path says where the value is.
    let is_formless = || {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
        !is_json && !event::is_form(request)
    };
    let is_within = |value: &String| value.len() >= LEAST_WITHIN && body.contains(value.as_str());
    values.contains(&request.ip)
        || path.holds(&body, values)
        || in_pairs(&request.query)
        || in_pairs(&body)
        || (is_formless() && values.iter().any(is_within))
}

/// A body as text, without its mark of order; UTF-16 only with one.
fn text(body: &[u8]) -> Cow<'_, str> {
    let wide = |unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = body[2..]
            .chunks_exact(2)
            .map(|pair| unit([pair[0], pair[1]]))
            .collect();
        String::from_utf16_lossy(&units).into()
    };
    match body {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        _ => String::from_utf8_lossy(body),
    }
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
        let found = [
            "\u{feff}{\"lead\":{\"phone\":\"5550199\"}}",
            "{\"lead\":{\"phone\":\"5550199\"}",
            "--x\r\n\r\n5550199\r\n--x--",
        ];
        for body in found {
            assert!(look("5550199", &content("", "", body)), "{body}");
        }
        assert!(!look(
            "555",
            &content("", "", "--x\r\n\r\n5550199\r\n--x--")
        ));
        let wide = "{\"lead\":{\"phone\":\"5550199\"}}".encode_utf16();
        let mut sent = content("", "", "");
        sent.request.body = [0xff, 0xfe]
            .into_iter()
            .chain(wide.flat_map(u16::to_le_bytes))
            .collect();
        assert!(look("5550199", &sent), "UTF-16");
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
