//! One call of one plugin: its rights, its settings, its limits, and what it has done so far.

mod gate;
mod outside_calls;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::attempt::OutsideCall;
use patchbay_model::breaker::BreakerSpec;
use patchbay_model::grant::Granted;
use patchbay_model::job::Trace;
use patchbay_model::manifest::Manifest;
use patchbay_model::redaction::Mask;
use patchbay_model::sql::SqlTransaction;
use patchbay_model::{Redaction, RevisionDigest};
use patchbay_queue::JobHandle;
use patchbay_telemetry::traces::Traces;
use serde_json::{Map, Value};
use tracing::Span;

pub(crate) use self::gate::{Denied, Gate, Measured, redis_error};
use self::outside_calls::OutsideCalls;
use crate::breaker::Admission;
use crate::job_output::JobOutput;
use crate::{Breaker, OutsideMeters, Refused, Services};

pub struct Call {
    pub manifest: Arc<Manifest>,
    pub revision: RevisionDigest,
    /// One snapshot for the whole call.
    pub settings: Arc<Map<String, Value>>,
    pub granted: Granted,
    /// Writes the log and progress of the job, when the call runs one.
    pub job: Option<JobHandle>,
    /// The job's redaction and data: the host's log must show nothing of what is hidden.
    pub hidden: Option<(Redaction, String)>,
    /// The trace of the job's request; its position is the span of the guest's call.
    pub trace: Trace,
    /// When the call ends at the latest.
    pub deadline: Instant,
    /// Parent of log lines and outside calls.
    pub span: Span,
    pub meters: Arc<OutsideMeters>,
    /// Host calls become spans under `trace`.
    pub traces: Traces,
    /// It judges a request of a vendor: only secrets, settings and the log answer it.
    pub is_verification: bool,
}

/// What one guest may do outside, and what it has done.
pub struct GuestCall {
    /// Reached through [`Gate`] only.
    services: Arc<Services>,
    pub(crate) call: Call,
    pub(crate) output: Option<JobOutput>,
    /// Created with the first line that is logged.
    mask: OnceLock<Mask>,
    pub(crate) secret_tries: AtomicU32,
    /// A secret that it asked for has no value, or is not granted.
    pub(crate) lacks_secret: AtomicBool,
    pub(crate) transaction: Mutex<Option<Weak<dyn SqlTransaction>>>,
    /// What the breaker answered to the last outside call.
    last: Mutex<Option<BreakerAnswer>>,
    pub(crate) outside: OutsideCalls,
    spans: AtomicU32,
}

#[derive(Clone)]
pub(crate) enum BreakerAnswer {
    Refused(Refused),
    /// The call was let through to test whether the host is back.
    Probe(Arc<Breaker>),
}

impl Services {
    pub fn for_call(self: &Arc<Self>, call: Call) -> Arc<GuestCall> {
        let output = call
            .job
            .clone()
            .map(|job| JobOutput::new(job, self.host.clone()));
        Arc::new(GuestCall {
            services: Arc::clone(self),
            call,
            output,
            mask: OnceLock::new(),
            secret_tries: AtomicU32::new(0),
            lacks_secret: AtomicBool::new(false),
            transaction: Mutex::default(),
            last: Mutex::default(),
            outside: OutsideCalls::new(),
            spans: AtomicU32::new(0),
        })
    }
}

impl GuestCall {
    /// Writes out what the guest logged. Call it between the guest's end and the settlement.
    pub async fn finish(&self) {
        if let Some(output) = &self.output {
            output.finish().await;
        }
    }

    pub(crate) fn mask(&self) -> &Mask {
        self.mask.get_or_init(|| {
            self.call
                .hidden
                .as_ref()
                .map(|(redaction, data)| redaction.data(data).1)
                .unwrap_or_default()
        })
    }

    /// Whether a secret that it asked for could not answer.
    pub fn lacks_secret(&self) -> bool {
        self.lacks_secret.load(Ordering::Relaxed)
    }

    /// Its outside calls so far. Each is returned once.
    pub fn outside_calls(&self) -> Vec<OutsideCall> {
        self.outside.take()
    }

    /// The breaker that refused the guest's last outside call, or whose probe that call was and
    /// failed. If the guest failed, this breaker is the reason.
    pub fn refused(&self) -> Option<Refused> {
        match self.asked()? {
            BreakerAnswer::Refused(refused) => Some(refused),
            BreakerAnswer::Probe(breaker) => breaker.refusal(),
        }
    }

    /// Asks the breaker of an outside host; the error is for how long it refuses.
    pub(crate) fn admit(
        &self,
        host: &str,
        spec: Option<BreakerSpec>,
    ) -> Result<Admission, Duration> {
        let breaker = self.services.breakers.of(&self.call.manifest.name, host);
        let admitted = breaker.admit(spec.unwrap_or_default().limits(), self.call.deadline);
        self.set_asked(match &admitted {
            Err(refused) => Some(BreakerAnswer::Refused(refused.clone())),
            Ok(admission) => admission
                .is_probe()
                .then_some(BreakerAnswer::Probe(breaker)),
        });
        admitted.map_err(|refused| refused.retry_in)
    }

    pub(crate) fn asked(&self) -> Option<BreakerAnswer> {
        self.last.lock().clone()
    }

    pub(crate) fn set_asked(&self, asked: Option<BreakerAnswer>) {
        *self.last.lock() = asked;
    }

    fn is_in_transaction(&self) -> bool {
        let transaction = self.transaction.lock();
        transaction
            .as_ref()
            .and_then(Weak::upgrade)
            .is_some_and(|transaction| transaction.is_open())
    }
}
