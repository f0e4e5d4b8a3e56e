//! Attempts as the history remembers them.

use chrono::{DateTime, Utc};
use patchbay_model::attempt::OutsideCall;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A finished attempt.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Attempt {
    /// Which start of the job this was, from 1; also starts that did not count as attempts.
    pub started: i32,
    /// Which attempt, from 1.
    pub attempt: i32,
    /// Of the job.
    pub name: String,
    /// Absent when no plugin was reached.
    pub plugin: Option<String>,
    /// The revision's digest.
    pub revision: Option<String>,
    /// The process that ran it, `hostname:pid`.
    pub host: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    /// `completed`, `failed`, `trapped`, `deadline`, `memory-limit`, `invalid-result` or `host-fault`.
    pub outcome: String,
    /// What was done with the job then: `complete`, `retry`, `defer` or `fail`.
    pub verdict: String,
    /// Of the failure.
    pub code: Option<String>,
    /// Of the failure.
    pub message: Option<String>,
    /// The plugin's backtrace, where its code trapped.
    pub stack: Option<String>,
    /// Of the request that caused the job.
    pub correlation_id: String,
    /// Who says so: `host`, `mirror` (seen from outside) or `worker-lost` (nobody told its end).
    pub source: String,
    pub platform: Option<String>,
    /// Of a flow's child: the parent, as `queue:id`.
    pub parent: Option<String>,
    /// Calls to the outside, in their order.
    pub calls: Option<Vec<OutsideCall>>,
    /// When an erasure took its data, message, backtrace and calls.
    pub erased_at: Option<DateTime<Utc>>,
}
