//! When a schedule is due: cron expressions with time zones.
//!
//! croner computes our own schedules ([`next_tick`]): if daylight saving skips a tick's time, the
//! tick comes at the first valid instant; if a time occurs twice, the tick comes once. Expressions
//! that only cron-parser can read are computed as BullMQ's worker on Node does. Schedulers of other
//! clients are always computed that way ([`next_tick_as_node`]), so that it does not matter which
//! worker makes their next tick (docs/decisions/023-schedulers-of-other-clients.md).

mod node;
mod pattern;
mod zone;

use std::time::Duration;

use chrono::{FixedOffset, TimeZone, Utc};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds};
use serde::{Deserialize, Serialize};

use self::pattern::Pattern;
pub use self::zone::Zone;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    #[error("cannot read the cron expression {pattern:?}: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("there is no time zone {0:?}; name one like Asia/Kolkata or UTC+5:30")]
    Zone(String),
    #[error(
        "a schedule must have either an interval, or a cron expression with an optional time zone"
    )]
    Ambiguous,
    /// For example 31 February.
    #[error("the cron expression never matches a date")]
    Never,
    #[error("an interval must be at least 1000 ms")]
    TooOften,
    #[error("an interval must be at most ten years (315360000000 ms)")]
    TooSeldom,
    #[error("{0} is not a valid time in Unix milliseconds")]
    Time(u64),
}

pub use crate::id::ScheduleId;

/// Shortest interval between ticks. More frequent work belongs in a queue of ordinary jobs.
pub const LEAST_EVERY: Duration = Duration::from_secs(1);

/// Longest interval between ticks: BullMQ keeps times as floats, and nobody waits longer.
pub const MOST_EVERY: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// What happens to a tick that no worker could run within a minute of its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// The tick is skipped.
    #[default]
    Skip,
    /// The tick runs once, late.
    Once,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rhythm {
    Every(Duration),
    /// Ticks by wall-clock time.
    Cron {
        /// Five fields, or six with seconds first.
        pattern: String,
        /// IANA name; absent means UTC.
        zone: Option<String>,
    },
}

impl Rhythm {
    /// Offset of the ticks within the interval. It depends on the id, so that ticks of different
    /// schedules do not coincide.
    pub fn offset(&self, id: &ScheduleId) -> Duration {
        use sha2::{Digest, Sha256};
        let Self::Every(every) = self else {
            return Duration::ZERO;
        };
        let digest = Sha256::digest(id.as_str());
        let number = digest
            .iter()
            .take(8)
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        // 0 would mean that no offset was chosen.
        Duration::from_millis(1.max(number % (every.as_millis() as u64).max(1)))
    }

    /// The first tick after a time, both in Unix milliseconds; none when there is no further tick.
    pub fn next_after(
        &self,
        id: &ScheduleId,
        after_ms: u64,
    ) -> Result<Option<u64>, InvalidSchedule> {
        match self {
            Self::Every(every) if *every < LEAST_EVERY => Err(InvalidSchedule::TooOften),
            Self::Every(every) if *every > MOST_EVERY => Err(InvalidSchedule::TooSeldom),
            Self::Every(every) => {
                let (every, offset) =
                    (every.as_millis() as u64, self.offset(id).as_millis() as u64);
                let slot = (after_ms / every * every).checked_add(offset);
                let next = slot.and_then(|slot| {
                    if slot > after_ms {
                        Some(slot)
                    } else {
                        slot.checked_add(every)
                    }
                });
                next.map(Some).ok_or(InvalidSchedule::Time(after_ms))
            }
            Self::Cron { pattern, zone } => next_tick(pattern, zone.as_deref(), after_ms),
        }
    }

    /// The next ticks after a time, in Unix milliseconds, at most `most`. A schedule that never
    /// ticks is refused.
    pub fn preview(
        &self,
        id: &ScheduleId,
        after_ms: u64,
        most: usize,
    ) -> Result<Vec<u64>, InvalidSchedule> {
        let mut ticks = Vec::with_capacity(most);
        let mut at = after_ms;
        while ticks.len() < most {
            let Some(next) = self.next_after(id, at)? else {
                break;
            };
            ticks.push(next);
            at = next;
        }
        if ticks.is_empty() {
            Err(InvalidSchedule::Never)
        } else {
            Ok(ticks)
        }
    }
}

/// The first tick of one of our own schedules after a time, both in Unix milliseconds; none when
/// there is no further tick (31 February). No zone means UTC.
pub fn next_tick(
    pattern: &str,
    zone: Option<&str>,
    after_ms: u64,
) -> Result<Option<u64>, InvalidSchedule> {
    let zone = Zone::named(zone, Zone::UTC)?;
    let cron = match parse(pattern) {
        Ok(cron) => cron,
        Err(error) => {
            // Fewer fields are a mistake of the author, although cron-parser fills them up.
            let is_whole =
                pattern.split_whitespace().count() >= 5 || pattern.trim_start().starts_with('@');
            let read = if is_whole {
                Pattern::parse(pattern).ok()
            } else {
                None
            };
            return by_walking(&read.ok_or(error)?, zone, after_ms);
        }
    };
    match zone {
        Zone::Iana(zone) => by_croner(&cron, pattern, &zone, after_ms),
        Zone::Fixed(seconds) => match FixedOffset::east_opt(seconds) {
            Some(zone) => by_croner(&cron, pattern, &zone, after_ms),
            // An offset of a day or more: luxon accepts it, chrono does not.
            None => next_tick_as_node(pattern, zone, after_ms),
        },
    }
}

/// The first tick after a time as BullMQ's worker on Node computes it, both in Unix milliseconds;
/// none when there is no further tick.
pub fn next_tick_as_node(
    pattern: &str,
    zone: Zone,
    after_ms: u64,
) -> Result<Option<u64>, InvalidSchedule> {
    match Pattern::parse(pattern) {
        Ok(read) => by_walking(&read, zone, after_ms),
        Err(reason) => Err(InvalidSchedule::Pattern {
            pattern: pattern.to_owned(),
            reason,
        }),
    }
}

fn by_walking(
    pattern: &Pattern,
    zone: Zone,
    after_ms: u64,
) -> Result<Option<u64>, InvalidSchedule> {
    let after = in_calendar(after_ms)?.timestamp_millis();
    Ok(node::next(pattern, zone, after).and_then(|ms| u64::try_from(ms).ok()))
}

fn by_croner<Z: TimeZone>(
    cron: &Cron,
    pattern: &str,
    zone: &Z,
    after_ms: u64,
) -> Result<Option<u64>, InvalidSchedule> {
    match cron.find_next_occurrence(&in_calendar(after_ms)?.with_timezone(zone), false) {
        Ok(next) => Ok(u64::try_from(next.timestamp_millis()).ok()),
        Err(CronError::TimeSearchLimitExceeded) => Ok(None),
        Err(error) => Err(unreadable(pattern, &error)),
    }
}

fn in_calendar(ms: u64) -> Result<chrono::DateTime<Utc>, InvalidSchedule> {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| Utc.timestamp_millis_opt(ms).single());
    time.ok_or(InvalidSchedule::Time(ms))
}

fn parse(pattern: &str) -> Result<Cron, InvalidSchedule> {
    let parser = CronParser::builder().seconds(Seconds::Optional).build();
    parser
        .parse(pattern)
        .map_err(|error| unreadable(pattern, &error))
}

fn unreadable(pattern: &str, error: &CronError) -> InvalidSchedule {
    InvalidSchedule::Pattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use chrono_tz::Tz;

    use super::*;

    fn ticks(pattern: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let zone_of = zone.parse::<Tz>().expect("a zone");
        let mut at = DateTime::parse_from_rfc3339(from)
            .expect("a time")
            .timestamp_millis() as u64;
        (0..count)
            .map(|_| {
                at = next_tick(pattern, Some(zone), at)
                    .expect("valid")
                    .expect("there is one");
                Utc.timestamp_millis_opt(at as i64)
                    .single()
                    .expect("a time")
                    .with_timezone(&zone_of)
                    .to_rfc3339()
            })
            .collect()
    }

    #[test]
    fn five_fields_a_weekday_of_seven_and_a_zone_are_understood() {
        assert_eq!(
            ticks("59 23 * * *", "Asia/Kolkata", "2026-11-24T00:00:00Z", 2),
            ["2026-11-24T23:59:00+05:30", "2026-11-25T23:59:00+05:30"]
        );
        let sunday = ticks("0 3 * * 7", "UTC", "2026-11-24T00:00:00Z", 1);
        assert_eq!(sunday, ticks("0 3 * * 0", "UTC", "2026-11-24T00:00:00Z", 1));
        assert_eq!(sunday, ["2026-11-29T03:00:00+00:00"]);
    }

    #[test]
    fn a_time_that_daylight_saving_skips_comes_at_the_first_valid_instant() {
        // Berlin's clocks go from 02:00 to 03:00 on 29 March 2026.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_one_tick() {
        // Berlin's clocks go from 03:00 back to 02:00 on 25 October 2026.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
        );
    }

    #[test]
    fn intervals_are_spread_by_id_and_keep_their_place() {
        let every = Rhythm::Every(Duration::from_secs(900));
        let (a, b): (ScheduleId, ScheduleId) = (
            "kpi".parse().expect("an id"),
            "cleanup".parse().expect("an id"),
        );
        let ticks = every.preview(&a, 1_000_000_000, 3).expect("it comes");
        assert_eq!(
            (ticks[1] - ticks[0], ticks[2] - ticks[1]),
            (900_000, 900_000)
        );
        assert_eq!(Ok(Some(ticks[2])), every.next_after(&a, ticks[1]));
        assert_ne!(
            ticks,
            every.preview(&b, 1_000_000_000, 3).expect("it comes")
        );
        assert_eq!(
            Rhythm::Every(Duration::from_millis(999)).next_after(&a, 0),
            Err(InvalidSchedule::TooOften)
        );
        for beyond in [
            MOST_EVERY + Duration::from_millis(1),
            Duration::from_millis(i64::MAX as u64),
            Duration::MAX,
        ] {
            assert_eq!(
                Rhythm::Every(beyond).preview(&a, 1_000_000_000, 5),
                Err(InvalidSchedule::TooSeldom)
            );
        }
        assert!(
            Rhythm::Every(MOST_EVERY)
                .preview(&a, 1_000_000_000, 5)
                .is_ok()
        );
        assert_eq!(
            every.next_after(&a, u64::MAX),
            Err(InvalidSchedule::Time(u64::MAX))
        );
        let never = Rhythm::Cron {
            pattern: "0 0 30 2 *".into(),
            zone: None,
        };
        assert_eq!(never.preview(&a, 0, 5), Err(InvalidSchedule::Never));
    }

    #[test]
    fn what_never_comes_and_what_cannot_be_read_are_told_apart() {
        assert_eq!(next_tick("0 0 31 2 *", None, 0), Ok(None));
        assert!(matches!(
            next_tick("61 * * * *", None, 0),
            Err(InvalidSchedule::Pattern { .. })
        ));
        assert!(matches!(
            next_tick("* * * * * * * *", None, 0),
            Err(InvalidSchedule::Pattern { .. })
        ));
        assert_eq!(
            next_tick("* * * * *", Some("Asia/Calcuta"), 0),
            Err(InvalidSchedule::Zone("Asia/Calcuta".into()))
        );
    }

    #[test]
    fn what_only_node_reads_is_computed_as_node_does_unless_it_is_a_slip() {
        let from = DateTime::parse_from_rfc3339("2026-11-24T00:00:01Z")
            .expect("a time")
            .timestamp_millis() as u64;
        assert_eq!(
            next_tick("0/3 * * * * *", None, from),
            Ok(Some(from + 2_000))
        );
        assert_eq!(
            next_tick("0 0 * * *", Some("utc+5:30"), from),
            Ok(Some(from - 1_000 + 18 * 3_600_000 + 1_800_000))
        );
        assert!(matches!(
            next_tick("9 5", None, from),
            Err(InvalidSchedule::Pattern { .. })
        ));
        assert!(next_tick_as_node("9 5", Zone::UTC, from).is_ok());
    }

    #[test]
    fn a_time_that_daylight_saving_skips_keeps_its_minutes_for_node() {
        let from = DateTime::parse_from_rfc3339("2026-03-28T12:00:00Z")
            .expect("a time")
            .timestamp_millis() as u64;
        let berlin: Zone = "europe/berlin".parse().expect("a zone");
        let tick = next_tick_as_node("30 2 * * *", berlin, from)
            .expect("a pattern")
            .expect("it comes");
        assert_eq!(
            DateTime::from_timestamp_millis(tick as i64).map(|at| at.to_rfc3339()),
            Some("2026-03-29T01:30:00+00:00".into())
        );
        assert_eq!(next_tick_as_node("0 0 31 2 *", berlin, from), Ok(None));
        assert!(matches!(
            next_tick_as_node("* * * * *", berlin, u64::MAX),
            Err(InvalidSchedule::Time(_))
        ));
    }
}
