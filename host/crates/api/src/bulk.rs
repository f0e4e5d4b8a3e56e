//! Bulk operations: one operation on all jobs that match a filter.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody, objects};
use crate::jobs::given;
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
    /// Start a bulk operation on all jobs that match a filter; with `dryRun`, only show what it
    /// would do. It runs in the background; follow it by its `id`.
    BulkBegin = "bulk.begin": POST "/api/admin/bulk" ((), NoQuery, Json<BulkRequest>) -> Data<BulkBegun>,
        Operator, Destroys("may replace the data of jobs"), audit "bulk.<kind>",
        data Shown(&["after", "before", "data", "failure", "text"]), errors [404 "the queue or the dead letter is unknown"];
    /// List bulk operations, the newest first.
    BulkList = "bulk.list": GET "/api/admin/bulk" ((), ListBulks, NoBody) -> List<Bulk>,
        Viewer, Reads, data Shown(&["text"]), errors [];
    /// Show a bulk operation: its state, its counts, and why jobs were left unchanged.
    BulkShow = "bulk.show": GET "/api/admin/bulk/{id}" (BulkPath, NoQuery, NoBody) -> Data<BulkDetails>,
        Viewer, Reads, data Shown(&["text"]), errors [];
    /// List the jobs of a bulk operation, with the result for each.
    BulkItems = "bulk.items": GET "/api/admin/bulk/{id}/items" (BulkPath, ListBulkItems, NoBody) -> List<BulkItem>,
        Viewer, Reads, errors [];
    /// Cancel a bulk operation. Jobs that were already handled stay as they are.
    BulkCancel = "bulk.cancel": POST "/api/admin/bulk/{id}/cancel" (BulkPath, NoQuery, NoBody) -> Data<Bulk>,
        Operator, Changes, audit "bulk.cancel", data Shown(&["text"]), errors [409 "It conflicts with the present state"];
    /// Resume a bulk operation that has paused after its first jobs.
    BulkResume = "bulk.resume": POST "/api/admin/bulk/{id}/resume" (BulkPath, NoQuery, Json<ResumeBulk>) -> Data<Bulk>,
        Operator, Changes, audit "bulk.resume", data Shown(&["text"]), errors [409 "It conflicts with the present state"];
    /// Undo a removal or an edit, within an hour of its end: put the removed jobs back, or the data
    /// of edited jobs that have not run since. Refused with the reasons where none can be put back.
    BulkUndo = "bulk.undo": POST "/api/admin/bulk/{id}/undo" (BulkPath, NoQuery, NoBody) -> Data<Bulk>,
        Operator, Changes, audit "bulk.undo", data Shown(&["text"]), errors [409 "It conflicts with the present state"];
}

/// What a bulk operation does to each job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BulkKind {
    /// Puts the job back into its queue, with fresh attempts.
    Retry,
    /// Removes the job; can be undone for an hour.
    Remove,
    /// Adds a new job like it.
    EnqueueAgain,
    /// Retries the job with changed data; of a job that waits, only changes the data.
    EditAndRetry,
}

impl BulkKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Retry,
        Self::Remove,
        Self::EnqueueAgain,
        Self::EditAndRetry,
    ];

    /// The stable word, such as `enqueue-again`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Remove => "remove",
            Self::EnqueueAgain => "enqueue-again",
            Self::EditAndRetry => "edit-and-retry",
        }
    }
}

/// Where the jobs are searched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BulkSource {
    /// Jobs that are in Redis.
    #[default]
    Live,
    /// Jobs in the history, whether Redis still has them or not.
    History,
}

/// The idempotency identity of a job that is added again. Outside effects are de-duplicated by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BulkIdentity {
    /// The identity of the original job: effects that it already had are not repeated.
    Keep,
    /// A new identity: all effects happen again.
    New,
}

/// A request for a bulk operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BulkRequest {
    /// What is done to each job.
    pub kind: BulkKind,
    /// Filter for the jobs, as names and values, for example `{"queue": "emailQueue",
    /// "dead-letter": "7"}`.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub filter: Filter,
    /// Must be true if the filter is empty, which means every job.
    #[serde(default)]
    pub everything: bool,
    /// State of the jobs: `failed` (default), `completed`, `delayed`, `waiting` or `prioritized`. An
    /// edit only changes the data of jobs that wait.
    #[schema(value_type = Option<String>)]
    pub state: Option<JobState>,
    /// Where to search for jobs: `live` (Redis, default) or `history`.
    #[serde(default)]
    pub source: BulkSource,
    /// Identity of jobs that are added again: `keep` or `new`. There is no default.
    pub key: Option<BulkIdentity>,
    /// For `edit-and-retry`: new values by their path in the job's data (`lead.id` or `/lead/id`).
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub set: BTreeMap<String, Box<RawValue>>,
    /// For `edit-and-retry`: what to replace within texts of the job's data. It is done after
    /// `set` and before `unset`. A job in which nothing is replaced stays as it is.
    #[serde(default, deserialize_with = "objects")]
    pub replace: Vec<BulkReplacement>,
    /// For `edit-and-retry`: paths to remove from the job's data.
    #[serde(default)]
    pub unset: Vec<String>,
    /// Handle this many jobs, then pause.
    pub first: Option<u32>,
    /// Why, for the record.
    pub reason: Option<String>,
    /// Only count the jobs and show a sample.
    #[serde(default)]
    pub dry_run: bool,
    /// Include the data of the sample, with redacted values hidden.
    #[serde(default)]
    pub with_data: bool,
    /// With `dryRun`, and `withData` or an edit: include redacted values, too. This is recorded.
    #[serde(default)]
    pub reveal: bool,
}

/// A replacement within a text, or within each text of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkReplacement {
    /// Path of the text, or of a list of texts, in the job's data (`to` or `/lead/emails`).
    pub path: String,
    /// The text to replace, everywhere in the value; not a pattern, and not empty.
    pub find: String,
    /// The text that takes its place.
    pub with: String,
}

impl BulkRequest {
    /// An empty request of this kind: no filter, no options.
    pub fn new(kind: BulkKind) -> Self {
        Self {
            kind,
            filter: Filter::default(),
            everything: false,
            state: None,
            source: BulkSource::default(),
            key: None,
            set: BTreeMap::new(),
            replace: Vec::new(),
            unset: Vec::new(),
            first: None,
            reason: None,
            dry_run: false,
            with_data: false,
            reveal: false,
        }
    }
}

/// The bulk operation that was started; with `dryRun`, a preview of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum BulkBegun {
    Preview(BulkPreview),
    Bulk(Box<Bulk>),
}

/// Derived, it would not read the exact values of a preview: serde buffers what is untagged.
impl<'de> Deserialize<'de> for BulkBegun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let answer = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str(answer.get()) {
            Ok(preview) => Ok(Self::Preview(preview)),
            Err(_) => serde_json::from_str(answer.get())
                .map(Self::Bulk)
                .map_err(D::Error::custom),
        }
    }
}

/// What a bulk operation would do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkPreview {
    /// Number of jobs that match.
    pub matched: u64,
    /// Whether all jobs were counted; if false, `matched` is a minimum.
    pub complete: bool,
    /// Some of the jobs.
    pub sample: Vec<BulkSample>,
    /// For `edit-and-retry`: how many of the jobs it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<BulkEditCounts>,
}

/// What an edit does to the jobs that match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkEditCounts {
    /// Jobs whose data was looked at; fewer than `matched` if the time for it was over.
    pub examined: u64,
    /// Of these, jobs that would be retried with the data that they have.
    pub unchanged: u64,
    /// Of these, jobs that would be left as they are and not retried; see `refused` of the sample.
    pub refused: u64,
}

/// A job in the sample of a preview.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct BulkSample {
    pub queue: String,
    pub id: String,
    pub name: String,
    pub state: String,
    pub failure: Option<String>,
    /// When it finished, Unix milliseconds.
    pub finished_on: Option<u64>,
    /// Why the job would be left unchanged, as far as known now.
    pub refused: Option<String>,
    /// Data of the job, only with `withData`; after the edit if there is one.
    pub data: Option<String>,
    /// Why `data` is absent although it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_withheld: Option<String>,
    /// For `edit-and-retry`: what changes in the job's data, with redacted values hidden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<BulkChange>,
}

/// A value of a job's data that an edit changes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BulkChange {
    /// Path of the value in the job's data, for example `lead.id`.
    pub path: String,
    /// The present value; absent if there is none.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Value>)]
    pub before: Option<Box<RawValue>>,
    /// The new value; absent if it is removed.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Value>)]
    pub after: Option<Box<RawValue>>,
}

/// A bulk operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Bulk {
    pub id: i64,
    /// `retry`, `remove`, `enqueue-again` or `edit-and-retry`.
    pub kind: String,
    /// `live` or `history`.
    pub source: String,
    /// State of the jobs that match.
    pub job_state: String,
    /// The filter, as names and values.
    pub filter: BTreeMap<String, String>,
    /// Identity of jobs that are added again: `keep` or `new`.
    pub identity: Option<String>,
    /// Who started it.
    pub actor: String,
    pub reason: Option<String>,
    /// `matching`, `running`, `paused`, `done`, `cancelled`, `failed`, `undoing` or `undone`.
    pub state: String,
    /// It pauses after this many jobs.
    pub stop_after: Option<i64>,
    /// Why it does not continue.
    pub error: Option<String>,
    /// Number of jobs that match.
    pub matched: i64,
    pub done: i64,
    pub skipped: i64,
    pub failed: i64,
    /// Jobs that an undo put back, or whose data it put back.
    pub restored: i64,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// For a removal or an edit that has changed jobs: it can be undone until this time. An edit is
    /// undone of jobs that have not run since.
    pub undo_until: Option<DateTime<Utc>>,
}

/// A bulk operation, and why jobs were left unchanged.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkDetails {
    /// The operation.
    #[serde(flatten)]
    pub bulk: Bulk,
    /// Reasons, the most frequent first.
    pub reasons: Vec<BulkReason>,
    /// Why nothing of it can be undone any more, although the time for that has not ended. Then
    /// `undoUntil` is absent. Not known of an operation on more than 1000 jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nothing_to_undo: Option<String>,
}

/// How many jobs were left unchanged for one reason.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkReason {
    /// `skipped`, `failed`, `lost` or `not-undone`.
    pub state: String,
    /// The reason in words.
    pub reason: String,
    /// Number of jobs.
    pub jobs: i64,
}

/// A job of a bulk operation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct BulkItem {
    /// Its position in the operation, from 1.
    pub n: i64,
    pub queue: String,
    pub job_id: String,
    /// When the job was created, Unix milliseconds.
    pub job_created_ms: i64,
    /// State of the job when it was selected.
    pub job_state: String,
    /// `pending`, `done`, `skipped` or `failed`. After an undo: `restored`, `lost` (nothing is kept
    /// that could be put back), `not-undone` (the job stays as it is) or `failed`.
    pub state: String,
    /// Why the job was left unchanged, failed or was not undone.
    pub reason: Option<String>,
    /// Id of the job that was added.
    pub new_id: Option<String>,
}

/// Which bulk operations to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListBulks {
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Operations per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// Which jobs of a bulk operation to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListBulkItems {
    /// `pending`, `done`, `skipped`, `failed`, `restored`, `lost` or `not-undone`.
    pub state: Option<String>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Jobs per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// How far to continue.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeBulk {
    /// Handle this many jobs, then pause again; absent: continue to the end.
    pub first: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_read_with_its_exact_values_and_a_begun_operation_as_one() {
        let sample = r#"{"queue":"q","id":"1","name":"n","state":"failed","failure":null,"finishedOn":null,"refused":null,"data":null,"changes":[{"path":"n","before":12345678901234567890123,"after":null},{"path":"new","after":1.10}]}"#;
        let text = format!(r#"{{"matched":1,"complete":true,"sample":[{sample}]}}"#);
        let begun: BulkBegun = serde_json::from_str(&text).expect("a preview");
        assert_eq!(serde_json::to_string(&begun).expect("JSON"), text);
        let bulk = r#"{"id":1,"kind":"retry","source":"live","jobState":"failed","filter":{},"identity":null,"actor":"a","reason":null,
            "state":"matching","stopAfter":null,"error":null,"matched":0,"done":0,"skipped":0,"failed":0,"restored":0,
            "createdAt":"2026-01-01T00:00:00Z","endedAt":null,"undoUntil":null}"#;
        let begun: BulkBegun = serde_json::from_str(bulk).expect("an operation");
        assert!(matches!(begun, BulkBegun::Bulk(bulk) if bulk.id == 1));
    }
}
