//! Use cases of dead letters: jobs that failed for good, grouped by what their failure looks like.

use patchbay_api::dead_letters::{
    Assignee, DeadLetter, DeadLetterDetails, DeadLettersAcknowledge, DeadLettersAssign,
    DeadLettersNote, DeadLettersUnacknowledge, FailedJob, ListDeadLetters, Note,
};
use patchbay_api::operation::Endpoint;
use patchbay_model::PluginName;
use patchbay_model::redaction::Mask;
use patchbay_queue::Broker;
use patchbay_store::{DeadLetterRow, DeadLetters as Which, Ended, Store, StoreError};
use serde_json::{Value, json};

use crate::Parts;
use crate::actions::{Actions, Caller};
use crate::error::Error;

/// Jobs shown with a group.
const SAMPLE: i64 = 10;
const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 1_000;
/// In characters.
const MAX_NOTE: usize = 2_000;
const MAX_ASSIGNEE: usize = 100;

#[derive(Clone)]
pub struct DeadLetters {
    broker: Broker,
    store: Store,
    actions: Actions,
}

impl DeadLetters {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            store: parts.store.clone(),
            actions: parts.actions.clone(),
        }
    }

    pub async fn list(&self, asked: ListDeadLetters) -> Result<Vec<DeadLetter>, Error> {
        let ListDeadLetters {
            queue,
            plugin,
            acknowledged,
            limit,
        } = asked;
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(format!("limit: 1 to {MAX_LIMIT}")));
        }
        let plugin: Option<PluginName> = plugin.map(|name| name.parse()).transpose()?;
        let which = Which {
            queue: queue.map(|name| name.parse()).transpose()?,
            plugin: plugin.map(|name| name.to_string()),
            acknowledged,
        };
        let rows = self
            .store
            .dead_letters(self.broker.prefix(), &which, limit.into())
            .await?;
        Ok(rows.into_iter().map(view).collect())
    }

    /// Shows a group with its newest jobs.
    pub async fn show(&self, id: i64) -> Result<DeadLetterDetails, Error> {
        let (store, prefix) = (&self.store, self.broker.prefix());
        let group = view(store.dead_letter(prefix, id).await?);
        let mut sample = store.dead_letter_jobs(prefix, id, SAMPLE).await?;
        let mask = Mask::default();
        for job in &mut sample {
            mask.hide(job.message.iter_mut().chain(&mut job.stack));
        }
        let stack = sample.first().and_then(|job| job.stack.clone());
        let repaired = store.dead_letter_repaired(prefix, id).await?;
        let elsewhere = store
            .dead_letter_siblings(prefix, id)
            .await?
            .into_iter()
            .map(view)
            .collect();
        let sample = sample.into_iter().map(failed_job).collect();
        Ok(DeadLetterDetails {
            group,
            repaired,
            stack,
            sample,
            elsewhere,
        })
    }

    pub async fn acknowledge(&self, who: &Caller, id: i64) -> Result<DeadLetter, Error> {
        let act = self
            .store
            .acknowledge_dead_letter(self.broker.prefix(), id, Some(&who.actor));
        self.change::<DeadLettersAcknowledge>(who, id, json!({}), act)
            .await
    }

    pub async fn unacknowledge(&self, who: &Caller, id: i64) -> Result<DeadLetter, Error> {
        let act = self
            .store
            .acknowledge_dead_letter(self.broker.prefix(), id, None);
        self.change::<DeadLettersUnacknowledge>(who, id, json!({}), act)
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
        self.change::<DeadLettersNote>(who, id, details, act).await
    }

    pub async fn assign(&self, who: &Caller, id: i64, to: Assignee) -> Result<DeadLetter, Error> {
        let assignee = text("assignee", to.assignee, MAX_ASSIGNEE)?;
        let act = self
            .store
            .assign_dead_letter(self.broker.prefix(), id, assignee.as_deref());
        self.change::<DeadLettersAssign>(who, id, json!({ "assignee": assignee }), act)
            .await
    }

    /// Records only the group's number, since erasing removes the group's texts elsewhere.
    async fn change<E: Endpoint>(
        &self,
        who: &Caller,
        id: i64,
        details: Value,
        act: impl Future<Output = Result<DeadLetterRow, StoreError>>,
    ) -> Result<DeadLetter, Error> {
        let act = async { Ok(view(act.await?)) };
        let numbered = |group: &DeadLetter| json!({ "id": group.id });
        self.actions
            .record_as::<E, _>(who, &format!("dead-letter/{id}"), details, act, numbered)
            .await
    }
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
            "{name}: at most {most} characters, without NUL"
        )));
    }
    Ok(value)
}

fn view(row: DeadLetterRow) -> DeadLetter {
    DeadLetter {
        id: row.id,
        queue: row.queue,
        plugin: row.plugin,
        revision: row.revision,
        code: row.code,
        message: row.message,
        jobs: row.jobs,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
        acknowledged_at: row.acknowledged_at,
        acknowledged_by: row.acknowledged_by,
        since_acknowledged: row.since_acknowledged,
        assignee: row.assignee,
        note: row.note,
    }
}

/// Leaves out the stack: one is enough for a group, and stacks are long.
fn failed_job(row: Ended) -> FailedJob {
    FailedJob {
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
