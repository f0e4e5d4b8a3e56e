//! Jobs that a guest adds: to its own plugin's queues, and to queues that it asks for.

use std::time::Duration;

use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_model::job::{Deduplication, Keep, NewJob, Trace};
use patchbay_model::manifest::Manifest;
use patchbay_model::retry::{Backoff, BackoffKind};
use patchbay_model::{InvalidId, QueueName, TraceParent};
use patchbay_runtime::wit::{types, v0_1, v0_2};

use crate::HostCall;
use crate::call::{Denied, Gate, redis_error};
use crate::guest::{Answer, Guest, error};

/// Most jobs per call: they are added in one atomic script, during which Redis does nothing else.
const MAX_JOBS: usize = 1_000;
/// Most bytes per call, over the data of all jobs.
const MAX_JOB_BYTES: usize = 8 << 20;

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.enqueue.is_some()
}

async fn enqueue(gate: Gate, mut jobs: Vec<NewJob>) -> Result<Vec<String>, CapabilityError> {
    gate.not_in_transaction()?;
    few_enough(&jobs)?;
    prepare(&gate, gate.place(), jobs.iter_mut())?;
    let ids = gate
        .services()
        .queues
        .add(jobs)
        .await
        .map_err(redis_error)?;
    Ok(ids.into_iter().map(|id| id.to_string()).collect())
}

pub(crate) fn few_enough(jobs: &[NewJob]) -> Result<(), CapabilityError> {
    if jobs.len() > MAX_JOBS {
        return Err(CapabilityError::too_large(format!(
            "a call can add at most {MAX_JOBS} jobs at once"
        )));
    }
    Ok(())
}

/// Checks a guest's jobs and links them to their cause: the host call at `place` in the trace, or
/// else the guest's call.
pub(crate) fn prepare<'a>(
    gate: &Gate,
    place: Option<TraceParent>,
    jobs: impl Iterator<Item = &'a mut NewJob>,
) -> Result<(), CapabilityError> {
    let cause = &gate.call().trace;
    let mut bytes = 0;
    for job in jobs {
        bytes += job.data.len();
        if bytes > MAX_JOB_BYTES {
            return Err(CapabilityError::too_large(format!(
                "a call can add at most {MAX_JOB_BYTES} bytes of job data at once"
            )));
        }
        may_add_to(gate, &job.queue)?;
        job.trace = Trace {
            traceparent: place.or(cause.traceparent),
            ..cause.clone()
        };
    }
    Ok(())
}

fn may_add_to(gate: &Gate, queue: &QueueName) -> Result<(), Denied> {
    let manifest = &gate.call().manifest;
    if manifest.queue(queue).is_some() {
        return Ok(());
    }
    if !manifest
        .enqueue
        .as_ref()
        .is_some_and(|spec| spec.queues.contains(queue))
    {
        return Err(Denied(format!(
            "the manifest does not ask to add to the queue {queue}"
        )));
    }
    gate.granted(Ask::enqueue(queue))
}

pub(crate) fn new_jobs(jobs: Vec<types::NewJob>) -> Result<Vec<NewJob>, CapabilityError> {
    jobs.into_iter().map(new_job).collect()
}

pub(crate) fn new_job(job: types::NewJob) -> Result<NewJob, CapabilityError> {
    let invalid = |error: InvalidId| CapabilityError::invalid(error.to_string());
    Ok(NewJob {
        queue: job.queue.parse().map_err(invalid)?,
        name: job.name,
        data: job.data,
        id: job.id.map(|id| id.parse()).transpose().map_err(invalid)?,
        delay: job.delay_ms.map(Duration::from_millis),
        priority: job.priority,
        attempts: job.attempts,
        backoff: job.backoff.map(backoff).transpose()?,
        deduplication: job.deduplication.map(|once| Deduplication {
            key: once.key,
            ttl: once.ttl_ms.map(Duration::from_millis),
            extend: once.extend,
            replace: once.replace,
            keep_last_if_active: once.keep_last_if_active,
        }),
        lifo: job.lifo,
        expires_at_ms: job.expires_at,
        keep_completed: job.keep_completed.map(keep),
        keep_failed: job.keep_failed.map(keep),
        trace: Trace::default(),
    })
}

fn backoff(backoff: types::Backoff) -> Result<Backoff, CapabilityError> {
    let kind = match backoff.kind.as_str() {
        "fixed" => BackoffKind::Fixed,
        "exponential" => BackoffKind::Exponential,
        other => {
            return Err(CapabilityError::invalid(format!(
                "unknown kind of backoff {other:?}; known are fixed and exponential"
            )));
        }
    };
    Ok(Backoff {
        kind,
        delay: Duration::from_millis(backoff.delay_ms),
        max: backoff.max_ms.map(Duration::from_millis),
        jitter: Some(f64::from(backoff.jitter)),
    })
}

fn keep(retention: types::Retention) -> Keep {
    Keep {
        age: retention.age_ms.map(Duration::from_millis),
        count: retention.count,
    }
}

macro_rules! bind {
    ($version:ident) => {
        impl $version::queue::Host for Guest<'_> {
            async fn enqueue(&mut self, jobs: Vec<types::NewJob>) -> Answer<Vec<String>> {
                let jobs = match new_jobs(jobs) {
                    Ok(jobs) => jobs,
                    Err(invalid) => return Ok(Err(error(invalid))),
                };
                Ok(self
                    .through(HostCall::Enqueue, |gate| enqueue(gate, jobs))
                    .await?
                    .map_err(error))
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
