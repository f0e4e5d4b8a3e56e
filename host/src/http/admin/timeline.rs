//! /api/admin/queues/{queue}/jobs/{id}/timeline: one job's life, also after Redis has forgotten it.

use axum::extract::State;
use patchbay_model::shell::word;
use patchbay_model::{JobId, QueueName};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queues::known;
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult, ErrorBody, ok};
use crate::http::path::Path;
use crate::timeline::{Seen, Timeline, timeline};

/// Log lines of a job.
const MAX_LOGS: u64 = 500;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Show a job's life: who made it, every attempt with its outside calls, what operators, bulk operations and plugins did, and what is left in Redis. An id that
/// was used again has several.
#[utoipa::path(get, path = "/queues/{queue}/jobs/{id}/timeline", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)), responses(
    (status = 200, body = Success<Object>), (status = 404, body = ErrorBody),
))]
async fn show(State(state): State<AppState>, Path((queue, id)): Path<(String, String)>) -> ApiResult<Timeline> {
    let (queue, id): (QueueName, JobId) = (known(&state, &queue).await?, id.parse()?);
    let (store, prefix) = (&state.store, state.queues.prefix());
    let job = state.queues.job(&queue, &id).await?;
    let family = state.queues.family(&queue, &id).await?;
    let logs = state.queues.job_logs(&queue, &id, MAX_LOGS).await?;
    let attempts = store.lives(prefix, &queue, &id).await?;
    if job.is_none() && attempts.is_empty() {
        let [queue, id] = [queue.as_str(), id.as_str()].map(word);
        return Err(ApiError::not_found(format!("{queue} has no job {id}, neither in Redis nor in its history")));
    }
    let mut created: Vec<i64> = attempts.iter().map(|row| row.job_created_ms).collect();
    created.extend(job.as_ref().and_then(|job| job.timestamp).and_then(|ms| i64::try_from(ms).ok()));
    let mut requests: Vec<String> = attempts.iter().map(|row| row.attempt.correlation_id.clone()).collect();
    requests.extend(family.correlation_id.clone());
    let mut digests: Vec<String> = attempts.iter().filter_map(|row| row.attempt.revision.clone()).collect();
    for list in [&mut requests, &mut digests] {
        list.sort();
        list.dedup();
    }
    created.sort_unstable();
    created.dedup();
    let seen = Seen {
        key: format!("{queue}:{id}"),
        actions: store.job_actions(&queue, &id, &created).await?,
        bulks: store.job_bulks(prefix, &queue, &id).await?,
        audit: store.job_audit(&queue, &id, &requests).await?,
        relatives: store.relatives(prefix, &queue, &id, &requests).await?,
        versions: store.versions(&digests).await?.into_iter().collect(),
        attempts,
        job,
        family,
        logs,
    };
    ok(timeline(queue.as_str(), id.as_str(), seen))
}
