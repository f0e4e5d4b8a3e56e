//! `[quarantine]`: when a plugin crashes too often.

use std::time::Duration;

use super::key::{key, section};
use super::kind::{number, one_of, seconds};
use patchbay_work::quarantine::{Policy, Rule};

/// `None`: there is no quarantine; a plugin may crash without limit.
const POLICIES: &[(&str, Option<Policy>)] = &[
    ("wait", Some(Policy::Wait)),
    ("previous", Some(Policy::Previous)),
    ("off", None),
];

section! {
    /// Quarantine.
    pub struct Quarantine {
        /// What follows when a plugin crashes too often: it waits for an operator (wait), its
        /// previous revision is activated (previous), or it continues (off)
        policy: Option<Policy> = key("quarantine.policy", one_of(POLICIES)).default("wait");
        /// Crashes that quarantine a plugin, without a success in between
        crashes: usize = key("quarantine.crashes", number(2..=1_000)).default("10");
        /// Crashes count among this many last calls
        calls: usize = key("quarantine.calls", number(2..=1_000)).default("20");
        /// Crashes count within this many seconds
        within: Duration = key("quarantine.within_s", seconds(1..=3_600)).default("60");
        /// Crashes must be of at least this many different jobs
        jobs: usize = key("quarantine.jobs", number(1..=1_000)).default("3");
    }
}

impl Quarantine {
    /// When a plugin crashes too often; `None` when there is no quarantine.
    pub fn rule(&self) -> Option<Rule> {
        self.policy.map(|_| Rule {
            calls: *self.calls,
            crashes: *self.crashes,
            jobs: *self.jobs,
            within: *self.within,
        })
    }

    /// What follows a quarantine.
    pub fn policy(&self) -> Policy {
        self.policy.unwrap_or(Policy::Wait)
    }
}
