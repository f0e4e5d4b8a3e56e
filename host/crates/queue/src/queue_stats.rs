//! State of queues: counts, ages, limits, workers. Any number of queues costs two round trips.

use std::collections::BTreeSet;

use bullmq::QueueKeys;
use patchbay_model::QueueName;
use redis::{RedisResult, Value};

use crate::damage::read;
use crate::js;
use crate::removal::marked_key;
use crate::{Broker, QueueCounts, QueueError, QueueOverview};

/// Replies about one queue, in the order of its questions. Remembers the first unreadable one with
/// its key.
struct Replies<'a> {
    replies: &'a mut dyn Iterator<Item = RedisResult<Value>>,
    error: Option<String>,
}

impl Replies<'_> {
    /// The default value if the reply cannot be read.
    fn next<T: redis::FromRedisValue + Default>(&mut self, key: &str) -> Result<T, QueueError> {
        Ok(
            read(self.replies.next().unwrap_or(Ok(Value::Nil)))?.unwrap_or_else(|what| {
                self.note(format!("{key}: {what}"));
                T::default()
            }),
        )
    }

    fn note(&mut self, error: String) {
        self.error.get_or_insert(error);
    }

    /// A limit, as any client may have written it; `None` also if it is no number.
    fn limit(&mut self, key: &str, name: &str, value: Option<Vec<u8>>) -> Option<u64> {
        let value = value?;
        let number = std::str::from_utf8(&value)
            .ok()
            .and_then(|value| value.parse().ok());
        if number.is_none() {
            self.note(format!(
                "{key}: {name} is not a number, so no worker takes jobs; set it again"
            ));
        }
        number
    }
}

/// Lengths of `wait`, `paused`, `prioritized`, `delayed`, `active`, `waiting-children`,
/// `completed`, `failed`.
type Lengths = (u64, u64, u64, u64, u64, u64, u64, u64);

fn read_as<T: redis::FromRedisValue>(value: Value) -> RedisResult<T> {
    Ok(redis::from_redis_value(value)?)
}

/// A queue without the ages of its jobs.
struct Seen {
    overview: QueueOverview,
    /// Ids of the job that has waited longest, and of the first of the prioritized ones.
    oldest: Option<Vec<u8>>,
    first: Option<Vec<u8>>,
}

fn ask_lengths(pipe: &mut redis::Pipeline, keys: &QueueKeys) {
    pipe.llen(keys.wait())
        .llen(keys.paused())
        .zcard(keys.prioritized())
        .zcard(keys.delayed());
    pipe.llen(keys.active())
        .zcard(keys.waiting_children())
        .zcard(keys.completed())
        .zcard(keys.failed());
}

/// `removed` jobs lie among the waiting ones.
fn counts(lengths: Lengths, removed: u64, paused: bool) -> QueueCounts {
    let (wait, put_aside, prioritized, delayed, active, waiting_children, completed, failed) =
        lengths;
    let removed = removed.min(wait + put_aside);
    QueueCounts {
        waiting: wait + put_aside - removed,
        removed,
        prioritized,
        delayed,
        active,
        waiting_children,
        completed,
        failed,
        paused,
    }
}

impl Broker {
    /// Jobs per state. One round trip.
    pub async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, QueueError> {
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        ask_lengths(&mut pipe, &keys);
        pipe.scard(marked_key(&self.config.own_prefix, queue))
            .hexists(keys.meta(), "paused");
        let mut replies: Vec<redis::Value> = pipe.query_async(&mut self.connection.get()).await?;
        let paused = read_as(replies.pop().unwrap_or(redis::Value::Nil))?;
        let removed = read_as(replies.pop().unwrap_or(redis::Value::Nil))?;
        Ok(counts(
            read_as(redis::Value::Array(replies))?,
            removed,
            paused,
        ))
    }

    /// One entry per name, in the order of `names`. A queue that Redis does not know is empty.
    pub async fn overview(&self, names: &[QueueName]) -> Result<Vec<QueueOverview>, QueueError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection.get();
        let mut pipe = redis::pipe();
        // Damage of one queue must not hide the others.
        pipe.ignore_errors();
        for name in names {
            let keys = self.keys(name);
            ask_lengths(&mut pipe, &keys);
            pipe.hmget(keys.meta(), &["paused", "concurrency", "max", "duration"]);
            pipe.lindex(keys.wait(), -1)
                .zrange(keys.prioritized(), 0, 0)
                .zrange_withscores(keys.delayed(), 0, 0);
            pipe.pttl(keys.limiter()).get(keys.limiter());
            pipe.scard(marked_key(&self.config.own_prefix, name));
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
        let mut replies = replies.into_iter();
        let mut queues = Vec::with_capacity(names.len());
        for name in names {
            queues.push(self.standing(
                name,
                &mut Replies {
                    replies: &mut replies,
                    error: None,
                },
            )?);
        }
        // The next jobs to run are the oldest of their kind.
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for queue in &queues {
            let prefix = self.keys(&queue.overview.name).key_prefix();
            for id in [&queue.oldest, &queue.first].into_iter().flatten() {
                pipe.hget([prefix.as_bytes(), id].concat(), "timestamp");
            }
        }
        let times: Vec<RedisResult<Value>> = if pipe.is_empty() {
            Vec::new()
        } else {
            pipe.query_async(&mut connection).await?
        };
        let mut times = times.into_iter();
        let now = self.now_ms();
        let mut overview = Vec::with_capacity(names.len());
        for Seen {
            overview: mut queue,
            oldest,
            first,
        } in queues
        {
            // A job without a readable time has no age. What is wrong with it shows when the job is
            // read.
            let mut made = [None, None];
            for (made, _) in made
                .iter_mut()
                .zip([oldest, first])
                .filter(|(_, id)| id.is_some())
            {
                let time = read::<Option<String>>(times.next().unwrap_or(Ok(Value::Nil)))?;
                *made = time.ok().flatten().and_then(|time| js::whole(&time));
            }
            self.leave_out_removed(&mut queue, &mut made[0]).await?;
            let oldest = made.into_iter().flatten().min();
            queue.oldest_waiting_ms = oldest.map(|at| now.saturating_sub(at));
            overview.push(queue);
        }
        Ok(overview)
    }

    /// Corrects what was seen of a queue some of whose waiting jobs a bulk operation has removed:
    /// their number, and when the oldest of the others was made. Costs nothing for other queues.
    async fn leave_out_removed(
        &self,
        queue: &mut QueueOverview,
        oldest: &mut Option<u64>,
    ) -> Result<(), QueueError> {
        let QueueCounts {
            waiting, removed, ..
        } = queue.counts;
        if removed == 0 {
            return Ok(());
        }
        let counted = self.count_marked(&queue.name, removed).await;
        queue.counts.removed = counted.min(waiting + removed);
        queue.counts.waiting = waiting + removed - queue.counts.removed;
        if queue.counts.removed > 0 {
            *oldest = self.oldest_unmarked(&queue.name).await?;
        }
        Ok(())
    }

    fn standing(&self, name: &QueueName, replies: &mut Replies<'_>) -> Result<Seen, QueueError> {
        let keys = self.keys(name);
        let mut length = |key: String| replies.next::<u64>(&key);
        let lengths: Lengths = (
            length(keys.wait())?,
            length(keys.paused())?,
            length(keys.prioritized())?,
            length(keys.delayed())?,
            length(keys.active())?,
            length(keys.waiting_children())?,
            length(keys.completed())?,
            length(keys.failed())?,
        );
        let meta = keys.meta();
        let mut limits = replies.next::<Vec<Option<Vec<u8>>>>(&meta)?.into_iter();
        let paused = limits.next().flatten().is_some();
        let [concurrency, max, duration] = ["concurrency", "max", "duration"]
            .map(|limit| replies.limit(&meta, limit, limits.next().flatten()));
        let oldest: Option<Vec<u8>> = replies.next(&keys.wait())?;
        let first: Vec<Vec<u8>> = replies.next(&keys.prioritized())?;
        let next_delayed: Vec<(Vec<u8>, f64)> = replies.next(&keys.delayed())?;
        let limiter_ms: i64 = replies.next(&keys.limiter())?;
        let taken: Option<u64> = replies.next(&keys.limiter())?;
        let removed: u64 = replies.next(&marked_key(&self.config.own_prefix, name))?;
        let limited = limiter_ms > 0 && max.unwrap_or(1) <= taken.unwrap_or(0);
        let overview = QueueOverview {
            name: name.clone(),
            counts: counts(lengths, removed, paused),
            oldest_waiting_ms: None,
            // The score's lower bits only order jobs of the same millisecond.
            next_delayed_at: next_delayed.first().map(|(_, score)| due_at(*score)),
            concurrency,
            rate: max.zip(duration),
            rate_limited_ms: limited.then_some(limiter_ms.unsigned_abs()),
            put_aside: lengths.1,
            paused_by: None,
            error: replies.error.take(),
        };
        Ok(Seen {
            overview,
            oldest,
            first: first.into_iter().next(),
        })
    }

    /// Names of the queue's workers, Patchbay's and others. An unnamed one is called `unnamed`.
    pub async fn workers(&self, queue: &QueueName) -> Result<Vec<String>, QueueError> {
        let keys = self.keys(queue);
        let (unnamed, named) = (keys.client_name(""), keys.client_name(":w:"));
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query_async(&mut self.connection.get())
            .await?;
        let names = clients.lines().filter_map(|line| {
            line.split(' ')
                .find_map(|field| field.strip_prefix("name="))
        });
        let workers: BTreeSet<String> = names
            .filter_map(|name| match name.strip_prefix(&named) {
                Some(worker) => Some(worker.to_owned()),
                None => (name == unnamed).then(|| "unnamed".to_owned()),
            })
            .collect();
        Ok(workers.into_iter().collect())
    }
}

/// When a delayed job is due, Unix milliseconds. BullMQ's scores are that time × 4096, plus a
/// counter that keeps jobs of the same time in order.
pub(crate) fn due_at(score: f64) -> u64 {
    (score / 4096.0) as u64
}
