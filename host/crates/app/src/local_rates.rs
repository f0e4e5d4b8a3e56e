//! Rate limits while Redis is away or slow: each host counts alone, its part of the limit. So a limit
//! neither opens nor shuts when Redis goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_queue::Taken;

/// Keys beyond these are forgotten: those with nothing taken first, then all.
const MAX_KEYS: usize = 20_000;

/// What this process has taken without Redis.
#[derive(Debug, Default)]
pub(crate) struct LocalRates {
    /// Theoretical arrival times (GCRA).
    due: Mutex<HashMap<String, Instant>>,
    /// Hosts that share each limit; 0 is 1.
    hosts: AtomicUsize,
}

impl LocalRates {
    /// How many hosts run now.
    pub(crate) fn set_hosts(&self, hosts: usize) {
        self.hosts.store(hosts, Ordering::Relaxed);
    }

    /// Takes one of this host's part of `count` units per `window`; the part is at least 1.
    pub(crate) fn take(&self, key: &str, count: u32, window: Duration) -> Taken {
        self.take_at(key, count, window, Instant::now())
    }

    fn take_at(&self, key: &str, count: u32, window: Duration, now: Instant) -> Taken {
        let hosts = u32::try_from(self.hosts.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let part = (count / hosts.max(1)).max(1);
        let interval = (window / part).max(Duration::from_nanos(1));
        let mut due = self.due.lock();
        if due.len() >= MAX_KEYS && !due.contains_key(key) {
            due.retain(|_, due| *due > now);
            if due.len() >= MAX_KEYS {
                due.clear();
            }
        }
        let known = due.entry(key.to_owned()).or_insert(now);
        let ahead = known.saturating_duration_since(now) + interval;
        let Some(left) = window.checked_sub(ahead) else {
            return Taken {
                is_taken: false,
                remaining: 0,
                next_in: ahead - window,
            };
        };
        *known = now + ahead;
        let remaining = left.as_nanos() / interval.as_nanos();
        let rest = left.as_nanos() % interval.as_nanos();
        Taken {
            is_taken: true,
            remaining: u64::try_from(remaining).unwrap_or(u64::MAX),
            next_in: interval - Duration::from_nanos(u64::try_from(rest).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_takes_its_part_at_once_then_keeps_the_pace_and_never_less_than_one() {
        let rates = LocalRates::default();
        let (window, now) = (Duration::from_secs(60), Instant::now());
        let taken = |key: &str, count: u32, at: Instant| {
            let takes = (0..100).map(|_| rates.take_at(key, count, window, at));
            takes.filter(|taken| taken.is_taken).count()
        };
        assert_eq!(taken("alone", 30, now), 30);
        rates.set_hosts(3);
        assert_eq!(taken("a", 30, now), 10);
        assert_eq!(taken("a", 30, now + Duration::from_secs(18)), 3);
        assert_eq!(taken("other", 30, now), 10);
        assert_eq!(taken("few", 2, now), 1, "never shut");
        let refused = rates.take_at("few", 2, window, now);
        assert_eq!((refused.is_taken, refused.next_in), (false, window));
        let first = rates.take_at("b", 30, window, now);
        assert_eq!(
            (first.remaining, first.next_in),
            (9, Duration::from_secs(6))
        );
    }

    #[test]
    fn keys_are_bounded() {
        let rates = LocalRates::default();
        let now = Instant::now();
        for n in 0..MAX_KEYS + 10 {
            rates.take_at(&n.to_string(), 10, Duration::from_secs(1), now);
        }
        assert!(rates.due.lock().len() <= MAX_KEYS);
    }
}
