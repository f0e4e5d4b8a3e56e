//! Keys that the host uses itself (MACs of audit trails, for example): 32 random bytes each, in
//! Postgres, sealed by the vault's master key. `secret rekey` reseals them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use patchbay_store::{SealedKeyRow, SealedSecret, Store, StoreError};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::error::Kind;
use crate::vault::{CannotOpen, Keys, Vault, VaultError};

/// A key of one purpose.
#[derive(Clone)]
pub struct OpenedKey {
    pub kid: String,
    pub key: Zeroizing<[u8; 32]>,
    /// From then on it signs, until a younger one does.
    pub signs_from: DateTime<Utc>,
    /// Absent: for ever.
    pub verifies_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// Why there is no key. The text is safe for an operator.
#[derive(Debug, thiserror::Error)]
pub enum SealedKeyError {
    /// No master key is configured.
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(
        "The key {kid} for {purpose} cannot be opened: {reason}. Set secrets.old_key_file to the master key that sealed it ({key_id}), then run patchbay secret rekey"
    )]
    CannotOpen {
        purpose: String,
        kid: String,
        key_id: String,
        reason: CannotOpen,
    },
}

impl From<StoreError> for SealedKeyError {
    fn from(error: StoreError) -> Self {
        Self::Vault(VaultError::Store(error))
    }
}

impl From<SealedKeyError> for crate::Error {
    fn from(error: SealedKeyError) -> Self {
        match error {
            SealedKeyError::Vault(error) => error.into(),
            SealedKeyError::CannotOpen { .. } => {
                Self::new(Kind::Conflict, "no-vault-key", error.to_string())
            }
        }
    }
}

#[derive(Clone)]
pub struct SealedKeys {
    store: Store,
    vault: Arc<Vault>,
}

impl SealedKeys {
    pub fn new(store: Store, vault: Arc<Vault>) -> Self {
        Self { store, vault }
    }

    /// Whether keys can be made and opened.
    pub fn has_master_key(&self) -> bool {
        !self.vault.keys().is_empty()
    }

    /// Fails with what to configure when no key can be made.
    pub fn need_master_key(&self) -> Result<(), SealedKeyError> {
        match self.has_master_key() {
            true => Ok(()),
            false => Err(VaultError::NoKey.into()),
        }
    }

    /// The key that signs now. Makes one when the purpose has none; of several hosts that do so,
    /// one makes it.
    pub async fn get_or_create(&self, purpose: &str) -> Result<OpenedKey, SealedKeyError> {
        if let Some(key) = self.signing(purpose).await? {
            return Ok(key);
        }
        let (kid, sealed) = self.make(purpose)?;
        if self
            .store
            .add_first_sealed_key(purpose, &kid, &sealed)
            .await?
        {
            info!(purpose, kid, "a key was made");
        }
        self.signing(purpose)
            .await?
            .ok_or_else(|| StoreError::NotFound(format!("There is no key for {purpose}")).into())
    }

    /// As [`Self::get_or_create`]; makes another key when the present one cannot be opened, because
    /// its master key is lost. For purposes where going on matters more than the old key.
    pub async fn get_or_replace(&self, purpose: &str) -> Result<OpenedKey, SealedKeyError> {
        match self.get_or_create(purpose).await {
            Err(SealedKeyError::CannotOpen { kid, key_id, .. }) => {
                if let Some(known) = self.all(purpose).await?.into_iter().next() {
                    return Ok(known);
                }
                warn!(
                    purpose,
                    kid, key_id, "no configured master key opens this key; a new one is made"
                );
                let (kid, sealed) = self.make(purpose)?;
                self.store
                    .add_sealed_key(purpose, &kid, &sealed, Utc::now())
                    .await?;
                self.get_or_create(purpose).await
            }
            done => done,
        }
    }

    /// Makes a key and its id, sealed, and stores nothing.
    pub fn make(&self, purpose: &str) -> Result<(String, SealedSecret), SealedKeyError> {
        let (kid, key) = new_key();
        let keys = self.vault.keys();
        let sealed = keys.seal_host_key(purpose, &kid, &hex::encode(*key));
        Ok((kid, sealed.ok_or(VaultError::NoKey)?))
    }

    async fn signing(&self, purpose: &str) -> Result<Option<OpenedKey>, SealedKeyError> {
        let now = Utc::now();
        let rows = self.store.sealed_keys(Some(purpose)).await?;
        // The first key signs although this host's clock may be behind Postgres's.
        let row = rows
            .iter()
            .find(|row| row.signs_from <= now)
            .or(rows.last());
        row.map(|row| open(self.vault.keys(), row)).transpose()
    }

    /// Every key of a purpose that this host can open.
    pub async fn all(&self, purpose: &str) -> Result<Vec<OpenedKey>, StoreError> {
        opened(&self.store, self.vault.keys(), purpose).await
    }
}

/// Every key of a purpose that these master keys open; also without a running host.
pub async fn opened(
    store: &Store,
    keys: &Keys,
    purpose: &str,
) -> Result<Vec<OpenedKey>, StoreError> {
    let rows = store.sealed_keys(Some(purpose)).await?;
    Ok(rows.iter().filter_map(|row| open(keys, row).ok()).collect())
}

fn open(keys: &Keys, row: &SealedKeyRow) -> Result<OpenedKey, SealedKeyError> {
    let refused = |reason| SealedKeyError::CannotOpen {
        purpose: row.purpose.clone(),
        kid: row.kid.clone(),
        key_id: row.sealed.key_id.clone(),
        reason,
    };
    let text = keys.open_host_key(row).map_err(refused)?;
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.as_bytes(), &mut *key).map_err(|_| refused(CannotOpen::Damaged))?;
    Ok(OpenedKey {
        kid: row.kid.clone(),
        key,
        signs_from: row.signs_from,
        verifies_until: row.verifies_until,
        created_at: row.created_at,
    })
}

/// A key and its id.
fn new_key() -> (String, Zeroizing<[u8; 32]>) {
    (
        hex::encode(rand::random::<[u8; 8]>()),
        Zeroizing::new(rand::random()),
    )
}
