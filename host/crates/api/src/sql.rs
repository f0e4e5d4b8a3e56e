//! Database connections of plugins.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::Data;
use crate::body::NoBody;
use crate::operations;

operations! {
    /// What plugins do with their database connections: who waits, for how long they are held, and what Postgres says of them.
    SqlActivity = "sql.activity": GET "/api/admin/sql" ((), OfOnePlugin, NoBody) -> Data<DatabaseActivity>,
        Operator, Reads, errors [404 "it has no database login", 503 "Postgres does not answer"];
}

/// Which plugin.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct OfOnePlugin {
    /// All without it.
    pub plugin: Option<String>,
}

/// Database connections of plugins. Places are those of the process that answers, sessions are Postgres's.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseActivity {
    /// Most of them on this host, all plugins together.
    pub max_connections: usize,
    /// Open now, those that nobody uses included.
    pub connections: usize,
    /// By name.
    pub plugins: Vec<PluginActivity>,
}

/// Database connections of one plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginActivity {
    /// Its name.
    pub plugin: String,
    /// Its role in Postgres.
    pub login: String,
    /// Why it runs no statement, if its login is not in order.
    pub problem: Option<String>,
    /// Most connections on this host.
    pub max_connections: usize,
    /// Taken on this host, by backends that are being ended, too.
    pub in_use: usize,
    /// The longest of them, milliseconds.
    pub longest_ms: u64,
    /// Calls on this host that wait for one.
    pub waiting: usize,
    /// Backends that this host has ended since its start, since a call did not give them back.
    pub ended: u64,
    /// On all hosts; the longest transaction first.
    pub sessions: Vec<DatabaseSession>,
}

/// A session in Postgres. Absent is what the host's login may not see.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSession {
    /// Of the backend.
    pub pid: i32,
    /// As in `pg_stat_activity`.
    pub state: Option<String>,
    /// How long its transaction is open.
    pub transaction_ms: Option<u64>,
    /// As in `pg_stat_activity`: type and event.
    pub waits_for: Option<String>,
    /// Sessions of anybody that wait for a lock of this one.
    pub blocks: i64,
    /// The last one, its first 200 characters, without its parameters; absent while it is idle.
    pub statement: Option<String>,
}
