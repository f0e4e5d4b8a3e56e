//! Searches that operators save.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::filter::Filter;
use crate::job::JobState;

/// What a saved search looks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedSearch {
    /// Conditions: names and values of a filter.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub filter: Filter,
    /// Searches jobs in Redis in this state; absent: the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// How far back it searches from the time of the run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// How long before the time of the run its matches end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}
