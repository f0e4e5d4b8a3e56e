//! One Redis: connection, reading and repairing jobs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bullmq::QueueKeys;
use patchbay_model::job::JobState;
use patchbay_model::{JobId, QueueName};
use redis::AsyncCommands;

use crate::connection::Connection;
use crate::memory::Memory;
use crate::scripts::{self, Call};
use crate::{AttemptReader, Handler, JobView, Kv, QueueCounts, QueueError, WorkerConfig, WorkerHandle};

/// Where Redis is.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://…`
    pub url: String,
    /// BullMQ's, usually `bull`.
    pub prefix: String,
    /// Ours, for what BullMQ does not know.
    pub own_prefix: String,
}

/// What `doctor` wants to know.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ServerFacts {
    pub version: String,
    pub aof_enabled: bool,
    pub used_memory: u64,
    /// 0 means no limit.
    pub maxmemory: u64,
    pub maxmemory_policy: String,
    /// Our clock minus Redis's.
    pub clock_skew_ms: i64,
}

/// All queues of one Redis. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) connection: Connection,
    pub(crate) memory: Memory,
}

impl Queues {
    /// Connects; fails when Redis is away.
    pub async fn connect(config: RedisConfig) -> Result<Self, QueueError> {
        let client = redis::Client::open(config.url.as_str())?;
        let connection = Connection::open(client).await?;
        let memory = Memory::new(connection.clone());
        Ok(Self { config: Arc::new(config), connection, memory })
    }

    pub(crate) fn keys(&self, queue: &QueueName) -> QueueKeys {
        QueueKeys::new(queue.as_str(), Some(&self.config.prefix))
    }

    /// BullMQ's key prefix.
    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// A round trip.
    pub async fn ping(&self) -> Result<Duration, QueueError> {
        let started = Instant::now();
        self.connection.ping().await?;
        Ok(started.elapsed())
    }

    /// Our clock minus Redis's, corrected by half the round trip.
    pub async fn clock_skew_ms(&self) -> Result<i64, QueueError> {
        let started = Instant::now();
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut self.connection.get()).await?;
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
        let half_trip = started.elapsed().as_millis() as i64 / 2;
        Ok(ours - half_trip - (seconds * 1_000 + micros / 1_000))
    }

    /// Facts about the server.
    pub async fn server(&self) -> Result<ServerFacts, QueueError> {
        let info: String = redis::cmd("INFO").query_async(&mut self.connection.get()).await?;
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let text = |name: &str| fields.get(name).map_or(String::new(), |value| (*value).to_owned());
        Ok(ServerFacts {
            version: text("redis_version"),
            aof_enabled: text("aof_enabled") == "1",
            used_memory: text("used_memory").parse().unwrap_or(0),
            maxmemory: text("maxmemory").parse().unwrap_or(0),
            maxmemory_policy: text("maxmemory_policy"),
            clock_skew_ms: self.clock_skew_ms().await?,
        })
    }

    /// Ends the server, saving what it holds; for `patchbay dev`, which started it.
    pub async fn shut_server_down(&self) {
        // The reply is the end of the connection.
        let _: redis::RedisResult<()> = redis::cmd("SHUTDOWN").query_async(&mut self.connection.get()).await;
    }

    /// Every queue that has left a trace in Redis.
    pub async fn list(&self) -> Result<Vec<QueueName>, QueueError> {
        let pattern = format!("{}:*:meta", self.config.prefix);
        let mut connection = self.connection.get();
        let mut found = Vec::new();
        let mut cursor = 0u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(1_000)
                .query_async(&mut connection)
                .await?;
            let prefix = format!("{}:", self.config.prefix);
            found.extend(keys.iter().filter_map(|key| key.strip_prefix(&prefix)?.strip_suffix(":meta")?.parse().ok()));
            cursor = next;
            if cursor == 0 {
                found.sort();
                found.dedup();
                return Ok(found);
            }
        }
    }

    /// Jobs per state, in one round trip.
    pub async fn counts(&self, queue: &QueueName) -> Result<QueueCounts, QueueError> {
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        pipe.llen(keys.wait())
            .llen(keys.paused())
            .zcard(keys.prioritized())
            .zcard(keys.delayed())
            .llen(keys.active())
            .zcard(keys.waiting_children())
            .zcard(keys.completed())
            .zcard(keys.failed())
            .hexists(keys.meta(), "paused");
        let (wait, paused_list, prioritized, delayed, active, waiting_children, completed, failed, paused): (
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            bool,
        ) = pipe.query_async(&mut self.connection.get()).await?;
        Ok(QueueCounts {
            waiting: wait + paused_list,
            prioritized,
            delayed,
            active,
            waiting_children,
            completed,
            failed,
            paused,
        })
    }

    /// One job.
    pub async fn job(&self, queue: &QueueName, id: &JobId) -> Result<Option<JobView>, QueueError> {
        let keys = self.keys(queue);
        // In one transaction, so that state and fields belong together: every list and set is asked, since only membership tells.
        let mut pipe = redis::pipe();
        pipe.atomic().hgetall(keys.job_key(id.as_str()));
        for set in [keys.completed(), keys.failed(), keys.delayed(), keys.prioritized(), keys.waiting_children()] {
            pipe.zscore(set, id.as_str());
        }
        for list in [keys.active(), keys.wait(), keys.paused()] {
            pipe.cmd("LPOS").arg(list).arg(id.as_str());
        }
        type Score = Option<f64>;
        type Place = Option<i64>;
        type Reply = (HashMap<String, String>, Score, Score, Score, Score, Score, Place, Place, Place);
        let (fields, completed, failed, delayed, prioritized, children, active, wait, paused): Reply =
            pipe.query_async(&mut self.connection.get()).await?;
        if !fields.contains_key("timestamp") {
            return Ok(None);
        }
        let states = [
            (completed.is_some(), JobState::Completed),
            (failed.is_some(), JobState::Failed),
            (delayed.is_some(), JobState::Delayed),
            (prioritized.is_some(), JobState::Prioritized),
            (children.is_some(), JobState::WaitingChildren),
            (active.is_some(), JobState::Active),
            (wait.is_some() || paused.is_some(), JobState::Waiting),
        ];
        let state = states.into_iter().find_map(|(there, state)| there.then_some(state)).unwrap_or(JobState::Unknown);
        Ok(Some(JobView::new(id.to_string(), state, fields)))
    }

    /// Log lines, oldest first.
    pub async fn job_logs(&self, queue: &QueueName, id: &JobId, most: u64) -> Result<Vec<String>, QueueError> {
        let key = format!("{}:logs", self.keys(queue).job_key(id.as_str()));
        Ok(self.connection.get().lrange(key, 0, most as isize - 1).await?)
    }

    /// Jobs in one state: next to run first, or newest first when finished.
    pub async fn jobs(
        &self,
        queue: &QueueName,
        state: JobState,
        offset: u64,
        limit: u64,
    ) -> Result<Vec<JobView>, QueueError> {
        let keys = self.keys(queue);
        let (from, to) = (offset as isize, (offset + limit) as isize - 1);
        let mut connection = self.connection.get();
        let ids: Vec<String> = match state {
            // Lists are filled from the left and taken from the right.
            JobState::Waiting => connection.lrange(keys.wait(), -to - 1, -from - 1).await?,
            JobState::Active => connection.lrange(keys.active(), -to - 1, -from - 1).await?,
            JobState::Prioritized => connection.zrange(keys.prioritized(), from, to).await?,
            JobState::Delayed => connection.zrange(keys.delayed(), from, to).await?,
            JobState::WaitingChildren => connection.zrange(keys.waiting_children(), from, to).await?,
            JobState::Completed => connection.zrevrange(keys.completed(), from, to).await?,
            JobState::Failed => connection.zrevrange(keys.failed(), from, to).await?,
            JobState::Unknown => return Err(QueueError::Invalid("no list holds jobs in state unknown".into())),
        };
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.hgetall(keys.job_key(id));
        }
        let hashes: Vec<HashMap<String, String>> = pipe.query_async(&mut connection).await?;
        Ok(ids.into_iter().zip(hashes).map(|(id, fields)| JobView::new(id, state, fields)).collect())
    }

    /// Puts a finished job back, with fresh attempts.
    pub async fn retry(&self, queue: &QueueName, id: &JobId) -> Result<(), QueueError> {
        let not_found = || QueueError::NotFound { queue: queue.to_string(), id: id.to_string() };
        let job = self.job(queue, id).await?.ok_or_else(not_found)?;
        let keys = self.keys(queue);
        let (set, property) = match job.state {
            JobState::Failed => (keys.failed(), "failedReason"),
            JobState::Completed => (keys.completed(), "returnvalue"),
            state => return Err(QueueError::WrongState { state }),
        };
        let prev = if job.state == JobState::Failed { "failed" } else { "completed" };
        let code: i64 = Call::new(
            &scripts::REPROCESS,
            &[
                keys.job_key(id.as_str()),
                keys.events(),
                set,
                keys.wait(),
                keys.meta(),
                keys.active(),
                keys.marker(),
                keys.prioritized(),
                keys.pc(),
            ],
        )
        .arg(id.as_str())
        .arg("LPUSH")
        .arg(property)
        .arg(prev)
        .arg("1")
        .arg("0")
        .invoke(&mut self.connection.get())
        .await?;
        match code {
            1 => Ok(()),
            -1 => Err(not_found()),
            _ => Err(QueueError::WrongState {
                state: self.job(queue, id).await?.map_or(JobState::Unknown, |job| job.state),
            }),
        }
    }

    /// Key-value space for guests.
    pub fn kv(&self) -> Kv {
        Kv { connection: self.connection.clone(), prefix: self.config.own_prefix.clone(), memory: self.memory.clone() }
    }

    /// Reads the stream of finished attempts.
    pub fn attempts(&self) -> AttemptReader {
        AttemptReader::new(self.connection.clone(), self.attempts_key())
    }

    pub(crate) fn attempts_key(&self) -> String {
        format!("{}:attempts", self.config.own_prefix)
    }

    /// Works on a queue until the handle is drained.
    pub fn spawn_worker(&self, config: WorkerConfig, handler: Arc<dyn Handler>) -> WorkerHandle {
        WorkerHandle::spawn(self.clone(), config, handler)
    }
}
