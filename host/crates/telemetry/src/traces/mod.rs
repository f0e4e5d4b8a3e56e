//! Traces: one span per hand-off (request, enqueue, attempt, guest call, capability call), for the
//! operator's collector.
//!
//! Owns what a span may contain, because spans are opened and named only here. No name or attribute
//! comes from a log line, and none may be a path, a query, a header, a body, a job's name or data,
//! or a guest's words. Context travels in [`Trace`], so that it crosses queues as it crosses calls.
//! Without `telemetry.otlp_endpoint` no span is made and nothing costs time. Never blocks: what the
//! exporter cannot accept is dropped and counted.

mod export;

use std::borrow::Cow;
use std::sync::Arc;

use anyhow::Context as _;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind as OtelKind, Status, TraceContextExt,
    TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Sampler, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, Span as OtelSpan,
};
use patchbay_model::TraceParent;
use patchbay_model::job::Trace;

pub use export::{Counts, Exporter};

/// Name of the span that marks a deployment. Sampling never leaves it out.
const TAKEOVER: &str = "revision takes over";

#[derive(Debug, Clone)]
pub struct TraceConfig {
    /// The collector's base address, as in `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: url::Url,
    /// Sent with each batch; usually a credential.
    pub headers: Vec<(String, String)>,
    /// Share of traces begun here that are kept, 0.0 to 1.0. For others, their origin decides.
    pub sample_ratio: f64,
    /// Outside hosts that receive `traceparent`.
    pub propagate_to: Vec<String>,
    /// Formerly `NODE_ENV`.
    pub environment: String,
    pub host: String,
}

/// Opens spans; cheap to clone. The default opens none.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Active>>);

struct Active {
    tracer: SdkTracer,
    /// Ends with the last tracer.
    _provider: SdkTracerProvider,
    propagate_to: Vec<String>,
}

/// A hand-off in progress, which ends when this is dropped. Empty when tracing is off.
#[derive(Debug)]
#[must_use = "its end is the end of the hand-off"]
pub struct Span(Option<OtelSpan>);

#[derive(Debug, Clone, Copy)]
pub enum SpanKind {
    Request,
    Enqueue,
    Attempt,
    Guest,
    Outside,
}

impl Traces {
    /// Opens spans, if there is a collector for them.
    pub fn start_if(config: Option<TraceConfig>) -> anyhow::Result<(Self, Option<Exporter>)> {
        let Some(config) = config else {
            return Ok((Self::default(), None));
        };
        let (traces, exporter) = Self::start(config).context("cannot send traces")?;
        Ok((traces, Some(exporter)))
    }

    /// From now on, spans are opened and the exporter sends them.
    pub fn start(config: TraceConfig) -> anyhow::Result<(Self, Exporter)> {
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", "patchbay"),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", config.host.clone()),
                // The older name, which many dashboards still use, and the present one.
                KeyValue::new("deployment.environment", config.environment.clone()),
                KeyValue::new("deployment.environment.name", config.environment.clone()),
            ])
            .build();
        let (processor, exporter) = export::new(&config, &resource)?;
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampling(Sampler::ParentBased(Box::new(
                Sampler::TraceIdRatioBased(config.sample_ratio),
            ))))
            .with_resource(resource)
            .with_span_processor(processor)
            .build();
        let active = Active {
            tracer: provider.tracer("patchbay"),
            _provider: provider,
            propagate_to: config.propagate_to,
        };
        Ok((Self(Some(Arc::new(active))), exporter))
    }

    /// Opens a span under its cause. The name may have only our own words and words of manifests.
    pub fn span(&self, kind: SpanKind, name: impl FnOnce() -> String, cause: &Trace) -> Span {
        let Some(active) = &self.0 else {
            return Span(None);
        };
        let parent = cause.traceparent.map_or_else(Context::new, |parent| {
            let flags = if parent.sampled {
                TraceFlags::SAMPLED
            } else {
                TraceFlags::default()
            };
            let (trace_id, span_id) =
                (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
            Context::new().with_remote_span_context(SpanContext::new(
                trace_id,
                span_id,
                flags,
                true,
                TraceState::NONE,
            ))
        });
        let kind = match kind {
            SpanKind::Request => OtelKind::Server,
            SpanKind::Enqueue => OtelKind::Producer,
            SpanKind::Attempt => OtelKind::Consumer,
            SpanKind::Guest => OtelKind::Internal,
            SpanKind::Outside => OtelKind::Client,
        };
        let builder = active.tracer.span_builder(name()).with_kind(kind);
        Span(Some(active.tracer.build_with_context(builder, &parent)))
    }

    /// Marks that a revision has taken over on this host, as a span of its own for dashboards.
    pub fn mark_takeover(
        &self,
        plugin: &str,
        revision: &str,
        version: &str,
        previous: Option<&str>,
    ) {
        let mut step = self.span(SpanKind::Guest, || TAKEOVER.into(), &Trace::default());
        step.set("patchbay.plugin", plugin.to_owned());
        step.set("patchbay.revision", revision.to_owned());
        step.set("patchbay.version", version.to_owned());
        if let Some(previous) = previous {
            step.set("patchbay.previous_revision", previous.to_owned());
        }
    }

    /// Whether an outside host gets the trace context: only hosts that an operator names.
    pub fn propagates_to(&self, host: &str) -> bool {
        self.0.as_ref().is_some_and(|active| {
            active
                .propagate_to
                .iter()
                .any(|named| named.eq_ignore_ascii_case(host))
        })
    }
}

impl Span {
    /// Sets an attribute: our own words, words of manifests and of closed lists, and numbers.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Marks the span as failed; `why` is a word of a closed list.
    pub fn failed(&mut self, why: &'static str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", why));
            span.set_status(Status::Error {
                description: Cow::Borrowed(""),
            });
        }
    }

    /// The position of this span in its trace; absent when tracing is off.
    pub fn place(&self) -> Option<TraceParent> {
        let context = self.0.as_ref()?.span_context();
        Some(TraceParent {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            sampled: context.is_sampled(),
        })
    }

    /// The trace of what this span causes. All but the position comes from `trace`.
    pub fn causes(&self, trace: Trace) -> Trace {
        Trace {
            traceparent: self.place().or(trace.traceparent),
            ..trace
        }
    }

    /// Writes the trace's id into a log span that has the field `trace_id`, when the trace is kept.
    pub fn name_in(&self, log: &tracing::Span) {
        if let Some(place) = self.place().filter(|place| place.sampled) {
            log.record("trace_id", format!("{:032x}", place.trace_id));
        }
    }
}

/// Deployments are always kept; for everything else, the parent or the ratio decides.
#[derive(Debug, Clone)]
struct Sampling(Sampler);

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &OtelKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = if name == TAKEOVER {
            &Sampler::AlwaysOn
        } else {
            &self.0
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_context_passes_on_as_it_came() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .ok();
        let trace = Trace {
            traceparent: parent,
            ..Trace::default()
        };
        let step = Traces::default().span(
            SpanKind::Attempt,
            || unreachable!("nobody needs a name"),
            &trace,
        );
        assert_eq!((step.place(), step.causes(trace.clone())), (None, trace));
    }
}
