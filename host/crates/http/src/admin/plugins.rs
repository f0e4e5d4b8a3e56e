//! /api/admin/plugins: push, list, activate, roll back, settings.

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use http::HeaderMap;
use patchbay_api::headers;
use patchbay_app::plugins::{Activated, GrantStory, Signed, Staged};
use patchbay_model::grant::Ask;
use patchbay_model::signature::{self, Signature};
use patchbay_model::{PluginName, Redaction, RevisionDigest};
use patchbay_store::HostRow;
use patchbay_work::quarantine::Quarantined;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reveal::{Reveal, refuse_mark};
use super::{audited, recorded};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};
use crate::path::Path;

/// A registry's longest name, its tag and a digest fit.
const MAX_SOURCE_BYTES: usize = 1_024;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, push))
        .routes(routes!(revisions))
        .routes(routes!(activate))
        .routes(routes!(rollback))
        .routes(routes!(deactivate))
        .routes(routes!(delete))
        .routes(routes!(settings, set_settings))
        .routes(routes!(grants, grant))
        .routes(routes!(revoke))
}

/// A plugin in a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct PluginSummary {
    name: String,
    /// Of the active (or quarantined) revision; of the newest when there is none.
    version: String,
    /// Of the same revision.
    digest: String,
    active: bool,
    /// Why its queues stand still, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined: Option<Quarantined>,
    description: String,
    queues: Vec<String>,
    /// Method and path of each, such as `POST /api/leads/{leadId}/call`. Checked, but not served yet.
    routes: Vec<String>,
    /// Likewise, with the webhook's name first.
    webhooks: Vec<String>,
    /// How many revisions are kept.
    revisions: usize,
    /// Why the active revision does not run on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// Processes that answer, and how many of them run the active revision.
    hosts: HostCount,
}

/// How far an activation has come.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
struct HostCount {
    running: usize,
    of: usize,
}

/// A revision in a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RevisionSummary {
    pub(super) digest: String,
    version: String,
    /// `staged`, `active`, `retired` or `quarantined`.
    pub(super) state: String,
    created_at: String,
    created_by: String,
    activated_at: Option<String>,
    size_bytes: i64,
    /// Attempts that it ran, as far as they are remembered.
    attempts: i64,
    /// Who vouches for it.
    signatures: Vec<Signed>,
}

/// All plugins.
#[utoipa::path(get, path = "/plugins", tag = "plugins", security(("operator" = [])), responses(
    (status = 200, body = Success<Vec<PluginSummary>>), (status = 401, body = ErrorBody),
))]
async fn list(State(state): State<AppState>) -> ApiResult<Vec<PluginSummary>> {
    let rows = state.store.revisions(None).await?;
    let hosts = state.store.hosts().await?;
    let answering: Vec<_> = hosts.iter().filter(|host| host.silent_for.is_none()).collect();
    let mut plugins: Vec<PluginSummary> = Vec::new();
    // Newest first, so the first row of a plugin is its newest revision.
    for row in rows {
        let current = row.is_current;
        let known = plugins.iter().position(|plugin| plugin.name == row.plugin.as_str());
        let runs =
            |host: &&&HostRow| host.plugins.get(&row.plugin).is_some_and(|running| running.digest == Some(row.digest));
        let quarantined = state.plugins.quarantined(&row.plugin);
        let summary = PluginSummary {
            hosts: HostCount { running: answering.iter().filter(runs).count(), of: answering.len() },
            name: row.plugin.to_string(),
            version: row.version,
            digest: row.digest.to_string(),
            // The rows may have been read before it was written down.
            active: row.state == "active" && quarantined.is_none(),
            quarantined,
            description: row.manifest["description"].as_str().unwrap_or_default().to_owned(),
            queues: queue_names(&row.manifest),
            routes: route_lines(&row.manifest),
            webhooks: webhook_lines(&row.manifest),
            revisions: 1,
            failure: state.plugins.failure(&row.plugin),
        };
        match known {
            Some(i) if current => plugins[i] = PluginSummary { revisions: plugins[i].revisions + 1, ..summary },
            Some(i) => plugins[i].revisions += 1,
            None => plugins.push(summary),
        }
    }
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    ok(plugins)
}

fn queue_names(manifest: &Value) -> Vec<String> {
    let queues = manifest["queues"].as_array().into_iter().flatten();
    queues.filter_map(|queue| queue["name"].as_str().map(str::to_owned)).collect()
}

fn route_lines(manifest: &Value) -> Vec<String> {
    let routes = manifest["routes"].as_array().into_iter().flatten();
    routes.filter_map(|route| Some(format!("{} {}", route["method"].as_str()?, route["path"].as_str()?))).collect()
}

fn webhook_lines(manifest: &Value) -> Vec<String> {
    let line = |webhook: &Value| {
        let methods: Vec<&str> =
            webhook["methods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // Left out where it is the default.
        let methods = if methods.is_empty() { "POST".to_owned() } else { methods.join(",") };
        Some(format!("{} {methods} {}", webhook["name"].as_str()?, webhook["path"].as_str()?))
    };
    manifest["webhooks"].as_array().into_iter().flatten().filter_map(line).collect()
}

/// Stage a component file. Nothing runs on it until it is activated. A file that is here already gets the signatures that it did not have.
#[utoipa::path(post, path = "/plugins", tag = "plugins", security(("operator" = [])),
    params(
        ("x-patchbay-signature" = Option<String>, Header,
            description = "key id, `:`, base64 of the Ed25519 signature over `patchbay-v1\\0` and the file's SHA-256; may be repeated"),
        ("x-patchbay-source" = Option<String>, Header,
            description = "where the file is from, for the record of this action: at most 1024 characters of ASCII"),
    ),
    request_body(content = Vec<u8>, content_type = "application/wasm"), responses(
    (status = 200, body = Success<Staged>),
    (status = 400, description = "a signature or a source that is none", body = ErrorBody),
    (status = 409, description = "clashes with another plugin", body = ErrorBody),
    (status = 413, description = "too large", body = ErrorBody),
    (status = 422, description = "`rejected`, with the reason, or `untrusted`: not signed by a key that this host trusts", body = ErrorBody),
))]
async fn push(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Staged> {
    let signatures = signatures(&headers)?;
    let source = source(&headers)?;
    let limit = state.max_component_bytes;
    let component = axum::body::to_bytes(body, limit).await.map_err(|error| ApiError::of_body(&error, limit))?;
    let digest = RevisionDigest::of(&component).to_string();
    let signers: Vec<String> = signatures.iter().map(|signature| signature.key.to_string()).collect();
    let details = json!({ "digest": digest, "bytes": component.len(), "signatures": signers, "source": source });
    let act = state.plugins.stage(&component, &signatures, &actor.0);
    audited(&state, &actor, "plugin.push", &digest, details, act).await
}

/// One per header line, or several with commas: proxies may join lines.
fn signatures(headers: &HeaderMap) -> Result<Vec<Signature>, ApiError> {
    let mut found: Vec<Signature> = Vec::new();
    for value in headers.get_all(signature::HEADER) {
        let text = value.to_str().unwrap_or_default();
        for one in text.split(',') {
            let parsed = one.parse().map_err(|error| ApiError::invalid(format!("{}: {error}", signature::HEADER)))?;
            if !found.contains(&parsed) {
                found.push(parsed);
            }
        }
    }
    if found.len() > signature::MAX_SIGNATURES {
        let message = format!("{}: at most {} signatures", signature::HEADER, signature::MAX_SIGNATURES);
        return Err(ApiError::invalid(message));
    }
    Ok(found)
}

/// Where the client says that the file is from; nothing depends on it.
fn source(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(headers::SOURCE) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_SOURCE_BYTES);
    let wrong = || ApiError::invalid(format!("{}: at most {MAX_SOURCE_BYTES} characters of ASCII", headers::SOURCE));
    text.map(Some).ok_or_else(wrong)
}

/// All revisions of a plugin, newest first.
#[utoipa::path(get, path = "/plugins/{name}/revisions", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), responses(
    (status = 200, body = Success<Vec<RevisionSummary>>), (status = 404, body = ErrorBody),
))]
async fn revisions(State(state): State<AppState>, Path(name): Path<String>) -> ApiResult<Vec<RevisionSummary>> {
    ok(revision_summaries(&state, &name.parse()?).await?)
}

/// Newest first; a plugin without revisions is not found.
pub(super) async fn revision_summaries(
    state: &AppState,
    plugin: &PluginName,
) -> Result<Vec<RevisionSummary>, ApiError> {
    let rows = state.store.revisions(Some(plugin)).await?;
    if rows.is_empty() {
        return Err(ApiError::not_found(format!("no plugin is called {plugin}")));
    }
    let attempts = state.store.attempts_by_revision(plugin).await?;
    let signatures = state.store.signatures_of(plugin).await?;
    let signed = |digest: &RevisionDigest| {
        let rows: Vec<_> = signatures.iter().filter(|row| &row.digest == digest).cloned().collect();
        state.plugins.signed(&rows)
    };
    Ok(rows
        .into_iter()
        .map(|row| RevisionSummary {
            attempts: attempts.iter().find(|(digest, _)| digest == &row.digest).map_or(0, |(_, count)| *count),
            signatures: signed(&row.digest),
            digest: row.digest.to_string(),
            version: row.version,
            state: row.state,
            created_at: row.created_at.to_rfc3339(),
            created_by: row.created_by,
            activated_at: row.activated_at.map(|at| at.to_rfc3339()),
            size_bytes: row.size_bytes,
        })
        .collect())
}

/// Which revision.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Activate {
    /// Its digest, or an unambiguous beginning of at least 4 digits.
    digest: String,
    /// Grant with it what it asks for and is not granted. Without that, such a revision is refused as `not-granted`.
    #[serde(default)]
    grant: bool,
}

/// Make a revision the active one. Running calls finish on the old one.
#[utoipa::path(post, path = "/plugins/{name}/activate", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), request_body = Activate, responses(
    (status = 200, body = Success<Activated>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 422, body = ErrorBody),
))]
async fn activate(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    body: Result<Json<Activate>, JsonRejection>,
) -> ApiResult<Activated> {
    let plugin: PluginName = name.parse()?;
    let Json(Activate { digest, grant }) = body?;
    let details = json!({ "digest": digest, "grant": grant });
    let act = state.plugins.activate(&plugin, &digest, grant, &actor.0);
    audited(&state, &actor, "plugin.activate", &name, details, act).await
}

/// Activate the revision that was active before.
#[utoipa::path(post, path = "/plugins/{name}/rollback", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), responses(
    (status = 200, body = Success<Activated>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
))]
async fn rollback(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> ApiResult<Activated> {
    let plugin: PluginName = name.parse()?;
    let act = state.plugins.rollback(&plugin, &actor.0);
    audited(&state, &actor, "plugin.rollback", &name, json!({}), act).await
}

/// Stop a plugin. Its queues wait until a revision is activated again.
#[utoipa::path(post, path = "/plugins/{name}/deactivate", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), responses((status = 200), (status = 404, body = ErrorBody)))]
async fn deactivate(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> ApiResult<()> {
    let plugin: PluginName = name.parse()?;
    let act = state.plugins.deactivate(&plugin, &actor.0);
    audited(&state, &actor, "plugin.deactivate", &name, json!({}), act).await
}

/// Forget a revision that is not active.
#[utoipa::path(delete, path = "/plugins/{name}/revisions/{digest}", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path), ("digest" = String, Path)), responses(
    (status = 200), (status = 404, body = ErrorBody), (status = 409, description = "it is active", body = ErrorBody),
))]
async fn delete(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((name, digest)): Path<(String, String)>,
) -> ApiResult<RevisionDigest> {
    let plugin: PluginName = name.parse()?;
    let act = state.plugins.delete(&plugin, &digest, &actor.0);
    audited(&state, &actor, "plugin.delete", &name, json!({ "digest": digest }), act).await
}

/// The stored settings, without defaults, and without what their names tell to be secret. With `reveal` all of them; that is recorded.
#[utoipa::path(get, path = "/plugins/{name}/settings", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path), Reveal), responses((status = 200, body = Success<Value>), (status = 400, body = ErrorBody)))]
async fn settings(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    reveal: Result<Query<Reveal>, QueryRejection>,
) -> ApiResult<Value> {
    let reveal = reveal?.0.checked()?;
    let plugin: PluginName = name.parse()?;
    let act = async { Ok::<_, ApiError>(state.store.settings(&plugin).await?) };
    if reveal.reveal {
        let seen = |_: &Value| Value::Null;
        return ok(recorded(&state, &actor, "plugin.reveal-settings", &name, reveal.details(), act, seen).await?);
    }
    let text = act.await?.to_string();
    let (shown, _) = Redaction::default().data(&text);
    ok(serde_json::from_str(&shown.text).map_err(|_| ApiError::internal())?)
}

/// Replace the settings. They take effect on the next call.
#[utoipa::path(put, path = "/plugins/{name}/settings", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), request_body = Value, responses(
    (status = 200), (status = 400, description = "they do not fit the schema", body = ErrorBody),
))]
async fn set_settings(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    body: Result<Json<Value>, JsonRejection>,
) -> ApiResult<()> {
    let plugin: PluginName = name.parse()?;
    let Json(value) = body?;
    refuse_mark("the settings", &value.to_string())?;
    let act = state.plugins.set_settings(&plugin, &value, &actor.0);
    audited(&state, &actor, "plugin.settings", &name, json!({}), act).await
}

/// What a plugin asks for, is granted, and has used in the last 30 days.
#[utoipa::path(get, path = "/plugins/{name}/grants", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), responses((status = 200, body = Success<Vec<GrantStory>>), (status = 404, body = ErrorBody)))]
async fn grants(State(state): State<AppState>, Path(name): Path<String>) -> ApiResult<Vec<GrantStory>> {
    ok(state.plugins.grants(&name.parse()?).await?)
}

/// What is granted or revoked.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Asks {
    /// As they stand in the list of grants.
    #[schema(value_type = Vec<String>, min_items = 1)]
    asks: Vec<Ask>,
}

/// Grant to a plugin what one of its revisions asks for. Takes effect on the next call.
#[utoipa::path(post, path = "/plugins/{name}/grants", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), request_body = Asks,
    responses((status = 200), (status = 404, description = "no such plugin, or nothing of it asks for that", body = ErrorBody)))]
async fn grant(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    body: Result<Json<Asks>, JsonRejection>,
) -> ApiResult<()> {
    let plugin: PluginName = name.parse()?;
    let Json(Asks { asks }) = body?;
    let act = state.plugins.grant(&plugin, &asks, &actor.0);
    audited(&state, &actor, "plugin.grant", &name, json!({ "asks": asks }), act).await
}

/// Take grants back. The next call is denied, on every host within a second; calls that run keep theirs.
#[utoipa::path(post, path = "/plugins/{name}/grants/revoke", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), request_body = Asks,
    responses((status = 200, body = Success<Vec<String>>), (status = 404, description = "not granted", body = ErrorBody)))]
async fn revoke(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    body: Result<Json<Asks>, JsonRejection>,
) -> ApiResult<Vec<Ask>> {
    let plugin: PluginName = name.parse()?;
    let Json(Asks { asks }) = body?;
    let act = state.plugins.revoke(&plugin, &asks);
    audited(&state, &actor, "plugin.revoke", &name, json!({ "asks": asks }), act).await
}
