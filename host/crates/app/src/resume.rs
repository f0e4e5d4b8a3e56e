//! Starts the host with and without Postgres, and passes on notifications of changes in it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use patchbay_store::{Changes, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::plugins::Plugins;
use crate::vault::Vault;

/// Pause between two tries to listen for changes while Postgres is away.
const LISTEN_FOR: Duration = Duration::from_secs(3);
/// Limit at the start. A host that waits for Postgres longer than its supervisor waits for the host
/// is useless.
const MIGRATION_CONNECT_LIMIT: Duration = Duration::from_secs(5);

pub async fn migrate(store: &Store) -> anyhow::Result<()> {
    store.reach(MIGRATION_CONNECT_LIMIT).await.context("cannot use Postgres")?;
    store.migrate().await.context("cannot migrate the database")?;
    Ok(())
}

pub fn is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_passing)
}

/// Migrates after a start without Postgres. Until then, everything that needs Postgres fails and is
/// retried.
pub async fn migrate_when_back(is_away: bool, store: Store, plugins: Arc<Plugins>, stop: CancellationToken) {
    let mut waits = is_away;
    while waits {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LISTEN_FOR) => {}
        }
        match store.migrate().await {
            Ok(_) => waits = false,
            Err(error) if error.is_passing() => {}
            Err(error) => tracing::error!(%error, "the database cannot be migrated"),
        }
    }
    if is_away {
        info!("Postgres answers again");
        plugins.changed();
    }
}

/// Notifies plugins and vault of a change in Postgres. Each of them reads Postgres on its own, so
/// that a long compilation does not delay a secret.
pub async fn pass_on_changes(mut changes: Changes, plugins: Arc<Plugins>, vault: Arc<Vault>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = changes.wait(LISTEN_FOR) => {}
        }
        vault.changed();
        plugins.changed();
    }
}
