//! Asking to see what is hidden.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// Whether to show what is hidden.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Reveal {
    /// True shows what is hidden, too; who asked, for which job and when is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reveal: bool,
    /// Why, for the record: up to 500 characters, no personal data.
    pub reason: Option<String>,
}
