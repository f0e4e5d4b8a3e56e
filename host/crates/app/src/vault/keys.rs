//! Master keys: where they come from, and the cipher (AES-256-GCM; docs/decisions/011).

use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine;
use patchbay_model::{PluginName, SecretName};
use patchbay_store::{HistoryKeyRow, SealedKeyRow, SealedSecret, SecretRow};
use tracing::warn;
use zeroize::Zeroizing;

use super::VaultError;

/// The HKDF salt of everything that is derived from a master key.
const DOMAIN: &[u8] = b"patchbay vault v1";

/// The form of a key, for messages.
pub const KEY_FORM: &str =
    "64 hexadecimal digits, or 32 bytes in base64, as from `openssl rand -hex 32`";

pub enum KeySource {
    Text {
        /// The configuration key that holds it.
        key: &'static str,
        /// 64 hexadecimal digits, or base64.
        text: Zeroizing<String>,
    },
    /// A file that holds the same.
    File {
        /// The configuration key that names the file.
        key: &'static str,
        path: PathBuf,
    },
}

/// What is wrong with the configured keys, one line each. No line holds a key.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n{}", .0.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
pub struct KeyError(pub Vec<String>);

/// Why a row cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotOpen {
    #[error("sealed with a key that is not configured")]
    UnknownKey,
    /// The row was changed, cut, or moved from another secret.
    #[error("damaged, or moved from another secret")]
    Damaged,
}

/// Parses the text form of a key of 32 bytes.
pub fn parse_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim();
    let mut key = Zeroizing::new([0; 32]);
    let decoded = if text.len() == 64 {
        hex::decode_to_slice(text, &mut *key).is_ok()
    } else {
        // One byte more, to detect a text of more than 32 bytes, which is a mistake.
        let mut bytes = Zeroizing::new([0; 33]);
        let length = base64::engine::general_purpose::STANDARD
            .decode_slice(text, &mut *bytes)
            .unwrap_or(0);
        key.copy_from_slice(&bytes[..32]);
        length == 32
    };
    // A repeated byte is a placeholder that somebody forgot to replace.
    (decoded && key.iter().any(|byte| byte != &key[0])).then_some(key)
}

/// Whether others than the owner can access a key file.
pub fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// One master key. It seals and opens. Its id reveals nothing about it.
pub(super) struct MasterKey {
    id: String,
    aead: RandomizedNonceKey,
    limits: Zeroizing<[u8; 32]>,
    answers: Zeroizing<[u8; 32]>,
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
        let (mut limits, mut answers) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        derive(b"seal", &mut key);
        derive(b"id", &mut id);
        derive(b"limits", &mut limits);
        derive(b"answers", &mut answers);
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &*key).expect("AES-256 takes 32 bytes");
        Self {
            id: hex::encode(&id[..8]),
            aead,
            limits,
            answers,
        }
    }

    pub(super) fn seal(&self, bound_to: &[u8], value: &str) -> SealedSecret {
        let mut buffer = value.as_bytes().to_vec();
        let sealed = self
            .aead
            .seal_in_place_append_tag(Aad::from(bound_to), &mut buffer);
        let nonce = sealed.expect("AES-GCM seals values of this size");
        SealedSecret {
            key_id: self.id.clone(),
            nonce: nonce.as_ref().to_vec(),
            ciphertext: buffer,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn seal_history_key(&self, id: &str, key: &str) -> SealedSecret {
        self.seal(&bound_to_history(id), key)
    }

    fn open(&self, bound_to: &[u8], sealed: &SealedSecret) -> Option<String> {
        let nonce = Nonce::try_assume_unique_for_key(&sealed.nonce).ok()?;
        let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
        let plain = self
            .aead
            .open_in_place(nonce, Aad::from(bound_to), &mut buffer)
            .ok()?;
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
    /// Reads the key that seals and, during a rotation, the one before it. An error names the
    /// configuration key, never its value.
    pub fn load(sources: [Option<KeySource>; 2]) -> Result<Self, KeyError> {
        let (mut keys, mut names, mut problems) =
            (Vec::<MasterKey>::new(), Vec::<String>::new(), Vec::new());
        for source in sources.into_iter().flatten() {
            match read_key(&source) {
                Ok((name, master)) => {
                    let key = MasterKey::new(&master);
                    match keys.iter().position(|known| known.id == key.id) {
                        Some(same) => problems.push(format!(
                            "{name} is the same key as {}: set one",
                            names[same]
                        )),
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
        if problems.is_empty() {
            Ok(Self { keys, named })
        } else {
            Err(KeyError(problems))
        }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The id of the key that seals.
    pub fn id(&self) -> Option<&str> {
        self.keys.first().map(|key| key.id.as_str())
    }

    /// The key under which rate limits hash addresses and names. `None` without a master key.
    pub fn limits(&self) -> Option<Zeroizing<[u8; 32]>> {
        self.keys.first().map(|key| key.limits.clone())
    }

    /// Of each master key, newest first, the key for answers that are kept for repeated requests.
    pub fn answers(&self) -> Vec<Zeroizing<[u8; 32]>> {
        self.keys.iter().map(|key| key.answers.clone()).collect()
    }

    pub(super) fn newest(&self) -> Result<&MasterKey, VaultError> {
        self.keys.first().ok_or(VaultError::NoKey)
    }

    /// Opens the value of a row.
    pub(super) fn open(&self, row: &SecretRow) -> Result<Zeroizing<String>, CannotOpen> {
        let key = self
            .keys
            .iter()
            .find(|key| key.id == row.sealed.key_id)
            .ok_or(CannotOpen::UnknownKey)?;
        let opened = key.open(&bound_to(&row.plugin, &row.name, row.version), &row.sealed);
        opened.map(Zeroizing::new).ok_or(CannotOpen::Damaged)
    }

    pub fn check(&self, row: &SecretRow) -> Result<(), CannotOpen> {
        self.open(row).map(drop)
    }

    /// Seals a key of the history's bodies with the newest master key. `None` without a master key.
    pub fn seal_history_key(&self, id: &str, key: &str) -> Option<SealedSecret> {
        Some(self.keys.first()?.seal_history_key(id, key))
    }

    /// Opens a key of the history's bodies.
    pub fn open_history_key(&self, row: &HistoryKeyRow) -> Result<Zeroizing<String>, CannotOpen> {
        let key = self
            .keys
            .iter()
            .find(|key| key.id == row.sealed.key_id)
            .ok_or(CannotOpen::UnknownKey)?;
        key.open(&bound_to_history(&row.id), &row.sealed)
            .map(Zeroizing::new)
            .ok_or(CannotOpen::Damaged)
    }

    /// Seals a key that the host uses itself. `None` without a master key.
    pub fn seal_host_key(&self, purpose: &str, kid: &str, key: &str) -> Option<SealedSecret> {
        let newest = self.keys.first()?;
        Some(newest.seal(&bound_to_purpose(purpose, kid), key))
    }

    /// Opens a key that the host uses itself.
    pub fn open_host_key(&self, row: &SealedKeyRow) -> Result<Zeroizing<String>, CannotOpen> {
        let key = self
            .keys
            .iter()
            .find(|key| key.id == row.sealed.key_id)
            .ok_or(CannotOpen::UnknownKey)?;
        key.open(&bound_to_purpose(&row.purpose, &row.kid), &row.sealed)
            .map(Zeroizing::new)
            .ok_or(CannotOpen::Damaged)
    }

    /// Refuses keys that fit none of the rows: they must be the wrong ones, and starting with them
    /// would fail every call that needs a secret.
    pub(super) fn refuse_wrong(&self, rows: &[SecretRow]) -> Result<(), KeyError> {
        let fits = |row: &SecretRow| self.keys.iter().any(|key| key.id == row.sealed.key_id);
        let Some(other) = rows
            .first()
            .filter(|_| !self.is_empty() && !rows.iter().any(fits))
        else {
            return Ok(());
        };
        Err(KeyError(vec![format!(
            "{} is the wrong key: it opens none of the secrets in the database ({}). Its id is {}; they were sealed with key {}. \
             Configure that key; during a rotation, as secrets.old_key_file. If it is lost: start a host without any key, remove the secrets with `patchbay secret remove`, configure a new key and set them again",
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
            parse_key(text)
                .map(|master| (name, master))
                .ok_or_else(|| format!("{key} is not a key: {KEY_FORM}"))
        }
        KeySource::File { key, path } => {
            let name = format!("{key} ({})", path.display());
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            let text = text.map_err(|error| format!("{name} cannot be read: {error}"))?;
            if readable_by_others(path) {
                warn!(path = %path.display(), "the file of {key} can be read by others than its owner; chmod 600 corrects that");
            }
            parse_key(&text)
                .map(|master| (name.clone(), master))
                .ok_or_else(|| format!("{name} is not a key: {KEY_FORM}"))
        }
    }
}

/// What a seal is bound to. No part can hold a NUL.
pub(super) fn bound_to(plugin: &PluginName, name: &SecretName, version: i32) -> Vec<u8> {
    format!("patchbay secret\0{plugin}\0{name}\0{version}").into_bytes()
}

fn bound_to_purpose(purpose: &str, kid: &str) -> Vec<u8> {
    format!("patchbay host key\0{purpose}\0{kid}").into_bytes()
}

fn bound_to_history(id: &str) -> Vec<u8> {
    format!("patchbay history key\0{id}").into_bytes()
}
