//! `[history]`: what is recorded, and how long it is kept.

use std::time::Duration;

use patchbay_store::KeepAttempts;

use super::key::{key, section};
use super::kind::{boolean, mebibytes, number, seconds};
use patchbay_work::body_budget::Recording;

section! {
    /// The history.
    pub struct History {
        /// Whether attempts are recorded; false: jobs run, but only what BullMQ keeps of them can
        /// be seen later
        enabled: bool = key("history.enabled", boolean()).default("true");
        /// Whether data and result of jobs are kept with their last attempt, sealed; needs
        /// secrets.key_file
        bodies: bool = key("history.bodies", boolean()).default("true");
        /// While attempts that Postgres does not have yet use more of Redis's memory than this,
        /// data and results are left out
        buffer: u64 = key("history.buffer_mb", mebibytes(1..=65_536)).default("64");
        /// Completed attempts are deleted after this many days; per queue: patchbay history
        /// retention
        keep_days: i32 = key("history.keep_days", number(1..=36_500)).default("90");
        /// All other attempts are deleted after this many days
        keep_failed_days: i32 = key("history.keep_failed_days", number(1..=36_500)).default("365");
        /// Whether jobs that other workers ended (Node's, for example) are copied to the history,
        /// as far as they can be seen
        mirror: bool = key("history.mirror", boolean()).default("true");
        /// Time between two checks for jobs that other workers ended
        mirror_every: Duration = key("history.mirror_every_s", seconds(1..=600)).default("15");
    }
}

impl History {
    /// What is recorded of attempts; `has_key`: whether bodies can be sealed.
    pub fn recording(&self, has_key: bool) -> Recording {
        Recording {
            attempts: *self.enabled,
            bodies: *self.bodies,
            has_key,
            buffer_bytes: *self.buffer,
        }
    }

    /// The default retention of attempts.
    pub fn keep(&self) -> KeepAttempts {
        KeepAttempts {
            completed_days: *self.keep_days,
            other_days: *self.keep_failed_days,
        }
    }

    /// Time between two rounds that copy what other workers ended; `None` when the mirror is off.
    pub fn mirror_every(&self) -> Option<Duration> {
        (*self.enabled && *self.mirror).then_some(*self.mirror_every)
    }
}
