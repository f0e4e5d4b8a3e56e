//! Routes of plugins.

use axum::extract::Request;
use http::HeaderMap;
use patchbay_api::body::{AnyDocument, Json};
use patchbay_api::headers;
use patchbay_api::plugins::{
    Activated, Activation, Difference, GrantView, PluginStatus, PluginSummary, PluginsActivate,
    PluginsDeactivate, PluginsDelete, PluginsDiff, PluginsGrant, PluginsGrants, PluginsHistory,
    PluginsList, PluginsPrune, PluginsPush, PluginsRelease, PluginsRevisions, PluginsRevoke,
    PluginsRollback, PluginsSetSettings, PluginsSettings, PluginsSettingsSchema, PluginsStatus,
    PrunedRevision, Released, RevisionSummary, SignedComponent, Staged,
};
use patchbay_api::sql::{DatabaseActivity, SqlActivity};
use patchbay_app::plugin_administration::PluginAdministration;
use patchbay_app::{Caller, Error};
use patchbay_model::signature::{self, Signature};
use serde_json::Value;

use crate::AppState;
use crate::error::ApiError;
use crate::routes::{Ask, ReadBody, Routes};

/// Fits the longest name in a registry with its tag and a digest.
const MAX_SOURCE_BYTES: usize = 1_024;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(list)
        .add(push)
        .add(revisions)
        .add(activate)
        .add(rollback)
        .add(deactivate)
        .add(release)
        .add(delete)
        .add(prune)
        .add(status)
        .add(history)
        .add(diff)
        .add(grants)
        .add(grant)
        .add(revoke)
        .add(settings)
        .add(settings_schema)
        .add(set_settings)
        .add(database_activity)
}

async fn list(
    plugins: PluginAdministration,
    _: Caller,
    _: Ask<PluginsList>,
) -> Result<Vec<PluginSummary>, Error> {
    plugins.list().await
}

async fn push(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsPush>,
) -> Result<Staged, Error> {
    plugins.push(&who, &ask.body).await
}

async fn revisions(
    plugins: PluginAdministration,
    _: Caller,
    ask: Ask<PluginsRevisions>,
) -> Result<Vec<RevisionSummary>, Error> {
    plugins.revisions(&ask.path.name).await
}

async fn activate(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsActivate>,
) -> Result<Activated, Error> {
    let Json(wanted) = ask.body;
    plugins.activate(&who, &ask.path.name, &wanted).await
}

async fn rollback(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsRollback>,
) -> Result<Activated, Error> {
    plugins.rollback(&who, &ask.path.name).await
}

async fn deactivate(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsDeactivate>,
) -> Result<(), Error> {
    plugins.deactivate(&who, &ask.path.name).await
}

async fn release(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsRelease>,
) -> Result<Released, Error> {
    let Json(why) = ask.body;
    plugins.release(&who, &ask.path.name, &why).await
}

async fn delete(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsDelete>,
) -> Result<String, Error> {
    plugins.delete(&who, &ask.path.name, &ask.path.digest).await
}

async fn prune(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsPrune>,
) -> Result<Vec<PrunedRevision>, Error> {
    plugins.prune(&who, ask.body.0.dry_run).await
}

async fn status(
    plugins: PluginAdministration,
    _: Caller,
    ask: Ask<PluginsStatus>,
) -> Result<PluginStatus, Error> {
    plugins.status(&ask.path.name).await
}

async fn history(
    plugins: PluginAdministration,
    _: Caller,
    ask: Ask<PluginsHistory>,
) -> Result<Vec<Activation>, Error> {
    plugins.history(&ask.path.name).await
}

async fn diff(
    plugins: PluginAdministration,
    _: Caller,
    ask: Ask<PluginsDiff>,
) -> Result<Difference, Error> {
    plugins
        .diff(&ask.path.name, &ask.query.from, &ask.query.to)
        .await
}

async fn grants(
    plugins: PluginAdministration,
    _: Caller,
    ask: Ask<PluginsGrants>,
) -> Result<Vec<GrantView>, Error> {
    plugins.grants(&ask.path.name).await
}

async fn grant(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsGrant>,
) -> Result<(), Error> {
    let Json(asks) = ask.body;
    plugins.grant(&who, &ask.path.name, &asks).await
}

async fn revoke(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsRevoke>,
) -> Result<Vec<String>, Error> {
    let Json(asks) = ask.body;
    plugins.revoke(&who, &ask.path.name, &asks).await
}

async fn settings(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsSettings>,
) -> Result<Value, Error> {
    plugins.settings(&who, &ask.path.name, &ask.query).await
}

async fn settings_schema(
    plugins: PluginAdministration,
    _: Caller,
    ask: Ask<PluginsSettingsSchema>,
) -> Result<Value, Error> {
    plugins.settings_schema(&ask.path.name).await
}

async fn set_settings(
    plugins: PluginAdministration,
    who: Caller,
    ask: Ask<PluginsSetSettings>,
) -> Result<(), Error> {
    let AnyDocument(settings) = ask.body;
    plugins.set_settings(&who, &ask.path.name, &settings).await
}

async fn database_activity(
    plugins: PluginAdministration,
    _: Caller,
    ask: Ask<SqlActivity>,
) -> Result<DatabaseActivity, Error> {
    plugins.database_activity(ask.query.plugin.as_deref()).await
}

impl ReadBody for SignedComponent {
    async fn read(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let signatures = signatures(request.headers())?;
        let source = source(request.headers())?;
        let limit = state.max_component_bytes;
        let component = axum::body::to_bytes(request.into_body(), limit).await;
        let component = component.map_err(|error| ApiError::of_body(&error, limit))?;
        Ok(Self {
            component: component.into(),
            signatures,
            source,
        })
    }
}

/// One signature per header line, or several separated by commas, because proxies may join lines.
fn signatures(headers: &HeaderMap) -> Result<Vec<Signature>, ApiError> {
    let mut found: Vec<Signature> = Vec::new();
    for value in headers.get_all(signature::HEADER) {
        let text = value.to_str().unwrap_or_default();
        for one in text.split(',') {
            let parsed = one
                .parse()
                .map_err(|error| ApiError::invalid(format!("{}: {error}", signature::HEADER)))?;
            if !found.contains(&parsed) {
                found.push(parsed);
            }
        }
    }
    if found.len() > signature::MAX_SIGNATURES {
        let message = format!(
            "{}: must have at most {} signatures",
            signature::HEADER,
            signature::MAX_SIGNATURES
        );
        return Err(ApiError::invalid(message));
    }
    Ok(found)
}

/// Origin of the file as stated by the client; informative only.
fn source(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(headers::SOURCE) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| text.len() <= MAX_SOURCE_BYTES);
    let wrong = || {
        ApiError::invalid(format!(
            "{}: must have at most {MAX_SOURCE_BYTES} ASCII characters",
            headers::SOURCE
        ))
    };
    text.map(|text| Some(text.to_owned())).ok_or_else(wrong)
}
