//! The state of an installation on one screen.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::alerts::Alert;
use crate::answer::Data;
use crate::body::NoBody;
use crate::breakers::BreakerView;
use crate::health::NotReady;
use crate::operation::NoQuery;
use crate::operations;
use crate::queues::{QueueOverview, Reason};

operations! {
    /// Show the state of the installation: health, alerts, queues in trouble, breakers that are not
    /// closed, plugins that do not run, and hosts. What cannot be read now is named in
    /// `unavailable`.
    StatusShow = "status.show": GET "/api/admin/status" ((), NoQuery, NoBody) -> Data<Overview>,
        Viewer, Reads, errors [];
}

/// The state of an installation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The process that answers, as `hostname:pid`.
    pub host: String,
    /// Version of its binary.
    pub version: String,
    /// Whether it is ready for work.
    pub ready: bool,
    /// Why it is not ready, and its background services in trouble.
    pub reasons: Vec<NotReady>,
    /// Alerts that fire, the worst first.
    pub firing: Vec<Alert>,
    /// Number of alerts whose condition is met, but not for long enough; null: unknown now.
    pub pending: Option<usize>,
    /// These alerts.
    #[serde(default)]
    pub pending_alerts: Vec<Alert>,
    /// Number of queues; null: unknown now.
    pub queues: Option<usize>,
    /// Queues that need somebody to look at them, the worst first; at most 20.
    pub queues_in_trouble: Vec<QueueInTrouble>,
    /// Number of further queues in trouble.
    pub more_queues_in_trouble: usize,
    /// Groups of dead letters that are open; null: unknown now.
    pub open_dead_letters: Option<i64>,
    /// Breakers that are not closed, on the process that answers.
    pub breakers: Vec<BreakerView>,
    /// Plugins that take no calls, or not everywhere.
    pub plugins: Vec<PluginTrouble>,
    /// Number of active plugins; null: unknown now.
    pub active_plugins: Option<usize>,
    /// Number of paused schedules; null: unknown now.
    #[serde(default)]
    pub paused_schedules: Option<usize>,
    /// Every process.
    pub hosts: Vec<HostStatus>,
    /// What could not be read, with the reason: `alerts`, `queues`, `failures` (of jobs in the last
    /// hour), `dead-letters`, `plugins`, `schedules` or `hosts`.
    pub unavailable: Vec<Unavailable>,
}

/// A queue that needs somebody to look at it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueInTrouble {
    /// State of the queue in Redis.
    pub overview: QueueOverview,
    /// Jobs that failed for good in the last hour, have not run since, and were neither acknowledged
    /// nor removed.
    pub failed_last_hour: i64,
    /// Jobs in the failed state that are in acknowledged groups of dead letters.
    #[serde(default)]
    pub acknowledged: u64,
    /// Why it makes no progress; see `queues.why`.
    pub reasons: Vec<Reason>,
}

/// A plugin that takes no calls, or not everywhere.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PluginTrouble {
    /// Name of the plugin.
    pub name: String,
    /// `inactive`, `quarantined`, `failing` or `behind` (some hosts do not run its revision).
    pub state: String,
    /// Details in words.
    pub reason: String,
}

/// A process.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// `hostname:pid`.
    pub host: String,
    /// Version of its binary.
    pub version: String,
    /// Seconds since its last sign of life, if it is silent: it was killed, or it is cut off.
    pub silent_s: Option<u64>,
}

/// A part of the state that cannot be read now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Unavailable {
    /// The part.
    pub part: String,
    /// Why.
    pub reason: String,
}
