//! The timeline of a job, even after Redis has forgotten the job.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use patchbay_model::attempt::OutsideCall;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::answer::Data;
use crate::body::NoBody;
use crate::jobs::JobPath;
use crate::operations;
use crate::reveal::Reveal;

operations! {
    /// Show the timeline of a job: who added it, every attempt with its outside calls, actions of
    /// operators, bulk operations and plugins, and its state in Redis. An id that was used again
    /// has several lives.
    JobsTimeline = "jobs.timeline": GET "/api/admin/queues/{queue}/jobs/{id}/timeline" (JobPath, Reveal, NoBody) -> Data<Timeline>,
        Viewer, Reads, audit "job.reveal", data Shown(&["line", "logs", "message", "stack"]), errors [];
}

/// The timeline of an id: all jobs that had it, the oldest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// Queue of the job.
    pub queue: String,
    /// Id of the job.
    pub id: String,
    /// One entry per job that had this id.
    pub lives: Vec<Life>,
}

/// The life of one job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Life {
    /// When the job was created.
    pub created_at: Option<DateTime<Utc>>,
    /// Name of the job.
    pub name: String,
    /// Correlation id of the request that caused it.
    pub correlation_id: Option<String>,
    /// Platform of that request (header `x-platform`).
    pub platform: Option<String>,
    /// Parent in a flow, as `queue:id`.
    pub parent: Option<String>,
    /// Children in a flow, with their states, by `queue:id`.
    pub children: BTreeMap<String, String>,
    /// Other jobs of the same request, with the outcome of their newest attempt.
    pub same_request: BTreeMap<String, String>,
    /// Events in the order of their start.
    pub events: Vec<Event>,
    /// Lines of the job's log without a time, in their order; only while Redis has the job.
    pub logs: Vec<String>,
    /// State in Redis; absent if Redis has forgotten the job.
    pub state: Option<String>,
}

/// An event in the life of a job. One of a kind that this version does not know is read, too: see
/// [`EventKind::Other`].
#[derive(Debug, Serialize, ToSchema)]
pub struct Event {
    /// When it started.
    pub at: DateTime<Utc>,
    /// Kind of event.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::<String, Value>::deserialize(deserializer)?;
        let at = fields.remove("at").ok_or(D::Error::missing_field("at"))?;
        let at = DateTime::deserialize(at).map_err(D::Error::custom)?;
        let kind = EventKind::deserialize(Value::Object(fields.clone()));
        let kind = kind.unwrap_or_else(|_| {
            let kind = fields.remove("kind");
            EventKind::Other {
                kind: kind
                    .as_ref()
                    .and_then(Value::as_str)
                    .unwrap_or("unknown")
                    .to_owned(),
                fields,
            }
        });
        Ok(Self { at, kind })
    }
}

/// The kinds of events.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
// A timeline has hundreds of events at most, and most are attempts.
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum EventKind {
    /// The job was added.
    Added,
    /// An attempt.
    Attempt {
        /// Number of the attempt in this life, from 1: goes on when the job is retried.
        #[serde(default)]
        number: i32,
        /// BullMQ's number of this start.
        started: i32,
        /// BullMQ's number of the attempt: begins at 1 again when the job is retried.
        attempt: i32,
        #[serde(rename = "endedAt")]
        ended_at: DateTime<Utc>,
        /// Waiting time since the job was added, the previous attempt ended or an operator put it
        /// back; absent if it is unknown who put it back.
        #[serde(rename = "waitedMs", default, skip_serializing_if = "Option::is_none")]
        waited_ms: Option<i64>,
        #[serde(rename = "tookMs")]
        took_ms: i64,
        host: String,
        plugin: Option<String>,
        revision: Option<String>,
        version: Option<String>,
        outcome: String,
        /// What was done with the job: `complete`, `retry`, `defer` or `fail`.
        verdict: String,
        code: Option<String>,
        message: Option<String>,
        /// The plugin's backtrace, if its code trapped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stack: Option<String>,
        /// Outside calls: what, where, how they ended and how long they took.
        calls: Vec<OutsideCall>,
        /// Who recorded the attempt: `host`, `mirror` (observed from outside) or `worker-lost` (no
        /// end was reported).
        source: String,
    },
    /// An attempt started, but its end was never reported: the worker is lost.
    WorkerLost { started: i32, host: String },
    /// An action of an operator.
    Operator {
        actor: String,
        action: String,
        error: Option<String>,
        /// In the words of whoever did it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The job of which this one is a copy, if the action made it: its queue and id with `/`
        /// between them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        like: Option<String>,
        /// The copy of this job that the action added: its queue and id with `/` between them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        added: Option<String>,
        /// Id of the schedule that the action ran, if that added this job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schedule: Option<String>,
    },
    /// An action of a bulk operation.
    Bulk {
        bulk: i64,
        /// `retry`, `remove`, `enqueue-again` or `edit-and-retry`.
        action: String,
        actor: String,
        /// `pending`, `done`, `skipped` or `failed`.
        state: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Id of the job that was added.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        added: Option<String>,
        /// Id of the job that this one is a copy of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        like: Option<String>,
        /// Why the operation was begun, in the operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<String>,
    },
    /// A removal or an edit by a bulk operation was undone.
    Undo {
        bulk: i64,
        /// `remove` or `edit-and-retry`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<String>,
        /// Who undid it; absent if that is not known any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
        /// `restored`: the job, or its data, is back. `lost`: nothing is kept that could be put back.
        /// `not-undone`: the job stays as it is, for the reason.
        state: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operation on the whole queue that changed this job.
    Queue {
        actor: String,
        /// `queue.put-back`, `queue.clean`, `queue.drain` or `queue.obliterate`.
        action: String,
        /// The state of the jobs that it was for.
        #[serde(rename = "jobState", default, skip_serializing_if = "Option::is_none")]
        job_state: Option<String>,
        /// Number of jobs that it changed.
        jobs: u64,
        /// False: its record does not name its jobs; this one was in that state and is gone.
        certain: bool,
        /// In the words of whoever did it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A plugin wrote an entry to an audit trail.
    Audit {
        trail: String,
        #[serde(rename = "entryKey")]
        entry_key: String,
        plugin: String,
        /// The job that wrote it, if it is another job of the same request.
        by: Option<String>,
    },
    /// The data was erased; the other events stay.
    Erased {
        actor: String,
        reason: String,
        erasure: i64,
    },
    /// The job wrote a line with a time to its log.
    Log { line: String },
    /// An event of a kind that only a newer host knows, with its fields. A host never sends it.
    #[serde(skip)]
    Other {
        kind: String,
        fields: Map<String, Value>,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_of_a_newer_host_is_read_with_its_fields() {
        let new =
            json!({ "at": "2026-01-31T08:00:00Z", "kind": "moved", "to": "other", "count": 2 });
        let event: Event = serde_json::from_value(new).expect("an event");
        assert_eq!(event.at.to_rfc3339(), "2026-01-31T08:00:00+00:00");
        let EventKind::Other { kind, fields } = event.kind else {
            panic!("{event:?}");
        };
        assert_eq!(
            (kind.as_str(), Value::Object(fields)),
            ("moved", json!({ "to": "other", "count": 2 }))
        );
    }

    #[test]
    fn a_known_event_is_read_as_what_it_is_and_one_without_a_time_is_refused() {
        let known = json!({ "at": "2026-01-31T08:00:00Z", "kind": "log", "line": "hello" });
        let event: Event = serde_json::from_value(known.clone()).expect("an event");
        assert!(matches!(&event.kind, EventKind::Log { line } if line == "hello"));
        assert_eq!(serde_json::to_value(&event).expect("JSON"), known);
        assert!(serde_json::from_value::<Event>(json!({ "kind": "log", "line": "x" })).is_err());
    }
}
