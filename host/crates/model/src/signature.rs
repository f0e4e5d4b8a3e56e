//! Signatures of plugins. This is the only file that knows their format.
//!
//! A signature is detached Ed25519 over `"patchbay-v1\0"` and the SHA-256 of the component file.
//! The prefix prevents a key that also signs other things from vouching for a plugin by accident.
//! Everything here is pure: no file, no database, no clock. Verification is strict: weak keys and
//! second encodings of one signature are refused (<https://eprint.iacr.org/2020/1244>).
//!
//! Texts, each on a line of its own:
//! - public key: `ed25519:` and the base64 of its 32 bytes;
//! - signature: the signer's key id, `:`, and the base64 of its 64 bytes. The key id only says
//!   which key to try; it proves nothing.
//!
//! Files may have empty lines and lines that begin with `#`. Private keys are PKCS#8 in PEM, as
//! `openssl genpkey` makes them.

use std::fmt;
use std::str::FromStr;

use crate::RevisionDigest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// Header of an upload, given once per signature.
pub const HEADER: &str = "x-patchbay-signature";
/// Most signatures of one revision. A rotation needs two.
pub const MAX_SIGNATURES: usize = 16;

/// What is signed begins with this prefix; another layout will have another one.
const DOMAIN: &[u8] = b"patchbay-v1\0";
const KEY_PREFIX: &str = "ed25519:";
const PUBLIC_PEM: &str = "-----BEGIN PUBLIC KEY-----";
const PUBLIC_PEM_END: &str = "-----END PUBLIC KEY-----";

/// A text that is not a key or a signature. Never quotes it, since it may be a private key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

fn format_error(reason: impl Into<String>) -> FormatError {
    FormatError(reason.into())
}

/// The first 16 hexadecimal digits of the SHA-256 of a public key's 32 bytes: enough to distinguish
/// keys, not to trust one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl FromStr for KeyId {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| format_error("a key id is 16 hexadecimal digits"))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Used for people, files and the database.
    pub fn id(&self) -> KeyId {
        let digest: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        KeyId(id)
    }

    /// Whether this key made the signature of this file.
    pub fn verifies(&self, digest: &RevisionDigest, signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.0.verify_strict(&message(digest), &bytes).is_ok()
    }

    fn strong(key: VerifyingKey) -> Result<Self, FormatError> {
        if key.is_weak() {
            return Err(format_error(
                "this public key is weak: anybody can forge signatures for it",
            ));
        }
        Ok(Self(key))
    }
}

impl FromStr for PublicKey {
    type Err = FormatError;

    /// Accepts the one-line form, or PEM.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let text = text.trim();
        if text.contains("PRIVATE KEY") {
            return Err(format_error(
                "this is a private key, which only the signer may have: give its public key",
            ));
        }
        if text.starts_with(PUBLIC_PEM) {
            let key = VerifyingKey::from_public_key_pem(text);
            return Self::strong(
                key.map_err(|_| format_error("this PEM block is not an Ed25519 public key"))?,
            );
        }
        let encoded = text.strip_prefix(KEY_PREFIX).ok_or_else(|| {
            format_error(format!(
                "a public key is {KEY_PREFIX} and 44 characters of base64"
            ))
        })?;
        let bytes: [u8; 32] = STANDARD
            .decode(encoded)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| {
                format_error(format!(
                    "after {KEY_PREFIX} there must be 44 characters: the base64 of 32 bytes"
                ))
            })?;
        let key = VerifyingKey::from_bytes(&bytes)
            .map_err(|_| format_error("these 32 bytes are not an Ed25519 key"))?;
        Self::strong(key)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}", STANDARD.encode(self.0.as_bytes()))
    }
}

/// Every public key of a file: one-line forms and PEM blocks. A file without a key is refused,
/// since nobody can have meant it.
pub fn read_public_keys(text: &str) -> Result<Vec<PublicKey>, FormatError> {
    let mut keys = Vec::new();
    let mut lines = text.lines().map(str::trim).enumerate();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut block = line.to_owned();
        if line == PUBLIC_PEM {
            for (_, more) in lines.by_ref() {
                block.push('\n');
                block.push_str(more);
                if more == PUBLIC_PEM_END {
                    break;
                }
            }
        }
        keys.push(
            block
                .parse()
                .map_err(|error| format_error(format!("line {}: {error}", at + 1)))?,
        );
    }
    if keys.is_empty() {
        Err(format_error("the file has no public key"))
    } else {
        Ok(keys)
    }
}

/// Must never be printed.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    pub fn generate() -> Self {
        Self(SigningKey::from_bytes(&rand::random()))
    }

    /// Reads PKCS#8 in PEM.
    pub fn from_pem(text: &str) -> Result<Self, FormatError> {
        let key = SigningKey::from_pkcs8_pem(text.trim());
        Ok(Self(key.map_err(|_| {
            format_error("the file has no Ed25519 private key in PEM (BEGIN PRIVATE KEY)")
        })?))
    }

    /// Without the public half, which OpenSSL 3.0 cannot read.
    pub fn to_pem(&self) -> Result<String, FormatError> {
        let bytes = KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        let pem = bytes
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| format_error(error.to_string()))?;
        Ok(pem.as_str().to_owned())
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub fn sign(&self, digest: &RevisionDigest) -> Signature {
        Signature {
            key: self.public().id(),
            bytes: self.0.sign(&message(digest)).to_bytes(),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().id())
    }
}

fn message(digest: &RevisionDigest) -> Vec<u8> {
    [DOMAIN, digest.as_bytes()].concat()
}

/// A signature and the key that it claims to be made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Claimed; see [`PublicKey::verifies`].
    pub key: KeyId,
    /// R and S of RFC 8032.
    pub bytes: [u8; 64],
}

impl Signature {
    /// Reads stored parts; absent when they are not a signature.
    pub fn from_parts(key: &str, bytes: &[u8]) -> Option<Self> {
        Some(Self {
            key: key.parse().ok()?,
            bytes: bytes.try_into().ok()?,
        })
    }
}

impl FromStr for Signature {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let (key, encoded) = text.trim().split_once(':').ok_or_else(|| {
            format_error("a signature is a key id, a colon and 88 characters of base64")
        })?;
        let bytes = STANDARD
            .decode(encoded)
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.ok_or_else(|| {
            format_error(
                "after the key id there must be 88 characters: the base64 of a signature's 64 bytes",
            )
        })?;
        Ok(Self {
            key: key.parse()?,
            bytes,
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key, STANDARD.encode(self.bytes))
    }
}

/// Every signature of a `.sig` file; at least one.
pub fn read_signatures(text: &str) -> Result<Vec<Signature>, FormatError> {
    let lines = text
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let signatures = lines
        .map(|(at, line)| {
            line.parse()
                .map_err(|error| format_error(format!("line {}: {error}", at + 1)))
        })
        .collect::<Result<Vec<Signature>, FormatError>>()?;
    match signatures.len() {
        0 => Err(format_error("the file has no signature")),
        n if n > MAX_SIGNATURES => Err(format_error(format!(
            "the file has {n} signatures; the limit is {MAX_SIGNATURES}"
        ))),
        _ => Ok(signatures),
    }
}

/// Whether this host trusts one signature.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It fits the file, and its key is trusted.
    Trusted,
    /// Its key is not among the trusted ones, so nothing is known about it.
    UnknownKey,
    /// Its key is trusted, and the signature does not fit the file.
    Wrong,
    /// This host trusts no key and so requires no signature.
    Unchecked,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    #[error(
        "the plugin is not signed; it must be signed by a trusted key ({trusted}): see `patchbay plugin sign`"
    )]
    Unsigned { trusted: String },
    #[error("the plugin is signed by {keys}, but not by a trusted key ({trusted})")]
    UnknownKey { keys: String, trusted: String },
    #[error(
        "the signature by {key} does not fit the plugin: the file has changed since, or the signature is of another file"
    )]
    Wrong { key: KeyId },
}

/// The keys whose signatures let a plugin run. If there are none, no signature is required.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// A key that is given twice counts once.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let mut kept: Vec<PublicKey> = Vec::new();
        for key in keys {
            if !kept.contains(&key) {
                kept.push(key);
            }
        }
        Self(kept)
    }

    pub fn are_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// The ids of the keys, as a list for people.
    pub fn ids(&self) -> String {
        listed(self.0.iter().map(PublicKey::id))
    }

    /// Whether this host trusts this signature of the file.
    pub fn standing(&self, digest: &RevisionDigest, signature: &Signature) -> Standing {
        if self.0.is_empty() {
            return Standing::Unchecked;
        }
        // Two keys may share an id: somebody who causes that must not lock the other key out.
        let mut of_that_id = self
            .0
            .iter()
            .filter(|key| key.id() == signature.key)
            .peekable();
        if of_that_id.peek().is_none() {
            return Standing::UnknownKey;
        }
        if of_that_id.any(|key| key.verifies(digest, signature)) {
            Standing::Trusted
        } else {
            Standing::Wrong
        }
    }

    /// The check at a load: one trusted signature is enough.
    pub fn check(
        &self,
        digest: &RevisionDigest,
        signatures: &[Signature],
    ) -> Result<(), Untrusted> {
        if self.0.is_empty() {
            return Ok(());
        }
        let standing = |signature: &&Signature| self.standing(digest, signature);
        if signatures
            .iter()
            .any(|signature| standing(&signature) == Standing::Trusted)
        {
            return Ok(());
        }
        let trusted = self.ids();
        if let Some(wrong) = signatures
            .iter()
            .find(|signature| standing(signature) == Standing::Wrong)
        {
            return Err(Untrusted::Wrong { key: wrong.key });
        }
        if signatures.is_empty() {
            return Err(Untrusted::Unsigned { trusted });
        }
        Err(Untrusted::UnknownKey {
            keys: listed(signatures.iter().map(|signature| signature.key)),
            trusted,
        })
    }

    /// The check at an upload: as [`Self::check`] with the signatures that are kept already, and
    /// none of the given ones may be wrong.
    pub fn check_upload(
        &self,
        digest: &RevisionDigest,
        given: &[Signature],
        kept: &[Signature],
    ) -> Result<(), Untrusted> {
        if let Some(wrong) = given
            .iter()
            .find(|signature| self.standing(digest, signature) == Standing::Wrong)
        {
            return Err(Untrusted::Wrong { key: wrong.key });
        }
        self.check(digest, &[given, kept].concat())
    }
}

fn listed(ids: impl Iterator<Item = KeyId>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
