//! Credentials that plugins hand over at run time, kept as secrets under names that no manifest can
//! ask for.

use async_trait::async_trait;
use patchbay_capability::{CredentialInfo, CredentialStore};
use patchbay_model::capability::CapabilityError;
use patchbay_model::{CredentialName, PluginName, SecretName};
use patchbay_store::{Replace, SecretRow, StoreError};
use tracing::warn;
use zeroize::Zeroizing;

use super::{Vault, VaultError};
use crate::error::for_guests;

fn secret_of(name: &CredentialName) -> Result<SecretName, CapabilityError> {
    let secret = name.as_secret().parse();
    secret.map_err(|_| CapabilityError::invalid(format!("{name} is too long")))
}

fn info(row: &SecretRow) -> Option<CredentialInfo> {
    Some(CredentialInfo {
        name: CredentialName::of_secret(row.name.as_str())?,
        version: row.version.try_into().unwrap_or_default(),
        set_at: row.created_at.into(),
        last_used_at: row.last_used_at.map(Into::into),
    })
}

fn refused(error: VaultError) -> CapabilityError {
    match error {
        VaultError::NoKey => {
            warn!(%error, "a plugin wants a credential kept");
            CapabilityError {
                code: "not-configured",
                message: "the host has no key for secrets, so it keeps no credentials".into(),
                retryable: false,
            }
        }
        VaultError::Store(error) => for_guests(error),
    }
}

#[async_trait]
impl CredentialStore for Vault {
    async fn put(
        &self,
        plugin: &PluginName,
        name: &CredentialName,
        value: Zeroizing<String>,
        max: u32,
    ) -> Result<u32, CapabilityError> {
        let kept = CredentialStore::all(self, plugin).await?;
        let is_new = !kept.iter().any(|info| &info.name == name);
        if is_new && kept.len() >= max as usize {
            return Err(CapabilityError {
                code: "conflict",
                message: format!(
                    "{} credentials are kept already, and the manifest asks for at most {max}",
                    kept.len()
                ),
                retryable: false,
            });
        }
        let (secret, actor) = (secret_of(name)?, format!("plugin {plugin}"));
        let version = Self::put(self, plugin, &secret, value, Replace::AtOnce, &actor)
            .await
            .map_err(refused)?;
        Ok(version.try_into().unwrap_or_default())
    }

    async fn remove(
        &self,
        plugin: &PluginName,
        name: &CredentialName,
    ) -> Result<bool, CapabilityError> {
        let (secret, actor) = (secret_of(name)?, format!("plugin {plugin}"));
        match Self::remove(self, plugin, &secret, &actor).await {
            Ok(()) => Ok(true),
            Err(VaultError::Store(StoreError::NotFound(_))) => Ok(false),
            Err(error) => Err(refused(error)),
        }
    }

    async fn all(&self, plugin: &PluginName) -> Result<Vec<CredentialInfo>, CapabilityError> {
        let rows = self.store.secrets(Some(plugin)).await.map_err(for_guests)?;
        let mut kept: Vec<CredentialInfo> = rows.iter().filter_map(info).collect();
        kept.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(kept)
    }
}
