//! What is redacted in the jobs of each queue. This does not depend on whether a plugin handles the
//! queue now, because jobs outlive the plugin that ran them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_model::{DataPath, QueueName, Redaction};
use patchbay_queue::ChildData;
use patchbay_runtime::Runtime;

pub type Paths = HashMap<QueueName, BTreeSet<DataPath>>;

/// Combines the manifests that run here with what Postgres, or the snapshot, says of plugins that
/// do not run.
pub struct Redactions {
    runtime: Arc<Runtime>,
    known: ArcSwap<Paths>,
}

impl Redactions {
    /// Knows only the running manifests until [`Redactions::publish`].
    pub fn new(runtime: Arc<Runtime>) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            known: ArcSwap::default(),
        })
    }

    /// For the jobs of this queue. If no plugin has ever handled it, only field names that mean a
    /// secret are redacted.
    pub fn of(&self, queue: &QueueName) -> Redaction {
        let mut paths = self.known.load().get(queue).cloned().unwrap_or_default();
        // Also include the revision that runs here while another one is the active one: that one
        // may not have been loaded.
        let owner = self.runtime.registry().owner_of(queue);
        let spec = owner
            .as_ref()
            .and_then(|revision| revision.manifest().queue(queue));
        paths.extend(spec.iter().flat_map(|spec| spec.redact.iter().cloned()));
        redaction(paths)
    }

    /// The values that are redacted in these jobs' data, used for a parent's children.
    pub fn values(&self, jobs: &[ChildData]) -> Vec<String> {
        jobs.iter()
            .flat_map(|(queue, data)| self.of(queue).values(data))
            .collect()
    }

    /// Combined for the jobs of all queues.
    pub fn of_any(&self) -> Redaction {
        let revisions = self.runtime.registry().snapshot();
        let queues = revisions
            .iter()
            .flat_map(|revision| &revision.manifest().queues);
        let running = queues.flat_map(|spec| spec.redact.iter().cloned());
        let known = self.known.load();
        redaction(running.chain(known.values().flatten().cloned()).collect())
    }

    /// Whether any manifest has ever defined redaction for this queue.
    pub fn knows(&self, queue: &QueueName) -> bool {
        self.known.load().contains_key(queue) || self.runtime.registry().owner_of(queue).is_some()
    }

    pub fn publish(&self, paths: Paths) {
        self.known.store(Arc::new(paths));
    }
}

fn redaction(paths: BTreeSet<DataPath>) -> Redaction {
    Redaction::new(&paths.into_iter().collect::<Vec<_>>())
}
