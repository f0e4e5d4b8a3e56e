//! Requests that may change something run to their end.

use std::panic::resume_unwind;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::AppState;
use crate::error::ApiError;

/// A client that leaves takes its request along, and an operation would stop wherever it waits just then. So what may change something
/// runs in a task of its own, and the host ends after it.
pub(crate) async fn run(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match state.operations.spawn(next.run(request).in_current_span()).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_cancelled) => ApiError::internal().into_response(),
        },
    }
}
