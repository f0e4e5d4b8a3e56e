//! Is this process healthy, and is it ready for work?
//!
//! Every answer comes from a real round trip with a time limit. Probes never pile up: all callers share the one in flight.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use patchbay_queue::Queues;
use patchbay_store::{ReadOnly, Store, StoreProbe};

use tracing::{error, info, warn};

use crate::plugins::Plugins;

/// Longest wait for one dependency. Load balancers commonly wait 2 to 5 s; the answer must come before that.
const PROBE_LIMIT: Duration = Duration::from_millis(1_500);
/// For the reason why Postgres does not answer: for the log only.
const WHY_LIMIT: Duration = Duration::from_secs(10);
/// A clock further than this from Redis's makes delays, schedules and locks wrong.
const MAX_SKEW_MS: u64 = 5_000;

/// What one probe saw.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Round trip of a small query; absent when Postgres did not answer in time.
    pub database: Option<Duration>,
    /// Before that, the wait for a connection of the pool.
    pub pool_wait: Option<Duration>,
    /// Why nothing can be written to Postgres, though it answered.
    pub read_only: Option<ReadOnly>,
    /// Round trip of `PING`; absent when Redis did not answer in time.
    pub redis: Option<Duration>,
    /// Our clock minus Redis's, milliseconds.
    pub skew_ms: Option<i64>,
}

impl Probe {
    /// Both answered, and Postgres can be written to.
    pub fn healthy(&self) -> bool {
        self.database.is_some() && self.read_only.is_none() && self.redis.is_some()
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
    /// Postgres answers and takes no change.
    DatabaseReadOnly,
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
            Self::DatabaseReadOnly => "database-read-only",
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
    /// The reasons against being ready that were logged last.
    logged: Mutex<Vec<NotReady>>,
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
            logged: Mutex::default(),
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
                    let nothing =
                        Probe { database: None, pool_wait: None, read_only: None, redis: None, skew_ms: None };
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
            (probe.read_only.is_some(), NotReady::DatabaseReadOnly),
            (probe.redis.is_none(), NotReady::Redis),
            (probe.skew_ms.is_some_and(|skew| skew.unsigned_abs() > MAX_SKEW_MS), NotReady::Skewed),
            (self.plugins.is_stale(), NotReady::Stale),
        ];
        let reasons: Vec<NotReady> =
            reasons.into_iter().filter_map(|(applies, reason)| applies.then_some(reason)).collect();
        self.log_changes(&reasons, probe.read_only);
        reasons
    }

    /// A line each time that the reasons are others than before.
    fn log_changes(&self, reasons: &[NotReady], read_only: Option<ReadOnly>) {
        let before = {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            if *logged == reasons {
                return;
            }
            std::mem::replace(&mut *logged, reasons.to_vec())
        };
        if reasons.is_empty() {
            return info!("this host is ready");
        }
        let codes: Vec<&str> = reasons.iter().map(|reason| reason.code()).collect();
        let codes = codes.join(", ");
        if let Some(read_only) = read_only {
            error!(reasons = codes, "this host is not ready: Postgres may only be read: {read_only}");
        } else if reasons.contains(&NotReady::Database) && !before.contains(&NotReady::Database) {
            let store = self.store.clone();
            tokio::spawn(async move {
                // The probe's own time was too short to hear it from the pool.
                let why = tokio::time::timeout(WHY_LIMIT, store.why_unreachable()).await.ok().flatten();
                let why = why.map_or_else(|| "no answer in time".into(), |why| chain(&why));
                error!(reasons = codes, "this host is not ready: {why}");
            });
        } else {
            warn!(reasons = codes, "this host is not ready");
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn probe(store: Store, queues: Queues) -> Probe {
    let database = async { tokio::time::timeout(PROBE_LIMIT, store.probe()).await.ok()?.ok() };
    let redis = async { tokio::time::timeout(PROBE_LIMIT, queues.ping()).await.ok()?.ok() };
    let skew = async { tokio::time::timeout(PROBE_LIMIT, queues.clock_skew_ms()).await.ok()?.ok() };
    let (database, redis, skew_ms) = tokio::join!(database, redis, skew);
    let database: Option<StoreProbe> = database;
    Probe {
        database: database.map(|seen| seen.round_trip),
        pool_wait: database.map(|seen| seen.waited),
        read_only: database.and_then(|seen| seen.read_only),
        redis,
        skew_ms,
    }
}
