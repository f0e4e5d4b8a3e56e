//! Jobs and counts as operators see them, directly from Redis's hashes, including what a parser
//! would refuse.

use std::collections::HashMap;

use patchbay_model::job::{JobState, Trace};
use patchbay_model::job_view::JobView;
use patchbay_model::retry::Backoff;

use crate::damage::text;
use crate::job_fields::CANCELLED;
use crate::js;
use crate::opts::JobOpts;

/// The fields of a job's hash, or why they cannot be read.
pub(crate) type Hash = Result<HashMap<Vec<u8>, Vec<u8>>, String>;

/// What caused a job; the default where its options cannot be read.
pub fn trace_of(job: &JobView) -> Trace {
    JobOpts::parse(&job.opts)
        .map(|opts| opts.trace)
        .unwrap_or_default()
}

/// Attempts and backoff that the producer of the job asked for.
pub fn retry_of(job: &JobView) -> (Option<u32>, Option<Backoff>) {
    JobOpts::parse(&job.opts)
        .map(|opts| opts.retry())
        .unwrap_or_default()
}

pub(crate) fn job_view(id: String, state: JobState, hash: Hash) -> JobView {
    let damage = match &hash {
        Err(what) => Some(what.clone()),
        Ok(fields) if !fields.contains_key(&b"timestamp"[..]) => {
            Some("its hash is missing or incomplete".into())
        }
        Ok(_) => None,
    };
    let fields = hash.unwrap_or_default().into_iter();
    let mut fields: HashMap<String, String> = fields
        .map(|(name, value)| (text(&name), text(&value)))
        .collect();
    let number = |text: Option<String>| text.and_then(|text| js::whole(&text));
    let count = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
    JobView {
        id,
        state,
        name: fields.remove("name").unwrap_or_default(),
        data: fields.remove("data").unwrap_or_default(),
        opts: fields.remove("opts").unwrap_or_default(),
        timestamp: number(fields.remove("timestamp")),
        due_at: None,
        processed_on: number(fields.remove("processedOn")),
        finished_on: number(fields.remove("finishedOn")),
        priority: number(fields.remove("priority")),
        attempts_made: count(fields.remove("atm")),
        attempts_started: count(fields.remove("ats")),
        stalled: count(fields.remove("stc")),
        progress: fields.remove("progress"),
        return_value: fields.remove("returnvalue"),
        failed_reason: fields.remove("failedReason"),
        stacktrace: fields
            .remove("stacktrace")
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default(),
        processed_by: fields.remove("pb"),
        schedule_id: fields.remove("rjk"),
        removed_by: number(fields.remove(CANCELLED)).and_then(|bulk| i64::try_from(bulk).ok()),
        damage,
    }
}
