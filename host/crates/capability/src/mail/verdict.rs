//! What became of a message.

use super::error::Broken;
use super::reply::Reply;
use crate::breaker::Report;

/// The server took the message for at least one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SmtpReceipt {
    /// The server's final reply text.
    pub(crate) reply: String,
    /// Recipients refused while others were taken.
    pub(crate) refused: Vec<SmtpRefusal>,
}

/// A recipient that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SmtpRefusal {
    pub(crate) recipient: String,
    /// For example 550.
    pub(crate) reply_code: u16,
    /// For example `5.1.1`.
    pub(crate) enhanced_code: Option<String>,
    pub(crate) text: String,
}

/// The message was not taken, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SmtpFailure {
    /// `denied`, `not-configured`, `breaker-open`, `connect`, `tls`, `auth`, `mail`, `rcpt`, `data`, `timeout`, `too-large`.
    pub(crate) phase: &'static str,
    /// Absent when no reply came.
    pub(crate) reply_code: Option<u16>,
    /// For example `5.7.8`.
    pub(crate) enhanced_code: Option<String>,
    /// The server's text, or ours.
    pub(crate) text: String,
    /// The message may have been taken although no reply came.
    pub(crate) ambiguous: bool,
    /// Verdicts on recipients so far.
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

/// A conversation that came to nothing, and what the breaker makes of it: a server that replied is there, whatever it replied, except 421,
/// by which it says that it goes.
pub(super) struct Ended {
    pub(super) failure: SmtpFailure,
    pub(super) report: Report,
}

/// Ours: the server was not asked, or did nothing wrong.
impl From<SmtpFailure> for Ended {
    fn from(failure: SmtpFailure) -> Self {
        Self { failure, report: Report::Unknown }
    }
}

impl Ended {
    pub(super) fn replied(phase: &'static str, reply: &Reply) -> Self {
        let report = if reply.code == 421 { Report::Failed } else { Report::Answered };
        let failure = SmtpFailure {
            reply_code: Some(reply.code),
            enhanced_code: reply.enhanced_code(),
            ..failure(phase, reply.text())
        };
        Self { failure, report }
    }

    pub(super) fn broken(phase: &'static str, broken: &Broken) -> Self {
        Self { failure: failure(phase, broken.to_string()), report: Report::Failed }
    }
}

/// How far a conversation got; outlives it when its time runs out.
pub(super) struct Progress {
    pub(super) phase: &'static str,
    pub(super) refused: Vec<SmtpRefusal>,
}

/// What no server would take is not sent to one. The code is that of a server that would have been asked.
pub(super) fn refused_here(phase: &'static str, code: u16, enhanced: &str, text: &str) -> SmtpFailure {
    SmtpFailure { reply_code: Some(code), enhanced_code: Some(enhanced.to_owned()), ..failure(phase, text) }
}

pub(super) fn local_refusal(recipient: String, enhanced: &str, text: &str) -> SmtpRefusal {
    SmtpRefusal { recipient, reply_code: 553, enhanced_code: Some(enhanced.to_owned()), text: text.to_owned() }
}

pub(super) fn all_refused(refused: &[SmtpRefusal]) -> SmtpFailure {
    let first = refused.first();
    SmtpFailure {
        reply_code: first.map(|refusal| refusal.reply_code),
        enhanced_code: first.and_then(|refusal| refusal.enhanced_code.clone()),
        ..failure("rcpt", first.map_or_else(|| "no recipients".to_owned(), |refusal| refusal.text.clone()))
    }
}
