//! `[routes]`: what requests to routes of plugins may take of a host.

use patchbay_app::routes::KeptBytes;

use super::key::{key, section};
use super::kind::mebibytes;

section! {
    /// Routes of plugins.
    pub struct Routes {
        /// Redis's memory for answers that are kept for repeats with the same Idempotency-Key, of one
        /// account or vendor, in MiB; beyond it a repeat is answered with answer-not-kept
        kept_of_caller: u64 = key("routes.kept_answers_per_caller_mb", mebibytes(0..=1_024)).default("16");
        /// The same of all accounts and vendors together, in MiB
        kept_of_all: u64 = key("routes.kept_answers_mb", mebibytes(0..=65_536)).default("256");
    }
}

impl Routes {
    /// How much kept answers may take in Redis.
    pub fn kept(&self) -> KeptBytes {
        KeptBytes {
            of_caller: *self.kept_of_caller,
            of_all: *self.kept_of_all,
        }
    }
}
