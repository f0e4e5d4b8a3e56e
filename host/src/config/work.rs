//! `[work]`

use std::time::Duration;

use super::key::{key, section};
use super::kind::{number, seconds};

section! {
    /// Working on jobs.
    pub struct Work {
        /// Maximum number of jobs at the same time, over all queues
        max_jobs: usize = key("work.max_jobs", number(1..=10_000)).default("100");
        /// Length of the lock on a running job; after a crash, the job runs again in about this
        /// time
        lock: Duration = key("work.lock_s", seconds(2..=3_600)).default("30");
        /// How often locks are renewed; must be less than half of work.lock_s
        renew: Duration = key("work.renew_s", seconds(1..=3_600)).default("10");
        /// How often a host may crash while it runs a job before the job fails as crashed-host
        max_stalls: u32 = key("work.max_stalls", number(1..=1_000)).default("10");
        /// Longest wait for running jobs after SIGTERM
        drain_limit: Duration = key("work.drain_limit_s", seconds(1..=3_600)).default("20");
        /// When the supervisor kills the process; must be more than work.drain_limit_s
        stop_grace: Duration = key("work.stop_grace_s", seconds(2..=3_600)).default("30");
    }
}
