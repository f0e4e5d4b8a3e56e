//! Dead letters: jobs that failed for good, grouped by their failure.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::jobs::LastChange;
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// A group of dead letters.
    DeadLetterPath {
        /// The group's number
        id: i64,
    }
}

operations! {
    /// List groups of jobs that failed for good: open groups first, then the most recently seen.
    /// Closed groups are left out unless `state` asks for them.
    DeadLettersList = "dead_letters.list": GET "/api/admin/dead-letters" ((), ListDeadLetters, NoBody) -> List<DeadLetter>,
        Viewer, Reads, data Shown(&["message", "stack"]), errors [404 "the queue is unknown"];
    /// Count the groups by their state.
    DeadLettersCount = "dead_letters.count": GET "/api/admin/dead-letter-counts" ((), CountDeadLetters, NoBody) -> Data<DeadLetterCounts>,
        Viewer, Reads, errors [];
    /// Show a group: its newest jobs, the stack of the newest, and the same failure in other
    /// revisions.
    DeadLettersShow = "dead_letters.show": GET "/api/admin/dead-letters/{id}" (DeadLetterPath, NoQuery, NoBody) -> Data<DeadLetterDetails>,
        Viewer, Reads, data Shown(&["message", "stack"]), errors [];
    /// Acknowledge a group. It stays acknowledged when more jobs fail in the same revision;
    /// failures in another revision form another group.
    DeadLettersAcknowledge = "dead_letters.acknowledge": POST "/api/admin/dead-letters/{id}/acknowledge"
        (DeadLetterPath, NoQuery, NoBody) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.acknowledge", data Shown(&["message", "stack"]), errors [];
    /// Reopen a group that was acknowledged.
    DeadLettersUnacknowledge = "dead_letters.unacknowledge": POST "/api/admin/dead-letters/{id}/unacknowledge"
        (DeadLetterPath, NoQuery, NoBody) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.unacknowledge", data Shown(&["message", "stack"]), errors [];
    /// Replace the note of a group.
    DeadLettersNote = "dead_letters.note": PUT "/api/admin/dead-letters/{id}/note" (DeadLetterPath, NoQuery, Json<Note>) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.note", data Shown(&["message", "stack"]), errors [];
    /// Assign a group to somebody.
    DeadLettersAssign = "dead_letters.assign": PUT "/api/admin/dead-letters/{id}/assignee"
        (DeadLetterPath, NoQuery, Json<Assignee>) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.assign", data Shown(&["message", "stack"]), errors [];
}

/// Which groups to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListDeadLetters {
    /// Only groups of jobs of this queue.
    pub queue: Option<String>,
    /// Only failures in this plugin.
    pub plugin: Option<String>,
    /// Only groups in this state; without it, all that are not closed.
    #[param(inline)]
    pub state: Option<ListedDeadLetters>,
    /// Only groups that are acknowledged (true) or not (false), of those that are not closed.
    /// Cannot be given together with `state`.
    pub acknowledged: Option<bool>,
    /// Number of groups, 1 to 1000; default 50.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
}

/// Which groups to list, by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ListedDeadLetters {
    /// Neither acknowledged nor closed.
    Open,
    /// Acknowledged, and not closed.
    Acknowledged,
    /// No job of it fails or waits any more.
    Closed,
    /// All groups.
    All,
}

/// Which groups to count.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct CountDeadLetters {
    /// Only groups of jobs of this queue.
    pub queue: Option<String>,
    /// Only failures in this plugin.
    pub plugin: Option<String>,
}

/// Numbers of groups.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterCounts {
    /// Groups that are neither acknowledged nor closed.
    pub open: i64,
    /// Groups that are acknowledged, and not closed.
    pub acknowledged: i64,
    /// Groups of which no job fails or waits any more.
    pub closed: i64,
}

/// State of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterState {
    /// Jobs of it fail or wait, and nobody has acknowledged it.
    Open,
    /// Somebody knows of it.
    Acknowledged,
    /// No job of it fails or waits any more. The next failure opens it again.
    Closed,
}

/// A group of jobs that failed for good in the same way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Number of the group; the value of `dead-letter` in a filter.
    pub id: i64,
    /// The queue of the jobs.
    pub queue: String,
    /// Name of the plugin; empty if no plugin was reached.
    pub plugin: String,
    /// Digest of the revision; empty if no plugin was reached.
    pub revision: String,
    /// Error code of the failure.
    pub code: String,
    /// Error message, with numbers, ids and quoted values replaced.
    pub message: String,
    /// State of the group.
    pub state: DeadLetterState,
    /// Number of jobs that failed for good in this way, each once: the sum of the next five.
    pub jobs: i64,
    /// Jobs that are in the failed state now.
    pub failing: i64,
    /// Jobs that wait to run again, or run.
    pub waiting: i64,
    /// Jobs that have completed since.
    pub repaired: i64,
    /// Jobs that Redis does not have any more, and that have not completed.
    pub removed: i64,
    /// Jobs that have failed for good since in another group.
    pub failing_elsewhere: i64,
    /// How many times a job failed for good in this way: a job that is retried and fails again
    /// counts again.
    pub failures: i64,
    /// When it happened first.
    pub first_seen: DateTime<Utc>,
    /// When it happened last.
    pub last_seen: DateTime<Utc>,
    /// When it was acknowledged; stays set when more jobs fail in the same revision.
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Who acknowledged it.
    pub acknowledged_by: Option<String>,
    /// Failures since it was acknowledged.
    pub since_acknowledged: i64,
    /// When no job of it failed or waited any more; absent while one does.
    pub closed_at: Option<DateTime<Utc>>,
    /// Who is responsible for it.
    pub assignee: Option<String>,
    /// Note of an operator.
    pub note: Option<String>,
    /// Only in the answer of a change: nothing has changed, because it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

/// A group with its newest jobs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterDetails {
    /// The group.
    #[serde(flatten)]
    pub group: DeadLetter,
    /// How many of the thousand removed jobs that failed last can be added again from the history:
    /// `bulk retry dead-letter=ID --from-history`.
    pub restorable: i64,
    /// The bulk operation that has removed jobs of the group and can be undone now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<i64>,
    /// The operator's action that last removed jobs of the group, and perhaps all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<LastChange>,
    /// The newest failure was not retried although the job had attempts left: the plugin takes it for
    /// permanent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permanent: bool,
    /// Stack of the newest failure.
    pub stack: Option<String>,
    /// The newest jobs.
    pub sample: Vec<FailedJob>,
    /// The same failure in other revisions.
    pub elsewhere: Vec<DeadLetter>,
}

/// A job that failed for good.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct FailedJob {
    pub queue: String,
    pub job_id: String,
    /// When the job was created, Unix milliseconds.
    pub job_created_ms: i64,
    pub name: String,
    /// Which start of the job this was, from 1.
    pub started: i32,
    pub finished_at: DateTime<Utc>,
    /// Where the job is now: `failing`, `waiting` (or running), `repaired` (has completed since),
    /// `removed` or `elsewhere` (fails in another group).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Error message of the failure.
    pub message: Option<String>,
    /// Always null: all jobs have the same stack, which is in `stack` of the group.
    pub stack: Option<String>,
    /// Correlation id of the request that caused the job.
    pub correlation_id: String,
    pub platform: Option<String>,
    /// For a child in a flow: its parent, as `queue:id`.
    pub parent: Option<String>,
}

/// A note about a group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Text, at most 2000 characters; null removes the note.
    pub note: Option<String>,
}

/// Who is responsible for a group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignee {
    /// Name, at most 100 characters; null removes the assignment.
    pub assignee: Option<String>,
}
