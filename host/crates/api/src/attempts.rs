//! Attempts as the history keeps them.

use chrono::{DateTime, Utc};
use patchbay_model::attempt::OutsideCall;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A finished attempt.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Attempt {
    /// Which start of the job this was, from 1. Starts that did not count as attempts are included.
    pub started: i32,
    /// Number of the attempt, from 1.
    pub attempt: i32,
    /// Name of the job.
    pub name: String,
    /// Name of the plugin; absent if no plugin was reached.
    pub plugin: Option<String>,
    /// Digest of the revision.
    pub revision: Option<String>,
    /// The process that ran it, `hostname:pid`.
    pub host: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    /// `completed`, `failed`, `trapped`, `deadline`, `memory-limit`, `invalid-result` or
    /// `host-fault`.
    pub outcome: String,
    /// What was done with the job afterwards: `complete`, `retry`, `defer` or `fail`.
    pub verdict: String,
    /// Error code of the failure.
    pub code: Option<String>,
    /// Error message of the failure.
    pub message: Option<String>,
    /// The plugin's backtrace, if its code trapped.
    pub stack: Option<String>,
    /// Correlation id of the request that caused the job.
    pub correlation_id: String,
    /// Who recorded the attempt: `host`, `mirror` (observed from outside) or `worker-lost` (no end
    /// was reported).
    pub source: String,
    pub platform: Option<String>,
    /// For a child in a flow: its parent, as `queue:id`.
    pub parent: Option<String>,
    /// Outside calls in their order.
    pub calls: Option<Vec<OutsideCall>>,
    /// When an erasure removed its data, message, backtrace and calls.
    pub erased_at: Option<DateTime<Utc>>,
}
