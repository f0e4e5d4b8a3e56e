//! Requests that may change something are completed even if their client disconnects.

use std::panic::resume_unwind;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use patchbay_app::quota::Quotas;
use tracing::Instrument;

use crate::AppState;
use crate::error::ApiError;

/// When a client disconnects, its request is dropped, and an operation would stop at any await
/// point. So operations that may change something run in a task of their own, and the host waits
/// for them when it stops.
pub(crate) async fn run(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let quotas = Quotas::of_this_request();
    let run = async move { quotas.noting(next.run(request)).await };
    match state.operations.spawn(run.in_current_span()).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_cancelled) => ApiError::internal().into_response(),
        },
    }
}
