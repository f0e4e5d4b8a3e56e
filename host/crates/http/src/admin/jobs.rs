//! /api/admin/queues/{queue}/jobs: list and show jobs.

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use patchbay_app::redacted::{self, RedactedJob};
use patchbay_model::job::JobState;
use patchbay_model::redaction::Mask;
use patchbay_model::shell::word;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::{JobView, MAX_LISTED, Start};
use patchbay_store::AttemptRow;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::recorded;
use super::reveal::Reveal;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, ok, page};
use crate::path::Path;

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
    /// True shows what is hidden, too; that is recorded.
    #[serde(default)]
    reveal: bool,
    /// Why, for the record.
    reason: Option<String>,
}

/// Jobs in one state, without what their queue's manifest redacts, and without secrets.
#[utoipa::path(get, path = "/queues/{queue}/jobs", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), Listing), responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
async fn jobs(
    State(state): State<AppState>,
    Path(queue): Path<String>,
    Extension(actor): Extension<Actor>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> ApiResult<Vec<RedactedJob>> {
    let Query(listing) = listing?;
    let reveal = Reveal { reveal: listing.reveal, reason: listing.reason }.checked()?;
    let queue = state.app.queues.catalog().known(&queue).await?;
    let limit = listing.limit.unwrap_or(20).min(MAX_LISTED);
    let start = match (listing.offset, listing.cursor) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("a list starts at a place (offset) or behind a page (cursor), not both"));
        }
        (place, None) => Start::Place(place.unwrap_or(0)),
        (None, Some(cursor)) => Start::Behind(cursor.parse()?),
    };
    let listed = async { Ok::<_, ApiError>(state.queues.jobs(&queue, listing.state, start, limit).await?) };
    let (jobs, next) = match &reveal.reveal {
        false => {
            let (redaction, listed) = (state.plugins.redaction(&queue), listed.await?);
            let ids: Vec<&str> = listed.jobs.iter().map(|job| job.id.as_str()).collect();
            let told = state.queues.children_data(&queue, &ids).await?;
            let told = told.iter().map(|children| state.plugins.hidden_values(children));
            let jobs = listed.jobs.into_iter().zip(told).map(|(job, told)| redacted::job(&redaction, told, job).0);
            (jobs.collect(), listed.next)
        }
        true => {
            let which = |listed: &patchbay_queue::Page| json!({ "jobs": listed.jobs.iter().map(|job| &job.id).collect::<Vec<_>>() });
            let listed =
                recorded(&state, &actor, "queue.reveal-jobs", queue.as_str(), reveal.details(), listed, which).await?;
            (listed.jobs.into_iter().map(whole).collect(), listed.next)
        }
    };
    page(jobs, next.map(|cursor| cursor.to_string()))
}

/// A job with its whole story.
#[derive(Debug, Serialize)]
struct JobStory {
    job: RedactedJob,
    logs: Vec<String>,
    /// From Postgres: also those that BullMQ has forgotten. The newest may be missing for a second.
    attempts: Vec<AttemptRow>,
}

fn whole(job: JobView) -> RedactedJob {
    RedactedJob { job, hidden: 0 }
}

/// Show a job: its data, state, failure, logs and attempts, without what its queue's manifest redacts, and without secrets. With `reveal` all
/// of it; that is recorded.
#[utoipa::path(get, path = "/queues/{queue}/jobs/{id}", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path), Reveal), responses(
    (status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
))]
async fn show(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
    reveal: Result<Query<Reveal>, QueryRejection>,
) -> ApiResult<JobStory> {
    let reveal = reveal?.0.checked()?;
    let (queue, id): (QueueName, JobId) = (state.app.queues.catalog().known(&queue).await?, id.parse()?);
    if !reveal.reveal {
        return ok(story(&state, &queue, &id, false).await?);
    }
    let (target, seen) = (patchbay_model::job::trail_name(&queue, &id), |_: &JobStory| serde_json::Value::Null);
    let act = story(&state, &queue, &id, true);
    ok(recorded(&state, &actor, "job.reveal", &target, reveal.details(), act, seen).await?)
}

/// Hidden values of a job's children, whose results it sees.
pub(super) async fn told(state: &AppState, queue: &QueueName, id: &JobId) -> Result<Vec<String>, ApiError> {
    let children = state.queues.children_data(queue, &[id.as_str()]).await?.concat();
    Ok(state.plugins.hidden_values(&children))
}

async fn story(state: &AppState, queue: &QueueName, id: &JobId, reveal: bool) -> Result<JobStory, ApiError> {
    let job = state.queues.job(queue, id).await?;
    let job = job.ok_or_else(|| {
        ApiError::not_found(format!("{} has no job {} in Redis", word(queue.as_str()), word(id.as_str())))
    })?;
    let mut logs = state.queues.job_logs(queue, id, MAX_LOGS_SHOWN).await?;
    let mut attempts = state.store.attempts(state.queues.prefix(), queue, id, MAX_ATTEMPTS_SHOWN).await?;
    if reveal {
        return Ok(JobStory { job: whole(job), logs, attempts });
    }
    let told = told(state, queue, id).await?;
    let (mut job, mask): (_, Mask) = redacted::job(&state.plugins.redaction(queue), told, job);
    job.hidden += mask.hide(&mut logs);
    attempts.iter_mut().for_each(|row| redacted::attempt(row, &mask));
    Ok(JobStory { job, logs, attempts })
}
