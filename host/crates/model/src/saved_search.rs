//! Searches that operators come back to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::filter::Filter;
use crate::job::JobState;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedSearch {
    /// What must hold: names and values of a filter.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub filter: Filter,
    /// Jobs in Redis in this state; absent: the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// No further back than this from the time when it is run, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}
