//! What is granted to the active plugins, as this process knows it, and how often they used it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use patchbay_capability::GrantUses;
use patchbay_model::PluginName;
use patchbay_model::grant::Granted;
use patchbay_store::Store;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How late a use shows in `patchbay plugin grants`, and how many are lost when a process is killed.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Grants by plugin. A call keeps those that it began with; the next one sees a change.
#[derive(Default)]
pub struct Grants(ArcSwap<HashMap<PluginName, Granted>>);

impl Grants {
    /// Of one plugin; none when it has none.
    pub fn of(&self, plugin: &PluginName) -> Granted {
        self.0.load().get(plugin).cloned().unwrap_or_default()
    }

    /// Replaces those of one plugin.
    pub fn publish(&self, plugin: &PluginName, granted: Granted) {
        if self.of(plugin) == granted {
            return;
        }
        self.0.rcu(|current| {
            let mut next = HashMap::clone(current);
            next.insert(plugin.clone(), Arc::clone(&granted));
            next
        });
    }
}

/// Stores uses every few seconds until cancelled, and once more then.
pub async fn count_uses(uses: Arc<GrantUses>, store: Store, stop: CancellationToken) {
    loop {
        let stopped = tokio::time::timeout(COUNT_EVERY, stop.cancelled()).await.is_ok();
        let taken = uses.take();
        if !taken.is_empty()
            && let Err(error) = store.count_uses(&taken).await
        {
            warn!(%error, "uses of grants are counted later");
            uses.put_back(taken);
        }
        if stopped {
            return;
        }
    }
}
