//! One loaded revision: ready to be called, from any thread, any number of times at once.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::capability::Capabilities;
use patchbay_model::manifest::Manifest;
use patchbay_model::outcome::Outcome;
use patchbay_model::{DenyAll, PluginName, RevisionDigest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::call::{self, CallReport, Entry, JobCall, Occupancy, OperationCall};
use crate::exports::Exports;
use crate::{Inspected, LoadError, Rejection, Runtime, RuntimeError};

/// The contract's.
const SELF_TEST_LIMIT: Duration = Duration::from_secs(5);

/// A revision of a plugin.
pub struct Revision {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) exports: Box<dyn Exports>,
    pub(crate) weight: u32,
    /// Calls of this revision at once, when its manifest limits them.
    pub(crate) concurrency: Option<Arc<Semaphore>>,
    digest: RevisionDigest,
    manifest: Arc<Manifest>,
    has_operations: bool,
    is_tested: bool,
}

impl Revision {
    pub(crate) fn new(runtime: Arc<Runtime>, inspected: Inspected, exports: Box<dyn Exports>) -> Self {
        let concurrency = inspected.manifest.limits.max_concurrency;
        Self {
            runtime,
            exports,
            weight: inspected.weight,
            concurrency: concurrency.map(|most| Arc::new(Semaphore::new(most as usize))),
            digest: inspected.digest,
            has_operations: inspected.offers("operations"),
            is_tested: inspected.offers("lifecycle"),
            manifest: Arc::new(inspected.manifest),
        }
    }

    /// SHA-256 of its file.
    pub fn digest(&self) -> RevisionDigest {
        self.digest
    }

    /// Whose it is.
    pub fn plugin(&self) -> &PluginName {
        &self.manifest.name
    }

    /// What it asks for.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Whether it exports `operations`.
    pub fn has_operations(&self) -> bool {
        self.has_operations
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let limits = &self.runtime.config.limits;
        let mb = self.manifest.limits.memory_mb.unwrap_or(limits.default_memory_mb).min(limits.max_memory_mb);
        (mb as usize) << 20
    }

    /// Wall clock of one call.
    pub fn deadline(&self) -> Duration {
        let limits = &self.runtime.config.limits;
        self.manifest.limits.deadline_ms.map_or(limits.default_deadline, Duration::from_millis).min(limits.max_deadline)
    }

    /// Runs one job in a fresh instance. Never fails and never takes longer than the deadline: whatever happens is an outcome.
    pub async fn run_job(self: &Arc<Self>, job: JobCall, capabilities: Arc<dyn Capabilities>) -> CallReport {
        let (limit, cancel) = (self.deadline(), job.cancel.clone());
        let occupancy = Arc::clone(&job.occupancy);
        call::run(Arc::clone(self), Entry::Job(Box::new(job)), capabilities, limit, cancel, &occupancy).await
    }

    /// Runs one operation, as [`Revision::run_job`] runs a job. Whoever asks for it waits for it: it cannot be cancelled.
    pub async fn operate(
        self: &Arc<Self>,
        operation: OperationCall,
        capabilities: Arc<dyn Capabilities>,
    ) -> CallReport {
        let (limit, never) = (self.deadline(), CancellationToken::new());
        let occupancy = Arc::clone(&operation.occupancy);
        let entry = Entry::Operation(Box::new(operation));
        call::run(Arc::clone(self), entry, capabilities, limit, never, &occupancy).await
    }

    /// Makes an instance and calls nothing: what cannot even start is no plugin. Nothing outside is reachable.
    pub async fn try_start(self: &Arc<Self>) -> Result<(), LoadError> {
        let report = self.start_with(self.memory_bytes()).await;
        let reason = report.outcome.reason().unwrap_or_default();
        match report.outcome {
            Outcome::Completed(_) => Ok(()),
            Outcome::HostFault(reason) => Err(RuntimeError::Engine(reason).into()),
            Outcome::MemoryLimit(limit) => {
                let most = self.runtime.config.limits.max_memory_mb;
                let report = self.start_with((most as usize) << 20).await;
                let needs = match report.outcome {
                    Outcome::MemoryLimit(_) => format!("more than the {most}"),
                    _ => report.peak_memory_bytes.div_ceil(1 << 20).to_string(),
                };
                Err(Rejection::Memory { needs, limit: limit >> 20 }.into())
            }
            _ => Err(Rejection::Start(reason).into()),
        }
    }

    async fn start_with(self: &Arc<Self>, memory: usize) -> CallReport {
        let (never, uncounted, outside) = (CancellationToken::new(), Occupancy::default(), Arc::new(DenyAll));
        call::run(Arc::clone(self), Entry::Start { memory }, outside, SELF_TEST_LIMIT, never, &uncounted).await
    }

    /// Runs the plugin's own test, when it has one, with nothing outside reachable.
    pub async fn self_test(self: &Arc<Self>) -> Result<(), Rejection> {
        if !self.is_tested {
            return Ok(());
        }
        let never = CancellationToken::new();
        let (uncounted, outside) = (Occupancy::default(), Arc::new(DenyAll));
        let report = call::run(Arc::clone(self), Entry::SelfTest, outside, SELF_TEST_LIMIT, never, &uncounted).await;
        report.outcome.reason().map_or(Ok(()), |reason| Err(Rejection::SelfTest(reason)))
    }
}
