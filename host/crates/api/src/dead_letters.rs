//! Dead letters: jobs that failed for good, by what their failure looks like.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
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
    /// Groups of jobs that failed for good: open ones first, then by when they were seen last.
    DeadLettersList = "dead_letters.list": GET "/api/admin/dead-letters" ((), ListDeadLetters, NoBody) -> List<DeadLetter>,
        Operator, Reads, errors [];
    /// Show a group: its newest jobs, the stack of the newest, and the same failure in other revisions.
    DeadLettersShow = "dead_letters.show": GET "/api/admin/dead-letters/{id}" (DeadLetterPath, NoQuery, NoBody) -> Data<DeadLetterDetails>,
        Operator, Reads, errors [];
    /// Take note of a group. It stays so when more jobs fail in the same revision; in another revision they are another group.
    DeadLettersAcknowledge = "dead_letters.acknowledge": POST "/api/admin/dead-letters/{id}/acknowledge"
        (DeadLetterPath, NoQuery, NoBody) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.acknowledge", errors [];
    /// Open a group again.
    DeadLettersUnacknowledge = "dead_letters.unacknowledge": POST "/api/admin/dead-letters/{id}/unacknowledge"
        (DeadLetterPath, NoQuery, NoBody) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.unacknowledge", errors [];
    /// Replace the note of a group.
    DeadLettersNote = "dead_letters.note": PUT "/api/admin/dead-letters/{id}/note" (DeadLetterPath, NoQuery, Json<Note>) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.note", errors [];
    /// Say whose a group is.
    DeadLettersAssign = "dead_letters.assign": PUT "/api/admin/dead-letters/{id}/assignee"
        (DeadLetterPath, NoQuery, Json<Assignee>) -> Data<DeadLetter>,
        Operator, Changes, audit "dead-letter.assign", errors [];
}

/// Which groups to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListDeadLetters {
    /// Of jobs of this queue.
    pub queue: Option<String>,
    /// That happened in this plugin.
    pub plugin: Option<String>,
    /// Whether somebody has taken note.
    pub acknowledged: Option<bool>,
    /// 1 to 1000; default 50.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
}

/// A group of jobs that failed for good in the same way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// `dead-letter` of a filter.
    pub id: i64,
    /// Where the jobs failed.
    pub queue: String,
    /// Empty when no plugin was reached.
    pub plugin: String,
    /// Digest; empty when no plugin was reached.
    pub revision: String,
    /// Of the failure.
    pub code: String,
    /// Numbers, ids and quoted values replaced.
    pub message: String,
    /// How often a job failed for good so.
    pub jobs: i64,
    /// The first time.
    pub first_seen: DateTime<Utc>,
    /// The last time.
    pub last_seen: DateTime<Utc>,
    /// When somebody took note; it stays so when more jobs fail in the same revision.
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// Failures since then.
    pub since_acknowledged: i64,
    /// Whose it is.
    pub assignee: Option<String>,
    /// What is known of it.
    pub note: Option<String>,
}

/// A group with its newest jobs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterDetails {
    /// The group.
    #[serde(flatten)]
    pub group: DeadLetter,
    /// Of the ten thousand jobs that failed last: how many have completed since.
    pub repaired: i64,
    /// Of the newest failure.
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
    /// When it was made, Unix milliseconds.
    pub job_created_ms: i64,
    pub name: String,
    /// Which start of the job this was, from 1.
    pub started: i32,
    pub finished_at: DateTime<Utc>,
    /// Of the failure.
    pub message: Option<String>,
    /// Always null: one tells what all have, and stands beside the list.
    pub stack: Option<String>,
    /// Of the request that caused the job.
    pub correlation_id: String,
    pub platform: Option<String>,
    /// Of a flow's child: the parent, as `queue:id`.
    pub parent: Option<String>,
}

/// What is known of a group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// At most 2000 characters; null takes it away.
    pub note: Option<String>,
}

/// Whose a group is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignee {
    /// At most 100 characters; null: nobody's.
    pub assignee: Option<String>,
}
