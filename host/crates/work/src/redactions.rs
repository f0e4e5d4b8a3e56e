//! What is hidden of the jobs of each queue, whether or not a plugin handles the queue at the moment: jobs outlive the plugin that ran them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_model::{DataPath, QueueName, Redaction};
use patchbay_queue::ChildData;
use patchbay_runtime::Runtime;

pub type Paths = HashMap<QueueName, BTreeSet<DataPath>>;

/// What this process knows about hiding: the manifests that run here, and what Postgres, or the snapshot, says of those that do not.
pub struct Redactions {
    runtime: Arc<Runtime>,
    known: ArcSwap<Paths>,
}

impl Redactions {
    /// Knows only what runs, until [`Redactions::publish`].
    pub fn new(runtime: Arc<Runtime>) -> Arc<Self> {
        Arc::new(Self { runtime, known: ArcSwap::default() })
    }

    /// Of a queue's jobs. Of a queue that no plugin has ever handled, only names that mean a secret tell.
    pub fn of(&self, queue: &QueueName) -> Redaction {
        let mut paths = self.known.load().get(queue).cloned().unwrap_or_default();
        // Also what runs here though another revision is the active one: it may not have been loaded.
        let owner = self.runtime.registry().owner_of(queue);
        let spec = owner.as_ref().and_then(|revision| revision.manifest().queue(queue));
        paths.extend(spec.iter().flat_map(|spec| spec.redact.iter().cloned()));
        redaction(paths)
    }

    /// What is hidden of these jobs' data: of a parent's children.
    pub fn values(&self, jobs: &[ChildData]) -> Vec<String> {
        jobs.iter().flat_map(|(queue, data)| self.of(queue).values(data)).collect()
    }

    /// What is hidden of the jobs of any queue.
    pub fn of_any(&self) -> Redaction {
        let revisions = self.runtime.registry().snapshot();
        let queues = revisions.iter().flat_map(|revision| &revision.manifest().queues);
        let running = queues.flat_map(|spec| spec.redact.iter().cloned());
        let known = self.known.load();
        redaction(running.chain(known.values().flatten().cloned()).collect())
    }

    /// Whether a manifest has ever said what of this queue's jobs is hidden.
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
