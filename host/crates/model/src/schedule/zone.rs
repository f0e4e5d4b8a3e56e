//! Time zones as schedules name them.
//!
//! BullMQ's worker hands the name to luxon, which takes IANA names in any letter case, `UTC` and
//! `GMT`, and fixed offsets such as `UTC+5:30`. Newer Node versions take `+05:30`, too.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, Offset, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

use super::InvalidSchedule;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// With the rules of the IANA database.
    Iana(Tz),
    /// A fixed number of seconds east of Greenwich.
    Fixed(i32),
}

impl Zone {
    pub const UTC: Self = Self::Iana(Tz::UTC);

    /// No name, and luxon's names for the local zone, mean the default.
    pub fn named(name: Option<&str>, default: Self) -> Result<Self, InvalidSchedule> {
        match name {
            None => Ok(default),
            Some(word)
                if ["local", "system", "default"]
                    .iter()
                    .any(|local| word.eq_ignore_ascii_case(local)) =>
            {
                Ok(default)
            }
            Some(name) => name.parse(),
        }
    }

    /// Milliseconds by which its clocks are ahead of UTC, at a time in Unix milliseconds.
    pub(super) fn offset_ms(self, at_ms: i64) -> i64 {
        let seconds = match self {
            Self::Fixed(seconds) => seconds,
            Self::Iana(zone) => {
                let at = DateTime::from_timestamp_millis(at_ms)
                    .unwrap_or_default()
                    .naive_utc();
                zone.offset_from_utc_datetime(&at).fix().local_minus_utc()
            }
        };
        i64::from(seconds) * 1_000
    }
}

impl Zone {
    fn offset_at(self, at: DateTime<Utc>) -> Option<FixedOffset> {
        FixedOffset::east_opt(i32::try_from(self.offset_ms(at.timestamp_millis()) / 1_000).ok()?)
    }

    /// A time by the zone's clocks, with their offset from UTC. In UTC for an offset that no
    /// calendar has.
    pub fn local(self, at: DateTime<Utc>) -> DateTime<FixedOffset> {
        let offset = self.offset_at(at);
        offset.map_or_else(|| at.fixed_offset(), |offset| at.with_timezone(&offset))
    }

    /// A time for people, by the zone's clocks and in UTC: `2026-12-01 09:00 IST (03:30 UTC)`. The
    /// second day and seconds are shown where they differ, or are not zero.
    pub fn shown(self, at: DateTime<Utc>) -> String {
        let time = if at.timestamp() % 60 == 0 {
            "%H:%M"
        } else {
            "%H:%M:%S"
        };
        let whole = format!("%Y-%m-%d {time}");
        let (local, name) = (self.local(at), self.name_at(at));
        if local.offset().local_minus_utc() == 0 {
            return format!("{} UTC", at.format(&whole));
        }
        let in_utc = match local.date_naive() == at.date_naive() {
            true => at.format(time),
            false => at.format(&whole),
        };
        format!("{} {name} ({in_utc} UTC)", local.format(&whole))
    }

    /// What its clocks are called then: `IST`, `CEST`, `+03`, `UTC+5:30`.
    fn name_at(self, at: DateTime<Utc>) -> String {
        match self {
            Self::Iana(zone) => at.with_timezone(&zone).format("%Z").to_string(),
            Self::Fixed(_) => self.to_string(),
        }
    }
}

/// Short names that the IANA database does not have, but ICU and so Node has (ICU's
/// `timezoneTypes`, the aliases of Java's three-letter ids).
const OF_ICU: &[(&str, &str)] = &[
    ("ACT", "Australia/Darwin"),
    ("AET", "Australia/Sydney"),
    ("AGT", "America/Argentina/Buenos_Aires"),
    ("ART", "Africa/Cairo"),
    ("AST", "America/Anchorage"),
    ("BET", "America/Sao_Paulo"),
    ("BST", "Asia/Dhaka"),
    ("CAT", "Africa/Maputo"),
    ("CNT", "America/St_Johns"),
    ("CST", "America/Chicago"),
    ("CTT", "Asia/Shanghai"),
    ("EAT", "Africa/Nairobi"),
    ("ECT", "Europe/Paris"),
    ("IET", "America/Indiana/Indianapolis"),
    ("IST", "Asia/Kolkata"),
    ("JST", "Asia/Tokyo"),
    ("MIT", "Pacific/Apia"),
    ("NET", "Asia/Yerevan"),
    ("NST", "Pacific/Auckland"),
    ("PLT", "Asia/Karachi"),
    ("PNT", "America/Phoenix"),
    ("PRT", "America/Puerto_Rico"),
    ("PST", "America/Los_Angeles"),
    ("SST", "Pacific/Guadalcanal"),
    ("VST", "Asia/Ho_Chi_Minh"),
];

impl FromStr for Zone {
    type Err = InvalidSchedule;

    fn from_str(name: &str) -> Result<Self, InvalidSchedule> {
        let offset = name
            .get(..3)
            .filter(|start| start.eq_ignore_ascii_case("utc"))
            .map_or(name, |_| &name[3..]);
        if let Some(seconds) = fixed(offset) {
            return Ok(Self::Fixed(seconds));
        }
        let name_of_icu = OF_ICU
            .iter()
            .find(|(short, _)| short.eq_ignore_ascii_case(name))
            .map(|(_, long)| *long);
        let wanted = name_of_icu.unwrap_or(name);
        let known = TZ_VARIANTS
            .iter()
            .find(|zone| zone.name().eq_ignore_ascii_case(wanted));
        known
            .map(|zone| Self::Iana(*zone))
            .ok_or_else(|| InvalidSchedule::Zone(name.to_owned()))
    }
}

/// Parses `+5`, `-03`, `+05:30` or `+0530` into seconds.
fn fixed(text: &str) -> Option<i32> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some(parts) => parts,
        None if rest.len() == 4 => rest.split_at_checked(2)?,
        None => (rest, "00"),
    };
    let is_number = |text: &str, most| {
        (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    if !is_number(hours, 2) || minutes.len() != 2 || !is_number(minutes, 2) {
        return None;
    }
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    // As in luxon, hours have no upper limit.
    (minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iana(zone) => f.write_str(zone.name()),
            Self::Fixed(seconds) => {
                let (sign, minutes) = (if *seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
                write!(f, "UTC{sign}{}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read_in_any_letter_case_and_as_offsets() {
        for (name, shown) in [
            ("asia/kolkata", "Asia/Kolkata"),
            ("AMERICA/NEW_YORK", "America/New_York"),
            ("utc", "UTC"),
            ("gmt", "GMT"),
            ("est", "EST"),
            ("Etc/GMT-5", "Etc/GMT-5"),
            ("UTC+5", "UTC+5:00"),
            ("utc-3:30", "UTC-3:30"),
            ("+05:30", "UTC+5:30"),
            ("-0800", "UTC-8:00"),
            ("UTC+25", "UTC+25:00"),
            ("IST", "Asia/Kolkata"),
            ("pst", "America/Los_Angeles"),
        ] {
            let zone: Zone = name.parse().expect(name);
            assert_eq!(zone.to_string(), shown);
            assert_eq!(zone.to_string().parse(), Ok(zone), "{name} comes back");
        }
        for name in [
            "",
            "Asia/Calcuta",
            "UTC+100",
            "UTC+",
            "+5:3",
            "Mars/Phobos",
            "UTC+5:300",
            "é+",
        ] {
            assert_eq!(
                name.parse::<Zone>(),
                Err(InvalidSchedule::Zone(name.into())),
                "{name}"
            );
        }
        assert_eq!(
            Zone::named(Some("Local"), Zone::Fixed(60)),
            Ok(Zone::Fixed(60))
        );
        assert_eq!(Zone::named(None, Zone::UTC), Ok(Zone::UTC));
    }

    #[test]
    fn a_time_is_shown_by_the_clocks_of_its_zone_with_utc_beside() {
        let at = |text: &str| {
            let at = DateTime::parse_from_rfc3339(text).expect("a time");
            at.to_utc()
        };
        for (zone, time, shown) in [
            (
                "Asia/Kolkata",
                "2026-12-01T03:30:00Z",
                "2026-12-01 09:00 IST (03:30 UTC)",
            ),
            (
                "Europe/Berlin",
                "2026-07-01T07:00:05Z",
                "2026-07-01 09:00:05 CEST (07:00:05 UTC)",
            ),
            (
                "America/Los_Angeles",
                "2026-12-01T03:30:00Z",
                "2026-11-30 19:30 PST (2026-12-01 03:30 UTC)",
            ),
            ("UTC", "2026-12-01T03:30:00Z", "2026-12-01 03:30 UTC"),
            (
                "Europe/London",
                "2026-12-01T03:30:00Z",
                "2026-12-01 03:30 UTC",
            ),
            (
                "UTC+5:30",
                "2026-12-01T03:30:00Z",
                "2026-12-01 09:00 UTC+5:30 (03:30 UTC)",
            ),
            // No calendar has it.
            ("UTC+25", "2026-12-01T03:30:00Z", "2026-12-01 03:30 UTC"),
        ] {
            let zone: Zone = zone.parse().expect(zone);
            assert_eq!(zone.shown(at(time)), shown);
        }
        let kolkata: Zone = "Asia/Kolkata".parse().expect("a zone");
        assert_eq!(
            kolkata.local(at("2026-12-01T03:30:00Z")).to_rfc3339(),
            "2026-12-01T09:00:00+05:30"
        );
    }
}
