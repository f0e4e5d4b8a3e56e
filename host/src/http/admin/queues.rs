//! /api/admin/queues: counts, and add, show and retry a job.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use patchbay_model::job::{JobState, NewJob, Trace};
use patchbay_model::{JobId, QueueName};
use patchbay_queue::{JobView, QueueCounts};
use patchbay_store::AttemptRow;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use crate::http::AppState;
use crate::http::auth::Actor;
use crate::http::error::{ApiError, ApiResult, ErrorBody, Success, ok};

/// Attempts shown with a job. A job that ran more often has a problem that the newest ones show.
const MAX_ATTEMPTS_SHOWN: i64 = 100;
/// Log lines shown with a job.
const MAX_LOGS_SHOWN: u64 = 500;
/// Longest page of a list.
const MAX_PAGE: u64 = 200;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(jobs, add)).routes(routes!(show)).routes(routes!(retry))
}

/// A queue and its counts.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct QueueSummary {
    name: String,
    #[schema(value_type = Object)]
    counts: QueueCounts,
}

/// Every queue in Redis and in active manifests.
#[utoipa::path(get, path = "/queues", tag = "queues", security(("operator" = [])), responses(
    (status = 200, body = Success<Vec<QueueSummary>>),
))]
async fn list(State(state): State<AppState>) -> ApiResult<Vec<QueueSummary>> {
    let mut names = state.queues.list().await?;
    names.extend(state.plugins.queues());
    names.sort();
    names.dedup();
    let mut queues = Vec::with_capacity(names.len());
    for name in names {
        queues.push(QueueSummary { counts: state.queues.counts(&name).await?, name: name.to_string() });
    }
    ok(queues)
}

/// Which jobs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct Page {
    /// `waiting`, `prioritized`, `delayed`, `waiting-children`, `active`, `completed` or `failed`.
    #[param(value_type = String)]
    state: JobState,
    /// From this place on; default 0.
    #[serde(default)]
    offset: u64,
    /// At most 200; default 20.
    limit: Option<u64>,
}

/// Jobs in one state.
#[utoipa::path(get, path = "/queues/{queue}/jobs", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), Page), responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody)))]
async fn jobs(
    State(state): State<AppState>,
    Path(queue): Path<String>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> ApiResult<Vec<JobView>> {
    let queue: QueueName = queue.parse()?;
    let Query(page) = page?;
    let limit = page.limit.unwrap_or(20).min(MAX_PAGE);
    ok(state.queues.jobs(&queue, page.state, page.offset, limit).await?)
}

/// A job to be added.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddJob {
    /// The kind of work.
    name: String,
    /// Its input.
    #[schema(value_type = Object)]
    data: Option<Box<RawValue>>,
    /// Not a whole number, no `:`.
    id: Option<String>,
    /// Start no earlier than this from now, milliseconds.
    delay_ms: Option<u64>,
    /// 1 (first) to 2097152.
    priority: Option<u32>,
    /// In all.
    attempts: Option<u32>,
}

/// Where it went.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Added {
    queue: String,
    id: String,
}

/// Add a job.
#[utoipa::path(post, path = "/queues/{queue}/jobs", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path)), request_body = AddJob, responses(
    (status = 200, body = Success<Added>), (status = 400, body = ErrorBody), (status = 413, body = ErrorBody),
))]
async fn add(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Extension(trace): Extension<Trace>,
    Path(queue): Path<String>,
    body: Result<Json<AddJob>, JsonRejection>,
) -> ApiResult<Added> {
    let queue: QueueName = queue.parse()?;
    let Json(body) = body?;
    let details = json!({ "name": body.name });
    let job = NewJob {
        queue: queue.clone(),
        name: body.name,
        // As it was written: a number that we could not represent must not be rounded on its way.
        data: body.data.map_or_else(|| "{}".to_owned(), |data| data.get().to_owned()),
        id: body.id.map(|id| id.parse()).transpose()?,
        delay: body.delay_ms.map(Duration::from_millis),
        priority: body.priority,
        attempts: body.attempts,
        backoff: None,
        deduplication: None,
        trace,
    };
    let act = async {
        let ids = state.queues.add(vec![job]).await?;
        let id = ids.into_iter().next().ok_or_else(ApiError::internal)?;
        Ok::<_, ApiError>(Added { queue: queue.to_string(), id: id.to_string() })
    };
    audited(&state, &actor, "job.add", queue.as_str(), details, act).await
}

/// A job with its whole story.
#[derive(Debug, Serialize)]
struct JobStory {
    job: JobView,
    logs: Vec<String>,
    /// From Postgres: also those that BullMQ has forgotten. The newest may be missing for a second.
    attempts: Vec<AttemptRow>,
}

/// Show a job: its data, state, failure, logs and attempts.
#[utoipa::path(get, path = "/queues/{queue}/jobs/{id}", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), responses(
    (status = 200, body = Success<Object>), (status = 404, body = ErrorBody),
))]
async fn show(State(state): State<AppState>, Path((queue, id)): Path<(String, String)>) -> ApiResult<JobStory> {
    let (queue, id): (QueueName, JobId) = (queue.parse()?, id.parse()?);
    let job = state.queues.job(&queue, &id).await?;
    let job = job.ok_or_else(|| ApiError::not_found(format!("{queue} has no job {id} in Redis")))?;
    let logs = state.queues.job_logs(&queue, &id, MAX_LOGS_SHOWN).await?;
    let attempts = state.store.attempts(&queue, &id, MAX_ATTEMPTS_SHOWN).await?;
    ok(JobStory { job, logs, attempts })
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
    let target = format!("{queue}/{id}");
    let (queue, id): (QueueName, JobId) = (queue.parse()?, id.parse()?);
    let act = state.queues.retry(&queue, &id);
    audited(&state, &actor, "job.retry", &target, json!({}), act).await
}
