//! Erasing jobs from Redis: the job, one that de-duplication keeps, the copies for undoing, what a flow's parent was told, events, and what
//! plugins keep.
//!
//! Jobs leave by upstream's script for removing. What is left of them elsewhere is found by looking at all of it: for a person's request, not
//! for every day.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Instant;

use patchbay_model::job::{JobKey, JobState};
use patchbay_model::redaction::Mask;
use patchbay_model::{DataPath, JobId, QueueName};
use redis::streams::StreamRangeReply;
use redis::{RedisResult, Script, Value};

use crate::damage::{read, text};
use crate::{Broker, JobView, QueueError, Start, streams};

/// Jobs per round trip: each has up to 1 MiB of data.
const PAGE: u64 = 25;
/// Keys, or entries of a stream, per round trip.
const KEYS: usize = 200;
/// What stands in place of what a parent was told.
const ERASED: &str = "(erased)";

/// States, those first that jobs leave: one that moves on meanwhile is met again.
const STATES: [JobState; 7] = [
    JobState::Waiting,
    JobState::Prioritized,
    JobState::Delayed,
    JobState::WaitingChildren,
    JobState::Active,
    JobState::Completed,
    JobState::Failed,
];

/// Takes results of children, or the reasons of their failures, out of what their parent was told. `KEYS`: the parent's results or failures.
/// `ARGV`: what takes their place, and the children's keys.
static FORGET_TOLD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local found = 0
        for i = 2, #ARGV do
            if redis.call("HEXISTS", KEYS[1], ARGV[i]) == 1 then
                redis.call("HSET", KEYS[1], ARGV[i], ARGV[1])
                found = found + 1
            end
        end
        return found"#,
    )
});

/// Forgets a job that de-duplication keeps, unless another one has taken its place. `KEYS`: where it is kept. `ARGV`: its data.
static FORGET_KEPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"if redis.call("HGET", KEYS[1], "data") ~= ARGV[1] then
            return 0
        end
        return redis.call("DEL", KEYS[1])"#,
    )
});

/// A job in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub key: JobKey,
    pub state: JobState,
    /// The next tick of this schedule, which makes it again as often as it is removed.
    pub schedule: Option<String>,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasing {
    /// It is gone, now or before.
    Gone,
    /// A worker has it.
    Runs,
    /// It is still to run.
    Unfinished(JobState),
    /// It is the next tick of a schedule.
    OfSchedule,
}

/// A copy that a removal has left for being undone.
#[derive(Debug, Clone)]
pub struct Copy {
    pub bulk: i64,
    /// `queue:id`
    pub job: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: Option<u64>,
    key: Vec<u8>,
    data: String,
}

impl Copy {
    /// Whether its job has one of these values there.
    pub fn has(&self, path: &DataPath, values: &[String]) -> bool {
        path.holds(&self.data, values)
    }
}

/// A job that de-duplication keeps until the one that runs has ended (`keepLastIfActive`): BullMQ makes a job of it then.
#[derive(Debug, Clone)]
pub struct Deduplicated {
    /// The id that it will have.
    pub id: String,
    key: Vec<u8>,
    data: Vec<u8>,
}

impl Deduplicated {
    /// Whether it has one of these values there.
    pub fn has(&self, path: &DataPath, values: &[String]) -> bool {
        path.holds(&text(&self.data), values)
    }
}

/// Whether a job has said one of the values, as a flow's parent does with what its children told it.
fn says(job: &JobView, mask: &Mask) -> bool {
    let mut texts = job.progress.iter().chain(&job.return_value).chain(&job.failed_reason).chain(&job.stacktrace);
    !mask.is_empty() && texts.any(|text| mask.finds(text))
}

impl Broker {
    /// Jobs of a queue with one of these values in their data, or with one that the mask finds in what they said; and whether all were looked
    /// at by then.
    pub async fn jobs_with(
        &self,
        queue: &QueueName,
        path: &DataPath,
        values: &[String],
        mask: &Mask,
        until: Instant,
    ) -> Result<(Vec<Located>, bool), QueueError> {
        let mut found: Vec<Located> = Vec::new();
        for state in STATES {
            let mut start = Start::Place(0);
            loop {
                if Instant::now() >= until {
                    return Ok((found, false));
                }
                let page = self.jobs(queue, state, start, PAGE).await?;
                let is_meant = |job: &JobView| path.holds(&job.data, values) || says(job, mask);
                for job in page.jobs.into_iter().filter(is_meant) {
                    let (Ok(id), Some(created_ms)) = (job.id.parse(), job.timestamp) else { continue };
                    let key = JobKey { prefix: self.prefix().to_owned(), queue: queue.clone(), id, created_ms };
                    let schedule = job.schedule_id.filter(|_| job.finished_on.is_none());
                    if !found.iter().any(|known| known.key == key) {
                        found.push(Located { key, state, schedule });
                    }
                }
                match page.next {
                    Some(cursor) => start = Start::Behind(cursor),
                    None => break,
                }
            }
        }
        Ok((found, true))
    }

    /// One job by its name, as [`Broker::jobs_with`] gives it.
    pub async fn locate(&self, queue: &QueueName, id: &JobId) -> Result<Option<Located>, QueueError> {
        let Some(job) = self.job(queue, id).await? else { return Ok(None) };
        let created_ms = job.timestamp.unwrap_or(0);
        let key = JobKey { prefix: self.prefix().to_owned(), queue: queue.clone(), id: id.clone(), created_ms };
        let schedule = job.schedule_id.filter(|_| job.finished_on.is_none());
        Ok(Some(Located { key, state: job.state, schedule }))
    }

    /// Takes a job out of Redis. One that is still to run only when that is meant.
    pub async fn erase_job(&self, job: &JobKey, unfinished: bool) -> Result<Erasing, QueueError> {
        let Some(seen) = self.job(&job.queue, &job.id).await? else {
            return Ok(Erasing::Gone);
        };
        // Its id may be another job's by now. What has no time is no whole job, and is meant by its name.
        if seen.timestamp.is_some_and(|created| created != job.created_ms) {
            return Ok(Erasing::Gone);
        }
        match seen.state {
            JobState::Active => return Ok(Erasing::Runs),
            JobState::Completed | JobState::Failed | JobState::Unknown => {}
            _ if seen.removed_by.is_some() => {}
            _ if seen.schedule_id.is_some() => return Ok(Erasing::OfSchedule),
            state if !unfinished => return Ok(Erasing::Unfinished(state)),
            _ => {}
        }
        match self.remove(&job.queue, &job.id).await {
            Ok(()) | Err(QueueError::NotFound { .. }) => {}
            Err(QueueError::Running { .. }) => return Ok(Erasing::Runs),
            Err(QueueError::Scheduled { .. }) => return Ok(Erasing::OfSchedule),
            Err(error) => return Err(error),
        }
        Ok(Erasing::Gone)
    }

    /// Jobs of a queue that de-duplication keeps, in none of its states.
    pub async fn kept(&self, queue: &QueueName) -> Result<Vec<Deduplicated>, QueueError> {
        let prefix = self.keys(queue).job_key("dn:");
        let (mut found, mut cursor) = (Vec::new(), 0);
        loop {
            let (next, keys) = self.keys_at(cursor, &prefix, "", "hash").await?;
            for key in keys {
                let mut command = redis::cmd("HMGET");
                command.arg(&key).arg("jid").arg("data");
                let reply = command.query_async(&mut self.connection.get()).await;
                let fields: Vec<Option<Vec<u8>>> = read(reply)?.unwrap_or_default();
                let mut fields = fields.into_iter();
                let id = fields.next().flatten().map(|id| text(&id)).unwrap_or_default();
                if let Some(data) = fields.next().flatten() {
                    found.push(Deduplicated { id, key, data });
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    /// Forgets one of [`Broker::kept`]; false when it has become a job, or another one has taken its place.
    pub async fn forget_kept(&self, kept: &Deduplicated) -> Result<bool, QueueError> {
        let call = FORGET_KEPT.key(&kept.key).arg(&kept.data).invoke_async(&mut self.connection.get()).await;
        Ok(call.map(|deleted: i64| deleted > 0)?)
    }

    /// What parents of any queue were told by these jobs, or with one of the values. Takes it out unless it is only asked for its number.
    pub async fn erase_told(&self, jobs: &[JobKey], mask: &Mask, only_count: bool) -> Result<u64, QueueError> {
        let children: HashSet<String> = jobs.iter().map(|job| self.keys(&job.queue).job_key(job.id.as_str())).collect();
        let prefix = format!("{}:", self.prefix());
        let mut count = 0;
        for (end, instead) in [(":processed", "null"), (":failed", ERASED)] {
            let mut cursor = 0;
            loop {
                let (next, keys) = self.keys_at(cursor, &prefix, end, "hash").await?;
                for key in keys {
                    let told = redis::cmd("HGETALL").arg(&key).query_async(&mut self.connection.get()).await;
                    let told: Vec<(Vec<u8>, Vec<u8>)> = read(told)?.unwrap_or_default();
                    let is_meant = |(child, said): &(Vec<u8>, Vec<u8>)| {
                        *said != instead.as_bytes() && (children.contains(&text(child)) || mask.finds(&text(said)))
                    };
                    let meant: Vec<Vec<u8>> = told.into_iter().filter(is_meant).map(|(child, _)| child).collect();
                    count += meant.len() as u64;
                    if !only_count && !meant.is_empty() {
                        let mut call = FORGET_TOLD.key(&key);
                        call.arg(instead).arg(meant);
                        call.invoke_async::<i64>(&mut self.connection.get()).await?;
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(count)
    }

    /// Copies of removed jobs that are meant.
    pub async fn copies(&self, mut is_meant: impl FnMut(&Copy) -> bool + Send) -> Result<Vec<Copy>, QueueError> {
        let prefix = format!("{}:bulk:", self.config.own_prefix);
        let mut found = Vec::new();
        let mut cursor = 0;
        loop {
            let (next, keys) = self.keys_at(cursor, &prefix, "", "hash").await?;
            let parts = keys.iter().filter_map(|key| {
                let (bulk, job) = std::str::from_utf8(key).ok()?.strip_prefix(&prefix)?.split_once(':')?;
                Some((key, bulk.parse::<i64>().ok()?, job)).filter(|(_, _, job)| *job != "notes")
            });
            for (key, bulk, job) in parts {
                let mut command = redis::cmd("HMGET");
                command.arg(key).arg("timestamp").arg("data");
                let reply = command.query_async(&mut self.connection.get()).await;
                let fields: Vec<Option<Vec<u8>>> = read(reply)?.unwrap_or_default();
                let mut fields = fields.into_iter().map(|field| field.map(|field| text(&field)));
                let created_ms = fields.next().flatten().and_then(|at| at.parse().ok());
                let data = fields.next().flatten().unwrap_or_default();
                let copy = Copy { bulk, job: job.to_owned(), created_ms, key: key.clone(), data };
                if is_meant(&copy) {
                    found.push(Copy { data: String::new(), ..copy });
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    /// Deletes copies: their removal cannot be undone any more.
    pub async fn delete_copies(&self, copies: &[Copy]) -> Result<(), QueueError> {
        for copy in copies {
            let logs = [&copy.key[..], b":logs"].concat();
            redis::AsyncCommands::del::<_, ()>(&mut self.connection.get(), (&copy.key, logs)).await?;
        }
        Ok(())
    }

    /// Keys of plugins' key-value spaces that were made for one of these jobs (they carry its idempotency key) or hold one of the values.
    /// Not those of jobs that are spared: they keep such a job from doing twice what it has done. Deletes them unless it is only asked for
    /// their number.
    pub async fn erase_kept(
        &self,
        jobs: &HashSet<String>,
        spared: &HashSet<String>,
        mask: &Mask,
        only_count: bool,
    ) -> Result<u64, QueueError> {
        let prefix = format!("{}:kv:", self.config.own_prefix);
        let (mut count, mut cursor) = (0, 0);
        loop {
            let (next, keys) = self.keys_at(cursor, &prefix, "", "string").await?;
            let is_of = |key: &[u8], jobs: &HashSet<String>| text(key).split(':').any(|part| jobs.contains(part));
            for key in keys {
                if is_of(&key, spared) {
                    continue;
                }
                let is_meant = is_of(&key, jobs) || mask.finds(&text(&key)) || {
                    let held = redis::cmd("GET").arg(&key).query_async(&mut self.connection.get()).await;
                    let held: Option<Vec<u8>> = if mask.is_empty() { None } else { read(held)?.unwrap_or_default() };
                    held.is_some_and(|held| mask.finds(&text(&held)))
                };
                if is_meant {
                    count += 1;
                    if !only_count {
                        redis::AsyncCommands::del::<_, ()>(&mut self.connection.get(), &key).await?;
                    }
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(count);
            }
        }
    }

    /// Events of a queue about these jobs, or with one of the values. Deletes them unless it is only asked for their number.
    pub async fn erase_events(
        &self,
        queue: &QueueName,
        jobs: &HashSet<String>,
        mask: &Mask,
        only_count: bool,
    ) -> Result<u64, QueueError> {
        let key = self.keys(queue).events();
        let is_meant = |fields: &[(String, String)]| {
            fields.iter().any(|(name, value)| (name == "jobId" && jobs.contains(value)) || mask.finds(value))
        };
        self.erase_entries(&key, is_meant, only_count).await
    }

    /// Entries that were set aside with one of the values, or of one of these jobs (as [`JobKey`] is written).
    pub async fn erase_set_aside(
        &self,
        jobs: &HashSet<String>,
        mask: &Mask,
        only_count: bool,
    ) -> Result<u64, QueueError> {
        let key = crate::attempt_stream::aside(&self.attempts_key());
        let is_of_a_job = |record: &str| {
            let record: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
            let part = |name: &str| record["job"][name].as_str().unwrap_or_default();
            jobs.contains(&format!("{}:{}", part("queue"), part("id")))
        };
        let is_meant = |fields: &[(String, String)]| {
            fields.iter().any(|(name, value)| mask.finds(value) || (name == "r" && is_of_a_job(value)))
        };
        self.erase_entries(&key, is_meant, only_count).await
    }

    async fn erase_entries(
        &self,
        key: &str,
        is_meant: impl Fn(&[(String, String)]) -> bool,
        only_count: bool,
    ) -> Result<u64, QueueError> {
        let (mut count, mut from) = (0, "-".to_owned());
        loop {
            let mut command = redis::cmd("XRANGE");
            command.arg(key).arg(&from).arg("+").arg("COUNT").arg(KEYS);
            let reply: RedisResult<Value> = command.query_async(&mut self.connection.get()).await;
            // What is no stream has no entries.
            let Ok(reply) = read::<Value>(reply)? else { return Ok(count) };
            let page: StreamRangeReply = streams::read(reply)?;
            let Some(last) = page.ids.last().map(|entry| entry.id.clone()) else { return Ok(count) };
            let mut meant = Vec::new();
            for entry in page.ids {
                let field = |(name, value)| {
                    let bytes: Vec<u8> = redis::from_redis_value(value).unwrap_or_default();
                    (name, text(&bytes))
                };
                let fields: Vec<(String, String)> = entry.map.into_iter().map(field).collect();
                if is_meant(&fields) {
                    meant.push(entry.id);
                }
            }
            count += meant.len() as u64;
            if !only_count && !meant.is_empty() {
                redis::AsyncCommands::xdel::<_, _, ()>(&mut self.connection.get(), key, &meant).await?;
            }
            from = format!("({last}");
        }
    }

    /// Schedulers of a queue whose jobs would have one of these values again.
    pub async fn schedulers_with(
        &self,
        queue: &QueueName,
        path: &DataPath,
        values: &[String],
    ) -> Result<Vec<String>, QueueError> {
        let schedulers = match self.schedulers(queue).await {
            Err(QueueError::Damaged { .. }) => Vec::new(),
            schedulers => schedulers?,
        };
        let of = |data: &Option<String>| data.as_ref().is_some_and(|data| path.holds(data, values));
        Ok(schedulers.into_iter().filter(|scheduler| of(&scheduler.data)).map(|scheduler| scheduler.id).collect())
    }

    /// Keys of one kind that begin and end like this.
    async fn keys_at(
        &self,
        cursor: u64,
        prefix: &str,
        end: &str,
        kind: &str,
    ) -> Result<(u64, Vec<Vec<u8>>), QueueError> {
        let escaped: String =
            prefix.chars().flat_map(|c| if "*?[]\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect();
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(format!("{escaped}*{end}")).arg("COUNT").arg(KEYS).arg("TYPE").arg(kind);
        Ok(command.query_async(&mut self.connection.get()).await?)
    }
}
