//! Idle connections to the mail server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;

/// Idle connections kept for each plugin.
const MAX_IDLE: usize = 8;
/// Servers close idle connections after minutes (RFC 5321 §4.5.3.2: at least 5). No connection is
/// reused after this shorter time.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Idle connections by owner: a plugin, or the host.
#[derive(Default)]
pub(super) struct Idle(Mutex<HashMap<String, Vec<(Instant, Connection)>>>);

impl Idle {
    /// A connection that is fresh, and to which the server has sent nothing since.
    pub(super) async fn take(&self, plugin: &str) -> Option<Connection> {
        loop {
            let (since, mut connection) = self.0.lock().get_mut(plugin)?.pop()?;
            if since.elapsed() < IDLE_LIMIT && connection.is_quiet().await {
                return Some(connection);
            }
        }
    }

    /// Keeps it for the plugin's next message, unless the server has sent something that nobody
    /// asked for. It is closed if no message comes.
    pub(super) async fn keep(self: &Arc<Self>, plugin: &str, mut connection: Connection) {
        if !connection.is_quiet().await {
            return;
        }
        {
            let mut all = self.0.lock();
            let idle = all.entry(plugin.to_owned()).or_default();
            if idle.len() >= MAX_IDLE {
                drop(all);
                tokio::spawn(connection.quit());
                return;
            }
            idle.push((Instant::now(), connection));
        }
        let (idle, plugin) = (Arc::downgrade(self), plugin.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(IDLE_LIMIT).await;
            let Some(idle) = idle.upgrade() else { return };
            for connection in idle.stale(&plugin) {
                connection.quit().await;
            }
        });
    }

    fn stale(&self, plugin: &str) -> Vec<Connection> {
        let mut all = self.0.lock();
        let Some(idle) = all.get_mut(plugin) else {
            return Vec::new();
        };
        let stale: Vec<_> = idle
            .extract_if(.., |(since, _)| since.elapsed() >= IDLE_LIMIT)
            .collect();
        if idle.is_empty() {
            all.remove(plugin);
        }
        stale
            .into_iter()
            .map(|(_, connection)| connection)
            .collect()
    }
}
