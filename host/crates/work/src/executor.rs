//! What runs the code of a job, and what it returns.

use async_trait::async_trait;
use patchbay_capability::Refused;
use patchbay_model::attempt::OutsideCall;
use patchbay_model::outcome::Outcome;
use patchbay_model::redaction::Mask;
use patchbay_model::retry::RetryPolicy;
use patchbay_model::{DataPath, PluginName, Redaction, RevisionDigest};
use patchbay_queue::Delivery;

/// Runs the code of one job. The host uses [`crate::Invoker`]; the benchmark uses a native
/// implementation on the same work path.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Runs the job to its end. Never fails: every failure is an [`Outcome`].
    async fn execute(&self, delivery: &Delivery) -> Execution;

    /// The retry policy of a job of this queue, without running it.
    fn policy(&self, delivery: &Delivery) -> RetryPolicy;

    /// A mask for what must be redacted of the job, and of the children whose results it sees.
    async fn mask(&self, delivery: &Delivery) -> Mask {
        Redaction::default()
            .of_job(delivery.key.id.as_str())
            .data(&delivery.data)
            .1
    }

    /// The values by which the history can find the job.
    fn searchable(&self, _delivery: &Delivery) -> Vec<(DataPath, String)> {
        Vec::new()
    }
}

#[derive(Debug)]
pub struct Execution {
    /// The plugin and revision that ran it; `None` if no plugin was reached.
    pub ran_by: Option<(PluginName, RevisionDigest)>,
    /// The attempts and backoff that apply to the job.
    pub policy: RetryPolicy,
    pub outcome: Outcome,
    pub stack: Option<String>,
    /// The breaker that refused its last outside call.
    pub refused: Option<Refused>,
    pub calls: Vec<OutsideCall>,
}

/// The producer's correlation id, or one that every attempt of the job shares.
pub fn correlation_id(delivery: &Delivery) -> String {
    match &delivery.trace.correlation_id {
        Some(id) => id.clone(),
        None => format!("job:{}:{}", delivery.key.queue, delivery.key.id),
    }
}
