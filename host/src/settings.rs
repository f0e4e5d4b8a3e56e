//! Plugins' settings as guests see them: one consistent snapshot per call, defaults of the schema filled in.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_model::PluginName;
use patchbay_model::manifest::Manifest;
use serde_json::{Map, Value};

/// The effective settings of one plugin.
pub type Effective = Arc<Map<String, Value>>;

/// The current settings of all active plugins.
#[derive(Default)]
pub struct Settings {
    by_plugin: ArcSwap<HashMap<PluginName, Effective>>,
}

impl Settings {
    /// Of one plugin; empty when there are none.
    pub fn of(&self, plugin: &PluginName) -> Effective {
        self.by_plugin.load().get(plugin).cloned().unwrap_or_default()
    }

    /// Replaces those of one plugin; calls that run keep theirs.
    pub fn publish(&self, plugin: &PluginName, effective: Map<String, Value>) {
        if *self.of(plugin) == effective {
            return;
        }
        let effective = Arc::new(effective);
        self.by_plugin.rcu(|current| {
            let mut next = HashMap::clone(current);
            next.insert(plugin.clone(), Arc::clone(&effective));
            next
        });
    }
}

/// What was stored, with the schema's top-level defaults for what was not.
pub fn effective(manifest: &Manifest, stored: &Value) -> Map<String, Value> {
    let mut settings = stored.as_object().cloned().unwrap_or_default();
    let properties = manifest.settings.as_ref().and_then(|spec| spec.schema.get("properties")).and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        if let Some(default) = schema.get("default")
            && !settings.contains_key(name)
        {
            settings.insert(name.clone(), default.clone());
        }
    }
    settings
}

/// Every violation of the plugin's schema, with the path of the value; empty when the settings are fine.
pub fn violations(manifest: &Manifest, settings: &Value) -> Vec<String> {
    let Some(spec) = &manifest.settings else {
        let empty = settings.as_object().is_some_and(Map::is_empty);
        return if empty { Vec::new() } else { vec!["this plugin has no settings".to_owned()] };
    };
    match jsonschema::validator_for(&spec.schema) {
        Ok(validator) => {
            validator.iter_errors(settings).map(|error| format!("{}: {error}", error.instance_path())).collect()
        }
        Err(error) => vec![format!("the plugin's schema cannot be used: {error}")],
    }
}
