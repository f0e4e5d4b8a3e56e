//! Erases jobs from Redis: the job itself, a job that de-duplication keeps, copies for undoing,
//! results stored at a flow's parent, events, and what plugins store.
//!
//! Jobs are removed by BullMQ's own script. Other traces are found by a full scan, which is meant
//! for erasing a person, not for daily use.

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

/// Jobs per round trip. Each has up to 1 MiB of data.
const PAGE: u64 = 25;
/// Keys, or stream entries, per round trip.
const KEYS: usize = 200;
/// Replaces the failure reasons of children that a parent stores.
const ERASED: &str = "(erased)";

/// Jobs leave the first states for the later ones, so a job that moves on during the scan is met
/// again.
const STATES: [JobState; 7] = [
    JobState::Waiting,
    JobState::Prioritized,
    JobState::Delayed,
    JobState::WaitingChildren,
    JobState::Active,
    JobState::Completed,
    JobState::Failed,
];

/// Replaces results of children, or the reasons of their failures, in what their parent stores.
/// `KEYS`: the parent's results or failures. `ARGV`: the replacement, then the children's keys.
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

/// Deletes a job that de-duplication keeps, unless another job has taken its place. `KEYS`: where
/// it is kept. `ARGV`: its data.
static FORGET_KEPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"if redis.call("HGET", KEYS[1], "data") ~= ARGV[1] then
            return 0
        end
        return redis.call("DEL", KEYS[1])"#,
    )
});

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub key: JobKey,
    pub state: JobState,
    /// The schedule, if this job is its next tick. The schedule makes the job again each time it is
    /// removed.
    pub schedule: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseOutcome {
    /// It is gone, removed now or earlier.
    Gone,
    /// A worker has it.
    Runs,
    /// It has not run yet.
    Unfinished(JobState),
    /// It is the next tick of a schedule.
    OfSchedule,
}

/// A copy that a bulk removal keeps so that it can be undone.
#[derive(Debug, Clone)]
pub struct Copy {
    pub bulk: i64,
    /// Format: `queue:id`.
    pub job: String,
    /// When the job was created, Unix milliseconds.
    pub created_ms: Option<u64>,
    key: Vec<u8>,
    data: String,
}

impl Copy {
    /// Whether the job's data has one of these values at `path`.
    pub fn has(&self, path: &DataPath, values: &[String]) -> bool {
        path.holds(&self.data, values)
    }
}

/// A job that de-duplication keeps until the running one has ended (`keepLastIfActive`). BullMQ
/// adds it then.
#[derive(Debug, Clone)]
pub struct Deduplicated {
    /// The id that the job will get.
    pub id: String,
    key: Vec<u8>,
    data: Vec<u8>,
}

impl Deduplicated {
    /// Whether the job's data has one of these values at `path`.
    pub fn has(&self, path: &DataPath, values: &[String]) -> bool {
        path.holds(&text(&self.data), values)
    }
}

/// Whether progress, result, failure or stack traces of the job contain one of the values. A flow's
/// parent may contain its children's.
fn says(job: &JobView, mask: &Mask) -> bool {
    let mut texts = job
        .progress
        .iter()
        .chain(&job.return_value)
        .chain(&job.failed_reason)
        .chain(&job.stacktrace);
    !mask.is_empty() && texts.any(|text| mask.finds(text))
}

impl Broker {
    /// Jobs of a queue that have one of these values in their data, or whose output contains one
    /// that the mask finds. The flag is false if `until` passed before all jobs were read.
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
                    let (Ok(id), Some(created_ms)) = (job.id.parse(), job.timestamp) else {
                        continue;
                    };
                    let key = JobKey {
                        prefix: self.prefix().to_owned(),
                        queue: queue.clone(),
                        id,
                        created_ms,
                    };
                    let schedule = job.schedule_id.filter(|_| job.finished_on.is_none());
                    if !found.iter().any(|known| known.key == key) {
                        found.push(Located {
                            key,
                            state,
                            schedule,
                        });
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

    /// One job by its id, in the form of [`Broker::jobs_with`].
    pub async fn locate(
        &self,
        queue: &QueueName,
        id: &JobId,
    ) -> Result<Option<Located>, QueueError> {
        let Some(job) = self.job(queue, id).await? else {
            return Ok(None);
        };
        let created_ms = job.timestamp.unwrap_or(0);
        let key = JobKey {
            prefix: self.prefix().to_owned(),
            queue: queue.clone(),
            id: id.clone(),
            created_ms,
        };
        let schedule = job.schedule_id.filter(|_| job.finished_on.is_none());
        Ok(Some(Located {
            key,
            state: job.state,
            schedule,
        }))
    }

    /// Removes a job from Redis. A job that has not run yet is removed only if `unfinished` is set.
    pub async fn erase_job(
        &self,
        job: &JobKey,
        unfinished: bool,
    ) -> Result<EraseOutcome, QueueError> {
        let Some(seen) = self.job(&job.queue, &job.id).await? else {
            return Ok(EraseOutcome::Gone);
        };
        // Another job may have this id by now. A hash without a timestamp is no complete job and is
        // removed by its id alone.
        if seen
            .timestamp
            .is_some_and(|created| created != job.created_ms)
        {
            return Ok(EraseOutcome::Gone);
        }
        match seen.state {
            JobState::Active => return Ok(EraseOutcome::Runs),
            JobState::Completed | JobState::Failed | JobState::Unknown => {}
            _ if seen.removed_by.is_some() => {}
            _ if seen.schedule_id.is_some() => return Ok(EraseOutcome::OfSchedule),
            state if !unfinished => return Ok(EraseOutcome::Unfinished(state)),
            _ => {}
        }
        match self.remove(&job.queue, &job.id).await {
            Ok(()) | Err(QueueError::NotFound { .. }) => {}
            Err(QueueError::Running { .. }) => return Ok(EraseOutcome::Runs),
            Err(QueueError::Scheduled { .. }) => return Ok(EraseOutcome::OfSchedule),
            Err(error) => return Err(error),
        }
        if seen.removed_by.is_some() {
            self.forget_mark(&job.queue, &job.id).await?;
        }
        Ok(EraseOutcome::Gone)
    }

    /// Jobs of a queue that de-duplication keeps. They are in none of the queue's states.
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
                let id = fields
                    .next()
                    .flatten()
                    .map(|id| text(&id))
                    .unwrap_or_default();
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

    /// Deletes one of [`Broker::kept`]. False if it has become a job, or if another one has taken
    /// its place.
    pub async fn forget_kept(&self, kept: &Deduplicated) -> Result<bool, QueueError> {
        let call = FORGET_KEPT
            .key(&kept.key)
            .arg(&kept.data)
            .invoke_async(&mut self.connection.get())
            .await;
        Ok(call.map(|deleted: i64| deleted > 0)?)
    }

    /// Counts what parents of any queue store about these jobs, or with one of the values. Also
    /// erases it, unless `only_count` is set.
    pub async fn erase_child_results(
        &self,
        jobs: &[JobKey],
        mask: &Mask,
        only_count: bool,
    ) -> Result<u64, QueueError> {
        let children: HashSet<String> = jobs
            .iter()
            .map(|job| self.keys(&job.queue).job_key(job.id.as_str()))
            .collect();
        let prefix = format!("{}:", self.prefix());
        let mut count = 0;
        for (end, instead) in [(":processed", "null"), (":failed", ERASED)] {
            let mut cursor = 0;
            loop {
                let (next, keys) = self.keys_at(cursor, &prefix, end, "hash").await?;
                for key in keys {
                    let told = redis::cmd("HGETALL")
                        .arg(&key)
                        .query_async(&mut self.connection.get())
                        .await;
                    let told: Vec<(Vec<u8>, Vec<u8>)> = read(told)?.unwrap_or_default();
                    let is_meant = |(child, said): &(Vec<u8>, Vec<u8>)| {
                        *said != instead.as_bytes()
                            && (children.contains(&text(child)) || mask.finds(&text(said)))
                    };
                    let meant: Vec<Vec<u8>> = told
                        .into_iter()
                        .filter(is_meant)
                        .map(|(child, _)| child)
                        .collect();
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

    /// Copies of removed jobs for which `is_meant` is true.
    pub async fn copies(
        &self,
        mut is_meant: impl FnMut(&Copy) -> bool + Send,
    ) -> Result<Vec<Copy>, QueueError> {
        let prefix = format!("{}:bulk:", self.config.own_prefix);
        let mut found = Vec::new();
        let mut cursor = 0;
        loop {
            let (next, keys) = self.keys_at(cursor, &prefix, "", "hash").await?;
            let parts = keys.iter().filter_map(|key| {
                let (bulk, job) = std::str::from_utf8(key)
                    .ok()?
                    .strip_prefix(&prefix)?
                    .split_once(':')?;
                Some((key, bulk.parse::<i64>().ok()?, job)).filter(|(_, _, job)| *job != "notes")
            });
            for (key, bulk, job) in parts {
                let mut command = redis::cmd("HMGET");
                command.arg(key).arg("timestamp").arg("data");
                let reply = command.query_async(&mut self.connection.get()).await;
                let fields: Vec<Option<Vec<u8>>> = read(reply)?.unwrap_or_default();
                let mut fields = fields
                    .into_iter()
                    .map(|field| field.map(|field| text(&field)));
                let created_ms = fields.next().flatten().and_then(|at| at.parse().ok());
                let data = fields.next().flatten().unwrap_or_default();
                let copy = Copy {
                    bulk,
                    job: job.to_owned(),
                    created_ms,
                    key: key.clone(),
                    data,
                };
                if is_meant(&copy) {
                    found.push(Copy {
                        data: String::new(),
                        ..copy
                    });
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    /// Deletes copies. Their removal can no longer be undone.
    pub async fn delete_copies(&self, copies: &[Copy]) -> Result<(), QueueError> {
        for copy in copies {
            let logs = [&copy.key[..], b":logs"].concat();
            redis::AsyncCommands::del::<_, ()>(&mut self.connection.get(), (&copy.key, logs))
                .await?;
        }
        Ok(())
    }

    /// Counts keys of plugins' key-value spaces that were made for one of these jobs (they contain
    /// its idempotency key) or hold one of the values. Also deletes them, unless `only_count` is
    /// set. Skips keys of `spared` jobs, because they keep such a job from repeating its effects.
    pub async fn erase_deduplication_data(
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
            let is_of = |key: &[u8], jobs: &HashSet<String>| {
                text(key).split(':').any(|part| jobs.contains(part))
            };
            for key in keys {
                if is_of(&key, spared) {
                    continue;
                }
                let is_meant = is_of(&key, jobs) || mask.finds(&text(&key)) || {
                    let held = redis::cmd("GET")
                        .arg(&key)
                        .query_async(&mut self.connection.get())
                        .await;
                    let held: Option<Vec<u8>> = if mask.is_empty() {
                        None
                    } else {
                        read(held)?.unwrap_or_default()
                    };
                    held.is_some_and(|held| mask.finds(&text(&held)))
                };
                if is_meant {
                    count += 1;
                    if !only_count {
                        redis::AsyncCommands::del::<_, ()>(&mut self.connection.get(), &key)
                            .await?;
                    }
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(count);
            }
        }
    }

    /// Counts events of a queue about these jobs, or with one of the values. Also deletes them,
    /// unless `only_count` is set.
    pub async fn erase_events(
        &self,
        queue: &QueueName,
        jobs: &HashSet<String>,
        mask: &Mask,
        only_count: bool,
    ) -> Result<u64, QueueError> {
        let key = self.keys(queue).events();
        let is_meant = |fields: &[(String, String)]| {
            fields
                .iter()
                .any(|(name, value)| (name == "jobId" && jobs.contains(value)) || mask.finds(value))
        };
        self.erase_entries(&key, is_meant, only_count).await
    }

    /// Like [`Broker::erase_events`], for set-aside entries. `jobs` are in the text form of
    /// [`JobKey`].
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
            fields
                .iter()
                .any(|(name, value)| mask.finds(value) || (name == "r" && is_of_a_job(value)))
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
            // A key that is no stream has no entries.
            let Ok(reply) = read::<Value>(reply)? else {
                return Ok(count);
            };
            let page: StreamRangeReply = streams::read(reply)?;
            let Some(last) = page.ids.last().map(|entry| entry.id.clone()) else {
                return Ok(count);
            };
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
                redis::AsyncCommands::xdel::<_, _, ()>(&mut self.connection.get(), key, &meant)
                    .await?;
            }
            from = format!("({last}");
        }
    }

    /// Schedulers of a queue whose future jobs would have one of these values.
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
        Ok(schedulers
            .into_iter()
            .filter(|scheduler| of(&scheduler.data))
            .map(|scheduler| scheduler.id)
            .collect())
    }

    /// One `SCAN` step: keys of type `kind` that begin with `prefix` and end with `end`.
    async fn keys_at(
        &self,
        cursor: u64,
        prefix: &str,
        end: &str,
        kind: &str,
    ) -> Result<(u64, Vec<Vec<u8>>), QueueError> {
        let escaped: String = prefix
            .chars()
            .flat_map(|c| {
                if "*?[]\\".contains(c) {
                    vec!['\\', c]
                } else {
                    vec![c]
                }
            })
            .collect();
        let mut command = redis::cmd("SCAN");
        command
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{escaped}*{end}"))
            .arg("COUNT")
            .arg(KEYS)
            .arg("TYPE")
            .arg(kind);
        Ok(command.query_async(&mut self.connection.get()).await?)
    }
}
