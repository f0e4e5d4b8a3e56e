//! One Redis server: the connection, facts about the server, and its queues.

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

/// Facts about the server, for `patchbay doctor`.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    pub version: String,
    pub aof_enabled: bool,
    pub used_memory: u64,
    /// In bytes; 0 means no limit.
    pub maxmemory: u64,
    pub maxmemory_policy: String,
    pub replicas: u32,
    /// Why Redis cannot serve, or must not be trusted with jobs.
    pub trouble: Option<Trouble>,
    /// This machine's clock minus Redis's clock.
    pub clock_skew_ms: i64,
}

/// All queues of one Redis. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) connection: Connection,
    pub(crate) memory: Memory,
    pub(crate) kills: Arc<Orders>,
    /// Queue defaults from the active manifests.
    defaults: Arc<ArcSwap<HashMap<QueueName, QueueSpec>>>,
    default_zone: Zone,
    pub(crate) unsettled: Arc<Unsettled>,
    pub(crate) stalls: Arc<Stalls>,
}

/// Counts settlements that failed in this process since its start.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// Redis did not answer or refused; the settlement is retried.
    pub tried_again: AtomicU64,
    /// The lock was lost or the job was removed, so another worker or an operator decides about the
    /// job.
    pub lost: AtomicU64,
    /// Redis was down for longer than the lock lasts, so the job runs again.
    pub given_up: AtomicU64,
}

impl Broker {
    /// Fails when Redis does not answer. A server that answers but cannot serve is accepted and
    /// watched, and used once it can serve: see [`Broker::look`].
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

    /// Sets the options for jobs whose producers left them out, from now on and for all clones.
    pub fn set_defaults(&self, specs: HashMap<QueueName, QueueSpec>) {
        self.defaults.store(Arc::new(specs));
    }

    /// Sets the time zone for cron expressions that name none. The default is UTC.
    pub fn with_default_zone(self, default_zone: Zone) -> Self {
        Self {
            default_zone,
            ..self
        }
    }

    /// The time zone of cron expressions that name none.
    pub fn default_zone(&self) -> Zone {
        self.default_zone
    }

    pub fn handled(&self) -> Vec<QueueName> {
        self.defaults.load().keys().cloned().collect()
    }

    /// Fills in the defaults. A queue that no active plugin handles has none.
    pub(crate) fn fill(&self, job: &mut NewJob) {
        if let Some(spec) = self.defaults.load().get(&job.queue) {
            spec.fill_defaults(job, self.now_ms());
        }
    }

    pub(crate) fn keys(&self, queue: &QueueName) -> QueueKeys {
        QueueKeys::new(queue.as_str(), Some(&self.config.prefix))
    }

    pub async fn is_full(&self) -> Result<bool, QueueError> {
        self.memory.is_full().await
    }

    /// The share of `maxmemory` that Redis uses; `None` if there is no such limit.
    pub async fn memory_share(&self) -> Result<Option<f64>, QueueError> {
        self.memory.share().await
    }

    /// Rights that Patchbay needs and Redis's user lacks. Changes nothing.
    pub async fn missing_rights(&self) -> Result<Vec<Right>, QueueError> {
        rights::missing(&self.connection.client(), &self.config).await
    }

    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// Measures a round trip that includes a write without effect.
    pub async fn ping(&self) -> Result<Duration, QueueError> {
        self.connection.ping().await
    }

    /// Checks the connection with such a round trip, and replaces it if the server no longer
    /// serves.
    pub async fn look(&self) -> Standing {
        self.connection.look().await
    }

    /// Unix milliseconds by Redis's clock, which orders everything in Redis. Needs no round trip.
    pub fn now_ms(&self) -> u64 {
        self.connection.now_ms()
    }

    pub async fn server(&self) -> Result<ServerFacts, QueueError> {
        let standing = self.look().await;
        let info: String = redis::cmd("INFO")
            .query_async(&mut self.connection.get())
            .await?;
        let fields: HashMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.trim().split_once(':'))
            .collect();
        let text = |name: &str| {
            fields
                .get(name)
                .map_or(String::new(), |value| (*value).to_owned())
        };
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

    /// Shuts the server down after it has saved its data. For `patchbay dev`, which started it.
    pub async fn shut_server_down(&self) {
        // The server replies by closing the connection.
        let _: redis::RedisResult<()> = redis::cmd("SHUTDOWN")
            .query_async(&mut self.connection.get())
            .await;
    }

    /// Whether Redis has any key of this queue.
    pub async fn exists(&self, queue: &QueueName) -> Result<bool, QueueError> {
        Ok(
            redis::AsyncCommands::exists(&mut self.connection.get(), self.keys(queue).meta())
                .await?,
        )
    }

    /// Every queue that has a key in Redis. Scans all keys, so it is for people, not for every
    /// request.
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
            // A key that is not UTF-8 belongs to no queue.
            let keys = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
            found.extend(keys.filter_map(|key| {
                key.strip_prefix(&prefix)?
                    .strip_suffix(":meta")?
                    .parse()
                    .ok()
            }));
            cursor = next;
            if cursor == 0 {
                found.sort();
                found.dedup();
                return Ok(found);
            }
        }
    }

    pub fn kv(&self) -> Kv {
        Kv {
            connection: self.connection.clone(),
            prefix: self.config.own_prefix.clone(),
            memory: self.memory.clone(),
        }
    }

    pub fn attempts(&self) -> AttemptReader {
        AttemptReader::new(self.connection.clone(), self.attempts_key())
    }

    /// Jobs whose worker was lost, as found by this process recently.
    pub fn stalls(&self) -> &Stalls {
        &self.stalls
    }

    /// Bytes that the stream of attempts uses in Redis, by Redis's own estimate.
    pub async fn attempts_bytes(&self) -> Result<u64, QueueError> {
        let mut command = redis::cmd("MEMORY");
        command.arg("USAGE").arg(self.attempts_key());
        let bytes: Option<u64> = command.query_async(&mut self.connection.get()).await?;
        Ok(bytes.unwrap_or(0))
    }

    /// Number of finished attempts, of all processes, that Postgres does not have yet.
    pub async fn attempts_waiting(&self) -> Result<u64, QueueError> {
        Ok(redis::AsyncCommands::xlen(&mut self.connection.get(), self.attempts_key()).await?)
    }

    /// Age of the oldest of those attempts by Redis's clock, which also dated it; `None` if there
    /// are none.
    pub async fn attempts_waiting_for(&self) -> Result<Option<Duration>, QueueError> {
        let (key, mut connection) = (self.attempts_key(), self.connection.get());
        let mut range = redis::cmd("XRANGE");
        range.arg(&key).arg("-").arg("+").arg("COUNT").arg(1);
        let oldest: redis::streams::StreamRangeReply =
            streams::read(range.query_async(&mut connection).await?)?;
        let now_ms = self.now_ms();
        let since_ms = oldest
            .ids
            .first()
            .and_then(|entry| entry.id.split('-').next()?.parse::<u64>().ok());
        Ok(since_ms.map(|since| Duration::from_millis(now_ms.saturating_sub(since))))
    }

    /// Number of entries that could neither be read nor stored.
    pub async fn attempts_set_aside(&self) -> Result<u64, QueueError> {
        let key = crate::attempt_stream::aside(&self.attempts_key());
        Ok(redis::AsyncCommands::xlen(&mut self.connection.get(), key).await?)
    }

    pub fn unsettled(&self) -> &Unsettled {
        &self.unsettled
    }

    pub(crate) fn attempts_key(&self) -> String {
        format!("{}:attempts", self.config.own_prefix)
    }
}
