//! /api/admin/breakers: which outside hosts are left alone, and having it otherwise. Of the process that answers.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use patchbay_app::breakers::{BreakerStory, UnknownHost};
use patchbay_model::PluginName;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};

/// Longest reason of an operator, in characters.
const MAX_REASON: usize = 500;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(open)).routes(routes!(close))
}

/// Every outside host that an active plugin names, with its breaker in this process.
#[utoipa::path(get, path = "/breakers", tag = "breakers", security(("operator" = [])), responses(
    (status = 200, body = Success<Vec<BreakerStory>>), (status = 401, body = ErrorBody),
))]
async fn list(State(state): State<AppState>) -> ApiResult<Vec<BreakerStory>> {
    ok(state.outside.list())
}

/// Which breaker, and why.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Which {
    /// The plugin.
    plugin: String,
    /// `scheme://host:port`, or a part of it that names one host only.
    host: String,
    /// For the next operator and the audit trail.
    reason: String,
}

/// Refuse all calls to a host until it is closed again. Jobs that need it wait without using up attempts.
#[utoipa::path(post, path = "/breakers/open", tag = "breakers", security(("operator" = [])), request_body = Which,
    responses((status = 200, body = Success<BreakerStory>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn open(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Which>, JsonRejection>,
) -> ApiResult<BreakerStory> {
    act(state, actor, body?.0, true).await
}

/// Let calls to a host through again, whoever opened its breaker.
#[utoipa::path(post, path = "/breakers/close", tag = "breakers", security(("operator" = [])), request_body = Which,
    responses((status = 200, body = Success<BreakerStory>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn close(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Which>, JsonRejection>,
) -> ApiResult<BreakerStory> {
    act(state, actor, body?.0, false).await
}

async fn act(state: AppState, actor: Actor, which: Which, open: bool) -> ApiResult<BreakerStory> {
    let plugin: PluginName = which.plugin.parse()?;
    let reason = which.reason.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON {
        return Err(ApiError::invalid(format!("reason: say why, in at most {MAX_REASON} characters")));
    }
    let (action, target) = (if open { "breaker.open" } else { "breaker.close" }, format!("{plugin} {}", which.host));
    let act = async {
        let breaker = state.outside.find(&plugin, &which.host)?;
        if open {
            breaker.hold(&actor.0, reason)
        } else {
            breaker.close(&actor.0, reason)
        }
        let story = state.outside.of(&plugin).into_iter().find(|story| story.host == breaker.host());
        story.ok_or_else(ApiError::internal)
    };
    audited(&state, &actor, action, &target, json!({ "reason": reason }), act).await
}

impl From<UnknownHost> for ApiError {
    fn from(error: UnknownHost) -> Self {
        Self::not_found(error.to_string())
    }
}
