//! `[work]`

use std::time::Duration;

use super::key::{key, section};
use super::kind::{number, seconds};

section! {
    /// Working on jobs.
    pub struct Work {
        /// Jobs at once over all queues
        max_jobs: usize = key("work.max_jobs", number(1..=10_000)).default("100");
        /// Lock on a running job: a crash recovers in about this time
        lock: Duration = key("work.lock_s", seconds(2..=3_600)).default("30");
        /// How often locks are renewed; less than half of work.lock_s
        renew: Duration = key("work.renew_s", seconds(1..=3_600)).default("10");
        /// Crashes under a job before it fails as crashed-host
        max_stalls: u32 = key("work.max_stalls", number(1..=1_000)).default("10");
        /// Longest wait for running jobs after SIGTERM
        drain_limit: Duration = key("work.drain_limit_s", seconds(1..=3_600)).default("20");
        /// When the supervisor kills; more than work.drain_limit_s
        stop_grace: Duration = key("work.stop_grace_s", seconds(2..=3_600)).default("30");
    }
}
