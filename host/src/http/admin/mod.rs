//! /api/admin: what operators do. Basic auth on every route; every change leaves an action row before it happens and completes it after.

mod add;
mod flow;
mod jobs;
mod legacy;
mod maintain;
mod new_job;
mod operate;
mod plugins;
mod queues;
mod schedules;

use std::panic::{AssertUnwindSafe, resume_unwind};

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use serde::Serialize;
use serde_json::Value;
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;

use super::AppState;
use super::auth::{self, Actor};
use super::error::{ApiError, ApiResult, ok};

pub(super) fn router(state: &AppState) -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(plugins::router())
        .merge(queues::router())
        .merge(maintain::router())
        .merge(schedules::router())
        .merge(legacy::router())
        .merge(jobs::router())
        .merge(operate::router())
        .merge(add::router())
        .merge(flow::router())
        .route_layer(middleware::from_fn_with_state(state.clone(), to_the_end))
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::require))
}

/// A client that leaves takes its request along, and an operation would stop wherever it waits just then. So what may change something
/// runs in a task of its own, and the host ends after it.
async fn to_the_end(State(state): State<AppState>, request: Request, next: Next) -> Response {
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
    let id = state.store.begin_action(&actor.0, action, target, &details).await?;
    let result = match AssertUnwindSafe(act).catch_unwind().await {
        Ok(result) => result.map_err(Into::<ApiError>::into),
        Err(panic) => {
            state.store.finish_action(id, Err("a fault of the host")).await.ok();
            resume_unwind(panic)
        }
    };
    let recorded = match &result {
        Ok(data) => state.store.finish_action(id, Ok(&serde_json::to_value(data).unwrap_or(Value::Null))).await,
        Err(error) => state.store.finish_action(id, Err(error.message())).await,
    };
    if let Err(error) = recorded {
        // The action has happened; its row stays open and says that its end is unknown.
        tracing::error!(error = %error, action, target, "the end of an operator's action is not recorded");
    }
    ok(result?)
}
