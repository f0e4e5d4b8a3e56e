//! Requests to show hidden values.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// Whether to show hidden values.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Reveal {
    /// True also shows hidden values; who asked, for which job and when is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reveal: bool,
    /// Why, for the record: up to 500 characters, no personal data.
    pub reason: Option<String>,
}
