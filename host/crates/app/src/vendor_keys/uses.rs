//! How much each key is used: counted in memory, and added up in Postgres every few seconds and at
//! the end of the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use patchbay_store::{Store, VendorCalls};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::VendorParts;
use crate::Parts;
use crate::service::Service;

const ADD_UP_EVERY: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Requests since the last time they were added up, by prefix and route. Only requests with a key
/// that is genuine are counted, so strangers cannot make it grow.
#[derive(Default)]
pub(super) struct Uses {
    counts: Mutex<HashMap<(String, String), Count>>,
    /// Since the start of the process, of all keys.
    called: AtomicU64,
    refused: AtomicU64,
    invalid: AtomicU64,
}

#[derive(Default, Clone, Copy)]
struct Count {
    calls: i64,
    refused: i64,
}

impl Uses {
    /// A request, whatever comes of it.
    pub(super) fn called(&self, prefix: &str, route: &str) {
        self.called.fetch_add(1, Ordering::Relaxed);
        self.change(prefix, route, |count| count.calls += 1);
    }

    /// The request that was counted is refused.
    pub(super) fn refused(&self, prefix: &str, route: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.change(prefix, route, |count| count.refused += 1);
    }

    /// A request without a key that is genuine.
    pub(super) fn invalid(&self) {
        self.invalid.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests since the start of the process, by what came of them.
    pub(super) fn results(&self) -> [(&'static str, u64); 3] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let refused = read(&self.refused);
        [
            ("ok", read(&self.called).saturating_sub(refused)),
            ("refused", refused),
            ("invalid", read(&self.invalid)),
        ]
    }

    fn change(&self, prefix: &str, route: &str, change: impl FnOnce(&mut Count)) {
        let mut counts = self.counts.lock();
        change(
            counts
                .entry((prefix.to_owned(), route.to_owned()))
                .or_default(),
        );
    }

    /// What is counted; if it cannot be added up, it stays counted.
    async fn add_up(&self, store: &Store) -> Result<(), patchbay_store::StoreError> {
        let counts = std::mem::take(&mut *self.counts.lock());
        if counts.is_empty() {
            return Ok(());
        }
        let row = |((prefix, route), count): (&(String, String), &Count)| VendorCalls {
            prefix: prefix.clone(),
            route: route.clone(),
            calls: count.calls,
            refused: count.refused,
        };
        let rows: Vec<VendorCalls> = counts.iter().map(row).collect();
        let added = store.add_vendor_calls(&rows).await;
        if added.is_err() {
            for ((prefix, route), count) in counts {
                self.change(&prefix, &route, |kept| {
                    kept.calls += count.calls;
                    kept.refused += count.refused;
                });
            }
        }
        added
    }
}

/// Adds up what is counted. To be listed before HTTP: what its last requests use is counted, too.
pub fn meter(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(Meter(Arc::clone(&parts.vendors)))
}

struct Meter(Arc<VendorParts>);

#[async_trait]
impl Service for Meter {
    fn name(&self) -> &'static str {
        "vendor-keys"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self(vendors) = self;
        let (mut is_failing, mut swept) = (false, None::<Instant>);
        // A round is never cut short: what it has taken to add up would be lost.
        while stop
            .run_until_cancelled(tokio::time::sleep(ADD_UP_EVERY))
            .await
            .is_some()
        {
            let is_to_sweep = swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY);
            let mut ended = vendors.uses.add_up(&vendors.store).await;
            if ended.is_ok() && is_to_sweep {
                ended = vendors.store.sweep_vendor_key_uses().await;
                swept = Some(Instant::now());
            }
            if let (Err(error), false) = (&ended, is_failing) {
                warn!(%error, "the use of vendor keys could not be saved; it is kept in memory, and the next try is in 10 s");
            }
            is_failing = ended.is_err();
        }
        Ok(())
    }

    async fn finish(&self) -> anyhow::Result<()> {
        Ok(self.0.uses.add_up(&self.0.store).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_key_and_route() {
        let uses = Uses::default();
        for _ in 0..3 {
            uses.called("a", "GET /x");
        }
        uses.refused("a", "GET /x");
        uses.called("b", "GET /x");
        uses.invalid();
        assert_eq!(uses.results(), [("ok", 3), ("refused", 1), ("invalid", 1)]);
        let counts = uses.counts.lock();
        let of = |prefix: &str| {
            let count = counts[&(prefix.to_owned(), "GET /x".to_owned())];
            (count.calls, count.refused)
        };
        assert_eq!((of("a"), of("b"), counts.len()), ((3, 1), (1, 0), 2));
    }
}
