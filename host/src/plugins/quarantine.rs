//! Taking a crashing revision out of work, and letting it in again.

use patchbay_model::{PluginName, RevisionDigest};
use patchbay_store::StoreError;
use tracing::info;

use super::{PluginError, Plugins};
use crate::quarantine::{Quarantined, Tripped};

impl Plugins {
    /// Name of this process.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Makes the quarantine of a revision hold everywhere; false when it is not the active one any more.
    pub(crate) async fn quarantine(&self, tripped: &Tripped) -> Result<bool, StoreError> {
        let actor = format!("host {}", self.host);
        self.store.quarantine(&tripped.plugin, &tripped.digest, &tripped.reason, &actor).await
    }

    /// Lets the quarantined revision take calls again, here and everywhere.
    pub async fn release(&self, plugin: &PluginName, reason: &str, actor: &str) -> Result<RevisionDigest, PluginError> {
        let digest = self.store.release(plugin, reason, actor).await?;
        info!(%plugin, revision = %digest, actor, reason, "plugin released from quarantine");
        self.converge().await?;
        Ok(digest)
    }

    /// The plugin that handles a queue, if it stands still.
    pub fn quarantined_handler_of(&self, queue: &patchbay_model::QueueName) -> Option<Quarantined> {
        self.quarantine.of_queue(queue)
    }

    /// A plugin, if it stands still.
    pub fn quarantined(&self, plugin: &PluginName) -> Option<Quarantined> {
        self.quarantine.of_plugin(plugin)
    }
}
