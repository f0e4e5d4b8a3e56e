//! How a call into a guest ended. The kinds stay distinct: each requires another reaction.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::redaction::Mask;

/// Longest failure message kept, in bytes. Longer ones are cut, but not within a hidden value.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// Longest failure message before that cut. Hidden values are found before it, since half a value
/// would not be found.
pub const MAX_WHOLE_MESSAGE_BYTES: usize = 2 * MAX_MESSAGE_BYTES;
/// Longest failure details kept, in bytes. Longer ones are dropped: half a document is useless.
pub const MAX_DETAILS_BYTES: usize = 16 * 1024;
/// Longest failure code, in bytes.
pub const MAX_CODE_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The guest's result: one JSON document.
    Completed(String),
    /// The guest declared what went wrong and when to try again.
    Failed(Failure),
    /// The guest crashed, or did what no guest may: panic, exception, exit, out-of-bounds access,
    /// stack overflow, too many resources.
    Trapped(String),
    /// The deadline passed, outside calls included.
    Deadline(Duration),
    /// The guest asked for more memory than its limit (in bytes) and then gave up, or made the host
    /// hold more for it.
    MemoryLimit(u64),
    /// The result cannot be read, is not JSON or is too large. Never retried, as it would not
    /// change.
    InvalidResult(String),
    /// The host's fault, not the guest's: no slot, lost lock, shutting down. Costs no attempt. Only
    /// what the host itself found to be its own fault: whatever comes out of a running guest is the
    /// guest's fault, or the job would run again and again for a day.
    HostFault(String),
}

/// A failure that the plugin declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, kebab-case: `invalid-input`, `bad-credentials`, `rate-limited`, …
    pub code: String,
    pub message: String,
    pub retry: Retry,
    /// Machine-readable detail as JSON, for example `{"field":"to"}`.
    pub details: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// By the queue's backoff, while attempts remain.
    Backoff,
    /// After this long, while attempts remain.
    After(Duration),
    Never,
    /// An outside service is down: try again after this long, without using up an attempt.
    Defer(Duration),
}

/// [`Outcome`] without its content: a stable word for storage, metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeKind {
    Completed,
    Failed,
    Trapped,
    Deadline,
    MemoryLimit,
    InvalidResult,
    HostFault,
}

impl OutcomeKind {
    pub const ALL: [Self; 7] = [
        Self::Completed,
        Self::Failed,
        Self::Trapped,
        Self::Deadline,
        Self::MemoryLimit,
        Self::InvalidResult,
        Self::HostFault,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Trapped => "trapped",
            Self::Deadline => "deadline",
            Self::MemoryLimit => "memory-limit",
            Self::InvalidResult => "invalid-result",
            Self::HostFault => "host-fault",
        }
    }
}

impl Outcome {
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Completed(_) => OutcomeKind::Completed,
            Self::Failed(_) => OutcomeKind::Failed,
            Self::Trapped(_) => OutcomeKind::Trapped,
            Self::Deadline(_) => OutcomeKind::Deadline,
            Self::MemoryLimit(_) => OutcomeKind::MemoryLimit,
            Self::InvalidResult(_) => OutcomeKind::InvalidResult,
            Self::HostFault(_) => OutcomeKind::HostFault,
        }
    }

    /// The failure code: the guest's own, or the kind's word. Absent when completed.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Completed(_) => None,
            Self::Failed(failure) => Some(&failure.code),
            other => Some(other.kind().as_str()),
        }
    }

    /// Cuts the message to [`MAX_MESSAGE_BYTES`], but not within a value that the mask finds.
    pub fn cut(&mut self, mask: &Mask) {
        let message = match self {
            Self::Failed(failure) => &mut failure.message,
            Self::Trapped(message) | Self::InvalidResult(message) | Self::HostFault(message) => {
                message
            }
            Self::Completed(_) | Self::Deadline(_) | Self::MemoryLimit(_) => return,
        };
        mask.cut(message, MAX_MESSAGE_BYTES);
    }

    /// One line for an operator, used as BullMQ's `failedReason`. Absent when completed.
    pub fn reason(&self) -> Option<String> {
        Some(match self {
            Self::Completed(_) => return None,
            Self::Failed(failure) => format!("{}: {}", failure.code, failure.message),
            Self::Trapped(message) => format!("trapped: {message}"),
            Self::Deadline(limit) => format!(
                "deadline: the call was ended after {} ms",
                limit.as_millis()
            ),
            Self::MemoryLimit(bytes) => format!(
                "memory-limit: the plugin needed more than its {} MiB",
                bytes >> 20
            ),
            Self::InvalidResult(message) => format!("invalid-result: {message}"),
            Self::HostFault(message) => format!("host-fault: {message}"),
        })
    }
}

impl Failure {
    /// Applies the contract's limits: makes the code kebab-case, cuts the message to
    /// [`MAX_WHOLE_MESSAGE_BYTES`], drops oversized or broken details. [`Outcome::cut`] follows.
    pub fn sanitized(mut self) -> Self {
        self.code = kebab_case(&self.code);
        truncate(&mut self.message, MAX_WHOLE_MESSAGE_BYTES);
        if self.message.trim().is_empty() {
            self.message = "(the plugin gave no message)".into();
        }
        let usable = |details: &String| {
            details.len() <= MAX_DETAILS_BYTES
                && serde_json::from_str::<serde::de::IgnoredAny>(details).is_ok()
        };
        self.details = self.details.filter(usable);
        self
    }
}

fn kebab_case(code: &str) -> String {
    let mut text: String = code
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    text.truncate(MAX_CODE_BYTES);
    let text = text.trim_matches('-');
    if text.is_empty() {
        "unspecified".into()
    } else {
        text.into()
    }
}

/// Cuts at a character boundary.
pub fn truncate(text: &mut String, max_bytes: usize) {
    if text.len() > max_bytes {
        let end = (0..=max_bytes)
            .rev()
            .find(|&i| text.is_char_boundary(i))
            .unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_writes_is_brought_within_limits() {
        let failure = Failure {
            code: "Bad Credentials!".into(),
            message: "é".repeat(MAX_MESSAGE_BYTES),
            retry: Retry::Never,
            details: Some("{".into()),
        }
        .sanitized();
        assert_eq!(failure.code, "bad-credentials");
        assert_eq!(failure.message.len(), MAX_WHOLE_MESSAGE_BYTES);
        assert_eq!(failure.details, None);
        let mut outcome = Outcome::Failed(failure);
        outcome.cut(&Mask::default());
        assert_eq!(
            outcome.reason().map(|reason| reason.len()),
            Some("bad-credentials: ".len() + MAX_MESSAGE_BYTES)
        );
    }

    #[test]
    fn a_message_is_not_cut_within_a_hidden_value() {
        let before = "x ".repeat(MAX_MESSAGE_BYTES / 2 - 4);
        let mut outcome = Outcome::Trapped(format!("{before}ada@example.com is unknown"));
        outcome.cut(&Mask::new(["ada@example.com".to_owned()]));
        assert_eq!(outcome, Outcome::Trapped(before));
    }
}
