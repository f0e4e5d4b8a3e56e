//! Use cases of jobs: listing, showing, searching, adding and changing them.

mod add;
mod change;
mod duplicate;
mod gone;
mod life;
mod search;
mod steps;
mod timeline;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use patchbay_api::jobs::{
    CopyOf, Job, JobPath, JobsList, JobsShow, LastChange, ListJobs, RedactedJob, Retries,
    ScheduleRun,
};
use patchbay_api::reveal::Reveal;
use patchbay_model::confidential::is_confidential;
use patchbay_model::job::{JobState, trail_name};
use patchbay_model::retry::{BackoffKind, RetryPolicy};
use patchbay_model::shell::word;
use patchbay_model::words::lasted;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::{Broker, JobView, MAX_LISTED, Page, Start, retry_of};
use patchbay_store::{ActionRow, JobAction, JobBulk, Store, StoreError};
use patchbay_telemetry::traces::Traces;
use serde_json::{Value, json};

pub(crate) use self::add::{check_name, new_job};
use self::life::{COPYING, RUNNING};
use crate::actions::{Actions, Caller};
use crate::declared_jobs::DeclaredJobs;
use crate::error::Error;
use crate::history::views::attempt_view;
use crate::plugins::Plugins;
use crate::queues::{Catalog, without_postgres};
use crate::{Parts, redacted, reveal};

/// Attempts shown with a job. If a job ran more often, its newest attempts show the problem.
const MAX_ATTEMPTS_SHOWN: i64 = 100;
/// Log lines shown with a job.
const MAX_LOGS_SHOWN: u64 = 500;
/// Default number of jobs of a list.
const DEFAULT_LISTED: u64 = 20;

#[derive(Clone)]
pub struct Jobs {
    broker: Broker,
    store: Store,
    plugins: Arc<Plugins>,
    actions: Actions,
    catalog: Catalog,
    traces: Traces,
    declared: Arc<DeclaredJobs>,
}

impl Jobs {
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
            traces: parts.traces.clone(),
            declared: Arc::clone(&parts.declared_jobs),
        }
    }

    /// Lists jobs in one state, with the next cursor.
    pub async fn list(
        &self,
        who: &Caller,
        queue: &str,
        which: ListJobs,
    ) -> Result<patchbay_api::answer::Page<RedactedJob>, Error> {
        let reveal = Reveal {
            reveal: which.reveal,
            reason: which.reason,
        };
        reveal::check(&reveal)?;
        let queue = self.catalog.known(queue).await?;
        let limit = which.limit.unwrap_or(DEFAULT_LISTED).min(MAX_LISTED);
        let start = match (which.offset, which.cursor) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("offset and cursor cannot be given together"));
            }
            (place, None) => Start::Place(place.unwrap_or(0)),
            (None, Some(cursor)) => Start::Behind(cursor.parse()?),
        };
        let listed = async { Ok(self.broker.jobs(&queue, which.state, start, limit).await?) };
        let (items, next) = if reveal.reveal {
            let named = |listed: &Page| json!({ "jobs": listed.jobs.iter().map(|job| &job.id).collect::<Vec<_>>() });
            let (target, details) = (queue.as_str(), reveal::details(&reveal));
            let listed = self
                .actions
                .record_as::<JobsList, _>(who, target, details, listed, named)
                .await?;
            (
                listed.jobs.into_iter().map(redacted::revealed).collect(),
                listed.next,
            )
        } else {
            let (redaction, listed) = (self.plugins.redaction(&queue), listed.await?);
            let ids: Vec<&str> = listed.jobs.iter().map(|job| job.id.as_str()).collect();
            let told = self.broker.children_data(&queue, &ids).await?;
            let told = told
                .iter()
                .map(|children| self.plugins.hidden_values(children));
            let jobs = listed
                .jobs
                .into_iter()
                .zip(told)
                .map(|(job, told)| redacted::job(&redaction, told, job).0);
            (jobs.collect(), listed.next)
        };
        Ok(patchbay_api::answer::Page {
            items,
            next_cursor: next.map(|cursor| cursor.to_string()),
            partial: false,
        })
    }

    /// Shows a job with its log and attempts.
    pub async fn show(&self, who: &Caller, job: &JobPath, reveal: Reveal) -> Result<Job, Error> {
        reveal::check(&reveal)?;
        let (queue, id) = self.named(job).await?;
        let shown = self.with_attempts(&queue, &id, reveal.reveal);
        if !reveal.reveal {
            return shown.await;
        }
        let target = trail_name(&queue, &id);
        self.actions
            .record_as::<JobsShow, _>(who, &target, reveal::details(&reveal), shown, |_| {
                Value::Null
            })
            .await
    }

    /// Parses the names. Refuses a queue that does not exist.
    async fn named(&self, job: &JobPath) -> Result<(QueueName, JobId), Error> {
        Ok((self.catalog.known(&job.queue).await?, job.id.parse()?))
    }

    /// Hidden values of a job's children, whose results the job sees.
    async fn hidden_of_children(
        &self,
        queue: &QueueName,
        id: &JobId,
    ) -> Result<Vec<String>, Error> {
        let children = self
            .broker
            .children_data(queue, &[id.as_str()])
            .await?
            .concat();
        Ok(self.plugins.hidden_values(&children))
    }

    async fn with_attempts(
        &self,
        queue: &QueueName,
        id: &JobId,
        reveal: bool,
    ) -> Result<Job, Error> {
        let Some(job) = self.broker.job(queue, id).await? else {
            return Err(self.why_gone(queue, id).await?);
        };
        let created = job.timestamp.and_then(|ms| i64::try_from(ms).ok());
        let retries = retries(&job, &self.plugins.retry_policy(queue, retry_of(&job)));
        let (recorded, unavailable) =
            without_postgres(self.recorded(queue, id, created, job.state).await)?;
        let Recorded {
            actions,
            bulks,
            put_back,
            mut attempts,
        } = recorded;
        let mut logs = self.broker.job_logs(queue, id, MAX_LOGS_SHOWN).await?;
        let job = if reveal && !is_confidential(id.as_str()) {
            redacted::revealed(job)
        } else {
            let told = self.hidden_of_children(queue, id).await?;
            let (mut job, mask) = redacted::job(&self.plugins.redaction(queue), told, job);
            job.hidden += mask.hide(&mut logs);
            attempts
                .iter_mut()
                .for_each(|row| redacted::attempt(row, &mask));
            job
        };
        let own = trail_name(queue, id);
        let is_of_copy = |action: &JobAction| action.action == COPYING && action.target == own;
        let changed = |action: &&JobAction| {
            let is_done = action.error.is_none() && action.ended_at.is_some();
            is_done && !READS.contains(&action.action.as_str()) && !is_of_copy(action)
        };
        let mut copy_of = actions
            .iter()
            .filter(|action| changed(action) && action.action == COPYING)
            .map(|action| CopyOf {
                job: action.target.clone(),
                at: action.began_at,
                actor: action.actor.clone(),
                reason: action.reason.clone(),
            });
        let by_name = actions.iter().rfind(changed).map(|action| LastChange {
            at: action.began_at,
            actor: action.actor.clone(),
            action: action.action.clone(),
            reason: action.reason.clone(),
        });
        let copy_of = copy_of.next_back();
        let copy_of = copy_of.or_else(|| bulk_original(&bulks, queue, id));
        let copies = copies(&actions, &bulks, queue, id);
        let undo = job.job.removed_by.filter(|removal| {
            let mut known = bulks.iter();
            known.any(|bulk| bulk.bulk == *removal && bulk.can_be_undone)
        });
        let run = actions
            .iter()
            .rfind(|action| changed(action) && action.action == RUNNING);
        let schedule_run = run.map(|run| ScheduleRun {
            schedule: run.target.clone(),
            at: run.began_at,
            actor: run.actor.clone(),
            reason: run.reason.clone(),
        });
        let by_bulk = bulks
            .into_iter()
            .filter(|bulk| bulk.job_id != id.as_str() || Some(bulk.job_created_ms) == created)
            .filter_map(|bulk| bulk_change(bulk, id));
        let last_change = by_name
            .into_iter()
            .chain(by_bulk)
            .chain(put_back)
            .max_by_key(|change| change.at);
        Ok(Job {
            copy_of,
            copies,
            undo,
            schedule_run,
            unavailable,
            job,
            logs,
            attempts: attempts.into_iter().map(attempt_view).collect(),
            retries,
            last_change,
        })
    }
}

/// The copies that operators have made of the job, oldest first.
fn copies(actions: &[JobAction], bulks: &[JobBulk], queue: &QueueName, id: &JobId) -> Vec<CopyOf> {
    let own = trail_name(queue, id);
    let is_copied = |action: &&JobAction| {
        action.action == COPYING && action.target == own && action.error.is_none()
    };
    let duplicates = actions.iter().filter(is_copied).filter_map(|action| {
        Some(CopyOf {
            job: action.added.clone()?,
            at: action.began_at,
            actor: action.actor.clone(),
            reason: action.reason.clone(),
        })
    });
    let again = bulks.iter().filter_map(|bulk| {
        let new = bulk.new_id.as_deref().filter(|new| *new != id.as_str())?;
        let is_original = bulk.job_id == id.as_str() && bulk.state == "done";
        is_original.then(|| of_bulk(bulk, format!("{queue}/{new}")))
    });
    let mut copies: Vec<CopyOf> = duplicates.chain(again).collect();
    copies.sort_by_key(|copy| copy.at);
    copies
}

/// The job from which a bulk operation has added this one.
fn bulk_original(bulks: &[JobBulk], queue: &QueueName, id: &JobId) -> Option<CopyOf> {
    let is_copy = |bulk: &&JobBulk| {
        bulk.new_id.as_deref() == Some(id.as_str())
            && bulk.job_id != id.as_str()
            && bulk.state == "done"
    };
    let bulk = bulks.iter().rfind(is_copy)?;
    Some(of_bulk(bulk, format!("{queue}/{}", bulk.job_id)))
}

fn of_bulk(bulk: &JobBulk, job: String) -> CopyOf {
    CopyOf {
        job,
        at: bulk.at,
        actor: bulk.actor.clone(),
        reason: bulk.because.clone(),
    }
}

/// Actions on a job that only read it.
const READS: [&str; 1] = ["job.reveal"];

/// What Postgres knows of a job in Redis.
#[derive(Default)]
struct Recorded {
    actions: Vec<JobAction>,
    bulks: Vec<JobBulk>,
    /// The last operation on the whole queue that put the job back.
    put_back: Option<LastChange>,
    attempts: Vec<patchbay_store::AttemptRow>,
}

impl Jobs {
    async fn recorded(
        &self,
        queue: &QueueName,
        id: &JobId,
        created: Option<i64>,
        state: JobState,
    ) -> Result<Recorded, StoreError> {
        let (store, prefix) = (&self.store, self.broker.prefix());
        let attempts = store
            .attempts(prefix, queue, id, MAX_ATTEMPTS_SHOWN)
            .await?;
        let of_queue = match created {
            Some(created) => store.queue_actions(queue, created).await?,
            None => Vec::new(),
        };
        let ends = attempts
            .iter()
            .map(|attempt| (attempt.finished_at, attempt.verdict.as_str()));
        Ok(Recorded {
            actions: store.job_actions(queue, id, created.as_slice()).await?,
            bulks: store.job_bulks(prefix, queue, id).await?,
            put_back: put_back(&of_queue, &ends.collect::<Vec<_>>(), state),
            attempts,
        })
    }
}

/// The last operation on the whole queue that has put back the job with these ends. The record of
/// such an operation does not name its jobs.
fn put_back(
    of_queue: &[ActionRow],
    ends: &[(DateTime<Utc>, &str)],
    state: JobState,
) -> Option<LastChange> {
    let was_meant = |action: &&ActionRow| {
        let before = ends.iter().filter(|(at, _)| *at < action.began_at);
        let last = before
            .max_by_key(|(at, _)| *at)
            .map(|(_, verdict)| *verdict);
        let has_run = ends.iter().any(|(at, _)| *at > action.began_at);
        let is_ended = matches!(state, JobState::Completed | JobState::Failed);
        let jobs = action
            .result
            .as_ref()
            .and_then(|result| result["count"].as_u64());
        let of_state = match action.details["state"].as_str() {
            Some("failed") => last == Some("fail"),
            Some("completed") => last == Some("complete"),
            _ => false,
        };
        // One that has ended and not run since was not put back.
        action.action == "queue.put-back" && jobs > Some(0) && of_state && (has_run || !is_ended)
    };
    let action = of_queue.iter().rfind(was_meant)?;
    Some(LastChange {
        at: action.began_at,
        actor: action.actor.clone(),
        action: action.action.clone(),
        reason: action.reason.clone(),
    })
}

/// What a bulk operation changed of the job; `None` if it left it as it was.
fn bulk_change(bulk: JobBulk, id: &JobId) -> Option<LastChange> {
    let is_itself = bulk.job_id == id.as_str();
    let is_copy = bulk.new_id.as_deref() == Some(id.as_str());
    match bulk.state.as_str() {
        // Jobs that are enqueued again stay as they are, except for the new ones.
        "done" | "lost" | "not-undone"
            if is_copy || (is_itself && bulk.kind != "enqueue-again") =>
        {
            Some(LastChange {
                at: bulk.at,
                actor: bulk.actor,
                action: format!("bulk.{}", bulk.kind),
                reason: bulk.because,
            })
        }
        "restored" if is_itself => Some(LastChange {
            at: bulk.undone_at?,
            actor: bulk.undone_by?,
            action: "bulk.undo".to_owned(),
            reason: None,
        }),
        _ => None,
    }
}

/// The error for a job that waits, but that a bulk operation has removed: workers pass over it, and
/// an undo brings it back.
pub(super) fn removed(id: &str, bulk: i64) -> Error {
    Error::conflict(format!(
        "Job {} was removed by bulk operation {bulk}. To bring it back, within an hour of that: patchbay bulk undo {bulk}",
        word(id)
    ))
}

fn retries(job: &JobView, policy: &RetryPolicy) -> Retries {
    let is_ended = matches!(job.state, JobState::Completed | JobState::Failed);
    let left = policy.attempts.saturating_sub(job.attempts_made);
    let backoff = policy.backoff.map(|backoff| {
        let kind = match backoff.kind {
            BackoffKind::Fixed => "fixed",
            BackoffKind::Exponential => "exponential from",
        };
        format!("{kind} {}", lasted(backoff.delay))
    });
    Retries {
        attempts: policy.attempts,
        left: if is_ended { 0 } else { left },
        backoff,
    }
}
