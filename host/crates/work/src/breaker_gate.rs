//! Holds queues whose jobs only meet an open breaker, so that they do not fail one job after
//! another.
//!
//! A queue is held once a number of its jobs in a row were refused by a breaker. Any other end of a
//! job frees it, so a queue in which other jobs succeed is not held. While it is held, its worker
//! takes nothing; when the breaker would let a call through, it takes one job at a time until the
//! breaker is closed. The state is local: another process has its own breakers.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use patchbay_capability::{Breaker, Refused};
use patchbay_model::QueueName;
use patchbay_queue::{Gate, Pass};
use tokio::sync::watch;

use crate::quarantine::Quarantine;

/// One refusal may concern one kind of job among several; three in a row concern the whole queue.
const REFUSED_IN_A_ROW: u32 = 3;

/// The gates of this process's queues, for breakers and quarantines.
pub(super) struct QueueGates {
    quarantine: Arc<Quarantine>,
    queues: Mutex<HashMap<QueueName, Arc<QueueGate>>>,
}

#[derive(Debug, Default)]
struct QueueGate {
    state: Mutex<State>,
    /// Notified when a trial has ended, or when a job's end was recorded.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    refused_in_a_row: u32,
    breaker: Option<Arc<Breaker>>,
    /// Whether a job is trying if the breaker has closed.
    trying: bool,
}

enum Admission {
    Free,
    Trial,
    /// Wait until this breaker would let a call through.
    Wait(Arc<Breaker>),
    /// Wait until another job's trial has ended, or this breaker is closed.
    WaitForTrial(Arc<Breaker>),
}

impl QueueGates {
    pub(super) fn new(quarantine: Arc<Quarantine>) -> Self {
        Self {
            quarantine,
            queues: Mutex::default(),
        }
    }

    fn of(&self, queue: &QueueName) -> Arc<QueueGate> {
        Arc::clone(self.queues.lock().entry(queue.clone()).or_default())
    }

    /// Records how a job of this queue ended, before its settlement takes the next one.
    pub(super) fn note(&self, queue: &QueueName, refused: Option<&Refused>) {
        self.of(queue).note(refused);
    }

    /// Wraps `inner`, and stays shut while the queue is held.
    pub(super) fn gate(&self, queue: &QueueName, inner: Arc<dyn Gate>) -> Arc<dyn Gate> {
        let brake = QuarantineHold {
            queue: queue.clone(),
            quarantine: Arc::clone(&self.quarantine),
        };
        Arc::new(BreakerGate {
            gate: self.of(queue),
            brake,
            inner,
        })
    }
}

impl QueueGate {
    fn note(&self, refused: Option<&Refused>) {
        let mut state = self.state.lock();
        match refused {
            Some(refused) => {
                state.refused_in_a_row += 1;
                state.breaker = Some(Arc::clone(&refused.breaker));
            }
            None => {
                state.refused_in_a_row = 0;
                state.breaker = None;
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    fn admission(&self) -> Admission {
        let mut state = self.state.lock();
        let held = state.refused_in_a_row >= REFUSED_IN_A_ROW;
        match &state.breaker {
            Some(breaker) if held && !breaker.is_closed() => {
                if state.trying {
                    return Admission::WaitForTrial(Arc::clone(breaker));
                }
                if !breaker.admits() {
                    return Admission::Wait(Arc::clone(breaker));
                }
                state.trying = true;
                Admission::Trial
            }
            _ => Admission::Free,
        }
    }

    fn is_held(&self) -> bool {
        let state = self.state.lock();
        let closed = state
            .breaker
            .as_ref()
            .is_none_or(|breaker| breaker.is_closed());
        state.refused_in_a_row >= REFUSED_IN_A_ROW && !closed
    }

    fn end_trial(&self) {
        self.state.lock().trying = false;
        self.changed.send_replace(());
    }
}

/// Stops the queues of a plugin that crashes too often at once, before their workers are stopped.
#[derive(Debug, Clone)]
struct QuarantineHold {
    queue: QueueName,
    quarantine: Arc<Quarantine>,
}

impl QuarantineHold {
    fn is_on(&self) -> bool {
        self.quarantine.holds(&self.queue)
    }

    async fn off(&self) {
        self.quarantine.until_free(&self.queue).await;
    }
}

#[derive(Debug)]
struct BreakerGate {
    gate: Arc<QueueGate>,
    brake: QuarantineHold,
    inner: Arc<dyn Gate>,
}

impl Gate for BreakerGate {
    fn try_enter(&self) -> Option<Box<dyn Pass>> {
        if self.brake.is_on() {
            return None;
        }
        let trial = match self.gate.admission() {
            Admission::Free => None,
            Admission::Trial => Some(Trial(Arc::clone(&self.gate))),
            Admission::Wait(_) | Admission::WaitForTrial(_) => return None,
        };
        let pass = self.inner.try_enter()?;
        Some(Box::new(BreakerPass {
            pass,
            gate: Arc::clone(&self.gate),
            brake: self.brake.clone(),
            trial,
        }))
    }

    fn enter(&self) -> BoxFuture<'static, Box<dyn Pass>> {
        let (gate, brake, inner) = (
            Arc::clone(&self.gate),
            self.brake.clone(),
            Arc::clone(&self.inner),
        );
        async move {
            let mut changed = gate.changed.subscribe();
            loop {
                brake.off().await;
                changed.borrow_and_update();
                let trial = match gate.admission() {
                    Admission::Wait(breaker) => {
                        tokio::select! { _ = changed.changed() => {}, () = breaker.until(Breaker::admits) => {} }
                        continue;
                    }
                    Admission::WaitForTrial(breaker) => {
                        tokio::select! { _ = changed.changed() => {}, () = breaker.until(Breaker::is_closed) => {} }
                        continue;
                    }
                    Admission::Trial => Some(Trial(Arc::clone(&gate))),
                    Admission::Free => None,
                };
                let pass = inner.enter().await;
                if brake.is_on() || trial.is_none() && gate.is_held() {
                    // The queue was held meanwhile, so give this slot to another queue.
                    continue;
                }
                return Box::new(BreakerPass { pass, gate, brake, trial }) as Box<dyn Pass>;
            }
        }
        .boxed()
    }
}

/// Held for its `Drop`.
struct Trial(Arc<QueueGate>);

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.end_trial();
    }
}

struct BreakerPass {
    pass: Box<dyn Pass>,
    gate: Arc<QueueGate>,
    brake: QuarantineHold,
    trial: Option<Trial>,
}

impl Pass for BreakerPass {
    fn is_wanted(&self) -> bool {
        // One job per trial, and the settlement of a refused job fetches none.
        self.trial.is_some() || self.brake.is_on() || self.gate.is_held() || self.pass.is_wanted()
    }

    fn alone(&self) -> Option<BoxFuture<'_, Box<dyn Send + '_>>> {
        self.pass.alone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use patchbay_capability::Breakers;
    use patchbay_queue::Unlimited;

    use super::*;

    struct World {
        gates: QueueGates,
        queue: QueueName,
        breaker: Arc<Breaker>,
        gate: Arc<dyn Gate>,
    }

    impl World {
        fn new() -> Self {
            let gates = QueueGates::new(Quarantine::over(None, |_| None).0);
            let queue = "emailQueue".parse().expect("a name");
            let gate = gates.gate(&queue, Arc::new(Unlimited));
            let breaker =
                Breakers::default().of(&"email".parse().expect("a name"), "https://a.example:443");
            Self {
                gates,
                queue,
                breaker,
                gate,
            }
        }

        fn refuse(&self, times: u32) {
            for _ in 0..times {
                let refused = Refused {
                    breaker: Arc::clone(&self.breaker),
                    retry_in: Duration::from_secs(1),
                };
                self.gates.note(&self.queue, Some(&refused));
            }
        }
    }

    #[tokio::test]
    async fn a_queue_whose_jobs_are_all_refused_waits_until_the_breaker_closes() {
        let world = World::new();
        world.breaker.hold("ada", "maintenance");
        world.refuse(REFUSED_IN_A_ROW - 1);
        let pass = world.gate.try_enter().expect("not held yet");
        assert!(!pass.is_wanted());
        world.refuse(1);
        assert!(pass.is_wanted(), "its settlement fetches no next job");
        assert!(world.gate.try_enter().is_none());
        let mut entering = world.gate.enter();
        assert!((&mut entering).now_or_never().is_none());
        world.breaker.close("ada", "done");
        assert!(!entering.await.is_wanted());
        assert!(world.gate.try_enter().is_some());
    }

    #[tokio::test]
    async fn a_job_that_ends_otherwise_frees_its_queue_and_no_other_queue_is_held() {
        let world = World::new();
        world.breaker.hold("ada", "maintenance");
        world.refuse(2);
        world.gates.note(&world.queue, None);
        world.refuse(2);
        assert!(world.gate.try_enter().is_some(), "not in a row");
        world.refuse(1);
        assert!(world.gate.try_enter().is_none());
        let other = world
            .gates
            .gate(&"otherQueue".parse().expect("a name"), Arc::new(Unlimited));
        assert!(other.try_enter().is_some());
    }
}
