//! How values look on a page. What others wrote is only ever text.

mod json;
mod text;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use maud::{Markup, html};
use patchbay_model::words::lasted;

pub(crate) use json::{editable, json};
pub(crate) use text::{block, plain, short, text};

/// With a thin gap between thousands.
pub(crate) fn number(count: impl Into<i128>) -> String {
    let count = count.into();
    let digits = count.unsigned_abs().to_string();
    let mut shown = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    match count < 0 {
        true => format!("−{shown}"),
        false => shown,
    }
}

/// A number with its noun.
pub(crate) fn counted(count: impl Into<i128> + Copy, noun: &str) -> String {
    let plural = if count.into() == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", number(count))
}

/// A length of time.
pub(crate) fn length(ms: u64) -> String {
    lasted(Duration::from_millis(ms))
}

fn utc(at: DateTime<Utc>) -> String {
    format!("{} UTC", at.format("%Y-%m-%d %H:%M:%S"))
}

/// How long ago, or how soon; the script shows it in the reader's zone and keeps it right.
pub(crate) fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let distance = now.signed_duration_since(at);
    let whole = Duration::from_secs(distance.num_seconds().unsigned_abs());
    let words = match distance.num_seconds() {
        0 => "now".to_owned(),
        past if past > 0 => format!("{} ago", lasted(whole)),
        _ => format!("in {}", lasted(whole)),
    };
    html! {
        time datetime=(at.to_rfc3339_opts(SecondsFormat::Millis, true)) title=(utc(at)) data-time="ago" { (words) }
    }
}

/// A moment to the second.
pub(crate) fn moment(at: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(at.to_rfc3339_opts(SecondsFormat::Millis, true)) title=(utc(at)) data-time="full" { (utc(at)) }
    }
}

/// The time of the day.
pub(crate) fn clock(at: DateTime<Utc>) -> Markup {
    let shown = format!("{} UTC", at.format("%H:%M:%S"));
    html! {
        time datetime=(at.to_rfc3339_opts(SecondsFormat::Millis, true)) title=(utc(at)) data-time="clock" { (shown) }
    }
}

/// Unix milliseconds as a time.
pub(crate) fn at_ms(ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)
}

/// As [`ago`], of Unix milliseconds that may be absent.
pub(crate) fn ago_ms(ms: Option<u64>, now: DateTime<Utc>) -> Markup {
    match ms.and_then(at_ms) {
        Some(at) => ago(at, now),
        None => unknown(),
    }
}

/// Not known, which is not zero.
pub(crate) fn unknown() -> Markup {
    html! { span class="dim" title="not known" { "–" } }
}

/// A state in words, with its colour.
pub(crate) fn state(word: &str) -> Markup {
    let kind = match word {
        "failed" | "fail" | "critical" | "quarantined" | "trapped" | "deadline"
        | "memory-limit" | "invalid-result" | "host-fault" | "open" | "lost" | "failing"
        | "firing" | "broken" | "rejected" | "blocked" | "unguarded" | "wrong" => "bad",
        "paused" | "warning" | "half-open" | "retry" | "defer" | "delayed" | "pending"
        | "waiting-children" | "skipped" | "behind" | "inactive" | "not-undone" | "overdue"
        | "missing" | "not granted" | "not loaded" | "not ready" | "not set" | "without rights"
        | "deferred" | "refused" | "shorter" | "given up" | "disabled" | "ending" | "off"
        | "still-firing" | "other version" | "unknown-key" => "warn",
        "completed" | "complete" | "done" | "closed" | "repaired" | "restored" | "active"
        | "ticking" | "set" | "on" | "ready" | "whole" | "delivered" | "recovered" | "accepted"
        | "enqueued" | "recorded" | "trusted" | "signs" => "good",
        "running" | "matching" | "undoing" | "invited" | "waits" | "staged" => "info",
        _ => "plain",
    };
    html! { span class={ "state " (kind) } { (text(word)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_gap_between_thousands() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_000), "1\u{202f}000");
        assert_eq!(number(-1_234_567), "−1\u{202f}234\u{202f}567");
        assert_eq!(counted(1, "job"), "1 job");
        assert_eq!(counted(2, "job"), "2 jobs");
    }

    #[test]
    fn times_say_how_long_ago_and_when_exactly() {
        let now = DateTime::from_timestamp(1_767_225_600, 0).expect("a time");
        let shown = ago(now - chrono::TimeDelta::seconds(125), now).into_string();
        assert!(shown.contains("2 min ago"), "{shown}");
        assert!(shown.contains("2025-12-31 23:57:55 UTC"), "{shown}");
        let soon = ago(now + chrono::TimeDelta::seconds(30), now).into_string();
        assert!(soon.contains(">in 30 s<"), "{soon}");
    }
}
