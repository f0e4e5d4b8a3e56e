//! GET /metrics: what Prometheus scrapes.

use axum::extract::State;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use patchbay_app::exposition::{self, Exposition};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use super::{AppState, auth};

/// The page, and for whom it is.
pub struct MetricsPage {
    /// What is on it.
    pub exposition: Exposition,
    /// Whether it asks for the operator's credentials.
    pub needs_operator: bool,
}

pub(super) fn router(state: &AppState) -> OpenApiRouter<AppState> {
    let router = OpenApiRouter::new().routes(routes!(show));
    if state.metrics.needs_operator {
        router.route_layer(middleware::from_fn_with_state(state.clone(), auth::require))
    } else {
        router
    }
}

/// Numbers of this host in Prometheus's text format. For the operator only, unless metrics.require_operator is false.
#[utoipa::path(get, path = "/metrics", tag = "health", security(("operator" = []), ()), responses(
    (status = 200, description = "the metrics", body = String, content_type = "text/plain"),
    (status = 401, description = "operator credentials are needed"),
    (status = 403, description = "no operator is configured"),
))]
async fn show(State(state): State<AppState>) -> Response {
    match state.metrics.exposition.text().await {
        Ok(text) => ([(CONTENT_TYPE, exposition::CONTENT_TYPE), (CACHE_CONTROL, "no-store")], text).into_response(),
        Err(_) => ApiError::internal().into_response(),
    }
}
