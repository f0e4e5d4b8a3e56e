//! Slots of mentors: deletes those that have expired unbooked, refunds meetings that were not held,
//! and tells how many slots there are.
//!
//! [`cleanup`] and [`refund`] work in [`batches`]; [`kinds`] says which slots are meant, for them
//! and for [`report`].

mod batches;
mod cleanup;
mod database;
mod kinds;
mod refund;
mod report;
mod settings;
mod time;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use patchbay_plugin::bindings::patchbay::plugin::types::Deduplication;
use patchbay_plugin::queue::{self, NewJob};
use patchbay_plugin::{
    Answer, Failure, Job, Jobs, Operations, Request, Retry, Value, json, progress,
};
use serde::Deserialize;

use crate::cleanup::{Outcome, Progress};
use crate::kinds::{Kind, Terms};
use crate::settings::Settings;

const QUEUE: &str = "cleanupQueue";
const JOB: &str = "cleanup";
/// How long a request works; what is left then, a job does. Proxies often give up after a minute.
const REQUEST_TIME: Duration = Duration::from_secs(40);
/// What a call keeps of its time for its last batch and its answer, if that is less than half.
const RESERVE: Duration = Duration::from_secs(12);

struct Slots;

impl Jobs for Slots {
    fn run(job: Job) -> Result<Value, Failure> {
        let settings = Settings::read()?;
        if job.name != JOB && !settings.other_job_names.contains(&job.name) {
            let message = format!(
                "no job is called {:?}; jobs of another name that mean a cleanup go to the setting otherJobNames",
                job.name
            );
            return Err(Failure::new("invalid-input", message, Retry::Never));
        }
        let until = end_of_work(job.deadline);
        let outcome = cleanup::run(&settings, until, |so_far| {
            let Progress { deleted, refunded } = so_far;
            let so_far = json!({ "deleted": deleted, "refunded": refunded.meetings });
            progress::report(&so_far.to_string());
        })?;
        let continued_by = match outcome.series.is_complete {
            true => None,
            // Otherwise jobs would follow one another for ever.
            false if outcome.series.batches == 0 => {
                let message = "there was no time for a single batch";
                return Err(Failure::new("unavailable", message, Retry::Backoff));
            }
            // The same for a repeat of this job.
            false => Some(added(NewJob {
                id: Some(format!("continues-{}", job.idempotency_key)),
                ..NewJob::new(QUEUE, JOB, &json!({}))
            })?),
        };
        Ok(outcome.json(continued_by.as_deref()))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Input {
    path: Path,
    query: Query,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Path {
    mentor_id: Option<String>,
    filter: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Query {
    limit: Option<u32>,
}

impl Operations for Slots {
    fn call(request: Request) -> Result<Answer, Failure> {
        let input: Input = request.parse()?;
        let answer = match request.operation.as_str() {
            "cleanup" => clean(&request)?,
            "schedule" => {
                let job = on_demand()?;
                json!({ "success": true, "message": "Slot cleanup job scheduled", "data": { "jobId": job, "queue": QUEUE } })
            }
            "statistics" => {
                let mentor = input.path.mentor_id.as_deref();
                json!({ "success": true, "data": report::statistics(&Settings::read()?, mentor)? })
            }
            "list" => listed(&input)?,
            "preview" => preview()?,
            _ => return Err(request.unknown()),
        };
        Ok(Answer::json(&answer))
    }
}

/// When a call that ends at `deadline` (milliseconds since 1970) begins no further batch.
fn end_of_work(deadline: u64) -> SystemTime {
    let (now, deadline) = (
        SystemTime::now(),
        UNIX_EPOCH + Duration::from_millis(deadline),
    );
    let left = deadline.duration_since(now).unwrap_or_default();
    now + (left - RESERVE.min(left / 2))
}

fn clean(request: &Request) -> Result<Value, Failure> {
    let settings = Settings::read()?;
    let until = end_of_work(request.deadline).min(SystemTime::now() + REQUEST_TIME);
    let outcome: Outcome = cleanup::run(&settings, until, |_| {})?;
    let mut continued_by = None;
    if !outcome.series.is_complete {
        match on_demand() {
            Ok(job) => continued_by = Some(job),
            // What was done is told all the same; the schedule does the rest.
            Err(failure) => patchbay_plugin::warn!("no job for the rest: {}", failure.message),
        }
    }
    let counted = |count: i64, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    let mut message = counted(
        outcome.progress.deleted,
        "expired unbooked slot deleted",
        "expired unbooked slots deleted",
    );
    if settings.refund.enabled {
        let meetings = outcome.progress.refunded.meetings;
        message.push_str(", ");
        message.push_str(&counted(meetings, "meeting refunded", "meetings refunded"));
    }
    Ok(
        json!({ "success": true, "message": message, "data": outcome.json(continued_by.as_deref()) }),
    )
}

fn listed(input: &Input) -> Result<Value, Failure> {
    let kinds = "is none of all, available, booked, future, expired and expiredUnbooked";
    let filter = input.path.filter.as_deref().unwrap_or_default();
    let kind =
        Kind::of_filter(filter).ok_or_else(|| Failure::invalid_input("path.filter", kinds))?;
    let limit = input.query.limit.unwrap_or(report::DEFAULT_LIMIT);
    if !(1..=report::MAX_LIMIT).contains(&limit) {
        let reason = format!("must be between 1 and {}", report::MAX_LIMIT);
        return Err(Failure::invalid_input("query.limit", &reason));
    }
    let slots = report::list(&Settings::read()?, kind, limit)?;
    Ok(json!({ "success": true, "count": slots.len(), "data": slots }))
}

/// For operators: what a run would do now.
fn preview() -> Result<Value, Failure> {
    let settings = Settings::read()?;
    let terms = Terms {
        settings: &settings,
        now: database::now()?,
    };
    let statistics = report::statistics(&settings, None)?;
    Ok(json!({
        "expiredBefore": time::iso(terms.expired_before()), "wouldDelete": statistics["expiredUnbooked"],
        "wouldRefund": refund::preview(terms)?,
    }))
}

/// A cleanup by a job. While one waits that was asked for in this way, it is that one; while it
/// runs, one more runs after it, because it may have passed what is asked for now.
fn on_demand() -> Result<String, Failure> {
    added(NewJob {
        deduplication: Some(Deduplication {
            key: "on-demand".into(),
            ttl_ms: None,
            extend: false,
            replace: false,
            keep_last_if_active: true,
        }),
        ..NewJob::new(QUEUE, JOB, &json!({}))
    })
}

fn added(job: NewJob) -> Result<String, Failure> {
    let ids = queue::enqueue(&[job]).map_err(|error| {
        let code = match error.code.as_str() {
            "denied" => "not-granted",
            _ => "unavailable",
        };
        Failure::new(code, format!("{QUEUE}: {}", error.message), Retry::Backoff)
    })?;
    Ok(ids.into_iter().next().unwrap_or_default())
}

patchbay_plugin::export_jobs!(Slots);
patchbay_plugin::export_operations!(Slots);
