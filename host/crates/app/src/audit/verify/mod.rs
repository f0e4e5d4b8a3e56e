//! Verifies audit trails: recomputes leaves, roots, chains and MACs from what Postgres holds, and
//! compares the result with what was noted elsewhere.
//!
//! Nothing that Postgres computes is trusted: a replaced function of the database gives leaves that
//! differ from those computed here. Everything is read as of one moment.

mod macs;
mod noted;

use std::collections::BTreeMap;

use patchbay_api::audit::{AcceptedGap, AuditProblem, AuditReport, TrailReport, Verdict};
use patchbay_model::audit::OPERATORS;
use patchbay_model::audit_chain::{Anchor, Hash, Link, chain, leaf, root};
use patchbay_store::{AuditSnapshot, BatchRow, ExpiryRow, Store, StoreError, StoredEntry};
use tokio::task::block_in_place;

pub use self::macs::MacKeys;
use super::anchors;

/// Batches that are read at once.
const BATCHES: i64 = 200;
/// Entries that are read at once; one has up to 64 KiB.
const ENTRIES: usize = 1_000;
/// Ids that are read at once.
const IDS: i64 = 50_000;
/// Problems of a trail that are told one by one.
const MAX_PROBLEMS: usize = 100;
/// The action of an entry that begins an epoch.
pub(super) const GAP: &str = "audit.accept-gap";

/// Verifies one trail or all.
pub async fn verify(
    store: &Store,
    macs: &MacKeys,
    trail: Option<&str>,
    noted: Vec<Anchor>,
) -> Result<AuditReport, StoreError> {
    let mut snapshot = store.audit_snapshot().await?;
    let mut noted = noted;
    // Trails vouch for each other.
    if let Some(heads) = snapshot.noted_heads().await? {
        noted.extend(serde_json::from_value::<Vec<Anchor>>(heads).unwrap_or_default());
    }
    let noted = Anchor::newest(noted.into_iter().filter(|anchor| anchor.hash().is_some()));
    let mut names = snapshot.trails().await?;
    names.extend(noted.iter().map(|anchor| anchor.trail.clone()));
    names.sort();
    names.dedup();
    names.retain(|name| trail.is_none_or(|trail| trail == name));
    let mut trails = Vec::new();
    for name in names {
        let of_trail = noted.iter().filter(|anchor| anchor.trail == name);
        let mut of_trail: Vec<Anchor> = of_trail.cloned().collect();
        of_trail.sort_by_key(Anchor::place);
        let mut trail = Trail::new(name, macs, of_trail);
        trail.read(&mut snapshot).await?;
        trails.push(trail.report());
    }
    snapshot.close().await;
    Ok(AuditReport {
        result: trails
            .iter()
            .map(|trail| trail.result)
            .max()
            .unwrap_or(Verdict::Whole),
        macs: if macs.has_master_key {
            "checked".into()
        } else {
            "no-master-key".into()
        },
        trails,
    })
}

/// A trail while it is verified.
struct Trail<'a> {
    macs: &'a MacKeys,
    anchors: Vec<Anchor>,
    report: TrailReport,
    expiries: Vec<ExpiryRow>,
    before: Option<BatchRow>,
    had_mac: bool,
    /// Ids of keys that cannot be opened.
    unopened: Vec<String>,
    /// Ids of all batches.
    sealed: Vec<i64>,
    /// Chains at the places of anchors.
    chains: BTreeMap<(i32, i64), Vec<u8>>,
}

impl<'a> Trail<'a> {
    fn new(trail: String, macs: &'a MacKeys, anchors: Vec<Anchor>) -> Self {
        Self {
            macs,
            anchors,
            report: TrailReport {
                trail,
                result: Verdict::Whole,
                entries: 0,
                batches: 0,
                pending: 0,
                expired: 0,
                without_mac: 0,
                unchecked_macs: 0,
                head: None,
                problems: Vec::new(),
                more_problems: 0,
                missing: None,
                accepted_gaps: Vec::new(),
            },
            expiries: Vec::new(),
            before: None,
            had_mac: false,
            unopened: Vec::new(),
            sealed: Vec::new(),
            chains: BTreeMap::new(),
        }
    }

    fn problem(
        &mut self,
        kind: &str,
        batch: Option<&BatchRow>,
        entry: Option<i64>,
        message: String,
    ) {
        if self.report.problems.len() == MAX_PROBLEMS {
            self.report.more_problems += 1;
            return;
        }
        self.report.problems.push(AuditProblem {
            kind: kind.to_owned(),
            epoch: batch.map(|batch| batch.epoch),
            batch: batch.map(|batch| batch.n),
            entry,
            message,
        });
    }

    async fn read(&mut self, snapshot: &mut AuditSnapshot) -> Result<(), StoreError> {
        let name = self.report.trail.clone();
        self.expiries = snapshot.expiries(&name).await?;
        for expiry in self.expiries.clone() {
            if !expiry.is_recorded {
                let message = format!(
                    "An expiry of {} entries by {} at {} is not in the trail {OPERATORS}: it was added by hand",
                    expiry.count,
                    expiry.by,
                    expiry.at.to_rfc3339()
                );
                self.problem("expiry-unrecorded", None, None, message);
            }
        }
        let mut place = (0, 0);
        loop {
            let batches = snapshot.batches(&name, place, BATCHES).await?;
            let Some(last) = batches.last() else { break };
            place = (last.epoch, last.n);
            let mut batches = batches.as_slice();
            while !batches.is_empty() {
                let (mut taken, mut ids) = (0, Vec::new());
                for batch in batches {
                    if taken > 0 && ids.len() + batch.ids.len() > ENTRIES {
                        break;
                    }
                    ids.extend_from_slice(&batch.ids);
                    taken += 1;
                }
                let (now, later) = batches.split_at(taken);
                let entries = snapshot.entries(&ids).await?;
                block_in_place(|| {
                    for batch in now {
                        self.batch(batch, &entries);
                    }
                });
                batches = later;
            }
        }
        self.report.head = self.before.as_ref().map(anchors::of);
        self.pending(snapshot).await?;
        self.compare_with_anchors();
        Ok(())
    }

    fn batch(&mut self, batch: &BatchRow, entries: &[StoredEntry]) {
        self.report.batches += 1;
        let problems = self.report.problems.len();
        let follows = self.place(batch, entries);
        self.entries(batch, entries);
        let has_new_problem = self.report.problems.len() > problems;
        self.link(batch, follows && !has_new_problem);
        let place = (batch.epoch, batch.n);
        if self.anchors.iter().any(|anchor| anchor.place() == place) {
            self.chains.insert(place, batch.chain.clone());
        }
        self.sealed.extend_from_slice(&batch.ids);
        self.before = Some(BatchRow {
            ids: Vec::new(),
            ..batch.clone()
        });
    }

    /// Whether the batch stands right behind the one before.
    fn place(&mut self, batch: &BatchRow, entries: &[StoredEntry]) -> bool {
        let (epoch, n) = self
            .before
            .as_ref()
            .map_or((0, 0), |before| (before.epoch, before.n));
        if batch.epoch == epoch && batch.n == n + 1 {
            return true;
        }
        if epoch == 0 && (batch.epoch, batch.n) == (1, 1) {
            return true;
        }
        let gap = batch
            .ids
            .first()
            .and_then(|id| find(entries, *id))
            .filter(|entry| batch.n == 1 && entry.fields.action.as_deref() == Some(GAP))
            .and_then(|entry| serde_json::from_str::<AcceptedGap>(&entry.fields.entry).ok());
        if let Some(gap) = gap.filter(|gap| gap.epoch == batch.epoch && batch.epoch > epoch) {
            self.report.accepted_gaps.push(gap);
            return true;
        }
        if batch.epoch == epoch || epoch == 0 {
            let from = if batch.epoch == epoch { n + 1 } else { 1 };
            let message = match batch.n - from {
                1 => format!("Batch {from} of epoch {} is missing", batch.epoch),
                _ => format!(
                    "Batches {from} to {} of epoch {} are missing",
                    batch.n - 1,
                    batch.epoch
                ),
            };
            self.problem("batch-missing", Some(batch), None, message);
        } else {
            let message = format!(
                "Epoch {} does not begin with an entry by which an operator has accepted a gap",
                batch.epoch
            );
            self.problem("epoch-unexplained", Some(batch), None, message);
        }
        false
    }

    /// Each entry of a batch, and its root.
    fn entries(&mut self, batch: &BatchRow, entries: &[StoredEntry]) {
        let (mut leaves, mut missing) = (Vec::<Hash>::new(), Vec::new());
        let mut is_told = false;
        for id in &batch.ids {
            let Some(entry) = find(entries, *id) else {
                missing.push(*id);
                continue;
            };
            self.report.entries += 1;
            let leaf = leaf(&entry.fields);
            leaves.push(leaf);
            if entry.fields.trail != self.report.trail {
                is_told = true;
                let message = format!(
                    "Entry {id} was moved to the trail {}: it was sealed in {}",
                    entry.fields.trail, batch.trail
                );
                self.problem("entry-moved", Some(batch), Some(*id), message);
            } else if leaf[..] != entry.leaf[..] {
                is_told = true;
                let message = format!(
                    "Entry {id} was changed after it was written, or the function of the database that computes its leaf was replaced"
                );
                self.problem("entry-changed", Some(batch), Some(*id), message);
            }
        }
        let covers = |id: &i64| {
            let mut expiries = self.expiries.iter();
            expiries.any(|expiry| *id <= expiry.up_to && batch.sealed_at < expiry.before)
        };
        // An expiry deletes whole batches.
        if missing.len() == batch.ids.len() && missing.iter().all(covers) {
            self.report.expired += missing.len() as u64;
            return;
        }
        for id in &missing {
            is_told = true;
            let message = format!("Entry {id} was deleted");
            self.problem("entry-missing", Some(batch), Some(*id), message);
        }
        if !is_told && root(&leaves)[..] != batch.root[..] {
            let (first, last) = (batch.ids.first(), batch.ids.last());
            let message = format!(
                "The entries of batch {} do not give its root: one of the entries {} to {} was changed together with its leaf, or their order was changed",
                batch.n,
                first.copied().unwrap_or_default(),
                last.copied().unwrap_or_default()
            );
            self.problem("batch-changed", Some(batch), None, message);
        }
    }

    /// Chain and MAC of a batch. `follows`: whether the batch before is known, and nothing is told
    /// of this one yet.
    fn link(&mut self, batch: &BatchRow, follows: bool) {
        let before: Option<Hash> = self
            .before
            .as_ref()
            .and_then(|before| before.chain.as_slice().try_into().ok());
        let root: Hash = batch.root.as_slice().try_into().unwrap_or_default();
        let expected = chain(&Link {
            trail: &batch.trail,
            epoch: batch.epoch,
            n: batch.n,
            before: before.as_ref(),
            count: batch.count,
            root: &root,
            sealed_at_us: batch.sealed_at.timestamp_micros(),
        });
        if follows && expected[..] != batch.chain[..] {
            let message = format!(
                "Batch {} of epoch {} does not continue the batch before: its number of entries, root or time was changed, or the batch before was replaced",
                batch.n, batch.epoch
            );
            self.problem("chain-broken", Some(batch), None, message);
        }
        self.mac(batch);
    }

    /// Entries that wait, and entries that neither wait nor are in a batch.
    async fn pending(&mut self, snapshot: &mut AuditSnapshot) -> Result<(), StoreError> {
        let name = self.report.trail.clone();
        let pending = snapshot.pending(&name).await?;
        self.report.pending = pending.len() as u64;
        let mut sealed = std::mem::take(&mut self.sealed);
        block_in_place(|| sealed.sort_unstable());
        for pair in sealed.windows(2).filter(|pair| pair[0] == pair[1]) {
            let message = format!("Entry {} is in two batches", pair[0]);
            self.problem("entry-twice", None, Some(pair[0]), message);
        }
        for ids in pending.chunks(ENTRIES) {
            let entries = snapshot.entries(ids).await?;
            for id in ids {
                match find(&entries, *id) {
                    None => {
                        let message = format!("Entry {id} was deleted before it was sealed");
                        self.problem("entry-missing", None, Some(*id), message);
                    }
                    Some(entry) if leaf(&entry.fields)[..] != entry.leaf[..] => {
                        let message = format!(
                            "Entry {id}, which is not sealed yet, was changed after it was written, or the function of the database that computes its leaf was replaced"
                        );
                        self.problem("entry-changed", None, Some(*id), message);
                    }
                    Some(_) => {}
                }
                if sealed.binary_search(id).is_ok() {
                    let message = format!("Entry {id} is in a batch, and waits to be sealed");
                    self.problem("entry-twice", None, Some(*id), message);
                }
            }
        }
        let mut after = 0;
        loop {
            let ids = snapshot.ids(&name, after, IDS).await?;
            let Some(last) = ids.last() else { break };
            after = *last;
            for id in ids {
                if sealed.binary_search(&id).is_err() && pending.binary_search(&id).is_err() {
                    let message = format!(
                        "Entry {id} is in no batch: it was added past the trigger that notes new entries, or its batch was removed"
                    );
                    self.problem("entry-unsealed", None, Some(id), message);
                }
            }
        }
        Ok(())
    }

    fn report(mut self) -> TrailReport {
        self.report.result = if !self.report.problems.is_empty() {
            Verdict::Broken
        } else if self.report.missing.is_some() {
            Verdict::Shorter
        } else {
            Verdict::Whole
        };
        self.report
    }
}

fn find(entries: &[StoredEntry], id: i64) -> Option<&StoredEntry> {
    let place = entries.binary_search_by_key(&id, |entry| entry.fields.id);
    entries.get(place.ok()?)
}
