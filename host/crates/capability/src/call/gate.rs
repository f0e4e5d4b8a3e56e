//! The only way from a guest to the services. It checks and counts grants, refuses calls within
//! transactions, measures and traces.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use patchbay_model::TraceParent;
use patchbay_model::capability::{CapabilityError, HttpError};
use patchbay_model::grant::Ask;
use patchbay_model::sql::SqlError;
use patchbay_queue::QueueError;
use patchbay_telemetry::traces::{Span, SpanKind, Traces};
use tracing::warn;

use super::{Call, GuestCall};
use crate::{HostCall, Services};

/// Most spans for the host calls of one call: a guest with thousands must not fill the storage.
const MAX_SPANS: u32 = 128;

/// Permission to use the services, for one host call.
pub(crate) struct Gate {
    guest: Arc<GuestCall>,
    place: Option<TraceParent>,
}

impl Gate {
    pub(crate) fn guest(&self) -> &GuestCall {
        &self.guest
    }

    pub(crate) fn call(&self) -> &Call {
        &self.guest.call
    }

    pub(crate) fn services(&self) -> &Services {
        &self.guest.services
    }

    /// The host call's position in its trace; absent when tracing is off.
    pub(crate) fn place(&self) -> Option<TraceParent> {
        self.place
    }

    /// Checks the grant, and counts its use.
    pub(crate) fn granted(&self, ask: Ask) -> Result<(), Denied> {
        if !self.call().granted.contains(&ask) {
            return Err(Denied(format!(
                "an operator has not granted {ask:?}",
                ask = ask.as_str()
            )));
        }
        self.services().uses.count(&self.call().manifest.name, ask);
        Ok(())
    }

    /// Refuses the host call in an open transaction, which could not undo it and would wait for it.
    pub(crate) fn not_in_transaction(&self) -> Result<(), Denied> {
        if self.guest.is_in_transaction() {
            Err(Denied(
                "this call is not allowed while a transaction is open".into(),
            ))
        } else {
            Ok(())
        }
    }
}

impl GuestCall {
    /// For host calls that are answered from memory.
    pub(crate) fn unmeasured(self: &Arc<Self>) -> Gate {
        Gate {
            guest: Arc::clone(self),
            place: None,
        }
    }

    /// Runs a host call that fails as a whole or not at all.
    pub(crate) async fn through<T, E, F>(
        self: Arc<Self>,
        kind: HostCall,
        act: impl FnOnce(Gate) -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut measured = Measured::start(self, kind);
        let answer = act(measured.gate()).await;
        measured.ended(if answer.is_ok() { None } else { Some("error") });
        answer
    }
}

/// A host call with its clock and span. Dropping it counts the call: at its end, or with the guest.
pub(crate) struct Measured {
    guest: Arc<GuestCall>,
    kind: HostCall,
    started: Instant,
    pub(crate) span: Span,
    /// While false, a drop means that the guest's end has cut the call short.
    has_ended: bool,
}

impl Measured {
    pub(crate) fn start(guest: Arc<GuestCall>, kind: HostCall) -> Self {
        let span = open_span(&guest, kind);
        Self {
            guest,
            kind,
            started: Instant::now(),
            span,
            has_ended: false,
        }
    }

    pub(crate) fn gate(&self) -> Gate {
        Gate {
            guest: Arc::clone(&self.guest),
            place: self.span.place(),
        }
    }

    /// `failed` is a word of a closed list; absent when the call went well.
    pub(crate) fn ended(&mut self, failed: Option<&'static str>) {
        self.has_ended = true;
        if let Some(why) = failed {
            self.span.failed(why);
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.guest
            .call
            .meters
            .count_host_call(self.kind, self.started.elapsed());
        if !self.has_ended {
            self.span.failed("abandoned");
        }
    }
}

fn open_span(guest: &GuestCall, kind: HostCall) -> Span {
    let Call { traces, trace, .. } = &guest.call;
    if guest.spans.fetch_add(1, Ordering::Relaxed) >= MAX_SPANS {
        return Traces::default().span(SpanKind::Outside, String::new, trace);
    }
    let what = if kind == HostCall::Enqueue {
        SpanKind::Enqueue
    } else {
        SpanKind::Outside
    };
    traces.span(what, || kind.as_str().to_owned(), trace)
}

/// Why a guest is refused, in words for the guest.
pub(crate) struct Denied(pub(crate) String);

impl Denied {
    /// For calls without services, such as self-tests.
    pub(crate) fn nothing_outside() -> Self {
        Self("this call has no access to outside capabilities".into())
    }

    /// For calls that judge a request of a vendor.
    pub(crate) fn verification() -> Self {
        Self("verify reaches only secrets, settings and the log".into())
    }
}

impl From<Denied> for CapabilityError {
    fn from(Denied(reason): Denied) -> Self {
        Self::denied(reason)
    }
}

impl From<Denied> for HttpError {
    fn from(Denied(reason): Denied) -> Self {
        Self::Denied(reason)
    }
}

impl From<Denied> for SqlError {
    fn from(Denied(reason): Denied) -> Self {
        Self::denied(reason)
    }
}

pub(crate) fn redis_error(error: QueueError) -> CapabilityError {
    match error {
        QueueError::Invalid(message) => CapabilityError::invalid(message),
        QueueError::MemoryFull(message) => CapabilityError::unavailable(message),
        other => {
            warn!(error = %other, cause = ?std::error::Error::source(&other), "The call of a capability failed");
            match other {
                QueueError::CannotServe { trouble, .. } => {
                    CapabilityError::unavailable(trouble.to_string())
                }
                QueueError::Damaged { .. } => {
                    CapabilityError::unavailable("the data in Redis is damaged")
                }
                _ => CapabilityError::unavailable("Redis does not answer"),
            }
        }
    }
}
