//! The history: its state, retention, pruning, erasure, and the data and results of jobs.

use chrono::{DateTime, Utc};
use patchbay_model::DataPath;
use patchbay_model::job::JobState;
use patchbay_model::job_view::{any_state, any_state_schema};
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::{JobId, QueueName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::jobs::JobPath;
use crate::operation::NoQuery;
use crate::operations;
use crate::queues::QueuePath;
use crate::reveal::Reveal;

operations! {
    /// Show the state of the history: what is not yet in Postgres, what is stored, since when, and
    /// for how long.
    HistoryStatus = "history.status": GET "/api/admin/history/status" ((), NoQuery, NoBody) -> Data<Status>,
        Viewer, Reads, errors [];
    /// Show how long attempts are kept.
    HistoryRetention = "history.retention": GET "/api/admin/history/retention" ((), NoQuery, NoBody) -> Data<Retention>,
        Viewer, Reads, errors [];
    /// Set how many days the attempts of a queue are kept.
    HistorySetRetention = "history.set_retention": PUT "/api/admin/history/retention/{queue}" (QueuePath, NoQuery, Json<Keep>) -> Data<Retention>,
        Owner, Changes, audit "history.set-retention", errors [];
    /// Reset the retention of a queue to the configured default.
    HistoryResetRetention = "history.reset_retention": DELETE "/api/admin/history/retention/{queue}"
        (QueuePath, ResetRetention, NoBody) -> Data<Retention>,
        Owner, Changes, audit "history.reset-retention", errors [];
    /// Delete attempts past their retention now. The host also does so once an hour.
    HistoryPrune = "history.prune": POST "/api/admin/history/prune" ((), NoQuery, Json<Prune>) -> Data<Pruned>,
        Owner, Destroys("deletes attempts that are past their retention"), audit "history.prune", errors [];
    /// Erase the data of a person or of a job. Finished jobs are removed from Redis; every attempt
    /// loses its data, result, message, backtrace and outside calls, but the record of the attempt
    /// stays. Unfinished jobs are kept unless `unfinished` is true; running jobs are erased once
    /// they have ended. Repeating the request changes nothing.
    HistoryErase = "history.erase": POST "/api/admin/history/erase" ((), NoQuery, Json<Erase>) -> Data<Erasure>,
        Owner, Destroys("erases data, results and messages of jobs"), audit "history.erase", errors [404 "It does not exist"];
    /// List erasures, the newest first: who asked, why, how many jobs, and whether it has ended.
    HistoryErasures = "history.erasures": GET "/api/admin/history/erasures" ((), ListErasures, NoBody) -> List<RecordedErasure>,
        Viewer, Reads, errors [];
    /// Show data and results of a job, the newest first. Values that the queue's manifest redacts,
    /// and secrets, are hidden; `reveal` shows everything. Each read is recorded, with the use of
    /// `reveal`.
    HistoryBodies = "history.bodies": GET "/api/admin/history/bodies/{queue}/{id}" (JobPath, Reveal, NoBody) -> List<AttemptBody>,
        Viewer, Reads, audit "history.read-body", data Needed, errors [];
}

/// State of the history.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether this host records attempts.
    pub enabled: bool,
    /// Attempts that are not yet in Postgres.
    pub stream: StreamStatus,
    /// Whether this host keeps data and results.
    pub bodies: BodiesKept,
    /// Tables, one per month.
    pub partitions: Vec<Partition>,
    /// End of the oldest attempt.
    pub oldest: Option<DateTime<Utc>>,
    /// The last pruning of old attempts.
    pub last_prune: Option<LastPrune>,
    /// How long attempts are kept.
    pub retention: Retention,
}

/// Attempts in the Redis stream that Postgres does not have yet.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// Number of attempts.
    pub attempts: u64,
    /// Their size in Redis, in bytes.
    pub bytes: u64,
    /// Age of the oldest, in milliseconds.
    pub lag_ms: Option<u64>,
    /// Entries that were set aside because they cannot be read or stored.
    pub set_aside: u64,
}

/// Whether data and results of jobs are kept.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BodiesKept {
    /// Whether this host keeps them.
    pub kept: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The table with the attempts of one month.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Partition {
    /// Name of the table.
    pub name: String,
    /// Estimated number of rows.
    pub rows: i64,
    /// Size in bytes, including indexes and search terms.
    pub bytes: i64,
}

/// The last pruning of old attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct LastPrune {
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Attempts that were deleted one by one.
    pub attempts: i64,
    /// Months that were dropped as a whole.
    pub partitions: i32,
    /// Error, if the pruning failed.
    pub error: Option<String>,
}

/// How long attempts are kept.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Default from the configuration.
    pub default: DefaultRetention,
    /// Retention per queue and outcome, as set by operators.
    pub queues: Vec<QueueRetention>,
}

/// Retention of attempts without a setting of their own.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefaultRetention {
    /// Days for attempts that completed.
    pub completed_days: i32,
    /// Days for all other attempts.
    pub other_days: i32,
}

/// Retention of a queue, as set by an operator.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct QueueRetention {
    pub queue: String,
    /// Outcome that it applies to; absent: every outcome without a setting of its own.
    pub outcome: Option<String>,
    pub days: i32,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

/// A retention to set.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Attempts with this outcome; absent: every outcome without a setting of its own.
    #[schema(value_type = Option<String>)]
    pub outcome: Option<OutcomeKind>,
    /// Days, 1 to 36500.
    #[schema(minimum = 1, maximum = 36500)]
    pub days: i32,
}

/// Which retention to reset.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ResetRetention {
    /// Only the setting for this outcome.
    #[param(value_type = Option<String>)]
    pub outcome: Option<OutcomeKind>,
}

/// Options of a pruning.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Prune {
    /// Only show what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is deleted, or would be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Months that are dropped as a whole.
    pub partitions: Vec<String>,
    /// Estimated number of attempts in those months.
    pub attempts_in_partitions: i64,
    /// Attempts of other months, deleted one by one.
    pub attempts: i64,
    /// True if `attempts` is a minimum.
    pub and_more: bool,
    /// Groups of dead letters that have no attempts left.
    pub dead_letters: i64,
}

/// Which person or job to erase.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Erase {
    /// For a person: path of the value in the data of jobs, which a manifest declares searchable.
    #[schema(value_type = Option<String>)]
    pub path: Option<DataPath>,
    /// The value at this path. It is never recorded.
    pub value: Option<String>,
    /// Only jobs of this queue.
    #[schema(value_type = Option<String>)]
    pub queue: Option<QueueName>,
    /// Only the job with this id; needs `queue`.
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// Why, for the record: up to 500 characters, for example the number of a request, and no
    /// personal data.
    pub reason: String,
    /// Also erase unfinished jobs: they are removed and never run.
    #[serde(default)]
    pub unfinished: bool,
    /// Only show what would be erased.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is erased, or would be, and what remains.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erasure {
    /// Number of the erasure; absent if nothing was done.
    pub erasure: Option<i64>,
    /// Jobs that are erased, without those that are kept.
    pub jobs: usize,
    /// Attempts in the history.
    pub attempts: i64,
    /// Those attempts that have data or a result.
    pub bodies: i64,
    /// One request cannot erase all of these jobs: repeat it.
    pub and_more: bool,
    /// No active plugin declares the path searchable. Attempts recorded while it was undeclared are
    /// not found.
    pub undeclared: bool,
    /// Attempts that are not yet in Postgres. Those of the erased jobs are erased as soon as they
    /// are.
    pub waiting: u64,
    /// Counts per place.
    pub places: Places,
    /// Jobs that remain in Redis.
    pub live: Live,
    /// Schedules whose future jobs will contain the value again: change or remove them.
    pub schedules: Vec<String>,
    /// Places that an erasure does not reach.
    pub beyond: Vec<String>,
}

/// How much is erased in each place.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Places {
    /// Jobs in Redis that have ended, or were removed by a bulk operation.
    pub redis_ended: u64,
    /// Unfinished jobs in Redis, including those that de-duplication keeps.
    pub redis_unfinished: u64,
    /// Results of children that their parents in flows hold.
    pub flow_results: u64,
    /// Copies kept to undo removals.
    pub undo_copies: u64,
    /// Entries in the event streams of queues.
    pub events: u64,
    /// Keys in the key-value stores of plugins.
    pub key_value: u64,
    /// Requests in the inbox of webhooks; their events stay known.
    #[serde(default)]
    pub inbox: u64,
    /// Entries of the attempt stream that were set aside.
    pub set_aside: u64,
    pub saved_searches: u64,
    pub bulk_operations: u64,
    pub dead_letters: u64,
    pub operator_actions: u64,
    pub alerts: u64,
    /// Descriptions of schedules.
    pub schedules: u64,
    /// Reasons of other erasures, and of quarantines.
    pub reasons: u64,
    /// Entries of audit trails; kept for good.
    pub audit_entries_left: u64,
    /// Bulk operations with the value in their filter; kept until they have ended.
    pub bulk_operations_left: u64,
    /// Jobs in the outbox, from transactions of plugins; kept until they are in a queue.
    pub outbox_left: u64,
    /// Requests in the inbox that could not be looked at, or whose jobs are being added.
    #[serde(default)]
    pub inbox_left: u64,
}

/// A job that remains in Redis.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveJob {
    /// Its queue.
    pub queue: String,
    /// Its id.
    pub id: String,
    /// State of the job.
    #[serde(deserialize_with = "any_state")]
    #[schema(schema_with = any_state_schema)]
    pub state: JobState,
    /// Why it remains: `running` (erased once it has ended), `unfinished` or `of-schedule`.
    pub why: String,
}

/// Jobs that remain in Redis.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// The first hundred.
    pub jobs: Vec<LiveJob>,
    /// Number of all jobs that were found.
    pub found: usize,
    /// Whether all jobs of the queues were searched.
    pub complete: bool,
}

/// Which erasures to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListErasures {
    /// `nextCursor` of the page before.
    pub cursor: Option<i64>,
    /// Erasures per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// The record of an erasure.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RecordedErasure {
    pub id: i64,
    /// For a person: path of the erased value.
    pub path: Option<String>,
    pub queue: Option<String>,
    pub job_id: Option<String>,
    /// Whether unfinished jobs were erased, too.
    pub unfinished: bool,
    /// Who asked.
    pub actor: String,
    pub reason: String,
    pub began_at: DateTime<Utc>,
    /// Absent while jobs are still to be erased. Also absent if the erasure was interrupted before
    /// its jobs were listed: repeat the request then.
    pub ended_at: Option<DateTime<Utc>>,
    /// When the list of its jobs was complete.
    pub listed_at: Option<DateTime<Utc>>,
    /// Jobs that were erased.
    pub done: i64,
    /// Jobs that still run or were not reached yet.
    pub to_come: i64,
    /// Jobs that remain in Redis.
    pub left: i64,
    /// Counts at the end: attempts, and places as in the answer to the erasure.
    pub counts: Option<Value>,
}

/// Data and result of an attempt, exactly as they were written.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptBody {
    /// When the job was created, Unix milliseconds.
    pub job_created_ms: i64,
    /// Which start of the job this was, from 1.
    pub started: i32,
    /// When the attempt ended.
    pub finished_at: DateTime<Utc>,
    /// The job's data.
    #[schema(value_type = Value)]
    pub data: Option<Box<RawValue>>,
    /// Result of the attempt.
    #[schema(value_type = Value)]
    pub result: Option<Box<RawValue>>,
    /// Why data and result are not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}
