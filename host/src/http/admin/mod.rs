//! /api/admin: what operators do. Basic auth on every route; every change leaves an action row before it happens and completes it after.

mod add;
mod breakers;
mod flow;
mod jobs;
mod legacy;
mod maintain;
mod new_job;
mod operate;
mod plugins;
mod quarantine;
mod queues;
mod revisions;
mod schedules;
mod secrets;

use axum::middleware;
use serde::Serialize;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;

use super::AppState;
use super::auth::{self, Actor};
use super::error::{ApiError, ApiResult, ok};

pub(super) fn router(state: &AppState) -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(plugins::router())
        .merge(revisions::router())
        .merge(quarantine::router())
        .merge(queues::router())
        .merge(breakers::router())
        .merge(maintain::router())
        .merge(schedules::router())
        .merge(secrets::router())
        .merge(legacy::router())
        .merge(jobs::router())
        .merge(operate::router())
        .merge(add::router())
        .merge(flow::router())
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::require))
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
    let result = act.await.map_err(Into::<ApiError>::into);
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
