//! The vault: secrets of plugins, sealed in Postgres under a master key that only the hosts know.
//!
//! Owns the master keys (`keys`) and the opened values of this process, which calls read without
//! asking Postgres. A seal is bound to plugin, name and version, so that rows cannot change places.
//! Values leave only as [`SecretValue`]s, which do not print. A value that cannot be opened is not
//! used, and is reported. While Postgres is away, the known values stay.

mod kept;
mod keys;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use keys::bound_to;
use patchbay_api::secrets::Rekeyed;
use patchbay_capability::{SecretSource, SecretValue};
use patchbay_model::{PluginName, SecretName};
use patchbay_store::{Replace, SecretRow, Store, StoreError};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::Parts;
use crate::service::{Service, task};
use crate::snapshot::OfflineSnapshot;
pub use keys::{CannotOpen, KEY_FORM, KeyError, KeySource, Keys, parse_key, readable_by_others};

/// Interval without a notification. It bounds how long a lost notification goes unnoticed.
const REFRESH_EVERY: Duration = Duration::from_secs(3);
/// Precision of `last used` in Postgres: a secret that every job uses costs two writes a minute per
/// host.
const USE_GRAIN_MS: i64 = 30_000;
/// Rows per transaction of a rekeying.
const REKEY_STEP: i64 = 100;
/// Name of the snapshot of the sealed secrets.
const COPY: &str = "secrets.json";
/// Longest value. It has room for a private key; anything larger is a file, not a secret.
pub const MAX_VALUE_BYTES: usize = 64 << 10;

/// Why an operation on the vault did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Nothing can be sealed.
    #[error(
        "No key for secrets is configured. Set secrets.key_file (PATCHBAY_SECRETS_KEY_FILE) to a file that holds the output of \
         `openssl rand -hex 32`, on every host, and restart the hosts"
    )]
    NoKey,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One version of a secret, opened if possible.
struct Entry {
    id: i64,
    nonce: Vec<u8>,
    ends_at: Option<DateTime<Utc>>,
    value: Result<SecretValue, CannotOpen>,
    /// The last use that Postgres knows of, in milliseconds since 1970.
    recorded_ms: AtomicI64,
}

/// By plugin and name; the newest version first.
type Opened = HashMap<PluginName, HashMap<String, Vec<Arc<Entry>>>>;

/// Nonce and end of each version.
type Seals = Vec<(Vec<u8>, Option<DateTime<Utc>>)>;

pub struct Vault {
    store: Store,
    keys: Keys,
    /// The source of secrets that the vault does not hold.
    fallback: Box<dyn SecretSource>,
    opened: ArcSwap<Opened>,
    copy: OfflineSnapshot,
    /// What the snapshot holds. Its lock allows one refresh at a time.
    copied: Mutex<Seals>,
    changed: Notify,
}

impl Vault {
    /// Opens the stored secrets. While Postgres is away, uses those of the snapshot. Refuses a key
    /// that opens none of them.
    pub async fn open(
        store: Store,
        keys: Keys,
        fallback: impl SecretSource,
        copy: OfflineSnapshot,
        is_away: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let rows = if is_away {
            copy.load(COPY).unwrap_or_default()
        } else {
            store.forget_ended_secrets().await?;
            store.secrets(None).await?
        };
        keys.refuse_wrong(&rows)?;
        if keys.is_empty() && !rows.is_empty() {
            error!(
                secrets = rows.len(),
                "the vault holds secrets, but no key is configured, so they cannot be used; set secrets.key_file"
            );
        }
        let vault = Self {
            store,
            keys,
            fallback: Box::new(fallback),
            opened: ArcSwap::default(),
            copy,
            copied: Mutex::default(),
            changed: Notify::new(),
        };
        vault.hold(&rows);
        Ok(Arc::new(vault))
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Stores a value as the newest version, and returns its number. When this returns, this
    /// process uses the value.
    pub async fn put(
        &self,
        plugin: &PluginName,
        name: &SecretName,
        value: Zeroizing<String>,
        replace: Replace,
        actor: &str,
    ) -> Result<i32, VaultError> {
        let key = self.keys.newest()?;
        let seal = |version| key.seal(&bound_to(plugin, name, version), &value);
        let version = self
            .store
            .put_secret(plugin, name, replace, actor, seal)
            .await?;
        info!(plugin = %plugin, secret = %name, version, "secret set");
        self.refresh().await?;
        Ok(version)
    }

    /// Deletes every version. Needs no key.
    pub async fn remove(
        &self,
        plugin: &PluginName,
        name: &SecretName,
        actor: &str,
    ) -> Result<(), VaultError> {
        self.store.delete_secret(plugin, name, actor).await?;
        info!(plugin = %plugin, secret = %name, "secret removed");
        Ok(self.refresh().await?)
    }

    /// Seals with the newest key all values that another key has sealed. After an interruption, it
    /// can simply be repeated: each step is complete in itself.
    pub async fn rekey(&self) -> Result<Rekeyed, VaultError> {
        let newest = self.keys.newest()?;
        let mut done = Rekeyed {
            key_id: newest.id().to_owned(),
            ..Rekeyed::default()
        };
        let mut from = 0;
        loop {
            let reseal = |row: &SecretRow| {
                let value = self.keys.open(row).ok()?;
                Some(newest.seal(&bound_to(&row.plugin, &row.name, row.version), &value))
            };
            let step = self
                .store
                .reseal_secrets(newest.id(), from, REKEY_STEP, reseal)
                .await?;
            done.resealed += step.done;
            let label =
                |row: &SecretRow| format!("{} {}, version {}", row.plugin, row.name, row.version);
            done.unreadable.extend(step.failed.iter().map(label));
            match step.next {
                Some(next) => from = next,
                None => break,
            }
        }
        for row in self
            .store
            .history_keys()
            .await?
            .iter()
            .filter(|row| row.sealed.key_id != newest.id())
        {
            match self.keys.open_history_key(row) {
                Ok(key) => {
                    self.store
                        .reseal_history_key(&row.id, &newest.seal_history_key(&row.id, &key))
                        .await?;
                    done.history_keys += 1;
                }
                Err(_) => done.unreadable.push(format!(
                    "the key {} of the history's data and results",
                    row.id
                )),
            }
        }
        for row in self
            .store
            .sealed_keys(None)
            .await?
            .iter()
            .filter(|row| row.sealed.key_id != newest.id())
        {
            let (purpose, kid) = (&row.purpose, &row.kid);
            let resealed = self
                .keys
                .open_host_key(row)
                .ok()
                .and_then(|key| self.keys.seal_host_key(purpose, kid, &key));
            match resealed {
                Some(sealed) => {
                    self.store.reseal_sealed_key(purpose, kid, &sealed).await?;
                    done.host_keys += 1;
                }
                None => done.unreadable.push(format!("the key {kid} for {purpose}")),
            }
        }
        info!(
            key = done.key_id,
            resealed = done.resealed,
            unreadable = done.unreadable.len(),
            "secrets resealed"
        );
        self.refresh().await?;
        Ok(done)
    }

    /// Requests a refresh at once. To be called when something may have changed.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    async fn keep_refreshing(self: Arc<Self>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                () = self.changed.notified() => false,
                () = tokio::time::sleep(REFRESH_EVERY) => false,
            };
            let round = async {
                self.record_uses().await?;
                if stopped { Ok(()) } else { self.follow().await }
            };
            match round.await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    error!(error = %error, "cannot read the secrets; continuing with the last known ones");
                }
                Err(_) => {}
            }
            if stopped {
                return;
            }
        }
    }

    async fn follow(&self) -> Result<(), StoreError> {
        let now = Utc::now();
        let ended = self.entries(|entry| entry.ends_at.is_some_and(|end| end <= now).then_some(()));
        if !ended.is_empty() {
            self.store.forget_ended_secrets().await?;
        }
        self.refresh().await
    }

    /// Makes this process hold what Postgres holds. Known versions stay; new seals are opened.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut copied = self.copied.lock().await;
        let rows = self.store.secrets(None).await?;
        self.hold(&rows);
        let current: Vec<_> = rows
            .iter()
            .map(|row| (row.sealed.nonce.clone(), row.ends_at))
            .collect();
        if *copied != current {
            *copied = current;
            let copy = self.copy.clone();
            tokio::task::spawn_blocking(move || copy.save(COPY, &rows))
                .await
                .ok();
        }
        Ok(())
    }

    fn hold(&self, rows: &[SecretRow]) {
        let known: HashMap<i64, Arc<Entry>> = self
            .entries(|entry| Some((entry.id, Arc::clone(entry))))
            .into_iter()
            .collect();
        let mut next = Opened::new();
        for row in rows {
            let entry = self.entry(row, known.get(&row.id));
            next.entry(row.plugin.clone())
                .or_default()
                .entry(row.name.to_string())
                .or_default()
                .push(entry);
        }
        self.opened.store(Arc::new(next));
    }

    fn entry(&self, row: &SecretRow, known: Option<&Arc<Entry>>) -> Arc<Entry> {
        if let Some(known) =
            known.filter(|known| known.nonce == row.sealed.nonce && known.ends_at == row.ends_at)
        {
            return Arc::clone(known);
        }
        let opened = match (self.keys.open(row), known.map(|known| &known.value)) {
            // The same version with another seal or another end.
            (Ok(_), Some(Ok(value))) => Ok(value.clone()),
            (Ok(mut text), _) => Ok(SecretValue::new(std::mem::take(&mut *text))),
            // Another host has a key that this one lacks. A version never changes its value, so the
            // known one is still right.
            (Err(CannotOpen::UnknownKey), Some(Ok(value))) => {
                warn!(plugin = %row.plugin, secret = %row.name, version = row.version, "a secret was resealed with a key that this host does not have; continuing with the known value");
                Ok(value.clone())
            }
            (Err(reason), _) => {
                error!(plugin = %row.plugin, secret = %row.name, version = row.version, %reason, "a secret cannot be opened");
                Err(reason)
            }
        };
        Arc::new(Entry {
            id: row.id,
            nonce: row.sealed.nonce.clone(),
            ends_at: row.ends_at,
            value: opened,
            recorded_ms: AtomicI64::new(row.last_used_at.map_or(0, |at| at.timestamp_millis())),
        })
    }

    async fn record_uses(&self) -> Result<(), StoreError> {
        let used = self.entries(|entry| {
            let at = DateTime::<Utc>::from(entry.value.as_ref().ok()?.last_used()?);
            let recorded = entry.recorded_ms.load(Ordering::Relaxed);
            (at.timestamp_millis() - recorded >= USE_GRAIN_MS).then(|| (Arc::clone(entry), at))
        });
        if used.is_empty() {
            return Ok(());
        }
        let uses: Vec<(i64, DateTime<Utc>)> =
            used.iter().map(|(entry, at)| (entry.id, *at)).collect();
        self.store.secrets_were_used(&uses).await?;
        for (entry, at) in used {
            entry
                .recorded_ms
                .store(at.timestamp_millis(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn entries<T>(&self, choose: impl Fn(&Arc<Entry>) -> Option<T>) -> Vec<T> {
        let opened = self.opened.load();
        opened
            .values()
            .flat_map(HashMap::values)
            .flatten()
            .filter_map(choose)
            .collect()
    }
}

/// Follows Postgres, and tells it which secrets were used.
pub fn refresh(parts: &Parts) -> Arc<dyn Service> {
    let vault = Arc::clone(&parts.vault);
    task("secrets", move |stop| {
        Arc::clone(&vault).keep_refreshing(stop)
    })
}

impl SecretSource for Vault {
    fn current(&self, plugin: &PluginName, name: &str) -> Vec<SecretValue> {
        let opened = self.opened.load();
        // A name that the vault holds never falls back, even when it cannot be opened: an outdated
        // value is worse than none.
        let Some(versions) = opened.get(plugin).and_then(|names| names.get(name)) else {
            return self.fallback.current(plugin, name);
        };
        let now = Utc::now();
        let holds = versions
            .iter()
            .filter(|entry| entry.ends_at.is_none_or(|end| end > now));
        holds
            .filter_map(|entry| entry.value.as_ref().ok().cloned())
            .collect()
    }
}

impl From<VaultError> for crate::Error {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoKey => Self::new(
                crate::error::Kind::Conflict,
                "no-vault-key",
                error.to_string(),
            ),
            VaultError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
