//! Limits for a job's data, options and times.

use std::time::Duration;

use patchbay_model::job::{Deduplication, MAX_PRIORITY, NewJob};
use patchbay_model::retry::MAX_DELAY;
use serde_json::value::RawValue;

use crate::QueueError;

/// Largest job data, in bytes. BullMQ keeps it in Redis's memory, and every reader loads all of it.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// Most finished jobs that an option may ask to keep: Lua counts exactly up to this, and no Redis
/// holds so many.
pub(crate) const MAX_KEPT: u64 = 1 << 53;
/// Longest de-duplication key, in bytes. It becomes part of a Redis key.
const MAX_DEDUPLICATION_BYTES: usize = 512;

/// Fails with what [`crate::Broker::add`] would refuse in a job, whatever Redis holds. `now_ms`:
/// see [`crate::Broker::now_ms`].
pub fn check(job: &NewJob, now_ms: u64) -> Result<(), QueueError> {
    if job.name.is_empty() || job.name.len() > 256 {
        return Err(QueueError::Invalid(
            "The job's name must have 1 to 256 bytes".into(),
        ));
    }
    if let Some(id) = &job.id {
        id.check_new()
            .map_err(|error| QueueError::Invalid(error.to_string()))?;
    }
    check_values(job, now_ms)
}

/// Like [`check`], for a job that is based on an existing one, whose name is not checked again.
pub(crate) fn check_values(job: &NewJob, now_ms: u64) -> Result<(), QueueError> {
    let invalid = |message: String| Err(QueueError::Invalid(message));
    check_data(&job.data)?;
    check_priority(job.priority.unwrap_or(0))?;
    if job.attempts == Some(0) {
        return invalid("A job needs at least one attempt".into());
    }
    for (what, time) in [
        ("The delay", job.delay),
        (
            "The backoff's delay",
            job.backoff.map(|backoff| backoff.delay),
        ),
        (
            "The backoff's maximum",
            job.backoff.and_then(|backoff| backoff.max),
        ),
        (
            "The de-duplication's time",
            job.deduplication.as_ref().and_then(|once| once.ttl),
        ),
        (
            "The time that a completed job stays",
            job.keep_completed.and_then(|keep| keep.age),
        ),
        (
            "The time that a failed job stays",
            job.keep_failed.and_then(|keep| keep.age),
        ),
    ] {
        time.map_or(Ok(()), |time| check_delay(what, time))?;
    }
    if [job.keep_completed, job.keep_failed]
        .iter()
        .flatten()
        .any(|keep| keep.count > Some(MAX_KEPT))
    {
        return invalid(format!(
            "The number of finished jobs to keep must be at most {MAX_KEPT}; leave it out to keep all"
        ));
    }
    if let Some(backoff) = &job.backoff {
        if backoff
            .jitter
            .is_some_and(|jitter| !(0.0..=1.0).contains(&jitter))
        {
            return invalid("The backoff's jitter must be between 0.0 and 1.0".into());
        }
        if backoff.max.is_some_and(|max| max < backoff.delay) {
            return invalid("The backoff's maximum must not be less than its delay".into());
        }
    }
    if let Some(at) = job.expires_at_ms {
        let starts = now_ms.saturating_add(job.delay.map_or(0, |delay| delay.as_millis() as u64));
        if at <= starts {
            return invalid("The job would expire before it could start".into());
        }
        if at > starts.saturating_add(MAX_DELAY.as_millis() as u64) {
            return invalid("A job must expire at most five years after it can start".into());
        }
    }
    job.deduplication
        .as_ref()
        .map_or(Ok(()), check_deduplication)
}

pub(crate) fn check_data(data: &str) -> Result<(), QueueError> {
    if data.len() > MAX_DATA_BYTES {
        return Err(QueueError::Invalid(format!(
            "The data is larger than {MAX_DATA_BYTES} bytes"
        )));
    }
    match serde_json::from_str::<&RawValue>(data) {
        Ok(_) => Ok(()),
        Err(error) => Err(QueueError::Invalid(format!(
            "The data is not JSON: {error}"
        ))),
    }
}

/// Every delay or waiting time is limited to five years.
pub(crate) fn check_delay(what: &str, time: Duration) -> Result<(), QueueError> {
    if time > MAX_DELAY {
        return Err(QueueError::Invalid(format!(
            "{what} must be at most five years"
        )));
    }
    Ok(())
}

pub(crate) fn check_priority(priority: u32) -> Result<(), QueueError> {
    if priority > MAX_PRIORITY {
        return Err(QueueError::Invalid(format!(
            "The priority must be at most {MAX_PRIORITY}"
        )));
    }
    Ok(())
}

fn check_deduplication(once: &Deduplication) -> Result<(), QueueError> {
    let reason = if once.key.is_empty() || once.key.len() > MAX_DEDUPLICATION_BYTES {
        "The de-duplication's id must have 1 to 512 bytes"
    } else if once.ttl.is_some_and(|ttl| ttl.as_millis() == 0) {
        "The de-duplication's time must be at least 1 ms"
    } else if once.extend && once.ttl.is_none() {
        "A de-duplication without a time cannot be extended"
    } else {
        return Ok(());
    };
    Err(QueueError::Invalid(reason.into()))
}

#[cfg(test)]
mod tests {
    use patchbay_model::job::Keep;
    use patchbay_model::retry::{Backoff, BackoffKind};

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn job() -> NewJob {
        NewJob::new("q".parse().expect("a name"), "n", "{}")
    }

    #[test]
    fn options_that_make_no_sense_are_refused_with_the_reason() {
        let once = |change: fn(&mut Deduplication)| {
            let mut once = Deduplication {
                key: "k".into(),
                ..Deduplication::default()
            };
            change(&mut once);
            NewJob {
                deduplication: Some(once),
                ..job()
            }
        };
        let backoff = |jitter, max| {
            let (delay, max) = (Duration::from_millis(5), Some(Duration::from_millis(max)));
            NewJob {
                backoff: Some(Backoff {
                    kind: BackoffKind::Fixed,
                    delay,
                    max,
                    jitter: Some(jitter),
                }),
                ..job()
            }
        };
        for (job, reason) in [
            (
                NewJob {
                    priority: Some(MAX_PRIORITY + 1),
                    ..job()
                },
                "priority",
            ),
            (
                NewJob {
                    attempts: Some(0),
                    ..job()
                },
                "attempt",
            ),
            (
                NewJob {
                    delay: Some(MAX_DELAY * 2),
                    ..job()
                },
                "five years",
            ),
            (
                NewJob {
                    expires_at_ms: Some(1),
                    ..job()
                },
                "expire",
            ),
            (
                NewJob {
                    data: "nonsense".into(),
                    ..job()
                },
                "JSON",
            ),
            (once(|once| once.key.clear()), "id"),
            (once(|once| once.extend = true), "extend"),
            (once(|once| once.ttl = Some(Duration::ZERO)), "1 ms"),
            (
                NewJob {
                    expires_at_ms: Some(u64::MAX),
                    ..job()
                },
                "five years",
            ),
            (
                NewJob {
                    keep_failed: Some(Keep {
                        age: Some(Duration::MAX),
                        count: None,
                    }),
                    ..job()
                },
                "five years",
            ),
            (
                NewJob {
                    keep_completed: Some(Keep {
                        age: None,
                        count: Some(u64::MAX),
                    }),
                    ..job()
                },
                "finished jobs to keep",
            ),
            (
                once(|once| once.ttl = Some(Duration::from_millis(u64::MAX))),
                "five years",
            ),
            (backoff(0.5, u64::MAX), "five years"),
            (backoff(1.5, 10), "jitter"),
            (backoff(0.5, 1), "maximum"),
        ] {
            let refused = check(&job, NOW_MS).expect_err("refused").to_string();
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(check(&job(), NOW_MS).is_ok());
    }
}
