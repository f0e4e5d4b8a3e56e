//! /api/admin: what operators do. Basic auth on every route; every change leaves an action row before it happens and completes it after.

mod call;
pub(crate) mod traced;

use std::panic::resume_unwind;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;

use super::AppState;
use super::auth::{self, Actor};
use super::error::{ApiError, ApiResult, ok};

pub(super) fn router(state: &AppState) -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(call::router())
        .route_layer(middleware::from_fn_with_state(state.clone(), to_the_end))
        // Operators' requests only: nobody else may make this host send spans.
        .route_layer(middleware::from_fn_with_state(state.clone(), traced::request))
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::require))
}

/// A client that leaves takes its request along, and an operation would stop wherever it waits just then. So what may change something
/// runs in a task of its own, and the host ends after it.
pub(crate) async fn to_the_end(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match state.operations.spawn(next.run(request).in_current_span()).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_cancelled) => ApiError::internal().into_response(),
        },
    }
}

/// Records who does what before doing it, and how it ended.
async fn audited<T: Serialize, E: Into<ApiError>>(
    state: &AppState,
    actor: &Actor,
    action: &str,
    target: &str,
    details: Value,
    act: impl Future<Output = Result<T, E>>,
) -> ApiResult<T> {
    let whole = |data: &T| serde_json::to_value(data).unwrap_or(Value::Null);
    ok(recorded(state, actor, action, target, details, act, whole).await?)
}

/// The same for what is not to be recorded whole.
async fn recorded<T, E: Into<ApiError>>(
    state: &AppState,
    actor: &Actor,
    action: &str,
    target: &str,
    details: Value,
    act: impl Future<Output = Result<T, E>>,
    to_record: impl Fn(&T) -> Value,
) -> Result<T, ApiError> {
    let act = async { act.await.map_err(Into::<ApiError>::into) };
    state.actions.record_action(&actor.0, action, target, details, act, to_record).await
}
