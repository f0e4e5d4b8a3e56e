//! Times of slots. The old backend's columns may be of either kind, with a time zone or without, so
//! times go to Postgres as text that both kinds read: a column without a zone takes the time of day
//! and leaves the offset out.

use chrono::{DateTime, FixedOffset, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;

/// Milliseconds since 1970.
pub type Millis = i64;

/// The zone of times in columns without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Offset(FixedOffset);

impl Default for Offset {
    fn default() -> Self {
        Self(chrono::Offset::fix(&Utc))
    }
}

impl TryFrom<String> for Offset {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("{text:?} is not an offset such as +05:30"))
    }
}

impl Offset {
    /// For a parameter that is compared with a column.
    pub fn parameter(self, at: Millis) -> String {
        instant(at)
            .with_timezone(&self.0)
            .to_rfc3339_opts(SecondsFormat::Millis, false)
    }

    /// As JavaScript writes it, of what Postgres gave; another text stays as it is (`infinity`).
    pub fn iso(self, text: &str) -> String {
        let spaced = text.replacen(' ', "T", 1);
        let read = DateTime::parse_from_rfc3339(&spaced)
            .map(|at| at.to_utc())
            .ok()
            .or_else(|| {
                let local = NaiveDateTime::parse_from_str(&spaced, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
                Some(local.and_local_timezone(self.0).single()?.to_utc())
            });
        read.map_or_else(|| text.to_owned(), |at| javascript(&at))
    }
}

/// As JavaScript writes it: `2026-12-01T10:00:00.000Z`.
pub fn iso(at: Millis) -> String {
    javascript(&instant(at))
}

pub fn minutes(minutes: i64) -> Millis {
    minutes.saturating_mul(60_000)
}

fn javascript(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn instant(at: Millis) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at).unwrap_or(DateTime::UNIX_EPOCH + TimeDelta::zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_without_a_zone_is_read_and_compared_in_the_set_one() {
        let india = Offset::try_from("+05:30".to_owned()).expect("an offset");
        assert_eq!(india.parameter(0), "1970-01-01T05:30:00.000+05:30");
        assert_eq!(
            Offset::default().parameter(0),
            "1970-01-01T00:00:00.000+00:00"
        );
        for (text, expected) in [
            ("2026-12-01T10:00:00Z", "2026-12-01T10:00:00.000Z"),
            (
                "2026-12-01T10:00:00.123456+00:00",
                "2026-12-01T10:00:00.123Z",
            ),
            ("2026-12-01T10:00:00", "2026-12-01T04:30:00.000Z"),
            ("2026-12-01 10:00:00.5", "2026-12-01T04:30:00.500Z"),
            ("infinity", "infinity"),
        ] {
            assert_eq!(india.iso(text), expected, "{text}");
        }
        assert!(Offset::try_from("IST".to_owned()).is_err());
    }
}
