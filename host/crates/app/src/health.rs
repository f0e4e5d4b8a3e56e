//! Is this process healthy, and is it ready for work?
//!
//! Every answer comes from a real round trip with a time limit. Probes never pile up: all callers
//! share the one in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use patchbay_api::health::{self as api, Dependency, HealthData, HealthReport, Readiness};
use patchbay_queue::{Broker, MAX_CLOCK_SKEW_MS, Standing, Trouble};
use patchbay_store::{ReadOnly, Store, StoreProbe};
use tracing::{error, info, warn};

use crate::Parts;
use crate::plugins::Plugins;
use crate::service::{ServiceStatus, ServiceTrouble};

/// Longest wait for one dependency. Load balancers commonly wait 2 to 5 s; the answer must come
/// before that.
const PROBE_LIMIT: Duration = Duration::from_millis(1_500);
/// For the reason why Postgres does not answer: for the log only.
const WHY_LIMIT: Duration = Duration::from_secs(10);

/// More than NTP leaves, less than does harm; beyond [`MAX_CLOCK_SKEW_MS`] the host takes no jobs.
const SKEW_TO_WARN_ABOUT_MS: i64 = 500;

#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// Round trip of a small query; absent when Postgres did not answer in time.
    pub database: Option<Duration>,
    /// Before that, the wait for a connection of the pool.
    pub pool_wait: Option<Duration>,
    /// Why nothing can be written to Postgres, though it answered.
    pub read_only: Option<ReadOnly>,
    /// Round trip with a write; absent when Redis did not answer in time, or cannot serve.
    pub redis: Option<Duration>,
    /// Why it cannot serve, or is not to be trusted with jobs.
    pub redis_trouble: Option<Trouble>,
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
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NotReady {
    /// Stable, kebab-case.
    pub code: &'static str,
    /// What is the case.
    pub message: String,
    pub next: String,
}

/// The code of a process that is shutting down, which is no trouble.
pub const DRAINING: &str = "draining";

impl NotReady {
    fn new(code: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            next: next.into(),
        }
    }

    fn redis(trouble: &Trouble) -> Self {
        // One code for whatever keeps Redis from serving; the message tells which.
        let code = if trouble.serves() {
            "redis-evicts"
        } else {
            "redis"
        };
        Self::new(code, trouble.to_string(), trouble.next())
    }
}

/// Services in trouble, for the details of /readyz. They are no reasons against readiness: see
/// [`crate::service`].
fn of_services(troubles: &[(&'static str, ServiceTrouble)], depends: bool) -> Vec<api::NotReady> {
    let view = |(service, trouble): &(&str, ServiceTrouble)| match trouble {
        ServiceTrouble::Ends { times, last_ago } => Some(api::NotReady {
            code: "service-restarting".into(),
            message: format!(
                "The background service {service} has ended unexpectedly {}, the last time {} s ago. It is restarted by itself",
                if *times == 1 {
                    "once".to_owned()
                } else {
                    format!("{times} times in a row")
                },
                last_ago.as_secs(),
            ),
            next: format!(
                "Look for the service {service} in this host's log, and report what it says"
            ),
        }),
        // What it needs is away, which is said already.
        ServiceTrouble::Fails(_) if depends => None,
        ServiceTrouble::Fails(what) => Some(api::NotReady {
            code: "service-failing".into(),
            message: format!(
                "The background service {service} fails: {what}. It tries again by itself"
            ),
            next: format!("Look in this host's log for: {what}"),
        }),
    };
    troubles.iter().filter_map(view).collect()
}

/// What probes and people ask about this process.
#[derive(Clone)]
pub struct HealthCheck {
    health: Arc<Health>,
    environment: Arc<str>,
}

impl HealthCheck {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            health: Arc::clone(&parts.health),
            environment: Arc::clone(&parts.environment),
        }
    }

    /// Whether Postgres and Redis answer. A fault of the check itself counts as no answer.
    pub async fn report(&self) -> HealthReport {
        let probe = self.health.probe().await;
        let is_healthy = probe.healthy();
        HealthReport {
            success: is_healthy,
            message: (!is_healthy).then(|| "Service unavailable".to_owned()),
            data: HealthData {
                status: "OK".into(),
                timestamp: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
                uptime: self.health.uptime().as_secs_f64(),
                environment: self.environment.to_string(),
                database: dependency(
                    "postgresql",
                    probe.database,
                    probe.database.map(|_| probe.read_only.is_none()),
                ),
                redis: dependency("redis", probe.redis, None),
            },
        }
    }

    /// Whether to send work here.
    pub async fn readiness(&self) -> Readiness {
        let view = |NotReady {
                        code,
                        message,
                        next,
                    }| api::NotReady {
            code: code.to_owned(),
            message,
            next,
        };
        let mut details: Vec<api::NotReady> = self
            .health
            .not_ready()
            .await
            .into_iter()
            .map(view)
            .collect();
        let reasons: Vec<String> = details.iter().map(|reason| reason.code.clone()).collect();
        let depends = reasons.iter().any(|code| code != DRAINING);
        details.extend(of_services(&self.health.services.troubles(), depends));
        Readiness {
            ready: reasons.is_empty(),
            reasons,
            details,
        }
    }
}

fn dependency(kind: &str, round_trip: Option<Duration>, writable: Option<bool>) -> Dependency {
    let latency_ms = round_trip.map(|time| time.as_secs_f64() * 1e3);
    Dependency {
        connected: round_trip.is_some(),
        kind: kind.into(),
        latency_ms,
        writable,
    }
}

/// Health of this process.
pub struct Health {
    store: Store,
    queues: Broker,
    plugins: Arc<Plugins>,
    services: Arc<ServiceStatus>,
    started: Instant,
    draining: AtomicBool,
    in_flight: Mutex<Option<Shared<BoxFuture<'static, Probe>>>>,
    /// The codes of the reasons against being ready that were logged last.
    logged: Mutex<Vec<&'static str>>,
}

impl Health {
    /// Starts the uptime clock.
    pub fn new(
        store: Store,
        queues: Broker,
        plugins: Arc<Plugins>,
        services: Arc<ServiceStatus>,
    ) -> Self {
        Self {
            store,
            queues,
            plugins,
            services,
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
            let mut slot = self.in_flight.lock();
            match slot.as_ref().filter(|probe| probe.peek().is_none()) {
                Some(running) => running.clone(),
                None => {
                    // A task, so that a caller that goes away does not stop the probe for the
                    // others.
                    let task = tokio::spawn(probe(self.store.clone(), self.queues.clone()));
                    let shared = task.map(Result::unwrap_or_default).boxed().shared();
                    *slot = Some(shared.clone());
                    shared
                }
            }
        };
        shared.await
    }

    /// Every reason against giving this process work; empty when it is ready.
    pub async fn not_ready(&self) -> Vec<NotReady> {
        let mut probe = self.probe().await;
        if probe.redis.is_none() && probe.redis_trouble.is_none() {
            probe.redis_trouble = Some(Trouble::Away);
        }
        let skew_ms = probe
            .skew_ms
            .filter(|skew| skew.unsigned_abs() > MAX_CLOCK_SKEW_MS);
        let reasons = [
            self.draining
                .load(Ordering::Relaxed)
                .then(|| NotReady::new(DRAINING, "This host is shutting down", "nothing")),
            probe.database.is_none().then(|| {
                NotReady::new("database", "Postgres does not answer", "Check that it runs and can be reached")
            }),
            probe.read_only.map(|read_only| {
                let message = format!("Postgres accepts no changes: {read_only}");
                NotReady::new("database-read-only", message, "Run patchbay doctor: it says what to do. Work continues by itself")
            }),
            probe.redis_trouble.as_ref().map(NotReady::redis),
            skew_ms.map(|skew_ms| {
                let message = format!(
                    "This machine's clock is {} s {} Redis's; from {} s on, no jobs are taken",
                    skew_ms.unsigned_abs().div_ceil(1_000),
                    if skew_ms > 0 { "ahead of" } else { "behind" },
                    MAX_CLOCK_SKEW_MS / 1_000,
                );
                NotReady::new("skewed", message, "Synchronise both machines with NTP. Work continues by itself")
            }),
            self.plugins.is_stale().then(|| {
                let message = "This host has not read the active plugins from Postgres for 15 s: it may run outdated revisions";
                NotReady::new("stale", message, "Run patchbay doctor on its machine")
            }),
        ];
        let reasons: Vec<NotReady> = reasons.into_iter().flatten().collect();
        self.log_changes(&reasons, probe.read_only);
        reasons
    }

    /// A line each time that the reasons are others than before.
    fn log_changes(&self, reasons: &[NotReady], read_only: Option<ReadOnly>) {
        // Without the messages, whose numbers change.
        let now: Vec<&'static str> = reasons.iter().map(|reason| reason.code).collect();
        let before = {
            let mut logged = self.logged.lock();
            if *logged == now {
                return;
            }
            std::mem::replace(&mut *logged, now.clone())
        };
        if reasons.is_empty() {
            return info!("this host is ready");
        }
        let codes = now.join(", ");
        if let Some(read_only) = read_only {
            error!(
                reasons = codes,
                "this host is not ready: Postgres accepts no changes: {read_only}"
            );
        } else if now.contains(&"database") && !before.contains(&"database") {
            let store = self.store.clone();
            tokio::spawn(async move {
                // The probe's own time was too short to hear it from the pool.
                let why = tokio::time::timeout(WHY_LIMIT, store.why_unreachable())
                    .await
                    .ok()
                    .flatten();
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
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

async fn probe(store: Store, queues: Broker) -> Probe {
    let database = async {
        tokio::time::timeout(PROBE_LIMIT, store.probe())
            .await
            .ok()?
            .ok()
    };
    let redis = async {
        let away = Standing {
            trouble: Some(Trouble::Away),
            ..Standing::default()
        };
        tokio::time::timeout(PROBE_LIMIT, queues.look())
            .await
            .unwrap_or(away)
    };
    let (database, redis) = tokio::join!(database, redis);
    let database: Option<StoreProbe> = database;
    Probe {
        database: database.map(|seen| seen.round_trip),
        pool_wait: database.map(|seen| seen.waited),
        read_only: database.and_then(|seen| seen.read_only),
        redis: redis.round_trip.filter(|_| redis.serves()),
        skew_ms: redis.skew_ms,
        redis_trouble: redis.trouble,
    }
}

/// What Redis orders goes by its clock; what Postgres and plugins are told goes by this machine's.
pub async fn warn_about_skew(queues: &Broker) {
    if let Some(skew_ms) = queues
        .look()
        .await
        .skew_ms
        .filter(|skew| skew.abs() > SKEW_TO_WARN_ABOUT_MS)
    {
        warn!(
            skew_ms,
            "this machine's clock differs from Redis's: synchronise both with NTP"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_keeps_ending_is_named_in_the_details_with_what_to_do() {
        let ends = ServiceTrouble::Ends {
            times: 3,
            last_ago: Duration::from_secs(7),
        };
        let details = of_services(&[("mirror", ends)], true);
        assert_eq!(details.len(), 1);
        assert_eq!(details[0].code, "service-restarting");
        assert_eq!(
            details[0].message,
            "The background service mirror has ended unexpectedly 3 times in a row, the last time 7 s ago. It is restarted by itself"
        );
        assert!(
            details[0]
                .next
                .contains("the service mirror in this host's log"),
            "{}",
            details[0].next
        );
    }

    #[test]
    fn a_service_that_fails_since_postgres_is_away_is_not_named_beside_that() {
        let fails = [(
            "bulk",
            ServiceTrouble::Fails("bulk operations make no progress"),
        )];
        assert!(of_services(&fails, true).is_empty());
        let details = of_services(&fails, false);
        assert_eq!(
            details
                .iter()
                .map(|detail| detail.code.as_str())
                .collect::<Vec<_>>(),
            ["service-failing"]
        );
        assert!(
            details[0]
                .message
                .contains("bulk operations make no progress"),
            "{}",
            details[0].message
        );
    }
}
