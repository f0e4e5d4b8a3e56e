//! The history: its state, how long it keeps what, forgetting and erasing, and the data of jobs.

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
    /// How the history does: what waits, what it holds, since when, and for how long.
    HistoryStatus = "history.status": GET "/api/admin/history/status" ((), NoQuery, NoBody) -> Data<Status>,
        Operator, Reads, errors [];
    /// How long attempts are kept.
    HistoryRetention = "history.retention": GET "/api/admin/history/retention" ((), NoQuery, NoBody) -> Data<Retention>,
        Operator, Reads, errors [];
    /// Keep a queue's attempts for so many days.
    HistorySetRetention = "history.set_retention": PUT "/api/admin/history/retention/{queue}" (QueuePath, NoQuery, Json<Keep>) -> Data<Retention>,
        Operator, Changes, audit "history.set-retention", errors [];
    /// Keep a queue's attempts as long as the configuration says.
    HistoryResetRetention = "history.reset_retention": DELETE "/api/admin/history/retention/{queue}"
        (QueuePath, ResetRetention, NoBody) -> Data<Retention>,
        Operator, Changes, audit "history.reset-retention", errors [];
    /// Forget now what is older than it is to be kept; otherwise that happens once an hour.
    HistoryPrune = "history.prune": POST "/api/admin/history/prune" ((), NoQuery, Json<Prune>) -> Data<Pruned>,
        Operator, Destroys("this forgets attempts that are older than they are to be kept"), audit "history.prune", errors [];
    /// Erase a person's data, or a job: jobs that have ended leave Redis, and of every attempt go data, result, message, backtrace and outside
    /// calls; that it happened stays. Jobs that are still to run are left unless `unfinished` is true; jobs that run are erased once they have
    /// ended. Doing it again changes nothing.
    HistoryErase = "history.erase": POST "/api/admin/history/erase" ((), NoQuery, Json<Erase>) -> Data<Erasure>,
        Operator, Destroys("this erases data, results and messages of jobs"), audit "history.erase", errors [404 "There is no such thing"];
    /// Erasures, the newest first: who asked, why, how many jobs it was about, and whether it has ended.
    HistoryErasures = "history.erasures": GET "/api/admin/history/erasures" ((), ListErasures, NoBody) -> List<RecordedErasure>,
        Operator, Reads, errors [];
    /// Data and results of a job, without what its queue's manifest redacts, and without secrets; the newest first. Who reads them is recorded,
    /// and whether with `reveal`, which shows all of it.
    HistoryBodies = "history.bodies": GET "/api/admin/history/bodies/{queue}/{id}" (JobPath, Reveal, NoBody) -> List<AttemptBody>,
        Operator, Reads, audit "history.read-body", errors [];
}

/// What the history is like.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether this host records attempts.
    pub enabled: bool,
    /// What Postgres does not have yet.
    pub stream: StreamStatus,
    /// Whether data and results are kept by this host.
    pub bodies: BodiesKept,
    /// The months' tables.
    pub partitions: Vec<Partition>,
    /// When the oldest attempt ended.
    pub oldest: Option<DateTime<Utc>>,
    /// The last time that old attempts were forgotten.
    pub last_prune: Option<LastPrune>,
    /// How long attempts are kept.
    pub retention: Retention,
}

/// Attempts in Redis that Postgres does not have yet.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// How many.
    pub attempts: u64,
    /// What they take up in Redis.
    pub bytes: u64,
    /// How old the oldest is.
    pub lag_ms: Option<u64>,
    /// Entries that nobody can read or keep.
    pub set_aside: u64,
}

/// Whether data and results are kept.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BodiesKept {
    /// By this host.
    pub kept: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Attempts of one month.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Partition {
    /// Of the table.
    pub name: String,
    /// An estimate.
    pub rows: i64,
    /// With its indexes and terms.
    pub bytes: i64,
}

/// The last time that old attempts were forgotten.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct LastPrune {
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// One by one.
    pub attempts: i64,
    /// Months that went as a whole.
    pub partitions: i32,
    /// Why it failed.
    pub error: Option<String>,
}

/// How long attempts are kept.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// From the configuration.
    pub default: DefaultRetention,
    /// By queue and outcome.
    pub queues: Vec<QueueRetention>,
}

/// How long attempts are kept where nothing else is said.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefaultRetention {
    /// Attempts that completed.
    pub completed_days: i32,
    /// All others.
    pub other_days: i32,
}

/// What an operator has said of a queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct QueueRetention {
    pub queue: String,
    /// Absent: every outcome that has no row of its own.
    pub outcome: Option<String>,
    pub days: i32,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

/// For how long to keep attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Attempts that ended so; absent: each outcome that nothing else is said of.
    #[schema(value_type = Option<String>)]
    pub outcome: Option<OutcomeKind>,
    /// 1 to 36500.
    #[schema(minimum = 1, maximum = 36500)]
    pub days: i32,
}

/// What to reset.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ResetRetention {
    /// Only what was said of this outcome.
    #[param(value_type = Option<String>)]
    pub outcome: Option<OutcomeKind>,
}

/// Whether to do it.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Prune {
    /// Only tell what would be forgotten.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is, or would be, forgotten.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Months that went as a whole.
    pub partitions: Vec<String>,
    /// Attempts in them: an estimate.
    pub attempts_in_partitions: i64,
    /// Attempts of other months, one by one.
    pub attempts: i64,
    /// Whether those are more than were counted.
    pub and_more: bool,
    /// Groups of dead letters of which nothing is left.
    pub dead_letters: i64,
}

/// Whose data, or which job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Erase {
    /// Of a person: where the value stands in the data of jobs, a path that a manifest declares searchable.
    #[schema(value_type = Option<String>)]
    pub path: Option<DataPath>,
    /// What stands there; never recorded.
    pub value: Option<String>,
    /// Only jobs of this queue.
    #[schema(value_type = Option<String>)]
    pub queue: Option<QueueName>,
    /// Only the job with this id; with a queue.
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// For the record, up to 500 characters: a request's number, for example, and no personal data.
    pub reason: String,
    /// Also jobs that are still to run: they are removed and never run.
    #[serde(default)]
    pub unfinished: bool,
    /// Only tell what would be erased.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is, or would be, erased, and what is left.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erasure {
    /// Its number; absent when nothing was done.
    pub erasure: Option<i64>,
    /// Jobs that are erased, those that are left not counted.
    pub jobs: usize,
    /// Attempts of the history.
    pub attempts: i64,
    /// Those of them that have data or a result.
    pub bodies: i64,
    /// There are more such jobs than one request erases: ask again.
    pub and_more: bool,
    /// No active plugin declares the path searchable: attempts that were recorded without that are not found by it.
    pub undeclared: bool,
    /// Attempts that Postgres does not have yet. Those of these jobs are erased as soon as it has them.
    pub waiting: u64,
    /// By place.
    pub places: Places,
    /// Jobs in Redis that are left.
    pub live: Live,
    /// Schedules whose jobs will have the value again: change or remove them.
    pub schedules: Vec<String>,
    /// What this does not reach.
    pub beyond: Vec<String>,
}

/// Where something is erased, and how much of it.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Places {
    /// Jobs in Redis that have ended, or were removed by a bulk operation.
    pub redis_ended: u64,
    /// Jobs in Redis that were still to run, those that de-duplication keeps included.
    pub redis_unfinished: u64,
    /// What parents in flows were told by their children.
    pub flow_results: u64,
    /// Copies for undoing removals.
    pub undo_copies: u64,
    /// Entries in the queues' streams of events.
    pub events: u64,
    /// Keys of plugins' key-value spaces.
    pub key_value: u64,
    /// Entries of the stream of attempts that were set aside.
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
    /// Left, for good: entries of audit trails.
    pub audit_entries_left: u64,
    /// Left until they have ended: bulk operations with the value in their filter.
    pub bulk_operations_left: u64,
    /// Left until they are in a queue: jobs of plugins' transactions.
    pub outbox_left: u64,
}

/// A job in Redis that is left.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveJob {
    /// Its queue.
    pub queue: String,
    /// Its id.
    pub id: String,
    /// Where it is.
    #[serde(deserialize_with = "any_state")]
    #[schema(schema_with = any_state_schema)]
    pub state: JobState,
    /// `running`: erased when it has ended; `unfinished`; `of-schedule`.
    pub why: String,
}

/// What is left in Redis.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// The first hundred.
    pub jobs: Vec<LiveJob>,
    /// All that were found.
    pub found: usize,
    /// Whether every job of these queues was looked at.
    pub complete: bool,
}

/// Which part of the list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListErasures {
    /// Behind the page whose `nextCursor` this is.
    pub cursor: Option<i64>,
    /// 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// An erasure as it is recorded.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RecordedErasure {
    pub id: i64,
    /// Of a person: where the value stood.
    pub path: Option<String>,
    pub queue: Option<String>,
    pub job_id: Option<String>,
    /// Whether jobs that were still to run were erased, too.
    pub unfinished: bool,
    /// Who asked.
    pub actor: String,
    pub reason: String,
    pub began_at: DateTime<Utc>,
    /// Absent while jobs of it are still to be erased; and for one that was cut short before they were known: ask for it again.
    pub ended_at: Option<DateTime<Utc>>,
    /// When its jobs were known.
    pub listed_at: Option<DateTime<Utc>>,
    /// Jobs that were erased.
    pub done: i64,
    /// Jobs that run, or were not reached yet.
    pub to_come: i64,
    /// Jobs that stay in Redis.
    pub left: i64,
    /// What was counted at its end: attempts, and places as in the answer to the erasure.
    pub counts: Option<Value>,
}

/// Data and result that an attempt ended with, as they were written.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptBody {
    /// When the job was made, Unix milliseconds.
    pub job_created_ms: i64,
    /// Which start of the job this was, from 1.
    pub started: i32,
    /// When the attempt ended.
    pub finished_at: DateTime<Utc>,
    /// The job's data.
    #[schema(value_type = Value)]
    pub data: Option<Box<RawValue>>,
    /// What it returned.
    #[schema(value_type = Value)]
    pub result: Option<Box<RawValue>>,
    /// Why neither is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}
