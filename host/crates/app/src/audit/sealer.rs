//! Seals entries into batches: one process of the fleet, each second while entries come.
//!
//! A trail that is shorter than what was noted outside of Postgres is not sealed: a second chain
//! under the same numbers would hide what is missing. An operator decides
//! (`patchbay audit accept-gap`); entries are written meanwhile, and wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use patchbay_model::audit::{ActorKind, OPERATORS};
use patchbay_model::audit_chain::Anchor;
use patchbay_store::{BatchRow, LeaderTask, Leadership, NewHostEntry, Sealed, Store, StoreError};
use serde_json::json;
use tracing::{error, info, warn};

use super::anchors::{self, Anchors};
use super::chain::{self, PURPOSE};
use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::sealed_keys::{OpenedKey, SealedKeys};
use crate::service::Service;

/// Entries of a batch.
const MOST_ENTRIES: i64 = 1_000;
/// How long entries wait until another process than the present leader stands for election: a
/// connection per second and process would be too much for nothing.
const TAKE_OVER_AFTER_S: f64 = 3.0;
const STAND_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Between two lines of a trail in the log and in the file, unless there are many batches.
const PUBLISH_EVERY: Duration = Duration::from_secs(3_600);
const PUBLISH_BATCHES: i64 = 1_000;
/// Between two looks for actions without an end.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// After which an action counts as never ended.
const UNENDED_AFTER_S: f64 = 900.0;

/// Entries that this process has sealed, by trail.
#[derive(Default)]
pub struct SealMeters(Mutex<BTreeMap<String, u64>>);

impl SealMeters {
    pub(crate) fn read(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }

    fn add(&self, trail: &str, entries: u64) {
        *self.0.lock().entry(trail.to_owned()).or_default() += entries;
    }
}

/// Seals what waits.
pub fn sealer(parts: &Parts) -> Arc<dyn Service> {
    let task = Sealer {
        store: parts.store.clone(),
        host: parts.plugins.host().to_owned(),
        anchors: parts.audit.anchors.clone(),
        keys: parts.audit.keys.clone(),
        every: parts.audit.seal_every,
        meters: Arc::clone(&parts.audit.meters),
        key: None,
        stands: true,
        followed: None,
        heads: HashMap::new(),
        stopped: HashMap::new(),
        published: HashMap::new(),
        since_entry: 0,
        entry_at: Instant::now(),
        swept: None,
    };
    Arc::new(Led::new(parts.store.clone(), task))
}

struct Sealer {
    store: Store,
    host: String,
    anchors: Anchors,
    keys: SealedKeys,
    every: Duration,
    meters: Arc<SealMeters>,
    /// Read once; the inner one is absent without a master key.
    key: Option<Option<OpenedKey>>,
    /// Whether to stand for election although nothing waits for long: at the start, and while this
    /// process leads.
    stands: bool,
    /// When another process was last found to lead.
    followed: Option<Instant>,
    /// The newest batches that were compared with what is noted elsewhere.
    heads: HashMap<String, Anchor>,
    /// Trails that are not sealed, and why.
    stopped: HashMap<String, String>,
    /// When each trail was last told to the log and the file, and its head then.
    published: HashMap<String, (Instant, Anchor)>,
    /// Entries that were sealed since the last entry that notes the heads, which itself counts as
    /// none.
    since_entry: i64,
    entry_at: Instant,
    swept: Option<Instant>,
}

#[async_trait]
impl LedTask for Sealer {
    const TASK: LeaderTask = LeaderTask::Seal;
    const NAME: &'static str = "audit-sealer";
    const FAILING: &'static str =
        "entries of audit trails are not sealed: only rights of the database guard them";

    fn every(&self) -> Duration {
        self.every
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        // While a trail is not sealed on purpose, its entries wait for long.
        if self
            .followed
            .is_some_and(|at| at.elapsed() < STAND_AGAIN_AFTER)
        {
            return Ok(false);
        }
        Ok(self.stands || self.store.audit_waits_for(TAKE_OVER_AFTER_S).await?)
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        self.stands = false;
        self.followed = Some(Instant::now());
        // Another process goes on with the chain.
        self.heads.clear();
        self.stopped.clear();
        Ok(())
    }

    async fn on_error(&mut self, _error: &anyhow::Error) {
        self.heads.clear();
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        self.stands = true;
        if self.swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) {
            lead.note_unended_actions(UNENDED_AFTER_S).await?;
            self.swept = Some(Instant::now());
        }
        let mut sealed = Vec::new();
        for waiting in self.store.audit_pending().await? {
            if let Some(head) = self.seal(lead, &waiting.trail).await? {
                sealed.push(head);
            }
        }
        if !sealed.is_empty() {
            self.anchors.note(&sealed).await;
            self.publish(sealed).await;
        }
        self.note_heads().await?;
        Ok(Next::Later)
    }
}

impl Sealer {
    /// Seals all that waits of a trail. Gives its newest batch, if there is a new one.
    async fn seal(
        &mut self,
        lead: &mut Leadership<'_>,
        trail: &str,
    ) -> anyhow::Result<Option<Anchor>> {
        let mut newest = None;
        loop {
            let head = self
                .store
                .audit_heads(Some(trail))
                .await?
                .into_iter()
                .next();
            if !self.may_follow(trail, head.as_ref()).await? {
                return Ok(newest);
            }
            let key = self.key().await?;
            let judged = head.as_ref().map(anchors::of);
            let make = |sealable: &patchbay_store::Sealable<'_>| {
                // Somebody may have added a batch since.
                (sealable.head.map(anchors::of) == judged)
                    .then(|| chain::next(sealable, key.as_ref(), None))
                    .flatten()
            };
            match lead.seal(trail, MOST_ENTRIES, make).await? {
                Sealed::Batch(batch) => {
                    let head = anchors::of(&batch);
                    self.meters.add(trail, batch.ids.len() as u64);
                    self.since_entry += batch.ids.len() as i64;
                    self.heads.insert(trail.to_owned(), head.clone());
                    newest = Some(head);
                    if (batch.ids.len() as i64) < MOST_ENTRIES {
                        return Ok(newest);
                    }
                }
                Sealed::Refused | Sealed::Nothing => return Ok(newest),
            }
        }
    }

    /// Whether the newest batch of a trail may be followed by another one: nothing that was noted
    /// elsewhere is ahead of it, or differs.
    async fn may_follow(&mut self, trail: &str, head: Option<&BatchRow>) -> anyhow::Result<bool> {
        let present = head.map(anchors::of);
        if present.is_some() && self.heads.get(trail) == present.as_ref() {
            return Ok(true);
        }
        let mut noted = self.anchors.known().await?;
        noted.extend(self.heads.values().cloned());
        noted.retain(|anchor| anchor.trail == trail);
        match behind(&self.store, head, &noted).await? {
            None => {
                if self.stopped.remove(trail).is_some() {
                    info!(trail, "sealing goes on");
                }
                // Also without a batch: then the first one is to come.
                if let Some(present) = present {
                    self.heads.insert(trail.to_owned(), present);
                }
                Ok(true)
            }
            Some((result, why)) => {
                if self.stopped.get(trail) != Some(&why) {
                    error!(trail, "{why}");
                    let anchors = serde_json::to_value(&noted)?;
                    self.store
                        .note_audit_verification(trail, result, Some(&why), &anchors, (0, 0))
                        .await?;
                    self.stopped.insert(trail.to_owned(), why);
                }
                Ok(false)
            }
        }
    }

    async fn key(&mut self) -> anyhow::Result<Option<OpenedKey>> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let key = if self.keys.has_master_key() {
            Some(self.keys.get_or_replace(PURPOSE).await?)
        } else {
            warn!(
                "no master key is configured, so batches of audit trails have no MAC: somebody who can write to the database could change them unseen. Set secrets.key_file"
            );
            None
        };
        self.key = Some(key.clone());
        Ok(key)
    }

    /// Tells the log and the file of heads that were not told for long.
    async fn publish(&mut self, heads: Vec<Anchor>) {
        let is_due = |head: &Anchor| match self.published.get(&head.trail) {
            Some((at, told)) => {
                at.elapsed() >= PUBLISH_EVERY
                    || told.epoch != head.epoch
                    || head.n - told.n >= PUBLISH_BATCHES
            }
            None => true,
        };
        let due: Vec<Anchor> = heads.into_iter().filter(is_due).collect();
        if due.is_empty() {
            return;
        }
        for head in &due {
            self.published
                .insert(head.trail.clone(), (Instant::now(), head.clone()));
        }
        self.anchors.publish(due).await;
    }

    /// Each hour, an entry in the trail of operators notes the heads of all trails: they vouch for
    /// each other.
    async fn note_heads(&mut self) -> Result<(), StoreError> {
        if self.since_entry <= 0 || self.entry_at.elapsed() < PUBLISH_EVERY {
            return Ok(());
        }
        let heads = self.store.audit_heads(None).await?;
        let heads: Vec<Anchor> = heads.iter().map(anchors::of).collect();
        let key = format!("anchor/{}", uuid::Uuid::now_v7());
        let actor = format!("host {}", self.host);
        let told = json!({ "heads": heads });
        let entry = NewHostEntry {
            trail: OPERATORS,
            entry_key: &key,
            actor_kind: ActorKind::Host,
            actor_id: Some(&actor),
            actor_name: Some(&actor),
            action: "audit.anchor",
            entity: None,
            address: None,
            platform: None,
            correlation_id: None,
            entry: &told,
        };
        self.store.append_entry(&entry).await?;
        self.since_entry = -1;
        self.entry_at = Instant::now();
        Ok(())
    }
}

/// Whether a trail is behind what was noted elsewhere, or differs from it: the result as it is
/// stored, and what it means.
pub(super) async fn behind(
    store: &Store,
    head: Option<&BatchRow>,
    noted: &[Anchor],
) -> Result<Option<(&'static str, String)>, StoreError> {
    let place = head.map_or((0, 0), |head| (head.epoch, head.n));
    for anchor in noted {
        let Anchor {
            trail, epoch, n, ..
        } = anchor;
        if anchor.place() > place {
            let here = match place {
                (0, 0) => "the trail has no batch".to_owned(),
                (epoch, n) => format!("its newest one is batch {n} of epoch {epoch}"),
            };
            return Ok(Some((
                "shorter",
                format!(
                    "Entries of audit trail {trail} are missing: batch {n} of epoch {epoch} was sealed, and {here}. The database was restored from an older dump, or its end was cut off. \
                     New entries are written, but not sealed until an operator decides: patchbay audit accept-gap {trail} --reason TEXT"
                ),
            )));
        }
        // What is missing of an earlier epoch was accepted.
        if *epoch < place.0 {
            continue;
        }
        let chain = store.audit_chain_at(trail, *epoch, *n).await?;
        if chain.as_deref() != anchor.hash().as_ref().map(|hash| &hash[..]) {
            return Ok(Some((
                "broken",
                format!(
                    "Batch {n} of epoch {epoch} of audit trail {trail} is not the one that was sealed: the chain was computed anew, or two databases have sealed under the same numbers. \
                     Sealing has stopped. See what is wrong: patchbay audit verify --trail {trail}"
                ),
            )));
        }
    }
    Ok(None)
}
