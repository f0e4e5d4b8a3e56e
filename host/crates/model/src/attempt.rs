//! The record of one attempt: what Postgres remembers after BullMQ has trimmed the job.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::data_path::DataPath;
use crate::fingerprint::normalised;
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
    /// Who says so.
    #[serde(default)]
    pub source: Source,
    /// The value of `x-platform` that the job was made under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Of a flow's child: the parent, as `queue:id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Outside calls in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<OutsideCall>,
    /// How often the job had stalled before: of so many starts nobody tells the end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stalled: u32,
    /// What the job is found by: path and value, of the paths that its queue's manifest declares searchable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<(DataPath, String)>,
    /// With the attempt that ended the job, and only while there is room for it. It travels beside the rest, as it is.
    #[serde(skip)]
    pub body: Option<Body>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl AttemptRecord {
    /// The failure that ended the job: its code and normalised message.
    pub fn dead_letter(&self) -> Option<(&str, String)> {
        let code = self.code.as_deref().filter(|_| self.verdict == VerdictKind::Fail)?;
        Some((code, normalised(self.message.as_deref().unwrap_or_default())))
    }
}

/// Who says that an attempt happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The host that ran it.
    #[default]
    Host,
    /// Another worker ran it; seen from outside, final outcomes only.
    Mirror,
    /// Nobody: a start was counted and its end never came.
    WorkerLost,
}

impl Source {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Mirror => "mirror",
            Self::WorkerLost => "worker-lost",
        }
    }
}

/// Most outside calls that are remembered of one attempt.
pub const MAX_CALLS: usize = 64;

/// One call to the outside: that it happened and how it went, never what was said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutsideCall {
    /// `http` or `mail`; `more` stands last for those beyond [`MAX_CALLS`], whose number is its result.
    pub kind: String,
    /// For HTTP the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The host, without path and query: those may hold personal data.
    pub host: String,
    /// For HTTP the status; else, or without an answer, a word such as `timeout`;
    /// `unfinished` when the attempt ended before it.
    pub result: String,
    /// From the start of the attempt.
    pub after_ms: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// What a job was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Its data: JSON as its producer wrote it.
    pub data: String,
    /// What it returned: JSON.
    pub result: Option<String>,
}

impl Body {
    /// Data and result.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.result.as_ref().map_or(0, String::len)
    }
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
