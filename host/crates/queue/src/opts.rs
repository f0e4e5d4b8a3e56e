//! Parses a job's options as BullMQ stores them, as far as a worker needs them.
//!
//! Options are read as BullMQ's own worker reads them (`Job`, `Backoffs` and `getKeepJobs` of
//! BullMQ 6.7): a text is a number where JavaScript makes one of it, fractions are rounded up, and
//! too large values are cut. A meaningless value counts as absent, so that the manifest's value or
//! the worker's own applies, and is named in [`JobOpts::odd`]. No option prevents a job from
//! running.

use std::time::Duration;

use patchbay_model::job::{Keep, NewJob, Trace};
use patchbay_model::retry::{Backoff, BackoffKind, MAX_DELAY};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::js;
use crate::retention::KeepJobs;

/// Most stack traces that a job may ask to keep, because each is read and written again at every
/// failure.
const MAX_TRACES: usize = 100;
/// Longest number that is shown in a log line.
const SHOWN_BYTES: usize = 30;

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
        let raw: Raw<'_> = serde_json::from_str(text)
            .map_err(|error| format!("the job's options cannot be read: {}", unread(text, &error)))?;
        let mut odd = Odd(Vec::new());
        let (backoff, never_again) = raw.backoff.map_or((None, false), |raw| odd.backoff(raw));
        Ok(Self {
            attempts: odd.attempts(raw.attempts),
            never_again,
            backoff,
            trace: odd.value("tm", raw.tm).map(trace).unwrap_or_default(),
            delay_ms: raw.delay.and_then(value).as_ref().and_then(js::number).map_or(0, |ms| ms.max(0.0) as u64),
            expires_at_ms: odd.number("exp", raw.exp).map(|at| at.max(0.0) as u64),
            remove_on_complete: odd.retention("removeOnComplete", raw.remove_on_complete),
            remove_on_fail: odd.retention("removeOnFail", raw.remove_on_fail),
            skip_missed: raw.skip_missed.and_then(value) == Some(Value::Bool(true)),
            lifo: raw.lifo.and_then(value).is_some_and(|lifo| js::is_true(&lifo)),
            keep_logs: odd.most("keepLogs", raw.kl).filter(|&most| most > 0),
            keep_traces: odd.traces(raw.stack_trace_limit),
            has_own_timestamp: raw.timestamp.is_some(),
            odd: odd.0,
        })
    }

    pub(crate) fn retry(&self) -> (Option<u32>, Option<Backoff>) {
        (if self.never_again { Some(1) } else { self.attempts }, self.backoff)
    }

    /// The command that puts the job back into the waiting list. Workers take from the right.
    pub(crate) fn push(&self) -> &'static str {
        if self.lifo { "RPUSH" } else { "LPUSH" }
    }

    /// How long the job asks to be kept in this state (`completed` or `failed`).
    pub(crate) fn retention(&self, state: &str) -> Option<KeepJobs> {
        if state == "completed" { self.remove_on_complete } else { self.remove_on_fail }
    }
}

fn value(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
}

/// Why options cannot be read. The error itself names a wrong type.
fn unread(text: &str, error: &serde_json::Error) -> String {
    match error.is_data() && !text.trim_start().starts_with('{') {
        true => format!("they are {}, not an object", kind(text)),
        false => error.to_string(),
    }
}

/// Describes a JSON value without repeating text of its author.
fn kind(json: &str) -> String {
    let json = json.trim();
    match json.as_bytes().first() {
        Some(b'{') => "an object".into(),
        Some(b'[') => "a list".into(),
        Some(b'"') => {
            let length = serde_json::from_str::<String>(json).map_or(0, |text| text.chars().count());
            format!("a text of {length} character{}", if length == 1 { "" } else { "s" })
        }
        Some(b't' | b'f' | b'n') => json.chars().take(SHOWN_BYTES).collect(),
        _ if json.len() > SHOWN_BYTES => "a long number".into(),
        _ => json.to_owned(),
    }
}

/// Collects options that are meaningless.
struct Odd(Vec<String>);

impl Odd {
    /// Logs only the kind of the value, because the value may be personal data.
    fn note(&mut self, name: &str, raw: &RawValue, instead: &str) {
        self.0.push(format!("{name} is {}: {instead}", kind(raw.get())));
    }

    fn value(&mut self, name: &str, raw: Option<&RawValue>) -> Option<Value> {
        let raw = raw?;
        let value = value(raw);
        if value.is_none() {
            self.note(name, raw, "left out");
        }
        value
    }

    fn number(&mut self, name: &str, raw: Option<&RawValue>) -> Option<f64> {
        let raw = raw?;
        let number = value(raw).as_ref().and_then(js::number);
        if number.is_none() {
            self.note(name, raw, "left out, since it is not a number");
        }
        number
    }

    fn most(&mut self, name: &str, raw: Option<&RawValue>) -> Option<usize> {
        let most = self.number(name, raw)?;
        if most < 0.0
            && let Some(raw) = raw
        {
            self.note(name, raw, "left out, since it is below 0");
            return None;
        }
        Some(most.ceil() as usize)
    }

    /// BullMQ keeps `traces.slice(-limit)`: it uses the whole part of a fraction, keeps all if that
    /// is 0 or not given, and none if the limit is below 0.
    fn traces(&mut self, raw: Option<&RawValue>) -> Option<usize> {
        let limit = self.number("stackTraceLimit", raw)?;
        let is_none = raw.and_then(value).is_some_and(|limit| limit.as_f64() == Some(0.0));
        match limit.trunc() {
            _ if is_none => Some(0),
            0.0 => None,
            below if below < 0.0 => Some(0),
            most => Some((most as usize).min(MAX_TRACES)),
        }
    }

    /// BullMQ compares `attemptsMade + 1 < attempts`, so fractions round up and less than one
    /// counts as one. Its producers write 0 if no number is set.
    fn attempts(&mut self, raw: Option<&RawValue>) -> Option<u32> {
        let attempts = self.number("attempts", raw)?;
        Some(if attempts < 0.0 { 1 } else { attempts.ceil() as u32 })
    }

    /// The flag says that the first failure is the last: a delay of -1 means that to BullMQ.
    fn backoff(&mut self, raw: &RawValue) -> (Option<Backoff>, bool) {
        let of = |kind, ms| (Some(Backoff { kind, delay: millis(ms), max: None, jitter: None }), ms == -1.0);
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
                        self.note("backoff", raw, "left out, since it is no backoff");
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
                self.note("backoff", raw, "its type needs its producer's own code; taken as fixed");
                of(BackoffKind::Fixed, ms)
            }
            _ => {
                self.note("backoff", raw, "left out, since its type or its delay means nothing here");
                return (None, false);
            }
        };
        // NaN means no jitter to BullMQ.
        let jitter = fields.get("jitter").map(|jitter| js::number(jitter).unwrap_or(0.0).clamp(0.0, 1.0));
        // Patchbay's own option. BullMQ has no maximum and ignores it.
        let max = fields.get("maxDelay").and_then(js::number).filter(|ms| *ms >= 0.0).map(millis);
        (backoff.map(|backoff| Backoff { max, jitter, ..backoff }), is_final)
    }

    fn retention(&mut self, name: &str, raw: Option<&RawValue>) -> Option<KeepJobs> {
        let value = self.value(name, raw)?;
        if let (Some(member), Some(raw)) = (KeepJobs::unreadable(&value), raw) {
            self.note(name, raw, &format!("its {member} is left out, since it is not a number"));
        }
        KeepJobs::of_job(&value)
    }
}

/// At most five years. BullMQ also delays a job by a negative time, which puts it behind the jobs
/// that are delayed until now.
fn millis(ms: f64) -> Duration {
    if ms < 0.0 {
        return Duration::from_millis(1);
    }
    Duration::try_from_secs_f64(ms / 1e3).map_or(MAX_DELAY, |time| time.min(MAX_DELAY))
}

/// Patchbay's own trace, or another producer's OpenTelemetry context, whose trace id ties the job
/// to its request as well.
fn trace(tm: Value) -> Trace {
    let tm = match tm {
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::Null),
        other => other,
    };
    let trace: Trace = serde_json::from_value(tm).unwrap_or_default();
    let trace_id = || trace.traceparent.map(|parent| format!("{:032x}", parent.trace_id));
    Trace { correlation_id: trace.correlation_id.clone().or_else(trace_id), ..trace }
}

/// Options for BullMQ's scripts, under BullMQ's short names.
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
        // A JSON text inside a JSON text, as BullMQ's own telemetry writes it.
        opts.insert("tm".into(), json!(job.trace).to_string().into());
    }
    Value::Object(opts)
}

/// The format of BullMQ's producers: `true`, `false`, a number, or `{count, age}` with the age in
/// seconds.
fn removal(keep: Keep) -> Value {
    match (keep.age, keep.count) {
        (None, None) => false.into(),
        (_, Some(0)) => true.into(),
        (None, Some(count)) => count.into(),
        (Some(age), None) => json!({ "age": seconds(age) }),
        (Some(age), Some(count)) => json!({ "age": seconds(age), "count": count }),
    }
}

/// A whole number of seconds where possible. Less than one second must not become 0, which removes
/// everything.
fn seconds(age: Duration) -> Value {
    if age.subsec_nanos() == 0 { age.as_secs().into() } else { age.as_secs_f64().into() }
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
        let delay = |json: &str| backoff(json).backoff.map(|backoff| backoff.delay.as_secs_f64() * 1e3);
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
            (r#"{"type":"exponential","delay":1e300}"#, Some(MAX_DELAY.as_secs_f64() * 1e3)),
            (r#"{"type":"custom"}"#, None),
            (r#"{"type":"custom","delay":7}"#, Some(7.0)),
            (r#"{"delay":7}"#, Some(7.0)),
        ] {
            assert_eq!(delay(json), read, "{json}");
        }
        let never = backoff(r#"{"type":"fixed","delay":-1}"#);
        assert_eq!((never.retry().0, never.attempts), (Some(1), Some(4)), "-1 is BullMQ's word for no retry");
        assert_eq!(backoff(r#"{"type":"fixed","delay":1,"jitter":7}"#).backoff.and_then(|b| b.jitter), Some(1.0));
        assert_eq!(backoff(r#"{"type":"fixed","delay":1,"jitter":"x"}"#).backoff.and_then(|b| b.jitter), Some(0.0));
        let limits = of(r#"{"kl":2.5,"stackTraceLimit":0,"lifo":"x","timestamp":1.5}"#);
        assert_eq!((limits.keep_logs, limits.keep_traces, limits.lifo), (Some(3), Some(0), true));
        assert!(limits.has_own_timestamp);
        let limits = of(r#"{"kl":-2,"stackTraceLimit":1e9,"lifo":0}"#);
        assert_eq!((limits.keep_logs, limits.keep_traces, limits.lifo), (None, Some(MAX_TRACES), false));
        for (limit, kept) in [
            ("0.5", None),
            ("[1]", Some(1)),
            ("-1", Some(0)),
            ("-0.5", None),
            ("2.7", Some(2)),
            ("\"0\"", None),
            ("\"x\"", None),
        ] {
            assert_eq!(of(&format!("{{\"stackTraceLimit\":{limit}}}")).keep_traces, kept, "{limit}");
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
        let named: Vec<&str> = opts.odd.iter().filter_map(|odd| odd.split(' ').next()).collect();
        assert_eq!(named, ["backoff", "attempts", "exp", "removeOnFail"]);
        assert!(opts.odd.iter().all(|odd| odd.len() < 300), "{:?}", opts.odd);
        let leaking = r#"{"backoff":{"type":"c","note":"leak@x.y"},"attempts":"leak@x.y","exp":["leak@x.y"],"removeOnFail":{"age":"leak@x.y"},"kl":-3}"#;
        let odd = JobOpts::parse(leaking).expect("options").odd.join("; ");
        assert!(!odd.contains("leak"), "{odd}");
        for said in
            ["backoff is an object: ", "attempts is a text of 8 characters: ", "exp is a list: ", "keepLogs is -3: "]
        {
            assert!(odd.contains(said), "{said}: {odd}");
        }
        let refused = |text: &str| JobOpts::parse(text).expect_err("no options");
        assert_eq!(
            refused(r#""leak@x.y""#),
            "the job's options cannot be read: they are a text of 8 characters, not an object"
        );
        assert!(!refused(r#"["leak@x.y"]"#).contains("leak") && !refused("leak@x.y").contains("leak"));
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
        assert_eq!(read.retention("completed"), KeepJobs::of_job(&json!({ "age": 9, "count": 3 })));
        assert_eq!(read.retention("failed"), KeepJobs::of_job(&json!(false)));
        assert_eq!(removal(Keep { age: Some(Duration::from_millis(500)), count: None }), json!({ "age": 0.5 }));
        assert_eq!(
            (read.attempts, read.backoff, read.expires_at_ms, read.trace),
            (job.attempts, job.backoff, job.expires_at_ms, job.trace)
        );
    }
}
