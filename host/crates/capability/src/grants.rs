//! Counts how plugins use their grants.

use std::collections::HashMap;

use parking_lot::Mutex;
use patchbay_model::PluginName;
use patchbay_model::grant::Ask;

/// Uses of grants since they were last [taken](GrantUses::take).
#[derive(Debug, Default)]
pub struct GrantUses(Mutex<HashMap<(PluginName, Ask), u64>>);

impl GrantUses {
    /// Counts one use.
    pub fn count(&self, plugin: &PluginName, ask: Ask) {
        self.with(|uses| *uses.entry((plugin.clone(), ask)).or_default() += 1);
    }

    /// Removes the counts, to be stored.
    pub fn take(&self) -> Vec<((PluginName, Ask), u64)> {
        self.with(|uses| uses.drain().collect())
    }

    /// Puts back counts that could not be stored.
    pub fn put_back(&self, unstored: Vec<((PluginName, Ask), u64)>) {
        self.with(|uses| {
            unstored
                .into_iter()
                .for_each(|(key, n)| *uses.entry(key).or_default() += n)
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<(PluginName, Ask), u64>) -> T) -> T {
        act(&mut self.0.lock())
    }
}
