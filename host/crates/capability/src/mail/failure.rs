//! The result of sending a message.

use super::error::Broken;
use super::reply::Reply;
use crate::breaker::Report;

/// The server took the message for at least one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SmtpReceipt {
    pub(crate) reply: String,
    /// Recipients that were refused while others were taken.
    pub(crate) refused: Vec<SmtpRefusal>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SmtpRefusal {
    pub(crate) recipient: String,
    pub(crate) reply_code: u16,
    /// For example `5.1.1`.
    pub(crate) enhanced_code: Option<String>,
    pub(crate) text: String,
}

/// The message was not taken, or the outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SmtpFailure {
    /// `denied`, `not-configured`, `breaker-open`, `connect`, `tls`, `auth`, `mail`, `rcpt`,
    /// `data`, `timeout`, `too-large`.
    pub(crate) phase: &'static str,
    /// Absent when no reply came.
    pub(crate) reply_code: Option<u16>,
    /// For example `5.7.8`.
    pub(crate) enhanced_code: Option<String>,
    /// The server's text, or the host's.
    pub(crate) text: String,
    /// The message may have been taken although no reply came.
    pub(crate) ambiguous: bool,
    /// Recipients refused so far.
    pub(crate) refused: Vec<SmtpRefusal>,
}

pub(super) fn failure(phase: &'static str, text: impl Into<String>) -> SmtpFailure {
    SmtpFailure {
        phase,
        reply_code: None,
        enhanced_code: None,
        text: text.into(),
        ambiguous: false,
        refused: Vec::new(),
    }
}

/// A conversation that failed, and what the breaker is told: a server that replied is up, whatever
/// it replied, except 421, by which it says that it closes.
pub(super) struct Ended {
    pub(super) failure: SmtpFailure,
    pub(super) report: Report,
}

/// A failure of the host's own: the server was not asked, or did nothing wrong.
impl From<SmtpFailure> for Ended {
    fn from(failure: SmtpFailure) -> Self {
        Self {
            failure,
            report: Report::Unknown,
        }
    }
}

impl Ended {
    pub(super) fn replied(phase: &'static str, reply: &Reply) -> Self {
        let report = if reply.code == 421 {
            Report::Failed
        } else {
            Report::Answered
        };
        let failure = SmtpFailure {
            reply_code: Some(reply.code),
            enhanced_code: reply.enhanced_code(),
            ..failure(phase, reply.text())
        };
        Self { failure, report }
    }

    pub(super) fn broken(phase: &'static str, broken: &Broken) -> Self {
        Self {
            failure: failure(phase, broken.to_string()),
            report: Report::Failed,
        }
    }
}

/// How far a conversation got. It outlives the conversation when the time runs out.
pub(super) struct Progress {
    pub(super) phase: &'static str,
    pub(super) refused: Vec<SmtpRefusal>,
}

/// A message that no server would take is not sent. The code is the one that a server would give.
pub(super) fn refused_here(
    phase: &'static str,
    code: u16,
    enhanced: &str,
    text: &str,
) -> SmtpFailure {
    SmtpFailure {
        reply_code: Some(code),
        enhanced_code: Some(enhanced.to_owned()),
        ..failure(phase, text)
    }
}

pub(super) fn local_refusal(recipient: String, enhanced: &str, text: &str) -> SmtpRefusal {
    SmtpRefusal {
        recipient,
        reply_code: 553,
        enhanced_code: Some(enhanced.to_owned()),
        text: text.to_owned(),
    }
}

pub(super) fn all_refused(refused: &[SmtpRefusal]) -> SmtpFailure {
    let first = refused.first();
    SmtpFailure {
        reply_code: first.map(|refusal| refusal.reply_code),
        enhanced_code: first.and_then(|refusal| refusal.enhanced_code.clone()),
        ..failure(
            "rcpt",
            first.map_or_else(
                || "the message has no recipients".to_owned(),
                |refusal| refusal.text.clone(),
            ),
        )
    }
}
