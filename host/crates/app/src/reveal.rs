//! Reveals: requests to see redacted values. Also refuses documents that contain the mark of a
//! redaction.

use patchbay_api::reveal::Reveal;
use patchbay_model::JobId;
use patchbay_model::confidential::{REFUSAL, is_confidential};
use patchbay_model::redaction::{REDACTED, mark_in};
use serde_json::{Value, json};

use crate::Error;

/// In characters.
const MAX_REASON: usize = 500;

/// Refuses a reason that cannot be recorded, or that comes without a reveal.
pub(crate) fn check(asked: &Reveal) -> Result<(), Error> {
    let too_long = |reason: &String| reason.chars().count() > MAX_REASON || reason.contains('\0');
    if asked.reason.as_ref().is_some_and(too_long) {
        return Err(Error::invalid(format!(
            "reason: must have at most {MAX_REASON} characters and no NUL character"
        )));
    }
    if asked.reason.is_some() && !asked.reveal {
        return Err(Error::invalid("reason: can only be given with reveal=true"));
    }
    Ok(())
}

/// What is recorded of a reveal.
pub(crate) fn details(asked: &Reveal) -> Value {
    json!({ "reason": asked.reason })
}

/// Refuses to change a job whose content nobody may see.
pub(crate) fn refuse_confidential(id: &JobId) -> Result<(), Error> {
    match is_confidential(id.as_str()) {
        true => Err(Error::conflict(format!("{REFUSAL}. Nothing was changed"))),
        false => Ok(()),
    }
}

/// Refuses a document with the mark, which would otherwise overwrite the value that it stands for.
pub(crate) fn refuse_mark(what: &str, document: &str) -> Result<(), Error> {
    match mark_in(document) {
        None => Ok(()),
        Some(place) => Err(Error::invalid(format!(
            "{what}: {place} still contains {REDACTED}, which stands for a hidden value. Nothing was changed. Read the document with \
             --reveal, change that, and send it again"
        ))),
    }
}
