//! /api/admin/plugins/{name}/status, history and diff: what an operator looks at before and after a swap.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use patchbay_app::difference::Change;
use patchbay_app::plugins::HostState;
use patchbay_model::{PluginName, RevisionDigest};
use patchbay_work::quarantine::Quarantined;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use super::plugins::{RevisionSummary, revision_summaries};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};
use crate::path::Path;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(history)).routes(routes!(diff)).routes(routes!(prune))
}

/// A plugin on this host.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Status {
    name: String,
    /// What Postgres says is active.
    active: Option<String>,
    /// What takes new calls on this host; another one than `active` while that cannot be loaded.
    running: Option<String>,
    /// Why the active revision does not run on this host.
    failure: Option<String>,
    /// Why its queues stand still, if they do.
    quarantined: Option<Quarantined>,
    /// Every process; empty when no revision is active.
    hosts: Vec<HostState>,
    /// Newest first.
    revisions: Vec<RevisionSummary>,
}

/// A plugin on this host: which revision is active, which one runs, and why they differ.
#[utoipa::path(get, path = "/plugins/{name}/status", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), responses(
    (status = 200, body = Success<Status>), (status = 404, body = ErrorBody),
))]
async fn status(State(state): State<AppState>, Path(name): Path<String>) -> ApiResult<Status> {
    let plugin: PluginName = name.parse()?;
    let revisions = revision_summaries(&state, &plugin).await?;
    let running = revisions.iter().find(|revision| revision.state == "active");
    let hosts = match running.and_then(|revision| revision.digest.parse().ok()) {
        Some(active) => state.plugins.hosts(&plugin, &active).await?,
        None => Vec::new(),
    };
    ok(Status {
        hosts,
        active: running.map(|revision| revision.digest.clone()),
        running: state.plugins.running(&plugin).map(|digest| digest.to_string()),
        failure: state.plugins.failure(&plugin),
        quarantined: state.plugins.quarantined(&plugin),
        revisions,
        name,
    })
}

/// A change of which revision is active.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct HistoryEntry {
    at: String,
    /// `activated`, `reactivated` (a rollback: it had been active before) or `deactivated`.
    action: &'static str,
    /// Active from then on.
    digest: Option<String>,
    /// Absent when the revision is not kept any more.
    version: Option<String>,
    actor: String,
    /// What it was granted.
    granted: Value,
}

/// Every activation, rollback and deactivation of a plugin, newest first.
#[utoipa::path(get, path = "/plugins/{name}/history", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path)), responses(
    (status = 200, body = Success<Vec<HistoryEntry>>), (status = 404, body = ErrorBody),
))]
async fn history(State(state): State<AppState>, Path(name): Path<String>) -> ApiResult<Vec<HistoryEntry>> {
    let plugin: PluginName = name.parse()?;
    let activations = state.store.activations(&plugin).await?;
    // Its history outlives its last revision.
    if activations.is_empty() && state.store.revisions(Some(&plugin)).await?.is_empty() {
        return Err(ApiError::not_found(format!("no plugin is called {plugin}")));
    }
    let mut seen: Vec<RevisionDigest> = Vec::new();
    let mut entries = Vec::new();
    for row in activations {
        let action = match &row.digest {
            None => "deactivated",
            Some(digest) if seen.contains(digest) => "reactivated",
            Some(digest) => {
                seen.push(*digest);
                "activated"
            }
        };
        entries.push(HistoryEntry {
            at: row.at.to_rfc3339(),
            action,
            digest: row.digest.map(|digest| digest.to_string()),
            version: row.version,
            actor: row.actor,
            granted: row.grants,
        });
    }
    entries.reverse();
    ok(entries)
}

/// Which two.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Digest, or an unambiguous beginning of at least 4 digits.
    from: String,
    /// The same.
    to: String,
}

/// Two revisions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Diff {
    /// Digest.
    from: String,
    /// Digest.
    to: String,
    /// Sorted by part and name; empty when only the code differs.
    changes: Vec<Change>,
}

/// What changed between two revisions of a plugin.
#[utoipa::path(get, path = "/plugins/{name}/diff", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path), Which), responses(
    (status = 200, body = Success<Diff>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
))]
async fn diff(
    State(state): State<AppState>,
    Path(name): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
) -> ApiResult<Diff> {
    let plugin: PluginName = name.parse()?;
    let Query(Which { from, to }) = which?;
    let (from, before) = state.plugins.describe(&plugin, &from).await?;
    let (to, after) = state.plugins.describe(&plugin, &to).await?;
    let changes = patchbay_app::difference::between(&before, &after);
    ok(Diff { from: from.to_string(), to: to.to_string(), changes })
}

/// Which old revisions.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Prune {
    /// Only list them.
    #[serde(default)]
    dry_run: bool,
}

/// A revision that was, or would be, deleted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    plugin: String,
    digest: String,
    version: String,
    size_bytes: i64,
}

/// Delete old revisions now, as the host does by itself: not the newest of each plugin, not what is active or quarantined, and not what was
/// pushed, activated or ran a job lately (`plugins.keep_revisions`, `plugins.keep_days`).
#[utoipa::path(post, path = "/plugins/prune", tag = "plugins", security(("operator" = [])), request_body = Prune,
    responses((status = 200, body = Success<Vec<Pruned>>)))]
async fn prune(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Prune>, JsonRejection>,
) -> ApiResult<Vec<Pruned>> {
    let Json(Prune { dry_run }) = body?;
    let act = async {
        let pruned = state.plugins.prune(dry_run).await?;
        let shown = pruned.into_iter().map(|revision| Pruned {
            plugin: revision.plugin.to_string(),
            digest: revision.digest.to_string(),
            version: revision.version,
            size_bytes: revision.size_bytes,
        });
        Ok::<Vec<Pruned>, ApiError>(shown.collect())
    };
    audited(&state, &actor, "plugin.prune", "old revisions", json!({ "dryRun": dry_run }), act).await
}
