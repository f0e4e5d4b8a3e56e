//! /api/admin/queues/…: what operators do to whole queues. Every answer says how many jobs it touched.

use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use patchbay_model::QueueName;
use patchbay_model::job::JobState;
use patchbay_queue::QueueError;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use super::queues::{known, names};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success};
use crate::path::Path;

/// Jobs that one `clean` removes when nothing is said.
const DEFAULT_CLEAN: u64 = 10_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(pause_all))
        .routes(routes!(resume_all))
        .routes(routes!(drain))
        .routes(routes!(clean))
        .routes(routes!(put_back))
        .routes(routes!(obliterate))
        .routes(routes!(concurrency))
        .routes(routes!(rate_limit))
}

/// How much was done.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Done {
    /// Jobs, or queues where whole queues are meant.
    count: u64,
}

/// Pausing through us, where BullMQ 5 may resume, would lose jobs.
fn refuse_in_a_mixed_fleet(state: &AppState) -> Result<(), ApiError> {
    if !state.node_may_be_bullmq_5 {
        return Ok(());
    }
    Err(ApiError::new(
        http::StatusCode::CONFLICT,
        "mixed-fleet",
        "not paused: while a queue is paused by BullMQ 6 its jobs stay where they are, and a resume by BullMQ 5 would overwrite them. Pause \
         with the Node side's own queue.pause(), or stop the workers (patchbay plugin deactivate NAME); resuming with Patchbay is safe \
         (redis.node_bullmq_major = 5 is configured)",
    ))
}

/// Pause a queue for every worker everywhere; running jobs go on.
#[utoipa::path(post, path = "/queues/{queue}/pause", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    responses((status = 200, body = Success<Done>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn pause(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
) -> ApiResult<Done> {
    let queue = known(&state, &queue).await?;
    let act = async {
        refuse_in_a_mixed_fleet(&state)?;
        state.queues.pause(&queue).await?;
        Ok::<_, ApiError>(Done { count: 1 })
    };
    audited(&state, &actor, "queue.pause", queue.as_str(), json!({}), act).await
}

/// Let workers take jobs from a queue again.
#[utoipa::path(post, path = "/queues/{queue}/resume", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    responses((status = 200, body = Success<Done>), (status = 404, body = ErrorBody)))]
async fn resume(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
) -> ApiResult<Done> {
    let queue = known(&state, &queue).await?;
    let act = async {
        state.queues.resume(&queue).await?;
        Ok::<_, ApiError>(Done { count: 1 })
    };
    audited(&state, &actor, "queue.resume", queue.as_str(), json!({}), act).await
}

/// What was done to every queue.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
struct AllDone {
    /// Queues.
    count: u64,
    /// Those to which it could not be done.
    failures: Vec<Failure>,
}

/// A queue to which something could not be done.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Failure {
    queue: String,
    message: String,
}

impl AllDone {
    /// Goes on where a queue's own data is in the way; not where Redis is.
    fn note(&mut self, queue: &QueueName, done: Result<(), QueueError>) -> Result<(), ApiError> {
        match done {
            Ok(()) => self.count += 1,
            Err(error @ QueueError::Damaged { .. }) => {
                self.failures.push(Failure { queue: queue.to_string(), message: error.to_string() });
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Says that every queue is meant. A client turns `queues/./pause`, the path of a queue called `.`, into `queues/pause`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct EveryQueue {
    /// Must be true.
    #[serde(default)]
    all: bool,
}

impl EveryQueue {
    fn check(body: Result<Json<Self>, JsonRejection>) -> Result<(), ApiError> {
        if body.is_ok_and(|Json(body)| body.all) {
            return Ok(());
        }
        Err(ApiError::invalid(
            "Nothing was done: this is for every queue, and must say so in its body: {\"all\": true}. A queue called . is written ~. in a path",
        ))
    }
}

/// Pause every queue.
#[utoipa::path(post, path = "/queues/pause", tag = "queues", security(("operator" = [])), request_body = EveryQueue,
    responses((status = 200, body = Success<AllDone>), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn pause_all(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<EveryQueue>, JsonRejection>,
) -> ApiResult<AllDone> {
    EveryQueue::check(body)?;
    let act = async {
        refuse_in_a_mixed_fleet(&state)?;
        let mut done = AllDone::default();
        for queue in names(&state).await? {
            done.note(&queue, state.queues.pause(&queue).await)?;
        }
        Ok::<_, ApiError>(done)
    };
    audited(&state, &actor, "queue.pause", "*", json!({}), act).await
}

/// Resume every queue.
#[utoipa::path(post, path = "/queues/resume", tag = "queues", security(("operator" = [])), request_body = EveryQueue,
    responses((status = 200, body = Success<AllDone>), (status = 400, body = ErrorBody)))]
async fn resume_all(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<EveryQueue>, JsonRejection>,
) -> ApiResult<AllDone> {
    EveryQueue::check(body)?;
    let act = async {
        let mut done = AllDone::default();
        for queue in names(&state).await? {
            done.note(&queue, state.queues.resume(&queue).await)?;
        }
        Ok::<_, ApiError>(done)
    };
    audited(&state, &actor, "queue.resume", "*", json!({}), act).await
}

/// What to remove.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Drain {
    /// Delayed jobs, too; those of schedules stay.
    #[serde(default)]
    delayed: bool,
}

/// Remove the jobs that wait.
#[utoipa::path(post, path = "/queues/{queue}/drain", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    request_body = Drain, responses((status = 200, body = Success<Done>), (status = 404, body = ErrorBody)))]
async fn drain(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<Drain>, JsonRejection>,
) -> ApiResult<Done> {
    let (queue, Json(body)) = (known(&state, &queue).await?, body?);
    let act = async { Ok::<_, ApiError>(Done { count: state.queues.drain(&queue, body.delayed).await? }) };
    audited(&state, &actor, "queue.drain", queue.as_str(), json!({ "delayed": body.delayed }), act).await
}

/// Which jobs to remove.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Clean {
    /// `waiting`, `prioritized`, `delayed`, `completed` or `failed`.
    #[schema(value_type = String)]
    state: JobState,
    /// At least so old, in milliseconds; default 0.
    #[serde(default)]
    older_than_ms: u64,
    /// At most so many; default 10000.
    limit: Option<u64>,
}

/// Remove jobs in one state.
#[utoipa::path(post, path = "/queues/{queue}/clean", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    request_body = Clean, responses((status = 200, body = Success<Done>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn clean(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<Clean>, JsonRejection>,
) -> ApiResult<Done> {
    let (queue, Json(body)) = (known(&state, &queue).await?, body?);
    let details = json!({ "state": body.state, "olderThanMs": body.older_than_ms, "limit": body.limit });
    let (age, most) = (Duration::from_millis(body.older_than_ms), body.limit.unwrap_or(DEFAULT_CLEAN));
    let act = async { Ok::<_, ApiError>(Done { count: state.queues.clean(&queue, body.state, age, most).await? }) };
    audited(&state, &actor, "queue.clean", queue.as_str(), details, act).await
}

/// Which jobs to put back.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutBack {
    /// `failed`, `completed`, or `delayed` (those of schedules stay).
    #[schema(value_type = String)]
    state: JobState,
}

/// Put all jobs in one state back into the queue: retry all, or promote all.
#[utoipa::path(post, path = "/queues/{queue}/put-back", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    request_body = PutBack, responses((status = 200, body = Success<Done>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn put_back(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<PutBack>, JsonRejection>,
) -> ApiResult<Done> {
    let (queue, Json(body)) = (known(&state, &queue).await?, body?);
    let act = async { Ok::<_, ApiError>(Done { count: state.queues.move_all_to_wait(&queue, body.state).await? }) };
    audited(&state, &actor, "queue.put-back", queue.as_str(), json!({ "state": body.state }), act).await
}

/// To be sure.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Obliterate {
    /// The queue's name, once more.
    confirm: String,
}

/// Remove a queue with all its jobs, finished ones included. History stays.
#[utoipa::path(post, path = "/queues/{queue}/obliterate", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    request_body = Obliterate, responses((status = 200, body = Success<Done>), (status = 400, description = "not confirmed", body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "jobs run", body = ErrorBody)))]
async fn obliterate(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<Obliterate>, JsonRejection>,
) -> ApiResult<Done> {
    let (queue, Json(body)) = (known(&state, &queue).await?, body?);
    if body.confirm != queue.as_str() {
        return Err(ApiError::invalid(format!("not confirmed: `confirm` must be the queue's name, {queue}")));
    }
    let act = async { Ok::<_, ApiError>(Done { count: state.queues.obliterate(&queue).await? }) };
    audited(&state, &actor, "queue.obliterate", queue.as_str(), json!({}), act).await
}

/// A limit over all workers everywhere.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Concurrency {
    /// Jobs at once; absent or null: no limit.
    max: Option<u32>,
}

/// Limit how many jobs of a queue run at once over all workers everywhere.
#[utoipa::path(put, path = "/queues/{queue}/concurrency", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    request_body = Concurrency, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn concurrency(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<Concurrency>, JsonRejection>,
) -> ApiResult<()> {
    let (queue, Json(body)): (QueueName, _) = (known(&state, &queue).await?, body?);
    let act = state.queues.set_concurrency(&queue, body.max);
    audited(&state, &actor, "queue.concurrency", queue.as_str(), json!({ "max": body.max }), act).await
}

/// A rate over all workers everywhere.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rate {
    /// Jobs, at most 2147483648; absent or null: no limit.
    max: Option<u64>,
    /// Milliseconds, at most a day; default 1000.
    per_ms: Option<u64>,
}

/// Limit how many jobs of a queue start per time over all workers everywhere.
#[utoipa::path(put, path = "/queues/{queue}/rate-limit", tag = "queues", security(("operator" = [])), params(("queue" = String, Path)),
    request_body = Rate, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn rate_limit(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<Rate>, JsonRejection>,
) -> ApiResult<()> {
    let (queue, Json(body)) = (known(&state, &queue).await?, body?);
    let rate = body.max.map(|max| (max, Duration::from_millis(body.per_ms.unwrap_or(1_000))));
    let act = state.queues.set_rate(&queue, rate);
    let details = json!({ "max": body.max, "perMs": body.per_ms });
    audited(&state, &actor, "queue.rate-limit", queue.as_str(), details, act).await
}
