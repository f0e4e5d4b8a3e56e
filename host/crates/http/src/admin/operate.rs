//! /api/admin/queues/{queue}/jobs/{id}/…: what operators do to one job.

use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use patchbay_model::job::trail_name;
use patchbay_model::{JobId, QueueName};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use super::reveal::refuse_mark;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::path::Path;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(retry))
        .routes(routes!(remove))
        .routes(routes!(promote))
        .routes(routes!(kill))
        .routes(routes!(set_data))
        .routes(routes!(set_delay))
        .routes(routes!(set_priority))
}

/// Parsed, of a queue that is known, with the text that the audit trail shows.
async fn target(state: &AppState, queue: &str, id: &str) -> Result<(QueueName, JobId, String), ApiError> {
    let (queue, id) = (state.app.queues.catalog().known(queue).await?, id.parse()?);
    let target = trail_name(&queue, &id);
    Ok((queue, id, target))
}

/// Put a failed or completed job back into the queue.
#[utoipa::path(post, path = "/queues/{queue}/jobs/{id}/retry", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), responses(
    (status = 200), (status = 404, body = ErrorBody), (status = 409, description = "it is not finished", body = ErrorBody),
))]
async fn retry(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
) -> ApiResult<()> {
    let (queue, id, target) = target(&state, &queue, &id).await?;
    audited(&state, &actor, "job.retry", &target, json!({}), state.queues.retry(&queue, &id)).await
}

/// Remove a job that does not run.
#[utoipa::path(delete, path = "/queues/{queue}/jobs/{id}", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), responses(
    (status = 200), (status = 404, body = ErrorBody), (status = 409, description = "it runs, or belongs to a schedule", body = ErrorBody),
))]
async fn remove(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
) -> ApiResult<()> {
    let (queue, id, target) = target(&state, &queue, &id).await?;
    audited(&state, &actor, "job.remove", &target, json!({}), state.queues.remove(&queue, &id)).await
}

/// Run a delayed job now.
#[utoipa::path(post, path = "/queues/{queue}/jobs/{id}/promote", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), responses(
    (status = 200), (status = 404, body = ErrorBody), (status = 409, description = "not delayed, or of a schedule", body = ErrorBody),
))]
async fn promote(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
) -> ApiResult<()> {
    let (queue, id, target) = target(&state, &queue, &id).await?;
    audited(&state, &actor, "job.promote", &target, json!({}), state.queues.promote(&queue, &id)).await
}

/// End a job that runs, in whichever host process it does. It fails for good.
#[utoipa::path(post, path = "/queues/{queue}/jobs/{id}/kill", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), responses(
    (status = 200), (status = 404, body = ErrorBody), (status = 409, description = "it does not run, or not here", body = ErrorBody),
))]
async fn kill(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
) -> ApiResult<()> {
    let (queue, id, target) = target(&state, &queue, &id).await?;
    audited(&state, &actor, "job.kill", &target, json!({}), state.queues.kill(&queue, &id, &actor.0)).await
}

/// Replace the data of a job that does not run.
#[utoipa::path(put, path = "/queues/{queue}/jobs/{id}/data", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), request_body = Object, responses(
    (status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
))]
async fn set_data(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
    body: Result<Json<Box<RawValue>>, JsonRejection>,
) -> ApiResult<()> {
    let (queue, id, target) = target(&state, &queue, &id).await?;
    let Json(data) = body?;
    refuse_mark("the data", data.get())?;
    // Data may be personal: the trail says that it was changed, not to what.
    let details = json!({ "bytes": data.get().len() });
    audited(&state, &actor, "job.set-data", &target, details, state.queues.set_data(&queue, &id, data.get())).await
}

/// A delay.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Delay {
    /// From now, milliseconds.
    delay_ms: u64,
}

/// Change when a delayed job starts.
#[utoipa::path(put, path = "/queues/{queue}/jobs/{id}/delay", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), request_body = Delay, responses(
    (status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
))]
async fn set_delay(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
    body: Result<Json<Delay>, JsonRejection>,
) -> ApiResult<()> {
    let (queue, id, target) = target(&state, &queue, &id).await?;
    let Json(Delay { delay_ms }) = body?;
    let act = state.queues.set_delay(&queue, &id, Duration::from_millis(delay_ms));
    audited(&state, &actor, "job.set-delay", &target, json!({ "delayMs": delay_ms }), act).await
}

/// A priority.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Priority {
    /// 1 (first) to 2097152; 0 is before all of them.
    priority: u32,
}

/// Change a waiting job's priority.
#[utoipa::path(put, path = "/queues/{queue}/jobs/{id}/priority", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), request_body = Priority, responses(
    (status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
))]
async fn set_priority(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
    body: Result<Json<Priority>, JsonRejection>,
) -> ApiResult<()> {
    let (queue, id, target) = target(&state, &queue, &id).await?;
    let Json(Priority { priority }) = body?;
    let act = state.queues.set_priority(&queue, &id, priority);
    audited(&state, &actor, "job.set-priority", &target, json!({ "priority": priority }), act).await
}
