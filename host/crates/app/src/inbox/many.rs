//! What operators do with many kept requests at once.
//!
//! A preview counts what a filter means and gives a token over it: the filter, the newest request,
//! and the time. Whoever sends the token has exactly those requests handled, a part at a time: a
//! client that stops asking has stopped. Requests that somebody has judged meanwhile are left out,
//! so a repeated token does nothing twice.

mod meant;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use patchbay_api::inbox::InboxVerdict;
use patchbay_api::inbox_many::{
    InboxEraseMany, InboxGroup, InboxMany, InboxManyAnswer, InboxPreview, InboxProgress,
    InboxReason, InboxReplayMany, InboxVerifyMany,
};
use patchbay_api::operation::Endpoint;
use patchbay_model::webhook::InboxState;
use patchbay_store::{EventKeys, InboxSelection, SelectedRequest};
use serde_json::json;
use uuid::Uuid;

use self::meant::{Meant, What};
use super::administration::{cursor, item};
use super::{Inbox, event};
use crate::Caller;
use crate::error::{Error, Kind};

/// More cannot be meant at once.
const MOST: usize = 10_000;
/// Requests, and time, of one part.
const PART: i64 = 100;
const PART_TIME: Duration = Duration::from_secs(5);
/// Requests that are judged at once: requests that arrive must find room beside them.
const AT_ONCE: usize = 4;
/// A part is followed by a rest as long as itself, and at most so long.
const LONGEST_REST: Duration = Duration::from_secs(1);
const SAMPLES: usize = 5;
const MOST_REASONS: usize = 10;
/// Ids of jobs in one question.
const JOBS_ASKED: usize = 1_000;

/// What became of one request.
#[derive(Debug)]
enum Fate {
    Accepted,
    Repeat,
    Rejected(String),
    Deferred(String),
    Erased,
    Skipped(String),
}

fn progress(fates: Vec<Fate>) -> InboxProgress {
    let mut progress = InboxProgress::default();
    let mut reasons: BTreeMap<(&str, String), i64> = BTreeMap::new();
    for fate in fates {
        progress.handled += 1;
        let (count, reason) = match fate {
            Fate::Accepted => (&mut progress.accepted, None),
            Fate::Repeat => (&mut progress.repeats, None),
            Fate::Erased => (&mut progress.erased, None),
            Fate::Rejected(code) => (&mut progress.rejected, Some(("rejected", code))),
            Fate::Deferred(code) => (&mut progress.deferred, Some(("deferred", code))),
            Fate::Skipped(why) => (&mut progress.skipped, Some(("skipped", why))),
        };
        *count += 1;
        if let Some(reason) = reason {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let reason = |((result, reason), count): ((&str, String), i64)| InboxReason {
        result: result.to_owned(),
        reason,
        count,
    };
    progress.reasons = reasons.into_iter().map(reason).collect();
    progress
        .reasons
        .sort_by_key(|reason| std::cmp::Reverse(reason.count));
    progress.reasons.truncate(MOST_REASONS);
    progress
}

impl Inbox {
    pub async fn verify_many(
        &self,
        who: &Caller,
        asked: InboxMany,
    ) -> Result<InboxManyAnswer, Error> {
        let what = What::Verify(asked.apply);
        self.many::<InboxVerifyMany>(who, what, asked).await
    }

    pub async fn replay_many(
        &self,
        who: &Caller,
        asked: InboxMany,
    ) -> Result<InboxManyAnswer, Error> {
        let what = What::Replay(asked.again);
        self.many::<InboxReplayMany>(who, what, asked).await
    }

    pub async fn erase_many(
        &self,
        who: &Caller,
        asked: InboxMany,
    ) -> Result<InboxManyAnswer, Error> {
        self.many::<InboxEraseMany>(who, What::Erase, asked).await
    }

    async fn many<E: Endpoint>(
        &self,
        who: &Caller,
        what: What,
        asked: InboxMany,
    ) -> Result<InboxManyAnswer, Error> {
        if asked.apply && !matches!(what, What::Verify(_)) {
            return Err(Error::invalid("apply: is said of a verification only"));
        }
        if asked.again && !matches!(what, What::Replay(_)) {
            return Err(Error::invalid("again: is said of a replay only"));
        }
        let keys = self.parts.event_keys().await?;
        let Some(token) = &asked.token else {
            if asked.cursor.is_some() {
                return Err(Error::invalid("cursor: needs the token of a preview"));
            }
            let preview = self.preview(Meant::of(what, asked)?, &keys).await?;
            return Ok(InboxManyAnswer {
                preview: Some(preview),
                ..InboxManyAnswer::default()
            });
        };
        let beside_token = InboxMany {
            token: None,
            cursor: None,
            ..asked.clone()
        };
        if beside_token != InboxMany::default() {
            return Err(Error::invalid(
                "token: says which requests are meant, and what is done; give nothing else but cursor",
            ));
        }
        let meant = Meant::of_token(what, token, &keys)?;
        let begins = asked.cursor.as_deref().map(cursor).transpose()?;
        let act = self.part(who, &meant, begins);
        let counts = |answer: &InboxManyAnswer| json!({ "progress": answer.progress });
        self.actions
            .record_as::<E, _>(who, "inbox", meant.recorded(), act, counts)
            .await
    }

    async fn preview(&self, mut meant: Meant, keys: &EventKeys) -> Result<InboxPreview, Error> {
        let filter = meant.filter();
        let selection = InboxSelection {
            filter: &filter,
            ids: meant.ids(),
            states: &meant.states(),
            newest: None,
            unchanged_since: None,
            cursor: None,
        };
        let store = &self.parts.store;
        let found = store.inbox_selected(&selection, MOST as i64 + 1).await?;
        if found.len() > MOST {
            return Err(Error::conflict(format!(
                "More than {MOST} requests match: narrow the filter, such as by after and before. Nothing was done"
            )));
        }
        let mut groups: BTreeMap<(String, InboxState), i64> = BTreeMap::new();
        for of in &found {
            let webhook = format!("{}.{}", of.plugin, of.webhook);
            *groups.entry((webhook, of.state)).or_default() += 1;
        }
        let mut samples = Vec::new();
        for of in found.iter().take(SAMPLES) {
            samples.extend(store.inbox_row(of.id).await?.map(item));
        }
        let completed = self.completed(&found).await?;
        if let Some(last) = found.last() {
            meant.newest_at = last.received_at;
            meant.newest = last.id;
            meant.at = last.asked_at;
        }
        Ok(InboxPreview {
            total: i64::try_from(found.len()).unwrap_or(i64::MAX),
            groups: groups
                .into_iter()
                .map(|((webhook, state), count)| InboxGroup {
                    webhook,
                    state,
                    count,
                })
                .collect(),
            completed,
            samples,
            token: (!found.is_empty()).then(|| meant.token(keys)),
        })
    }

    /// Of how many requests a job has completed.
    async fn completed(&self, found: &[SelectedRequest]) -> Result<i64, Error> {
        let table = self.parts.plugins.route_table();
        let mut by_queue: BTreeMap<String, Vec<(Uuid, String)>> = BTreeMap::new();
        for of in found {
            let key = of.event_key.as_deref().and_then(|key| key.try_into().ok());
            let mut webhooks = table.webhooks().iter();
            let webhook = webhooks
                .find(|webhook| webhook.plugin == of.plugin && webhook.spec.name == of.webhook);
            if let (Some(key), Some(webhook)) = (key, webhook) {
                let ids = event::job_ids(&key, of.processing, of.jobs);
                let jobs = by_queue.entry(webhook.spec.queue.to_string()).or_default();
                jobs.extend(ids.into_iter().map(|id| (of.id, id)));
            }
        }
        let mut completed = std::collections::HashSet::new();
        for (queue, jobs) in by_queue {
            for some in jobs.chunks(JOBS_ASKED) {
                let ids: Vec<String> = some.iter().map(|(_, id)| id.clone()).collect();
                let prefix = self.parts.broker.prefix();
                let done = self.parts.store.completed_jobs(prefix, &queue, &ids);
                let done: std::collections::HashSet<String> = done.await?.into_iter().collect();
                let of_them = some.iter().filter(|(_, id)| done.contains(id));
                completed.extend(of_them.map(|(request, _)| *request));
            }
        }
        Ok(i64::try_from(completed.len()).unwrap_or(i64::MAX))
    }

    /// Handles the next requests of a preview, and says where the part after it begins.
    async fn part(
        &self,
        who: &Caller,
        meant: &Meant,
        begins: Option<(DateTime<Utc>, Uuid)>,
    ) -> Result<InboxManyAnswer, Error> {
        let began = Instant::now();
        let filter = meant.filter();
        let selection = InboxSelection {
            filter: &filter,
            ids: meant.ids(),
            states: &meant.states(),
            newest: Some((meant.newest_at, meant.newest)),
            unchanged_since: Some(meant.at),
            cursor: begins,
        };
        let found = self.parts.store.inbox_selected(&selection, PART).await?;
        let (mut fates, mut last) = (Vec::new(), None);
        for some in found.chunks(AT_ONCE) {
            let handled = some.iter().map(|of| self.handle(who, meant.what, of.id));
            fates.extend(try_join_all(handled).await?);
            last = some.last();
            if began.elapsed() > PART_TIME {
                break;
            }
        }
        let is_end = fates.len() == found.len() && (found.len() as i64) < PART;
        let next_cursor = last.filter(|_| !is_end).map(|last| {
            let micros = last.received_at.timestamp_micros();
            format!("{micros}-{}", last.id.simple())
        });
        if next_cursor.is_some() {
            tokio::time::sleep(began.elapsed().min(LONGEST_REST)).await;
        }
        Ok(InboxManyAnswer {
            progress: Some(progress(fates)),
            next_cursor,
            ..InboxManyAnswer::default()
        })
    }

    /// One request. What belongs to it alone does not stop the others.
    async fn handle(&self, who: &Caller, what: What, id: Uuid) -> Result<Fate, Error> {
        let handled = match what {
            What::Erase => self.erase_one(id).await,
            What::Verify(applies) => self.judge_one(who, id, applies, false).await,
            What::Replay(again) => self.judge_one(who, id, true, again).await,
        };
        match handled {
            Err(error) if matches!(error.kind, Kind::Unavailable | Kind::Internal) => Err(error),
            Err(error) => Ok(Fate::Skipped(error.message)),
            Ok(fate) => Ok(fate),
        }
    }

    async fn erase_one(&self, id: Uuid) -> Result<Fate, Error> {
        Ok(match self.parts.store.erase_from_inbox(id).await? {
            None => Fate::Skipped("It is no longer there".into()),
            Some(InboxState::Accepted) => Fate::Skipped("Its jobs are being added".into()),
            Some(_) => Fate::Erased,
        })
    }

    async fn judge_one(
        &self,
        who: &Caller,
        id: Uuid,
        applies: bool,
        again: bool,
    ) -> Result<Fate, Error> {
        let (webhook, request) = self.judgeable(id).await?;
        let said = match request.state {
            InboxState::Deferred | InboxState::Rejected => {
                self.first(&webhook, &request, applies).await?
            }
            InboxState::Enqueued | InboxState::Recorded if again => {
                self.again(who, &webhook, &request).await?
            }
            _ => return Ok(Fate::Skipped("Somebody else has changed it".into())),
        };
        let InboxVerdict {
            verdict,
            code,
            state,
            ..
        } = said;
        let code = code.unwrap_or_default();
        Ok(match verdict.as_str() {
            "accepted" if state == InboxState::Repeat => Fate::Repeat,
            "accepted" => Fate::Accepted,
            "rejected" => Fate::Rejected(code),
            _ => Fate::Deferred(code),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_the_most_frequent_first() {
        let counted = progress(vec![
            Fate::Accepted,
            Fate::Rejected("stale".into()),
            Fate::Rejected("bad-token".into()),
            Fate::Rejected("bad-token".into()),
            Fate::Skipped("It is no longer there".into()),
        ]);
        assert_eq!(
            (counted.handled, counted.rejected, counted.skipped),
            (5, 3, 1)
        );
        let first = &counted.reasons[0];
        assert_eq!((first.reason.as_str(), first.count), ("bad-token", 2));
    }
}
