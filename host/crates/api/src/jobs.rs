//! Jobs of a queue: list, show, search, add, and what operators do to one.

pub use patchbay_model::job_view::{JobView, ScannedJob};

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
    /// Jobs in one state, without what their queue's manifest redacts, and without secrets.
    JobsList = "jobs.list": GET "/api/admin/queues/{queue}/jobs" (QueuePath, ListJobs, NoBody) -> List<RedactedJob>,
        Operator, Reads, audit "queue.reveal-jobs", errors [];
    /// Search the jobs of one state in Redis, one by one: at most 20,000 of them, or for a second, per request. `partial` says that there are more.
    QueuesLive = "queues.live": GET "/api/admin/queues/{queue}/search" (QueuePath, SearchJobs, NoBody) -> List<ScannedJob>,
        Operator, Reads, errors [];
    /// Add a job.
    JobsAdd = "jobs.add": POST "/api/admin/queues/{queue}/jobs" (QueuePath, NoQuery, Json<AddJob>) -> Data<Added>,
        Operator, Changes, audit "job.add", errors [404 "nobody knows the queue"];
    /// Show a job: its data, state, failure, logs and attempts, without what its queue's manifest redacts, and without secrets. With `reveal` all
    /// of it; that is recorded.
    JobsShow = "jobs.show": GET "/api/admin/queues/{queue}/jobs/{id}" (JobPath, Reveal, NoBody) -> Data<Job>,
        Operator, Reads, audit "job.reveal", errors [];
    /// Put a failed or completed job back into the queue.
    JobsRetry = "jobs.retry": POST "/api/admin/queues/{queue}/jobs/{id}/retry" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "job.retry", errors [409 "it is not finished"];
    /// Remove a job that does not run.
    JobsRemove = "jobs.remove": DELETE "/api/admin/queues/{queue}/jobs/{id}" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Destroys("this forgets the job"), audit "job.remove", errors [409 "it runs, or belongs to a schedule"];
    /// Run a delayed job now.
    JobsPromote = "jobs.promote": POST "/api/admin/queues/{queue}/jobs/{id}/promote" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "job.promote", errors [409 "not delayed, or of a schedule"];
    /// End a job that runs, in whichever host process it does. It fails for good.
    JobsKill = "jobs.kill": POST "/api/admin/queues/{queue}/jobs/{id}/kill" (JobPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "job.kill", errors [409 "it does not run, or not here"];
    /// Replace the data of a job that does not run.
    JobsSetData = "jobs.set_data": PUT "/api/admin/queues/{queue}/jobs/{id}/data" (JobPath, NoQuery, AnyDocument) -> Nothing,
        Operator, Destroys("this replaces the job's data"), audit "job.set-data", errors [409 "It clashes with the present state"];
    /// Change when a delayed job starts.
    JobsSetDelay = "jobs.set_delay": PUT "/api/admin/queues/{queue}/jobs/{id}/delay" (JobPath, NoQuery, Json<Delay>) -> Nothing,
        Operator, Changes, audit "job.set-delay", errors [409 "It clashes with the present state"];
    /// Change a waiting job's priority.
    JobsSetPriority = "jobs.set_priority": PUT "/api/admin/queues/{queue}/jobs/{id}/priority" (JobPath, NoQuery, Json<Priority>) -> Nothing,
        Operator, Changes, audit "job.set-priority", errors [409 "It clashes with the present state"];
}

/// Which jobs to list.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListJobs {
    /// `waiting`, `prioritized`, `delayed`, `waiting-children`, `active`, `completed` or `failed`.
    #[param(inline)]
    pub state: JobState,
    /// From this place on, at most 2147483648; default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Behind the page whose `nextCursor` this is: skips nothing when jobs come and go meanwhile, but may repeat some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// At least 1; more than 200 mean 200; default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// True shows what is hidden, too; that is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reveal: bool,
    /// Why, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which jobs of one state to look for: names and values, since any path of their data may be among the names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SearchJobs(pub Vec<(String, String)>);

impl IntoParams for SearchJobs {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        SearchJobsParameters::into_params(parameter_in_provider)
    }
}

/// What [`SearchJobs`] may hold.
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct SearchJobsParameters {
    /// `waiting`, `prioritized`, `delayed`, `waiting-children`, `active`, `completed` or `failed`
    #[param(inline)]
    state: JobState,
    /// its id
    job: Option<String>,
    name: Option<String>,
    /// ended, or made while it has not ended, at this time or later (RFC 3339)
    from: Option<String>,
    /// before this time
    to: Option<String>,
    /// of its last failure
    code: Option<String>,
    /// a part of its last failure's text; no pattern
    text: Option<String>,
    /// a value in its data, at any path
    #[param(rename = "data.<path>")]
    data: Option<String>,
    #[param(rename = "correlation-id")]
    correlation_id: Option<String>,
    platform: Option<String>,
    /// behind the page whose `nextCursor` this is
    cursor: Option<String>,
    /// 1 to 200; default 50
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u16>,
}

/// A job without what is hidden.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RedactedJob {
    /// As it stands in Redis.
    #[serde(flatten)]
    pub job: JobView,
    /// How many values are hidden.
    pub hidden: usize,
}

/// A job with its log and attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// As it stands in Redis.
    pub job: RedactedJob,
    /// The newest lines of its log, oldest first.
    pub logs: Vec<String>,
    /// From Postgres: also those that BullMQ has forgotten. The newest may be missing for a second.
    pub attempts: Vec<Attempt>,
}

/// A job to be added.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddJob {
    /// The kind of work.
    pub name: String,
    /// Its input, whatever JSON it is; default `{}`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub data: Option<Box<RawValue>>,
    /// Not a whole number, no `:`, and not one of the queue's own keys, such as `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Start no earlier than this from now, milliseconds; at most five years.
    #[schema(maximum = 157_680_000_000_u64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// 1 (first) to 2097152; 0 comes before them, whatever the manifest says.
    #[schema(maximum = 2097152)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Before everything that waits without priority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lifo: bool,
    /// In all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Between attempts.
    #[serde(default, deserialize_with = "object_or_null", skip_serializing_if = "Option::is_none")]
    pub backoff: Option<BackoffBody>,
    /// Only one job per id.
    #[serde(default, deserialize_with = "object_or_null", skip_serializing_if = "Option::is_none")]
    pub deduplication: Option<DeduplicationBody>,
    /// Do not run after this, Unix milliseconds: taken later, it fails for good as `expired`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// As BullMQ's: `true` (at once), `false` (never), a number of jobs to keep, or `{"age": seconds, "count": jobs}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub remove_on_complete: Option<Value>,
    /// Likewise for a job that has failed for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub remove_on_fail: Option<Value>,
    /// Make the queue if nobody knows it; without, that is refused as a typo.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_queue: bool,
}

/// `null` is a value of its own, as in BullMQ, and not the absence of one.
pub fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// How long to wait between attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackoffBody {
    /// `fixed` or `exponential`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: BackoffKind,
    /// The first delay.
    pub delay_ms: u64,
    /// No delay is longer.
    pub max_ms: Option<u64>,
    /// 0.0 to 1.0: share of the delay that is random.
    pub jitter: Option<f64>,
}

/// BullMQ's modes: `ttlMs` throttles; with `extend` and `replace` on a delayed job it debounces.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeduplicationBody {
    /// One job per this id.
    pub id: String,
    /// For so long; absent: while the first one is unfinished.
    pub ttl_ms: Option<u64>,
    /// Each repeat starts the time anew.
    #[serde(default)]
    pub extend: bool,
    /// While the first is still delayed, the newest takes its place.
    #[serde(default)]
    pub replace: bool,
    /// A repeat that comes while the first one runs is kept, and runs after it.
    #[serde(default)]
    pub keep_last_if_active: bool,
}

/// Where a job went.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Added {
    /// Its queue.
    pub queue: String,
    /// The id that it has there.
    pub id: String,
}

/// A delay.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delay {
    /// From now, milliseconds; at most five years.
    #[schema(maximum = 157_680_000_000_u64)]
    pub delay_ms: u64,
}

/// A priority.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Priority {
    /// 1 (first) to 2097152; 0 is before all of them.
    #[schema(maximum = 2097152)]
    pub priority: u32,
}
