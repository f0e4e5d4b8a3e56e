//! The grants of the active plugins, as this process knows them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_model::PluginName;
use patchbay_model::grant::Granted;

/// Grants by plugin. A call keeps the grants that it began with; the next one sees a change.
#[derive(Default)]
pub struct Grants(ArcSwap<HashMap<PluginName, Granted>>);

impl Grants {
    /// The grants of one plugin; empty if it has none.
    pub fn of(&self, plugin: &PluginName) -> Granted {
        self.0.load().get(plugin).cloned().unwrap_or_default()
    }

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
