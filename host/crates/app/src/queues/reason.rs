//! How reasons and their times are written.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_api::queues::Reason;

pub(super) fn reason(code: &str, message: impl Into<String>, next: impl Into<String>) -> Reason {
    Reason {
        code: code.to_owned(),
        message: message.into(),
        next: next.into(),
    }
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
