//! The vendor's times: `2020-01-01 10:00:00`, without a zone.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDateTime};

const FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// Milliseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn offset_ms(offset: &str) -> i64 {
    let minutes = || {
        let (hours, minutes) = offset.get(1..)?.split_once(':')?;
        Some(hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?)
    };
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    sign * minutes().unwrap_or(0) * 60_000
}

/// `None` for what is no time, and for the beginning of 1970, which the vendor writes for "not yet".
pub fn parse(text: &str, offset: &str) -> Option<i64> {
    let time = NaiveDateTime::parse_from_str(text.trim(), FORMAT).ok()?;
    let ms = time
        .and_utc()
        .timestamp_millis()
        .checked_sub(offset_ms(offset))?;
    // A year from then is as long ago as any zone makes of it.
    (31_536_000_000..4_102_444_800_000)
        .contains(&ms)
        .then_some(ms)
}

/// As the vendor writes it.
pub fn written(ms: i64, offset: &str) -> String {
    DateTime::from_timestamp_millis(ms.saturating_add(offset_ms(offset)))
        .unwrap_or_default()
        .format(FORMAT)
        .to_string()
}

/// For Postgres and for clients.
pub fn rfc3339(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// As Postgres's times come.
pub fn from_rfc3339(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_account_and_the_beginning_of_1970_is_none() {
        let ms = parse("2020-01-01 10:00:00", "+05:30").expect("a time");
        assert_eq!(rfc3339(ms), "2020-01-01T04:30:00.000Z");
        assert_eq!(written(ms, "+05:30"), "2020-01-01 10:00:00");
        assert_eq!(from_rfc3339("2020-01-01T10:00:00+05:30"), Some(ms));
        for text in [
            "1970-01-01 05:30:00",
            "",
            "null",
            "2020-13-01 00:00:00",
            "9999-01-01 00:00:00",
            "2020-01-01T10:00:00Z",
        ] {
            assert_eq!(parse(text, "+05:30"), None, "{text}");
        }
    }
}
