//! The next tick as BullMQ's worker on Node computes it: cron-parser's steps over the clock, with
//! luxon's times.
//!
//! If daylight saving skips an hour, its ticks come in the hour after it with the same minutes. If
//! an hour occurs twice, its ticks come only in the first one, unless the pattern names every hour.
//! Shifts of half an hour and midnights that do not exist give the same results as there, oddities
//! included, since either worker may tick a scheduler. tests/scenarios/cron.rs compares the two.

use chrono::{DateTime, Datelike, Duration, Months, NaiveDate, NaiveDateTime, NaiveTime, Timelike};

use super::pattern::{Day, Pattern};
use super::zone::Zone;

/// cron-parser gives up after this many steps: such a pattern never matches.
const MOST_STEPS: u32 = 10_000;

/// The first tick after a time, both in Unix milliseconds; none when there is no further tick.
pub(super) fn next(pattern: &Pattern, zone: Zone, after_ms: i64) -> Option<i64> {
    let mut clock = Clock::at(zone, after_ms)?;
    let hours = pattern.hours.len();
    if after_ms.rem_euclid(1_000) > 0 {
        clock.ms -= after_ms.rem_euclid(1_000);
        clock.step(Unit::Second, hours)?;
    }
    for _ in 1..MOST_STEPS {
        let local = clock.local()?;
        if !pattern.months.has(local.month()) {
            clock.next_month()?;
        } else if !pattern.has_day(day(local.date())) {
            clock.next_day()?;
        } else if clock.is_in_hour(pattern)? {
            let local = clock.local()?;
            if !pattern.minutes.has(local.minute()) {
                match pattern.minutes.after(local.minute()) {
                    Some(minute) => clock.set(|time| time.with_minute(minute))?,
                    None => {
                        clock.step(Unit::Hour, hours)?;
                        clock.set(|time| time.with_minute(pattern.minutes.first()))?;
                    }
                }
                clock.set(|time| time.with_second(pattern.seconds.first()))?;
            } else if !pattern.seconds.has(local.second()) {
                match pattern.seconds.after(local.second()) {
                    Some(second) => clock.set(|time| time.with_second(second))?,
                    None => {
                        clock.step(Unit::Minute, hours)?;
                        clock.set(|time| time.with_second(pattern.seconds.first()))?;
                    }
                }
            } else if clock.ms == after_ms {
                clock.step(Unit::Second, hours)?;
            } else {
                return Some(clock.ms);
            }
        }
    }
    None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

/// A moment and its offset: where an hour occurs twice, the moment alone does not give the
/// wall-clock time.
#[derive(Debug, Clone, Copy)]
struct Clock {
    zone: Zone,
    ms: i64,
    offset_ms: i64,
    /// The first skipped hour and the first hour after the gap, once a step has crossed it.
    gap: Option<(u32, u32)>,
    /// The hour that a step has entered for the second time.
    repeated: Option<u32>,
}

impl Clock {
    fn at(zone: Zone, ms: i64) -> Option<Self> {
        DateTime::from_timestamp_millis(ms)?;
        Some(Self {
            zone,
            ms,
            offset_ms: zone.offset_ms(ms),
            gap: None,
            repeated: None,
        })
    }

    fn local(&self) -> Option<NaiveDateTime> {
        DateTime::from_timestamp_millis(self.ms + self.offset_ms).map(|time| time.naive_utc())
    }

    fn move_by(&mut self, ms: i64) {
        self.ms += ms;
        self.offset_ms = self.zone.offset_ms(self.ms);
    }

    /// Goes to the moment with this wall-clock time. Of two, it takes the one with the present
    /// offset; if there is none, it goes later by the length of the gap.
    fn go_to(&mut self, local: NaiveDateTime) {
        let local_ms = local.and_utc().timestamp_millis();
        let guess = self.zone.offset_ms(local_ms - self.offset_ms);
        let settled = self.zone.offset_ms(local_ms - guess);
        self.ms = local_ms - guess.min(settled);
        self.offset_ms = guess.max(settled);
    }

    fn set(&mut self, change: impl Fn(NaiveDateTime) -> Option<NaiveDateTime>) -> Option<()> {
        let local = change(self.local()?)?;
        self.go_to(local);
        Some(())
    }

    fn start_of_day(&mut self) -> Option<()> {
        self.set(|time| Some(time.date().and_time(NaiveTime::MIN)))
    }

    fn next_day(&mut self) -> Option<()> {
        self.set(|time| time.checked_add_signed(Duration::days(1)))?;
        self.start_of_day()
    }

    fn next_month(&mut self) -> Option<()> {
        self.set(|time| time.checked_add_months(Months::new(1)))?;
        self.set(|time| Some(time.date().with_day(1)?.and_time(NaiveTime::MIN)))
    }

    /// Goes to the start of the next unit, and notes gaps and repeated hours. A pattern of every
    /// hour ignores those.
    fn step(&mut self, unit: Unit, hours_of_pattern: u32) -> Option<()> {
        let (hour_before, offset_before) = (self.local()?.hour(), self.offset_ms);
        match unit {
            Unit::Second => self.move_by(1_000),
            Unit::Minute => {
                self.move_by(60_000);
                self.set(|time| time.with_second(0)?.with_nanosecond(0))?;
            }
            Unit::Hour => {
                self.move_by(3_600_000);
                self.set(|time| time.with_minute(0)?.with_second(0)?.with_nanosecond(0))?;
            }
        }
        let local = self.local()?;
        let passed = (local.hour() + 24 - hour_before) % 24;
        if hours_of_pattern == 24 {
            return Some(());
        }
        if self.offset_ms > offset_before && passed >= 2 {
            self.gap = Some(((hour_before + 1) % 24, local.hour()));
        } else if passed == 0 && local.minute() == 0 && local.second() == 0 {
            self.repeated = Some(local.hour());
        }
        Some(())
    }

    /// Whether there are ticks in this hour; otherwise goes on to where there may be some.
    fn is_in_hour(&mut self, pattern: &Pattern) -> Option<bool> {
        let (hours, hour) = (pattern.hours, self.local()?.hour());
        if let Some((mut skipped, landing)) = self.gap
            && landing == hour
        {
            while skipped != hour {
                if hours.has(skipped) {
                    return Some(true);
                }
                skipped = (skipped + 1) % 24;
            }
        }
        if self.repeated == Some(hour) {
            self.repeated = None;
            self.step(Unit::Hour, hours.len())?;
            return Some(false);
        }
        if hours.has(hour) {
            return Some(true);
        }
        self.gap = None;
        let Some(next) = hours.after(hour) else {
            self.next_day()?;
            return Some(false);
        };
        if self.is_day_with_a_shift()? {
            for _ in hour..next {
                self.step(Unit::Hour, hours.len())?;
                if self.local()?.hour() >= next {
                    break;
                }
            }
        } else {
            self.set(|time| time.with_hour(next))?;
        }
        self.set(|time| time.with_minute(pattern.minutes.first()))?;
        self.set(|time| time.with_second(pattern.seconds.first()))?;
        Some(false)
    }

    fn is_day_with_a_shift(&self) -> Option<bool> {
        let mut start = *self;
        start.start_of_day()?;
        let mut end = start;
        end.next_day()?;
        Some(start.offset_ms != self.zone.offset_ms(end.ms - 1))
    }
}

fn day(date: NaiveDate) -> Day {
    let after = date
        .checked_add_months(Months::new(1))
        .and_then(|date| date.with_day(1));
    let days_in_month = after
        .and_then(|date| date.pred_opt())
        .map_or(31, |date| date.day());
    Day {
        of_month: date.day(),
        of_week: date.weekday().num_days_from_sunday(),
        days_in_month,
    }
}
