//! /api/admin/queues: what there is, how it stands, why it does not move.

use std::collections::BTreeSet;

use axum::extract::State;
use patchbay_app::diagnosis::{self, Reason, Seen};
use patchbay_model::QueueName;
use patchbay_model::shell::word;
use patchbay_queue::QueueOverview;
use patchbay_store::JobStatistics;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};
use crate::path::Path;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(why))
}

/// Every queue in Redis, in active manifests, and with history.
#[utoipa::path(get, path = "/queues", tag = "queues", security(("operator" = [])), responses(
    (status = 200, body = Success<Vec<Object>>),
))]
async fn list(State(state): State<AppState>) -> ApiResult<Vec<QueueOverview>> {
    let names: Vec<QueueName> = names(&state).await?.into_iter().collect();
    ok(state.queues.overview(&names).await?)
}

pub(super) async fn names(state: &AppState) -> Result<BTreeSet<QueueName>, ApiError> {
    let mut names: BTreeSet<QueueName> = state.queues.list().await?.into_iter().collect();
    names.extend(state.plugins.queues());
    names.extend(state.store.queues_with_history(state.queues.prefix()).await?);
    Ok(names)
}

/// Parses the name, and refuses one that nobody knows: a typo must not look like an empty queue.
pub(super) async fn known(state: &AppState, queue: &str) -> Result<QueueName, ApiError> {
    let queue: QueueName = queue.parse()?;
    refuse_unknown(state, &queue).await?;
    Ok(queue)
}

/// Fails for a queue that nobody knows and that must not be made under this name.
pub(super) async fn refuse_odd_new(state: &AppState, queue: &QueueName) -> Result<(), ApiError> {
    let Err(odd) = queue.check_new() else { return Ok(()) };
    // Somebody else has made it.
    refuse_unknown(state, queue).await.map_err(|error| match error.is_not_found() {
        true => odd.into(),
        false => error,
    })
}

/// One that neither an active manifest names nor Redis nor history knows.
pub(super) async fn refuse_unknown(state: &AppState, queue: &QueueName) -> Result<(), ApiError> {
    let known = state.plugins.handler_of(queue).is_some()
        || state.plugins.quarantined_handler_of(queue).is_some()
        || state.queues.exists(queue).await?
        || state.store.has_history(state.queues.prefix(), queue).await?;
    if known {
        return Ok(());
    }
    let message = format!(
        "there is no queue {}; see: patchbay queue list. A new one begins with: patchbay job add --new-queue",
        word(queue.as_str())
    );
    Err(ApiError::new(http::StatusCode::NOT_FOUND, "unknown-queue", message))
}

/// A queue.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueStory {
    #[serde(flatten)]
    overview: QueueOverview,
    /// The plugin that handles it, active on this host.
    plugin: Option<String>,
    /// Ours and others'.
    workers: Vec<String>,
    /// The last day's attempts by name of job.
    jobs: Vec<JobStatistics>,
}

async fn overview(state: &AppState, queue: &QueueName) -> Result<QueueOverview, ApiError> {
    let overview = state.queues.overview(std::slice::from_ref(queue)).await?.into_iter().next();
    overview.ok_or_else(ApiError::internal)
}

/// Show a queue: counts, ages, limits, workers; rates and durations by name of job.
#[utoipa::path(get, path = "/queues/{queue}", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path)), responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody)))]
async fn show(State(state): State<AppState>, Path(queue): Path<String>) -> ApiResult<QueueStory> {
    let queue = known(&state, &queue).await?;
    ok(QueueStory {
        overview: overview(&state, &queue).await?,
        plugin: state.plugins.handler_of(&queue).map(|plugin| plugin.to_string()),
        workers: state.queues.workers(&queue).await?,
        jobs: state.store.job_statistics(state.queues.prefix(), &queue).await?,
    })
}

/// Say why a queue does not move, and what to do next.
#[utoipa::path(get, path = "/queues/{queue}/why", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path)), responses((status = 200, body = Success<Vec<Reason>>), (status = 404, body = ErrorBody)))]
async fn why(State(state): State<AppState>, Path(queue): Path<String>) -> ApiResult<Vec<Reason>> {
    ok(reasons(&state, &known(&state, &queue).await?).await?)
}

pub(super) async fn reasons(state: &AppState, queue: &QueueName) -> Result<Vec<Reason>, ApiError> {
    let last = state.store.last_action(&["queue.pause", "queue.resume"], &[queue.as_str(), "*"]).await?;
    let plugin = state.plugins.handler_of(queue);
    let seen = Seen {
        queue: overview(state, queue).await?,
        workers: state.queues.workers(queue).await?,
        taken: state.queues.taken_keys(std::slice::from_ref(queue)).await?.into_iter().flatten().collect(),
        quarantined: state.plugins.quarantined_handler_of(queue),
        sql: plugin.as_ref().map(|plugin| state.sql.places_of(plugin)),
        breakers: plugin.iter().flat_map(|plugin| state.outside.of(plugin)).collect(),
        plugin: plugin.map(|plugin| plugin.to_string()),
        paused_by: last.filter(|action| action.action == "queue.pause"),
        not_ready: state.health.not_ready().await,
        redis_full: state.queues.is_full().await?,
    };
    Ok(diagnosis::diagnose(&seen))
}
