//! One Redis: connection, facts about it, and its queues.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use bullmq::QueueKeys;
use patchbay_model::QueueName;
use patchbay_model::job::NewJob;
use patchbay_model::manifest::QueueSpec;
use patchbay_model::schedule::Zone;

use crate::access::RedisConfig;
use crate::connection::{Connection, Standing};
use crate::memory::Memory;
use crate::orders::Orders;
use crate::rights::{self, Right};
use crate::stalled_jobs::Stalls;
use crate::streams;
use crate::{AttemptReader, Kv, QueueError, Trouble};

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
    pub replicas: u32,
    /// Why it cannot serve, or is not to be trusted with jobs.
    pub trouble: Option<Trouble>,
    /// Our clock minus Redis's.
    pub clock_skew_ms: i64,
}

/// All queues of one Redis. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) connection: Connection,
    pub(crate) memory: Memory,
    pub(crate) kills: Arc<Orders>,
    /// What the active manifests say of queues.
    defaults: Arc<ArcSwap<HashMap<QueueName, QueueSpec>>>,
    default_zone: Zone,
    pub(crate) unsettled: Arc<Unsettled>,
    pub(crate) stalls: Arc<Stalls>,
}

/// Settlements of this process that did not happen, since its start.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// Redis did not answer or refused; it is tried again.
    pub tried_again: AtomicU64,
    /// The lock was lost or the job removed: somebody else decides about it.
    pub lost: AtomicU64,
    /// Redis was away for longer than the lock lasts: the job runs again.
    pub given_up: AtomicU64,
}

impl Broker {
    /// Connects; fails when Redis is away. One that answers and cannot serve is watched, and used once it can: see [`Broker::look`].
    pub async fn connect(config: RedisConfig) -> Result<Self, QueueError> {
        let connection = Connection::open(&config).await?;
        let memory = Memory::new(connection.clone());
        Ok(Self {
            config: Arc::new(config),
            connection,
            memory,
            kills: Arc::default(),
            defaults: Arc::default(),
            default_zone: Zone::UTC,
            unsettled: Arc::default(),
            stalls: Arc::default(),
        })
    }

    /// What jobs get whose producers left it out, from now on and for all clones.
    pub fn set_defaults(&self, specs: HashMap<QueueName, QueueSpec>) {
        self.defaults.store(Arc::new(specs));
    }

    /// With the zone of cron expressions that name none, instead of UTC.
    pub fn with_default_zone(self, default_zone: Zone) -> Self {
        Self { default_zone, ..self }
    }

    /// The zone of cron expressions that name none.
    pub fn default_zone(&self) -> Zone {
        self.default_zone
    }

    /// Broker that active plugins handle.
    pub fn handled(&self) -> Vec<QueueName> {
        self.defaults.load().keys().cloned().collect()
    }

    /// Broker that no active plugin handles have no defaults.
    pub(crate) fn fill(&self, job: &mut NewJob) {
        if let Some(spec) = self.defaults.load().get(&job.queue) {
            spec.fill_defaults(job, self.now_ms());
        }
    }

    pub(crate) fn keys(&self, queue: &QueueName) -> QueueKeys {
        QueueKeys::new(queue.as_str(), Some(&self.config.prefix))
    }

    /// Whether Redis is so full that new jobs are refused.
    pub async fn is_full(&self) -> Result<bool, QueueError> {
        self.memory.is_full().await
    }

    /// Share of its memory limit that Redis uses; nothing when it has none.
    pub async fn memory_share(&self) -> Result<Option<f64>, QueueError> {
        self.memory.share().await
    }

    /// What Redis's user may not do and Patchbay does. Changes nothing.
    pub async fn missing_rights(&self) -> Result<Vec<Right>, QueueError> {
        rights::missing(&self.connection.client(), &self.config).await
    }

    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// A round trip that includes a write of nothing.
    pub async fn ping(&self) -> Result<Duration, QueueError> {
        self.connection.ping().await
    }

    /// How this process stands with Redis, by such a round trip; a connection that serves no more is replaced.
    pub async fn look(&self) -> Standing {
        self.connection.look().await
    }

    /// Milliseconds since 1970 by Redis's clock, which orders everything in it; known without a round trip.
    pub fn now_ms(&self) -> u64 {
        self.connection.now_ms()
    }

    /// Facts about the server.
    pub async fn server(&self) -> Result<ServerFacts, QueueError> {
        let standing = self.look().await;
        let info: String = redis::cmd("INFO").query_async(&mut self.connection.get()).await?;
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let text = |name: &str| fields.get(name).map_or(String::new(), |value| (*value).to_owned());
        Ok(ServerFacts {
            version: text("redis_version"),
            aof_enabled: text("aof_enabled") == "1",
            used_memory: text("used_memory").parse().unwrap_or(0),
            maxmemory: text("maxmemory").parse().unwrap_or(0),
            maxmemory_policy: text("maxmemory_policy"),
            replicas: text("connected_slaves").parse().unwrap_or(0),
            clock_skew_ms: standing.skew_ms.unwrap_or(0),
            trouble: standing.trouble,
        })
    }

    /// Ends the server, saving what it holds; for `patchbay dev`, which started it.
    pub async fn shut_server_down(&self) {
        // The reply is the end of the connection.
        let _: redis::RedisResult<()> = redis::cmd("SHUTDOWN").query_async(&mut self.connection.get()).await;
    }

    /// Whether the queue has left a trace in Redis.
    pub async fn exists(&self, queue: &QueueName) -> Result<bool, QueueError> {
        Ok(redis::AsyncCommands::exists(&mut self.connection.get(), self.keys(queue).meta()).await?)
    }

    /// Every queue that has left a trace in Redis. Looks through all keys: for people, not for every request.
    pub async fn list(&self) -> Result<Vec<QueueName>, QueueError> {
        let pattern = format!("{}:*:meta", self.config.prefix);
        let mut connection = self.connection.get();
        let mut found = Vec::new();
        let mut cursor = 0u64;
        loop {
            let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(1_000)
                .query_async(&mut connection)
                .await?;
            let prefix = format!("{}:", self.config.prefix);
            // What is no text is no queue's name.
            let keys = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
            found.extend(keys.filter_map(|key| key.strip_prefix(&prefix)?.strip_suffix(":meta")?.parse().ok()));
            cursor = next;
            if cursor == 0 {
                found.sort();
                found.dedup();
                return Ok(found);
            }
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

    /// Jobs whose worker was lost, as this process found them lately.
    pub fn stalls(&self) -> &Stalls {
        &self.stalls
    }

    /// What they take up in Redis, in bytes: an estimate of its own.
    pub async fn attempts_bytes(&self) -> Result<u64, QueueError> {
        let mut command = redis::cmd("MEMORY");
        command.arg("USAGE").arg(self.attempts_key());
        let bytes: Option<u64> = command.query_async(&mut self.connection.get()).await?;
        Ok(bytes.unwrap_or(0))
    }

    /// Finished attempts that Postgres does not have yet, of all processes.
    pub async fn attempts_waiting(&self) -> Result<u64, QueueError> {
        Ok(redis::AsyncCommands::xlen(&mut self.connection.get(), self.attempts_key()).await?)
    }

    /// The age of the oldest of them; nothing when there is none. By Redis's clock, which has dated it.
    pub async fn attempts_waiting_for(&self) -> Result<Option<Duration>, QueueError> {
        let (key, mut connection) = (self.attempts_key(), self.connection.get());
        let mut range = redis::cmd("XRANGE");
        range.arg(&key).arg("-").arg("+").arg("COUNT").arg(1);
        let oldest: redis::streams::StreamRangeReply = streams::read(range.query_async(&mut connection).await?)?;
        let now_ms = self.now_ms();
        let since_ms = oldest.ids.first().and_then(|entry| entry.id.split('-').next()?.parse::<u64>().ok());
        Ok(since_ms.map(|since| Duration::from_millis(now_ms.saturating_sub(since))))
    }

    /// Entries that could neither be read nor kept.
    pub async fn attempts_set_aside(&self) -> Result<u64, QueueError> {
        let key = crate::attempt_stream::aside(&self.attempts_key());
        Ok(redis::AsyncCommands::xlen(&mut self.connection.get(), key).await?)
    }

    /// Settlements that did not happen.
    pub fn unsettled(&self) -> &Unsettled {
        &self.unsettled
    }

    pub(crate) fn attempts_key(&self) -> String {
        format!("{}:attempts", self.config.own_prefix)
    }
}
