//! The record of one attempt: what Postgres keeps after BullMQ has trimmed the job.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::data_path::DataPath;
use crate::fingerprint::{normalised, normalised_crash};
use crate::id::{PluginName, RevisionDigest};
use crate::job::JobKey;
use crate::outcome::OutcomeKind;

/// One finished attempt. Its identity is ([`JobKey`], [`started`](Self::started)); recording it
/// twice changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub job: JobKey,
    /// Number of this start of the job, from 1, as BullMQ's `ats`: deferred and stalled runs count.
    pub started: u32,
    /// The attempt number that the guest was given, from 1. Only counted runs increase it.
    pub attempt: u32,
    pub name: String,
    /// Absent when no plugin was reached.
    pub plugin: Option<PluginName>,
    /// Absent when no plugin was reached.
    pub revision: Option<RevisionDigest>,
    /// The host process, `hostname:pid`.
    pub host: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub outcome: OutcomeKind,
    pub verdict: VerdictKind,
    /// The failure code; absent when completed.
    pub code: Option<String>,
    /// One line for an operator; absent when completed.
    pub message: Option<String>,
    /// The guest's backtrace; it has at least function names.
    pub stack: Option<String>,
    /// Links the attempt to the request that caused the job.
    pub correlation_id: String,
    /// Who reported the attempt.
    #[serde(default)]
    pub source: Source,
    /// The value of `x-platform` that the job was made under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The parent of a flow's child, as `queue:id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<OutsideCall>,
    /// How often the job had stalled before. How those starts ended is unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stalled: u32,
    /// Path and value, for the paths that the queue's manifest declares searchable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<(DataPath, String)>,
    /// Only with the attempt that ended the job, and only while there is room for it. Not part of
    /// the serialized record: it is sent beside it, unchanged.
    #[serde(skip)]
    pub body: Option<Body>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl AttemptRecord {
    /// The failure that ended the job: its code and normalised message.
    pub fn dead_letter(&self) -> Option<(&str, String)> {
        let code = self
            .code
            .as_deref()
            .filter(|_| self.verdict == VerdictKind::Fail)?;
        let message = self.message.as_deref().unwrap_or_default();
        let text = match self.outcome {
            OutcomeKind::Trapped => normalised_crash(message),
            _ => normalised(message),
        };
        Some((code, text))
    }
}

/// Who reported that an attempt happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The host that ran it.
    #[default]
    Host,
    /// Another worker ran it. This host saw only the final outcome.
    Mirror,
    /// Nobody: a start was counted, but its end never came.
    WorkerLost,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Mirror => "mirror",
            Self::WorkerLost => "worker-lost",
        }
    }
}

/// Most outside calls that are kept of one attempt.
pub const MAX_CALLS: usize = 64;

/// One outside call: that it happened and how it went, never its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutsideCall {
    /// `http` or `mail`. When there were more than [`MAX_CALLS`] calls, the last entry is `more`,
    /// and its result is the number of further calls.
    pub kind: String,
    /// The HTTP method; absent for mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The host, without path and query: those may hold personal data.
    pub host: String,
    /// The HTTP status. For mail, or without an answer, a word such as `timeout`; `unfinished` when
    /// the attempt ended first.
    pub result: String,
    /// Milliseconds from the start of the attempt to the start of the call.
    pub after_ms: u64,
    /// Duration of the call, in milliseconds.
    pub took_ms: u64,
    /// The name of the credential that the plugin has handed over and that the host put into the
    /// call; absent for other calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// JSON as the job's producer wrote it.
    pub data: String,
    /// JSON that the plugin returned.
    pub result: Option<String>,
}

impl Body {
    pub fn bytes(&self) -> usize {
        self.data.len() + self.result.as_ref().map_or(0, String::len)
    }
}

/// [`Verdict`](crate::retry::Verdict) without its delay: a stable word for storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    Complete,
    /// The job runs again; the attempt counted.
    Retry,
    /// The job runs again; the attempt did not count.
    Defer,
    /// The job failed for good.
    Fail,
}

impl VerdictKind {
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
