//! Damaged data: keys where another program has written something that is not BullMQ's. Reads what
//! is readable, names the damage and removes it.

use bullmq::QueueKeys;
use patchbay_model::QueueName;
use redis::{FromRedisValue, RedisResult, Value};
use serde::Serialize;

use crate::{Broker, QueueError};

/// Reads one reply of a pipeline that continues after errors: its value, or what is wrong with the
/// data. Fails when Redis cannot serve at all.
pub(crate) fn read<T: FromRedisValue>(
    reply: RedisResult<Value>,
) -> Result<Result<T, String>, QueueError> {
    let value = reply.and_then(|value| Ok(redis::from_redis_value(value)?));
    match value.map_err(QueueError::from) {
        Ok(value) => Ok(Ok(value)),
        Err(QueueError::Damaged { what, .. }) => Ok(Err(what)),
        Err(error) => Err(error),
    }
}

/// Text from Redis may be anything that its writer wrote. Invalid UTF-8 is replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A queue's keys, each with the type that BullMQ stores there.
pub(crate) fn shape(keys: &QueueKeys) -> Vec<(String, &'static str)> {
    vec![
        (keys.meta(), "hash"),
        (keys.wait(), "list"),
        (keys.paused(), "list"),
        (keys.active(), "list"),
        (keys.prioritized(), "zset"),
        (keys.delayed(), "zset"),
        (keys.waiting_children(), "zset"),
        (keys.completed(), "zset"),
        (keys.failed(), "zset"),
        (keys.repeat(), "zset"),
        (keys.marker(), "zset"),
        (keys.events(), "stream"),
        (keys.id(), "string"),
        (keys.pc(), "string"),
        (keys.limiter(), "string"),
        (keys.stalled(), "set"),
        (keys.stalled_check(), "string"),
    ]
}

/// One of a queue's own keys that holds a value of another program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenKey {
    /// The full key in Redis.
    pub key: String,
    /// The part of the key behind the queue's name, for example `failed`.
    pub name: String,
    /// The type that BullMQ needs.
    pub wanted: &'static str,
    /// The type that Redis has.
    pub found: String,
    /// Whether the value is a job that was added under that id.
    pub is_job: bool,
}

impl Broker {
    /// For each queue, its own keys that hold another program's value. One round trip.
    pub async fn taken_keys(&self, queues: &[QueueName]) -> Result<Vec<Vec<TakenKey>>, QueueError> {
        let shapes: Vec<_> = queues
            .iter()
            .map(|queue| (self.keys(queue), shape(&self.keys(queue))))
            .collect();
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for (_, shape) in &shapes {
            for (key, _) in shape {
                pipe.cmd("TYPE")
                    .arg(key)
                    .cmd("HEXISTS")
                    .arg(key)
                    .arg("timestamp");
            }
        }
        if shapes.is_empty() {
            return Ok(Vec::new());
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let mut replies = replies.into_iter();
        let mut all = Vec::with_capacity(shapes.len());
        for (keys, shape) in shapes {
            let mut taken = Vec::new();
            for (key, wanted) in shape {
                let found: String =
                    read(replies.next().unwrap_or(Ok(Value::Nil)))?.unwrap_or_default();
                let is_job = read::<bool>(replies.next().unwrap_or(Ok(Value::Nil)))? == Ok(true);
                if (found == wanted || found == "none" || found.is_empty()) && !is_job {
                    continue;
                }
                let name = key
                    .strip_prefix(&keys.key_prefix())
                    .unwrap_or(&key)
                    .to_owned();
                taken.push(TakenKey {
                    key,
                    name,
                    wanted,
                    found,
                    is_job,
                });
            }
            all.push(taken);
        }
        Ok(all)
    }

    /// Fails with the first key of a wrong type; absent keys are right. One round trip.
    pub(crate) async fn check_types(
        &self,
        shape: &[(String, &'static str)],
    ) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        for (key, _) in shape {
            pipe.cmd("TYPE").arg(key);
        }
        let types: Vec<String> = pipe.query_async(&mut self.connection.get()).await?;
        match shape
            .iter()
            .zip(types)
            .find(|((_, wanted), found)| found != "none" && found != wanted)
        {
            None => Ok(()),
            Some(((key, wanted), found)) => {
                let what = format!("the key {key} is a {found}, and BullMQ keeps a {wanted} there");
                Err(QueueError::Damaged { what, source: None })
            }
        }
    }
}

/// Removes a job from every list and set. Deletes its keys too if `with_keys` is set, which must
/// not be when the job's name is a key of something that is no job. For jobs at which BullMQ's own
/// script fails; use it in a pipeline that continues after errors.
pub(crate) fn take_away(pipe: &mut redis::Pipeline, keys: &QueueKeys, id: &[u8], with_keys: bool) {
    for list in [keys.wait(), keys.paused(), keys.active()] {
        pipe.lrem(list, 0, id);
    }
    for set in [
        keys.completed(),
        keys.failed(),
        keys.delayed(),
        keys.prioritized(),
        keys.waiting_children(),
    ] {
        pipe.zrem(set, id);
    }
    pipe.srem(keys.stalled(), id);
    if with_keys {
        let key = [keys.key_prefix().as_bytes(), id].concat();
        for part in [
            "",
            ":lock",
            ":logs",
            ":dependencies",
            ":processed",
            ":failed",
            ":unsuccessful",
        ] {
            pipe.del([&key, part.as_bytes()].concat());
        }
    }
}
