//! Starts the host with and without Postgres, and passes on notifications of changes in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use patchbay_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::Parts;
use crate::plugins::Plugins;
use crate::service::Service;
use crate::snapshot::OfflineSnapshot;
use crate::vault::Vault;

/// Pause between two tries to listen for changes while Postgres is away.
const LISTEN_FOR: Duration = Duration::from_secs(3);
/// Limit at the start. A host that waits for Postgres longer than its supervisor waits for the host
/// is useless.
const MIGRATION_CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Migrates the database. Gives whether Postgres is away and this host goes on with what it last
/// saw of it.
pub async fn migrate_or_resume(store: &Store, copy: &OfflineSnapshot) -> anyhow::Result<bool> {
    match migrate(store).await {
        Ok(()) => Ok(false),
        Err(error) if is_away(&error) && Plugins::has_copy(copy) => {
            warn!(
                error = format!("{error:#}"),
                "Postgres does not answer; starting from the last snapshot"
            );
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

async fn migrate(store: &Store) -> anyhow::Result<()> {
    store
        .reach(MIGRATION_CONNECT_LIMIT)
        .await
        .context("cannot use Postgres")?;
    store
        .migrate()
        .await
        .context("cannot migrate the database")?;
    Ok(())
}

fn is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_passing)
}

/// Notifies plugins and vault of a change in Postgres. After a start without Postgres, it migrates
/// first.
pub fn changes(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(PassOnChanges {
        store: parts.store.clone(),
        plugins: Arc::clone(&parts.plugins),
        vault: Arc::clone(&parts.vault),
        is_to_migrate: AtomicBool::new(parts.started_without_postgres),
    })
}

struct PassOnChanges {
    store: Store,
    plugins: Arc<Plugins>,
    vault: Arc<Vault>,
    is_to_migrate: AtomicBool,
}

#[async_trait]
impl Service for PassOnChanges {
    fn name(&self) -> &'static str {
        "changes"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        stop.run_until_cancelled(async { tokio::join!(self.migrate_when_back(), self.pass_on()) })
            .await;
        Ok(())
    }
}

impl PassOnChanges {
    /// Until then, everything that needs Postgres fails and is retried.
    async fn migrate_when_back(&self) {
        while self.is_to_migrate.load(Ordering::Relaxed) {
            tokio::time::sleep(LISTEN_FOR).await;
            match self.store.migrate().await {
                Ok(_) => {
                    self.is_to_migrate.store(false, Ordering::Relaxed);
                    info!("Postgres answers again");
                    self.plugins.changed();
                }
                Err(error) if error.is_passing() => {}
                Err(error) => error!(%error, "the database cannot be migrated"),
            }
        }
    }

    /// Each of them reads Postgres on its own, so that a long compilation does not delay a secret.
    async fn pass_on(&self) {
        let mut changes = self.store.changes();
        loop {
            changes.wait(LISTEN_FOR).await;
            self.vault.changed();
            self.plugins.changed();
        }
    }
}
