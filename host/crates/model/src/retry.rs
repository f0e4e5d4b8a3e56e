//! When a job runs again. The host decides every retry: BullMQ's own backoff has no maximum and
//! does not know our outcomes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcome::{Outcome, Retry};

/// Longest delay that a guest may ask for with `after-ms`.
pub const MAX_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long after its first deferral a job may be deferred without using up attempts.
pub const MAX_DEFER_AGE: Duration = Duration::from_secs(24 * 3600);
/// Maximum of a manifest's exponential backoff that names none: a day is the longest outage that we
/// plan for. A job's own backoff has no maximum, as in BullMQ.
pub const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(24 * 3600);
/// Longest time that anything waits. BullMQ stores times multiplied by 4,096 as floating-point
/// numbers, which are exact for some years to come.
pub const MAX_DELAY: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// Share by which a delay is lengthened at random if no jitter is given: jobs that failed together
/// must not come back together, and none may come back sooner than its producer asked.
pub const DEFAULT_JITTER: f64 = 0.2;
/// Shortest wait of a job's first deferral; each further deferral in a row doubles it.
pub const FIRST_DEFERRAL: Duration = Duration::from_secs(1);
/// Upper limit of the doubled wait.
pub const MAX_LEAST_DEFERRAL: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackoffKind {
    /// The same delay each time.
    Fixed,
    /// Doubled after each attempt.
    Exponential,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    pub kind: BackoffKind,
    /// The first delay.
    pub delay: Duration,
    pub max: Option<Duration>,
    /// Random share of the delay, 0.0 to 1.0, as in BullMQ; 1.0 is full jitter. Absent means that
    /// [`DEFAULT_JITTER`] is added.
    pub jitter: Option<f64>,
}

impl Backoff {
    /// Without a maximum of its own, at least the first delay plus jitter.
    fn longest(&self) -> Duration {
        let first = self.delay.min(MAX_DELAY).mul_f64(1.0 + DEFAULT_JITTER);
        match (self.max, self.kind) {
            (Some(max), _) => max,
            (None, BackoffKind::Fixed) => first,
            (None, BackoffKind::Exponential) => first.max(DEFAULT_MAX_BACKOFF),
        }
    }

    /// Names the maximum when a manifest's backoff becomes a job's own, which has none by default.
    pub(crate) fn with_explicit_maximum(self) -> Self {
        let max = (self.kind == BackoffKind::Exponential).then(|| self.longest());
        Self {
            max: self.max.or(max),
            ..self
        }
    }

    /// `attempts_made` is 1 after the first attempt; `random` is uniform in 0.0..1.0.
    pub fn delay_after(&self, attempts_made: u32, random: f64) -> Duration {
        let max = self.longest().min(MAX_DELAY);
        let base = match self.kind {
            BackoffKind::Fixed => self.delay,
            BackoffKind::Exponential => self
                .delay
                .saturating_mul(2u32.saturating_pow(attempts_made.saturating_sub(1))),
        };
        let base = base.min(max);
        match self.jitter {
            Some(jitter) => base.mul_f64(1.0 - jitter.clamp(0.0, 1.0) * random),
            None => {
                let longer = base.mul_f64(1.0 + DEFAULT_JITTER * random);
                // At the maximum, the delay can only become shorter.
                if longer <= max {
                    longer
                } else {
                    base.mul_f64(1.0 - DEFAULT_JITTER * random)
                }
            }
        }
    }
}

/// The job's own options win over the manifest's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// Absent means no delay between attempts, as in BullMQ.
    pub backoff: Option<Backoff>,
}

impl RetryPolicy {
    /// The job's own values, else the manifest's, else one attempt.
    ///
    /// BullMQ's producers write `attempts: 0` when the caller gave none, so 0 counts as absent.
    pub fn merge(
        job: (Option<u32>, Option<Backoff>),
        manifest: (Option<u32>, Option<Backoff>),
    ) -> Self {
        let own = job.1.map(|own| Backoff {
            max: own.max.or(Some(MAX_DELAY)),
            ..own
        });
        Self {
            attempts: job.0.filter(|&n| n > 0).or(manifest.0).unwrap_or(1).max(1),
            backoff: own.or(manifest.1),
        }
    }
}

/// What to do with a job whose call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Complete,
    /// Run again after this long; the attempt counts.
    RetryAfter(Duration),
    /// Run again after this long; the attempt does not count.
    Defer(Duration),
    Fail,
}

/// Shortest wait after `before` deferrals in a row; `random` is uniform in 0.0..1.0.
///
/// A deferral uses up no attempt, so nothing else limits how often a job runs in the day for which
/// it may be deferred. The wait is lengthened at random, so that jobs that were deferred together
/// do not come back together.
pub fn least_deferral(before: u32, random: f64) -> Duration {
    let doubled = FIRST_DEFERRAL
        .saturating_mul(2u32.saturating_pow(before))
        .min(MAX_LEAST_DEFERRAL);
    doubled.mul_f64(1.0 + DEFAULT_JITTER * random)
}

/// The job's history, as far as retries depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Attempts that counted, the present one included.
    pub attempts_made: u32,
    /// Time since it was first deferred.
    pub since_first_deferral: Duration,
    /// The shortest wait if it is deferred now; see [`least_deferral`].
    pub least_deferral: Duration,
}

/// `random` is uniform in 0.0..1.0.
pub fn decide(outcome: &Outcome, policy: &RetryPolicy, past: &Past, random: f64) -> Verdict {
    let Past {
        attempts_made,
        since_first_deferral,
        least_deferral,
    } = *past;
    let counted = |delay: Option<Duration>| {
        if attempts_made >= policy.attempts {
            return Verdict::Fail;
        }
        let backoff = || {
            policy
                .backoff
                .map_or(Duration::ZERO, |b| b.delay_after(attempts_made, random))
        };
        Verdict::RetryAfter(delay.unwrap_or_else(backoff))
    };
    let deferred = |delay: Duration| {
        if since_first_deferral < MAX_DEFER_AGE {
            Verdict::Defer(delay.max(least_deferral))
        } else {
            counted(None)
        }
    };
    match outcome {
        Outcome::Completed(_) => Verdict::Complete,
        Outcome::InvalidResult(_) => Verdict::Fail,
        Outcome::Trapped(_) | Outcome::Deadline(_) | Outcome::MemoryLimit(_) => counted(None),
        Outcome::HostFault(_) => deferred(Duration::ZERO),
        Outcome::Failed(failure) => match failure.retry {
            Retry::Never => Verdict::Fail,
            Retry::Backoff => counted(None),
            Retry::After(delay) => counted(Some(delay.min(MAX_AFTER))),
            Retry::Defer(delay) => deferred(delay.min(MAX_DEFER_AGE)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Failure;

    const MINUTE: Duration = Duration::from_secs(60);

    fn failed(retry: Retry) -> Outcome {
        Outcome::Failed(Failure {
            code: "unavailable".into(),
            message: String::new(),
            retry,
            details: None,
        })
    }

    fn past(attempts_made: u32, since_first_deferral: Duration) -> Past {
        Past {
            attempts_made,
            since_first_deferral,
            least_deferral: FIRST_DEFERRAL,
        }
    }

    fn policy(attempts: u32) -> RetryPolicy {
        let backoff = Backoff {
            kind: BackoffKind::Exponential,
            delay: Duration::from_secs(1),
            max: Some(Duration::from_secs(10)),
            jitter: Some(0.0),
        };
        RetryPolicy {
            attempts,
            backoff: Some(backoff),
        }
    }

    #[test]
    fn exponential_delays_double_up_to_the_maximum() {
        let backoff = policy(9).backoff.expect("set");
        let delays: Vec<u64> = (1..=6)
            .map(|n| backoff.delay_after(n, 0.5).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.delay_after(u32::MAX, 0.5).as_secs(), 10);
    }

    #[test]
    fn full_jitter_spreads_over_the_whole_delay() {
        let backoff = Backoff {
            jitter: Some(1.0),
            ..policy(2).backoff.expect("set")
        };
        assert_eq!(backoff.delay_after(1, 0.0), Duration::from_secs(1));
        assert_eq!(backoff.delay_after(1, 1.0), Duration::ZERO);
    }

    #[test]
    fn without_a_word_about_jitter_no_retry_comes_sooner_than_asked_and_none_later_than_the_maximum()
     {
        let backoff = Backoff {
            jitter: None,
            max: Some(Duration::from_secs(8)),
            ..policy(9).backoff.expect("set")
        };
        assert_eq!(backoff.delay_after(2, 0.0), Duration::from_secs(2));
        assert_eq!(backoff.delay_after(2, 0.5), Duration::from_millis(2_200));
        assert_eq!(backoff.delay_after(4, 0.5), Duration::from_millis(7_200));
    }

    #[test]
    fn a_jobs_own_backoff_has_no_maximum_and_a_manifests_doubling_ends_at_a_day() {
        let day = Duration::from_secs(24 * 3600);
        let exponential = Backoff {
            kind: BackoffKind::Exponential,
            delay: Duration::from_secs(3600),
            max: None,
            jitter: Some(0.0),
        };
        let fixed = Backoff {
            kind: BackoffKind::Fixed,
            delay: 2 * day,
            ..exponential
        };
        let delay = |policy: RetryPolicy, made| {
            policy.backoff.map(|backoff| backoff.delay_after(made, 0.5))
        };
        let own = |backoff| RetryPolicy::merge((Some(20), Some(backoff)), (None, None));
        let manifests = |backoff| RetryPolicy::merge((Some(20), None), (None, Some(backoff)));
        assert_eq!(delay(own(fixed), 1), Some(2 * day));
        assert_eq!(
            delay(own(exponential), 10),
            Some(Duration::from_secs(3600 * 512))
        );
        assert_eq!(delay(own(exponential), 100), Some(MAX_DELAY));
        assert_eq!(delay(manifests(fixed), 1), Some(2 * day));
        assert_eq!(delay(manifests(exponential), 10), Some(day));
        let spread = Backoff {
            jitter: None,
            ..fixed
        };
        for random in [0.0, 0.5, 1.0] {
            assert!(
                delay(manifests(spread), 1) >= Some(2 * day),
                "no retry comes sooner than asked"
            );
            assert_eq!(
                spread.delay_after(1, random),
                2 * day.mul_f64(1.0 + DEFAULT_JITTER * random)
            );
        }
    }

    #[test]
    fn a_job_with_attempts_left_is_retried_and_one_without_fails() {
        let outcome = failed(Retry::Backoff);
        assert_eq!(
            decide(&outcome, &policy(3), &past(1, MINUTE), 0.0),
            Verdict::RetryAfter(Duration::from_secs(1))
        );
        assert_eq!(
            decide(&outcome, &policy(3), &past(3, MINUTE), 0.0),
            Verdict::Fail
        );
    }

    #[test]
    fn never_fails_at_once_whatever_attempts_remain() {
        assert_eq!(
            decide(&failed(Retry::Never), &policy(9), &past(1, MINUTE), 0.0),
            Verdict::Fail
        );
        assert_eq!(
            decide(
                &Outcome::InvalidResult(String::new()),
                &policy(9),
                &past(1, MINUTE),
                0.0
            ),
            Verdict::Fail
        );
    }

    #[test]
    fn deferring_burns_no_attempt_for_a_day_and_counts_afterwards() {
        let outcome = failed(Retry::Defer(MINUTE));
        assert_eq!(
            decide(&outcome, &policy(1), &past(1, MINUTE), 0.0),
            Verdict::Defer(MINUTE)
        );
        assert_eq!(
            decide(&outcome, &policy(1), &past(1, MAX_DEFER_AGE), 0.0),
            Verdict::Fail
        );
        assert_eq!(
            decide(&outcome, &policy(2), &past(1, MAX_DEFER_AGE), 0.0),
            Verdict::RetryAfter(Duration::from_secs(1))
        );
    }

    #[test]
    fn the_least_wait_of_deferrals_in_a_row_doubles_from_a_second_to_five_minutes() {
        let seconds: Vec<u64> = (0..11)
            .map(|before| least_deferral(before, 0.0).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(least_deferral(u32::MAX, 0.0), MAX_LEAST_DEFERRAL);
        assert_eq!(
            least_deferral(0, 0.5),
            Duration::from_millis(1_100),
            "spread, and never shorter"
        );
    }

    #[test]
    fn no_deferral_is_shorter_than_the_least_one_and_none_longer_than_a_day() {
        let second = past(1, Duration::ZERO);
        for asked in [Duration::ZERO, Duration::from_millis(999)] {
            assert_eq!(
                decide(&failed(Retry::Defer(asked)), &policy(1), &second, 0.0),
                Verdict::Defer(Duration::from_secs(1))
            );
        }
        let longer = Past {
            least_deferral: 2 * MINUTE,
            ..second
        };
        assert_eq!(
            decide(&failed(Retry::Defer(MINUTE)), &policy(1), &longer, 0.0),
            Verdict::Defer(2 * MINUTE)
        );
        assert_eq!(
            decide(&Outcome::HostFault(String::new()), &policy(1), &longer, 0.0),
            Verdict::Defer(2 * MINUTE),
            "the host's own trouble, too"
        );
        let ages = Duration::from_millis(u64::MAX);
        assert_eq!(
            decide(&failed(Retry::Defer(ages)), &policy(1), &second, 0.0),
            Verdict::Defer(MAX_DEFER_AGE)
        );
        assert_eq!(
            decide(&failed(Retry::After(ages)), &policy(2), &second, 0.0),
            Verdict::RetryAfter(MAX_AFTER)
        );
    }

    #[test]
    fn a_job_that_sets_no_attempts_takes_the_manifests() {
        let ours = policy(5).backoff;
        assert_eq!(
            RetryPolicy::merge((Some(0), None), (Some(5), ours)).attempts,
            5
        );
        assert_eq!(
            RetryPolicy::merge((Some(2), None), (Some(5), ours)).attempts,
            2
        );
        assert_eq!(
            RetryPolicy::merge((None, None), (None, None)),
            RetryPolicy {
                attempts: 1,
                backoff: None
            }
        );
    }
}
