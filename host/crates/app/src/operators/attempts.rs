//! Waits after failed logins: shared by all hosts through Redis; while Redis is away, of this
//! process, so that operators get in when they are needed most.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Kind};
use crate::limits::{FailureClass, Limits};
use crate::quota::whole_seconds;

/// Wrong passwords, codes and links. Somebody mistypes; somebody else guesses.
const FAILURES: FailureClass = FailureClass {
    name: "operator-login",
    what: "failed logins",
    free: 5,
    longest: Duration::from_secs(900),
    forgotten_after: Duration::from_secs(900),
};
/// The one that failed longest ago is forgotten first.
const MOST_KNOWN: usize = 10_000;

pub(super) struct Attempts {
    limits: Limits,
    local: Mutex<HashMap<String, (u32, Instant)>>,
}

impl Attempts {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            local: Mutex::default(),
        }
    }

    /// To be called before an attempt; the caller settles it.
    pub(super) async fn begin(&self, key: &str) -> Result<(), Error> {
        match self.limits.wait_after_failures(&FAILURES, key).await {
            Err(error) if error.kind == Kind::Unavailable => self.begin_here(key),
            begun => begun,
        }
    }

    pub(super) async fn failed(&self, key: &str) {
        if self.limits.failed(&FAILURES, key).await.is_err() {
            self.fail_here(key);
        }
    }

    pub(super) async fn passed(&self, key: &str) {
        self.local.lock().remove(key);
        // Without Redis it is forgotten after 15 s.
        self.limits.forgive(&FAILURES, key).await.ok();
    }

    fn begin_here(&self, key: &str) -> Result<(), Error> {
        let known = self.local.lock().get(key).copied();
        let Some((count, last)) = known.filter(|(count, _)| *count >= FAILURES.free) else {
            return Ok(());
        };
        let doubled = 1_u64 << (count - FAILURES.free).min(10);
        let wait = Duration::from_secs(doubled).min(FAILURES.longest);
        let left = wait.saturating_sub(last.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        let message = format!(
            "Too many {}. Try again in {} s",
            FAILURES.what,
            whole_seconds(left)
        );
        Err(Error::new(Kind::RateLimited, "rate-limited", message).retry_after(left))
    }

    fn fail_here(&self, key: &str) {
        let mut local = self.local.lock();
        local.retain(|_, (_, last)| last.elapsed() < FAILURES.forgotten_after * 2);
        if local.len() >= MOST_KNOWN
            && let Some(oldest) = local.iter().min_by_key(|(_, (_, last))| *last)
            && let oldest = oldest.0.clone()
        {
            local.remove(&oldest);
        }
        let (count, last) = local.entry(key.to_owned()).or_insert((0, Instant::now()));
        (*count, *last) = (count.saturating_add(1), Instant::now());
    }
}
