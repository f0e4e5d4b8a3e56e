//! The numbers that Prometheus reads.
//!
//! This module owns the numbers per revision ([`Meters`]); the exposition owns the page. A job
//! costs only atomic additions, because its revision's meters and all their labels are made once.
//! Series come and go with revisions: those of a retired, idle revision are shown for a while, so
//! that the last numbers are scraped, and then dropped, so that their number stays bounded however
//! often plugins change. There is no global state: two hosts in one process count separately. If a
//! dependency is away, its own series disappear, but the page never fails.

pub mod attempts;
pub mod revision;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use patchbay_model::RevisionDigest;
use patchbay_runtime::{Revision, Runtime};

pub use attempts::AttemptMeters;
pub use revision::RevisionMeters;

/// Most retired revisions whose series are kept, whatever their age, because somebody may deploy in
/// a loop.
const MAX_RETIRED: usize = 50;

/// The numbers of every revision that is active here, or was recently.
pub struct Meters {
    runtime: Arc<Runtime>,
    keep_retired: Duration,
    /// Read for every call, so never locked.
    revisions: ArcSwap<HashMap<RevisionDigest, Arc<RevisionMeters>>>,
    /// When a revision was first seen as retired. Locked while the map changes.
    retired: Mutex<HashMap<RevisionDigest, Instant>>,
}

/// Keeps a revision's numbers during a call, so that they are not dropped before the call is
/// counted.
pub struct Entered(Arc<RevisionMeters>);

impl Meters {
    /// Series of a retired, idle revision are shown for `keep_retired`.
    pub fn new(runtime: Arc<Runtime>, keep_retired: Duration) -> Self {
        Self {
            runtime,
            keep_retired,
            revisions: ArcSwap::default(),
            retired: Mutex::default(),
        }
    }

    /// The meters for one call of this revision.
    pub fn enter(&self, revision: &Revision) -> Entered {
        let known = self.revisions.load().get(&revision.digest()).cloned();
        Entered::new(known.unwrap_or_else(|| self.add(revision)))
    }

    /// Meters for a call that must not be counted.
    pub fn unread(revision: &Revision) -> Entered {
        Entered::new(Arc::new(RevisionMeters::new(revision)))
    }

    fn add(&self, revision: &Revision) -> Arc<RevisionMeters> {
        let _alone = self.retired.lock();
        let mut next = HashMap::clone(&self.revisions.load());
        let meters = next
            .entry(revision.digest())
            .or_insert_with(|| Arc::new(RevisionMeters::new(revision)));
        let meters = Arc::clone(meters);
        self.revisions.store(Arc::new(next));
        meters
    }

    /// Makes the series match the active revisions: starts those of new revisions at zero, and ends
    /// those of retired, idle ones that have been shown long enough. Must be called when the active
    /// set has changed, and by every scrape.
    pub fn reconcile(&self) {
        let active = self.runtime.registry().snapshot();
        let mut retired = self.retired.lock();
        let mut next = HashMap::clone(&self.revisions.load());
        for revision in &active {
            retired.remove(&revision.digest());
            next.entry(revision.digest())
                .or_insert_with(|| Arc::new(RevisionMeters::new(revision)));
        }
        let now = Instant::now();
        for digest in next
            .keys()
            .filter(|digest| !active.iter().any(|revision| revision.digest() == **digest))
        {
            retired.entry(*digest).or_insert(now);
        }
        let mut by_age: Vec<(RevisionDigest, Instant)> =
            retired.iter().map(|(digest, at)| (*digest, *at)).collect();
        by_age.sort_by_key(|(_, at)| *at);
        let too_many = by_age.len().saturating_sub(MAX_RETIRED);
        for (place, (digest, at)) in by_age.into_iter().enumerate() {
            let shown_enough = place < too_many || now.duration_since(at) >= self.keep_retired;
            if shown_enough
                && next
                    .get(&digest)
                    .is_none_or(|meters| meters.open().load(Ordering::SeqCst) == 0)
            {
                next.remove(&digest);
                retired.remove(&digest);
            }
        }
        self.revisions.store(Arc::new(next));
    }

    /// Each with whether its revision is active, in a stable order.
    pub fn read(&self) -> Vec<(Arc<RevisionMeters>, bool)> {
        let retired = self.retired.lock();
        let revisions = self.revisions.load();
        let mut all: Vec<_> = revisions
            .iter()
            .map(|(digest, meters)| (Arc::clone(meters), !retired.contains_key(digest)))
            .collect();
        all.sort_by(|(a, _), (b, _)| (&a.plugin, &a.revision).cmp(&(&b.plugin, &b.revision)));
        all
    }
}

impl Entered {
    fn new(meters: Arc<RevisionMeters>) -> Self {
        meters.open().fetch_add(1, Ordering::SeqCst);
        Self(meters)
    }
}

impl Deref for Entered {
    type Target = Arc<RevisionMeters>;

    fn deref(&self) -> &Arc<RevisionMeters> {
        &self.0
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.open().fetch_sub(1, Ordering::SeqCst);
    }
}
