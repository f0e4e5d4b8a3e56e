//! Breakers: one per plugin and outside host, in the memory of this process. A host that keeps
//! failing is not called for a while, and its callers are told at once, so that neither side waits
//! for the other.
//!
//! Keyed by plugin, not by revision: replacing a plugin does not repair the outside host.

mod machine;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::PluginName;
use patchbay_model::breaker::BreakerLimits;
use tokio::sync::watch;
use tracing::{info, warn};

pub(crate) use self::machine::Report;
use self::machine::{Machine, Next, Phase, TrialPermit};

#[derive(Debug, Default)]
pub struct Breakers(Mutex<HashMap<(PluginName, String), Arc<Breaker>>>);

#[derive(Debug)]
pub struct Breaker {
    plugin: PluginName,
    /// `scheme://host:port`.
    host: String,
    inner: Mutex<Inner>,
    /// Notified of each change of phase.
    changed: watch::Sender<()>,
    opened: AtomicU64,
    deferred: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    /// From the manifest of the last call.
    limits: BreakerLimits,
    last_failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerView {
    pub state: BreakerState,
    /// Time in this state.
    pub age: Duration,
    /// Time since it was last closed; `None` while it is closed.
    pub open_for: Option<Duration>,
    /// How many failures opened it; `None` while it is closed, and if an operator opened it.
    pub opened_after: Option<u32>,
    /// Failures that count towards opening now.
    pub failures: u32,
    pub limits: BreakerLimits,
    pub last_failure: Option<String>,
    /// How often it has opened so far: by failures, by a probe that failed, by an operator.
    pub opened: u64,
    /// Jobs that were deferred because of it so far; each time counts.
    pub deferred: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    /// Calls are refused for this much longer.
    Open(Duration),
    /// One call goes through, and its result decides.
    HalfOpen,
    /// An operator has opened it, and must close it.
    Held {
        by: String,
        reason: String,
    },
}

#[derive(Debug, Clone)]
pub struct Refused {
    pub breaker: Arc<Breaker>,
    /// Until then, another call is pointless.
    pub retry_in: Duration,
}

impl Breakers {
    /// The breaker; made at its first use.
    pub fn of(&self, plugin: &PluginName, host: &str) -> Arc<Breaker> {
        let key = (plugin.clone(), host.to_owned());
        Arc::clone(
            self.0
                .lock()
                .entry(key)
                .or_insert_with(|| Arc::new(Breaker::new(plugin.clone(), host.to_owned()))),
        )
    }

    /// Absent if the breaker was never used.
    pub fn view(&self, plugin: &PluginName, host: &str) -> Option<BreakerView> {
        let breaker = self
            .0
            .lock()
            .get(&(plugin.clone(), host.to_owned()))
            .cloned();
        breaker.map(|breaker| breaker.view())
    }
}

impl Breaker {
    fn new(plugin: PluginName, host: String) -> Self {
        let inner = Inner {
            machine: Machine::new(Instant::now()),
            limits: BreakerLimits::default(),
            last_failure: None,
        };
        Self {
            plugin,
            host,
            inner: Mutex::new(inner),
            changed: watch::Sender::new(()),
            opened: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
        }
    }

    /// `scheme://host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Lets a call through. An admission that is dropped without a report counts as failed if that
    /// happens at `deadline` or later: then the outside host has used up the guest's time.
    pub(crate) fn admit(
        self: &Arc<Self>,
        limits: BreakerLimits,
        deadline: Instant,
    ) -> Result<Admission, Refused> {
        let (admitted, changed) = {
            let mut inner = self.inner.lock();
            inner.limits = limits;
            let before = std::mem::discriminant(&inner.machine.phase);
            let admitted = inner.machine.admit(&limits, Instant::now());
            (
                admitted,
                before != std::mem::discriminant(&inner.machine.phase),
            )
        };
        if changed {
            info!(plugin = %self.plugin, host = self.host, "Breaker half-open: one call may try the host");
            self.changed.send_replace(());
        }
        match admitted {
            Ok(ticket) => Ok(Admission {
                breaker: Arc::clone(self),
                ticket: Some(ticket),
                deadline,
            }),
            Err(retry_in) => Err(Refused {
                breaker: Arc::clone(self),
                retry_in,
            }),
        }
    }

    fn report(&self, ticket: TrialPermit, report: Report, failure: Option<String>) {
        let mut inner = self.inner.lock();
        let limits = inner.limits;
        if let Some(failure) = failure {
            inner.last_failure = Some(failure);
        }
        if !inner
            .machine
            .report(&limits, ticket, report, Instant::now())
        {
            return;
        }
        match &inner.machine.phase {
            Phase::Open { .. } => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                let (failure, open_ms) = (
                    inner.last_failure.as_deref(),
                    limits.open.as_millis() as u64,
                );
                warn!(plugin = %self.plugin, host = self.host, open_ms, failure, "Breaker open: calls to the host are refused");
            }
            Phase::Closed => {
                info!(plugin = %self.plugin, host = self.host, "Breaker closed: the host answers again")
            }
            Phase::HalfOpen { .. } | Phase::Held { .. } => {}
        }
        drop(inner);
        self.changed.send_replace(());
    }

    pub fn count_deferred(&self) {
        self.deferred.fetch_add(1, Ordering::Relaxed);
    }

    /// Refuses all calls until [`Breaker::close`].
    pub fn hold(&self, by: &str, reason: &str) {
        self.inner.lock().machine.hold(by, reason, Instant::now());
        self.opened.fetch_add(1, Ordering::Relaxed);
        warn!(plugin = %self.plugin, host = self.host, by, reason, "An operator opened the breaker");
        self.changed.send_replace(());
    }

    /// Lets calls through again, from any state.
    pub fn close(&self, by: &str, reason: &str) {
        self.inner.lock().machine.close(Instant::now());
        info!(plugin = %self.plugin, host = self.host, by, reason, "An operator closed the breaker");
        self.changed.send_replace(());
    }

    pub fn view(&self) -> BreakerView {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let limits = inner.limits;
        let opening = inner.machine.opening;
        let state = match &inner.machine.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } if now < *until => BreakerState::Open(*until - now),
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
            Phase::Held { by, reason } => BreakerState::Held {
                by: by.clone(),
                reason: reason.clone(),
            },
        };
        BreakerView {
            state,
            age: now.saturating_duration_since(inner.machine.since),
            open_for: opening.map(|opening| now.saturating_duration_since(opening.at)),
            opened_after: opening
                .map(|opening| opening.failures)
                .filter(|failures| *failures > 0),
            failures: inner.machine.recent_failures(&limits, now),
            limits,
            last_failure: inner.last_failure.clone(),
            opened: self.opened.load(Ordering::Relaxed),
            deferred: self.deferred.load(Ordering::Relaxed),
        }
    }

    /// What a call would be told now, without making one; nothing while closed.
    pub fn refusal(self: &Arc<Self>) -> Option<Refused> {
        let retry_in = {
            let inner = self.inner.lock();
            inner.machine.refuses_for(&inner.limits, Instant::now())?
        };
        Some(Refused {
            breaker: Arc::clone(self),
            retry_in,
        })
    }

    /// Who opened it by hand, and why.
    pub fn opened_by(&self) -> Option<(String, String)> {
        match &self.inner.lock().machine.phase {
            Phase::Held { by, reason } => Some((by.clone(), reason.clone())),
            _ => None,
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.inner.lock().machine.phase, Phase::Closed)
    }

    /// Whether a call would be let through now.
    pub fn admits(&self) -> bool {
        self.inner.lock().machine.next(Instant::now()) == Next::Now
    }

    /// Waits until `reached` holds. Checks it at each change of phase, and when a probe is due.
    pub async fn until(&self, reached: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let next = self.inner.lock().machine.next(Instant::now());
            if reached(self) {
                return;
            }
            // `self` owns the sender, so it lives long enough.
            match next {
                Next::At(at) => tokio::select! {
                    _ = changed.changed() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                },
                Next::Now | Next::Later => drop(changed.changed().await),
            }
        }
    }
}

/// Permission for one call.
#[derive(Debug)]
pub(crate) struct Admission {
    breaker: Arc<Breaker>,
    /// Absent once reported.
    ticket: Option<TrialPermit>,
    deadline: Instant,
}

impl Admission {
    pub(crate) fn is_probe(&self) -> bool {
        self.ticket.is_some_and(|ticket| ticket.probe)
    }

    /// Reports how the call went; `failure` is for operators.
    pub(crate) fn report(mut self, report: Report, failure: Option<String>) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.report(ticket, report, failure);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        if Instant::now() >= self.deadline {
            let failure = "no answer within the deadline of the plugin's call".to_owned();
            self.breaker.report(ticket, Report::Failed, Some(failure));
        } else {
            self.breaker.report(ticket, Report::Unknown, None);
        }
    }
}
