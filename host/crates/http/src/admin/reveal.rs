//! Asking to see what is hidden, and documents that hold the mark of it.

use patchbay_model::redaction::{REDACTED, mark_in};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;

/// For the record, in characters.
const MAX_REASON: usize = 500;

/// Whether to show what is hidden.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Reveal {
    /// True shows what is hidden, too; who asked, for which job and when is recorded.
    #[serde(default)]
    pub(super) reveal: bool,
    /// Why, for the record: up to 500 characters, no personal data.
    pub(super) reason: Option<String>,
}

impl Reveal {
    pub(super) fn checked(self) -> Result<Self, ApiError> {
        let too_long = |reason: &String| reason.chars().count() > MAX_REASON || reason.contains('\0');
        if self.reason.as_ref().is_some_and(too_long) {
            return Err(ApiError::invalid(format!("reason: at most {MAX_REASON} characters, without NUL")));
        }
        if self.reason.is_some() && !self.reveal {
            return Err(ApiError::invalid("reason: it is for reveal=true"));
        }
        Ok(self)
    }

    /// For the record.
    pub(super) fn details(&self) -> Value {
        json!({ "reason": self.reason })
    }
}

/// What was shown must not take the place of what was hidden.
pub(super) fn refuse_mark(what: &str, document: &str) -> Result<(), ApiError> {
    match mark_in(document) {
        None => Ok(()),
        Some(place) => Err(ApiError::invalid(format!(
            "{what}: {REDACTED} at {place} stands for a value that was hidden from you. Nothing was changed. Take the real document, for \
             example with patchbay job show --reveal, and change that"
        ))),
    }
}
