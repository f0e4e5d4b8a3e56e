//! `[routes]`: what requests to routes of plugins may take of a host.

use std::time::Duration;

use patchbay_app::routes::KeptBytes;
use patchbay_capability::RelayPace;

use super::key::{key, section};
use super::kind::{mebibytes, number, seconds};

section! {
    /// Routes of plugins.
    pub struct Routes {
        /// Redis's memory for answers that are kept for repeats with the same Idempotency-Key, of one
        /// account or vendor, in MiB; beyond it a repeat is answered with answer-not-kept
        kept_of_caller: u64 = key("routes.kept_answers_per_caller_mb", mebibytes(0..=1_024)).default("16");
        /// The same of all accounts and vendors together, in MiB
        kept_of_all: u64 = key("routes.kept_answers_mb", mebibytes(0..=65_536)).default("256");
        /// Bytes in a second that a client of a relayed answer must take; a slower one is cut off, so
        /// that it holds no place. 0: as slowly as it likes
        relay_min_bytes_per_s: u32 = key("routes.relay_min_bytes_per_s", number(0..=1_000_000)).default("2048");
        /// The mean over so many seconds, without those in which the server is waited for
        relay_slow_after: Duration = key("routes.relay_slow_after_s", seconds(1..=900)).default("30");
    }
}

impl Routes {
    /// How fast clients of relayed answers must read.
    pub fn pace(&self) -> RelayPace {
        RelayPace {
            min_bytes_per_s: *self.relay_min_bytes_per_s,
            over: *self.relay_slow_after,
        }
    }

    /// How much kept answers may take in Redis.
    pub fn kept(&self) -> KeptBytes {
        KeptBytes {
            of_caller: *self.kept_of_caller,
            of_all: *self.kept_of_all,
        }
    }
}
