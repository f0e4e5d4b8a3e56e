//! Runs a job in the sandbox: the active revision of the queue's owner, with the capabilities that its manifest asks for.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use patchbay_capability::{Call, GuestCall, Services};
use patchbay_model::job::Trace;
use patchbay_model::outcome::{Outcome, OutcomeKind};
use patchbay_model::redaction::Mask;
use patchbay_model::retry::RetryPolicy;
use patchbay_model::{DataPath, Redaction};
use patchbay_queue::Delivery;
use patchbay_runtime::{CallReport, JobCall, Revision, Runtime};
use patchbay_telemetry::traces::{Kind, Step, Traces};

use crate::grants::Grants;
use crate::meters::{Meters, RevisionMeters};
use crate::redactions::Redactions;
use crate::settings::Settings;
use crate::{Execution, Executor, correlation_id};

/// The host's executor.
pub struct WasmExecutor {
    pub(super) runtime: Arc<Runtime>,
    services: Arc<Services>,
    settings: Arc<Settings>,
    grants: Arc<Grants>,
    redactions: Arc<Redactions>,
    pub(super) meters: Arc<Meters>,
    pub(super) traces: Traces,
}

impl WasmExecutor {
    /// Runs nothing yet.
    pub fn new(
        runtime: Arc<Runtime>,
        services: Arc<Services>,
        settings: Arc<Settings>,
        grants: Arc<Grants>,
        redactions: Arc<Redactions>,
        meters: Arc<Meters>,
        traces: Traces,
    ) -> Self {
        Self { runtime, services, settings, grants, redactions, meters, traces }
    }

    /// The span of one call of this revision, of a job or an operation.
    pub(super) fn step(&self, revision: &Revision, trace: &Trace) -> Step {
        let plugin = revision.plugin();
        let mut step = self.traces.step(Kind::Guest, || format!("call {plugin}"), trace);
        step.set("patchbay.plugin", plugin.to_string());
        step.set("patchbay.revision", revision.digest().short());
        step.set("patchbay.version", revision.manifest().version.to_string());
        step
    }

    /// What one call of this revision may do outside, from now until its deadline.
    pub(super) fn capabilities(
        &self,
        revision: &Revision,
        delivery: Option<&Delivery>,
        trace: Trace,
        meters: &RevisionMeters,
    ) -> Arc<GuestCall> {
        let hidden = |delivery: &Delivery| {
            let spec = revision.manifest().queue(&delivery.key.queue);
            (Redaction::new(spec.map_or(&[], |spec| &spec.redact)), delivery.data.clone())
        };
        self.services.for_call(Call {
            manifest: Arc::clone(revision.manifest()),
            settings: self.settings.of(revision.plugin()),
            granted: self.grants.of(revision.plugin()),
            job: delivery.map(|delivery| delivery.job.clone()),
            hidden: delivery.map(hidden),
            trace,
            deadline: Instant::now() + revision.deadline(),
            revision: revision.digest(),
            span: tracing::Span::current(),
            meters: Arc::clone(&meters.outside),
            traces: self.traces.clone(),
        })
    }
}

#[async_trait]
impl Executor for WasmExecutor {
    async fn execute(&self, delivery: &Delivery) -> Execution {
        // Looked up per call, not per worker: this is what makes a swap take effect on the next job.
        let Some(revision) = self.runtime.registry().owner_of(&delivery.key.queue) else {
            return Execution {
                ran_by: None,
                policy: self.policy(delivery),
                outcome: Outcome::HostFault(format!("no active plugin handles {}", delivery.key.queue)),
                stack: None,
                refused: None,
                calls: Vec::new(),
            };
        };
        let policy = policy(delivery, Some(revision.manifest()));
        let correlation_id = correlation_id(delivery);
        let platform = delivery.trace.platform.clone().unwrap_or_else(|| self.settings.default_platform().to_owned());
        let mut trace = delivery.trace.clone();
        trace.correlation_id = Some(correlation_id.clone());
        let mut step = self.step(&revision, &trace);
        let trace = step.causes(trace);
        let meters = self.meters.enter(&revision);
        let capabilities = self.capabilities(&revision, Some(delivery), trace, &meters);
        let call = JobCall {
            id: delivery.key.id.to_string(),
            queue: delivery.key.queue.to_string(),
            name: delivery.name.clone(),
            data: delivery.data.clone(),
            attempt: delivery.attempts_made + 1,
            max_attempts: policy.attempts,
            enqueued_at_ms: delivery.key.created_ms,
            idempotency_key: delivery.idempotency_key.clone(),
            correlation_id,
            platform,
            schedule_id: delivery.schedule_id.clone(),
            first_deferred_at_ms: delivery.first_deferred_at_ms,
            occupancy: meters.occupancy(),
            cancel: delivery.end.now.clone(),
        };
        let report = revision.run_job(call, Some(Arc::clone(&capabilities) as _)).await;
        ended(&mut step, &report);
        meters.count(&report);
        capabilities.finish().await;
        Execution {
            ran_by: Some((revision.plugin().clone(), revision.digest())),
            policy,
            outcome: report.outcome,
            stack: report.stack,
            refused: capabilities.refused(),
            calls: capabilities.outside_calls(),
        }
    }

    fn policy(&self, delivery: &Delivery) -> RetryPolicy {
        let owner = self.runtime.registry().owner_of(&delivery.key.queue);
        policy(delivery, owner.as_ref().map(|revision| revision.manifest().as_ref()))
    }

    async fn mask(&self, delivery: &Delivery) -> Mask {
        let (queue, id) = (&delivery.key.queue, delivery.key.id.as_str());
        // Without Redis the attempt cannot be settled either, and runs again.
        let children = self.services.queues.children_data(queue, &[id]).await.unwrap_or_default().concat();
        self.redactions.of(queue).data_beside(&delivery.data, self.redactions.values(&children)).1
    }

    fn searchable(&self, delivery: &Delivery) -> Vec<(DataPath, String)> {
        let owner = self.runtime.registry().owner_of(&delivery.key.queue);
        let queue = owner.as_ref().and_then(|revision| revision.manifest().queue(&delivery.key.queue));
        let paths = queue.map_or(&[][..], |queue| &queue.searchable);
        let values = |path: &DataPath| {
            path.values(&delivery.data).into_iter().map({
                let path = path.clone();
                move |value| (path.clone(), value)
            })
        };
        paths.iter().flat_map(values).collect()
    }
}

/// Says how a call ended.
pub(super) fn ended(step: &mut Step, report: &CallReport) {
    let outcome = report.outcome.kind();
    step.set("patchbay.outcome", outcome.as_str());
    step.set("patchbay.cpu_ms", report.cpu.as_secs_f64() * 1e3);
    step.set("patchbay.peak_memory_bytes", i64::try_from(report.peak_memory_bytes).unwrap_or(i64::MAX));
    if outcome != OutcomeKind::Completed {
        step.failed(outcome.as_str());
    }
}

fn policy(delivery: &Delivery, manifest: Option<&patchbay_model::manifest::Manifest>) -> RetryPolicy {
    let spec = manifest.and_then(|manifest| manifest.queue(&delivery.key.queue));
    let fallback = spec.map_or((None, None), |spec| (spec.attempts, spec.backoff.as_ref().map(Into::into)));
    RetryPolicy::merge(delivery.retry, fallback)
}
