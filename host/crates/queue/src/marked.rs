//! Waiting jobs that a bulk operation has removed, and that no worker has dropped yet.
//!
//! They still lie in BullMQ's lists, and a set of Patchbay's has their ids, so that they can be told
//! from jobs that wait. Another BullMQ client may take such a job without knowing of the set, so the
//! job's own hash decides.

use std::sync::LazyLock;

use patchbay_model::{JobId, QueueName};
use redis::{AsyncCommands, RedisResult, Script, Value};

use crate::damage::read;
use crate::job_fields::CANCELLED;
use crate::js;
use crate::removal::{clearing_key, copying, marked_key};
use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Jobs per round trip.
const CHUNK: usize = 200;
/// How long no job of the queue is marked after a process died while it cleared the queue.
const CLEARING_S: u64 = 60;
/// Pages of waiting jobs that are searched for the oldest one without a mark.
const PAGES: isize = 20;
const PAGE: isize = 500;

/// Counts the marked jobs of a queue, and removes some ids from the set whose jobs wait no longer.
/// `KEYS`: set of marked jobs, wait, paused. `ARGV`: prefix of jobs, cursor. A cursor may be any
/// number.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"for _, id in ipairs(redis.call("SSCAN", KEYS[1], ARGV[2], "COUNT", 200)[2]) do
            local job = redis.call("HMGET", ARGV[1] .. id, "pcx", "finishedOn")
            if not job[1] or job[2] then redis.call("SREM", KEYS[1], id) end
        end
        return math.min(redis.call("SCARD", KEYS[1]), redis.call("LLEN", KEYS[2]) + redis.call("LLEN", KEYS[3]))"#,
    )
});

/// What an operation on waiting jobs does, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleared {
    pub removed: u64,
    /// Jobs that a bulk operation had removed before. They are not counted again, and undoing that
    /// operation restores them as before.
    pub removed_before: u64,
}

/// A marked job, and the bulk operation that has removed it.
pub(crate) struct Marked {
    pub(crate) id: String,
    bulk: i64,
}

impl Broker {
    /// The marked jobs of a queue; ids whose jobs wait no longer are removed from the set.
    pub(crate) async fn marked(&self, queue: &QueueName) -> Result<Vec<Marked>, QueueError> {
        let set = marked_key(&self.config.own_prefix, queue);
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        let ids: Vec<String> = connection.smembers(&set).await?;
        let mut marked = Vec::with_capacity(ids.len());
        for ids in ids.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for id in ids {
                pipe.hmget(keys.job_key(id), &[CANCELLED, "finishedOn"]);
            }
            let jobs: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
            let mut stale = Vec::new();
            for (id, job) in ids.iter().zip(jobs) {
                let job = read::<(Option<String>, Option<String>)>(job)?;
                match job {
                    Ok((Some(bulk), None)) => marked.extend(bulk.parse().ok().map(|bulk| Marked {
                        id: id.clone(),
                        bulk,
                    })),
                    _ => stale.push(id),
                }
            }
            if !stale.is_empty() {
                connection.srem::<_, _, ()>(&set, stale).await?;
            }
        }
        Ok(marked)
    }

    /// How many of the queue's waiting jobs are marked. `seen` is the size of the set.
    pub(crate) async fn count_marked(&self, queue: &QueueName, seen: u64) -> u64 {
        let keys = self.keys(queue);
        let names = [
            marked_key(&self.config.own_prefix, queue),
            keys.wait(),
            keys.paused(),
        ];
        let cursor = self.now_ms().wrapping_mul(2_654_435_761) >> 16;
        let call = Call::new(&COUNT, &names).arg(keys.key_prefix()).arg(cursor);
        // An error is told by what is asked next.
        let count = call.invoke::<u64>(&mut self.connection.get()).await;
        count.unwrap_or(seen)
    }

    /// When the oldest waiting job without a mark was made, Unix milliseconds. Only for a queue with
    /// marked jobs. `None` also if none is found among the oldest ten thousand.
    pub(crate) async fn oldest_unmarked(
        &self,
        queue: &QueueName,
    ) -> Result<Option<u64>, QueueError> {
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        for page in 0..PAGES {
            let (from, to) = (-(page + 1) * PAGE, -page * PAGE - 1);
            let ids = connection.lrange(keys.wait(), from, to).await;
            let ids: Vec<Vec<u8>> = read(ids)?.unwrap_or_default();
            if ids.is_empty() {
                return Ok(None);
            }
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for id in ids.iter().rev() {
                let job = [keys.key_prefix().as_bytes(), id].concat();
                pipe.hmget(job, &[CANCELLED, "timestamp"]);
            }
            let jobs: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
            for job in jobs {
                if let Ok((None, made)) = read::<(Option<Vec<u8>>, Option<String>)>(job)? {
                    return Ok(made.and_then(|made| js::whole(&made)));
                }
            }
        }
        Ok(None)
    }

    /// Copies the marked jobs of a queue, so that undoing their removal restores them also after
    /// the queue's lists were cleared. No further job is marked until
    /// [`Self::end_clearing`].
    pub(crate) async fn begin_clearing(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<Marked>, QueueError> {
        let own = &self.config.own_prefix;
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        let clearing = clearing_key(own, queue);
        // Not SETEX: the rights that infrastructure.md lists have SET.
        let mut hold = redis::cmd("SET");
        hold.arg(&clearing).arg(1).arg("EX").arg(CLEARING_S);
        hold.query_async::<()>(&mut connection).await?;
        let marked = self.marked(queue).await?;
        if !marked.is_empty() && self.memory.is_full().await? {
            connection.del::<_, ()>(&clearing).await?;
            return Err(QueueError::MemoryFull(format!(
                "Nothing was done: Redis is nearly full. {} of the waiting jobs were removed by a bulk operation, and the copies with which \
                 that can be undone need memory. Remove finished jobs first: patchbay queue clean QUEUE completed",
                marked.len()
            )));
        }
        for jobs in marked.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            pipe.add_command(hold.clone());
            for Marked { id, bulk } in jobs {
                let Ok(job_id) = id.parse::<JobId>() else {
                    continue;
                };
                for command in copying(own, *bulk, queue, &job_id, &keys.job_key(id)) {
                    pipe.add_command(command);
                }
            }
            pipe.query_async::<Value>(&mut connection).await?;
        }
        Ok(marked)
    }

    /// Takes the ids of jobs that were removed out of the set, and lets jobs be marked again.
    pub(crate) async fn end_clearing<'a>(
        &self,
        queue: &QueueName,
        removed: impl Iterator<Item = &'a str>,
    ) -> Result<(), QueueError> {
        let own = &self.config.own_prefix;
        let removed: Vec<&str> = removed.collect();
        let mut pipe = redis::pipe();
        for ids in removed.chunks(1_000) {
            pipe.srem(marked_key(own, queue), ids);
        }
        pipe.del(clearing_key(own, queue));
        Ok(pipe
            .query_async::<Value>(&mut self.connection.get())
            .await
            .map(drop)?)
    }

    /// Forgets that a job was marked.
    pub(crate) async fn forget_mark(
        &self,
        queue: &QueueName,
        id: &JobId,
    ) -> Result<(), QueueError> {
        let set = marked_key(&self.config.own_prefix, queue);
        Ok(self.connection.get().srem(set, id.as_str()).await?)
    }

    /// Forgets all marks of a queue that was removed.
    pub(crate) async fn forget_marks(&self, queue: &QueueName) -> Result<(), QueueError> {
        let set = marked_key(&self.config.own_prefix, queue);
        Ok(self.connection.get().del(set).await?)
    }
}
