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
    let response = complete(&state, next.run(request)).await;
    response.unwrap_or_else(|| ApiError::internal().into_response())
}

/// Runs this in a task of its own. `None` when the host has ended it.
pub(crate) async fn complete<T: Send + 'static>(
    state: &AppState,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let quotas = Quotas::of_this_request();
    let run = async move { quotas.noting(work).await };
    match state.operations.spawn(run.in_current_span()).await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_cancelled) => None,
        },
    }
}
