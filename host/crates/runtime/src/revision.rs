//! One loaded revision: ready to be called, from any thread, any number of times at once.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::capability::Capabilities;
use patchbay_model::manifest::Manifest;
use patchbay_model::{PluginName, RevisionDigest};

use crate::call::{self, CallReport, JobCall, State};
use crate::v0_1::JobPluginPre;
use crate::{Inspected, Runtime};

/// A revision of a plugin.
pub struct Revision {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) jobs: JobPluginPre<State>,
    digest: RevisionDigest,
    manifest: Arc<Manifest>,
}

impl Revision {
    pub(crate) fn new(runtime: Arc<Runtime>, inspected: Inspected, jobs: JobPluginPre<State>) -> Self {
        Self { runtime, jobs, digest: inspected.digest, manifest: Arc::new(inspected.manifest) }
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

    pub(crate) fn memory_bytes(&self) -> usize {
        let limits = &self.runtime.config.limits;
        let mb = self.manifest.limits.memory_mb.unwrap_or(limits.default_memory_mb).min(limits.max_memory_mb);
        (mb as usize) << 20
    }

    pub(crate) fn deadline(&self) -> Duration {
        let limits = &self.runtime.config.limits;
        self.manifest.limits.deadline_ms.map_or(limits.default_deadline, Duration::from_millis).min(limits.max_deadline)
    }

    /// Runs one job in a fresh instance. Never fails and never takes longer than the deadline: whatever happens is an outcome.
    pub async fn run_job(self: &Arc<Self>, job: JobCall, capabilities: Arc<dyn Capabilities>) -> CallReport {
        call::run_job(Arc::clone(self), job, capabilities).await
    }
}
