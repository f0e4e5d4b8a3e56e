//! Bulk operations: one operation on all jobs that a filter means.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// A bulk operation.
    BulkPath {
        /// The operation's number
        id: i64,
    }
}

operations! {
    /// Begin an operation on all jobs that a filter means, or see with `dryRun` what it would do. It goes on in the background; see its progress by
    /// its `id`.
    BulkBegin = "bulk.begin": POST "/api/admin/bulk" ((), NoQuery, Json<BulkRequest>) -> Data<BulkBegun>,
        Operator, Destroys("this may remove jobs or replace their data"), audit "bulk.<kind>",
        errors [404 "nobody knows the queue or the dead letter"];
    /// Bulk operations, the newest first.
    BulkList = "bulk.list": GET "/api/admin/bulk" ((), ListBulks, NoBody) -> List<Bulk>,
        Operator, Reads, errors [];
    /// Show a bulk operation: its state, its counts, and why jobs were left as they are.
    BulkShow = "bulk.show": GET "/api/admin/bulk/{id}" (BulkPath, NoQuery, NoBody) -> Data<BulkDetails>,
        Operator, Reads, errors [];
    /// The jobs of a bulk operation, and what became of each.
    BulkItems = "bulk.items": GET "/api/admin/bulk/{id}/items" (BulkPath, ListBulkItems, NoBody) -> List<BulkItem>,
        Operator, Reads, errors [];
    /// Stop a bulk operation where it is; what is done stays done.
    BulkCancel = "bulk.cancel": POST "/api/admin/bulk/{id}/cancel" (BulkPath, NoQuery, NoBody) -> Data<Bulk>,
        Operator, Changes, audit "bulk.cancel", errors [409 "It clashes with the present state"];
    /// Let a bulk operation go on that has paused after its first jobs.
    BulkResume = "bulk.resume": POST "/api/admin/bulk/{id}/resume" (BulkPath, NoQuery, Json<GoOn>) -> Data<Bulk>,
        Operator, Changes, audit "bulk.resume", errors [409 "It clashes with the present state"];
    /// Put back what a removal has removed, within an hour of its end.
    BulkUndo = "bulk.undo": POST "/api/admin/bulk/{id}/undo" (BulkPath, NoQuery, NoBody) -> Data<Bulk>,
        Operator, Changes, audit "bulk.undo", errors [409 "It clashes with the present state"];
}

/// What is done to each job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BulkKind {
    /// Back into its queue, with fresh attempts.
    Retry,
    /// Forgotten; can be undone for an hour.
    Remove,
    /// A new job like it.
    EnqueueAgain,
    /// Retried with other data.
    EditAndRetry,
}

impl BulkKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Retry, Self::Remove, Self::EnqueueAgain, Self::EditAndRetry];

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Remove => "remove",
            Self::EnqueueAgain => "enqueue-again",
            Self::EditAndRetry => "edit-and-retry",
        }
    }
}

/// Where the jobs are looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BulkSource {
    /// Jobs that Redis has.
    #[default]
    Live,
    /// Jobs that the history remembers, whether Redis still has them or not.
    History,
}

/// Who a job is that is added anew. Its outside effects are de-duplicated by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BulkIdentity {
    /// The job that it was: what it has done already is not done again.
    Keep,
    /// Another one: everything is done again.
    New,
}

/// An operation on many jobs, as it is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BulkRequest {
    /// What is done to each job.
    pub kind: BulkKind,
    /// Which jobs: names and values of a filter, for example `{"queue": "emailQueue", "dead-letter": "7"}`.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub filter: Filter,
    /// An empty filter means every job: only with this.
    #[serde(default)]
    pub everything: bool,
    /// `failed` (default), `completed`, `delayed`, `waiting` or `prioritized`.
    #[schema(value_type = Option<String>)]
    pub state: Option<JobState>,
    /// `live` (default) or `history`.
    #[serde(default)]
    pub source: BulkSource,
    /// For jobs that are added anew: `keep` or `new`. There is no default.
    pub key: Option<BulkIdentity>,
    /// Of an edit: values by their path in the job's data (`lead.id`, or `/lead/id`).
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub set: BTreeMap<String, Box<RawValue>>,
    /// Of an edit: paths that are taken out.
    #[serde(default)]
    pub unset: Vec<String>,
    /// Do so many, then pause.
    pub first: Option<u32>,
    /// For the record.
    pub reason: Option<String>,
    /// Only count, and show some.
    #[serde(default)]
    pub dry_run: bool,
    /// Show the data of those, too, without what is hidden.
    #[serde(default)]
    pub with_data: bool,
    /// With `withData`: show what is hidden, too; that is recorded.
    #[serde(default)]
    pub reveal: bool,
}

impl BulkRequest {
    /// An operation on nothing yet.
    pub fn new(kind: BulkKind) -> Self {
        Self {
            kind,
            filter: Filter::default(),
            everything: false,
            state: None,
            source: BulkSource::default(),
            key: None,
            set: BTreeMap::new(),
            unset: Vec::new(),
            first: None,
            reason: None,
            dry_run: false,
            with_data: false,
            reveal: false,
        }
    }
}

/// An operation that was made; with `dryRun`, what it would do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum BulkBegun {
    Preview(BulkPreview),
    Bulk(Box<Bulk>),
}

/// What an operation would do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkPreview {
    /// Jobs that are meant.
    pub matched: u64,
    /// Whether all were counted: false means at least so many.
    pub complete: bool,
    /// Some of them.
    pub sample: Vec<BulkSample>,
}

/// A job that is meant.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct BulkSample {
    pub queue: String,
    pub id: String,
    pub name: String,
    pub state: String,
    pub failure: Option<String>,
    /// Unix milliseconds.
    pub finished_on: Option<u64>,
    /// Why it would be left as it is, as far as that can be seen now.
    pub refused: Option<String>,
    /// Only if asked for; after the edit where there is one.
    pub data: Option<String>,
}

/// An operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Bulk {
    pub id: i64,
    /// `retry`, `remove`, `enqueue-again` or `edit-and-retry`.
    pub kind: String,
    /// `live` or `history`.
    pub source: String,
    /// The state of the jobs that are meant.
    pub job_state: String,
    /// Which jobs: names and values of a filter.
    pub filter: BTreeMap<String, String>,
    /// For jobs that are added anew: `keep` or `new`.
    pub identity: Option<String>,
    /// Who asked for it.
    pub actor: String,
    pub reason: Option<String>,
    /// `matching`, `running`, `paused`, `done`, `cancelled`, `failed`, `undoing` or `undone`.
    pub state: String,
    /// It pauses once so many are handled.
    pub stop_after: Option<i64>,
    /// Why it does not go on.
    pub error: Option<String>,
    /// Jobs that are meant.
    pub matched: i64,
    pub done: i64,
    pub skipped: i64,
    pub failed: i64,
    /// Put back, of a removal that was undone.
    pub restored: i64,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Of a removal.
    pub undo_until: Option<DateTime<Utc>>,
}

/// An operation and why jobs were left.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BulkDetails {
    /// The operation.
    #[serde(flatten)]
    pub bulk: Bulk,
    /// The most frequent first.
    pub reasons: Vec<BulkReason>,
}

/// How often something was left for one reason.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkReason {
    /// `skipped`, `failed` or `lost`.
    pub state: String,
    /// In words.
    pub reason: String,
    /// Jobs.
    pub jobs: i64,
}

/// A job of an operation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct BulkItem {
    /// Its place in the operation, from 1.
    pub n: i64,
    pub queue: String,
    pub job_id: String,
    /// When it was made, Unix milliseconds.
    pub job_created_ms: i64,
    /// Its state when it was chosen.
    pub job_state: String,
    /// `pending`, `done`, `skipped`, `failed`, `restored` or `lost`.
    pub state: String,
    /// Why it was left, or failed.
    pub reason: Option<String>,
    /// Of a job that was added.
    pub new_id: Option<String>,
}

/// Which part of the list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListBulks {
    /// Behind the page whose `nextCursor` this is.
    pub cursor: Option<String>,
    /// 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// Which jobs of an operation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListBulkItems {
    /// `pending`, `done`, `skipped`, `failed`, `restored` or `lost`.
    pub state: Option<String>,
    /// Behind the page whose `nextCursor` this is.
    pub cursor: Option<String>,
    /// 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// How far to go on.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GoOn {
    /// So many, then pause again; absent: to the end.
    pub first: Option<u32>,
}
