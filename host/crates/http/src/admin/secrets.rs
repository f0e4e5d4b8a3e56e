//! /api/admin/plugins/{name}/secrets: set, rotate, list, remove. No answer ever holds a value, not even that of a request that is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use patchbay_app::vault::{MAX_VALUE_BYTES, Rekeyed};
use patchbay_capability::SecretSource;
use patchbay_model::manifest::Manifest;
use patchbay_model::{PluginName, SecretName};
use patchbay_store::{Replace, SecretRow};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use super::audited;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};
use crate::path::Path;

/// Longer than any partner needs to change over; beyond it somebody has mistyped.
const MAX_OVERLAP: Duration = Duration::from_secs(90 * 24 * 3600);

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(set, remove))
        .routes(routes!(rotate))
        .routes(routes!(rekey))
}

/// One version of a secret. Its value is never shown.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct SecretVersion {
    version: i32,
    set_by: String,
    set_at: DateTime<Utc>,
    /// When it ends; absent for the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<DateTime<Utc>>,
    /// When a plugin last used it, to about half a minute: it was put in, signed with, or found to fit.
    last_used_at: Option<DateTime<Utc>>,
    /// Why this host cannot open it, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

/// A secret of a plugin.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct SecretStory {
    name: String,
    /// Whether the plugin's manifest asks for it: that of the active revision, or else of the newest.
    asked: bool,
    /// `vault`, `environment` (of the host that answers) or `none`.
    source: &'static str,
    /// Those that hold, the newest first.
    versions: Vec<SecretVersion>,
}

/// A value, which its holder wipes. Never printed.
struct SecretText(Zeroizing<String>);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A new value.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SetSecret {
    /// 1 to 65,536 bytes of text.
    #[schema(value_type = String, format = Password)]
    value: SecretText,
}

/// A new value, beside which the present one stays valid for a while.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RotateSecret {
    /// 1 to 65,536 bytes of text.
    #[schema(value_type = String, format = Password)]
    value: SecretText,
    /// How long the present version stays valid, milliseconds.
    overlap_ms: u64,
}

/// Serde's own words would quote what does not fit.
fn body<T>(body: Result<Json<T>, JsonRejection>, form: &str) -> Result<T, ApiError> {
    body.map(|Json(body)| body).map_err(|rejection| {
        let large = rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE;
        let code = if large { "too-large" } else { "invalid-input" };
        ApiError::new(rejection.status(), code, format!("the body is not {form}"))
    })
}

fn checked(SecretText(value): SecretText) -> Result<Zeroizing<String>, ApiError> {
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(ApiError::invalid(format!("value: a secret has 1 to {MAX_VALUE_BYTES} bytes")));
    }
    Ok(value)
}

/// What the manifest of the active (or else the newest) revision asks for. A plugin that nobody pushed is an error.
async fn asked(state: &AppState, plugin: &PluginName) -> Result<Vec<String>, ApiError> {
    let rows = state.store.revisions(Some(plugin)).await?;
    let row = rows.iter().find(|row| row.is_current).or(rows.first());
    let row = row.ok_or_else(|| ApiError::not_found(format!("no plugin is called {plugin}")))?;
    // A manifest that this version cannot read is told about elsewhere; secrets can be managed nevertheless.
    let manifest = Manifest::from_stored(row.manifest.clone());
    Ok(manifest.map(|manifest| manifest.secrets.into_iter().map(|secret| secret.name).collect()).unwrap_or_default())
}

fn version(state: &AppState, row: SecretRow) -> SecretVersion {
    SecretVersion {
        unreadable: state.vault.keys().check(&row).err().map(|reason| reason.to_string()),
        version: row.version,
        set_by: row.created_by,
        set_at: row.created_at,
        ends_at: row.ends_at,
        last_used_at: row.last_used_at,
    }
}

async fn stories(state: &AppState, plugin: &PluginName) -> Result<Vec<SecretStory>, ApiError> {
    let asked = asked(state, plugin).await?;
    let mut kept: BTreeMap<String, Vec<SecretVersion>> = asked.iter().map(|name| (name.clone(), Vec::new())).collect();
    for row in state.store.secrets(Some(plugin)).await? {
        kept.entry(row.name.to_string()).or_default().push(version(state, row));
    }
    let story = |(name, versions): (String, Vec<SecretVersion>)| SecretStory {
        asked: asked.contains(&name),
        source: match versions.is_empty() {
            false => "vault",
            true if state.vault.get(plugin, &name).is_some() => "environment",
            true => "none",
        },
        name,
        versions,
    };
    Ok(kept.into_iter().map(story).collect())
}

async fn story(state: &AppState, plugin: &PluginName, name: &SecretName) -> Result<SecretStory, ApiError> {
    let story = stories(state, plugin).await?.into_iter().find(|story| story.name == name.as_str());
    story.ok_or_else(|| ApiError::not_found(format!("the vault holds no secret {name} of {plugin}")))
}

/// The secrets that the vault holds for a plugin, and those that its manifest asks for. Never their values.
#[utoipa::path(get, path = "/plugins/{name}/secrets", tag = "secrets", security(("operator" = [])),
    params(("name" = String, Path, description = "the plugin")), responses(
    (status = 200, body = Success<Vec<SecretStory>>), (status = 404, body = ErrorBody),
))]
async fn list(State(state): State<AppState>, Path(plugin): Path<String>) -> ApiResult<Vec<SecretStory>> {
    ok(stories(&state, &plugin.parse()?).await?)
}

/// Set a secret. Any earlier version ends at once.
#[utoipa::path(put, path = "/plugins/{name}/secrets/{secret}", tag = "secrets", security(("operator" = [])),
    params(("name" = String, Path, description = "the plugin"), ("secret" = String, Path)), request_body = SetSecret, responses(
    (status = 200, body = Success<SecretStory>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, description = "no key is configured", body = ErrorBody),
))]
async fn set(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((plugin, secret)): Path<(String, String)>,
    request: Result<Json<SetSecret>, JsonRejection>,
) -> ApiResult<SecretStory> {
    let (plugin, name): (PluginName, SecretName) = (plugin.parse()?, secret.parse()?);
    let value = checked(body(request, r#"{"value": TEXT}"#)?.value)?;
    let act = async {
        state.vault.put(&plugin, &name, value, Replace::AtOnce, &actor.0).await?;
        story(&state, &plugin, &name).await
    };
    audited(&state, &actor, "secret.set", &target(&plugin, &name), json!({}), act).await
}

/// Rotate a secret. The present version stays valid for the overlap, and ends by itself.
#[utoipa::path(post, path = "/plugins/{name}/secrets/{secret}/rotate", tag = "secrets", security(("operator" = [])),
    params(("name" = String, Path, description = "the plugin"), ("secret" = String, Path)), request_body = RotateSecret, responses(
    (status = 200, body = Success<SecretStory>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, description = "no key is configured, or an earlier rotation has not ended", body = ErrorBody),
))]
async fn rotate(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((plugin, secret)): Path<(String, String)>,
    request: Result<Json<RotateSecret>, JsonRejection>,
) -> ApiResult<SecretStory> {
    let (plugin, name): (PluginName, SecretName) = (plugin.parse()?, secret.parse()?);
    let RotateSecret { value, overlap_ms } = body(request, r#"{"value": TEXT, "overlapMs": NUMBER}"#)?;
    let value = checked(value)?;
    let overlap = Duration::from_millis(overlap_ms);
    if overlap.is_zero() || overlap > MAX_OVERLAP {
        return Err(ApiError::invalid(
            "overlapMs: from 1 millisecond to 90 days; to end the present version at once, set the secret",
        ));
    }
    let details = json!({ "overlapMs": overlap_ms });
    let act = async {
        state.vault.put(&plugin, &name, value, Replace::After(overlap), &actor.0).await?;
        story(&state, &plugin, &name).await
    };
    audited(&state, &actor, "secret.rotate", &target(&plugin, &name), details, act).await
}

/// Remove a secret with all its versions.
#[utoipa::path(delete, path = "/plugins/{name}/secrets/{secret}", tag = "secrets", security(("operator" = [])),
    params(("name" = String, Path, description = "the plugin"), ("secret" = String, Path)), responses(
    (status = 200), (status = 404, body = ErrorBody),
))]
async fn remove(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((plugin, secret)): Path<(String, String)>,
) -> ApiResult<()> {
    let (plugin, name): (PluginName, SecretName) = (plugin.parse()?, secret.parse()?);
    let act = state.vault.remove(&plugin, &name);
    audited(&state, &actor, "secret.remove", &target(&plugin, &name), json!({}), act).await
}

/// Seal every secret with the newest master key that another one has sealed. May be repeated.
#[utoipa::path(post, path = "/secrets/rekey", tag = "secrets", security(("operator" = [])), responses(
    (status = 200, body = Success<Rekeyed>), (status = 409, description = "no key is configured", body = ErrorBody),
))]
async fn rekey(State(state): State<AppState>, Extension(actor): Extension<Actor>) -> ApiResult<Rekeyed> {
    audited(&state, &actor, "secret.rekey", "all", json!({}), state.vault.rekey()).await
}

fn target(plugin: &PluginName, name: &SecretName) -> String {
    format!("{plugin} {name}")
}
