//! Use cases of secrets: set, rotate, list, remove. Values can be stored, but are never shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patchbay_api::secrets::{
    NewValue, Rekeyed, Rotation, Secret, SecretText, SecretVersion, SecretsRekey, SecretsRemove,
    SecretsRotate, SecretsSet,
};
use patchbay_capability::SecretSource;
use patchbay_model::id::KEPT;
use patchbay_model::manifest::Manifest;
use patchbay_model::{PluginName, SecretName};
use patchbay_store::{Replace, SecretRow, Store};
use serde_json::json;
use zeroize::Zeroizing;

use crate::actions::{Actions, Caller};
use crate::error::Kind;
use crate::nearest::{suggested, unknown_plugin};
use crate::vault::{MAX_VALUE_BYTES, Vault};
use crate::{Error, Parts};

/// No partner needs longer for a rotation, so a longer overlap is a typing error.
const MAX_OVERLAP: Duration = Duration::from_secs(90 * 24 * 3600);

#[derive(Clone)]
pub struct Secrets {
    store: Store,
    vault: Arc<Vault>,
    actions: Actions,
}

impl Secrets {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            vault: Arc::clone(&parts.vault),
            actions: parts.actions.clone(),
        }
    }

    /// Lists the secrets that the vault holds for a plugin, and those that its manifest asks for.
    pub async fn list(&self, plugin: &str) -> Result<Vec<Secret>, Error> {
        self.of(&plugin.parse()?).await
    }

    /// Earlier versions end at once.
    pub async fn set(
        &self,
        who: &Caller,
        plugin: &str,
        secret: &str,
        new: NewValue,
    ) -> Result<Secret, Error> {
        let (plugin, name): (PluginName, SecretName) = (plugin.parse()?, secret.parse()?);
        refuse_kept(&name)?;
        let value = checked(new.value)?;
        let act = async {
            let put = self
                .vault
                .put(&plugin, &name, value, Replace::AtOnce, &who.actor);
            if let Err(error) = put.await {
                return Err(self.suggested(error.into(), &plugin, &name).await);
            }
            self.one(&plugin, &name).await
        };
        self.actions
            .record::<SecretsSet, _>(who, &target(&plugin, &name), json!({}), act)
            .await
    }

    /// The present version stays valid for the overlap.
    pub async fn rotate(
        &self,
        who: &Caller,
        plugin: &str,
        secret: &str,
        new: Rotation,
    ) -> Result<Secret, Error> {
        let (plugin, name): (PluginName, SecretName) = (plugin.parse()?, secret.parse()?);
        refuse_kept(&name)?;
        let value = checked(new.value)?;
        let overlap = Duration::from_millis(new.overlap_ms);
        if overlap.is_zero() || overlap > MAX_OVERLAP {
            return Err(Error::invalid(
                "overlapMs: must be from 1 to 7776000000 (90 days). To replace the present value at once, use: patchbay secret set",
            ));
        }
        let details = json!({ "overlapMs": new.overlap_ms });
        let act = async {
            let put = self
                .vault
                .put(&plugin, &name, value, Replace::After(overlap), &who.actor);
            if let Err(error) = put.await {
                return Err(self.suggested(error.into(), &plugin, &name).await);
            }
            self.one(&plugin, &name).await
        };
        self.actions
            .record::<SecretsRotate, _>(who, &target(&plugin, &name), details, act)
            .await
    }

    pub async fn remove(&self, who: &Caller, plugin: &str, secret: &str) -> Result<(), Error> {
        let (plugin, name): (PluginName, SecretName) = (plugin.parse()?, secret.parse()?);
        let act = async {
            match self.vault.remove(&plugin, &name, &who.actor).await {
                Ok(()) => Ok(()),
                Err(error) => Err(self.suggested(error.into(), &plugin, &name).await),
            }
        };
        self.actions
            .record::<SecretsRemove, _>(who, &target(&plugin, &name), json!({}), act)
            .await
    }

    /// That there is no such plugin, or the secret that may be meant. What is looked up for that may
    /// fail: then the error stays as it is.
    async fn suggested(&self, error: Error, plugin: &PluginName, name: &SecretName) -> Error {
        if error.kind != Kind::NotFound {
            return error;
        }
        match self.of(plugin).await {
            Ok(secrets) => {
                let kept = secrets.iter().filter(|secret| !secret.versions.is_empty());
                suggested(
                    error,
                    name.as_str(),
                    kept.map(|secret| secret.name.as_str()),
                )
            }
            Err(unknown) if unknown.kind == Kind::NotFound => unknown,
            Err(_) => error,
        }
    }

    /// Seals with the newest master key all values that another key has sealed.
    pub async fn rekey(&self, who: &Caller) -> Result<Rekeyed, Error> {
        let act = async { Ok(self.vault.rekey().await?) };
        self.actions
            .record::<SecretsRekey, _>(who, "all", json!({}), act)
            .await
    }

    async fn of(&self, plugin: &PluginName) -> Result<Vec<Secret>, Error> {
        let asked = self.asked(plugin).await?;
        let mut kept: BTreeMap<String, Vec<SecretVersion>> = asked
            .iter()
            .map(|name| (name.clone(), Vec::new()))
            .collect();
        for row in self.store.secrets(Some(plugin)).await? {
            kept.entry(row.name.to_string())
                .or_default()
                .push(self.version(row));
        }
        let secret = |(name, versions): (String, Vec<SecretVersion>)| Secret {
            asked: asked.contains(&name),
            source: match versions.is_empty() {
                false => "vault",
                true if self.vault.get(plugin, &name).is_some() => "environment",
                true => "none",
            }
            .to_owned(),
            name,
            versions,
        };
        Ok(kept.into_iter().map(secret).collect())
    }

    async fn one(&self, plugin: &PluginName, name: &SecretName) -> Result<Secret, Error> {
        let found = self
            .of(plugin)
            .await?
            .into_iter()
            .find(|secret| secret.name == name.as_str());
        found.ok_or_else(|| {
            Error::not_found(format!("The vault holds no secret {name} of {plugin}"))
        })
    }

    /// The secrets that the manifest of the active (or else the newest) revision asks for. Fails
    /// for a plugin without revisions.
    async fn asked(&self, plugin: &PluginName) -> Result<Vec<String>, Error> {
        let rows = self.store.revisions(Some(plugin)).await?;
        let row = rows.iter().find(|row| row.is_current).or(rows.first());
        let Some(row) = row else {
            return Err(Error::not_found(unknown_plugin(&self.store, plugin).await));
        };
        // If this version cannot read the manifest, other places report it. Secrets can be managed
        // nevertheless.
        let manifest = Manifest::from_stored(row.manifest.clone());
        Ok(manifest
            .map(|manifest| {
                manifest
                    .secrets
                    .into_iter()
                    .map(|secret| secret.name)
                    .collect()
            })
            .unwrap_or_default())
    }

    fn version(&self, row: SecretRow) -> SecretVersion {
        SecretVersion {
            unreadable: self
                .vault
                .keys()
                .check(&row)
                .err()
                .map(|reason| reason.to_string()),
            version: row.version,
            set_by: row.created_by,
            set_at: row.created_at,
            ends_at: row.ends_at,
            last_used_at: row.last_used_at,
        }
    }
}

/// A credential that a plugin has handed over has a form that only the plugin knows.
fn refuse_kept(name: &SecretName) -> Result<(), Error> {
    match name.as_str().starts_with(KEPT) {
        true => Err(Error::conflict(format!(
            "{name} holds a credential that the plugin was given. Save it again where it was entered; to take it away: patchbay secret remove"
        ))),
        false => Ok(()),
    }
}

fn checked(SecretText(value): SecretText) -> Result<Zeroizing<String>, Error> {
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(Error::invalid(format!(
            "value: must have 1 to {MAX_VALUE_BYTES} bytes"
        )));
    }
    Ok(value)
}

fn target(plugin: &PluginName, name: &SecretName) -> String {
    format!("{plugin} {name}")
}
