//! Queues: how they stand, and what operators do to whole ones.

pub use patchbay_model::queue::{LegacyRepeatable, QueueCounts, QueueOverview};

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
    /// Every queue in Redis, in active manifests, and with history.
    QueuesList = "queues.list": GET "/api/admin/queues" ((), NoQuery, NoBody) -> List<QueueOverview>,
        Operator, Reads, errors [];
    /// Show a queue: counts, ages, limits, workers; rates and durations by name of job.
    QueuesShow = "queues.show": GET "/api/admin/queues/{queue}" (QueuePath, NoQuery, NoBody) -> Data<Queue>,
        Operator, Reads, errors [];
    /// Say why a queue does not move, and what to do next.
    QueuesWhy = "queues.why": GET "/api/admin/queues/{queue}/why" (QueuePath, NoQuery, NoBody) -> List<Reason>,
        Operator, Reads, errors [];
    /// Pause a queue for every worker everywhere; running jobs go on.
    QueuesPause = "queues.pause": POST "/api/admin/queues/{queue}/pause" (QueuePath, NoQuery, NoBody) -> Data<Done>,
        Operator, Changes, audit "queue.pause", errors [409 "BullMQ 5 works on the same queues, and would lose jobs at the resume"];
    /// Let workers take jobs from a queue again.
    QueuesResume = "queues.resume": POST "/api/admin/queues/{queue}/resume" (QueuePath, NoQuery, NoBody) -> Data<Done>,
        Operator, Changes, audit "queue.resume", errors [];
    /// Pause every queue.
    QueuesPauseAll = "queues.pause_all": POST "/api/admin/queues/pause" ((), NoQuery, Json<EveryQueue>) -> Data<AllDone>,
        Operator, Changes, audit "queue.pause", errors [409 "BullMQ 5 works on the same queues, and would lose jobs at the resume"];
    /// Resume every queue.
    QueuesResumeAll = "queues.resume_all": POST "/api/admin/queues/resume" ((), NoQuery, Json<EveryQueue>) -> Data<AllDone>,
        Operator, Changes, audit "queue.resume", errors [];
    /// Remove the jobs that wait.
    QueuesDrain = "queues.drain": POST "/api/admin/queues/{queue}/drain" (QueuePath, NoQuery, Json<Drain>) -> Data<Done>,
        Operator, Destroys("this forgets every job that waits"), audit "queue.drain", errors [];
    /// Remove jobs in one state.
    QueuesClean = "queues.clean": POST "/api/admin/queues/{queue}/clean" (QueuePath, NoQuery, Json<Clean>) -> Data<Done>,
        Operator, Destroys("this forgets jobs"), audit "queue.clean", errors [];
    /// Put all jobs in one state back into the queue: retry all, or promote all.
    QueuesPutBack = "queues.put_back": POST "/api/admin/queues/{queue}/put-back" (QueuePath, NoQuery, Json<PutBack>) -> Data<Done>,
        Operator, Changes, audit "queue.put-back", errors [];
    /// Remove a queue with all its jobs, finished ones included. History stays.
    QueuesObliterate = "queues.obliterate": POST "/api/admin/queues/{queue}/obliterate" (QueuePath, NoQuery, Json<Obliterate>) -> Data<Done>,
        Operator, Destroys("this forgets every job of the queue"), audit "queue.obliterate", errors [409 "Jobs of it run"];
    /// Limit how many jobs of a queue run at once over all workers everywhere.
    QueuesConcurrency = "queues.concurrency": PUT "/api/admin/queues/{queue}/concurrency" (QueuePath, NoQuery, Json<Concurrency>) -> Nothing,
        Operator, Changes, audit "queue.concurrency", errors [];
    /// Limit how many jobs of a queue start per time over all workers everywhere.
    QueuesRateLimit = "queues.rate_limit": PUT "/api/admin/queues/{queue}/rate-limit" (QueuePath, NoQuery, Json<Rate>) -> Nothing,
        Operator, Changes, audit "queue.rate-limit", errors [];
    /// Make legacy repeatables schedules with the same rhythm, name and data, and take them out.
    QueuesMigrateRepeatables = "queues.migrate_repeatables": POST "/api/admin/queues/{queue}/migrate-repeatables"
        (QueuePath, NoQuery, Json<MigrateRepeatables>) -> List<MigratedRepeatable>,
        Operator, Changes, audit "queue.migrate-repeatables", errors [];
}

/// A queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// How it stands in Redis.
    #[serde(flatten)]
    pub overview: QueueOverview,
    /// The plugin that handles it, active on this host.
    pub plugin: Option<String>,
    /// Ours and others'.
    pub workers: Vec<String>,
    /// The last day's attempts by name of job.
    pub jobs: Vec<JobStatistics>,
}

/// Attempts of a queue's jobs of one name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatistics {
    /// The job's name.
    pub name: String,
    /// Attempts that ended in the last minute.
    pub last_minute: i64,
    /// In the last quarter of an hour.
    #[serde(rename = "last15Minutes")]
    pub last_15_minutes: i64,
    /// In the last day.
    pub last_day: i64,
    /// Of the last day's, those that did not complete.
    pub not_completed: i64,
    /// Median duration of the last day's, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

/// Why a queue does not move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Stable, kebab-case.
    pub code: String,
    /// What is the case.
    pub message: String,
    /// What to do next.
    pub next: String,
}

/// How much was done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Jobs, or queues where whole queues are meant.
    pub count: u64,
}

/// What was done to every queue.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AllDone {
    /// Queues.
    pub count: u64,
    /// Those to which it could not be done.
    pub failures: Vec<Failure>,
}

/// A queue to which something could not be done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The queue.
    pub queue: String,
    /// Why.
    pub message: String,
}

/// Says that every queue is meant. A client turns `queues/./pause`, the path of a queue called `.`, into `queues/pause`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EveryQueue {
    /// Must be true.
    #[serde(default)]
    pub all: bool,
}

/// What to remove.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drain {
    /// Delayed jobs, too; those of schedules stay.
    #[serde(default)]
    pub delayed: bool,
}

/// Which jobs to remove.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clean {
    /// `waiting`, `prioritized`, `delayed`, `completed` or `failed`.
    pub state: JobState,
    /// At least so old, in milliseconds; default 0.
    #[serde(default)]
    pub older_than_ms: u64,
    /// At most so many; default 10000.
    pub limit: Option<u64>,
}

/// Which jobs to put back.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PutBack {
    /// `failed`, `completed`, or `delayed` (those of schedules stay).
    pub state: JobState,
}

/// To be sure.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Obliterate {
    /// The queue's name, once more.
    pub confirm: String,
}

/// A limit over all workers everywhere.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// Jobs at once; absent or null: no limit.
    pub max: Option<u32>,
}

/// A rate over all workers everywhere.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    /// Jobs, at most 2147483648; absent or null: no limit.
    pub max: Option<u64>,
    /// Milliseconds, at most a day; default 1000.
    pub per_ms: Option<u64>,
}

/// Look, or do it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrateRepeatables {
    /// True changes nothing.
    pub dry_run: bool,
}

/// What becomes, or became, of a legacy repeatable.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigratedRepeatable {
    /// As it stands in Redis.
    pub repeatable: LegacyRepeatable,
    /// The schedule that takes its place.
    pub schedule: Option<String>,
    /// Why none does; it stays as it is.
    pub reason: Option<String>,
}
