//! MACs of batches: only whoever has the master key can have computed them.

use patchbay_store::{BatchRow, Store, StoreError};

use super::Trail;
use crate::audit::chain::{PURPOSE, is_genuine};
use crate::sealed_keys::{OpenedKey, opened};
use crate::vault::Keys;

/// What MACs are checked with.
pub struct MacKeys {
    keys: Vec<OpenedKey>,
    /// Ids of all keys, also of those that cannot be opened.
    known: Vec<String>,
    pub(super) has_master_key: bool,
}

impl MacKeys {
    pub async fn read(store: &Store, keys: &Keys) -> Result<Self, StoreError> {
        let rows = store.sealed_keys(Some(PURPOSE)).await?;
        Ok(Self {
            keys: opened(store, keys, PURPOSE).await?,
            known: rows.into_iter().map(|row| row.kid).collect(),
            has_master_key: !keys.is_empty(),
        })
    }
}

impl Trail<'_> {
    pub(super) fn mac(&mut self, batch: &BatchRow) {
        let macs = self.macs;
        let (Some(mac), Some(kid)) = (&batch.mac, &batch.kid) else {
            self.report.without_mac += 1;
            if self.had_mac {
                let message = format!(
                    "Batch {} of epoch {} has no MAC, although batches before it have: a host without the master key has sealed it, or the chain was computed anew without the key",
                    batch.n, batch.epoch
                );
                self.problem("mac-missing", Some(batch), None, message);
            }
            return;
        };
        self.had_mac = true;
        if !macs.has_master_key {
            self.report.unchecked_macs += 1;
            return;
        }
        let genuine = match macs.keys.iter().find(|key| key.kid == *kid) {
            Some(key) => is_genuine(key, &batch.chain, mac),
            None if macs.known.contains(kid) => {
                self.report.unchecked_macs += 1;
                // Once: or else whoever damages the key would silence all that it would show.
                if !self.unopened.contains(kid) {
                    self.unopened.push(kid.clone());
                    let message = format!(
                        "MACs from batch {} of epoch {} on cannot be checked: no configured master key opens their key {kid}. Set secrets.old_key_file to the master key that was used then. If nobody has changed the master key, somebody has damaged the key",
                        batch.n, batch.epoch
                    );
                    self.problem("mac-unchecked", Some(batch), None, message);
                }
                return;
            }
            None => false,
        };
        if !genuine {
            let message = format!(
                "The MAC of batch {} of epoch {} is wrong: the chain was computed anew without the key",
                batch.n, batch.epoch
            );
            self.problem("mac-wrong", Some(batch), None, message);
        }
    }
}
