//! The memory of one call: its linear memories and tables, and what the host keeps for it. One
//! limit covers all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;
use wasmtime::ResourceLimiter;

/// Most resources that a call may hold at once: streams, pollables, header lists, requests,
/// transactions. Each costs the host some hundred bytes in addition to its content.
pub(crate) const MAX_HANDLES: usize = 4_096;
/// Size of one table element.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// The memory of one call, shared by everything that takes from it.
#[derive(Clone)]
pub(crate) struct Account(Arc<Balance>);

struct Balance {
    limit: usize,
    /// Bytes of linear memories and tables, which never shrink.
    guest: AtomicUsize,
    /// Bytes of bodies that the host holds for the guest.
    held: AtomicUsize,
    /// Bytes of headers and requests at the last measurement.
    weighed: AtomicUsize,
    peak: AtomicUsize,
    /// Whether the guest was refused memory. It may continue, but most guests give up.
    refused: AtomicBool,
    /// Cancelled when the host holds more than the limit allows: the call ends now.
    exceeded: CancellationToken,
}

impl Account {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Balance {
            limit,
            guest: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            weighed: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
            exceeded: CancellationToken::new(),
        }))
    }

    pub(crate) fn limit(&self) -> usize {
        self.0.limit
    }

    pub(crate) fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Whether the guest was refused memory, or the host held too much for it.
    pub(crate) fn ran_out(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed) || self.is_exceeded()
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.0.exceeded.is_cancelled()
    }

    /// Waits until the host holds more than the limit allows.
    pub(crate) async fn exceeded(&self) {
        self.0.exceeded.cancelled().await;
    }

    fn used(&self) -> usize {
        let Balance {
            guest,
            held,
            weighed,
            ..
        } = &*self.0;
        [guest, held, weighed].into_iter().fold(0, |sum, part| {
            sum.saturating_add(part.load(Ordering::Relaxed))
        })
    }

    /// Grants the guest this many bytes more, or records the refusal.
    fn grow(&self, bytes: usize) -> bool {
        // Only the guest's own thread of execution grows it, so this check cannot race.
        let fits = self.used().saturating_add(bytes) <= self.0.limit;
        if fits {
            self.0.guest.fetch_add(bytes, Ordering::Relaxed);
            self.0.peak.fetch_max(self.used(), Ordering::Relaxed);
        } else {
            self.0.refused.store(true, Ordering::Relaxed);
        }
        fits
    }

    /// Starts at zero bytes; see [`Held::add`].
    pub(crate) fn hold(&self) -> Held {
        Held {
            account: self.clone(),
            bytes: 0,
        }
    }

    /// Replaces the number of bytes that headers and requests take.
    pub(crate) fn weigh(&self, bytes: usize) {
        self.0.weighed.store(bytes, Ordering::Relaxed);
        self.check();
    }

    fn check(&self) {
        let used = self.used();
        if used > self.0.limit {
            self.0.exceeded.cancel();
        } else {
            self.0.peak.fetch_max(used, Ordering::Relaxed);
        }
    }
}

/// What the host holds for a call, until this value is dropped.
pub(crate) struct Held {
    account: Account,
    bytes: usize,
}

impl Held {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.account.0.held.fetch_add(bytes, Ordering::Relaxed);
        self.account.check();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Account {
    /// wasmtime calls this for each memory of a component, so the limit applies to their sum.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // If the memory's own maximum is the reason, it is no refusal by the limit.
        let is_allowed = maximum.is_none_or(|maximum| desired <= maximum);
        Ok(is_allowed && self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let is_allowed = maximum.is_none_or(|maximum| desired <= maximum);
        Ok(is_allowed
            && self.grow(
                desired
                    .saturating_sub(current)
                    .saturating_mul(TABLE_ELEMENT_BYTES),
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_tables_and_what_the_host_holds_have_one_limit() {
        let mut account = Account::new(1_000);
        assert!(account.memory_growing(0, 300, None).expect("never fails"));
        assert!(
            account.memory_growing(0, 300, None).expect("never fails"),
            "another memory"
        );
        assert!(account.table_growing(0, 10, None).expect("never fails"));
        let mut held = account.hold();
        held.add(200);
        assert_eq!(account.used(), 880);
        assert!(!account.ran_out());
        assert!(!account.memory_growing(300, 500, None).expect("never fails"));
        assert!(
            account.ran_out() && !account.is_exceeded(),
            "the guest was refused, and may go on"
        );
        drop(held);
        assert!(account.memory_growing(300, 500, None).expect("never fails"));
        assert_eq!(account.peak(), 880);
    }

    #[test]
    fn a_host_that_holds_too_much_ends_the_call() {
        let account = Account::new(1_000);
        account.weigh(900);
        assert!(!account.is_exceeded());
        let mut held = account.hold();
        held.add(101);
        assert!(account.is_exceeded());
    }

    #[test]
    fn a_memory_that_reaches_its_own_maximum_was_not_refused_by_the_limit() {
        let mut account = Account::new(1_000);
        assert!(
            !account
                .memory_growing(0, 2_000, Some(500))
                .expect("never fails")
        );
        assert!(!account.ran_out());
    }
}
