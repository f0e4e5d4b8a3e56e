//! `[secrets]`: the vault's master keys, and secrets of plugins from the environment.

use std::path::PathBuf;
use std::sync::Arc;

use patchbay_capability::{SecretSource, SecretValue};
use patchbay_model::PluginName;
use zeroize::Zeroizing;

use super::Config;
use super::key::{Setting, key, section};
use super::kind::{Kind, scalar, text};
use patchbay_app::vault::{KEY_FORM, KeySource, parse_key};

section! {
    /// Master keys.
    pub struct Secrets {
        /// File with the master key of the vault: 32 random bytes as hexadecimal digits or base64,
        /// for its owner only
        key_file: Option<PathBuf> = key("secrets.key_file", text());
        /// The master key itself; a file is safer
        key: Option<Zeroizing<String>> = key("secrets.key", master_key()).secret();
        /// File with the previous master key, during a rotation
        old_key_file: Option<PathBuf> = key("secrets.old_key_file", text());
        /// The previous master key itself, during a rotation; a file is safer
        old_key: Option<Zeroizing<String>> = key("secrets.old_key", master_key()).secret();
    }
}

fn master_key() -> Kind<Zeroizing<String>> {
    scalar(format!("must be a key: {KEY_FORM}"), |text| {
        parse_key(text).map(|_| text.to_owned().into())
    })
}

impl Secrets {
    /// The master key of the vault, and the previous one.
    pub fn master_keys(&self) -> [Option<KeySource>; 2] {
        let source =
            |file: &Setting<Option<PathBuf>>, key: &Setting<Option<Zeroizing<String>>>| match (
                &**file, &**key,
            ) {
                (Some(path), _) => Some(KeySource::File {
                    key: file.entry.key,
                    path: path.clone(),
                }),
                (None, Some(text)) => Some(KeySource::Text {
                    key: key.entry.key,
                    text: text.clone(),
                }),
                (None, None) => None,
            };
        [
            source(&self.key_file, &self.key),
            source(&self.old_key_file, &self.old_key),
        ]
    }
}

impl Config {
    /// `PATCHBAY_SECRET_<PLUGIN>_<NAME>`, or for all plugins `PATCHBAY_SECRET_<NAME>`.
    pub fn plugin_secret(&self, plugin: &PluginName, name: &str) -> Option<String> {
        let own = format!(
            "{}_{name}",
            plugin.as_str().replace('-', "_").to_ascii_uppercase()
        );
        self.plugin_secrets
            .get(&own)
            .or_else(|| self.plugin_secrets.get(name))
            .cloned()
    }
}

/// Secrets from the environment, which the vault does not hold.
pub(crate) struct EnvironmentSecrets(pub(crate) Arc<Config>);

impl SecretSource for EnvironmentSecrets {
    fn current(&self, plugin: &PluginName, name: &str) -> Vec<SecretValue> {
        self.0
            .plugin_secret(plugin, name)
            .map(SecretValue::new)
            .into_iter()
            .collect()
    }
}
