//! Is this process healthy, and is it ready for work?
//!
//! Every answer comes from a real round trip with a time limit. Probes never pile up: all callers share the one in flight.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use patchbay_queue::Queues;
use patchbay_store::Store;

use crate::plugins::Plugins;

/// Longest wait for one dependency. Load balancers commonly wait 2 to 5 s; the answer must come before that.
const PROBE_LIMIT: Duration = Duration::from_millis(1_500);
/// A clock further than this from Redis's makes delays, schedules and locks wrong.
const MAX_SKEW_MS: u64 = 5_000;

/// What one probe saw.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Round trip of `SELECT 1`; absent when Postgres did not answer in time.
    pub database: Option<Duration>,
    /// Before that, the wait for a connection of the pool.
    pub pool_wait: Option<Duration>,
    /// Round trip of `PING`; absent when Redis did not answer in time.
    pub redis: Option<Duration>,
    /// Our clock minus Redis's, milliseconds.
    pub skew_ms: Option<i64>,
}

impl Probe {
    /// Both answered.
    pub fn healthy(&self) -> bool {
        self.database.is_some() && self.redis.is_some()
    }
}

/// Why a process should get no new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotReady {
    /// It is shutting down.
    Draining,
    /// Postgres does not answer.
    Database,
    /// Redis does not answer.
    Redis,
    /// Its clock is off.
    Skewed,
    /// It may run outdated plugins.
    Stale,
}

impl NotReady {
    /// The stable word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Database => "database",
            Self::Redis => "redis",
            Self::Skewed => "skewed",
            Self::Stale => "stale",
        }
    }
}

/// Health of this process.
pub struct Health {
    store: Store,
    queues: Queues,
    plugins: Arc<Plugins>,
    started: Instant,
    draining: AtomicBool,
    in_flight: Mutex<Option<Shared<BoxFuture<'static, Probe>>>>,
}

impl Health {
    /// Starts the uptime clock.
    pub fn new(store: Store, queues: Queues, plugins: Arc<Plugins>) -> Self {
        Self {
            store,
            queues,
            plugins,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            in_flight: Mutex::default(),
        }
    }

    /// Since the start of the process.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// From now on not ready; there is no way back.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Joins the probe in flight, or starts one.
    pub async fn probe(&self) -> Probe {
        let shared = {
            let mut slot = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.as_ref().filter(|probe| probe.peek().is_none()) {
                Some(running) => running.clone(),
                None => {
                    // A task, so that a caller that goes away does not stop the probe for the others.
                    let task = tokio::spawn(probe(self.store.clone(), self.queues.clone()));
                    let nothing = Probe { database: None, pool_wait: None, redis: None, skew_ms: None };
                    let shared = task.map(move |seen| seen.unwrap_or(nothing)).boxed().shared();
                    *slot = Some(shared.clone());
                    shared
                }
            }
        };
        shared.await
    }

    /// Every reason against giving this process work; empty when it is ready.
    pub async fn not_ready(&self) -> Vec<NotReady> {
        let probe = self.probe().await;
        let reasons = [
            (self.draining.load(Ordering::Relaxed), NotReady::Draining),
            (probe.database.is_none(), NotReady::Database),
            (probe.redis.is_none(), NotReady::Redis),
            (probe.skew_ms.is_some_and(|skew| skew.unsigned_abs() > MAX_SKEW_MS), NotReady::Skewed),
            (self.plugins.is_stale(), NotReady::Stale),
        ];
        reasons.into_iter().filter_map(|(applies, reason)| applies.then_some(reason)).collect()
    }
}

async fn probe(store: Store, queues: Queues) -> Probe {
    let database = async { tokio::time::timeout(PROBE_LIMIT, store.probe()).await.ok()?.ok() };
    let redis = async { tokio::time::timeout(PROBE_LIMIT, queues.ping()).await.ok()?.ok() };
    let skew = async { tokio::time::timeout(PROBE_LIMIT, queues.clock_skew_ms()).await.ok()?.ok() };
    let (database, redis, skew_ms) = tokio::join!(database, redis, skew);
    let (pool_wait, database) = database.unzip();
    Probe { database, pool_wait, redis, skew_ms }
}
