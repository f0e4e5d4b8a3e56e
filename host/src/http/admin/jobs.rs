//! /api/admin/queues/{queue}/jobs: list and show jobs.

use axum::extract::{Query, State};
use patchbay_model::job::JobState;
use patchbay_model::shell::word;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::{JobView, MAX_LISTED, Start};
use patchbay_store::AttemptRow;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queues::known;
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult, ErrorBody, ok, page};
use crate::http::path::Path;

/// Attempts shown with a job. A job that ran more often has a problem that the newest ones show.
const MAX_ATTEMPTS_SHOWN: i64 = 100;
/// Log lines shown with a job.
const MAX_LOGS_SHOWN: u64 = 500;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(jobs)).routes(routes!(show))
}

/// Which jobs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// `waiting`, `prioritized`, `delayed`, `waiting-children`, `active`, `completed` or `failed`.
    #[param(value_type = String)]
    state: JobState,
    /// From this place on, at most 2147483648; default 0.
    offset: Option<u64>,
    /// Behind the page whose `nextCursor` this is: skips nothing when jobs come and go meanwhile, but may repeat some.
    cursor: Option<String>,
    /// At least 1; more than 200 mean 200; default 20.
    limit: Option<u64>,
}

/// Jobs in one state.
#[utoipa::path(get, path = "/queues/{queue}/jobs", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), Listing), responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
async fn jobs(
    State(state): State<AppState>,
    Path(queue): Path<String>,
    listing: Result<Query<Listing>, axum::extract::rejection::QueryRejection>,
) -> ApiResult<Vec<JobView>> {
    let Query(listing) = listing?;
    let queue = known(&state, &queue).await?;
    let limit = listing.limit.unwrap_or(20).min(MAX_LISTED);
    let start = match (listing.offset, listing.cursor) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("a list starts at a place (offset) or behind a page (cursor), not both"));
        }
        (place, None) => Start::Place(place.unwrap_or(0)),
        (None, Some(cursor)) => Start::Behind(cursor.parse()?),
    };
    let listed = state.queues.jobs(&queue, listing.state, start, limit).await?;
    page(listed.jobs, listed.next.map(|cursor| cursor.to_string()))
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
    let (queue, id): (QueueName, JobId) = (known(&state, &queue).await?, id.parse()?);
    let job = state.queues.job(&queue, &id).await?;
    let job = job.ok_or_else(|| {
        ApiError::not_found(format!("{} has no job {} in Redis", word(queue.as_str()), word(id.as_str())))
    })?;
    let logs = state.queues.job_logs(&queue, &id, MAX_LOGS_SHOWN).await?;
    let attempts = state.store.attempts(state.queues.prefix(), &queue, &id, MAX_ATTEMPTS_SHOWN).await?;
    ok(JobStory { job, logs, attempts })
}
