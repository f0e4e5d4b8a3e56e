//! Health and readiness of a host, and its metrics.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::{Bare, File, Media};
use crate::body::NoBody;
use crate::operation::NoQuery;
use crate::operations;

operations! {
    /// Show the health of the process and its dependencies.
    HealthShow = "health.health": GET "/api/health" ((), NoQuery, NoBody) -> Bare<HealthReport>,
        Probe, Reads, errors [503 "Postgres or Redis did not answer, or Postgres takes no change", 500 "the check itself failed"];
    /// Show that the process runs. It checks nothing else: a supervisor must not restart the
    /// process because a database is unavailable.
    HealthLive = "health.live": GET "/livez" ((), NoQuery, NoBody) -> File<Alive>,
        Probe, Reads, errors [];
    /// Show whether this host is ready for work.
    HealthReady = "health.ready": GET "/readyz" ((), NoQuery, NoBody) -> Bare<Readiness>,
        Probe, Reads, errors [
            503 "not ready: draining, a dependency does not answer or is unfit, Postgres accepts no changes, the clock is skewed, or the plugins may be outdated; `details` says what to do",
        ];
    /// Metrics of this host in Prometheus's text format. Only for operators, unless
    /// metrics.require_operator is false.
    MetricsShow = "metrics.show": GET "/metrics" ((), NoQuery, NoBody) -> File<Metrics>,
        ViewerByDefault, Reads, errors [];
}

/// The body of the health check, in the format of the previous backend.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// Whether both dependencies answered, and Postgres accepts changes.
    pub success: bool,
    /// What failed; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Details.
    pub data: HealthData,
}

/// Fields of the previous backend in their previous places; `redis` and the latencies are new.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthData {
    /// Always `OK`, as in the previous backend: the HTTP status carries the result.
    pub status: String,
    /// Current time, ISO 8601.
    pub timestamp: String,
    /// Seconds since the process started.
    pub uptime: f64,
    /// Value of `NODE_ENV`.
    pub environment: String,
    /// State of Postgres.
    pub database: Dependency,
    /// State of Redis.
    pub redis: Dependency,
}

/// A service that the host depends on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// A real round trip succeeded within the time limit.
    pub connected: bool,
    /// `postgresql` or `redis`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Duration of that round trip, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Postgres only: false while it accepts no changes, for example as a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
}

/// Whether this host is ready for work.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Every reason why it is not ready, and background services in trouble (`service-restarting`,
    /// `service-failing`). The latter are no reasons: with these alone it is ready.
    pub details: Vec<NotReady>,
    /// True if there is no reason against it.
    pub ready: bool,
    /// The codes of the reasons.
    pub reasons: Vec<String>,
}

/// A reason why a process should get no new work, or a background service in trouble.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NotReady {
    /// Stable reason code in kebab-case.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do next.
    pub next: String,
}

/// A text that shows that the process runs.
#[derive(Debug)]
pub enum Alive {}

impl Media for Alive {
    const TYPE: &'static str = "text/plain";
    const ABOUT: &'static str = "alive";
}

/// Prometheus's text format.
#[derive(Debug)]
pub enum Metrics {}

impl Media for Metrics {
    const TYPE: &'static str = "text/plain";
    const ABOUT: &'static str = "the metrics";
}

impl Media for HealthReport {
    const TYPE: &'static str = "application/json";
    const ABOUT: &'static str = "Postgres answered and takes changes, and Redis took a write";
}

impl Media for Readiness {
    const TYPE: &'static str = "application/json";
    const ABOUT: &'static str = "ready";
}
