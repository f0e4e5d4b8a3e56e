//! Which revision of each plugin takes new calls. Readers see one immutable snapshot; a swap
//! replaces all of it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_model::{PluginName, QueueName};

use crate::Revision;

#[derive(Default)]
pub struct Registry {
    active: ArcSwap<HashMap<PluginName, Arc<Revision>>>,
}

impl Registry {
    pub fn get(&self, plugin: &PluginName) -> Option<Arc<Revision>> {
        self.active.load().get(plugin).cloned()
    }

    /// The active revision of the plugin that handles the queue.
    pub fn owner_of(&self, queue: &QueueName) -> Option<Arc<Revision>> {
        self.active
            .load()
            .values()
            .find(|revision| revision.manifest().queue(queue).is_some())
            .cloned()
    }

    pub fn snapshot(&self) -> Vec<Arc<Revision>> {
        self.active.load().values().cloned().collect()
    }

    /// Lets this revision take all new calls and returns the previous one. Running calls keep
    /// theirs alive.
    pub fn publish(&self, revision: Arc<Revision>) -> Option<Arc<Revision>> {
        let previous = self.active.rcu(|active| {
            let mut next = HashMap::clone(active);
            next.insert(revision.plugin().clone(), Arc::clone(&revision));
            next
        });
        previous.get(revision.plugin()).cloned()
    }

    pub fn remove(&self, plugin: &PluginName) {
        self.active.rcu(|active| {
            let mut next = HashMap::clone(active);
            next.remove(plugin);
            next
        });
    }
}
