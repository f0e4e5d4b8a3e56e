//! A job as operators write it, for adding one and for adding a tree. Absent options take the values of the queue's manifest.

use std::time::Duration;

use patchbay_model::QueueName;
use patchbay_model::job::{Deduplication, Keep, NewJob, Trace};
use patchbay_model::retry::{Backoff, BackoffKind};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::reveal::refuse_mark;
use crate::error::ApiError;

/// A job to be added.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AddJob {
    /// The kind of work.
    pub(super) name: String,
    /// Its input, whatever JSON it is; default `{}`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Value>)]
    data: Option<Box<RawValue>>,
    /// Not a whole number, no `:`, and not one of the queue's own keys, such as `failed`.
    id: Option<String>,
    /// Start no earlier than this from now, milliseconds.
    delay_ms: Option<u64>,
    /// 1 (first) to 2097152; 0 comes before them, whatever the manifest says.
    priority: Option<u32>,
    /// Before everything that waits without priority.
    #[serde(default)]
    lifo: bool,
    /// In all.
    attempts: Option<u32>,
    /// Between attempts.
    backoff: Option<BackoffBody>,
    /// Only one job per id.
    deduplication: Option<DeduplicationBody>,
    /// Do not run after this, Unix milliseconds: taken later, it fails for good as `expired`.
    expires_at_ms: Option<u64>,
    /// As BullMQ's: `true` (at once), `false` (never), a number of jobs to keep, or `{"age": seconds, "count": jobs}`.
    #[schema(value_type = Option<Value>)]
    remove_on_complete: Option<Value>,
    /// Likewise for a job that has failed for good.
    #[schema(value_type = Option<Value>)]
    remove_on_fail: Option<Value>,
    /// Make the queue if nobody knows it; without, that is refused as a typo.
    #[serde(default)]
    pub(super) new_queue: bool,
}

/// `null` is a value of its own, as in BullMQ, and not the absence of one.
pub(super) fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// How long to wait between attempts.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BackoffBody {
    /// `fixed` or `exponential`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: BackoffKind,
    /// The first delay.
    delay_ms: u64,
    /// No delay is longer.
    max_ms: Option<u64>,
    /// 0.0 to 1.0: share of the delay that is random.
    jitter: Option<f64>,
}

/// BullMQ's modes: `ttlMs` throttles; with `extend` and `replace` on a delayed job it debounces.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeduplicationBody {
    /// One job per this id.
    id: String,
    /// For so long; absent: while the first one is unfinished.
    ttl_ms: Option<u64>,
    /// Each repeat starts the time anew.
    #[serde(default)]
    extend: bool,
    /// While the first is still delayed, the newest takes its place.
    #[serde(default)]
    replace: bool,
    /// A repeat that comes while the first one runs is kept, and runs after it.
    #[serde(default)]
    keep_last_if_active: bool,
}

/// BullMQ's form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepBody {
    age: Option<u64>,
    count: Option<u64>,
}

impl AddJob {
    /// The job, for this queue. Whether its values make sense is judged where it is added.
    pub(super) fn into_job(self, queue: QueueName, trace: Trace) -> Result<NewJob, ApiError> {
        if let Some(data) = &self.data {
            refuse_mark("data", data.get())?;
        }
        Ok(NewJob {
            queue,
            name: self.name,
            // As it was written: a number that we could not represent must not be rounded on its way.
            data: self.data.map_or_else(|| "{}".to_owned(), |data| data.get().to_owned()),
            id: self.id.map(|id| id.parse()).transpose()?,
            delay: self.delay_ms.map(Duration::from_millis),
            priority: self.priority,
            attempts: self.attempts,
            backoff: self.backoff.map(|backoff| Backoff {
                kind: backoff.kind,
                delay: Duration::from_millis(backoff.delay_ms),
                max: backoff.max_ms.map(Duration::from_millis),
                jitter: backoff.jitter,
            }),
            deduplication: self.deduplication.map(|once| Deduplication {
                key: once.id,
                ttl: once.ttl_ms.map(Duration::from_millis),
                extend: once.extend,
                replace: once.replace,
                keep_last_if_active: once.keep_last_if_active,
            }),
            lifo: self.lifo,
            expires_at_ms: self.expires_at_ms,
            keep_completed: self.remove_on_complete.map(|wish| keep("removeOnComplete", wish)).transpose()?,
            keep_failed: self.remove_on_fail.map(|wish| keep("removeOnFail", wish)).transpose()?,
            trace,
        })
    }
}

fn keep(name: &str, wish: Value) -> Result<Keep, ApiError> {
    let read = match &wish {
        Value::Bool(remove) => Some(Keep { age: None, count: remove.then_some(0) }),
        Value::Number(count) => count.as_u64().map(|count| Keep { age: None, count: Some(count) }),
        Value::Object(_) => KeepBody::deserialize(&wish)
            .ok()
            .map(|body| Keep { age: body.age.map(Duration::from_secs), count: body.count }),
        _ => None,
    };
    let form = "is true, false, a number of jobs, or {\"age\": seconds, \"count\": jobs}";
    read.ok_or_else(|| ApiError::invalid(format!("{name} {form}")))
}
