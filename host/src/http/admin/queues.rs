//! /api/admin/queues: what there is, and how much.

use axum::extract::State;
use patchbay_queue::QueueCounts;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::AppState;
use crate::http::error::{ApiResult, Success, ok};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
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
