//! Database connections of plugins.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::Data;
use crate::body::NoBody;
use crate::operations;

operations! {
    /// Show the database connections of plugins: waiting calls, how long connections are held, and
    /// the sessions in Postgres.
    SqlActivity = "sql.activity": GET "/api/admin/sql" ((), SqlActivityQuery, NoBody) -> Data<DatabaseActivity>,
        Viewer, Reads, errors [404 "it has no database login", 503 "Postgres does not answer"];
}

/// Which plugin to show.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SqlActivityQuery {
    /// Name of the plugin; all plugins if absent.
    pub plugin: Option<String>,
}

/// Database connections of plugins. Connection counts are those of the answering process; sessions
/// are those of Postgres.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseActivity {
    /// Maximum number of connections on this host, for all plugins together.
    pub max_connections: usize,
    /// Open connections, including idle ones.
    pub connections: usize,
    /// Plugins, by name.
    pub plugins: Vec<PluginActivity>,
}

/// Database connections of one plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginActivity {
    /// Name of the plugin.
    pub plugin: String,
    /// Its login role in Postgres.
    pub login: String,
    /// Why it cannot run statements; absent if its login is in order.
    pub problem: Option<String>,
    /// Maximum number of connections on this host.
    pub max_connections: usize,
    /// Connections in use on this host, including those whose backend is being ended.
    pub in_use: usize,
    /// How long the oldest of them has been in use, in milliseconds.
    pub longest_ms: u64,
    /// Calls on this host that wait for a connection.
    pub waiting: usize,
    /// Backends that this host has ended since its start, because a call did not return the
    /// connection.
    pub ended: u64,
    /// Sessions on all hosts; the longest transaction first.
    pub sessions: Vec<DatabaseSession>,
}

/// A session in Postgres. Fields that the host's login may not see are absent.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSession {
    /// Process id of the backend.
    pub pid: i32,
    /// State, as in `pg_stat_activity`.
    pub state: Option<String>,
    /// Age of its open transaction, in milliseconds.
    pub transaction_ms: Option<u64>,
    /// Wait event type and wait event, as in `pg_stat_activity`.
    pub waits_for: Option<String>,
    /// Number of sessions, of any login, that wait for a lock of this one.
    pub blocks: i64,
    /// First 200 characters of the last statement, without its parameters; absent while idle.
    pub statement: Option<String>,
}
