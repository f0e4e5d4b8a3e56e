//! One loaded revision. It can be called from any thread, any number of times at once.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::manifest::Manifest;
use patchbay_model::outcome::Outcome;
use patchbay_model::{PluginName, RevisionDigest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::call::{self, CallTarget};
use crate::context::CallContext;
use crate::report::{CallReport, Entry, JobCall, Occupancy, OperationCall, VerifyCall};
use crate::sandbox::Sandbox;
use crate::wit::Exports;
use crate::{Inspected, LoadError, Rejection, RuntimeError};

const SELF_TEST_LIMIT: Duration = Duration::from_secs(5);

pub struct Revision {
    callee: Arc<CallTarget>,
    digest: RevisionDigest,
    manifest: Arc<Manifest>,
    has_operations: bool,
    is_tested: bool,
}

impl Revision {
    pub(crate) fn new(
        sandbox: Arc<Sandbox>,
        inspected: Inspected,
        exports: Box<dyn Exports>,
    ) -> Self {
        let limits = &inspected.manifest.limits;
        let memory_mb = limits
            .memory_mb
            .unwrap_or(sandbox.limits.default_memory_mb)
            .min(sandbox.limits.max_memory_mb);
        let callee = CallTarget {
            sandbox,
            exports,
            weight: inspected.weight,
            concurrency: limits
                .max_concurrency
                .map(|most| Arc::new(Semaphore::new(most as usize))),
            memory_bytes: (memory_mb as usize) << 20,
        };
        Self {
            callee: Arc::new(callee),
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

    pub fn plugin(&self) -> &PluginName {
        &self.manifest.name
    }

    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Whether it exports `operations`.
    pub fn has_operations(&self) -> bool {
        self.has_operations
    }

    /// Wall-clock limit of one call.
    pub fn deadline(&self) -> Duration {
        let limits = &self.callee.sandbox.limits;
        self.manifest
            .limits
            .deadline_ms
            .map_or(limits.default_deadline, Duration::from_millis)
            .min(limits.max_deadline)
    }

    /// Wall-clock limit of a call that has perhaps a limit of its own.
    pub fn limit(&self, own: Option<Duration>) -> Duration {
        own.map_or(self.deadline(), |own| own.min(self.deadline()))
    }

    /// Runs one job in a fresh instance. Without a context, nothing outside is reachable. Never
    /// fails and never takes longer than the deadline: every failure is an outcome.
    pub async fn run_job(&self, job: JobCall, context: Option<Arc<dyn CallContext>>) -> CallReport {
        let (limit, cancel) = (self.deadline(), job.cancel.clone());
        let occupancy = Arc::clone(&job.occupancy);
        call::run(
            Arc::clone(&self.callee),
            Entry::Job(Box::new(job)),
            context,
            limit,
            cancel,
            &occupancy,
        )
        .await
    }

    /// Runs one operation, as [`Revision::run_job`] runs a job. It cannot be cancelled, because the
    /// caller waits for it.
    pub async fn operate(
        &self,
        operation: OperationCall,
        context: Option<Arc<dyn CallContext>>,
    ) -> CallReport {
        let limit = self.limit(operation.deadline);
        let never = CancellationToken::new();
        let occupancy = Arc::clone(&operation.occupancy);
        let entry = Entry::Operation(Box::new(operation));
        call::run(
            Arc::clone(&self.callee),
            entry,
            context,
            limit,
            never,
            &occupancy,
        )
        .await
    }

    /// Asks the plugin whether a request is the vendor's, as [`Revision::operate`] runs an operation.
    pub async fn verify(
        &self,
        verify: VerifyCall,
        context: Option<Arc<dyn CallContext>>,
    ) -> CallReport {
        let limit = self.limit(Some(verify.deadline));
        let never = CancellationToken::new();
        let occupancy = Arc::clone(&verify.occupancy);
        let entry = Entry::Verify(Box::new(verify));
        call::run(
            Arc::clone(&self.callee),
            entry,
            context,
            limit,
            never,
            &occupancy,
        )
        .await
    }

    /// Makes an instance and calls nothing. Refuses components that cannot even start. Nothing
    /// outside is reachable.
    pub async fn try_start(&self) -> Result<(), LoadError> {
        let report = self.start_with(self.callee.memory_bytes).await;
        let reason = report.outcome.reason().unwrap_or_default();
        match report.outcome {
            Outcome::Completed(_) => Ok(()),
            Outcome::HostFault(reason) => Err(RuntimeError::Engine(reason).into()),
            Outcome::MemoryLimit(limit) => {
                let most = self.callee.sandbox.limits.max_memory_mb;
                let report = self.start_with((most as usize) << 20).await;
                let needs = match report.outcome {
                    Outcome::MemoryLimit(_) => format!("more than {most}"),
                    _ => report.peak_memory_bytes.div_ceil(1 << 20).to_string(),
                };
                Err(Rejection::Memory {
                    needs,
                    limit: limit >> 20,
                }
                .into())
            }
            _ => Err(Rejection::Start(reason).into()),
        }
    }

    async fn start_with(&self, memory: usize) -> CallReport {
        let (never, uncounted) = (CancellationToken::new(), Occupancy::default());
        call::run(
            Arc::clone(&self.callee),
            Entry::Start { memory },
            None,
            SELF_TEST_LIMIT,
            never,
            &uncounted,
        )
        .await
    }

    /// Whether it exports `lifecycle`.
    pub fn has_self_test(&self) -> bool {
        self.is_tested
    }

    /// Runs the plugin's self-test. The plugin must have one.
    pub async fn self_test(&self, context: Option<Arc<dyn CallContext>>) -> CallReport {
        let (limit, never, uncounted) = (
            SELF_TEST_LIMIT,
            CancellationToken::new(),
            Occupancy::default(),
        );
        call::run(
            Arc::clone(&self.callee),
            Entry::SelfTest,
            context,
            limit,
            never,
            &uncounted,
        )
        .await
    }
}
