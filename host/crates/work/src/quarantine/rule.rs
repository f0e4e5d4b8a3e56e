//! Decides when a revision crashes too often: a pure rule over its last calls. The clock is passed
//! in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use patchbay_model::job::JobKey;
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::words::counted;

/// A revision crashes too often if, of its last `calls` calls within `within`, none succeeded and
/// at least `crashes` crashed, over at least `jobs` different jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub calls: usize,
    pub crashes: usize,
    pub jobs: usize,
    pub within: Duration,
}

/// Whether the outcome means that the plugin is broken, and not a job or something outside.
pub fn is_crash(kind: OutcomeKind) -> bool {
    CRASHES.contains(&kind)
}

pub const CRASHES: [OutcomeKind; 4] = [
    OutcomeKind::Trapped,
    OutcomeKind::Deadline,
    OutcomeKind::MemoryLimit,
    OutcomeKind::InvalidResult,
];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The outcome of most crashes.
    pub(super) mostly: OutcomeKind,
    pub(super) reason: String,
}

/// The last calls of one kind of one revision since its last success.
#[derive(Debug)]
pub(super) struct Calls {
    last: VecDeque<Call>,
    /// What each is made for: `job`, or `request`.
    what: &'static str,
}

#[derive(Debug)]
struct Call {
    at: Instant,
    kind: OutcomeKind,
    job: JobKey,
}

impl Calls {
    pub(super) fn of(what: &'static str) -> Self {
        Self {
            last: VecDeque::new(),
            what,
        }
    }

    /// Records a call that has ended. Returns a verdict if it was one crash too many.
    pub(super) fn note(
        &mut self,
        rule: &Rule,
        kind: OutcomeKind,
        job: &JobKey,
        now: Instant,
    ) -> Option<Verdict> {
        match kind {
            OutcomeKind::Completed => self.last.clear(),
            // The host's fault says nothing about the plugin.
            OutcomeKind::HostFault => {}
            _ => self.last.push_back(Call {
                at: now,
                kind,
                job: job.clone(),
            }),
        }
        let outdated = |call: &Call| now.saturating_duration_since(call.at) > rule.within;
        while self.last.len() > rule.calls || self.last.front().is_some_and(outdated) {
            self.last.pop_front();
        }
        let crashed: Vec<&Call> = self
            .last
            .iter()
            .filter(|call| is_crash(call.kind))
            .collect();
        let jobs: BTreeSet<(&str, &str)> = crashed
            .iter()
            .map(|call| (call.job.queue.as_str(), call.job.id.as_str()))
            .collect();
        if crashed.len() < rule.crashes || jobs.len() < rule.jobs || !is_crash(kind) {
            return None;
        }
        let count = |kind: &OutcomeKind| crashed.iter().filter(|call| call.kind == *kind).count();
        let mostly = CRASHES.into_iter().max_by_key(count).unwrap_or(kind);
        let kinds: BTreeMap<&str, usize> = CRASHES
            .iter()
            .map(|kind| (kind.as_str(), count(kind)))
            .filter(|(_, n)| *n > 0)
            .collect();
        let kinds = kinds.iter().fold(String::new(), |mut text, (kind, n)| {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{}{n} {kind}",
                if text.is_empty() { "" } else { ", " }
            );
            text
        });
        let reason = format!(
            "{} of the last {} calls within {} s crashed ({kinds}) in {}, and none succeeded",
            crashed.len(),
            self.last.len(),
            rule.within.as_secs(),
            counted(jobs.len(), self.what)
        );
        Some(Verdict { mostly, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        calls: 6,
        crashes: 4,
        jobs: 2,
        within: Duration::from_secs(60),
    };

    struct World(Calls, Instant);

    impl World {
        fn new() -> Self {
            Self(Calls::of("job"), Instant::now())
        }

        fn note(&mut self, kind: OutcomeKind, job: &str) -> Option<String> {
            let job = JobKey {
                prefix: "bull".into(),
                queue: "emailQueue".parse().expect("a name"),
                id: job.parse().expect("an id"),
                created_ms: 0,
            };
            self.0
                .note(&RULE, kind, &job, self.1)
                .map(|verdict| verdict.reason)
        }

        fn crash(&mut self, jobs: &[&str]) -> Option<String> {
            jobs.iter()
                .filter_map(|job| self.note(OutcomeKind::Trapped, job))
                .last()
        }
    }

    #[test]
    fn so_many_crashes_over_several_jobs_without_a_success_are_too_many() {
        let mut world = World::new();
        assert_eq!(world.crash(&["1", "2", "1"]), None);
        let reason = world.note(OutcomeKind::Deadline, "2").expect("the fourth");
        assert_eq!(
            reason,
            "4 of the last 4 calls within 60 s crashed (1 deadline, 3 trapped) in 2 jobs, and none succeeded"
        );
    }

    #[test]
    fn a_success_in_between_begins_anew() {
        let mut world = World::new();
        world.crash(&["1", "2", "3"]);
        assert_eq!(world.note(OutcomeKind::Completed, "4"), None);
        assert_eq!(world.crash(&["1", "2", "3"]), None);
        assert!(world.crash(&["4"]).is_some());
    }

    #[test]
    fn one_job_that_crashes_again_and_again_is_a_bad_job_and_not_a_bad_plugin() {
        let mut world = World::new();
        assert_eq!(world.crash(&["1"; 50]), None);
        assert!(world.crash(&["2"]).is_some());
    }

    #[test]
    fn crashes_that_are_long_ago_and_failures_that_the_plugin_declares_do_not_count() {
        let mut world = World::new();
        world.crash(&["1", "2", "3"]);
        world.1 += Duration::from_secs(61);
        assert_eq!(world.crash(&["4"]), None);
        let mut world = World::new();
        world.crash(&["1", "2", "3"]);
        for job in ["5", "6", "7"] {
            assert_eq!(world.note(OutcomeKind::Failed, job), None);
        }
        assert_eq!(
            world.crash(&["4"]),
            None,
            "3 of the last 6, since the oldest has gone"
        );
        let mut world = World::new();
        world.crash(&["1", "2", "3"]);
        for _ in 0..9 {
            assert_eq!(
                world.note(OutcomeKind::HostFault, "9"),
                None,
                "says nothing of the plugin"
            );
        }
        assert!(world.crash(&["4"]).is_some());
    }
}
