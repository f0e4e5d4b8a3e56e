//! Health of a host, whether to send work to it, and its metrics.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::{Bare, File, Media};
use crate::body::NoBody;
use crate::operation::NoQuery;
use crate::operations;

operations! {
    /// Health of the process and its dependencies.
    HealthShow = "health.health": GET "/api/health" ((), NoQuery, NoBody) -> Bare<HealthReport>,
        Anyone, Reads, errors [503 "Postgres or Redis did not answer, or Postgres takes no change", 500 "the check itself failed"];
    /// The process runs. Touches nothing else: a supervisor must not restart it because a database is away.
    HealthLive = "health.live": GET "/livez" ((), NoQuery, NoBody) -> File<Alive>,
        Anyone, Reads, errors [];
    /// Whether to send work here.
    HealthReady = "health.ready": GET "/readyz" ((), NoQuery, NoBody) -> Bare<Readiness>,
        Anyone, Reads, errors [
            503 "not ready: draining, a dependency away or unfit, Postgres only readable, clock skewed, or stale plugins; `details` says what to do",
        ];
    /// Numbers of this host in Prometheus's text format. For the operator only, unless metrics.require_operator is false.
    MetricsShow = "metrics.show": GET "/metrics" ((), NoQuery, NoBody) -> File<Metrics>,
        OperatorByDefault, Reads, errors [];
}

/// The body of the health check, in the old backend's shape.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// Whether both dependencies answered, and Postgres takes changes.
    pub success: bool,
    /// Only when not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was seen.
    pub data: HealthData,
}

/// Old fields in their old places; `redis` and the latencies are new.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthData {
    /// Always `OK`, as in the old backend: the signal is the HTTP status.
    pub status: String,
    /// Now, ISO 8601.
    pub timestamp: String,
    /// Seconds since start.
    pub uptime: f64,
    /// `NODE_ENV`.
    pub environment: String,
    /// Postgres.
    pub database: Dependency,
    /// Redis.
    pub redis: Dependency,
}

/// What the host depends on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// A real round trip succeeded within its time limit.
    pub connected: bool,
    /// `postgresql` or `redis`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of that round trip, milliseconds.
    pub latency_ms: Option<f64>,
    /// Of Postgres: false while it takes no change, as a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
}

/// Whether to send work to this host.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Every reason against it; and background services in trouble (`service-restarting`, `service-failing`), which are none: a host with
    /// these alone is ready.
    pub details: Vec<NotReady>,
    /// Whether there is no reason against it.
    pub ready: bool,
    /// The codes of the reasons.
    pub reasons: Vec<String>,
}

/// Why a process should get no new work, or what else is wrong with it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NotReady {
    /// Stable, kebab-case.
    pub code: String,
    /// What is the case.
    pub message: String,
    /// What to do next.
    pub next: String,
}

/// A word that says that the process runs.
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
