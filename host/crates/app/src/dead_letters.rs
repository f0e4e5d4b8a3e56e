//! Use cases of dead letters: jobs that failed for good, grouped by what their failure looks like.

mod checking;

use std::sync::Arc;

use patchbay_api::dead_letters::{
    Assignee, CountDeadLetters, DeadLetter, DeadLetterCounts, DeadLetterDetails, DeadLetterState,
    DeadLettersAcknowledge, DeadLettersAssign, DeadLettersNote, DeadLettersUnacknowledge,
    FailedJob, ListDeadLetters, ListedDeadLetters, Note,
};
use patchbay_api::jobs::LastChange;
use patchbay_api::operation::Endpoint;
use patchbay_model::job::JobState;
use patchbay_model::{JobId, PluginName, QueueName};
use patchbay_queue::{Broker, retry_of};
use patchbay_store::{ActionRow, DeadLetterRow, DeadLetters as Which, Ended, Store, StoreError};
use serde_json::{Value, json};

pub use self::checking::checking;
use self::checking::refresh;
use crate::Parts;
use crate::actions::{Actions, Caller};
use crate::error::{Error, Kind};
use crate::nearest::suggesting_number;
use crate::plugins::Plugins;
use crate::queues::Catalog;
use crate::redacted::mask_of;

/// Codes with which the host ends a job, whatever attempts it has left.
const OF_THE_HOST: [&str; 4] = ["killed", "crashed-host", "failed-by-flow", "expired"];
/// Jobs shown with a group.
const SAMPLE: usize = 10;
/// Failures among which they are looked for: a job that was retried has several.
const LOOKED_AT: i64 = 100;
const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 1_000;
/// In characters.
const MAX_NOTE: usize = 2_000;
const MAX_ASSIGNEE: usize = 100;
/// Groups among which a suggestion is looked for.
const MAX_SUGGESTED: i64 = 1_000;

#[derive(Clone)]
pub struct DeadLetters {
    broker: Broker,
    store: Store,
    plugins: Arc<Plugins>,
    actions: Actions,
    catalog: Catalog,
}

impl DeadLetters {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            store: parts.store.clone(),
            plugins: Arc::clone(&parts.plugins),
            actions: parts.actions.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
        }
    }

    pub async fn list(&self, asked: ListDeadLetters) -> Result<Vec<DeadLetter>, Error> {
        let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(format!(
                "limit: must be from 1 to {MAX_LIMIT}"
            )));
        }
        let which = which(asked)?;
        let rows = async || {
            let prefix = self.broker.prefix();
            self.store.dead_letters(prefix, &which, limit.into()).await
        };
        let groups: Vec<i64> = rows().await?.iter().map(|row| row.id).collect();
        if groups.is_empty() {
            let plugin: Option<PluginName> =
                which.plugin.as_ref().map(|name| name.parse()).transpose()?;
            self.catalog
                .check_filter(which.queue.as_ref(), plugin.as_ref())
                .await?;
        }
        refresh(&self.store, &self.broker, &groups).await;
        Ok(rows().await?.into_iter().map(view).collect())
    }

    pub async fn count(&self, asked: CountDeadLetters) -> Result<DeadLetterCounts, Error> {
        let (queue, plugin) = parsed(asked.queue, asked.plugin)?;
        let counts = self
            .store
            .count_dead_letters(self.broker.prefix(), queue.as_ref(), plugin.as_deref())
            .await?;
        Ok(DeadLetterCounts {
            open: counts.open,
            acknowledged: counts.acknowledged,
            closed: counts.closed,
        })
    }

    /// Shows a group with its newest jobs.
    pub async fn show(&self, id: i64) -> Result<DeadLetterDetails, Error> {
        let (store, prefix) = (&self.store, self.broker.prefix());
        if let Err(error) = store.dead_letter(prefix, id).await {
            return Err(unknown_group(store, prefix, id, error.into()).await);
        }
        refresh(store, &self.broker, &[id]).await;
        let group = view(store.dead_letter(prefix, id).await?);
        let mut sample = store.dead_letter_jobs(prefix, id, LOOKED_AT).await?;
        for job in &mut sample {
            mask_of(&job.job_id).hide(job.message.iter_mut().chain(&mut job.stack));
        }
        let stack = sample.first().and_then(|job| job.stack.clone());
        let restorable = match group.removed {
            0 => 0,
            _ => store.restorable_dead_letter_jobs(prefix, id).await?,
        };
        let (undo, removal) = match group.removed {
            0 => (None, None),
            _ => (
                store.removal_of_dead_letter(prefix, id).await?,
                store.removal_by_operator(prefix, id).await?,
            ),
        };
        let permanent = match sample.first() {
            Some(newest) if !OF_THE_HOST.contains(&group.code.as_str()) => {
                self.is_permanent(newest).await
            }
            _ => false,
        };
        let elsewhere = store
            .dead_letter_siblings(prefix, id)
            .await?
            .into_iter()
            .map(view)
            .collect();
        let sample = self.jobs_once(id, sample).await?;
        Ok(DeadLetterDetails {
            group,
            restorable,
            undo,
            removal: removal.map(last_change),
            permanent,
            stack,
            sample,
            elsewhere,
        })
    }

    /// Each job once, with its newest failure and where it is: those that still fail first.
    async fn jobs_once(&self, group: i64, failures: Vec<Ended>) -> Result<Vec<FailedJob>, Error> {
        let ids: Vec<&str> = failures.iter().map(|one| one.job_id.as_str()).collect();
        let created: Vec<i64> = failures.iter().map(|one| one.job_created_ms).collect();
        let jobs = (&ids[..], &created[..]);
        let states = self.store.states_of_dead_letter_jobs(group, jobs).await?;
        let mut sample: Vec<FailedJob> = Vec::new();
        for failure in failures {
            let is_its = |known: (&str, i64)| known == (&failure.job_id, failure.job_created_ms);
            if sample
                .iter()
                .any(|job| is_its((&job.job_id, job.job_created_ms)))
            {
                continue;
            }
            let mut states = states.iter();
            let state = states.find(|job| is_its((&job.job_id, job.job_created_ms)));
            let state = state.map(|job| job.state.clone());
            sample.push(failed_job(failure, state));
        }
        sample.sort_by_key(|job| job.state.as_deref() != Some("failing"));
        sample.truncate(SAMPLE);
        Ok(sample)
    }

    /// Whether the job failed for good with attempts left. `false` where Redis does not tell.
    async fn is_permanent(&self, failed: &Ended) -> bool {
        let (Ok(queue), Ok(id)) = (
            failed.queue.parse::<QueueName>(),
            failed.job_id.parse::<JobId>(),
        ) else {
            return false;
        };
        let Ok(Some(job)) = self.broker.job(&queue, &id).await else {
            return false;
        };
        let policy = self.plugins.retry_policy(&queue, retry_of(&job));
        job.state == JobState::Failed && job.attempts_made < policy.attempts
    }

    pub async fn acknowledge(&self, who: &Caller, id: i64) -> Result<DeadLetter, Error> {
        let act = self
            .store
            .acknowledge_dead_letter(self.broker.prefix(), id, Some(&who.actor));
        // With more failures since, it is acknowledged anew.
        let is_so =
            |row: &DeadLetterRow| row.acknowledged_at.is_some() && row.since_acknowledged == 0;
        self.change::<DeadLettersAcknowledge>(who, id, json!({}), is_so, act)
            .await
    }

    pub async fn unacknowledge(&self, who: &Caller, id: i64) -> Result<DeadLetter, Error> {
        let act = self
            .store
            .acknowledge_dead_letter(self.broker.prefix(), id, None);
        let is_so = |row: &DeadLetterRow| row.acknowledged_at.is_none();
        self.change::<DeadLettersUnacknowledge>(who, id, json!({}), is_so, act)
            .await
    }

    pub async fn note(
        &self,
        who: &Caller,
        id: i64,
        Note { note }: Note,
    ) -> Result<DeadLetter, Error> {
        let note = text("note", note, MAX_NOTE)?;
        let act = self
            .store
            .note_dead_letter(self.broker.prefix(), id, note.as_deref());
        // The text is stored in the group only, where erasing finds it.
        let details = json!({ "characters": note.as_ref().map(|note| note.chars().count()) });
        let is_so = |row: &DeadLetterRow| row.note == note;
        self.change::<DeadLettersNote>(who, id, details, is_so, act)
            .await
    }

    pub async fn assign(&self, who: &Caller, id: i64, to: Assignee) -> Result<DeadLetter, Error> {
        let assignee = text("assignee", to.assignee, MAX_ASSIGNEE)?;
        let act = self
            .store
            .assign_dead_letter(self.broker.prefix(), id, assignee.as_deref());
        let is_so = |row: &DeadLetterRow| row.assignee == assignee;
        let details = json!({ "assignee": assignee });
        self.change::<DeadLettersAssign>(who, id, details, is_so, act)
            .await
    }

    /// Records only the group's number and queue, since erasing removes the group's texts elsewhere.
    /// `is_so`: whether the group is already as it is wanted.
    async fn change<E: Endpoint>(
        &self,
        who: &Caller,
        id: i64,
        mut details: Value,
        is_so: impl Fn(&DeadLetterRow) -> bool,
        act: impl Future<Output = Result<DeadLetterRow, StoreError>>,
    ) -> Result<DeadLetter, Error> {
        let (store, prefix) = (&self.store, self.broker.prefix());
        let before = store.dead_letter(prefix, id).await;
        if let Ok(row) = &before {
            details["queue"] = row.queue.as_str().into();
        }
        let changed = async {
            let before = before?;
            if is_so(&before) {
                return Ok(DeadLetter {
                    already: true,
                    ..view(before)
                });
            }
            Ok::<_, StoreError>(view(act.await?))
        };
        let act = async {
            match changed.await {
                Ok(group) => Ok(group),
                Err(error) => Err(unknown_group(store, prefix, id, error.into()).await),
            }
        };
        let numbered = |group: &DeadLetter| match group.already {
            true => json!({ "id": group.id, "already": true }),
            false => json!({ "id": group.id }),
        };
        self.actions
            .record_as::<E, _>(who, &format!("dead-letter/{id}"), details, act, numbered)
            .await
    }
}

/// The error with the group that may be meant, if it is about an unknown one.
pub(crate) async fn unknown_group(store: &Store, prefix: &str, id: i64, error: Error) -> Error {
    if error.kind != Kind::NotFound {
        return error;
    }
    // The suggestion may fail; the answer is the same.
    let known = store.dead_letter_ids(prefix, MAX_SUGGESTED).await;
    let message = suggesting_number(error.message, id, &known.unwrap_or_default());
    Error { message, ..error }
}

fn which(asked: ListDeadLetters) -> Result<Which, Error> {
    use ListedDeadLetters::{Acknowledged, All, Closed, Open};
    let (acknowledged, closed) = match (asked.state, asked.acknowledged) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid(
                "acknowledged: cannot be given together with state. Use state=open or state=acknowledged",
            ));
        }
        (None, acknowledged) => (acknowledged, Some(false)),
        (Some(Open), None) => (Some(false), Some(false)),
        (Some(Acknowledged), None) => (Some(true), Some(false)),
        (Some(Closed), None) => (None, Some(true)),
        (Some(All), None) => (None, None),
    };
    let (queue, plugin) = parsed(asked.queue, asked.plugin)?;
    Ok(Which {
        queue,
        plugin,
        acknowledged,
        closed,
    })
}

fn parsed(
    queue: Option<String>,
    plugin: Option<String>,
) -> Result<(Option<QueueName>, Option<String>), Error> {
    let plugin: Option<PluginName> = plugin.map(|name| name.parse()).transpose()?;
    Ok((
        queue.map(|name| name.parse()).transpose()?,
        plugin.map(|name| name.to_string()),
    ))
}

/// A blank text becomes `None`.
fn text(name: &str, value: Option<String>, most: usize) -> Result<Option<String>, Error> {
    let value = value
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty());
    if value
        .as_ref()
        .is_some_and(|text| text.chars().count() > most || text.contains('\0'))
    {
        return Err(Error::invalid(format!(
            "{name}: must have at most {most} characters and no NUL character"
        )));
    }
    Ok(value)
}

fn view(row: DeadLetterRow) -> DeadLetter {
    let state = match (row.closed_at, row.acknowledged_at) {
        (Some(_), _) => DeadLetterState::Closed,
        (None, Some(_)) => DeadLetterState::Acknowledged,
        (None, None) => DeadLetterState::Open,
    };
    DeadLetter {
        id: row.id,
        queue: row.queue,
        plugin: row.plugin,
        revision: row.revision,
        code: row.code,
        message: row.message,
        state,
        jobs: row.jobs,
        failing: row.failing,
        waiting: row.waiting,
        repaired: row.repaired,
        removed: row.removed,
        failing_elsewhere: row.failing_elsewhere,
        failures: row.failures,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
        acknowledged_at: row.acknowledged_at,
        acknowledged_by: row.acknowledged_by,
        since_acknowledged: row.since_acknowledged,
        closed_at: row.closed_at,
        assignee: row.assignee,
        note: row.note,
        already: false,
    }
}

fn last_change(action: ActionRow) -> LastChange {
    LastChange {
        at: action.began_at,
        actor: action.actor,
        action: action.action,
        reason: action.reason,
    }
}

/// Leaves out the stack: one is enough for a group, and stacks are long.
fn failed_job(row: Ended, state: Option<String>) -> FailedJob {
    FailedJob {
        state,
        queue: row.queue,
        job_id: row.job_id,
        job_created_ms: row.job_created_ms,
        name: row.name,
        started: row.started,
        finished_at: row.finished_at,
        message: row.message,
        stack: None,
        correlation_id: row.correlation_id,
        platform: row.platform,
        parent: row.parent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_groups_are_listed_on_request_only() -> Result<(), Error> {
        use ListedDeadLetters::{Acknowledged, All, Closed, Open};
        for (state, acknowledged, expected) in [
            (None, None, (None, Some(false))),
            (None, Some(true), (Some(true), Some(false))),
            (None, Some(false), (Some(false), Some(false))),
            (Some(Open), None, (Some(false), Some(false))),
            (Some(Acknowledged), None, (Some(true), Some(false))),
            (Some(Closed), None, (None, Some(true))),
            (Some(All), None, (None, None)),
        ] {
            let asked = ListDeadLetters {
                state,
                acknowledged,
                ..ListDeadLetters::default()
            };
            let which = which(asked)?;
            assert_eq!(
                (which.acknowledged, which.closed),
                expected,
                "{state:?} {acknowledged:?}"
            );
        }
        let both = ListDeadLetters {
            state: Some(All),
            acknowledged: Some(true),
            ..ListDeadLetters::default()
        };
        assert!(which(both).is_err());
        Ok(())
    }
}
