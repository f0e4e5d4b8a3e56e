//! Shows who holds database connections. Places are those of the process that answers; sessions
//! come from Postgres.

use std::time::Duration;

use patchbay_api::sql::{DatabaseActivity, DatabaseSession, PluginActivity};
use patchbay_model::PluginName;
use patchbay_store::{PluginActivity as ActivityOfPlugin, SqlSession};

use super::PluginAdministration;
use crate::Error;
use crate::nearest::unknown_plugin;

impl PluginAdministration {
    /// Of one plugin, or of all.
    pub async fn database_activity(&self, plugin: Option<&str>) -> Result<DatabaseActivity, Error> {
        let plugin: Option<PluginName> = plugin.map(str::parse).transpose()?;
        let activity = self.sql.activity(plugin.as_ref()).await?;
        if let (Some(plugin), true) = (&plugin, activity.plugins.is_empty()) {
            return Err(Error::not_found(self.why_no_login(plugin).await?));
        }
        Ok(DatabaseActivity {
            max_connections: activity.max_connections,
            connections: activity.connections,
            plugins: activity
                .plugins
                .into_iter()
                .map(|of_plugin| self.plugin_activity(of_plugin))
                .collect(),
        })
    }

    async fn why_no_login(&self, plugin: &PluginName) -> Result<String, Error> {
        let rows = self.store.revisions(Some(plugin)).await?;
        Ok(match rows.iter().any(|row| row.is_current) {
            _ if rows.is_empty() => unknown_plugin(&self.store, plugin).await,
            true => {
                format!("{plugin} has no database login: its active revision asks for no tables")
            }
            false => format!("{plugin} has no active revision, and so no database login"),
        })
    }

    fn plugin_activity(&self, activity: ActivityOfPlugin) -> PluginActivity {
        PluginActivity {
            problem: self.sql.problem(&activity.plugin),
            plugin: activity.plugin.to_string(),
            login: activity.login,
            max_connections: activity.max_connections,
            in_use: activity.places.in_use,
            longest_ms: ms(activity.places.longest),
            waiting: activity.places.waiting,
            ended: activity.ended,
            sessions: activity.sessions.into_iter().map(session_view).collect(),
        }
    }
}

fn session_view(session: SqlSession) -> DatabaseSession {
    let SqlSession {
        pid,
        state,
        transaction,
        waits_for,
        blocks,
        statement,
    } = session;
    DatabaseSession {
        pid,
        state,
        transaction_ms: transaction.map(ms),
        waits_for,
        blocks,
        statement,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
