//! Jobs of a queue: list, show, search and add them, and change a single one.

pub use patchbay_model::job_view::{JobView, ScannedJob};

use chrono::{DateTime, Utc};
use patchbay_model::job::JobState;
use patchbay_model::retry::BackoffKind;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List, Nothing};
use crate::attempts::Attempt;
use crate::body::{AnyDocument, Json, NoBody, object_or_null};
use crate::operation::NoQuery;
use crate::queues::QueuePath;
use crate::reveal::Reveal;
use crate::{operations, path_params};

path_params! {
    /// A job.
    JobPath {
        /// Name of the queue
        queue: String,
        /// The job's id
        id: String,
    }
}

operations! {
    /// List the jobs in one state. Values that the queue's manifest redacts, and secrets, are
    /// hidden.
    JobsList = "jobs.list": GET "/api/admin/queues/{queue}/jobs" (QueuePath, ListJobs, NoBody) -> List<RedactedJob>,
        Viewer, Reads, audit "queue.reveal-jobs",
        data Shown(&["data", "failedReason", "progress", "returnValue", "stacktrace"]), errors [];
    /// Search the jobs of one state in Redis, one by one: at most 20,000 jobs or one second per
    /// request. If `partial` is true, there are more.
    QueuesLive = "queues.live": GET "/api/admin/queues/{queue}/search" (QueuePath, SearchJobs, NoBody) -> List<ScannedJob>,
        Viewer, Reads, data Shown(&["failedReason"]), errors [];
    /// Add a job. It must fit the job names and JSON Schemas that the queue's active plugin
    /// declares, unless `force` is true.
    JobsAdd = "jobs.add": POST "/api/admin/queues/{queue}/jobs" (QueuePath, NoQuery, Json<AddJob>) -> Data<Added>,
        Operator, Changes, audit "job.add", errors [
            404 "the queue is unknown",
            422 "`does-not-fit`: the plugin of the queue declares no such job, or other data; or the body does not have the expected form",
        ];
    /// Add many jobs to a queue, at most 1000 at once; with `dryRun`, only check them. All are
    /// checked, as by `jobs.add`, before the first one is added.
    JobsAddMany = "jobs.add_many": POST "/api/admin/queues/{queue}/add-jobs" (QueuePath, NoQuery, Json<AddJobs>) -> List<Added>,
        Operator, Changes, audit "job.add-many", errors [
            404 "the queue is unknown",
            422 "`does-not-fit`: the plugin of the queue declares no such job, or other data; or the body does not have the expected form",
        ];
    /// Show a job: its data, state, failure, logs and attempts. Values that the queue's manifest
    /// redacts, and secrets, are hidden; `reveal` shows them, which is recorded.
    JobsShow = "jobs.show": GET "/api/admin/queues/{queue}/jobs/{id}" (JobPath, Reveal, NoBody) -> Data<Job>,
        Viewer, Reads, audit "job.reveal",
        data Shown(&["data", "failedReason", "logs", "message", "progress", "returnValue", "stack", "stacktrace"]), errors [];
    /// Retry a job: put a failed or completed job back into the queue.
    JobsRetry = "jobs.retry": POST "/api/admin/queues/{queue}/jobs/{id}/retry" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "job.retry", errors [409 "it is not finished"];
    /// Remove a job that is not running.
    JobsRemove = "jobs.remove": DELETE "/api/admin/queues/{queue}/jobs/{id}" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Destroys("removes the job"), audit "job.remove", errors [409 "it runs, or belongs to a schedule"];
    /// Add a new job like this one: the same name, data, priority and attempts. Everything that it
    /// does happens again.
    JobsDuplicate = "jobs.duplicate": POST "/api/admin/queues/{queue}/jobs/{id}/duplicate" (JobPath, NoQuery, Json<DuplicateJob>) -> Data<Added>,
        Operator, Changes, audit "job.duplicate", errors [
            409 "its options cannot be read",
            422 "`does-not-fit`: the plugin of the queue declares other data; or the body does not have the expected form",
        ];
    /// Run a delayed job now.
    JobsPromote = "jobs.promote": POST "/api/admin/queues/{queue}/jobs/{id}/promote" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "job.promote", errors [409 "it is not delayed, or belongs to a schedule"];
    /// Kill a running job, in whichever host process it runs. It fails for good.
    JobsKill = "jobs.kill": POST "/api/admin/queues/{queue}/jobs/{id}/kill" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "job.kill", errors [409 "it does not run, or not here"];
    /// Replace the data of a job that is not running. The data must fit the JSON Schema that the
    /// queue's active plugin declares for the job, unless `force` is true.
    JobsSetData = "jobs.set_data": PUT "/api/admin/queues/{queue}/jobs/{id}/data" (JobPath, Force, AnyDocument) -> Nothing,
        Operator, Destroys("replaces the data of the job"), audit "job.set-data", data Needed, errors [
            409 "It conflicts with the present state",
            422 "`does-not-fit`: the plugin of the queue declares other data for the job",
        ];
    /// Change when a delayed job starts.
    JobsSetDelay = "jobs.set_delay": PUT "/api/admin/queues/{queue}/jobs/{id}/delay" (JobPath, NoQuery, Json<Delay>) -> Nothing,
        Operator, Changes, audit "job.set-delay", errors [409 "It conflicts with the present state"];
    /// Change the priority of a waiting job.
    JobsSetPriority = "jobs.set_priority": PUT "/api/admin/queues/{queue}/jobs/{id}/priority" (JobPath, NoQuery, Json<Priority>) -> Nothing,
        Operator, Changes, audit "job.set-priority", errors [409 "It conflicts with the present state"];
}

/// Which jobs to list.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListJobs {
    /// `waiting`, `prioritized`, `delayed`, `waiting-children`, `active`, `completed` or `failed`.
    #[param(inline)]
    pub state: JobState,
    /// Skip this many jobs, at most 2147483648; default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// `nextCursor` of the page before. It skips no job when jobs come and go meanwhile, but may
    /// repeat some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Jobs per page, at least 1; values above 200 mean 200; default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// True also shows hidden values; this is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reveal: bool,
    /// Why, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether something is done although it does not fit what a plugin declares.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Force {
    /// True also accepts what does not fit the plugin of the queue; this is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Filter for jobs of one state, as names and values, because any path of the data can be a name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SearchJobs(pub Vec<(String, String)>);

impl IntoParams for SearchJobs {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        SearchJobsParameters::into_params(parameter_in_provider)
    }
}

/// The parameters of [`SearchJobs`].
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct SearchJobsParameters {
    /// `waiting`, `prioritized`, `delayed`, `waiting-children`, `active`, `completed` or `failed`
    #[param(inline)]
    state: JobState,
    /// id of the job
    job: Option<String>,
    name: Option<String>,
    /// ended at this time or later, or created then if it has not ended (RFC 3339)
    from: Option<String>,
    /// before this time
    to: Option<String>,
    /// error code of its last failure
    code: Option<String>,
    /// part of the message of its last failure; not a pattern
    text: Option<String>,
    /// value in its data, at any path
    #[param(rename = "data.<path>")]
    data: Option<String>,
    #[param(rename = "correlation-id")]
    correlation_id: Option<String>,
    platform: Option<String>,
    /// `nextCursor` of the page before
    cursor: Option<String>,
    /// jobs per page, 1 to 200; default 50
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u16>,
}

/// A job with redacted values hidden.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RedactedJob {
    /// The job in Redis.
    #[serde(flatten)]
    pub job: JobView,
    /// Number of hidden values.
    pub hidden: usize,
}

/// A job with its log and its attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The job in Redis.
    pub job: RedactedJob,
    /// The newest lines of its log, oldest first.
    pub logs: Vec<String>,
    /// Attempts from Postgres, including those that BullMQ has forgotten. The newest may be missing
    /// for a second.
    pub attempts: Vec<Attempt>,
    /// How often it may run, by its own options and those of its queue's plugin.
    pub retries: Retries,
    /// The last change by an operator, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<LastChange>,
    /// The job of which this one is a copy, if an operator made it with `job duplicate` or
    /// `bulk enqueue-again`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<CopyOf>,
    /// Copies that operators have made of this job in these ways, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopyOf>,
    /// The bulk operation that has removed this job, if it can be undone now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<i64>,
    /// The schedule that an operator ran with `schedule run`, if that added this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_run: Option<ScheduleRun>,
    /// Why `attempts`, `last_change`, `copy_of`, `copies` and `schedule_run` are not known now:
    /// Postgres cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// How a job was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyOf {
    /// The original, or of an original the copy: its queue and id with `/` between them.
    pub job: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// Why, in the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Who ran a schedule beside its ticks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRun {
    /// Id of the schedule.
    pub schedule: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// Why, in the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How often a job may run.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Attempts in all.
    pub attempts: u32,
    /// Attempts that are left; 0 for a job that has ended.
    pub left: u32,
    /// The delay between attempts in words, such as `exponential from 1000 ms`; absent: none.
    pub backoff: Option<String>,
}

/// What somebody did last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastChange {
    /// When.
    pub at: DateTime<Utc>,
    /// Who: an operator, a plugin, or `host NAME`.
    pub actor: String,
    /// What, such as `job.retry`.
    pub action: String,
    /// Why, in the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is different in a copy of a job.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DuplicateJob {
    /// Other data; absent: that of the job.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Value>)]
    pub data: Option<Box<RawValue>>,
    /// Delay before the start, in milliseconds from now.
    #[schema(maximum = 157_680_000_000_u64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Add the copy although its data do not fit what the queue's active plugin declares; this is
    /// recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A job to add.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddJob {
    /// Name of the job: the kind of work.
    pub name: String,
    /// Input of the job, any JSON; default `{}`.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Value>)]
    pub data: Option<Box<RawValue>>,
    /// Id of the job. Not a whole number, without `:`, and not a key of the queue itself, such as
    /// `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Delay before the start, in milliseconds from now; at most five years.
    #[schema(maximum = 157_680_000_000_u64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// 1 (first) to 2097152. 0 comes before all of them and overrides the priority in the manifest.
    #[schema(maximum = 2097152)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Put it before all waiting jobs without a priority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lifo: bool,
    /// Maximum number of attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Delay between attempts.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub backoff: Option<BackoffBody>,
    /// Add only one job per id.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub deduplication: Option<DeduplicationBody>,
    /// Latest start, Unix milliseconds. Taken later, the job fails for good as `expired`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// Retention once completed, as in BullMQ: `true` (remove at once), `false` (keep), a number of
    /// jobs to keep, or `{"age": seconds, "count": jobs}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub remove_on_complete: Option<Value>,
    /// Retention once failed for good; values as in `removeOnComplete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub remove_on_fail: Option<Value>,
    /// Create the queue if it is unknown. Without this, an unknown queue is refused as a typo.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_queue: bool,
    /// Add the job although the queue's active plugin does not declare its name, or other data;
    /// this is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Jobs to add to one queue.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddJobs {
    /// The jobs, 1 to 1000. Their own `newQueue` and `force` count, too.
    pub jobs: Vec<AddJob>,
    /// Create the queue if it is unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_queue: bool,
    /// Add the jobs although they do not fit the plugin of the queue; this is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Only check them. The answer is empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Keeps `null` as a value, as BullMQ does, and distinguishes it from an absent field.
pub fn given<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Delay between attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackoffBody {
    /// `fixed` or `exponential`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: BackoffKind,
    /// First delay, in milliseconds.
    pub delay_ms: u64,
    /// Longest delay, in milliseconds.
    pub max_ms: Option<u64>,
    /// Random share of the delay, 0.0 to 1.0.
    pub jitter: Option<f64>,
}

/// De-duplication modes of BullMQ: `ttlMs` throttles; with `extend` and `replace` on a delayed job
/// it debounces.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeduplicationBody {
    /// Only one job is added per this id.
    pub id: String,
    /// Time window in milliseconds; absent: as long as the first job is unfinished.
    pub ttl_ms: Option<u64>,
    /// Each repeat restarts the time window.
    #[serde(default)]
    pub extend: bool,
    /// While the first job is delayed, the newest one replaces it.
    #[serde(default)]
    pub replace: bool,
    /// A repeat that arrives while the first job runs is kept, and runs after it.
    #[serde(default)]
    pub keep_last_if_active: bool,
}

/// The queue and id of an added job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Added {
    /// Name of the queue.
    pub queue: String,
    /// Id of the job in that queue.
    pub id: String,
    /// True: a job with the given id was there before, and nothing was added.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub known: bool,
}

/// A delay for a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delay {
    /// Delay from now, in milliseconds.
    #[schema(maximum = 157_680_000_000_u64)]
    pub delay_ms: u64,
}

/// A priority for a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Priority {
    /// 1 (first) to 2097152; 0 comes before all of them.
    #[schema(maximum = 2097152)]
    pub priority: u32,
}
