//! Jobs and counts as operators read them, straight from Redis's hashes: also what a parser would refuse.

use std::collections::HashMap;

use patchbay_model::job::{JobState, Trace};
use serde::Serialize;

use crate::damage::text;
use crate::job_fields::CANCELLED;
use crate::js;
use crate::opts::JobOpts;

/// One job, its texts as they stand in Redis.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct JobView {
    pub id: String,
    pub name: String,
    pub state: JobState,
    /// Raw: may not be JSON.
    pub data: String,
    pub opts: String,
    pub timestamp: Option<u64>,
    pub processed_on: Option<u64>,
    pub finished_on: Option<u64>,
    pub attempts_made: u32,
    pub attempts_started: u32,
    pub stalled: u32,
    pub progress: Option<String>,
    pub return_value: Option<String>,
    pub failed_reason: Option<String>,
    /// One text per failed attempt.
    pub stacktrace: Vec<String>,
    pub processed_by: Option<String>,
    /// The schedule whose tick it is.
    pub schedule_id: Option<String>,
    /// The bulk operation that has removed it, while it still waits to be dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_by: Option<i64>,
    /// What is wrong with what Redis holds of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// The fields of a job's hash, or why they cannot be read.
pub(crate) type Hash = Result<HashMap<Vec<u8>, Vec<u8>>, String>;

impl JobView {
    /// What caused it; nothing where its options cannot be read.
    pub fn trace(&self) -> Trace {
        JobOpts::parse(&self.opts).map(|opts| opts.trace).unwrap_or_default()
    }

    pub(crate) fn new(id: String, state: JobState, hash: Hash) -> Self {
        let damage = match &hash {
            Err(what) => Some(what.clone()),
            Ok(fields) if !fields.contains_key(&b"timestamp"[..]) => Some("its hash is missing or incomplete".into()),
            Ok(_) => None,
        };
        let fields = hash.unwrap_or_default().into_iter();
        let mut fields: HashMap<String, String> = fields.map(|(name, value)| (text(&name), text(&value))).collect();
        let number = |text: Option<String>| text.and_then(|text| js::whole(&text));
        let count = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        Self {
            id,
            state,
            name: fields.remove("name").unwrap_or_default(),
            data: fields.remove("data").unwrap_or_default(),
            opts: fields.remove("opts").unwrap_or_default(),
            timestamp: number(fields.remove("timestamp")),
            processed_on: number(fields.remove("processedOn")),
            finished_on: number(fields.remove("finishedOn")),
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
}
