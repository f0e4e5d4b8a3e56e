//! Parses a job's options as BullMQ stores them, as far as a worker needs them.
//!
//! Options are read as BullMQ's own worker reads them (`Job`, `Backoffs` and `getKeepJobs` of
//! BullMQ 6.7): a text is a number where JavaScript makes one of it, fractions are rounded up, and
//! too large values are cut. A meaningless value counts as absent, so that the manifest's value or
//! the worker's own applies, and is named in [`JobOpts::odd`]. No option prevents a job from
//! running.

mod odd;
mod write;

use patchbay_model::job::Trace;
use patchbay_model::retry::Backoff;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use self::odd::{Odd, kind, value};
pub(crate) use self::write::encode;
use crate::js;
use crate::retention::KeepJobs;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct JobOpts {
    pub(crate) attempts: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    /// The first failure is the last, whatever number of attempts the job has. BullMQ's sign for it
    /// is a backoff of -1.
    never_again: bool,
    pub(crate) trace: Trace,
    /// Delay from the job's creation, in milliseconds.
    pub(crate) delay_ms: u64,
    pub(crate) expires_at_ms: Option<u64>,
    remove_on_complete: Option<KeepJobs>,
    remove_on_fail: Option<KeepJobs>,
    /// Patchbay's own option, for ticks of a schedule that skips missed ticks.
    pub(crate) skip_missed: bool,
    /// A retry without delay goes before all waiting jobs without priority.
    lifo: bool,
    /// How many of the newest log lines are kept.
    pub(crate) keep_logs: Option<usize>,
    pub(crate) keep_traces: Option<usize>,
    /// The producer has chosen the creation time, so another job may have the same.
    pub(crate) has_own_timestamp: bool,
    /// Options that were not used as given, for the log.
    pub(crate) odd: Vec<String>,
}

/// Every field stays raw JSON, so that one that is nested too deep or of a wrong type does not
/// break the others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    #[serde(borrow)]
    attempts: Option<&'a RawValue>,
    #[serde(borrow)]
    backoff: Option<&'a RawValue>,
    #[serde(borrow)]
    delay: Option<&'a RawValue>,
    /// BullMQ's telemetry metadata: a text that only telemetry reads.
    #[serde(borrow)]
    tm: Option<&'a RawValue>,
    /// Patchbay's own option: do not run after this time. BullMQ ignores it.
    #[serde(borrow)]
    exp: Option<&'a RawValue>,
    #[serde(borrow)]
    remove_on_complete: Option<&'a RawValue>,
    #[serde(borrow)]
    remove_on_fail: Option<&'a RawValue>,
    #[serde(borrow)]
    skip_missed: Option<&'a RawValue>,
    #[serde(borrow)]
    lifo: Option<&'a RawValue>,
    #[serde(borrow)]
    kl: Option<&'a RawValue>,
    #[serde(borrow)]
    stack_trace_limit: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
}

impl JobOpts {
    /// Parses the hash field `opts`. Fails, with a text for operators, only if it is no JSON
    /// object.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // BullMQ reads both as no options.
        if matches!(text.trim(), "" | "[]") {
            return Ok(Self::default());
        }
        let raw: Raw<'_> = serde_json::from_str(text).map_err(|error| {
            format!("the job's options cannot be read: {}", unread(text, &error))
        })?;
        let mut odd = Odd::default();
        let (backoff, never_again) = raw.backoff.map_or((None, false), |raw| odd.backoff(raw));
        Ok(Self {
            attempts: odd.attempts(raw.attempts),
            never_again,
            backoff,
            trace: odd.value("tm", raw.tm).map(trace).unwrap_or_default(),
            delay_ms: raw
                .delay
                .and_then(value)
                .as_ref()
                .and_then(js::number)
                .map_or(0, |ms| ms.max(0.0) as u64),
            expires_at_ms: odd.number("exp", raw.exp).map(|at| at.max(0.0) as u64),
            remove_on_complete: odd.retention("removeOnComplete", raw.remove_on_complete),
            remove_on_fail: odd.retention("removeOnFail", raw.remove_on_fail),
            skip_missed: raw.skip_missed.and_then(value) == Some(Value::Bool(true)),
            lifo: raw
                .lifo
                .and_then(value)
                .is_some_and(|lifo| js::is_true(&lifo)),
            keep_logs: odd.most("keepLogs", raw.kl).filter(|&most| most > 0),
            keep_traces: odd.traces(raw.stack_trace_limit),
            has_own_timestamp: raw.timestamp.is_some(),
            odd: odd.0,
        })
    }

    pub(crate) fn retry(&self) -> (Option<u32>, Option<Backoff>) {
        (
            if self.never_again {
                Some(1)
            } else {
                self.attempts
            },
            self.backoff,
        )
    }

    /// The command that puts the job back into the waiting list. Workers take from the right.
    pub(crate) fn push(&self) -> &'static str {
        if self.lifo { "RPUSH" } else { "LPUSH" }
    }

    /// How long the job asks to be kept in this state (`completed` or `failed`).
    pub(crate) fn retention(&self, state: &str) -> Option<KeepJobs> {
        if state == "completed" {
            self.remove_on_complete
        } else {
            self.remove_on_fail
        }
    }
}

/// Why options cannot be read. The error itself names a wrong type.
fn unread(text: &str, error: &serde_json::Error) -> String {
    match error.is_data() && !text.trim_start().starts_with('{') {
        true => format!("they are {}, not an object", kind(text)),
        false => error.to_string(),
    }
}

/// Ours, or another producer's OpenTelemetry context, whose trace id ties the job to its request as
/// well.
fn trace(tm: Value) -> Trace {
    let tm = match tm {
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::Null),
        other => other,
    };
    let trace: Trace = serde_json::from_value(tm).unwrap_or_default();
    let trace_id = || {
        trace
            .traceparent
            .map(|parent| format!("{:032x}", parent.trace_id))
    };
    Trace {
        correlation_id: trace.correlation_id.clone().or_else(trace_id),
        ..trace
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use patchbay_model::job::{Keep, NewJob};
    use patchbay_model::retry::{BackoffKind, MAX_DELAY};
    use serde_json::json;

    use super::odd::MAX_TRACES;
    use super::write::removal;
    use super::*;

    #[test]
    fn what_other_producers_write_is_read() {
        let opts = JobOpts::parse(
            r#"{"attempts":3,"backoff":{"type":"exponential","delay":1000,"jitter":0.5},"delay":0,"removeOnComplete":true}"#,
        );
        let opts = opts.expect("options");
        assert_eq!(opts.attempts, Some(3));
        let backoff = opts.backoff.expect("a backoff");
        assert_eq!(
            (backoff.kind, backoff.delay, backoff.jitter),
            (BackoffKind::Exponential, Duration::from_secs(1), Some(0.5))
        );
        assert_eq!(
            JobOpts::parse(r#"{"backoff":2000}"#)
                .expect("options")
                .backoff
                .map(|b| b.delay),
            Some(Duration::from_secs(2))
        );
        assert_eq!(JobOpts::parse("{}"), Ok(JobOpts::default()));
        let traced = r#"{"tm":"{\"traceparent\":\"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\"}"}"#;
        let traced = JobOpts::parse(traced).expect("options").trace;
        assert_eq!(
            traced.correlation_id.as_deref(),
            Some("4bf92f3577b34da6a3ce929d0e0e4736")
        );
        let parent = traced.traceparent.map(|parent| parent.to_string());
        assert_eq!(
            parent.as_deref(),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        );
    }

    #[test]
    fn odd_options_are_read_as_bullmqs_worker_reads_them() {
        let of = |text: &str| JobOpts::parse(text).expect("options");
        let attempts = |json: &str| of(&format!(r#"{{"attempts":{json}}}"#)).attempts;
        for (json, read) in [
            ("3", Some(3)),
            ("\"3\"", Some(3)),
            ("2.5", Some(3)),
            ("0", Some(0)),
            ("-1", Some(1)),
            ("1e10", Some(u32::MAX)),
            ("12345678901234567890123", Some(u32::MAX)),
            ("true", Some(1)),
            ("null", None),
            ("\"many\"", None),
            ("{}", None),
        ] {
            assert_eq!(attempts(json), read, "{json}");
        }
        let backoff = |json: &str| of(&format!(r#"{{"attempts":4,"backoff":{json}}}"#));
        let delay = |json: &str| {
            backoff(json)
                .backoff
                .map(|backoff| backoff.delay.as_secs_f64() * 1e3)
        };
        for (json, read) in [
            ("0", Some(0.0)),
            ("1500.5", Some(1_500.5)),
            ("\"5000\"", Some(5_000.0)),
            ("\"exponential\"", None),
            ("false", None),
            ("true", None),
            ("[]", None),
            (r#"{"type":"fixed"}"#, Some(0.0)),
            (r#"{"type":"fixed","delay":"20"}"#, Some(20.0)),
            (r#"{"type":"fixed","delay":"soon"}"#, None),
            (r#"{"type":"exponential","delay":-5}"#, Some(1.0)),
            (
                r#"{"type":"exponential","delay":1e300}"#,
                Some(MAX_DELAY.as_secs_f64() * 1e3),
            ),
            (r#"{"type":"custom"}"#, None),
            (r#"{"type":"custom","delay":7}"#, Some(7.0)),
            (r#"{"delay":7}"#, Some(7.0)),
        ] {
            assert_eq!(delay(json), read, "{json}");
        }
        let never = backoff(r#"{"type":"fixed","delay":-1}"#);
        assert_eq!(
            (never.retry().0, never.attempts),
            (Some(1), Some(4)),
            "-1 is BullMQ's word for no retry"
        );
        assert_eq!(
            backoff(r#"{"type":"fixed","delay":1,"jitter":7}"#)
                .backoff
                .and_then(|b| b.jitter),
            Some(1.0)
        );
        assert_eq!(
            backoff(r#"{"type":"fixed","delay":1,"jitter":"x"}"#)
                .backoff
                .and_then(|b| b.jitter),
            Some(0.0)
        );
        let limits = of(r#"{"kl":2.5,"stackTraceLimit":0,"lifo":"x","timestamp":1.5}"#);
        assert_eq!(
            (limits.keep_logs, limits.keep_traces, limits.lifo),
            (Some(3), Some(0), true)
        );
        assert!(limits.has_own_timestamp);
        let limits = of(r#"{"kl":-2,"stackTraceLimit":1e9,"lifo":0}"#);
        assert_eq!(
            (limits.keep_logs, limits.keep_traces, limits.lifo),
            (None, Some(MAX_TRACES), false)
        );
        for (limit, kept) in [
            ("0.5", None),
            ("[1]", Some(1)),
            ("-1", Some(0)),
            ("-0.5", None),
            ("2.7", Some(2)),
            ("\"0\"", None),
            ("\"x\"", None),
        ] {
            assert_eq!(
                of(&format!("{{\"stackTraceLimit\":{limit}}}")).keep_traces,
                kept,
                "{limit}"
            );
        }
    }

    #[test]
    fn what_means_nothing_is_named_and_costs_no_other_option() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let opts = format!(
            r#"{{"attempts":{deep},"backoff":{{"type":"mine"}},"exp":"x","removeOnFail":{{"age":{{}}}},"lifo":true,"other":{deep}}}"#
        );
        let opts = JobOpts::parse(&opts).expect("options");
        assert!(opts.lifo);
        let named: Vec<&str> = opts
            .odd
            .iter()
            .filter_map(|odd| odd.split(' ').next())
            .collect();
        assert_eq!(named, ["backoff", "attempts", "exp", "removeOnFail"]);
        assert!(opts.odd.iter().all(|odd| odd.len() < 300), "{:?}", opts.odd);
        let leaking = r#"{"backoff":{"type":"c","note":"leak@x.y"},"attempts":"leak@x.y","exp":["leak@x.y"],"removeOnFail":{"age":"leak@x.y"},"kl":-3}"#;
        let odd = JobOpts::parse(leaking).expect("options").odd.join("; ");
        assert!(!odd.contains("leak"), "{odd}");
        for said in [
            "backoff is an object: ",
            "attempts is a text of 8 characters: ",
            "exp is a list: ",
            "keepLogs is -3: ",
        ] {
            assert!(odd.contains(said), "{said}: {odd}");
        }
        let refused = |text: &str| JobOpts::parse(text).expect_err("no options");
        assert_eq!(
            refused(r#""leak@x.y""#),
            "the job's options cannot be read: they are a text of 8 characters, not an object"
        );
        assert!(
            !refused(r#"["leak@x.y"]"#).contains("leak") && !refused("leak@x.y").contains("leak")
        );
        for none in ["", "[]", "{}"] {
            assert_eq!(JobOpts::parse(none), Ok(JobOpts::default()), "{none}");
        }
        for damaged in ["nonsense", "null", "7", "[1]"] {
            assert!(JobOpts::parse(damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn what_we_write_we_read() {
        let job = NewJob {
            attempts: Some(4),
            backoff: Some(Backoff {
                kind: BackoffKind::Fixed,
                delay: Duration::from_millis(5),
                max: Some(Duration::from_secs(1)),
                jitter: Some(0.25),
            }),
            expires_at_ms: Some(5),
            keep_completed: Some(Keep {
                age: Some(Duration::from_secs(9)),
                count: Some(3),
            }),
            keep_failed: Some(Keep::default()),
            trace: Trace {
                correlation_id: Some("c".into()),
                platform: Some("p".into()),
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
                    .parse()
                    .ok(),
            },
            ..NewJob::new("q".parse().expect("a name"), "n", "{}")
        };
        let read = JobOpts::parse(&encode(&job).to_string()).expect("options");
        assert_eq!(
            read.retention("completed"),
            KeepJobs::of_job(&json!({ "age": 9, "count": 3 }))
        );
        assert_eq!(read.retention("failed"), KeepJobs::of_job(&json!(false)));
        assert_eq!(
            removal(Keep {
                age: Some(Duration::from_millis(500)),
                count: None
            }),
            json!({ "age": 0.5 })
        );
        assert_eq!(
            (read.attempts, read.backoff, read.expires_at_ms, read.trace),
            (job.attempts, job.backoff, job.expires_at_ms, job.trace)
        );
    }
}
