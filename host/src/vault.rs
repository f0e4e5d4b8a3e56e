//! The vault: secrets of plugins, sealed in Postgres under a master key that only the hosts know.
//!
//! Owns the cipher (AES-256-GCM; docs/decisions/011), the master keys, and the opened values of this process, which calls read without
//! asking Postgres. A seal is bound to plugin, name and version, so that rows cannot change places. Values leave only as
//! [`SecretValue`]s, which do not print. What cannot be opened is not used and reported; when Postgres is away, the known values stay.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine;
use chrono::{DateTime, Utc};
use patchbay_capability::{SecretSource, SecretValue};
use patchbay_model::{PluginName, SecretName};
use patchbay_store::{Replace, SealedSecret, SecretRow, Store, StoreError};
use serde::Serialize;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::config::ConfigError;
use crate::local_copy::LocalCopy;

/// Without a notification; bounds how long a lost one goes unnoticed.
const REFRESH_EVERY: Duration = Duration::from_secs(3);
/// How exact `last used` is in Postgres: a secret that every job uses costs two writes a minute per host.
const USE_GRAIN_MS: i64 = 30_000;
/// Rows per transaction of a rekeying.
const REKEY_STEP: i64 = 100;
/// Name of the local copy of the sealed secrets.
const COPY: &str = "secrets.json";
/// Longest value. Room for a private key; what is larger is no secret but a file.
pub const MAX_VALUE_BYTES: usize = 64 << 10;
/// Domain of everything that is derived from a master key.
const DOMAIN: &[u8] = b"patchbay vault v1";

/// What a key looks like.
pub const KEY_FORM: &str = "64 hexadecimal digits, or 32 bytes in base64, as from `openssl rand -hex 32`";

/// Where a master key comes from.
pub enum KeySource {
    /// The configuration itself.
    Text {
        /// The configuration key that holds it.
        key: &'static str,
        /// 64 hexadecimal digits, or base64.
        text: Zeroizing<String>,
    },
    /// A file with the same.
    File {
        /// The configuration key that names it.
        key: &'static str,
        /// Its path.
        path: PathBuf,
    },
}

/// Why an operation on the vault did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Nothing can be sealed.
    #[error(
        "no key for secrets is configured: set secrets.key_file (PATCHBAY_SECRETS_KEY_FILE) to a file that holds the output of \
         `openssl rand -hex 32`, on every host, and restart"
    )]
    NoKey,
    /// Postgres, or what it holds.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a row cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotOpen {
    /// Another key has sealed it.
    #[error("sealed with a key that is not configured")]
    UnknownKey,
    /// It was changed, cut, or moved from another secret.
    #[error("damaged, or moved from another secret")]
    Damaged,
}

/// What a rekeying did.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rekeyed {
    /// The key that seals now; an id, not the key.
    pub key_id: String,
    /// Versions that were sealed anew.
    pub resealed: u64,
    /// Versions that no configured key opens: PLUGIN NAME, version.
    pub unreadable: Vec<String>,
}

/// 32 bytes from their text form.
pub fn parse_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim();
    let mut key = Zeroizing::new([0; 32]);
    let decoded = if text.len() == 64 {
        hex::decode_to_slice(text, &mut *key).is_ok()
    } else {
        // One byte more: whoever gives more than 32 has not meant this.
        let mut bytes = Zeroizing::new([0; 33]);
        let length = base64::engine::general_purpose::STANDARD.decode_slice(text, &mut *bytes).unwrap_or(0);
        key.copy_from_slice(&bytes[..32]);
        length == 32
    };
    // A repeated byte is a placeholder that somebody forgot.
    (decoded && key.iter().any(|byte| byte != &key[0])).then_some(key)
}

/// Whether a key file is open to more than its owner.
pub fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// One master key: seals and opens, and is named by an id that tells nothing about it.
struct MasterKey {
    id: String,
    aead: RandomizedNonceKey,
}

impl MasterKey {
    fn new(master: &[u8; 32]) -> Self {
        let prk = Salt::new(HKDF_SHA256, DOMAIN).extract(master);
        let derive = |purpose: &[u8], out: &mut [u8; 32]| {
            let info = [purpose];
            let derived = prk.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(out));
            derived.expect("HKDF gives one block of any purpose");
        };
        let (mut key, mut id) = (Zeroizing::new([0; 32]), [0; 32]);
        derive(b"seal", &mut key);
        derive(b"id", &mut id);
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &*key).expect("AES-256 takes 32 bytes");
        Self { id: hex::encode(&id[..8]), aead }
    }

    fn seal(&self, bound_to: &[u8], value: &str) -> SealedSecret {
        let mut buffer = value.as_bytes().to_vec();
        let sealed = self.aead.seal_in_place_append_tag(Aad::from(bound_to), &mut buffer);
        let nonce = sealed.expect("AES-GCM seals values of this size");
        SealedSecret { key_id: self.id.clone(), nonce: nonce.as_ref().to_vec(), ciphertext: buffer }
    }

    fn open(&self, bound_to: &[u8], sealed: &SealedSecret) -> Option<String> {
        let nonce = Nonce::try_assume_unique_for_key(&sealed.nonce).ok()?;
        let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
        let plain = self.aead.open_in_place(nonce, Aad::from(bound_to), &mut buffer).ok()?;
        std::str::from_utf8(plain).ok().map(str::to_owned)
    }
}

/// The configured master keys.
pub struct Keys {
    /// The first seals; all open.
    keys: Vec<MasterKey>,
    /// The configuration key of the first.
    named: String,
}

impl Keys {
    /// Reads them: the one that seals, and during a rotation the one before it. A refusal names the configuration key and never its value.
    pub fn load(sources: [Option<KeySource>; 2]) -> Result<Self, ConfigError> {
        let (mut keys, mut names, mut problems) = (Vec::<MasterKey>::new(), Vec::<String>::new(), Vec::new());
        for source in sources.into_iter().flatten() {
            match read_key(&source) {
                Ok((name, master)) => {
                    let key = MasterKey::new(&master);
                    match keys.iter().position(|known| known.id == key.id) {
                        Some(same) => problems.push(format!("{name} is the same key as {}: set one", names[same])),
                        None => {
                            keys.push(key);
                            names.push(name);
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        let named = names.into_iter().next().unwrap_or_default();
        if problems.is_empty() { Ok(Self { keys, named }) } else { Err(ConfigError(problems)) }
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The id of the key that seals.
    pub fn id(&self) -> Option<&str> {
        self.keys.first().map(|key| key.id.as_str())
    }

    fn newest(&self) -> Result<&MasterKey, VaultError> {
        self.keys.first().ok_or(VaultError::NoKey)
    }

    /// The value of a row.
    fn open(&self, row: &SecretRow) -> Result<Zeroizing<String>, CannotOpen> {
        let key = self.keys.iter().find(|key| key.id == row.sealed.key_id).ok_or(CannotOpen::UnknownKey)?;
        let opened = key.open(&bound_to(&row.plugin, &row.name, row.version), &row.sealed);
        opened.map(Zeroizing::new).ok_or(CannotOpen::Damaged)
    }

    /// Whether a row can be opened.
    pub fn check(&self, row: &SecretRow) -> Result<(), CannotOpen> {
        self.open(row).map(drop)
    }

    /// A key that fits nothing that is there is the wrong key, and starting with it would fail every call that needs a secret.
    fn refuse_wrong(&self, rows: &[SecretRow]) -> Result<(), ConfigError> {
        let fits = |row: &SecretRow| self.keys.iter().any(|key| key.id == row.sealed.key_id);
        let Some(other) = rows.first().filter(|_| !self.is_empty() && !rows.iter().any(fits)) else {
            return Ok(());
        };
        Err(ConfigError(vec![format!(
            "{} is the wrong key: it opens none of the secrets in the database ({}). Its id is {}; they were sealed with key {}. \
             Configure that key; while rotating, as secrets.old_key_file. Should it be lost: a host without any key starts, and there \
             `patchbay secret remove` makes room for new values",
            self.named,
            rows.len(),
            self.id().unwrap_or_default(),
            other.sealed.key_id
        )]))
    }
}

fn read_key(source: &KeySource) -> Result<(String, Zeroizing<[u8; 32]>), String> {
    match source {
        KeySource::Text { key, text } => {
            let name = (*key).to_owned();
            parse_key(text).map(|master| (name, master)).ok_or_else(|| format!("{key} is not a key: {KEY_FORM}"))
        }
        KeySource::File { key, path } => {
            let name = format!("{key} ({})", path.display());
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            let text = text.map_err(|error| format!("{name} cannot be read: {error}"))?;
            if readable_by_others(path) {
                warn!(path = %path.display(), "the file of {key} is open to others than its owner: chmod 600");
            }
            parse_key(&text)
                .map(|master| (name.clone(), master))
                .ok_or_else(|| format!("{name} is not a key: {KEY_FORM}"))
        }
    }
}

/// What a seal is bound to. Neither part can hold a NUL.
fn bound_to(plugin: &PluginName, name: &SecretName, version: i32) -> Vec<u8> {
    format!("patchbay secret\0{plugin}\0{name}\0{version}").into_bytes()
}

/// One version, opened if possible.
struct Entry {
    id: i64,
    /// Tells seals apart.
    nonce: Vec<u8>,
    ends_at: Option<DateTime<Utc>>,
    value: Result<SecretValue, CannotOpen>,
    /// The last use that Postgres knows of, milliseconds since 1970.
    recorded_ms: AtomicI64,
}

/// By plugin and name; the newest version first.
type Opened = HashMap<PluginName, HashMap<String, Vec<Arc<Entry>>>>;

/// Seal and end of each version.
type Seals = Vec<(Vec<u8>, Option<DateTime<Utc>>)>;

/// The secrets of this process.
pub struct Vault {
    store: Store,
    keys: Keys,
    /// For what the vault does not hold.
    fallback: Box<dyn SecretSource>,
    opened: ArcSwap<Opened>,
    copy: LocalCopy,
    /// One refresh at a time. What the local copy holds.
    copied: Mutex<Seals>,
    changed: Notify,
}

impl Vault {
    /// Opens what is there. Refuses a key that opens nothing of it. While Postgres is away, what was there when this host last saw it.
    pub async fn open(
        store: Store,
        keys: Keys,
        fallback: impl SecretSource,
        copy: LocalCopy,
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
                "the vault holds secrets and no key is configured: they cannot be used; set secrets.key_file"
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

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Keeps a value as the newest version, and gives its number. It holds in this process when this returns.
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
        let version = self.store.put_secret(plugin, name, replace, actor, seal).await?;
        info!(plugin = %plugin, secret = %name, version, "secret set");
        self.refresh().await?;
        Ok(version)
    }

    /// Forgets every version. Needs no key.
    pub async fn remove(&self, plugin: &PluginName, name: &SecretName) -> Result<(), VaultError> {
        self.store.delete_secret(plugin, name).await?;
        info!(plugin = %plugin, secret = %name, "secret removed");
        Ok(self.refresh().await?)
    }

    /// Seals everything with the newest key that another one has sealed. Interrupted, it is simply done again: each step is whole.
    pub async fn rekey(&self) -> Result<Rekeyed, VaultError> {
        let newest = self.keys.newest()?;
        let mut done = Rekeyed { key_id: newest.id.clone(), ..Rekeyed::default() };
        let mut from = 0;
        loop {
            let reseal = |row: &SecretRow| {
                let value = self.keys.open(row).ok()?;
                Some(newest.seal(&bound_to(&row.plugin, &row.name, row.version), &value))
            };
            let step = self.store.reseal_secrets(&newest.id, from, REKEY_STEP, reseal).await?;
            done.resealed += step.done;
            let label = |row: &SecretRow| format!("{} {}, version {}", row.plugin, row.name, row.version);
            done.unreadable.extend(step.failed.iter().map(label));
            match step.next {
                Some(next) => from = next,
                None => break,
            }
        }
        info!(key = done.key_id, resealed = done.resealed, unreadable = done.unreadable.len(), "secrets sealed anew");
        self.refresh().await?;
        Ok(done)
    }

    /// To be called when something may have changed, so that nobody waits for the next round.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    /// Follows Postgres until cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
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
                    error!(error = %error, "cannot read the secrets; running on with the last known ones");
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

    /// Makes this process hold what Postgres holds. A version that is known stays; a seal that is new is opened.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut copied = self.copied.lock().await;
        let rows = self.store.secrets(None).await?;
        self.hold(&rows);
        let current: Vec<_> = rows.iter().map(|row| (row.sealed.nonce.clone(), row.ends_at)).collect();
        if *copied != current {
            *copied = current;
            let copy = self.copy.clone();
            tokio::task::spawn_blocking(move || copy.save(COPY, &rows)).await.ok();
        }
        Ok(())
    }

    fn hold(&self, rows: &[SecretRow]) {
        let known: HashMap<i64, Arc<Entry>> =
            self.entries(|entry| Some((entry.id, Arc::clone(entry)))).into_iter().collect();
        let mut next = Opened::new();
        for row in rows {
            let entry = self.entry(row, known.get(&row.id));
            next.entry(row.plugin.clone()).or_default().entry(row.name.to_string()).or_default().push(entry);
        }
        self.opened.store(Arc::new(next));
    }

    fn entry(&self, row: &SecretRow, known: Option<&Arc<Entry>>) -> Arc<Entry> {
        if let Some(known) = known.filter(|known| known.nonce == row.sealed.nonce && known.ends_at == row.ends_at) {
            return Arc::clone(known);
        }
        let opened = match (self.keys.open(row), known.map(|known| &known.value)) {
            // The same version under another seal or with another end.
            (Ok(_), Some(Ok(value))) => Ok(value.clone()),
            (Ok(mut text), _) => Ok(SecretValue::new(std::mem::take(&mut *text))),
            // Another host has a key that this one lacks. A version never changes its value, so the known one still holds.
            (Err(CannotOpen::UnknownKey), Some(Ok(value))) => {
                warn!(plugin = %row.plugin, secret = %row.name, version = row.version, "a secret was sealed anew with a key that this host lacks; it runs on with the known value");
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
        let uses: Vec<(i64, DateTime<Utc>)> = used.iter().map(|(entry, at)| (entry.id, *at)).collect();
        self.store.secrets_were_used(&uses).await?;
        for (entry, at) in used {
            entry.recorded_ms.store(at.timestamp_millis(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn entries<T>(&self, choose: impl Fn(&Arc<Entry>) -> Option<T>) -> Vec<T> {
        let opened = self.opened.load();
        opened.values().flat_map(HashMap::values).flatten().filter_map(choose).collect()
    }
}

impl SecretSource for Vault {
    fn current(&self, plugin: &PluginName, name: &str) -> Vec<SecretValue> {
        let opened = self.opened.load();
        // A name that the vault holds never falls back, even when it cannot be opened: an outdated value is worse than none.
        let Some(versions) = opened.get(plugin).and_then(|names| names.get(name)) else {
            return self.fallback.current(plugin, name);
        };
        let now = Utc::now();
        let holds = versions.iter().filter(|entry| entry.ends_at.is_none_or(|end| end > now));
        holds.filter_map(|entry| entry.value.as_ref().ok().cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
