//! Stops plugins that crash again and again: their queues wait, and their jobs keep their attempts.
//!
//! Calls are counted in this process. The first process to see too many crashes stops at once and
//! then writes the quarantine to Postgres (`plugins::quarantine`), from where all others hear of it
//! as they hear of an activation. While Postgres is away, the plugin is stopped here all the same.

mod rule;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use patchbay_model::job::JobKey;
use patchbay_model::manifest::Manifest;
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::{PluginName, QueueName, RevisionDigest};
use patchbay_runtime::Runtime;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

pub use self::rule::Rule;
pub use self::rule::{CRASHES, is_crash};
use self::rule::{Calls, Verdict};

/// What happens to a plugin that crashes too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It waits for an operator.
    Wait,
    /// The previous revision takes over. If there is no healthy one, the plugin waits.
    Previous,
}

#[derive(Debug, Clone)]
pub struct CrashLoop {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub reason: String,
    /// The outcome of most of its crashes.
    mostly: OutcomeKind,
    queues: Vec<QueueName>,
}

/// A plugin in quarantine, for operators.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// When the quarantine began (RFC 3339, in seconds).
    pub since: String,
    /// Who began it: `host NAME`.
    pub by: String,
    pub reason: String,
}

/// What is called. Each is judged by itself: that requests are judged says nothing of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Called {
    Job,
    Verify,
}

/// Returns the revision of a plugin that takes new calls here.
type Active = dyn Fn(&PluginName) -> Option<(RevisionDigest, Arc<Manifest>)> + Send + Sync;

/// What this process knows of crashes and quarantines.
pub struct Quarantine {
    /// `None` means that nothing is ever quarantined here.
    rule: Option<Rule>,
    active: Box<Active>,
    /// By plugin, and what is called.
    calls: Mutex<HashMap<(PluginName, Called), (RevisionDigest, Calls)>>,
    /// Crash loops seen by this process whose quarantine is not carried out yet.
    crash_loops: watch::Sender<Vec<CrashLoop>>,
    to_carry_out: mpsc::UnboundedSender<CrashLoop>,
    /// The quarantines in Postgres.
    known: ArcSwap<Vec<patchbay_model::quarantine::Quarantine>>,
    /// Quarantines that this process has begun, by the outcome of most crashes.
    begun: Mutex<HashMap<(PluginName, OutcomeKind), u64>>,
}

impl Quarantine {
    /// The receiver gets each new crash loop, and its owner carries out the quarantine.
    pub fn new(
        rule: Option<Rule>,
        runtime: Arc<Runtime>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<CrashLoop>) {
        Self::over(rule, move |plugin| {
            runtime
                .registry()
                .get(plugin)
                .map(|revision| (revision.digest(), Arc::clone(revision.manifest())))
        })
    }

    pub fn over(
        rule: Option<Rule>,
        active: impl Fn(&PluginName) -> Option<(RevisionDigest, Arc<Manifest>)> + Send + Sync + 'static,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<CrashLoop>) {
        let (to_carry_out, seen) = mpsc::unbounded_channel();
        let quarantine = Self {
            rule,
            active: Box::new(active),
            calls: Mutex::default(),
            crash_loops: watch::Sender::default(),
            to_carry_out,
            known: ArcSwap::default(),
            begun: Mutex::default(),
        };
        (Arc::new(quarantine), seen)
    }

    /// Records how a call ended. If it was one crash too many, the plugin's queues are held from
    /// now on.
    pub fn note(
        &self,
        plugin: &PluginName,
        digest: RevisionDigest,
        job: &JobKey,
        kind: OutcomeKind,
    ) {
        self.note_call(Called::Job, plugin, digest, job, kind);
    }

    /// As [`Self::note`], of the verdict on a request to a webhook. `request`: which one, as if it were a job. Only of
    /// requests that have passed a check of the host: a stranger must not be able to stop a plugin.
    pub fn note_verification(
        &self,
        plugin: &PluginName,
        digest: RevisionDigest,
        request: &JobKey,
        kind: OutcomeKind,
    ) {
        self.note_call(Called::Verify, plugin, digest, request, kind);
    }

    fn note_call(
        &self,
        called: Called,
        plugin: &PluginName,
        digest: RevisionDigest,
        job: &JobKey,
        kind: OutcomeKind,
    ) {
        let Some(rule) = &self.rule else { return };
        let Some((_, manifest)) = (self.active)(plugin).filter(|(active, _)| *active == digest)
        else {
            // One of the last calls of an old revision.
            return;
        };
        let new = || match called {
            Called::Job => Calls::of("job"),
            Called::Verify => Calls::of("request"),
        };
        let verdict = {
            let mut calls = self.calls.lock();
            let (of, calls) = calls
                .entry((plugin.clone(), called))
                .or_insert_with(|| (digest, new()));
            if *of != digest {
                (*of, *calls) = (digest, new());
            }
            calls.note(rule, kind, job, Instant::now())
        };
        let Some(Verdict { mostly, reason }) = verdict.filter(|_| !self.has(&digest)) else {
            return;
        };
        let queues = manifest
            .queues
            .iter()
            .map(|queue| queue.name.clone())
            .collect();
        let crash_loop = CrashLoop {
            plugin: plugin.clone(),
            digest,
            reason,
            mostly,
            queues,
        };
        self.crash_loops
            .send_modify(|all| all.push(crash_loop.clone()));
        self.to_carry_out.send(crash_loop).ok();
    }

    /// Whether a revision is quarantined, or about to be.
    pub fn has(&self, digest: &RevisionDigest) -> bool {
        self.crash_loops
            .borrow()
            .iter()
            .any(|crash_loop| crash_loop.digest == *digest)
            || self.known.load().iter().any(|row| row.digest == *digest)
    }

    /// Whether no job of the queue may be taken here. True only until the worker has been stopped.
    pub fn holds(&self, queue: &QueueName) -> bool {
        self.crash_loops
            .borrow()
            .iter()
            .any(|crash_loop| crash_loop.queues.contains(queue))
    }

    /// Waits until jobs of the queue may be taken.
    pub async fn until_free(&self, queue: &QueueName) {
        let free = |all: &Vec<CrashLoop>| {
            !all.iter()
                .any(|crash_loop| crash_loop.queues.contains(queue))
        };
        // This value owns the sender, so waiting cannot fail.
        self.crash_loops.subscribe().wait_for(free).await.ok();
    }

    /// Stores the quarantines that Postgres has.
    pub fn publish(&self, rows: Vec<patchbay_model::quarantine::Quarantine>) {
        self.known.store(Arc::new(rows));
    }

    /// The quarantine was carried out; from now on Postgres's state counts. If the revision
    /// returns, its calls are counted from zero.
    pub fn forget(&self, crash_loop: &CrashLoop) {
        self.calls
            .lock()
            .retain(|(plugin, _), _| *plugin != crash_loop.plugin);
        self.crash_loops
            .send_modify(|all| all.retain(|other| other.digest != crash_loop.digest));
    }

    /// Plugins that are quarantined, or about to be.
    pub fn quarantined_plugins(&self) -> BTreeSet<PluginName> {
        let known = self.known.load();
        let current = known
            .iter()
            .filter(|row| row.is_current)
            .map(|row| row.plugin.clone());
        current
            .chain(
                self.crash_loops
                    .borrow()
                    .iter()
                    .map(|crash_loop| crash_loop.plugin.clone()),
            )
            .collect()
    }

    pub fn queues(&self) -> Vec<QueueName> {
        let known = self.known.load();
        let names = known
            .iter()
            .filter(|row| row.is_current)
            .flat_map(|row| row.manifest["queues"].as_array())
            .flatten();
        names
            .filter_map(|entry| entry["name"].as_str()?.parse().ok())
            .collect()
    }

    /// How many quarantines of each plugin this process has begun since its start, by the outcome
    /// of most crashes.
    pub fn begun(&self) -> HashMap<(PluginName, OutcomeKind), u64> {
        self.begun.lock().clone()
    }

    /// Counts that this process has begun the quarantine.
    pub fn count(&self, crash_loop: &CrashLoop) {
        let mut begun = self.begun.lock();
        *begun
            .entry((crash_loop.plugin.clone(), crash_loop.mostly))
            .or_default() += 1;
    }

    /// The quarantine of the plugin, if there is one.
    pub fn of_plugin(&self, plugin: &PluginName) -> Option<Quarantined> {
        let known = self.known.load();
        known
            .iter()
            .find(|row| row.is_current && row.plugin == *plugin)
            .map(story)
    }

    /// The quarantine of the plugin that handles the queue, if there is one.
    pub fn of_queue(&self, queue: &QueueName) -> Option<Quarantined> {
        let known = self.known.load();
        known
            .iter()
            .find(|row| row.is_current && handles(&row.manifest, queue))
            .map(story)
    }
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quarantine")
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

fn handles(manifest: &Value, queue: &QueueName) -> bool {
    manifest["queues"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|entry| entry["name"] == queue.as_str())
}

fn story(row: &patchbay_model::quarantine::Quarantine) -> Quarantined {
    Quarantined {
        plugin: row.plugin.clone(),
        since: time(row.began_at),
        by: row.began_by.clone(),
        reason: row.reason.clone(),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RULE: Rule = Rule {
        calls: 4,
        crashes: 2,
        jobs: 2,
        within: Duration::from_secs(60),
    };

    struct World {
        quarantine: Arc<Quarantine>,
        seen: mpsc::UnboundedReceiver<CrashLoop>,
    }

    fn name() -> PluginName {
        "email".parse().expect("a name")
    }

    fn active() -> RevisionDigest {
        RevisionDigest::of(b"active")
    }

    impl World {
        fn new() -> Self {
            let text = "name = \"email\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n[[queues]]\nname = \"emailQueue\"\n";
            let manifest = Arc::new(
                Manifest::from_toml(text, |_| Err("no files".into())).expect("a manifest"),
            );
            let (quarantine, seen) =
                Quarantine::over(Some(RULE), move |_| Some((active(), Arc::clone(&manifest))));
            Self { quarantine, seen }
        }

        fn crash(&self, digest: RevisionDigest, jobs: std::ops::Range<u32>) {
            for id in jobs {
                let (queue, id) = (
                    "emailQueue".parse().expect("a name"),
                    id.to_string().parse().expect("an id"),
                );
                let job = JobKey {
                    prefix: "bull".into(),
                    queue,
                    id,
                    created_ms: 0,
                };
                self.quarantine
                    .note(&name(), digest, &job, OutcomeKind::Trapped);
            }
        }
    }

    #[tokio::test]
    async fn requests_that_can_be_judged_do_not_hide_that_jobs_crash_and_the_other_way_round() {
        let mut world = World::new();
        let request = |id: u32| JobKey {
            prefix: "bull".into(),
            queue: "emailQueue".parse().expect("a name"),
            id: id.to_string().parse().expect("an id"),
            created_ms: 0,
        };
        let judge = |world: &World, id, kind| {
            let quarantine = &world.quarantine;
            quarantine.note_verification(&name(), active(), &request(id), kind);
        };
        world.crash(active(), 0..1);
        judge(&world, 0, OutcomeKind::Completed);
        judge(&world, 1, OutcomeKind::Trapped);
        assert!(world.seen.try_recv().is_err(), "one crash of each");
        world.crash(active(), 1..2);
        assert!(world.seen.try_recv().is_ok(), "two crashes of jobs");
        let mut world = World::new();
        for id in 0..2 {
            judge(&world, id, OutcomeKind::Trapped);
        }
        let crash_loop = world.seen.try_recv().expect("two crashes of verify");
        assert!(
            crash_loop.reason.contains("in 2 requests"),
            "{crash_loop:?}"
        );
    }

    #[tokio::test]
    async fn a_plugin_that_crashes_too_often_stands_still_at_once_and_is_told_of_once() {
        let mut world = World::new();
        let (queue, other) = (
            "emailQueue".parse().expect("a name"),
            "otherQueue".parse().expect("a name"),
        );
        world.crash(active(), 0..1);
        assert!(!world.quarantine.holds(&queue));
        world.crash(active(), 1..9);
        assert!(world.quarantine.holds(&queue) && !world.quarantine.holds(&other));
        assert!(world.quarantine.has(&active()));
        let crash_loop = world.seen.try_recv().expect("told");
        assert!(world.seen.try_recv().is_err(), "once");
        world.quarantine.forget(&crash_loop);
        world.quarantine.until_free(&queue).await;
        world.crash(active(), 0..1);
        assert!(
            !world.quarantine.has(&active()),
            "counted from nothing after its release"
        );
    }

    #[test]
    fn the_last_calls_of_a_revision_that_is_not_active_any_more_say_nothing() {
        let mut world = World::new();
        world.crash(RevisionDigest::of(b"old"), 0..9);
        assert!(world.seen.try_recv().is_err());
    }
}
