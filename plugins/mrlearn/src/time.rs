//! Times: this host's clock, and the vendor's dates, which name no zone.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use patchbay_plugin::Value;

/// The forms that are in use. The vendor documents none.
const FORMATS: [&str; 5] = [
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S",
    "%d %b %Y %H:%M:%S",
    "%b %d, %Y %I:%M:%S %p",
];
const DAYS: [&str; 4] = ["%Y-%m-%d", "%Y/%m/%d", "%d %b %Y", "%b %d, %Y"];

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

fn offset_ms(offset: &str) -> i64 {
    let minutes = || {
        let (hours, minutes) = offset.get(1..)?.split_once(':')?;
        Some(hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?)
    };
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    sign * minutes().unwrap_or(0) * 60_000
}

/// A time of the vendor, as Postgres reads it; absent for what is no time. A time without a zone
/// is one at `offset`; a number is seconds or milliseconds since 1970.
pub fn read(value: &Value, offset: &str) -> Option<String> {
    let ms = match value {
        Value::Number(number) => {
            let number = number.as_i64()?;
            match number {
                100_000_000_000.. => number,
                _ => number.checked_mul(1_000)?,
            }
        }
        Value::String(text) => written(text.trim(), offset)?,
        _ => return None,
    };
    // Neither the beginning of 1970, which means "never", nor a time that no calendar has.
    (31_536_000_000..4_102_444_800_000)
        .contains(&ms)
        .then(|| DateTime::from_timestamp_millis(ms))?
        .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

fn written(text: &str, offset: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    let time = FORMATS
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let day = || {
        let day = DAYS
            .iter()
            .find_map(|format| NaiveDate::parse_from_str(text, format).ok());
        day?.and_hms_opt(0, 0, 0)
    };
    let local = time.or_else(day)?.and_utc().timestamp_millis();
    local.checked_sub(offset_ms(offset))
}

#[cfg(test)]
mod tests {
    use patchbay_plugin::json;

    use super::*;

    #[test]
    fn a_time_without_a_zone_is_one_of_the_account_and_what_is_no_time_is_none() {
        let at = |value: Value| read(&value, "+05:30");
        let ten = Some("2026-03-01T04:30:00.000Z".to_owned());
        assert_eq!(at(json!("2026-03-01 10:00:00")), ten);
        assert_eq!(at(json!("2026-03-01T10:00:00.000")), ten);
        assert_eq!(at(json!("2026-03-01T04:30:00Z")), ten);
        assert_eq!(at(json!("Mar 01, 2026 10:00:00 AM")), ten);
        assert_eq!(at(json!(1_772_339_400)), ten);
        assert_eq!(at(json!(1_772_339_400_000_i64)), ten);
        assert_eq!(
            at(json!("2026/03/01")).as_deref(),
            Some("2026-02-28T18:30:00.000Z")
        );
        for nothing in [
            json!(""),
            json!("-"),
            json!("yesterday"),
            json!(null),
            json!("1970-01-01 05:30:00"),
            json!(0),
            json!("9999-12-31"),
        ] {
            assert_eq!(at(nothing.clone()), None, "{nothing}");
        }
    }
}
