//! A job's options as BullMQ stores them, as far as a worker needs them.
//!
//! Read strictly from the raw text: upstream's reader replaces all options by defaults when one of them is odd, and a job that asked for
//! five attempts must not silently get one.

use std::time::Duration;

use patchbay_model::job::{Keep, NewJob, Trace};
use patchbay_model::retry::{Backoff, BackoffKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a worker needs to know.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct JobOpts {
    pub(crate) attempts: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) trace: Trace,
    /// From its making on, in milliseconds.
    pub(crate) delay_ms: u64,
    /// Unix milliseconds.
    pub(crate) expires_at_ms: Option<u64>,
    remove_on_complete: Option<Value>,
    remove_on_fail: Option<Value>,
    /// Ours: of a schedule that leaves out missed ticks.
    pub(crate) skip_missed: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    attempts: Option<u32>,
    backoff: Option<RawBackoff>,
    /// Whatever it is: BullMQ has obeyed it, and for us it only tells how long the job has waited.
    delay: Option<Value>,
    /// BullMQ's telemetry metadata: a text that only telemetry reads.
    tm: Option<Value>,
    /// Ours: do not run after this. BullMQ ignores it.
    exp: Option<u64>,
    remove_on_complete: Option<Value>,
    remove_on_fail: Option<Value>,
    #[serde(default)]
    skip_missed: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawBackoff {
    Delay(f64),
    Full {
        #[serde(rename = "type")]
        kind: String,
        delay: Option<f64>,
        jitter: Option<f64>,
        /// Ours: BullMQ has no maximum and ignores it.
        #[serde(rename = "maxDelay")]
        max_delay: Option<f64>,
    },
}

impl JobOpts {
    /// Reads the hash field `opts`. The error is for operators.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw =
            serde_json::from_str(text).map_err(|error| format!("the job's options cannot be read: {error}"))?;
        Ok(Self {
            attempts: raw.attempts,
            backoff: raw.backoff.map(backoff).transpose()?,
            trace: raw.tm.map(trace).unwrap_or_default(),
            delay_ms: raw.delay.and_then(|delay| delay.as_u64()).unwrap_or(0),
            expires_at_ms: raw.exp,
            remove_on_complete: raw.remove_on_complete,
            remove_on_fail: raw.remove_on_fail,
            skip_missed: raw.skip_missed,
        })
    }

    /// How long the job wants to stay once it is in this state (`completed` or `failed`).
    pub(crate) fn retention(&self, state: &str) -> Option<&Value> {
        if state == "completed" { self.remove_on_complete.as_ref() } else { self.remove_on_fail.as_ref() }
    }
}

fn backoff(raw: RawBackoff) -> Result<Backoff, String> {
    let millis = |ms: f64| {
        Duration::try_from_secs_f64(ms / 1e3)
            .map_err(|_| "the job's options cannot be read: a backoff delay is no length of time".to_owned())
    };
    match raw {
        RawBackoff::Delay(ms) => Ok(Backoff { kind: BackoffKind::Fixed, delay: millis(ms)?, max: None, jitter: None }),
        RawBackoff::Full { kind, delay, jitter, max_delay } => {
            let kind = match kind.as_str() {
                "fixed" => BackoffKind::Fixed,
                "exponential" => BackoffKind::Exponential,
                other => {
                    return Err(format!(
                        "the job's options cannot be read: backoff {other:?} needs its producer's own code"
                    ));
                }
            };
            Ok(Backoff { kind, delay: millis(delay.unwrap_or(0.0))?, max: max_delay.map(millis).transpose()?, jitter })
        }
    }
}

/// Ours, or another producer's OpenTelemetry context, whose trace id ties the job to its request as well.
fn trace(tm: Value) -> Trace {
    let tm = match tm {
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::Null),
        other => other,
    };
    let trace: Trace = serde_json::from_value(tm).unwrap_or_default();
    let trace_id = || trace.traceparent.map(|parent| format!("{:032x}", parent.trace_id));
    Trace { correlation_id: trace.correlation_id.clone().or_else(trace_id), ..trace }
}

/// Options for BullMQ's scripts, under the short names that they use.
pub(crate) fn encode(job: &NewJob) -> Value {
    let mut opts = Map::new();
    if let Some(delay) = job.delay {
        opts.insert("delay".into(), (delay.as_millis() as u64).into());
    }
    if let Some(priority) = job.priority {
        opts.insert("priority".into(), priority.into());
    }
    if let Some(attempts) = job.attempts {
        opts.insert("attempts".into(), attempts.into());
    }
    if let Some(backoff) = &job.backoff {
        let kind = match backoff.kind {
            BackoffKind::Fixed => "fixed",
            BackoffKind::Exponential => "exponential",
        };
        let mut value = json!({ "type": kind, "delay": backoff.delay.as_millis() as u64 });
        if let Some(jitter) = backoff.jitter {
            value["jitter"] = jitter.into();
        }
        if let Some(max) = backoff.max {
            value["maxDelay"] = (max.as_millis() as u64).into();
        }
        opts.insert("backoff".into(), value);
    }
    if let Some(id) = &job.id {
        opts.insert("jobId".into(), id.as_str().into());
    }
    if let Some(once) = &job.deduplication {
        let mut value = json!({ "id": once.key });
        if let Some(ttl) = once.ttl {
            value["ttl"] = (ttl.as_millis() as u64).into();
        }
        for (name, set) in
            [("extend", once.extend), ("replace", once.replace), ("keepLastIfActive", once.keep_last_if_active)]
        {
            if set {
                value[name] = true.into();
            }
        }
        opts.insert("de".into(), value);
    }
    if job.lifo {
        opts.insert("lifo".into(), true.into());
    }
    if let Some(at) = job.expires_at_ms {
        opts.insert("exp".into(), at.into());
    }
    for (name, keep) in [("removeOnComplete", job.keep_completed), ("removeOnFail", job.keep_failed)] {
        if let Some(keep) = keep {
            opts.insert(name.into(), removal(keep));
        }
    }
    if job.trace != Trace::default() {
        // A text within a text, as BullMQ's own telemetry writes it.
        opts.insert("tm".into(), json!(job.trace).to_string().into());
    }
    Value::Object(opts)
}

/// As BullMQ's producers write it: `true`, `false`, a number, or `{count, age}` with the age in seconds.
fn removal(keep: Keep) -> Value {
    match (keep.age, keep.count) {
        (None, None) => false.into(),
        (_, Some(0)) => true.into(),
        (None, Some(count)) => count.into(),
        (Some(age), None) => json!({ "age": age.as_secs() }),
        (Some(age), Some(count)) => json!({ "age": age.as_secs(), "count": count }),
    }
}

#[cfg(test)]
mod tests {
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
            JobOpts::parse(r#"{"backoff":2000}"#).expect("options").backoff.map(|b| b.delay),
            Some(Duration::from_secs(2))
        );
        assert_eq!(JobOpts::parse("{}"), Ok(JobOpts::default()));
        let traced = r#"{"tm":"{\"traceparent\":\"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\"}"}"#;
        let traced = JobOpts::parse(traced).expect("options").trace;
        assert_eq!(traced.correlation_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        let parent = traced.traceparent.map(|parent| parent.to_string());
        assert_eq!(parent.as_deref(), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    }

    #[test]
    fn one_odd_option_is_an_error_and_not_a_default() {
        for odd in [
            r#"{"attempts":"many"}"#,
            r#"{"attempts":-1}"#,
            r#"{"backoff":{"type":"mine"}}"#,
            r#"{"backoff":-5}"#,
            "[]",
            "nonsense",
        ] {
            assert!(JobOpts::parse(odd).is_err(), "{odd}");
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
            keep_completed: Some(Keep { age: Some(Duration::from_secs(9)), count: Some(3) }),
            keep_failed: Some(Keep::default()),
            trace: Trace {
                correlation_id: Some("c".into()),
                platform: Some("p".into()),
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok(),
            },
            ..NewJob::new("q".parse().expect("a name"), "n", "{}")
        };
        let read = JobOpts::parse(&encode(&job).to_string()).expect("options");
        assert_eq!(read.retention("completed"), Some(&json!({ "age": 9, "count": 3 })));
        assert_eq!(read.retention("failed"), Some(&json!(false)));
        assert_eq!(
            (read.attempts, read.backoff, read.expires_at_ms, read.trace),
            (job.attempts, job.backoff, job.expires_at_ms, job.trace)
        );
    }
}
