//! Plugins' settings as guests see them: one consistent snapshot per call, completed with the
//! schema's defaults.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_model::PluginName;
use patchbay_model::json_schema::{Schema, Values, Violations};
use patchbay_model::manifest::Manifest;
use serde_json::{Map, Value};

pub type Effective = Arc<Map<String, Value>>;

/// The current settings of all active plugins.
pub struct Settings {
    /// The sender of the mail account.
    mail_from: Option<String>,
    /// For jobs that name no platform.
    default_platform: Arc<str>,
    by_plugin: ArcSwap<HashMap<PluginName, Effective>>,
}

impl Settings {
    /// `mail_from` is for plugins that send mail and have an unset setting `from`.
    pub fn new(mail_from: Option<String>, default_platform: Arc<str>) -> Self {
        Self {
            mail_from,
            default_platform,
            by_plugin: ArcSwap::default(),
        }
    }

    /// The platform that guests see for a job or request that names none.
    pub fn default_platform(&self) -> &str {
        &self.default_platform
    }

    /// The settings of one plugin; empty if it has none.
    pub fn of(&self, plugin: &PluginName) -> Effective {
        self.by_plugin
            .load()
            .get(plugin)
            .cloned()
            .unwrap_or_default()
    }

    /// Replaces the settings of one plugin. Running calls keep theirs.
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

    /// The stored settings, completed with the schema's top-level defaults and, for `from`, the
    /// mail account's sender.
    pub fn effective(&self, manifest: &Manifest, stored: &Value) -> Map<String, Value> {
        let mut settings = stored.as_object().cloned().unwrap_or_default();
        let properties = manifest
            .settings
            .as_ref()
            .and_then(|spec| spec.schema.get("properties"))
            .and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            let from = || {
                self.mail_from
                    .clone()
                    .filter(|_| name == "from" && manifest.smtp.is_some())
                    .map(Value::from)
            };
            if !settings.contains_key(name)
                && let Some(default) = schema.get("default").cloned().or_else(from)
            {
                settings.insert(name.clone(), default);
            }
        }
        settings
    }
}

/// Violations that an error lists.
const MAX_VIOLATIONS: usize = 5;

/// Whether the settings fit the plugin's schema. The error names places, never values, which may be
/// personal: it is recorded. Slow for large settings.
pub fn check(manifest: &Manifest, settings: &Value) -> Result<(), Violations> {
    let Some(spec) = &manifest.settings else {
        return match settings.as_object().is_some_and(Map::is_empty) {
            true => Ok(()),
            false => Err(Violations::whole("this plugin has no settings")),
        };
    };
    Schema::new(&spec.schema)
        .map_err(|reason| {
            Violations::whole(format!("the plugin's schema cannot be used: {reason}"))
        })?
        .fits(settings, Values::Withheld, MAX_VIOLATIONS)
}
