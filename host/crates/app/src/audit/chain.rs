//! Batches: computing the next one, and the MAC that only a host with the master key can compute.

use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::audit_chain::{Hash, Link, chain, root};
use patchbay_store::{NewBatch, Sealable};
use sha2::Sha256;

use crate::sealed_keys::OpenedKey;

/// Purpose of the key of the MACs.
pub(crate) const PURPOSE: &str = "audit";

fn hmac(key: &OpenedKey, chain: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&*key.key).expect("HMAC takes keys of any length");
    mac.update(b"patchbay-audit-mac-v1");
    mac.update(chain);
    mac
}

/// Whether the MAC is that of the chain; compared in constant time.
pub(crate) fn is_genuine(key: &OpenedKey, chain: &[u8], mac: &[u8]) -> bool {
    hmac(key, chain).verify_slice(mac).is_ok()
}

/// The batch of these entries, in this epoch or in the next one.
pub(crate) fn next(
    sealable: &Sealable<'_>,
    key: Option<&OpenedKey>,
    new_epoch: Option<i32>,
) -> Option<NewBatch> {
    let leaves: Vec<Hash> = sealable
        .entries
        .iter()
        .map(|(_, leaf)| leaf.as_slice().try_into().ok())
        .collect::<Option<_>>()?;
    let before: Option<Hash> = match sealable.head {
        Some(head) => Some(head.chain.as_slice().try_into().ok()?),
        None => None,
    };
    let (epoch, n) = match (new_epoch, sealable.head) {
        (Some(epoch), _) => (epoch, 1),
        (None, Some(head)) => (head.epoch, head.n + 1),
        (None, None) => (1, 1),
    };
    let root = root(&leaves);
    let chain = chain(&Link {
        trail: sealable.trail,
        epoch,
        n,
        before: before.as_ref(),
        count: leaves.len().try_into().ok()?,
        root: &root,
        sealed_at_us: sealable.now.timestamp_micros(),
    });
    let mac = key.map(|key| {
        (
            hmac(key, &chain).finalize().into_bytes().into(),
            key.kid.clone(),
        )
    });
    Some(NewBatch {
        epoch,
        n,
        root,
        chain,
        mac,
    })
}
