//! The span of adding a job, and the trace that goes with the job.

use patchbay_model::QueueName;
use patchbay_model::job::Trace;
use patchbay_queue::QueueError;
use patchbay_telemetry::traces::{Span, SpanKind, Traces};

pub(crate) fn begin(traces: &Traces, queue: &QueueName, trace: Trace) -> (Span, Trace) {
    let mut step = traces.span(SpanKind::Enqueue, || format!("enqueue {queue}"), &trace);
    step.set("messaging.system", "bullmq");
    step.set("messaging.destination.name", queue.to_string());
    let trace = step.causes(trace);
    (step, trace)
}

/// Ends the span with the outcome of adding.
pub(crate) fn end<T>(mut step: Span, added: Result<T, QueueError>) -> Result<T, QueueError> {
    if added.is_err() {
        step.failed("not-added");
    }
    added
}
