//! How queues stand: counts, ages, limits, workers. Any number of queues costs two round trips.

use std::collections::BTreeSet;

use bullmq::QueueKeys;
use patchbay_model::QueueName;
use serde::Serialize;

use crate::{QueueCounts, QueueError, Queues, now_ms};

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueOverview {
    /// Its name.
    pub name: QueueName,
    /// Jobs per state.
    pub counts: QueueCounts,
    /// Age of the job that has waited longest, in milliseconds.
    pub oldest_waiting_ms: Option<u64>,
    /// When the next delayed job is due, Unix milliseconds.
    pub next_delayed_at: Option<u64>,
    /// Jobs at once over all workers, where that is limited.
    pub concurrency: Option<u64>,
    /// Jobs per milliseconds over all workers, where that is limited.
    pub rate: Option<(u64, u64)>,
    /// How long a reached rate limit still lasts, in milliseconds.
    pub rate_limited_ms: Option<u64>,
    /// Jobs that a BullMQ 5 producer has put aside while the queue was paused.
    pub put_aside: u64,
}

/// Of `wait`, `paused`, `prioritized`, `delayed`, `active`, `waiting-children`, `completed`, `failed`.
type Lengths = (u64, u64, u64, u64, u64, u64, u64, u64);
type Limits = (Option<u8>, Option<u64>, Option<u64>, Option<u64>);
type Edges = (Option<String>, Vec<String>, Vec<(String, f64)>, i64, Option<u64>);

fn read_as<T: redis::FromRedisValue>(value: redis::Value) -> redis::RedisResult<T> {
    Ok(redis::from_redis_value(value)?)
}

/// Asks for a queue's [`Lengths`].
fn ask_lengths(pipe: &mut redis::Pipeline, keys: &QueueKeys) {
    pipe.llen(keys.wait()).llen(keys.paused()).zcard(keys.prioritized()).zcard(keys.delayed());
    pipe.llen(keys.active()).zcard(keys.waiting_children()).zcard(keys.completed()).zcard(keys.failed());
}

fn counts(lengths: Lengths, paused: bool) -> QueueCounts {
    let (wait, put_aside, prioritized, delayed, active, waiting_children, completed, failed) = lengths;
    QueueCounts { waiting: wait + put_aside, prioritized, delayed, active, waiting_children, completed, failed, paused }
}

impl Queues {
    /// Jobs per state, in one round trip.
    pub async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, QueueError> {
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        ask_lengths(&mut pipe, &keys);
        pipe.hexists(keys.meta(), "paused");
        let mut replies: Vec<redis::Value> = pipe.query_async(&mut self.connection.get()).await?;
        let paused = read_as(replies.pop().unwrap_or(redis::Value::Nil))?;
        Ok(counts(read_as(redis::Value::Array(replies))?, paused))
    }

    /// In the order of `names`; one that Redis does not know is empty.
    pub async fn overview(&self, names: &[QueueName]) -> Result<Vec<QueueOverview>, QueueError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection.get();
        let mut pipe = redis::pipe();
        for name in names {
            let keys = self.keys(name);
            ask_lengths(&mut pipe, &keys);
            pipe.hmget(keys.meta(), &["paused", "concurrency", "max", "duration"]);
            pipe.lindex(keys.wait(), -1).zrange(keys.prioritized(), 0, 0).zrange_withscores(keys.delayed(), 0, 0);
            pipe.pttl(keys.limiter()).get(keys.limiter());
        }
        let mut replies = pipe.query_async::<Vec<redis::Value>>(&mut connection).await?.into_iter();
        let mut read = Vec::with_capacity(names.len());
        for _ in names {
            let lengths: Lengths = read_as(redis::Value::Array(replies.by_ref().take(8).collect()))?;
            let limits: Limits = read_as(replies.next().unwrap_or(redis::Value::Nil))?;
            let edges: Edges = read_as(redis::Value::Array(replies.by_ref().take(5).collect()))?;
            read.push((lengths, limits, edges));
        }
        // The next jobs to run are the oldest of their kind.
        let mut pipe = redis::pipe();
        for (name, (_, _, edges)) in names.iter().zip(&read) {
            let keys = self.keys(name);
            for id in [edges.0.as_deref(), edges.1.first().map(String::as_str)] {
                pipe.hget(keys.job_key(id.unwrap_or_default()), "timestamp");
            }
        }
        let times: Vec<Option<u64>> = pipe.query_async(&mut connection).await?;
        let now = now_ms();
        let overview = names.iter().zip(read).zip(times.chunks(2)).map(|((name, (lengths, limits, edges)), times)| {
            let (paused, concurrency, max, duration) = limits;
            let (_, _, next_delayed, limiter_ms, taken) = edges;
            let limited = limiter_ms > 0 && max.unwrap_or(1) <= taken.unwrap_or(0);
            QueueOverview {
                name: name.clone(),
                counts: counts(lengths, paused.is_some()),
                oldest_waiting_ms: times.iter().flatten().min().map(|&at| now.saturating_sub(at)),
                // The score's lower bits only order jobs of one millisecond.
                next_delayed_at: next_delayed.first().map(|(_, score)| (score / 4096.0) as u64),
                concurrency,
                rate: max.zip(duration),
                rate_limited_ms: limited.then_some(limiter_ms.unsigned_abs()),
                put_aside: lengths.1,
            }
        });
        Ok(overview.collect())
    }

    /// Names of the queue's workers, ours and others'; an unnamed one is called `unnamed`.
    pub async fn workers(&self, queue: &QueueName) -> Result<Vec<String>, QueueError> {
        let keys = self.keys(queue);
        let (unnamed, named) = (keys.client_name(""), keys.client_name(":w:"));
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut self.connection.get()).await?;
        let names = clients.lines().filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("name=")));
        let workers: BTreeSet<String> = names
            .filter_map(|name| match name.strip_prefix(&named) {
                Some(worker) => Some(worker.to_owned()),
                None => (name == unnamed).then(|| "unnamed".to_owned()),
            })
            .collect();
        Ok(workers.into_iter().collect())
    }
}
