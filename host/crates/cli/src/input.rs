//! JSON arguments of commands: the text itself, `@FILE`, or `-` for standard input. No JSON begins
//! with `@`, and none is only `-`.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
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

/// Parses `90s`, `30m`, `24h` or `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => 0,
    };
    let number = text
        .get(..text.len().saturating_sub(1))
        .and_then(|number| number.parse::<u64>().ok());
    match number.and_then(|number| number.checked_mul(unit)) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a whole number with a unit: 90s, 30m, 24h or 7d".into()),
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
}
