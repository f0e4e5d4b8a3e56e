//! /api/admin/queues/{queue}/jobs/{id}/timeline: one job's life, also after Redis has forgotten it.

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use patchbay_app::redacted;
use patchbay_app::timeline::{Seen, Timeline, timeline};
use patchbay_model::redaction::Mask;
use patchbay_model::shell::word;
use patchbay_model::{JobId, QueueName};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::recorded;
use super::reveal::Reveal;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, ok};
use crate::path::Path;

/// Log lines of a job.
const MAX_LOGS: u64 = 500;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Show a job's life: who made it, every attempt with its outside calls, what operators, bulk operations and plugins did, and what is left in Redis. An id that
/// was used again has several.
#[utoipa::path(get, path = "/queues/{queue}/jobs/{id}/timeline", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path), Reveal), responses(
    (status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
))]
async fn show(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
    reveal: Result<Query<Reveal>, QueryRejection>,
) -> ApiResult<Timeline> {
    let reveal = reveal?.0.checked()?;
    let (queue, id): (QueueName, JobId) = (state.app.queues.catalog().known(&queue).await?, id.parse()?);
    if !reveal.reveal {
        return ok(life(&state, &queue, &id, false).await?);
    }
    let (target, seen) = (patchbay_model::job::trail_name(&queue, &id), |_: &Timeline| Value::Null);
    let act = life(&state, &queue, &id, true);
    ok(recorded(&state, &actor, "job.reveal", &target, reveal.details(), act, seen).await?)
}

async fn life(state: &AppState, queue: &QueueName, id: &JobId, reveal: bool) -> Result<Timeline, ApiError> {
    let (store, prefix) = (&state.store, state.queues.prefix());
    let mut job = state.queues.job(queue, id).await?;
    let family = state.queues.family(queue, id).await?;
    let mut logs = state.queues.job_logs(queue, id, MAX_LOGS).await?;
    let mut attempts = store.lives(prefix, queue, id).await?;
    let erasures = store.job_erasures(prefix, queue, id).await?;
    if !reveal {
        let mask;
        (job, mask) = match job {
            None => (None, Mask::default()),
            Some(job) => {
                let told = super::jobs::told(state, queue, id).await?;
                let (shown, mask) = redacted::job(&state.plugins.redaction(queue), told, job);
                (Some(shown.job), mask)
            }
        };
        mask.hide(&mut logs);
        attempts.iter_mut().for_each(|row| redacted::attempt(&mut row.attempt, &mask));
    }
    if job.is_none() && attempts.is_empty() && erasures.is_empty() {
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
        actions: store.job_actions(queue, id, &created).await?,
        bulks: store.job_bulks(prefix, queue, id).await?,
        audit: store.job_audit(queue, id, &requests).await?,
        relatives: store.relatives(prefix, queue, id, &requests).await?,
        versions: store.versions(&digests).await?.into_iter().collect(),
        erasures,
        attempts,
        job,
        family,
        logs,
    };
    Ok(timeline(queue.as_str(), id.as_str(), seen))
}
