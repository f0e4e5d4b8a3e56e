//! /api/admin/plugins/{name}/release: the way out of quarantine.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use patchbay_app::plugins::PluginError;
use patchbay_model::{PluginName, RevisionDigest};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success};
use crate::path::Path;

/// Longest reason of an operator, in characters.
const MAX_REASON: usize = 500;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(release))
}

/// Why.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Release {
    /// For the next operator and the audit trail.
    reason: String,
}

/// What takes calls again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Released {
    #[schema(value_type = String)]
    plugin: PluginName,
    #[schema(value_type = String)]
    digest: RevisionDigest,
}

/// Let a quarantined plugin take calls again, with the revision that it has. Its jobs go on where they were.
#[utoipa::path(post, path = "/plugins/{name}/release", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), request_body = Release, responses(
    (status = 200, body = Success<Released>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, description = "it is not quarantined", body = ErrorBody),
))]
async fn release(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    body: Result<Json<Release>, JsonRejection>,
) -> ApiResult<Released> {
    let plugin: PluginName = name.parse()?;
    let Json(Release { reason }) = body?;
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON {
        return Err(ApiError::invalid(format!("reason: say why, in at most {MAX_REASON} characters")));
    }
    let act = async {
        let digest = state.plugins.release(&plugin, reason, &actor.0).await?;
        Ok::<_, PluginError>(Released { plugin: plugin.clone(), digest })
    };
    audited(&state, &actor, "plugin.release", &name, json!({ "reason": reason }), act).await
}
