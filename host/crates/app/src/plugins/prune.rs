//! Deletes old revisions, which are megabytes each.

use std::sync::Arc;
use std::time::Duration;

use patchbay_store::{NewAction, PrunedRevision, StoreError};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Plugins;
use crate::Parts;
use crate::service::{Service, task};

/// The exact time does not matter.
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// Prunes from time to time. Every process does; what one has deleted the others do not find.
pub fn pruner(parts: &Parts) -> Arc<dyn Service> {
    let plugins = Arc::clone(&parts.plugins);
    task("plugin-pruner", move |stop| {
        Arc::clone(&plugins).run_pruning(stop)
    })
}

impl Plugins {
    /// Deletes what the configuration does not keep, or only lists it.
    pub async fn prune(&self, dry_run: bool) -> Result<Vec<PrunedRevision>, StoreError> {
        self.store.prune_revisions(self.keep, dry_run).await
    }

    /// Every process prunes, and finds only what the others have not deleted.
    async fn run_pruning(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(PRUNE_EVERY))
            .await
            .is_some()
        {
            if let Err(error) = self.prune_and_record().await {
                warn!(%error, "old revisions were not removed; the next round tries again");
            }
        }
    }

    /// The record shows the deletion next to the actions of operators.
    async fn prune_and_record(&self) -> Result<(), StoreError> {
        let pruned = self.prune(false).await?;
        if pruned.is_empty() {
            return Ok(());
        }
        let digests: Vec<String> = pruned
            .iter()
            .map(|revision| revision.digest.to_string())
            .collect();
        let actor = format!("host {}", self.host);
        let action = NewAction {
            actor: &actor,
            is_host: true,
            action: "plugin.prune",
            target: "old revisions",
            details: &json!({}),
        };
        let id = self.store.begin_action(&action).await?;
        self.store.finish_action(id, &Ok(json!(digests))).await
    }
}
