//! Adds jobs as operators write them. Options that are absent take the values of the queue's
//! manifest.

use std::collections::HashSet;
use std::time::Duration;

use patchbay_api::jobs::{AddJob, AddJobs, Added, JobsAdd, JobsAddMany};
use patchbay_model::job::{Deduplication, Keep, NewJob, Trace};
use patchbay_model::retry::Backoff;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::check_job;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Jobs, removed};
use crate::actions::Caller;
use crate::declared_jobs::{Forcing, is_forced, with_forced};
use crate::enqueue_span;
use crate::error::Error;
use crate::reveal::refuse_mark;

impl Jobs {
    pub async fn add(&self, who: &Caller, queue: &str, body: AddJob) -> Result<Added, Error> {
        let queue: QueueName = queue.parse()?;
        match body.new_queue {
            true => self.catalog.check_new_name(&queue).await?,
            false => self.catalog.refuse_unknown(&queue).await?,
        }
        let (details, force) = (json!({ "name": body.name }), body.force);
        let (span, trace) = enqueue_span::begin(&self.traces, &queue, who.trace.clone());
        let job = new_job(body, queue.clone(), trace)?;
        check_job(&job, self.broker.now_ms())?;
        let checked = self.declared.check(&queue, &job.name, &job.data);
        let details = with_forced(details, is_forced(checked, force, Forcing::Add)?);
        let act = async {
            // As in BullMQ, an id that is in use makes the addition do nothing: say so.
            let known = match &job.id {
                Some(id) => self.broker.job(&queue, id).await?,
                None => None,
            };
            if let Some(bulk) = known.as_ref().and_then(|job| job.removed_by) {
                let id = job.id.as_ref().map(JobId::as_str);
                return Err(removed(id.unwrap_or_default(), bulk));
            }
            let ids = enqueue_span::end(span, self.broker.add(vec![job]).await)?;
            let id = ids.into_iter().next().ok_or_else(Error::internal)?;
            Ok(Added {
                queue: queue.to_string(),
                id: id.to_string(),
                known: known.is_some(),
            })
        };
        self.actions
            .record::<JobsAdd, _>(who, queue.as_str(), details, act)
            .await
    }
}

/// Most jobs of one request.
const MAX_JOBS: usize = 1_000;

impl Jobs {
    /// Adds many jobs to one queue, after all of them were checked; or only checks them.
    pub async fn add_many(
        &self,
        who: &Caller,
        queue: &str,
        body: AddJobs,
    ) -> Result<Vec<Added>, Error> {
        let queue: QueueName = queue.parse()?;
        if body.jobs.is_empty() || body.jobs.len() > MAX_JOBS {
            return Err(Error::invalid(format!(
                "jobs: must be 1 to {MAX_JOBS} jobs; these are {}",
                body.jobs.len()
            )));
        }
        match body.new_queue || body.jobs.iter().all(|job| job.new_queue) {
            true => self.catalog.check_new_name(&queue).await?,
            false => self.catalog.refuse_unknown(&queue).await?,
        }
        let count = body.jobs.len();
        let (span, trace) = enqueue_span::begin(&self.traces, &queue, who.trace.clone());
        let (mut jobs, mut forced) = (Vec::with_capacity(count), false);
        for (place, job) in body.jobs.into_iter().enumerate() {
            let force = body.force || job.force;
            let of_job = |error: Error| {
                let number = place + 1;
                let mut details = error.details.unwrap_or_else(|| json!({}));
                if let Value::Object(details) = &mut details {
                    details.insert("job".into(), number.into());
                }
                Error {
                    message: format!("Job {number}: {}", error.message),
                    details: Some(details),
                    ..error
                }
            };
            let job = new_job(job, queue.clone(), trace.clone()).map_err(of_job)?;
            check_job(&job, self.broker.now_ms()).map_err(|error| of_job(error.into()))?;
            let checked = self.declared.check(&queue, &job.name, &job.data);
            forced |= is_forced(checked, force, Forcing::Add).map_err(of_job)?;
            jobs.push(job);
        }
        if body.dry_run {
            return Ok(Vec::new());
        }
        let act = async {
            let mut known = Vec::with_capacity(count);
            // An id may also be there twice.
            let mut given: HashSet<&JobId> = HashSet::new();
            for job in &jobs {
                let Some(id) = &job.id else {
                    known.push(false);
                    continue;
                };
                let there = self.broker.job(&queue, id).await?;
                if let Some(bulk) = there.as_ref().and_then(|job| job.removed_by) {
                    return Err(removed(id.as_str(), bulk));
                }
                known.push(!given.insert(id) || there.is_some());
            }
            let ids = enqueue_span::end(span, self.broker.add(jobs).await)?;
            let added = ids.into_iter().zip(known).map(|(id, known)| Added {
                queue: queue.to_string(),
                id: id.to_string(),
                known,
            });
            Ok(added.collect::<Vec<_>>())
        };
        let details = with_forced(json!({ "jobs": count }), forced);
        let ids = |added: &Vec<Added>| {
            let new: Vec<&str> = added
                .iter()
                .filter(|job| !job.known)
                .map(|job| job.id.as_str())
                .collect();
            json!({ "count": new.len(), "ids": new })
        };
        self.actions
            .record_as::<JobsAddMany, _>(who, queue.as_str(), details, act, ids)
            .await
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepBody {
    age: Option<u64>,
    count: Option<u64>,
}

/// Makes the job for this queue. Its values are checked when it is added.
pub(crate) fn new_job(body: AddJob, queue: QueueName, trace: Trace) -> Result<NewJob, Error> {
    check_name(&body.name)?;
    if let Some(data) = &body.data {
        refuse_mark("data", data.get())?;
    }
    Ok(NewJob {
        queue,
        name: body.name,
        // Kept as it was written: a number that the host cannot represent must not be rounded.
        data: body
            .data
            .map_or_else(|| "{}".to_owned(), |data| data.get().to_owned()),
        id: body.id.map(|id| id.parse()).transpose()?,
        delay: body.delay_ms.map(Duration::from_millis),
        priority: body.priority,
        attempts: body.attempts,
        backoff: body.backoff.map(|backoff| Backoff {
            kind: backoff.kind,
            delay: Duration::from_millis(backoff.delay_ms),
            max: backoff.max_ms.map(Duration::from_millis),
            jitter: backoff.jitter,
        }),
        deduplication: body.deduplication.map(|once| Deduplication {
            key: once.id,
            ttl: once.ttl_ms.map(Duration::from_millis),
            extend: once.extend,
            replace: once.replace,
            keep_last_if_active: once.keep_last_if_active,
        }),
        lifo: body.lifo,
        expires_at_ms: body.expires_at_ms,
        keep_completed: body
            .remove_on_complete
            .map(|wish| keep("removeOnComplete", wish))
            .transpose()?,
        keep_failed: body
            .remove_on_fail
            .map(|wish| keep("removeOnFail", wish))
            .transpose()?,
        trace,
    })
}

/// The record of actions, which is in Postgres, could not hold a NUL.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    match name.contains('\0') {
        true => Err(Error::invalid("name: must not contain a NUL character")),
        false => Ok(()),
    }
}

fn keep(name: &str, wish: Value) -> Result<Keep, Error> {
    let read = match &wish {
        Value::Bool(remove) => Some(Keep {
            age: None,
            count: remove.then_some(0),
        }),
        Value::Number(count) => count.as_u64().map(|count| Keep {
            age: None,
            count: Some(count),
        }),
        Value::Object(_) => KeepBody::deserialize(&wish).ok().map(|body| Keep {
            age: body.age.map(Duration::from_secs),
            count: body.count,
        }),
        _ => None,
    };
    let form = "must be true, false, a number of jobs, or {\"age\": seconds, \"count\": jobs}";
    read.ok_or_else(|| Error::invalid(format!("{name}: {form}")))
}
