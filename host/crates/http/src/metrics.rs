//! Route `/metrics`, which Prometheus scrapes.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use patchbay_api::health::MetricsShow;
use patchbay_app::exposition::{self, Exposition};

use super::AppState;
use super::error::ApiError;
use crate::routes::Routes;

/// The metrics page and its access rule.
pub(crate) struct MetricsPage {
    pub(crate) exposition: Arc<Exposition>,
    /// Whether the operator's credentials are required.
    pub(crate) needs_operator: bool,
}

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add_raw::<MetricsShow, _>(show)
}

async fn show(State(state): State<AppState>) -> Response {
    match state.metrics.exposition.text().await {
        Ok(text) => (
            [
                (CONTENT_TYPE, exposition::CONTENT_TYPE),
                (CACHE_CONTROL, "no-store"),
            ],
            text,
        )
            .into_response(),
        Err(_) => ApiError::internal().into_response(),
    }
}
