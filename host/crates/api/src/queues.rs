//! Queues: their state, and operations on whole queues.

pub use patchbay_model::queue::{LegacyRepeatable, PausedBy, QueueCounts, QueueOverview};

use chrono::{DateTime, Utc};
use patchbay_model::job::JobState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::{Data, List, Nothing};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// A queue.
    QueuePath {
        /// Name of the queue
        queue: String,
    }
}

operations! {
    /// List every queue: those in Redis, in active manifests, and in the history. While Postgres
    /// cannot be reached the list is `partial`: without queues that are only in the history.
    QueuesList = "queues.list": GET "/api/admin/queues" ((), NoQuery, NoBody) -> List<QueueOverview>,
        Viewer, Reads, errors [];
    /// Show a queue: counts, ages, limits, workers, and rates and durations per job name.
    QueuesShow = "queues.show": GET "/api/admin/queues/{queue}" (QueuePath, NoQuery, NoBody) -> Data<Queue>,
        Viewer, Reads, errors [];
    /// Explain why a queue makes no progress, and what to do next.
    QueuesWhy = "queues.why": GET "/api/admin/queues/{queue}/why" (QueuePath, NoQuery, NoBody) -> List<Reason>,
        Viewer, Reads, errors [];
    /// Pause a queue for every worker on all hosts; running jobs continue.
    QueuesPause = "queues.pause": POST "/api/admin/queues/{queue}/pause" (QueuePath, NoQuery, NoBody) -> Data<Switched>,
        Operator, Changes, audit "queue.pause", errors [409 "BullMQ 5 works on the same queues, and its resume would lose jobs"];
    /// Resume a queue: workers take its jobs again.
    QueuesResume = "queues.resume": POST "/api/admin/queues/{queue}/resume" (QueuePath, NoQuery, NoBody) -> Data<Switched>,
        Operator, Changes, audit "queue.resume", errors [];
    /// Pause every queue.
    QueuesPauseAll = "queues.pause_all": POST "/api/admin/queues/pause" ((), NoQuery, Json<EveryQueue>) -> Data<AllDone>,
        Operator, Changes, audit "queue.pause", errors [409 "BullMQ 5 works on the same queues, and its resume would lose jobs"];
    /// Resume every queue.
    QueuesResumeAll = "queues.resume_all": POST "/api/admin/queues/resume" ((), NoQuery, Json<EveryQueue>) -> Data<AllDone>,
        Operator, Changes, audit "queue.resume", errors [];
    /// Remove the waiting jobs of a queue; with `dryRun`, only count them.
    QueuesDrain = "queues.drain": POST "/api/admin/queues/{queue}/drain" (QueuePath, NoQuery, Json<Drain>) -> Data<Cleared>,
        Operator, Destroys("removes every waiting job of the queue"), audit "queue.drain", errors [];
    /// Remove jobs in one state; with `dryRun`, only count them. A removal by `bulk.begin` can be
    /// undone; this one cannot.
    QueuesClean = "queues.clean": POST "/api/admin/queues/{queue}/clean" (QueuePath, NoQuery, Json<Clean>) -> Data<Cleared>,
        Operator, Destroys("removes jobs of the queue"), audit "queue.clean", errors [];
    /// Put all jobs in one state back into the queue: retries failed or completed jobs, promotes
    /// delayed ones; with `dryRun`, only count them.
    QueuesPutBack = "queues.put_back": POST "/api/admin/queues/{queue}/put-back" (QueuePath, NoQuery, Json<PutBack>) -> Data<Done>,
        Operator, Changes, audit "queue.put-back", errors [];
    /// Remove a queue with all its jobs, finished ones included. Its history is kept.
    QueuesObliterate = "queues.obliterate": POST "/api/admin/queues/{queue}/obliterate" (QueuePath, NoQuery, Json<Obliterate>) -> Data<Done>,
        Owner, Destroys("removes the queue with all its jobs"), audit "queue.obliterate", errors [409 "Some of its jobs are running"];
    /// Limit how many jobs of a queue run at the same time, over all workers.
    QueuesConcurrency = "queues.concurrency": PUT "/api/admin/queues/{queue}/concurrency" (QueuePath, NoQuery, Json<Concurrency>) -> Nothing,
        Operator, Changes, audit "queue.concurrency", errors [];
    /// Limit how many jobs of a queue start per period, over all workers.
    QueuesRateLimit = "queues.rate_limit": PUT "/api/admin/queues/{queue}/rate-limit" (QueuePath, NoQuery, Json<Rate>) -> Nothing,
        Operator, Changes, audit "queue.rate-limit", errors [];
    /// Convert legacy repeatables to schedules with the same rhythm, name and data, and remove the
    /// repeatables.
    QueuesMigrateRepeatables = "queues.migrate_repeatables": POST "/api/admin/queues/{queue}/migrate-repeatables"
        (QueuePath, NoQuery, Json<MigrateRepeatables>) -> List<MigratedRepeatable>,
        Owner, Changes, audit "queue.migrate-repeatables", errors [];
}

/// A queue with its workers and statistics.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// State of the queue in Redis.
    #[serde(flatten)]
    pub overview: QueueOverview,
    /// The plugin active on this host that handles the queue.
    pub plugin: Option<String>,
    /// Workers of Patchbay and of other BullMQ clients.
    pub workers: Vec<String>,
    /// Attempts of the last day, per job name.
    pub jobs: Vec<JobStatistics>,
    /// Why `jobs` is not known now: Postgres cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// Statistics of a queue's attempts for one job name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatistics {
    /// Name of the jobs.
    pub name: String,
    /// Attempts that ended in the last minute.
    pub last_minute: i64,
    /// Attempts that ended in the last 15 minutes.
    #[serde(rename = "last15Minutes")]
    pub last_15_minutes: i64,
    /// Attempts that ended in the last day.
    pub last_day: i64,
    /// Attempts of the last day that did not complete.
    pub not_completed: i64,
    /// Median duration in the last day, in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile of the duration in the last day, in milliseconds.
    pub p95_ms: f64,
    /// 99th percentile of the duration in the last day, in milliseconds.
    pub p99_ms: f64,
}

/// Why a queue makes no progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Stable reason code in kebab-case.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do next.
    pub next: String,
}

/// Result of an operation on jobs of a queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Number of jobs. After a dry run: how many it would be at most.
    pub count: u64,
}

/// Result of removing jobs of a queue in one state.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cleared {
    /// Number of jobs. After a dry run: how many it would be at most.
    pub count: u64,
    /// Waiting jobs that a bulk operation had removed before. They are not among `count`, and
    /// undoing that operation still restores them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removed_before: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Result of pausing or resuming a queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Switched {
    /// Number of queues that it changed: 1, or 0 if there is `already`.
    pub count: u64,
    /// Nothing has changed, because the queue was paused, or not paused, already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already: Option<Already>,
}

/// Who had paused or resumed a queue before. Empty where this is not recorded: another BullMQ client
/// did it, or nobody ever has.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Already {
    /// The operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Result of an operation on every queue.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AllDone {
    /// Number of queues that it changed.
    pub count: u64,
    /// Their names.
    #[serde(default)]
    pub queues: Vec<String>,
    /// Names of the queues that were paused, or not paused, already: they stay as they were, also who
    /// did it and why.
    #[serde(default)]
    pub unchanged: Vec<String>,
    /// Queues for which the operation failed.
    pub failures: Vec<Failure>,
}

/// A queue for which an operation failed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// Name of the queue.
    pub queue: String,
    /// Why it failed.
    pub message: String,
}

/// Confirms that every queue is meant. It is needed because a client turns `queues/./pause`, the
/// path of a queue named `.`, into `queues/pause`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EveryQueue {
    /// Must be true.
    #[serde(default)]
    pub all: bool,
}

/// Options of draining a queue.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drain {
    /// Also remove delayed jobs, except those of schedules.
    #[serde(default)]
    pub delayed: bool,
    /// Only count the jobs.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which jobs to remove.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clean {
    /// `waiting`, `prioritized`, `delayed`, `completed` or `failed`.
    pub state: JobState,
    /// Minimum age in milliseconds; default 0.
    #[serde(default)]
    pub older_than_ms: u64,
    /// Maximum number of jobs to remove; default 10000.
    pub limit: Option<u64>,
    /// Only count the jobs.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which jobs to put back.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PutBack {
    /// `failed`, `completed`, or `delayed` (jobs of schedules are skipped).
    pub state: JobState,
    /// Only count the jobs.
    #[serde(default)]
    pub dry_run: bool,
}

/// Confirmation of removing a whole queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Obliterate {
    /// The name of the queue, repeated; or give it in the query, as for other operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
}

/// Concurrency limit over all workers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// Jobs at the same time; absent or null: no limit.
    pub max: Option<u32>,
}

/// Rate limit over all workers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    /// Jobs per period, at most 2147483648; absent or null: no limit.
    pub max: Option<u64>,
    /// Period in milliseconds, at most a day; default 1000.
    pub per_ms: Option<u64>,
}

/// Options of converting legacy repeatables.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrateRepeatables {
    /// True: only show what would happen.
    pub dry_run: bool,
}

/// Result of converting a legacy repeatable.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigratedRepeatable {
    /// The repeatable in Redis.
    pub repeatable: LegacyRepeatable,
    /// Id of the schedule that replaces it.
    pub schedule: Option<String>,
    /// Why it was not converted; it stays unchanged.
    pub reason: Option<String>,
}
