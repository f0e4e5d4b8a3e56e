//! Seals requests and their jobs before they leave this process, and opens them.
//!
//! The key is a host key, sealed by the master key. Each row has a key of its own, derived from it
//! by the row's id: no number of rows wears it out, and rows cannot change places.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use parking_lot::Mutex;
use patchbay_store::StoreError;
use uuid::Uuid;
use zeroize::Zeroizing;
use zstd::bulk::Compressor;

use crate::sealed_keys::{OpenedKey, SealedKeyError, SealedKeys};

pub(super) const PURPOSE: &str = "inbox";
const DOMAIN: &[u8] = b"patchbay inbox v1";
const NONCE_BYTES: usize = 12;
/// Shorter content hardly shrinks.
const WORTH_COMPRESSING: usize = 256;
const COMPRESSION: i32 = 1;
const COMPRESSED: u8 = 1;
/// A body of 4 MiB with its head.
const MAX_CONTENT: usize = 6 << 20;

/// What of a row is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Request,
    Jobs,
}

impl Part {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Request => b"request",
            Self::Jobs => b"jobs",
        }
    }
}

pub(super) struct Seals {
    sealed: SealedKeys,
    /// Keys by id. The one that `current` names seals.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Arc<SealKey>>,
    current: Option<Arc<SealKey>>,
}

pub(super) struct SealKey {
    pub kid: String,
    prk: Prk,
}

/// A key and its id, as Postgres and the snapshot keep them, sealed.
pub(super) type KeyBytes = (String, Zeroizing<[u8; 32]>);

thread_local! {
    /// One per thread: to make one costs more than to compress a request.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

fn compressed(content: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Compressor::new(COMPRESSION).ok();
        }
        kept.as_mut()?.compress(content).ok()
    })
}

impl Seals {
    pub(super) fn new(sealed: SealedKeys) -> Self {
        Self {
            sealed,
            known: Mutex::default(),
        }
    }

    /// The key that seals. Asks Postgres once.
    pub(super) async fn current(&self) -> Result<Arc<SealKey>, SealedKeyError> {
        if let Some(key) = &self.known.lock().current {
            return Ok(Arc::clone(key));
        }
        Ok(self.keep(SealKey::of(self.sealed.get_or_replace(PURPOSE).await?)))
    }

    /// The key that seals, to be sealed itself. Asks Postgres.
    pub(super) async fn current_bytes(&self) -> Result<KeyBytes, SealedKeyError> {
        let key = self.sealed.get_or_replace(PURPOSE).await?;
        let bytes = (key.kid.clone(), key.key.clone());
        self.keep(SealKey::of(key));
        Ok(bytes)
    }

    /// Seals with this key from now on.
    pub(super) fn hold(&self, kid: String, key: &[u8; 32]) {
        self.keep(SealKey::new(kid, key));
    }

    fn keep(&self, key: SealKey) -> Arc<SealKey> {
        let key = Arc::new(key);
        let mut known = self.known.lock();
        known.keys.insert(key.kid.clone(), Arc::clone(&key));
        known.current = Some(Arc::clone(&key));
        key
    }

    /// The key with this id; `None` where no configured master key opens it.
    pub(super) async fn key(&self, kid: &str) -> Result<Option<Arc<SealKey>>, StoreError> {
        if let Some(key) = self.known.lock().keys.get(kid) {
            return Ok(Some(Arc::clone(key)));
        }
        let found = self.sealed.all(PURPOSE).await?;
        let mut known = self.known.lock();
        for key in found {
            let key = Arc::new(SealKey::of(key));
            known.keys.insert(key.kid.clone(), key);
        }
        Ok(known.keys.get(kid).cloned())
    }
}

impl SealKey {
    fn of(key: OpenedKey) -> Self {
        Self::new(key.kid, &key.key)
    }

    fn new(kid: String, key: &[u8; 32]) -> Self {
        Self {
            kid,
            prk: Salt::new(HKDF_SHA256, DOMAIN).extract(key),
        }
    }

    fn cipher(&self, id: Uuid, part: Part) -> RandomizedNonceKey {
        let mut derived = Zeroizing::new([0; 32]);
        let filled = self
            .prk
            .expand(&[part.as_bytes(), id.as_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *derived));
        filled.expect("HKDF gives one block of any purpose");
        RandomizedNonceKey::new(&AES_256_GCM, &*derived).expect("AES-256 takes 32 bytes")
    }

    pub(super) fn seal(&self, id: Uuid, part: Part, content: &[u8]) -> Vec<u8> {
        let smaller = (content.len() >= WORTH_COMPRESSING)
            .then(|| compressed(content))
            .flatten()
            .filter(|smaller| smaller.len() < content.len());
        let mut sealed = Vec::with_capacity(content.len() + NONCE_BYTES + 32);
        sealed.push(if smaller.is_some() { COMPRESSED } else { 0 });
        sealed.extend_from_slice(smaller.as_deref().unwrap_or(content));
        let nonce = self
            .cipher(id, part)
            .seal_in_place_append_tag(Aad::empty(), &mut sealed);
        let nonce = nonce.expect("AES-GCM seals values of this size");
        sealed.splice(0..0, *nonce.as_ref());
        sealed
    }

    /// `None` for what was changed, cut, or moved from another row.
    pub(super) fn open(&self, id: Uuid, part: Part, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut buffer = sealed.to_vec();
        let plain = self
            .cipher(id, part)
            .open_in_place(nonce, Aad::empty(), &mut buffer)
            .ok()?;
        let (flags, content) = plain.split_first()?;
        if flags & COMPRESSED != 0 {
            zstd::bulk::decompress(content, MAX_CONTENT).ok()
        } else {
            Some(content.to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey {
            kid: "k".into(),
            prk: Salt::new(HKDF_SHA256, DOMAIN).extract(&[byte; 32]),
        }
    }

    #[test]
    fn what_was_sealed_opens_for_its_row_and_part_and_for_no_other() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for content in [Vec::new(), b"{}".to_vec(), b"abc".repeat(100_000)] {
            let sealed = key(1).seal(one, Part::Request, &content);
            assert_eq!(
                key(1).open(one, Part::Request, &sealed),
                Some(content.clone())
            );
            assert_eq!(key(1).open(other, Part::Request, &sealed), None);
            assert_eq!(key(1).open(one, Part::Jobs, &sealed), None);
            assert_eq!(key(2).open(one, Part::Request, &sealed), None);
            assert_eq!(
                key(1).open(one, Part::Request, &sealed[..sealed.len() - 1]),
                None
            );
        }
        assert!(key(1).seal(one, Part::Jobs, &b"a".repeat(100_000)).len() < 1_000);
    }
}
