//! Options that are odd: a number where JavaScript makes one of it, and a note of what means
//! nothing.

use std::time::Duration;

use patchbay_model::retry::{Backoff, BackoffKind, MAX_DELAY};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::js;
use crate::retention::KeepJobs;

/// Most stack traces that a job may ask to keep: each is read and written again at every failure.
pub(super) const MAX_TRACES: usize = 100;
/// Longest number that is shown in a log line.
const SHOWN_BYTES: usize = 30;

/// Collects what means nothing.
#[derive(Default)]
pub(super) struct Odd(pub(super) Vec<String>);

impl Odd {
    /// Only the kind of what its producer wrote, which may be personal, goes to the log.
    fn note(&mut self, name: &str, raw: &RawValue, instead: &str) {
        self.0
            .push(format!("{name} is {}: {instead}", kind(raw.get())));
    }

    pub(super) fn value(&mut self, name: &str, raw: Option<&RawValue>) -> Option<Value> {
        let raw = raw?;
        let value = value(raw);
        if value.is_none() {
            self.note(name, raw, "ignored");
        }
        value
    }

    pub(super) fn number(&mut self, name: &str, raw: Option<&RawValue>) -> Option<f64> {
        let raw = raw?;
        let number = value(raw).as_ref().and_then(js::number);
        if number.is_none() {
            self.note(name, raw, "ignored, because it is not a number");
        }
        number
    }

    /// A number of things to keep.
    pub(super) fn most(&mut self, name: &str, raw: Option<&RawValue>) -> Option<usize> {
        let most = self.number(name, raw)?;
        if most < 0.0
            && let Some(raw) = raw
        {
            self.note(name, raw, "ignored, because it is below 0");
            return None;
        }
        Some(most.ceil() as usize)
    }

    /// BullMQ keeps `traces.slice(-limit)`: of a fraction its whole part, all where that is 0 or
    /// nothing, and none of a limit below 0.
    pub(super) fn traces(&mut self, raw: Option<&RawValue>) -> Option<usize> {
        let limit = self.number("stackTraceLimit", raw)?;
        let is_none = raw
            .and_then(value)
            .is_some_and(|limit| limit.as_f64() == Some(0.0));
        match limit.trunc() {
            _ if is_none => Some(0),
            0.0 => None,
            below if below < 0.0 => Some(0),
            most => Some((most as usize).min(MAX_TRACES)),
        }
    }

    /// BullMQ compares `attemptsMade + 1 < attempts`: fractions count up, and less than one is one.
    /// 0 is what its producers write for none.
    pub(super) fn attempts(&mut self, raw: Option<&RawValue>) -> Option<u32> {
        let attempts = self.number("attempts", raw)?;
        Some(if attempts < 0.0 {
            1
        } else {
            attempts.ceil() as u32
        })
    }

    /// Also whether the first failure is the last: BullMQ takes a delay of -1 for that.
    pub(super) fn backoff(&mut self, raw: &RawValue) -> (Option<Backoff>, bool) {
        let of = |kind, ms| {
            (
                Some(Backoff {
                    kind,
                    delay: millis(ms),
                    max: None,
                    jitter: None,
                }),
                ms == -1.0,
            )
        };
        let fields = match value(raw) {
            Some(Value::Object(fields)) => fields,
            Some(absent) if !js::is_true(&absent) && !absent.is_number() => return (None, false),
            other => {
                return match other
                    .filter(|other| !other.is_boolean() && !other.is_array())
                    .as_ref()
                    .and_then(js::number)
                {
                    Some(ms) => of(BackoffKind::Fixed, ms),
                    None => {
                        self.note("backoff", raw, "ignored, because it is not a backoff");
                        (None, false)
                    }
                };
            }
        };
        let kind = match fields.get("type").and_then(Value::as_str) {
            Some("fixed") => Some(BackoffKind::Fixed),
            Some("exponential") => Some(BackoffKind::Exponential),
            _ => None,
        };
        let delay = fields.get("delay").map(js::number);
        let (backoff, is_final) = match (kind, delay) {
            (Some(kind), None) => of(kind, 0.0),
            (Some(kind), Some(Some(ms))) => of(kind, ms),
            (None, Some(Some(ms))) if ms > 0.0 => {
                self.note(
                    "backoff",
                    raw,
                    "its type needs the producer's own code; used as fixed",
                );
                of(BackoffKind::Fixed, ms)
            }
            _ => {
                self.note(
                    "backoff",
                    raw,
                    "ignored, because its type or its delay is not known",
                );
                return (None, false);
            }
        };
        // Not NaN, which is no jitter to BullMQ.
        let jitter = fields
            .get("jitter")
            .map(|jitter| js::number(jitter).unwrap_or(0.0).clamp(0.0, 1.0));
        // Ours: BullMQ has no maximum and ignores it.
        let max = fields
            .get("maxDelay")
            .and_then(js::number)
            .filter(|ms| *ms >= 0.0)
            .map(millis);
        (
            backoff.map(|backoff| Backoff {
                max,
                jitter,
                ..backoff
            }),
            is_final,
        )
    }

    pub(super) fn retention(&mut self, name: &str, raw: Option<&RawValue>) -> Option<KeepJobs> {
        let value = self.value(name, raw)?;
        if let (Some(member), Some(raw)) = (KeepJobs::unreadable(&value), raw) {
            self.note(
                name,
                raw,
                &format!("its {member} is ignored, because it is not a number"),
            );
        }
        KeepJobs::of_job(&value)
    }
}

/// At most five years. BullMQ delays a job also by less than nothing, so that it waits behind what
/// is delayed until now.
fn millis(ms: f64) -> Duration {
    if ms < 0.0 {
        return Duration::from_millis(1);
    }
    Duration::try_from_secs_f64(ms / 1e3).map_or(MAX_DELAY, |time| time.min(MAX_DELAY))
}

pub(super) fn value(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
}

/// What a JSON value is, in words that repeat no text of its author.
pub(super) fn kind(json: &str) -> String {
    let json = json.trim();
    match json.as_bytes().first() {
        Some(b'{') => "an object".into(),
        Some(b'[') => "a list".into(),
        Some(b'"') => {
            let length =
                serde_json::from_str::<String>(json).map_or(0, |text| text.chars().count());
            format!(
                "a text of {length} character{}",
                if length == 1 { "" } else { "s" }
            )
        }
        Some(b't' | b'f' | b'n') => json.chars().take(SHOWN_BYTES).collect(),
        _ if json.len() > SHOWN_BYTES => "a long number".into(),
        _ => json.to_owned(),
    }
}
