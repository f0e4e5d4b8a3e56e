//! Redis's time, used for everything that Redis orders: delays, locks, ticks, ages. This machine's
//! clock may be wrong, and may jump.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Assumed drift between two clocks: one part in this many of the time since the last check. Ten
/// times the drift of a quartz clock.
const DRIFT: u32 = 2_000;

/// Runs on its own between two checks of Redis's clock.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Option<Look>>);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// Redis's time since 1970.
    time: Duration,
    /// Half the round trip, because the reply was made at an unknown moment of it.
    error: Duration,
}

impl Look {
    fn time_at(&self, at: Instant) -> Duration {
        self.time + at.saturating_duration_since(self.at)
    }

    fn error_at(&self, at: Instant) -> Duration {
        self.error + at.saturating_duration_since(self.at) / DRIFT
    }
}

impl Clock {
    /// Unix milliseconds. Uses this machine's clock until Redis has been asked.
    pub(crate) fn now_ms(&self) -> u64 {
        let now = self
            .last()
            .map_or_else(of_this_machine, |look| look.time_at(Instant::now()));
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    /// This machine's clock minus Redis's; `None` until Redis has been asked.
    pub(crate) fn skew_ms(&self) -> Option<i64> {
        self.last()?;
        let ours = i64::try_from(of_this_machine().as_millis()).ok()?;
        Some(ours.saturating_sub(i64::try_from(self.now_ms()).ok()?))
    }

    /// Records that Redis answered `time` to a question sent at `asked`. A slow answer is imprecise
    /// and is ignored unless it contradicts the known time, as after a failover or when Redis's
    /// clock was set.
    pub(crate) fn note(&self, time: Duration, asked: Instant, answered: Instant) {
        let error = answered.saturating_duration_since(asked) / 2;
        let new = Look {
            at: answered,
            time: time + error,
            error,
        };
        let mut last = self.0.lock();
        let keep = last.is_some_and(|old| {
            let apart = old.time_at(answered).abs_diff(new.time);
            old.error_at(answered) < error && apart <= old.error_at(answered) + error
        });
        if !keep {
            *last = Some(new);
        }
    }

    fn last(&self) -> Option<Look> {
        *self.0.lock()
    }
}

fn of_this_machine() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_changes_nothing_unless_it_contradicts() {
        let clock = Clock::default();
        assert_eq!(clock.skew_ms(), None);
        let asked = Instant::now();
        let after = |ms| asked + Duration::from_millis(ms);
        let at = |clock: &Clock| clock.last().expect("a look").time_at(asked).as_millis();
        clock.note(Duration::from_secs(1_000), asked, after(2));
        assert_eq!(at(&clock), 1_000_001);
        clock.note(Duration::from_millis(1_000_010), after(2), after(402));
        assert_eq!(
            clock.last().expect("a look").error,
            Duration::from_millis(1),
            "it may be 200 ms off"
        );
        clock.note(Duration::from_secs(2_000), after(500), after(900));
        assert!(
            clock.last().expect("a look").time >= Duration::from_secs(2_000),
            "another server's clock"
        );
    }

    #[test]
    fn this_machines_wrong_clock_shows_as_skew_and_nowhere_else() {
        let clock = Clock::default();
        let now = Instant::now();
        clock.note(of_this_machine() - Duration::from_secs(600), now, now);
        assert!((599_000..=601_000).contains(&clock.skew_ms().expect("a look")));
        assert!(u128::from(clock.now_ms()) + 599_000 < of_this_machine().as_millis());
    }
}
