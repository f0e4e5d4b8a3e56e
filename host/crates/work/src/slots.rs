//! The host-wide limit on jobs at once, shared by all queues.
//!
//! Each queue may have reserved slots; the others are shared, and given in the order of requests. A
//! queue waits in that line only once, however many jobs it has, so none starves: a worker that
//! holds a shared slot while another queue waits gives it up after its job. Reserved slots are
//! taken from the shared ones; a reservation made while they are in use is filled as they become
//! free. A job that must run alone closes all slots meanwhile. This module knows nothing of the
//! jobs themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use patchbay_model::QueueName;
use patchbay_queue::{Gate, Pass};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tracing::warn;

#[derive(Debug)]
pub(super) struct Slots {
    shared: Arc<Semaphore>,
    /// Number of queues that wait for a shared slot.
    waiting: AtomicUsize,
    ledger: Mutex<Ledger>,
    /// Length of the ledger's `owed`, so that a freed slot can check it without the lock.
    owed: AtomicUsize,
    /// Slots in use, including reserved ones.
    used: AtomicUsize,
    /// Whether a job runs alone, or waits until the others have ended.
    closed: AtomicBool,
    /// Notified when only one slot is still in use, or when the slots are open again.
    changed: Notify,
}

#[derive(Debug)]
struct Ledger {
    /// Slots that may still be reserved. One always stays shared, so that queues without a
    /// reservation continue.
    reservable: usize,
    /// One entry per reserved slot that is still shared.
    owed: Vec<Arc<Semaphore>>,
}

/// One queue's access to its own slots and the shared ones.
#[derive(Debug)]
struct QueueSlots {
    slots: Arc<Slots>,
    own: Arc<Semaphore>,
    reserved: usize,
    waiting: AtomicUsize,
}

#[derive(Debug, Clone)]
struct QueueGate(Arc<QueueSlots>);

impl Slots {
    pub(super) fn new(max_jobs: usize) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Semaphore::new(max_jobs)),
            waiting: AtomicUsize::new(0),
            ledger: Mutex::new(Ledger {
                reservable: max_jobs.saturating_sub(1),
                owed: Vec::new(),
            }),
            owed: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// The gate of one queue's worker; its reservation ends with it. Reservations beyond the limit
    /// are cut with a warning, because manifests of different plugins cannot know of each other.
    pub(super) fn of_queue(self: &Arc<Self>, queue: &QueueName, wanted: usize) -> Arc<dyn Gate> {
        let own = Arc::new(Semaphore::new(0));
        let mut ledger = self.ledger.lock();
        let reserved = wanted.min(ledger.reservable);
        if reserved < wanted {
            warn!(%queue, wanted, reserved, "The limit of running jobs on this host is too low for all reservations together");
        }
        ledger.reservable -= reserved;
        let free = self.shared.forget_permits(reserved);
        own.add_permits(free);
        ledger
            .owed
            .extend((free..reserved).map(|_| Arc::clone(&own)));
        self.owed.store(ledger.owed.len(), Ordering::Release);
        drop(ledger);
        let slots = Arc::clone(self);
        Arc::new(QueueGate(Arc::new(QueueSlots {
            slots,
            own,
            reserved,
            waiting: AtomicUsize::new(0),
        })))
    }

    /// Counts a slot as used, unless the slots are closed. This order (and sequential consistency)
    /// matters: a job that closes the slots sees every slot that was taken before, and waits for
    /// it.
    fn use_place(&self) -> bool {
        self.used.fetch_add(1, Ordering::SeqCst);
        let open = !self.closed.load(Ordering::SeqCst);
        if !open {
            self.free_place();
        }
        open
    }

    fn free_place(&self) {
        if self.used.fetch_sub(1, Ordering::SeqCst) == 2 && self.closed.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    fn give_back(&self, permit: OwnedSemaphorePermit) {
        if self.owed.load(Ordering::Acquire) > 0 {
            let mut ledger = self.ledger.lock();
            if let Some(own) = ledger.owed.pop() {
                self.owed.store(ledger.owed.len(), Ordering::Release);
                permit.forget();
                own.add_permits(1);
            }
        }
    }
}

impl Drop for QueueSlots {
    /// Every pass holds this value, so all slots are back by now.
    fn drop(&mut self) {
        let mut ledger = self.slots.ledger.lock();
        let before = ledger.owed.len();
        ledger.owed.retain(|own| !Arc::ptr_eq(own, &self.own));
        let never_given = before - ledger.owed.len();
        self.slots.owed.store(ledger.owed.len(), Ordering::Release);
        ledger.reservable += self.reserved;
        self.slots.shared.add_permits(self.reserved - never_given);
    }
}

impl Gate for QueueGate {
    fn try_enter(&self) -> Option<Box<dyn Pass>> {
        if self.0.slots.closed.load(Ordering::Relaxed) {
            return None;
        }
        let own = Arc::clone(&self.0.own)
            .try_acquire_owned()
            .ok()
            .map(Permit::Own);
        let place = own.or_else(|| {
            Arc::clone(&self.0.slots.shared)
                .try_acquire_owned()
                .ok()
                .map(Permit::shared)
        })?;
        QueuePass::new(place, &self.0).map(|pass| Box::new(pass) as Box<dyn Pass>)
    }

    fn enter(&self) -> BoxFuture<'static, Box<dyn Pass>> {
        // Joins the line now, not when the future is first polled.
        let line = InLine::join(&self.0);
        async move {
            let queue = Arc::clone(&line.0);
            loop {
                queue.slots.until(|| !queue.slots.closed.load(Ordering::SeqCst)).await;
                // Neither semaphore is ever closed.
                let place = tokio::select! {
                    biased;
                    Ok(permit) = Arc::clone(&queue.own).acquire_owned() => Permit::Own(permit),
                    Ok(permit) = Arc::clone(&queue.slots.shared).acquire_owned() => Permit::shared(permit),
                    else => std::future::pending().await,
                };
                if let Some(pass) = QueuePass::new(place, &queue) {
                    drop(line);
                    return Box::new(pass) as Box<dyn Pass>;
                }
            }
        }
        .boxed()
    }
}

/// A queue in the line for a shared slot.
struct InLine(Arc<QueueSlots>);

impl InLine {
    fn join(queue: &Arc<QueueSlots>) -> Self {
        queue.waiting.fetch_add(1, Ordering::Relaxed);
        queue.slots.waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(queue))
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.slots.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Permit {
    /// Held for its `Drop`.
    Own(#[allow(dead_code)] OwnedSemaphorePermit),
    /// `None` only while it is dropped.
    Shared(Option<OwnedSemaphorePermit>),
}

impl Permit {
    fn shared(permit: OwnedSemaphorePermit) -> Self {
        Self::Shared(Some(permit))
    }

    fn leave(&mut self, slots: &Slots) {
        if let Self::Shared(permit) = self
            && let Some(permit) = permit.take()
        {
            slots.give_back(permit);
        }
    }
}

struct QueuePass {
    place: Permit,
    queue: Arc<QueueSlots>,
}

impl QueuePass {
    /// `None` while the slots are closed; the slot is then free again.
    fn new(mut place: Permit, queue: &Arc<QueueSlots>) -> Option<Self> {
        if !queue.slots.use_place() {
            place.leave(&queue.slots);
            return None;
        }
        Some(Self {
            place,
            queue: Arc::clone(queue),
        })
    }
}

/// Opens the slots again when dropped.
struct Alone<'a>(&'a Slots);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.closed.store(false, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Pass for QueuePass {
    fn alone(&self) -> Option<BoxFuture<'_, Box<dyn Send + '_>>> {
        let slots = &*self.queue.slots;
        if slots.closed.swap(true, Ordering::SeqCst) {
            return None;
        }
        let alone = Alone(slots);
        Some(
            async move {
                slots.until(|| slots.used.load(Ordering::SeqCst) == 1).await;
                Box::new(alone) as Box<dyn Send + '_>
            }
            .boxed(),
        )
    }

    fn is_wanted(&self) -> bool {
        if self.queue.slots.closed.load(Ordering::Relaxed) {
            return true;
        }
        let all = self.queue.slots.waiting.load(Ordering::Relaxed);
        matches!(self.place, Permit::Shared(_)) && all > self.queue.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for QueuePass {
    fn drop(&mut self) {
        self.place.leave(&self.queue.slots);
        self.queue.slots.free_place();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(slots: &Arc<Slots>, name: &str, reserved: usize) -> Arc<dyn Gate> {
        slots.of_queue(&name.parse().expect("a name"), reserved)
    }

    fn taken(gate: &Arc<dyn Gate>) -> Vec<Box<dyn Pass>> {
        std::iter::from_fn(|| gate.try_enter()).collect()
    }

    #[test]
    fn reserved_places_are_nobody_elses_and_the_rest_is_everybodys() {
        let slots = Slots::new(5);
        let (a, b) = (queue(&slots, "a", 2), queue(&slots, "b", 0));
        let of_b = taken(&b);
        assert_eq!(of_b.len(), 3);
        assert_eq!(taken(&a).len(), 2);
        drop(of_b);
        assert_eq!(taken(&a).len(), 5);
    }

    #[test]
    fn a_reservation_made_while_all_are_in_use_is_filled_as_they_come_free_and_ends_with_its_queue()
    {
        let slots = Slots::new(2);
        let b = queue(&slots, "b", 0);
        let of_b = taken(&b);
        assert_eq!(of_b.len(), 2);
        let a = queue(&slots, "a", 1);
        assert_eq!(taken(&a).len(), 0);
        drop(of_b);
        assert_eq!(taken(&b).len(), 1);
        drop(a);
        assert_eq!(taken(&b).len(), 2);
    }

    #[test]
    fn reservations_leave_one_place_to_all() {
        let slots = Slots::new(3);
        let (a, b) = (queue(&slots, "a", 9), queue(&slots, "b", 1));
        assert_eq!(taken(&b).len(), 1);
        assert_eq!(taken(&a).len(), 3);
    }

    #[tokio::test]
    async fn a_queue_that_waits_is_next_and_another_queue_is_told_so() {
        let slots = Slots::new(1);
        let (a, b) = (queue(&slots, "a", 0), queue(&slots, "b", 0));
        let first = a.try_enter().expect("a place");
        let mut more = a.enter();
        assert!((&mut more).now_or_never().is_none());
        assert!(!first.is_wanted(), "a queue does not give way to itself");
        let mut other = b.enter();
        assert!((&mut other).now_or_never().is_none());
        assert!(first.is_wanted());
        drop(first);
        let second = more.now_or_never().expect("first in line");
        assert!(second.is_wanted());
        drop(second);
        assert!(
            a.try_enter().is_none(),
            "it is in the hands of the one in line"
        );
        assert!(!other.now_or_never().expect("its turn").is_wanted());
    }

    #[tokio::test]
    async fn a_job_that_must_run_alone_waits_for_the_others_and_keeps_new_ones_out() {
        let slots = Slots::new(3);
        let (a, b) = (queue(&slots, "a", 1), queue(&slots, "b", 0));
        let (suspect, other) = (
            a.try_enter().expect("a place"),
            b.try_enter().expect("a place"),
        );
        let mut alone = suspect.alone().expect("nobody else is");
        assert!(other.alone().is_none(), "one at a time");
        assert!((&mut alone).now_or_never().is_none(), "the other one runs");
        assert!(
            other.is_wanted() && b.try_enter().is_none(),
            "and fetches nothing more"
        );
        let mut later = b.enter();
        assert!((&mut later).now_or_never().is_none());
        drop(other);
        let alone = alone.now_or_never().expect("alone now");
        assert!((&mut later).now_or_never().is_none());
        drop(alone);
        assert!(later.now_or_never().is_some());
        assert_eq!(taken(&a).len(), 2, "no place was lost");
    }

    #[tokio::test]
    async fn who_leaves_the_line_holds_nobody_up() {
        let slots = Slots::new(1);
        let (a, b) = (queue(&slots, "a", 0), queue(&slots, "b", 0));
        let first = a.try_enter().expect("a place");
        let mut gone = b.enter();
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        assert!(!first.is_wanted());
        drop(first);
        assert!(a.try_enter().is_some());
    }
}
