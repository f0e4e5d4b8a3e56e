//! One job's life, also after Redis has forgotten it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use patchbay_model::attempt::OutsideCall;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::Data;
use crate::body::NoBody;
use crate::jobs::JobPath;
use crate::operations;
use crate::reveal::Reveal;

operations! {
    /// Show a job's life: who made it, every attempt with its outside calls, what operators, bulk operations and plugins did, and what is left
    /// in Redis. An id that was used again has several.
    JobsTimeline = "jobs.timeline": GET "/api/admin/queues/{queue}/jobs/{id}/timeline" (JobPath, Reveal, NoBody) -> Data<Timeline>,
        Operator, Reads, audit "job.reveal", errors [];
}

/// All lives under one id, the oldest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// Of the job.
    pub queue: String,
    /// Its id.
    pub id: String,
    /// One per job that had this id.
    pub lives: Vec<Life>,
}

/// From being made to what is left of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Life {
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
    /// Its kind.
    pub name: String,
    /// Of the request that caused it.
    pub correlation_id: Option<String>,
    /// What that was made under.
    pub platform: Option<String>,
    /// `queue:id`.
    pub parent: Option<String>,
    /// By `queue:id`, how far they are.
    pub children: BTreeMap<String, String>,
    /// Other jobs of the same request, and how their newest attempt ended.
    pub same_request: BTreeMap<String, String>,
    /// In the order of their beginning.
    pub events: Vec<Event>,
    /// Lines of the job's log that bear no time: in their order, and as long as Redis has the job.
    pub logs: Vec<String>,
    /// Its state in Redis; absent: Redis has forgotten it.
    pub state: Option<String>,
}

/// Something that happened to a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// When it began.
    pub at: DateTime<Utc>,
    /// What it was.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened to a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
// A timeline has hundreds of events at most, and most are attempts.
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum EventKind {
    /// The job was made.
    Added,
    /// It ran.
    Attempt {
        started: i32,
        attempt: i32,
        #[serde(rename = "endedAt")]
        ended_at: DateTime<Utc>,
        /// Since it was made, the attempt before ended, or an operator put it back; absent when nobody knows who put it back.
        #[serde(rename = "waitedMs", default, skip_serializing_if = "Option::is_none")]
        waited_ms: Option<i64>,
        #[serde(rename = "tookMs")]
        took_ms: i64,
        host: String,
        plugin: Option<String>,
        revision: Option<String>,
        version: Option<String>,
        outcome: String,
        /// What came of it: complete, retry, defer or fail.
        verdict: String,
        code: Option<String>,
        message: Option<String>,
        /// Of the plugin's code, where it trapped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stack: Option<String>,
        /// Outside calls: what, where, how they ended and how long they took.
        calls: Vec<OutsideCall>,
        /// Who says so: the host that ran it, or somebody who saw it from outside.
        source: String,
    },
    /// It was started, and the end of that never came: its worker is gone.
    WorkerLost { started: i32, host: String },
    /// An operator did something to it.
    Operator { actor: String, action: String, error: Option<String> },
    /// A bulk operation did something to it.
    Bulk {
        bulk: i64,
        /// `retry`, `remove`, `enqueue-again` or `edit-and-retry`.
        action: String,
        actor: String,
        /// `pending`, `done`, `skipped`, `failed`, `restored` or `lost`.
        state: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Id of the job that was added.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        added: Option<String>,
        /// Id of the job that this one was added like.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        like: Option<String>,
    },
    /// A plugin wrote into an audit trail.
    Audit {
        trail: String,
        #[serde(rename = "entryKey")]
        entry_key: String,
        plugin: String,
        /// The job that wrote it, where it is another one of the same request.
        by: Option<String>,
    },
    /// Its data was erased; the others of its events stay.
    Erased { actor: String, reason: String, erasure: i64 },
    /// It wrote a line with a time into its log.
    Log { line: String },
}
