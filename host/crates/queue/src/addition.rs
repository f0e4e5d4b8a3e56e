//! Builds the call that adds one job: the BullMQ script, its keys and options, and how to read its
//! reply.

use bullmq::QueueKeys;
use patchbay_model::job::NewJob;
use patchbay_model::{JobId, QueueName};
use redis::Script;
use serde_json::Value;

use crate::scripts::{self, Call};
use crate::{QueueError, opts};

pub(crate) struct Addition {
    pub(crate) call: Call,
    pub(crate) queue: QueueName,
    /// The job's own id; without one, BullMQ's counter assigns it.
    pub(crate) id: Option<JobId>,
    /// The Redis key of the job's de-duplication.
    pub(crate) deduplication: Option<String>,
}

pub(crate) struct Parent {
    /// Format: `prefix:queue`.
    pub(crate) queue_key: String,
    pub(crate) id: JobId,
    /// BullMQ's short option name for what the child's failure does to the parent.
    pub(crate) on_failure: Option<&'static str>,
}

/// `script` must be one of the scripts that add a job.
pub(crate) fn addition(
    script: &'static Script,
    script_keys: &[String],
    keys: &QueueKeys,
    job: &NewJob,
    id: Option<JobId>,
    created_ms: u64,
    parent: Option<&Parent>,
) -> Result<Addition, QueueError> {
    let deduplication = job
        .deduplication
        .as_ref()
        .map(|once| format!("{}:de:{}", keys.base(), once.key));
    let mut opts = opts::encode(job);
    let parent_key = parent.map(|parent| format!("{}:{}", parent.queue_key, parent.id));
    let described = parent.map(|parent| {
        opts["parent"] = serde_json::json!({ "id": parent.id.as_str(), "queue": parent.queue_key });
        let mut described =
            serde_json::json!({ "id": parent.id.as_str(), "queueKey": parent.queue_key });
        if let Some(name) = parent.on_failure {
            described[name] = true.into();
            opts[name] = true.into();
        }
        described
    });
    // Order: prefix, id, name, time, three fields for a parent, scheduler, de-duplication, and
    // whether more jobs of a flow follow.
    let head = (
        keys.key_prefix(),
        id.as_ref().map_or("", JobId::as_str),
        &job.name,
        created_ms,
        &parent_key,
        parent_key.as_ref().map(|key| format!("{key}:dependencies")),
        described,
        None::<String>,
        &deduplication,
        parent.is_some(),
    );
    let packed = |error: rmp_serde::encode::Error| {
        QueueError::Invalid(format!("the job cannot be written: {error}"))
    };
    let call = Call::new(script, script_keys)
        .arg(rmp_serde::to_vec(&head).map_err(packed)?)
        .arg(&job.data)
        .arg(rmp_serde::to_vec_named::<Value>(&opts).map_err(packed)?);
    Ok(Addition {
        call,
        queue: job.queue.clone(),
        id,
        deduplication,
    })
}

pub(crate) fn script_for(job: &NewJob, keys: &QueueKeys) -> (&'static Script, Vec<String>) {
    if job.delay.is_some_and(|delay| !delay.is_zero()) {
        let keys = vec![
            keys.marker(),
            keys.meta(),
            keys.id(),
            keys.delayed(),
            keys.completed(),
            keys.events(),
        ];
        (&scripts::ADD_DELAYED, keys)
    } else if job.priority.is_some_and(|priority| priority > 0) {
        let keys = vec![
            keys.marker(),
            keys.meta(),
            keys.id(),
            keys.prioritized(),
            keys.delayed(),
            keys.completed(),
            keys.active(),
            keys.events(),
            keys.pc(),
        ];
        (&scripts::ADD_PRIORITIZED, keys)
    } else {
        let keys = vec![
            keys.wait(),
            keys.paused(),
            keys.meta(),
            keys.id(),
            keys.completed(),
            keys.delayed(),
            keys.active(),
            keys.events(),
            keys.marker(),
        ];
        (&scripts::ADD_STANDARD, keys)
    }
}

/// The id that BullMQ returns, or why it refused the job.
pub(crate) fn id_of_reply(reply: redis::Value) -> Result<JobId, QueueError> {
    if let redis::Value::Int(code) = reply
        && code < 0
    {
        return Err(QueueError::Invalid(format!(
            "BullMQ refused the job (code {code})"
        )));
    }
    let text: String =
        redis::from_redis_value(reply).map_err(|error| QueueError::Invalid(error.to_string()))?;
    text.parse()
        .map_err(|error: patchbay_model::InvalidId| QueueError::Invalid(error.to_string()))
}
