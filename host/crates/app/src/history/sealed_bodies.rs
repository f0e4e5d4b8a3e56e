//! Seals data and results of jobs before they reach Postgres, and opens them.
//!
//! The key is in Postgres, sealed under the master key, so that a rotation of the master key
//! changes one row. The bodies of each job have a key of their own, derived from it: no number of
//! jobs wears it out, and rows cannot change places. Bodies are compressed where that pays.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use parking_lot::Mutex;
use patchbay_model::attempt::{AttemptRecord, Body};
use patchbay_model::confidential::is_confidential;
use patchbay_model::job::JobKey;
use patchbay_store::{HistoryKeyRow, NewAttempt, SealedBody, Store, StoreError};
use patchbay_work::body_budget::MAX_BODY_BYTES;
use tracing::{info, warn};
use zeroize::Zeroizing;
use zstd::bulk::Compressor;

use crate::vault::Vault;

const DOMAIN: &[u8] = b"patchbay history v1";
const NONCE_BYTES: usize = 12;
/// Shorter bodies hardly shrink.
const WORTH_COMPRESSING: usize = 256;
/// The fastest level: the recorder must keep up with thousands of jobs per second.
const COMPRESSION: i32 = 1;
/// Flags in the first byte of a sealed body.
const COMPRESSED: u8 = 1;
const HAS_RESULT: u8 = 2;

/// Why a body cannot be opened. Safe for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// Its key is missing, or is sealed under a master key that is missing.
    #[error(
        "sealed with the key {0}, which no configured master key opens: set secrets.old_key_file to the previous master key, then run patchbay secret rekey"
    )]
    Key(String),
    /// The body was changed, cut, or moved from another attempt.
    #[error("damaged, or moved from another attempt")]
    Damaged,
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub struct SealedBodies {
    store: Store,
    vault: Arc<Vault>,
    /// Keys by id. The one that `current` names seals.
    known: Mutex<KnownKeys>,
}

#[derive(Default)]
struct KnownKeys {
    keys: HashMap<String, Prk>,
    current: Option<String>,
}

impl SealedBodies {
    /// Reads no key yet.
    pub fn new(store: Store, vault: Arc<Vault>) -> Self {
        Self {
            store,
            vault,
            known: Mutex::default(),
        }
    }

    /// Makes the rows for Postgres. Bodies of confidential jobs are left out; without a key all are.
    /// Everything else stays.
    pub async fn prepare(
        &self,
        mut records: Vec<AttemptRecord>,
    ) -> Result<Vec<NewAttempt>, StoreError> {
        // A host of an earlier version may have written them into the stream.
        for record in &mut records {
            if is_confidential(record.job.id.as_str()) {
                record.body = None;
                record.values.clear();
            }
        }
        let has_bodies = records.iter().any(|record| record.body.is_some());
        let has_values = records.iter().any(|record| !record.values.is_empty());
        let sealing = if has_bodies {
            self.sealing().await?
        } else {
            None
        };
        let terms = if has_values {
            Some(self.store.term_key().await?.clone())
        } else {
            None
        };
        let mut compressor = None;
        let prepare = move |mut record: AttemptRecord| {
            let body = record
                .body
                .take()
                .zip(sealing.as_ref())
                .map(|(body, (id, key))| SealedBody {
                    key: id.clone(),
                    bytes: seal(key, &record.job, record.started, &body, &mut compressor),
                });
            let values = std::mem::take(&mut record.values);
            let term =
                |(path, value): &(_, String)| terms.as_ref().map(|key| key.term(path, value));
            NewAttempt {
                body,
                terms: values.iter().filter_map(term).collect(),
                record,
            }
        };
        if !has_bodies {
            return Ok(records.into_iter().map(prepare).collect());
        }
        // This computes, so it does not run on the threads that answer health probes.
        let prepared =
            tokio::task::spawn_blocking(move || records.into_iter().map(prepare).collect());
        Ok(prepared
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
    }

    /// Opens the body of an attempt.
    pub async fn open(
        &self,
        job: &JobKey,
        started: u32,
        sealed: &SealedBody,
    ) -> Result<Body, Unopened> {
        let key = self
            .key(&sealed.key)
            .await?
            .ok_or_else(|| Unopened::Key(sealed.key.clone()))?;
        open(&key, job, started, &sealed.bytes).ok_or(Unopened::Damaged)
    }

    /// The key that seals. Makes one when there is none that this host can open. `None` without a
    /// master key.
    async fn sealing(&self) -> Result<Option<(String, Prk)>, StoreError> {
        let known = |known: &KnownKeys| {
            let id = known.current.as_ref()?;
            Some((id.clone(), known.keys.get(id)?.clone()))
        };
        if let Some(current) = known(&self.known.lock()) {
            return Ok(Some(current));
        }
        if self.vault.keys().is_empty() {
            return Ok(None);
        }
        let rows = self.store.history_keys().await?;
        let opened = rows
            .iter()
            .find_map(|row| Some((row.id.clone(), self.opened(row)?)));
        let (id, key) = match opened {
            Some(opened) => opened,
            None => {
                let id = hex::encode(rand::random::<[u8; 8]>());
                let text = Zeroizing::new(hex::encode(rand::random::<[u8; 32]>()));
                let Some(sealed) = self.vault.keys().seal_history_key(&id, &text) else {
                    return Ok(None);
                };
                self.store.add_history_key(&id, &sealed).await?;
                if rows.is_empty() {
                    info!(key = id, "a key for data and results of jobs was made");
                } else {
                    warn!(
                        key = id,
                        "no configured master key opens the keys of earlier data and results; a new key was made for new data and results"
                    );
                }
                let prk = derive(&text);
                (id, prk)
            }
        };
        let mut known = self.known.lock();
        known.keys.insert(id.clone(), key.clone());
        known.current = Some(id.clone());
        Ok(Some((id, key)))
    }

    async fn key(&self, id: &str) -> Result<Option<Prk>, StoreError> {
        if let Some(key) = self.known.lock().keys.get(id) {
            return Ok(Some(key.clone()));
        }
        let rows = self.store.history_keys().await?;
        let key = rows
            .iter()
            .find(|row| row.id == id)
            .and_then(|row| self.opened(row));
        if let Some(key) = &key {
            self.known.lock().keys.insert(id.to_owned(), key.clone());
        }
        Ok(key)
    }

    fn opened(&self, row: &HistoryKeyRow) -> Option<Prk> {
        Some(derive(&self.vault.keys().open_history_key(row).ok()?))
    }
}

fn derive(key: &str) -> Prk {
    Salt::new(HKDF_SHA256, DOMAIN).extract(key.as_bytes())
}

/// Uses the job's key as the row has it, since Postgres cannot hold every value as it was.
fn cipher(key: &Prk, job: &JobKey) -> RandomizedNonceKey {
    let job = JobKey {
        created_ms: job.created_ms.min(i64::MAX as u64),
        ..job.clone()
    };
    let mut derived = Zeroizing::new([0; 32]);
    let filled = key
        .expand(&[b"body", job.idempotency_key().as_bytes()], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *derived));
    filled.expect("HKDF gives one block of any purpose");
    RandomizedNonceKey::new(&AES_256_GCM, &*derived).expect("AES-256 takes 32 bytes")
}

fn bound_to(started: u32) -> [u8; 4] {
    started.min(i32::MAX as u32).to_be_bytes()
}

/// `compressor` is made when it is first needed, once for a batch: its tables cost more than most
/// bodies.
fn seal(
    key: &Prk,
    job: &JobKey,
    started: u32,
    body: &Body,
    compressor: &mut Option<Compressor<'static>>,
) -> Vec<u8> {
    let mut content = Vec::with_capacity(4 + body.bytes());
    content.extend_from_slice(&(body.data.len() as u32).to_be_bytes());
    content.extend_from_slice(body.data.as_bytes());
    content.extend_from_slice(body.result.as_deref().unwrap_or_default().as_bytes());
    let mut flags = if body.result.is_some() { HAS_RESULT } else { 0 };
    if compressor.is_none() && content.len() >= WORTH_COMPRESSING {
        *compressor = Compressor::new(COMPRESSION).ok();
    }
    let worth_it = compressor
        .as_mut()
        .filter(|_| content.len() >= WORTH_COMPRESSING);
    let smaller = worth_it.and_then(|compressor| compressor.compress(&content).ok());
    let content = match smaller.filter(|smaller| smaller.len() < content.len()) {
        Some(smaller) => {
            flags |= COMPRESSED;
            smaller
        }
        None => content,
    };
    let mut sealed = Vec::with_capacity(NONCE_BYTES + 1 + content.len() + AES_256_GCM.tag_len());
    sealed.push(flags);
    sealed.extend_from_slice(&content);
    let nonce =
        cipher(key, job).seal_in_place_append_tag(Aad::from(bound_to(started)), &mut sealed);
    let nonce = nonce.expect("AES-GCM seals values of this size");
    sealed.splice(0..0, *nonce.as_ref());
    sealed
}

fn open(key: &Prk, job: &JobKey, started: u32, sealed: &[u8]) -> Option<Body> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut buffer = sealed.to_vec();
    let plain = cipher(key, job)
        .open_in_place(nonce, Aad::from(bound_to(started)), &mut buffer)
        .ok()?;
    let (flags, content) = plain.split_first()?;
    let content = if flags & COMPRESSED != 0 {
        zstd::bulk::decompress(content, 4 + MAX_BODY_BYTES).ok()?
    } else {
        content.to_vec()
    };
    let (length, texts) = content.split_at_checked(4)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    let (data, result) = texts.split_at_checked(length)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let result = if flags & HAS_RESULT != 0 {
        Some(text(result)?)
    } else {
        None
    };
    Some(Body {
        data: text(data)?,
        result,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str) -> JobKey {
        JobKey {
            prefix: "bull".into(),
            queue: "q".parse().expect("a name"),
            id: id.parse().expect("an id"),
            created_ms: u64::MAX,
        }
    }

    #[test]
    fn what_was_sealed_opens_for_its_attempt_and_for_no_other() {
        let key = derive("a key");
        for (data, result) in [
            ("{}", None),
            ("{}", Some("")),
            (&*"{\"a\":1}".repeat(9_000), Some("[\"é\"]")),
        ] {
            let body = Body {
                data: data.to_owned(),
                result: result.map(str::to_owned),
            };
            let sealed = seal(&key, &job("1"), 3, &body, &mut None);
            assert_eq!(open(&key, &job("1"), 3, &sealed), Some(body.clone()));
            assert!(
                open(&key, &job("2"), 3, &sealed).is_none()
                    && open(&key, &job("1"), 4, &sealed).is_none()
            );
            assert!(open(&derive("another"), &job("1"), 3, &sealed).is_none());
            for cut in [0, 5, NONCE_BYTES, sealed.len() - 1] {
                assert!(open(&key, &job("1"), 3, &sealed[..cut]).is_none());
            }
            assert_ne!(
                seal(&key, &job("1"), 3, &body, &mut None),
                sealed,
                "each time another nonce"
            );
        }
        let large = Body {
            data: "x".repeat(MAX_BODY_BYTES),
            result: None,
        };
        let sealed = seal(&key, &job("1"), 1, &large, &mut None);
        assert!(sealed.len() < 1_000, "compressed");
        assert_eq!(open(&key, &job("1"), 1, &sealed), Some(large));
    }
}
