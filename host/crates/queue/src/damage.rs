//! What somebody else has left in Redis where BullMQ keeps something else: read as far as it can be read, found and named, taken away.

use bullmq::QueueKeys;
use redis::{FromRedisValue, RedisResult, Value};

use crate::{QueueError, Queues};

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

impl Queues {
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
