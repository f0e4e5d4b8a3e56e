//! What somebody else has left in Redis where BullMQ keeps something else: read as far as it can be read, found and named, taken away.

use bullmq::QueueKeys;
use patchbay_model::QueueName;
use redis::{FromRedisValue, RedisResult, Value};
use serde::Serialize;

use crate::{Broker, QueueError};

/// One reply of a pipeline that goes on after errors: its value, or what is wrong with the data. Fails when Redis cannot serve us at all.
pub(crate) fn read<T: FromRedisValue>(reply: RedisResult<Value>) -> Result<Result<T, String>, QueueError> {
    let value = reply.and_then(|value| Ok(redis::from_redis_value(value)?));
    match value.map_err(QueueError::from) {
        Ok(value) => Ok(Ok(value)),
        Err(QueueError::Damaged { what, .. }) => Ok(Err(what)),
        Err(error) => Err(error),
    }
}

/// Text in Redis is whatever its writer wrote; bytes that are no UTF-8 are shown as such.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A queue's keys, each with the type that BullMQ gives it.
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

/// One of a queue's own keys at which something else stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenKey {
    /// The whole key in Redis.
    pub key: String,
    /// What stands behind the queue's name: `failed`, for example.
    pub name: String,
    /// The type that BullMQ needs there.
    pub wanted: &'static str,
    /// The type that is there.
    pub found: String,
    /// Whether it is a job, which was added under that id.
    pub is_job: bool,
}

impl Broker {
    /// The queues' own keys at which something else stands, for each queue. One round trip.
    pub async fn taken_keys(&self, queues: &[QueueName]) -> Result<Vec<Vec<TakenKey>>, QueueError> {
        let shapes: Vec<_> = queues.iter().map(|queue| (self.keys(queue), shape(&self.keys(queue)))).collect();
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for (_, shape) in &shapes {
            for (key, _) in shape {
                pipe.cmd("TYPE").arg(key).cmd("HEXISTS").arg(key).arg("timestamp");
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
                let found: String = read(replies.next().unwrap_or(Ok(Value::Nil)))?.unwrap_or_default();
                let is_job = read::<bool>(replies.next().unwrap_or(Ok(Value::Nil)))? == Ok(true);
                if (found == wanted || found == "none" || found.is_empty()) && !is_job {
                    continue;
                }
                let name = key.strip_prefix(&keys.key_prefix()).unwrap_or(&key).to_owned();
                taken.push(TakenKey { key, name, wanted, found, is_job });
            }
            all.push(taken);
        }
        Ok(all)
    }

    /// Fails with the first key that is of another type than it should be; absent ones are right. One round trip.
    pub(crate) async fn check_types(&self, shape: &[(String, &'static str)]) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        for (key, _) in shape {
            pipe.cmd("TYPE").arg(key);
        }
        let types: Vec<String> = pipe.query_async(&mut self.connection.get()).await?;
        match shape.iter().zip(types).find(|((_, wanted), found)| found != "none" && found != wanted) {
            None => Ok(()),
            Some(((key, wanted), found)) => {
                let what = format!("the key {key} is a {found}, and BullMQ keeps a {wanted} there");
                Err(QueueError::Damaged { what, source: None })
            }
        }
    }
}

/// Takes a job out of every list and set, and its keys unless its name is taken by something that is no job. For jobs at which BullMQ's
/// own script stops; in a pipeline that goes on after errors.
pub(crate) fn take_away(pipe: &mut redis::Pipeline, keys: &QueueKeys, id: &[u8], with_keys: bool) {
    for list in [keys.wait(), keys.paused(), keys.active()] {
        pipe.lrem(list, 0, id);
    }
    for set in [keys.completed(), keys.failed(), keys.delayed(), keys.prioritized(), keys.waiting_children()] {
        pipe.zrem(set, id);
    }
    pipe.srem(keys.stalled(), id);
    if with_keys {
        let key = [keys.key_prefix().as_bytes(), id].concat();
        for part in ["", ":lock", ":logs", ":dependencies", ":processed", ":failed", ":unsuccessful"] {
            pipe.del([&key, part.as_bytes()].concat());
        }
    }
}
