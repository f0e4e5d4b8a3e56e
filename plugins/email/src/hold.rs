//! The account's daily limit: while it is reached, no job tries. Each waits without using up an
//! attempt; when the time is over, one mail is tried, and the others go on only after it was taken.

use std::time::{SystemTime, UNIX_EPOCH};

use patchbay_plugin::{Failure, Retry, kv};

use crate::database::kv_failed;

const HELD: &str = "held";
const PROBE: &str = "held-probe";
/// Limits are of a day; a hold that nobody renews is forgotten after two.
const KEPT_MS: u64 = 2 * 24 * 3_600 * 1_000;
/// Longer than a call of this plugin.
const PROBE_MS: u64 = 120_000;
/// Until the mail that is tried has an answer.
const BEHIND_PROBE_MS: u64 = 10_000;

/// How a job may go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Permit {
    Free,
    /// It is the one that tries whether the limit is lifted.
    Probe,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// How long to wait still. `None`: not held; 0: the time is over, and somebody must try.
fn remaining(held: Option<&[u8]>, now_ms: u64) -> Option<u64> {
    let until: u64 = std::str::from_utf8(held?).ok()?.parse().ok()?;
    Some(until.saturating_sub(now_ms))
}

fn waits(ms: u64) -> Failure {
    let text = "the account's daily limit was reached: the queue waits until it is lifted";
    Failure::new("daily-limit", text, Retry::DeferMs(ms.max(1_000)))
}

/// Whether a job may send now.
pub fn permit() -> Result<Permit, Failure> {
    let held = kv::get(HELD).map_err(kv_failed)?;
    match remaining(held.as_deref(), now_ms()) {
        None => Ok(Permit::Free),
        Some(0) => match kv::set_if_absent(PROBE, b"1", Some(PROBE_MS)).map_err(kv_failed)? {
            true => Ok(Permit::Probe),
            false => Err(waits(BEHIND_PROBE_MS)),
        },
        Some(ms) => Err(waits(ms)),
    }
}

/// What the mail server's answer means for all jobs: `limited` when it named the daily limit,
/// `taken` when it took the mail.
pub fn told(permit: &Permit, limited: bool, taken: bool, defer_ms: u64) {
    let done = if limited {
        let until = now_ms().saturating_add(defer_ms).to_string();
        kv::set(HELD, until.as_bytes(), Some(KEPT_MS)).map(drop)
    } else if *permit == Permit::Probe && taken {
        kv::delete(HELD).map(drop)
    } else {
        Ok(())
    };
    let done = match permit {
        Permit::Probe => done.and_then(|()| kv::delete(PROBE).map(drop)),
        Permit::Free => done,
    };
    if let Err(error) = done {
        patchbay_plugin::warn!("cannot note the daily limit: {}", error.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_lasts_until_its_time_and_then_one_must_try() {
        assert_eq!(remaining(None, 5), None);
        assert_eq!(remaining(Some(b"1000"), 400), Some(600));
        assert_eq!(remaining(Some(b"1000"), 1_000), Some(0));
        assert_eq!(remaining(Some(b"1000"), 9_000), Some(0));
        assert_eq!(
            remaining(Some(b"\xff"), 1),
            None,
            "not ours: nothing is held"
        );
        let failure = waits(0);
        assert!(failure.code == "daily-limit" && matches!(failure.retry, Retry::DeferMs(1_000)));
    }
}
