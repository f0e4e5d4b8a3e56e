//! Runs a job in the active revision of the plugin that handles its queue.

use std::sync::Arc;

use async_trait::async_trait;
use patchbay_model::confidential::is_confidential;
use patchbay_model::manifest::Manifest;
use patchbay_model::outcome::Outcome;
use patchbay_model::redaction::Mask;
use patchbay_model::retry::RetryPolicy;
use patchbay_model::{DataPath, Redaction};
use patchbay_queue::Delivery;
use patchbay_runtime::JobCall;

use super::{Entry, Invocation, Invoker, RunningJob};
use crate::executor::{Execution, Executor, correlation_id};

#[async_trait]
impl Executor for Invoker {
    async fn execute(&self, delivery: &Delivery) -> Execution {
        // Looked up per call, not per worker, so that a swap takes effect on the next job.
        let Some(revision) = self.runtime.registry().owner_of(&delivery.key.queue) else {
            return Execution {
                ran_by: None,
                policy: self.policy(delivery),
                outcome: Outcome::HostFault(format!(
                    "no active plugin handles {}",
                    delivery.key.queue
                )),
                stack: None,
                refused: None,
                calls: Vec::new(),
            };
        };
        let policy = policy(delivery, Some(revision.manifest()));
        let correlation_id = correlation_id(delivery);
        let platform = delivery
            .trace
            .platform
            .clone()
            .unwrap_or_else(|| self.settings.default_platform().to_owned());
        let mut trace = delivery.trace.clone();
        trace.correlation_id = Some(correlation_id.clone());
        let redact = revision
            .manifest()
            .queue(&delivery.key.queue)
            .map_or(&[][..], |queue| &queue.redact);
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
            occupancy: Arc::default(),
            cancel: delivery.end.now.clone(),
        };
        let job = RunningJob {
            handle: delivery.job.clone(),
            hidden: (
                Redaction::new(redact).of_job(delivery.key.id.as_str()),
                delivery.data.clone(),
            ),
        };
        let invocation = Invocation {
            entry: Entry::Job(Box::new(call)),
            trace,
            job: Some(job),
        };
        let invoked = self.invoke(&revision, invocation).await;
        Execution {
            ran_by: Some((revision.plugin().clone(), revision.digest())),
            policy,
            outcome: invoked.report.outcome,
            stack: invoked.report.stack,
            refused: invoked.refused,
            calls: invoked.outside_calls,
        }
    }

    fn policy(&self, delivery: &Delivery) -> RetryPolicy {
        let owner = self.runtime.registry().owner_of(&delivery.key.queue);
        policy(
            delivery,
            owner.as_ref().map(|revision| revision.manifest().as_ref()),
        )
    }

    async fn mask(&self, delivery: &Delivery) -> Mask {
        let (queue, id) = (&delivery.key.queue, delivery.key.id.as_str());
        // Without Redis the attempt cannot be settled either, and runs again.
        let children = self
            .services
            .queues
            .children_data(queue, &[id])
            .await
            .unwrap_or_default()
            .concat();
        self.redactions
            .of(queue)
            .of_job(id)
            .data_with_others(&delivery.data, self.redactions.values(&children))
            .1
    }

    fn searchable(&self, delivery: &Delivery) -> Vec<(DataPath, String)> {
        if is_confidential(delivery.key.id.as_str()) {
            return Vec::new();
        }
        let owner = self.runtime.registry().owner_of(&delivery.key.queue);
        let queue = owner
            .as_ref()
            .and_then(|revision| revision.manifest().queue(&delivery.key.queue));
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

fn policy(delivery: &Delivery, manifest: Option<&Manifest>) -> RetryPolicy {
    let spec = manifest.and_then(|manifest| manifest.queue(&delivery.key.queue));
    let fallback = spec.map_or((None, None), |spec| {
        (spec.attempts, spec.backoff.as_ref().map(Into::into))
    });
    RetryPolicy::merge(delivery.retry, fallback)
}
