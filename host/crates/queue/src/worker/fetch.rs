//! Takes the next job, and reads what BullMQ's scripts answer.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bullmq::QueueKeys;
use redis::Value;
use serde::Serialize;
use tokio::time::Instant;

use super::Inner;
use crate::QueueError;
use crate::damage::shape;
use crate::scripts::{self, Call, unwritable};

/// How long an idle worker waits before it checks the queue again: BullMQ's own `drainDelay`.
/// Bounds the delay after a lost marker.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// The queue's keys in the order that the scripts expect, built once.
pub(super) struct Names {
    pub(super) keys: QueueKeys,
    /// In this order: wait, active, prioritized, events, stalled, limiter, delayed, paused, meta,
    /// pc.
    pub(super) moving: [String; 10],
    pub(super) marker: String,
    /// Format: `prefix:queue:`.
    pub(super) prefix: String,
}

impl Names {
    pub(super) fn new(keys: &QueueKeys) -> Self {
        Self {
            moving: [
                keys.wait(),
                keys.active(),
                keys.prioritized(),
                keys.events(),
                keys.stalled(),
                keys.limiter(),
                keys.delayed(),
                keys.paused(),
                keys.meta(),
                keys.pc(),
            ],
            marker: keys.marker(),
            prefix: keys.key_prefix(),
            keys: keys.clone(),
        }
    }
}

/// A job as the script returned it, with the raw fields of its hash.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) fields: HashMap<String, String>,
}

#[derive(Debug)]
pub(super) enum Next {
    Job(Box<Taken>),
    Nothing(NextCheck),
}

/// When to check the queue again, unless a marker comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextCheck {
    Now,
    At(Instant),
}

impl NextCheck {
    pub(super) fn idle() -> Self {
        Self::At(Instant::now() + IDLE)
    }

    /// When a rate limit or a delay ends, but at most [`IDLE`] from now.
    pub(super) fn in_ms(ms: u64) -> Self {
        Self::At(Instant::now() + Duration::from_millis(ms).min(IDLE))
    }
}

/// Options for the scripts, encoded as MessagePack.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FetchOpts<'a> {
    /// The owner of this token holds the lock.
    pub(super) token: &'a str,
    pub(super) lock_duration: u64,
    /// Written to the job as `processedBy`.
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limiter: Option<Limiter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Limiter {
    max: u64,
    /// In milliseconds.
    duration: u64,
}

impl Limiter {
    /// Spreads the rate evenly. BullMQ's window lets almost twice the limit through at its edge, so
    /// the window here holds one job, or the jobs of one millisecond.
    pub(super) fn even(max: u64, per: Duration) -> Self {
        let (max, per_ms) = (max.max(1), (per.as_millis() as u64).max(1));
        match per_ms / max {
            0 => Self {
                max: max / per_ms,
                duration: 1,
            },
            duration => Self { max: 1, duration },
        }
    }
}

impl Inner {
    pub(super) fn fetch_opts<'a>(&'a self, token: &'a str) -> FetchOpts<'a> {
        FetchOpts {
            token,
            lock_duration: self.config.lock.as_millis() as u64,
            name: &self.worker_name,
            limiter: self.config.rate.map(|(max, per)| Limiter::even(max, per)),
        }
    }

    /// Takes a job under this token, if one is due.
    pub(super) async fn fetch(&self, token: &str) -> Result<Next, QueueError> {
        // Check the types first: BullMQ's script removes up to a thousand delayed jobs from their
        // set before it meets a key that is no list, and they would be lost.
        if self.suspicious.load(Ordering::Relaxed) {
            self.queues.check_types(&shape(&self.names.keys)).await?;
            // Obey an order that came meanwhile: a pause of a worker that is just starting includes
            // its first job.
            let control = *self.control.borrow();
            if control.paused || control.stopping {
                return Ok(Next::Nothing(NextCheck::Now));
            }
        }
        let mut keys = self.names.moving.to_vec();
        keys.push(self.names.marker.clone());
        let opts = rmp_serde::to_vec_named(&self.fetch_opts(token)).map_err(unwritable)?;
        let call = Call::new(&scripts::MOVE_TO_ACTIVE, &keys)
            .arg(&self.names.prefix)
            .arg(self.queues.now_ms())
            .arg(opts);
        let reply: redis::RedisResult<Value> = call.invoke(&mut self.queues.connection.get()).await;
        let taken = reply.and_then(|reply| {
            next(reply, self.queues.now_ms())?.map_err(|code| refused(format!("code {code}")))
        });
        match taken.map_err(QueueError::from) {
            // The script took a job and stopped in the middle. This worker owns the job, and its
            // damage is handled with it.
            Err(error) if error.is_damage() => {
                self.suspicious.store(true, Ordering::Relaxed);
                match self.half_taken(token, None).await? {
                    Some(taken) => Ok(Next::Job(Box::new(taken))),
                    None => Err(error),
                }
            }
            taken => {
                self.suspicious.fetch_and(taken.is_err(), Ordering::Relaxed);
                taken
            }
        }
    }
}

/// Reads `[fields, id, ms until the rate limit ends, Unix ms of the next delayed job]`, or 0 for no
/// job. A negative number means that the script refused.
pub(super) fn next(reply: Value, now_ms: u64) -> redis::RedisResult<Result<Next, i64>> {
    let parts = match reply {
        Value::Int(code) if code < 0 => return Ok(Err(code)),
        Value::Array(parts) => parts,
        _ => return Ok(Ok(Next::Nothing(NextCheck::idle()))),
    };
    let mut parts = parts.into_iter();
    let (Some(fields), Some(id), limited_ms, delayed_until) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Ok(Ok(Next::Nothing(NextCheck::idle())));
    };
    if let Value::Array(flat) = fields {
        let id: String = redis::from_redis_value(id)?;
        return Ok(Ok(Next::Job(Box::new(Taken {
            id,
            fields: hash(flat)?,
        }))));
    }
    let number = |value: Option<Value>| {
        value
            .and_then(|value| redis::from_redis_value::<u64>(value).ok())
            .unwrap_or(0)
    };
    let look = match (number(limited_ms), number(delayed_until)) {
        (0, 0) => NextCheck::idle(),
        (0, until) => NextCheck::in_ms(until.saturating_sub(now_ms)),
        (ms, _) => NextCheck::in_ms(ms),
    };
    Ok(Ok(Next::Nothing(look)))
}

/// From a flat list of names and values.
pub(super) fn hash(flat: Vec<Value>) -> redis::RedisResult<HashMap<String, String>> {
    let mut fields = HashMap::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        fields.insert(text(name)?, text(value)?);
    }
    Ok(fields)
}

/// Replaces invalid UTF-8. Such data is no JSON either, and is refused as that.
fn text(value: Value) -> redis::RedisResult<String> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())),
        other => Ok(redis::from_redis_value(other)?),
    }
}

fn refused(detail: String) -> redis::RedisError {
    (
        redis::ErrorKind::UnexpectedReturnType,
        "BullMQ refused to give a job",
        detail,
    )
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_even() {
        let even = |max, per_ms| Limiter::even(max, Duration::from_millis(per_ms));
        assert_eq!(
            even(180, 60_000),
            Limiter {
                max: 1,
                duration: 333
            }
        );
        assert_eq!(
            even(5_000, 1_000),
            Limiter {
                max: 5,
                duration: 1
            }
        );
        assert_eq!(
            even(0, 0),
            Limiter {
                max: 1,
                duration: 1
            }
        );
    }
}
