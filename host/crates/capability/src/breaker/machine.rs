//! One breaker as a pure state machine: the caller passes the clock in.
//!
//! closed ─(so many failures within a time)→ open ─(time)→ half-open ─(its one probe answered)→
//! closed, or ─(failed)→ open again. An operator may open it (it stays open until he closes it) and
//! close it. Reports of calls that began in an earlier phase are ignored, so that a crowd of late
//! failures neither opens a breaker that was just closed nor prolongs an open one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use patchbay_model::breaker::BreakerLimits;

/// Wait that callers are told during the probe: nobody knows how long it takes.
const WHILE_PROBING: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Answered,
    /// No answer, or one with 5xx.
    Failed,
    /// Unknown: the call was given up for another reason.
    Unknown,
}

/// Permission for one call; handed back with the report.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrialPermit {
    phase: u64,
    pub(super) probe: bool,
}

/// When the next caller may be let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Now,
    At(Instant),
    /// After another event: a probe ends, or an operator closes the breaker.
    Later,
}

#[derive(Debug)]
pub(super) enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: bool },
    Held { by: String, reason: String },
}

/// When it stopped being closed. Trials that fail meanwhile do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) at: Instant,
    /// Failures that opened it; 0 if an operator did.
    pub(super) failures: u32,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) phase: Phase,
    number: u64,
    pub(super) since: Instant,
    /// `None` while closed.
    pub(super) opening: Option<Opening>,
    failures: VecDeque<Instant>,
}

impl Machine {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Closed,
            number: 0,
            since: now,
            opening: None,
            failures: VecDeque::new(),
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        let opening = || Opening {
            at: now,
            failures: match phase {
                Phase::Held { .. } => 0,
                _ => u32::try_from(self.failures.len()).unwrap_or(u32::MAX),
            },
        };
        self.opening = match phase {
            Phase::Closed => None,
            // An operator's order is another reason than failures.
            Phase::Held { .. } => Some(opening()),
            Phase::Open { .. } | Phase::HalfOpen { .. } => self.opening.or_else(|| Some(opening())),
        };
        self.phase = phase;
        self.number += 1;
        self.since = now;
        self.failures.clear();
    }

    /// Lets a call through; the error is for how long calls are refused.
    pub(super) fn admit(
        &mut self,
        limits: &BreakerLimits,
        now: Instant,
    ) -> Result<TrialPermit, Duration> {
        match (self.next(now), &mut self.phase) {
            (_, Phase::Closed) => {}
            (Next::Now, Phase::HalfOpen { probing }) => *probing = true,
            (Next::Now, _) => self.enter(Phase::HalfOpen { probing: true }, now),
            (Next::At(_) | Next::Later, _) => {
                return Err(self.refuses_for(limits, now).unwrap_or_default());
            }
        }
        Ok(TrialPermit {
            phase: self.number,
            probe: matches!(self.phase, Phase::HalfOpen { .. }),
        })
    }

    /// How long a caller should wait now; nothing while closed.
    pub(super) fn refuses_for(&self, limits: &BreakerLimits, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Closed => None,
            Phase::Open { until } => Some(until.saturating_duration_since(now)),
            Phase::HalfOpen { .. } => Some(WHILE_PROBING),
            Phase::Held { .. } => Some(limits.open),
        }
    }

    /// Takes a report; returns whether it changed the phase.
    pub(super) fn report(
        &mut self,
        limits: &BreakerLimits,
        ticket: TrialPermit,
        report: Report,
        now: Instant,
    ) -> bool {
        if ticket.phase != self.number {
            return false;
        }
        match (ticket.probe, report) {
            (true, Report::Answered) => self.enter(Phase::Closed, now),
            (true, Report::Failed) => self.enter(
                Phase::Open {
                    until: now + limits.open,
                },
                now,
            ),
            // The next caller is the probe.
            (true, Report::Unknown) => self.phase = Phase::HalfOpen { probing: false },
            (false, Report::Failed) => {
                self.failures.push_back(now);
                if self.recent_failures(limits, now) < limits.failures {
                    return false;
                }
                self.enter(
                    Phase::Open {
                        until: now + limits.open,
                    },
                    now,
                );
            }
            (false, Report::Answered | Report::Unknown) => return false,
        }
        true
    }

    pub(super) fn recent_failures(&mut self, limits: &BreakerLimits, now: Instant) -> u32 {
        while self
            .failures
            .front()
            .is_some_and(|&at| now.saturating_duration_since(at) > limits.within)
        {
            self.failures.pop_front();
        }
        u32::try_from(self.failures.len()).unwrap_or(u32::MAX)
    }

    /// Opens the breaker until an operator closes it.
    pub(super) fn hold(&mut self, by: &str, reason: &str, now: Instant) {
        self.enter(
            Phase::Held {
                by: by.to_owned(),
                reason: reason.to_owned(),
            },
            now,
        );
    }

    pub(super) fn close(&mut self, now: Instant) {
        self.enter(Phase::Closed, now);
    }

    pub(super) fn next(&self, now: Instant) -> Next {
        match self.phase {
            Phase::Closed | Phase::HalfOpen { probing: false } => Next::Now,
            Phase::Open { until } if now < until => Next::At(until),
            Phase::Open { .. } => Next::Now,
            Phase::HalfOpen { probing: true } | Phase::Held { .. } => Next::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BreakerLimits = BreakerLimits {
        failures: 3,
        within: Duration::from_secs(30),
        open: Duration::from_secs(15),
    };

    struct World(Machine, Instant);

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            Self(Machine::new(now), now)
        }

        fn after(&mut self, seconds: u64) -> &mut Self {
            self.1 += Duration::from_secs(seconds);
            self
        }

        fn admit(&mut self) -> Result<TrialPermit, u64> {
            self.0.admit(&LIMITS, self.1).map_err(|wait| wait.as_secs())
        }

        fn report(&mut self, ticket: TrialPermit, report: Report) -> bool {
            self.0.report(&LIMITS, ticket, report, self.1)
        }

        fn call(&mut self, report: Report) -> bool {
            let ticket = self.admit().expect("let through");
            self.report(ticket, report)
        }

        fn opened() -> Self {
            let mut world = Self::new();
            assert!(
                !world.call(Report::Failed)
                    && !world.call(Report::Failed)
                    && world.call(Report::Failed)
            );
            world
        }
    }

    #[test]
    fn so_many_failures_within_the_time_open_it_and_older_ones_do_not_count() {
        let mut world = World::new();
        world.call(Report::Failed);
        world.after(20).call(Report::Failed);
        world.after(20).call(Report::Failed);
        assert!(world.admit().is_ok(), "the first one is 40 s old");
        assert!(world.call(Report::Failed), "three within 20 s");
        assert_eq!(world.admit().expect_err("open"), 15);
        assert_eq!(
            world.after(5).admit().expect_err("open"),
            10,
            "how long it is still open"
        );
    }

    #[test]
    fn how_it_was_opened_is_known_until_it_is_closed_whatever_its_trials_do() {
        let mut world = World::opened();
        let opening = world.0.opening.expect("open");
        assert_eq!(opening.failures, 3);
        let probe = world.after(20).admit().expect("the probe");
        world.report(probe, Report::Failed);
        assert_eq!(
            world.0.opening,
            Some(opening),
            "a failed trial opens nothing"
        );
        let now = world.1;
        world.0.hold("ada", "maintenance", now);
        let held = Opening {
            at: now,
            failures: 0,
        };
        assert_eq!(world.0.opening, Some(held));
        world.0.close(now);
        assert_eq!(world.0.opening, None);
    }

    #[test]
    fn answers_and_calls_that_were_given_up_count_for_nothing() {
        let mut world = World::new();
        for report in [
            Report::Answered,
            Report::Unknown,
            Report::Failed,
            Report::Failed,
            Report::Answered,
        ] {
            assert!(!world.call(report));
        }
        assert!(
            world.call(Report::Failed),
            "an answer takes no failure back: a host may fail every other time"
        );
    }

    #[test]
    fn half_open_lets_exactly_one_through_and_its_answer_closes() {
        let mut world = World::opened();
        let probe = world.after(15).admit().expect("the probe");
        assert_eq!(world.admit().expect_err("one at a time"), 1);
        assert_eq!(world.0.next(world.1), Next::Later);
        assert!(world.report(probe, Report::Answered));
        assert!(
            !world.call(Report::Failed) && !world.call(Report::Failed),
            "counted from nothing"
        );
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_for_the_whole_time() {
        let mut world = World::opened();
        let probe = world.after(20).admit().expect("the probe");
        assert!(world.after(3).report(probe, Report::Failed));
        assert_eq!(world.admit().expect_err("open"), 15);
    }

    #[test]
    fn a_probe_that_was_given_up_leaves_its_place_to_the_next() {
        let mut world = World::opened();
        let probe = world.after(15).admit().expect("the probe");
        assert!(world.report(probe, Report::Unknown));
        assert_eq!(world.0.next(world.1), Next::Now);
        let second = world.admit().expect("the next probe");
        assert!(world.admit().is_err() && world.report(second, Report::Answered));
    }

    #[test]
    fn late_reports_of_an_earlier_phase_change_nothing() {
        let mut world = World::new();
        let late: Vec<TrialPermit> = (0..9).map(|_| world.admit().expect("closed")).collect();
        for ticket in &late[..3] {
            world.report(*ticket, Report::Failed);
        }
        assert!(!world.after(10).report(late[3], Report::Failed));
        assert_eq!(world.admit().expect_err("open"), 5, "not prolonged");
        assert!(!world.report(late[4], Report::Answered), "nor closed");
        let probe = world.after(5).admit().expect("the probe");
        assert!(
            !world.report(late[5], Report::Failed),
            "only the probe decides"
        );
        world.report(probe, Report::Answered);
        assert!(!world.report(late[6], Report::Failed) && !world.report(late[7], Report::Failed));
        assert!(!world.report(late[8], Report::Failed) && world.admit().is_ok());
    }

    #[test]
    fn what_an_operator_opens_stays_open_until_he_closes_it() {
        let mut world = World::new();
        let now = world.1;
        let before = world.admit().expect("closed");
        world.0.hold("ada", "maintenance", now);
        assert!(!world.report(before, Report::Answered));
        assert_eq!(world.after(10_000).admit().expect_err("held"), 15);
        assert_eq!(world.0.next(world.1), Next::Later);
        let now = world.1;
        world.0.close(now);
        assert!(world.admit().is_ok());
    }
}
