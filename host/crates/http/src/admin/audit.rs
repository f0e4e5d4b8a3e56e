//! /api/admin/audit: the host's audit trails, and what plugins have written into them.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use chrono::{DateTime, Datelike, Utc};
use patchbay_model::{TrailName, json_schema};
use patchbay_store::{AuditFilter, AuditRow, TrailRow};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, ok, page};
use crate::path::Path;

/// Entries of a page unless it says otherwise.
const DEFAULT_LIMIT: u16 = 50;
/// An entry has up to 64 KiB.
const MAX_LIMIT: u16 = 200;
/// In characters.
const MAX_DESCRIPTION: usize = 500;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(entries)).routes(routes!(trails)).routes(routes!(set, remove))
}

/// Which entries.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Of this trail.
    trail: Option<String>,
    /// Written by this plugin.
    plugin: Option<String>,
    /// Of jobs of this queue.
    queue: Option<String>,
    /// Of the job with this id.
    job: Option<String>,
    /// Written at this time or later (RFC 3339).
    since: Option<DateTime<Utc>>,
    /// Behind the page whose `nextCursor` this is.
    cursor: Option<String>,
    /// 1 to 200; default 50.
    limit: Option<u16>,
}

/// What plugins have written into audit trails, the newest first.
#[utoipa::path(get, path = "/audit", tag = "audit", security(("operator" = [])), params(Which),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody)))]
async fn entries(
    State(state): State<AppState>,
    which: Result<Query<Which>, QueryRejection>,
) -> ApiResult<Vec<AuditRow>> {
    let Query(which) = which?;
    let limit = which.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(format!("limit: 1 to {MAX_LIMIT}")));
    }
    if which.since.is_some_and(|since| !(0..=9_999).contains(&since.year())) {
        return Err(ApiError::invalid("since: a time of the years 0000 to 9999"));
    }
    let unknown = |_| ApiError::invalid("unknown cursor: take `nextCursor` of the page before, or none");
    let filter = AuditFilter {
        trail: which.trail.map(|name| name.parse()).transpose()?,
        plugin: which.plugin.map(|name| name.parse()).transpose()?,
        queue: which.queue,
        job: which.job,
        since: which.since,
        before: which.cursor.map(|cursor| cursor.parse()).transpose().map_err(unknown)?,
    };
    // One more tells whether there is another page.
    let mut entries = state.store.audit_entries(&filter, i64::from(limit) + 1).await?;
    let more = entries.len() > usize::from(limit);
    entries.truncate(limit.into());
    let next = entries.last().filter(|_| more).map(|entry| entry.id.to_string());
    page(entries, next)
}

/// Every audit trail.
#[utoipa::path(get, path = "/audit/trails", tag = "audit", security(("operator" = [])),
    responses((status = 200, body = Success<Vec<Object>>)))]
async fn trails(State(state): State<AppState>) -> ApiResult<Vec<TrailRow>> {
    ok(state.store.audit_trails().await?)
}

/// A trail.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Trail {
    /// JSON Schema of its entries; at most 64 KiB.
    #[schema(value_type = Object)]
    schema: Value,
    /// One line; absent leaves the present one.
    description: Option<String>,
}

/// Make an audit trail, or change it for entries to come; those that are there stay as they are.
#[utoipa::path(put, path = "/audit/trails/{trail}", tag = "audit", security(("operator" = [])), params(("trail" = String, Path)),
    request_body = Trail, responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody)))]
async fn set(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(trail): Path<String>,
    body: Result<Json<Trail>, JsonRejection>,
) -> ApiResult<TrailRow> {
    let name: TrailName = trail.parse()?;
    let Json(Trail { schema, description }) = body?;
    block_in_place(|| json_schema::check(&schema)).map_err(|reason| ApiError::invalid(format!("schema: {reason}")))?;
    if description.as_ref().is_some_and(|text| text.chars().count() > MAX_DESCRIPTION) {
        return Err(ApiError::invalid(format!("description: at most {MAX_DESCRIPTION} characters")));
    }
    if description.as_ref().is_some_and(|text| text.contains(char::is_control)) {
        return Err(ApiError::invalid("description: one line, without control characters"));
    }
    let details = json!({ "schema": schema, "description": description });
    let act = state.store.set_audit_trail(&name, &schema, description.as_deref(), &actor.0);
    audited(&state, &actor, "audit.set-trail", name.as_str(), details, act).await
}

/// Remove an audit trail: plugins cannot append to it any more. Its entries stay.
#[utoipa::path(delete, path = "/audit/trails/{trail}", tag = "audit", security(("operator" = [])), params(("trail" = String, Path)),
    responses((status = 200), (status = 404, body = ErrorBody)))]
async fn remove(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(trail): Path<String>,
) -> ApiResult<()> {
    let name: TrailName = trail.parse()?;
    let act = state.store.remove_audit_trail(&name);
    audited(&state, &actor, "audit.remove-trail", name.as_str(), json!({}), act).await
}
