//! A job's options as BullMQ's producers write them.

use std::time::Duration;

use patchbay_model::job::{Keep, NewJob, Trace};
use patchbay_model::retry::BackoffKind;
use serde_json::{Map, Value, json};

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
        for (name, set) in [
            ("extend", once.extend),
            ("replace", once.replace),
            ("keepLastIfActive", once.keep_last_if_active),
        ] {
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
    for (name, keep) in [
        ("removeOnComplete", job.keep_completed),
        ("removeOnFail", job.keep_failed),
    ] {
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

/// As BullMQ's producers write it: `true`, `false`, a number, or `{count, age}` with the age in
/// seconds.
pub(super) fn removal(keep: Keep) -> Value {
    match (keep.age, keep.count) {
        (None, None) => false.into(),
        (_, Some(0)) => true.into(),
        (None, Some(count)) => count.into(),
        (Some(age), None) => json!({ "age": seconds(age) }),
        (Some(age), Some(count)) => json!({ "age": seconds(age), "count": count }),
    }
}

/// Whole ones as such; less than one must not become none, which removes everything.
fn seconds(age: Duration) -> Value {
    if age.subsec_nanos() == 0 {
        age.as_secs().into()
    } else {
        age.as_secs_f64().into()
    }
}
