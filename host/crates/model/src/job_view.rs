//! Jobs as operators read them: what Redis holds, including what a parser would refuse.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::job::JobState;

/// One job, with its texts as Redis holds them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    pub id: String,
    pub name: String,
    #[serde(deserialize_with = "any_state")]
    #[schema(schema_with = any_state_schema)]
    pub state: JobState,
    /// Data as text: usually JSON, but it may be anything.
    pub data: String,
    /// Options as BullMQ keeps them, as text.
    pub opts: String,
    /// Creation time, Unix milliseconds.
    pub timestamp: Option<u64>,
    /// When a delayed job is due, Unix milliseconds; only where a single job is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<u64>,
    /// When its last run began, Unix milliseconds.
    pub processed_on: Option<u64>,
    /// When it ended, Unix milliseconds.
    pub finished_on: Option<u64>,
    /// 1 (first) to 2097152; 0 or absent: none, which comes before all of them.
    #[serde(default)]
    pub priority: Option<u64>,
    /// Attempts that counted.
    pub attempts_made: u32,
    /// Every start, also those that did not count.
    pub attempts_started: u32,
    /// How often its worker was lost.
    pub stalled: u32,
    /// As text, usually JSON.
    pub progress: Option<String>,
    /// As text, usually JSON.
    pub return_value: Option<String>,
    pub failed_reason: Option<String>,
    /// One text per failed attempt.
    pub stacktrace: Vec<String>,
    /// The worker that ran it last.
    pub processed_by: Option<String>,
    /// The schedule that made this job as its tick.
    pub schedule_id: Option<String>,
    /// The bulk operation that removed it, while the job still waits to be dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_by: Option<i64>,
    /// What is wrong with the job's data in Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// A job found by a search in one state.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScannedJob {
    pub id: String,
    pub name: String,
    #[serde(deserialize_with = "any_state")]
    #[schema(schema_with = any_state_schema)]
    pub state: JobState,
    /// Creation time, Unix milliseconds.
    pub timestamp: Option<u64>,
    /// When its last run began, Unix milliseconds.
    pub processed_on: Option<u64>,
    /// When it ended, Unix milliseconds.
    pub finished_on: Option<u64>,
    /// Attempts that counted.
    pub attempts_made: u32,
    pub failed_reason: Option<String>,
    pub correlation_id: String,
    pub platform: Option<String>,
}

/// Requests cannot ask for the state `unknown`, but an answer may have it.
pub fn any_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobState, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == JobState::Unknown.to_string() {
        return Ok(JobState::Unknown);
    }
    serde_json::from_value(name.into()).map_err(serde::de::Error::custom)
}

/// What [`any_state`] reads, for the document.
pub fn any_state_schema() -> ObjectBuilder {
    use JobState::{
        Active, Completed, Delayed, Failed, Prioritized, Unknown, Waiting, WaitingChildren,
    };
    let states = [
        Waiting,
        Prioritized,
        Delayed,
        WaitingChildren,
        Active,
        Completed,
        Failed,
        Unknown,
    ];
    let about = "Where it is. `unknown`: nothing holds it, which a fault or a mix of BullMQ's versions can leave behind";
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(states.map(|state| state.to_string())))
        .description(Some(about))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_that_nothing_holds_is_read_back() {
        let job = json!({ "id": "1", "name": "n", "state": "unknown", "attemptsMade": 0, "correlationId": "" });
        let job: ScannedJob = serde_json::from_value(job).expect("a job");
        assert_eq!(job.state, JobState::Unknown);
    }
}
