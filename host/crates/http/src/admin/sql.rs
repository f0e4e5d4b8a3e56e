//! /api/admin/sql: who holds database connections. Places are those of the process that answers, sessions are Postgres's.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use patchbay_model::PluginName;
use patchbay_store::{PluginActivity, SqlSession};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(activity))
}

/// Database connections of plugins.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Activity {
    /// Most of them on this host, all plugins together.
    max_connections: usize,
    /// Open now, those that nobody uses included.
    connections: usize,
    /// By name.
    plugins: Vec<OfPlugin>,
}

/// Of one plugin.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct OfPlugin {
    plugin: String,
    /// Its role in Postgres.
    login: String,
    /// Why it runs no statement, if its login is not in order.
    problem: Option<String>,
    /// Most connections on this host.
    max_connections: usize,
    /// Taken on this host, by backends that are being ended, too.
    in_use: usize,
    /// The longest of them, milliseconds.
    longest_ms: u64,
    /// Calls on this host that wait for one.
    waiting: usize,
    /// Backends that this host has ended since its start, since a call did not give them back.
    ended: u64,
    /// On all hosts; the longest transaction first.
    sessions: Vec<Session>,
}

/// A session in Postgres. Absent is what the host's login may not see.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Session {
    pid: i32,
    /// As in `pg_stat_activity`.
    state: Option<String>,
    /// How long its transaction is open.
    transaction_ms: Option<u64>,
    /// As in `pg_stat_activity`: type and event.
    waits_for: Option<String>,
    /// Sessions of anybody that wait for a lock of this one.
    blocks: i64,
    /// The last one, its first 200 characters, without its parameters; absent while it is idle.
    statement: Option<String>,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<SqlSession> for Session {
    fn from(session: SqlSession) -> Self {
        let SqlSession { pid, state, transaction, waits_for, blocks, statement } = session;
        Self { pid, state, transaction_ms: transaction.map(ms), waits_for, blocks, statement }
    }
}

/// Which plugin.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// All without it.
    plugin: Option<String>,
}

/// What plugins do with their database connections: who waits, for how long they are held, and what Postgres says of them.
#[utoipa::path(get, path = "/sql", tag = "plugins", security(("operator" = [])), params(Which), responses(
    (status = 200, body = Success<Activity>), (status = 404, description = "it has no database login", body = ErrorBody),
    (status = 503, description = "Postgres does not answer", body = ErrorBody),
))]
async fn activity(State(state): State<AppState>, which: Result<Query<Which>, QueryRejection>) -> ApiResult<Activity> {
    let plugin: Option<PluginName> = which?.0.plugin.map(|name| name.parse()).transpose()?;
    let seen = state.sql.activity(plugin.as_ref()).await?;
    if let (Some(plugin), true) = (&plugin, seen.plugins.is_empty()) {
        let rows = state.store.revisions(Some(plugin)).await?;
        let message = match rows.iter().any(|row| row.is_current) {
            _ if rows.is_empty() => format!("no plugin is called {plugin}"),
            true => format!("{plugin} has no database login: its active revision asks for no tables"),
            false => format!("{plugin} has no active revision, and so no database login"),
        };
        return Err(ApiError::not_found(message));
    }
    let of_plugin = |activity: PluginActivity| OfPlugin {
        problem: state.sql.problem(&activity.plugin),
        plugin: activity.plugin.to_string(),
        login: activity.login,
        max_connections: activity.max_connections,
        in_use: activity.places.in_use,
        longest_ms: ms(activity.places.longest),
        waiting: activity.places.waiting,
        ended: activity.ended,
        sessions: activity.sessions.into_iter().map(Session::from).collect(),
    };
    ok(Activity {
        max_connections: seen.max_connections,
        connections: seen.connections,
        plugins: seen.plugins.into_iter().map(of_plugin).collect(),
    })
}
