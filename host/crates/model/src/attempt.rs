//! The record of one attempt: what Postgres remembers after BullMQ has trimmed the job.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{PluginName, RevisionDigest};
use crate::job::JobKey;
use crate::outcome::OutcomeKind;

/// One finished attempt. Identity: ([`JobKey`], [`started`](Self::started)); recording it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which job.
    pub job: JobKey,
    /// The how-many-eth start of the job this is, from 1. Deferred and stalled runs raise it too (BullMQ's `ats`).
    pub started: u32,
    /// The attempt that the guest was told, from 1. Only counted runs raise it.
    pub attempt: u32,
    /// The job's name.
    pub name: String,
    /// Who ran it; absent when no plugin was reached.
    pub plugin: Option<PluginName>,
    /// Which revision ran it; absent when no plugin was reached.
    pub revision: Option<RevisionDigest>,
    /// The host process, `hostname:pid`.
    pub host: String,
    /// When the call began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// What was done with the job then.
    pub verdict: VerdictKind,
    /// The failure code; absent when completed.
    pub code: Option<String>,
    /// One line for an operator; absent when completed.
    pub message: Option<String>,
    /// The guest's backtrace, function names at least.
    pub stack: Option<String>,
    /// Ties it to the request that caused the job.
    pub correlation_id: String,
}

/// [`Verdict`](crate::retry::Verdict) without its delay: a stable word for storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// The job is done.
    Complete,
    /// It runs again; the attempt counted.
    Retry,
    /// It runs again; the attempt did not count.
    Defer,
    /// It failed for good.
    Fail,
}

impl VerdictKind {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Retry => "retry",
            Self::Defer => "defer",
            Self::Fail => "fail",
        }
    }
}

impl From<crate::retry::Verdict> for VerdictKind {
    fn from(verdict: crate::retry::Verdict) -> Self {
        use crate::retry::Verdict;
        match verdict {
            Verdict::Complete => Self::Complete,
            Verdict::RetryAfter(_) => Self::Retry,
            Verdict::Defer(_) => Self::Defer,
            Verdict::Fail => Self::Fail,
        }
    }
}
