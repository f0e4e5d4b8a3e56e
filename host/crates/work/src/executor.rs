//! What runs the code of a job, and what it gives back.

use async_trait::async_trait;
use patchbay_capability::Refused;
use patchbay_model::attempt::OutsideCall;
use patchbay_model::outcome::Outcome;
use patchbay_model::redaction::Mask;
use patchbay_model::retry::RetryPolicy;
use patchbay_model::{DataPath, PluginName, Redaction, RevisionDigest};
use patchbay_queue::Delivery;

/// Runs the code of one job. The host has one ([`crate::Invoker`]); the benchmark has another, native one, on the same work path.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Runs it to its end. Never fails: whatever happens is an [`Outcome`].
    async fn execute(&self, delivery: &Delivery) -> Execution;

    /// What a job of this queue may use, without running it.
    fn policy(&self, delivery: &Delivery) -> RetryPolicy;

    /// Finds what of the job, and of children whose results it sees, is not shown.
    async fn mask(&self, delivery: &Delivery) -> Mask {
        Redaction::default().data(&delivery.data).1
    }

    /// What the job is found by in the history.
    fn searchable(&self, _delivery: &Delivery) -> Vec<(DataPath, String)> {
        Vec::new()
    }
}

/// What running a job gave.
#[derive(Debug)]
pub struct Execution {
    /// Who ran it; absent when no plugin was reached.
    pub ran_by: Option<(PluginName, RevisionDigest)>,
    /// What the job may still use.
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
