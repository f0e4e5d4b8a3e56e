//! JSON arguments of commands: the text itself, `@FILE`, or `-` for standard input. No JSON begins
//! with `@`, and none is only `-`.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use patchbay_model::words::lasted;
use serde_json::value::RawValue;

/// The JSON stays as written, because parsing would round its numbers and sort its keys.
pub(super) fn given_json(text: String, what: &str) -> anyhow::Result<Box<RawValue>> {
    json(given(text)?, what)
}

/// As `given_json`, but always takes the text itself.
pub(super) fn json(text: String, what: &str) -> anyhow::Result<Box<RawValue>> {
    RawValue::from_string(text.trim().to_owned()).with_context(|| format!("{what} is not JSON"))
}

pub(super) fn given(text: String) -> anyhow::Result<String> {
    match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {file}")),
        None if text == "-" => {
            std::io::read_to_string(std::io::stdin()).context("cannot read standard input")
        }
        None => Ok(text),
    }
}

/// Units of durations, in milliseconds. `ms` comes first, because it ends with another one.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Milliseconds of `1500ms`, `90s`, `30m`, `24h` or `7d`, or of a number in the unit `plain`
/// (milliseconds).
fn length(text: &str, plain: Option<u64>) -> Option<u64> {
    let with_unit = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (number, unit) = match with_unit {
        Some(read) => read,
        None => (text, plain?),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Parses `1500ms`, `90s`, `30m`, `24h` or `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match length(text, None) {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err("must be a whole number with a unit: 1500ms, 90s, 30m, 24h or 7d".into()),
    }
}

/// A parser of a duration in milliseconds. A number without a unit has the unit `plain`
/// (milliseconds), which is `unit` in words.
fn with_plain(
    plain: u64,
    unit: &'static str,
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text: &str| {
        let ms = length(text, Some(plain)).filter(|ms| (least..=most).contains(ms));
        ms.ok_or_else(|| {
            let [least, most] = [least, most].map(|ms| lasted(Duration::from_millis(ms)));
            format!(
                "must be from {least} to {most}: a number of {unit}, or one with a unit, such as 1500ms, 90s, 30m, 2h or 7d"
            )
        })
    }
}

/// A parser of milliseconds: `1500`, or with a unit, as in [`duration`].
pub(super) fn milliseconds(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    with_plain(1, "milliseconds", least, most)
}

/// A parser of milliseconds: `90` means seconds, or with a unit, as in [`duration`].
pub(super) fn of_seconds(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    with_plain(1_000, "seconds", least, most)
}

/// Parses `90s`, `30m`, `2h` or `3d` to seconds; at least `least` seconds and at most `most_days`
/// days.
pub(super) fn seconds(text: &str, least: u64, most_days: u64) -> Result<u64, String> {
    let ms = length(text, None).filter(|ms| ms % 1_000 == 0);
    let ms = ms.ok_or("must be whole seconds, as a number with a unit: 90s, 30m, 2h or 3d")?;
    let length = Some(ms / 1_000).filter(|s| (least..=most_days * 86_400).contains(s));
    length.ok_or_else(|| format!("must be from {least} s to {most_days} days"))
}

/// Seconds as options take them, in the largest unit without a rest: `15m`.
pub(super) fn in_units(seconds: u64) -> String {
    let (unit, name) = [(86_400, "d"), (3_600, "h"), (60, "m")]
        .into_iter()
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit))
        .unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

/// Parses days: `30`, `30d` or `720h`.
pub(super) fn days(text: &str) -> Result<u32, String> {
    const DAY: u64 = 86_400_000;
    const MOST: u64 = 36_500;
    length(text, Some(DAY))
        .filter(|ms| ms % DAY == 0)
        .map(|ms| ms / DAY)
        .filter(|days| (1..=MOST).contains(days))
        .and_then(|days| u32::try_from(days).ok())
        .ok_or_else(|| {
            format!(
                "must be whole days, from 1 to {MOST}: a number, or one with a unit, such as 30d"
            )
        })
}

/// A parser of a whole number in a range.
pub(super) fn whole<T: TryFrom<u64> + Clone + Send + Sync + 'static>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text: &str| {
        let number = text.parse::<u64>().ok();
        let number = number.filter(|number| (least..=most).contains(number));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| match most {
                u64::MAX => format!("must be a whole number, {least} or more"),
                most => format!("must be a whole number from {least} to {most}"),
            })
    }
}

/// A parser of the number of something that the command `list` lists.
pub(super) fn number_in<T: TryFrom<u64> + Clone + Send + Sync + 'static>(
    list: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text: &str| {
        let number = text.parse::<u64>().ok();
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("must be a number, as `patchbay {list}` shows it"))
    }
}

/// A parser of a number in a range.
pub(super) fn decimal(
    least: f64,
    most: f64,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text: &str| {
        let number = text.parse::<f64>().ok();
        let number = number.filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| match most == f64::MAX {
            true => format!("must be a number, {least} or more"),
            false => format!("must be a number from {least} to {most}"),
        })
    }
}

/// Parses a time in RFC 3339, or an age such as `90s`, `30m`, `24h` or `7d`.
pub(super) fn point_in_time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let form = "must be a time such as 2026-11-24T00:00:00Z, or an age such as 90s, 30m, 24h or 7d";
    let ago = duration(text).map_err(|_| form.to_owned())?;
    let ago = TimeDelta::from_std(ago).map_err(|_| "too long ago".to_owned())?;
    Utc::now()
        .checked_sub_signed(ago)
        .ok_or_else(|| "too long ago".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_has_a_unit() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in [
            "",
            "h",
            "24",
            "0h",
            "-1h",
            "1.5h",
            "24 h",
            "1ü",
            "99999999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_number_without_a_unit_has_that_of_its_option() {
        let ms = milliseconds(0, 86_400_000);
        for (text, read) in [
            ("1500", 1_500),
            ("1500ms", 1_500),
            ("90s", 90_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(ms(text), Ok(read));
        }
        assert_eq!(of_seconds(0, u64::MAX)("90"), Ok(90_000));
        assert_eq!(of_seconds(0, u64::MAX)("2h"), Ok(7_200_000));
        assert_eq!((days("30"), days("720h")), (Ok(30), Ok(30)));
        assert!(days("36h").is_err() && seconds("1500ms", 1, 30).is_err());
        assert_eq!(seconds("0s", 0, 7), Ok(0));
        for text in ["90s", "15m", "2h", "3d"] {
            assert_eq!(seconds(text, 0, 7).map(in_units), Ok(text.to_owned()));
        }
        for bad in ["", "-1", "2 h", "h", "25h", "99999999999999999999"] {
            let refused = ms(bad).expect_err("refused");
            assert!(
                refused.starts_with("must be from 0 ms to 24 h: a number of milliseconds"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_the_range() {
        assert_eq!(whole::<u16>(1, 200)("7"), Ok(7));
        for bad in ["", "0", "201", "-1", "99999999999999999999", "x", "1.5"] {
            assert_eq!(
                whole::<u16>(1, 200)(bad),
                Err("must be a whole number from 1 to 200".to_owned())
            );
        }
        assert!(decimal(0.0, 1.0)("NaN").is_err());
        assert_eq!(
            decimal(0.0, f64::MAX)("-1"),
            Err("must be a number, 0 or more".into())
        );
        assert_eq!(decimal(0.0, 1.0)("0.5"), Ok(0.5));
    }
}
