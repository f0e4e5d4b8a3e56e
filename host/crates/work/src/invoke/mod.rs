//! The only way into a plugin. [`Invoker::invoke`] combines grants, limits, metering and tracing of
//! every call, and [`Invoked::answer`] turns its end into an answer.
//!
//! Each kind of call only says what is called and for whom: [`job`] for the jobs of a queue,
//! [`operation`] for callers that wait for an answer: operators, and clients of routes; [`webhook`]
//! for requests of vendors.

mod job;
mod operation;
mod webhook;

use std::sync::Arc;
use std::time::{Duration, Instant};

use patchbay_capability::{Call, GuestCall, Refused, Services};
use patchbay_model::Redaction;
use patchbay_model::attempt::OutsideCall;
use patchbay_model::grant::Granted;
use patchbay_model::job::Trace;
use patchbay_model::outcome::OutcomeKind;
use patchbay_queue::JobHandle;
use patchbay_runtime::{
    CallContext, CallReport, JobCall, OperationCall, Revision, Runtime, VerifyCall,
};
use patchbay_telemetry::traces::{Span, SpanKind, Traces};
use serde_json::{Map, Value};

pub use self::operation::{Answer, AnswerBody, CallFailure, Operation, RelayAs};
pub use self::webhook::{Unjudged, Verification};
use crate::grants::Grants;
use crate::meters::{Entered, Meters};
use crate::redactions::Redactions;
use crate::settings::Settings;

pub struct Invoker {
    runtime: Arc<Runtime>,
    services: Arc<Services>,
    settings: Arc<Settings>,
    grants: Arc<Grants>,
    redactions: Arc<Redactions>,
    meters: Arc<Meters>,
    traces: Traces,
}

impl Entry {
    /// A limit of this call, besides the revision's.
    fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Operation(call) => call.deadline,
            Self::Verify(call) => Some(call.deadline),
            Self::Job(_) | Self::SelfTest => None,
        }
    }
}

/// What is called in a plugin, and with what. Any occupancy given here is replaced by that of the
/// revision's meters.
pub enum Entry {
    /// Calls `jobs.run`.
    Job(Box<JobCall>),
    /// Calls `operations.call`.
    Operation(Box<OperationCall>),
    /// Calls `webhooks.verify`, which reaches only secrets, settings and the log.
    Verify(Box<VerifyCall>),
    /// Calls `lifecycle.self-test` before the revision is staged. It has no grants, reaches nothing
    /// outside, and is neither traced nor counted.
    SelfTest,
}

pub struct Invocation {
    pub entry: Entry,
    pub trace: Trace,
    pub job: Option<RunningJob>,
}

pub struct RunningJob {
    /// Receives the guest's log and progress.
    pub handle: JobHandle,
    /// Redaction rules and the job's data, for the host's log.
    pub hidden: (Redaction, String),
}

/// A call that has ended, with whatever outcome. Its span ends when this is dropped.
pub struct Invoked {
    pub report: CallReport,
    /// The breaker that refused its last outside call.
    pub refused: Option<Refused>,
    pub outside_calls: Vec<OutsideCall>,
    /// Needed after the guest's end.
    rest: Rest,
}

/// The parts of a call that outlive its guest.
struct Rest {
    /// Wall-clock limit of the whole call.
    limit: Duration,
    call: Arc<GuestCall>,
    /// Both are held for their `Drop`: the span ends and the revision's numbers may go when
    /// everything is done, including a relayed request.
    _span: Span,
    _meters: Entered,
}

impl Invoker {
    pub fn new(
        runtime: Arc<Runtime>,
        services: Arc<Services>,
        settings: Arc<Settings>,
        grants: Arc<Grants>,
        redactions: Arc<Redactions>,
        meters: Arc<Meters>,
        traces: Traces,
    ) -> Self {
        Self {
            runtime,
            services,
            settings,
            grants,
            redactions,
            meters,
            traces,
        }
    }

    /// Calls this revision and waits until its guest has ended. Never fails and never takes longer
    /// than its deadline. The order of the steps is the same for every kind of call.
    pub async fn invoke(&self, revision: &Arc<Revision>, invocation: Invocation) -> Invoked {
        let Invocation { entry, trace, job } = invocation;
        let is_self_test = matches!(entry, Entry::SelfTest);
        let is_verification = matches!(entry, Entry::Verify(_));
        let traces = if is_self_test {
            Traces::default()
        } else {
            self.traces.clone()
        };
        let limit = revision.limit(entry.deadline());
        let mut span = open_span(&traces, revision, &trace);
        if let Entry::Operation(call) = &entry {
            span.set("patchbay.operation", call.operation.clone());
        }
        if let Entry::Verify(call) = &entry {
            span.set("patchbay.webhook", call.request.name.clone());
        }
        let trace = span.causes(trace);
        let (settings, granted) = if is_self_test {
            <_>::default()
        } else {
            self.snapshot(revision)
        };
        let meters = if is_self_test {
            Meters::unread(revision)
        } else {
            self.meters.enter(revision)
        };
        let (job, hidden) = job
            .map(|RunningJob { handle, hidden }| (handle, hidden))
            .unzip();
        let guest_call = self.services.for_call(Call {
            manifest: Arc::clone(revision.manifest()),
            settings,
            granted,
            job,
            hidden,
            trace,
            // The deadline counts from now.
            deadline: Instant::now() + limit,
            revision: revision.digest(),
            span: tracing::Span::current(),
            meters: Arc::clone(&meters.outside),
            traces,
            is_verification,
        });
        // A self-test reaches nothing outside.
        let context = (!is_self_test).then(|| Arc::clone(&guest_call) as _);
        let report = run(revision, entry, &meters, context).await;
        note_outcome(&mut span, &report);
        meters.count(&report);
        guest_call.finish().await;
        Invoked {
            report,
            refused: guest_call.refused(),
            outside_calls: guest_call.outside_calls(),
            rest: Rest {
                limit,
                call: guest_call,
                _span: span,
                _meters: meters,
            },
        }
    }

    /// Runs the revision's self-test, if it has one. An error says why it failed.
    pub async fn self_test(&self, revision: &Arc<Revision>) -> Result<(), String> {
        if !revision.has_self_test() {
            return Ok(());
        }
        let invocation = Invocation {
            entry: Entry::SelfTest,
            trace: Trace::default(),
            job: None,
        };
        let invoked = self.invoke(revision, invocation).await;
        invoked.report.outcome.reason().map_or(Ok(()), Err)
    }

    /// Taken once per call: a change by an operator applies from the next call.
    fn snapshot(&self, revision: &Revision) -> (Arc<Map<String, Value>>, Granted) {
        (
            self.settings.of(revision.plugin()),
            self.grants.of(revision.plugin()),
        )
    }
}

fn open_span(traces: &Traces, revision: &Revision, trace: &Trace) -> Span {
    let plugin = revision.plugin();
    let mut span = traces.span(SpanKind::Guest, || format!("call {plugin}"), trace);
    span.set("patchbay.plugin", plugin.to_string());
    span.set("patchbay.revision", revision.digest().short());
    span.set("patchbay.version", revision.manifest().version.to_string());
    span
}

async fn run(
    revision: &Revision,
    entry: Entry,
    meters: &Entered,
    context: Option<Arc<dyn CallContext>>,
) -> CallReport {
    match entry {
        Entry::Job(mut call) => {
            call.occupancy = meters.occupancy();
            revision.run_job(*call, context).await
        }
        Entry::Operation(mut call) => {
            call.occupancy = meters.occupancy();
            revision.operate(*call, context).await
        }
        Entry::Verify(mut call) => {
            call.occupancy = meters.occupancy();
            revision.verify(*call, context).await
        }
        Entry::SelfTest => revision.self_test(context).await,
    }
}

fn note_outcome(span: &mut Span, report: &CallReport) {
    let outcome = report.outcome.kind();
    span.set("patchbay.outcome", outcome.as_str());
    span.set("patchbay.cpu_ms", report.cpu.as_secs_f64() * 1e3);
    span.set(
        "patchbay.peak_memory_bytes",
        i64::try_from(report.peak_memory_bytes).unwrap_or(i64::MAX),
    );
    if outcome != OutcomeKind::Completed {
        span.failed(outcome.as_str());
    }
}
