//! Quarantines revisions that crash too often, and releases them.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::{PluginName, RevisionDigest};
use patchbay_store::{NamedRevision, StoreError};
use patchbay_work::quarantine::{CrashLoop, Policy, Quarantined};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{PluginError, Plugins};
use crate::Parts;
use crate::service::{Service, task};

/// Pause between tries to write a quarantine while Postgres is away.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A quarantine that this process has begun, for the alerts.
#[derive(Debug)]
pub struct Begun {
    pub crash_loop: CrashLoop,
    /// What was done about it, in words.
    pub consequence: String,
}

/// What to do about a quarantined plugin. `earlier`: the revision to which it can be rolled back.
pub(crate) fn way_out(plugin: &str, earlier: Option<&NamedRevision>) -> String {
    let back = earlier.map_or_else(String::new, |earlier| {
        format!(", or: patchbay plugin rollback {plugin} (back to {earlier})")
    });
    format!("push and activate a corrected revision{back}, or: patchbay plugin release {plugin}")
}

/// Makes what this process has seen hold everywhere, one after another.
pub fn quarantine_follow_up(parts: &Parts) -> Arc<dyn Service> {
    let plugins = Arc::clone(&parts.plugins);
    task("quarantine", move |stop| {
        Arc::clone(&plugins).carry_out_quarantines(stop)
    })
}

impl Plugins {
    /// Name of this process.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Writes the crash loops that this process has seen to Postgres, one after another.
    async fn carry_out_quarantines(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.crash_loops.lock().await;
        while let Some(Some(crash_loop)) = stop.run_until_cancelled(seen.recv()).await {
            loop {
                match self.quarantine(&crash_loop).await {
                    Ok(true) => {
                        self.quarantine.count(&crash_loop);
                        let consequence = self.follow_up(&crash_loop).await;
                        // Without alerts nothing receives this.
                        self.begun
                            .send(Begun {
                                crash_loop: crash_loop.clone(),
                                consequence,
                            })
                            .ok();
                        break;
                    }
                    // Another process was faster, or another revision is active by now.
                    Ok(false) => break,
                    Err(error) => {
                        let (plugin, reason) = (&crash_loop.plugin, &crash_loop.reason);
                        error!(%plugin, reason, %error, "a plugin crashed too often and is stopped on this host; the other hosts could not be notified yet; trying again");
                        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(RETRY_EVERY) => {} }
                    }
                }
            }
            // Forget it only then: until the registry follows Postgres, its workers would go on.
            while let Err(error) = self.converge().await {
                error!(%error, "a plugin is quarantined, but its worker on this host could not be stopped yet; trying again");
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(RETRY_EVERY) => {} }
            }
            self.quarantine.forget(&crash_loop);
        }
    }

    /// Does what the policy says, and describes it in words.
    async fn follow_up(&self, crash_loop: &CrashLoop) -> String {
        let plugin = &crash_loop.plugin;
        let waits = |why: &str| {
            format!(
                "{why}its queues wait; patchbay plugin release {plugin}, or activate another revision"
            )
        };
        match self.policy {
            Policy::Wait => waits(""),
            Policy::Previous => match self
                .rollback(plugin, true, &format!("host {}", self.host()))
                .await
            {
                Ok(activated) => format!(
                    "revision {} {} has taken over",
                    activated.version,
                    activated.digest.short()
                ),
                Err(error) => waits(&format!("no other revision takes over ({error}); ")),
            },
        }
    }

    /// Writes the quarantine of a revision to Postgres. Returns false when it is not the active one
    /// any more.
    async fn quarantine(&self, crash_loop: &CrashLoop) -> Result<bool, StoreError> {
        let actor = format!("host {}", self.host);
        self.store
            .quarantine(
                &crash_loop.plugin,
                &crash_loop.digest,
                &crash_loop.reason,
                &actor,
            )
            .await
    }

    /// Lets the quarantined revision take calls again, here and everywhere.
    pub async fn release(
        &self,
        plugin: &PluginName,
        reason: &str,
        actor: &str,
    ) -> Result<RevisionDigest, PluginError> {
        self.known(plugin).await?;
        let digest = self.store.release(plugin, reason, actor).await?;
        info!(%plugin, revision = %digest, actor, reason, "plugin released from quarantine");
        self.converge().await?;
        Ok(digest)
    }

    /// The plugin that handles a queue, if it is quarantined.
    pub fn quarantined_handler_of(&self, queue: &patchbay_model::QueueName) -> Option<Quarantined> {
        self.quarantine.of_queue(queue)
    }

    /// A plugin, if it is quarantined.
    pub fn quarantined(&self, plugin: &PluginName) -> Option<Quarantined> {
        self.quarantine.of_plugin(plugin)
    }
}
