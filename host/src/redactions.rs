//! What is hidden of the jobs of each queue, whether or not a plugin handles the queue at the moment: jobs outlive the plugin that ran them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_model::{DataPath, QueueName, Redaction};
use patchbay_queue::ChildData;
use patchbay_runtime::Runtime;
use patchbay_store::RedactionRow;

/// By queue.
pub(crate) type Paths = HashMap<QueueName, BTreeSet<DataPath>>;

/// What this process knows about hiding: the manifests that run here, and what Postgres, or the local copy, says of those that do not.
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

    pub(crate) fn publish(&self, paths: Paths) {
        self.known.store(Arc::new(paths));
    }
}

fn redaction(paths: BTreeSet<DataPath>) -> Redaction {
    Redaction::new(&paths.into_iter().collect::<Vec<_>>())
}

/// While an active revision handles a queue, its manifest says what is hidden. Otherwise all that ever was: who has sent the jobs that are
/// left, and for which of the revisions, nobody knows.
pub(crate) fn by_queue(rows: Vec<RedactionRow>) -> Paths {
    let (current, past): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.is_current);
    let mut paths = Paths::new();
    for row in current {
        paths.entry(row.queue).or_default().extend(row.paths);
    }
    let handled: Vec<QueueName> = paths.keys().cloned().collect();
    for row in past.into_iter().filter(|row| !handled.contains(&row.queue)) {
        paths.entry(row.queue).or_default().extend(row.ever);
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_manifest_decides_and_without_one_all_that_ever_was_hidden_is() {
        let row = |queue: &str, paths: &[&str], ever: &[&str], is_current| {
            let of = |paths: &[&str]| paths.iter().map(|path| path.parse().expect("a path")).collect();
            RedactionRow { queue: queue.parse().expect("a queue"), paths: of(paths), ever: of(ever), is_current }
        };
        let known = by_queue(vec![
            row("active", &["to"], &["to", "text"], true),
            row("active", &[], &["of.another.plugin"], false),
            row("stopped", &["to"], &["to", "text"], false),
            row("stopped", &["phone"], &["phone"], false),
            row("open", &[], &[], false),
        ]);
        let of = |queue: &str| {
            known
                .get(&queue.parse::<QueueName>().expect("a queue"))
                .map(|paths| paths.iter().map(DataPath::as_str).collect())
        };
        assert_eq!(of("active"), Some(vec!["to"]));
        assert_eq!(of("stopped"), Some(vec!["phone", "text", "to"]));
        assert_eq!(of("open"), Some(vec![]));
        assert_eq!(of("never"), None);
    }
}
