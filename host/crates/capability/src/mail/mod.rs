//! Mail: hands finished messages to the operator's mail server.

mod account;
mod connection;
mod error;
mod failure;
mod idle;
mod reply;
mod transport;
mod wire;

use std::sync::Arc;
use std::time::Instant;

use patchbay_model::grant::Ask;
use patchbay_model::manifest::Manifest;
use tracing::Instrument;

use self::failure::{SmtpFailure, SmtpReceipt, failure};
use crate::breaker::Report;
use crate::call::{Denied, Gate, GuestCall, Measured};
use crate::guest::{Guest, HostResult};
use crate::{HostCall, OutsideMeters};

pub use account::{MailConfig, MailError, MailTls};
pub use transport::MailTransport;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// `MAIL FROM`; must be an address that the account may send as.
    sender: String,
    /// One `RCPT TO` each.
    recipients: Vec<String>,
}

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.smtp.as_ref().is_some_and(|smtp| smtp.allowed)
}

/// Dropping it counts the mail: at its end, or with the guest.
struct Counted<'a> {
    meters: &'a OutsideMeters,
    phase: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.meters.count_mail(self.phase);
    }
}

/// Measured and traced by the phase in which it ended; other host calls only as failed or not.
async fn send(
    guest: Arc<GuestCall>,
    envelope: Envelope,
    mime: Vec<u8>,
) -> Result<SmtpReceipt, SmtpFailure> {
    let mut measured = Measured::start(Arc::clone(&guest), HostCall::Mail);
    let mut counted = Counted {
        meters: &guest.call.meters,
        phase: "abandoned",
    };
    let answer = recorded(&measured.gate(), envelope, &mime).await;
    counted.phase = match &answer {
        Ok(_) => "sent",
        // In any phase: somebody should check whether it arrived.
        Err(failure) if failure.ambiguous => "ambiguous",
        Err(failure) => failure.phase,
    };
    measured.ended(answer.is_err().then_some(counted.phase));
    answer
}

/// Records the call in the attempt's history.
async fn recorded(
    gate: &Gate,
    envelope: Envelope,
    mime: &[u8],
) -> Result<SmtpReceipt, SmtpFailure> {
    let outside = &gate.guest().outside;
    let server = gate.services().mail.server().unwrap_or_default();
    let place = outside.begin("mail", None, server.trim_start_matches("smtp://"), None);
    let answer = hand_over(gate, envelope, mime).await;
    outside.end(
        &place,
        match &answer {
            Ok(_) => "taken".to_owned(),
            Err(SmtpFailure {
                reply_code: Some(code),
                ..
            }) => code.to_string(),
            Err(failure) => failure.phase.to_owned(),
        },
    );
    answer
}

async fn hand_over(
    gate: &Gate,
    envelope: Envelope,
    mime: &[u8],
) -> Result<SmtpReceipt, SmtpFailure> {
    gate.not_in_transaction()?;
    let (call, guest) = (gate.call(), gate.guest());
    if !is_asked_for_by(&call.manifest) {
        return Err(failure("denied", "the manifest does not ask for smtp"));
    }
    gate.granted(Ask::smtp())?;
    let spec = call.manifest.smtp.as_ref().and_then(|smtp| smtp.breaker);
    let mail = &gate.services().mail;
    let admission = match mail.server() {
        None => None,
        Some(server) => Some(guest.admit(&server, spec).map_err(|wait| {
            let text = format!(
                "the breaker of {server} is open: it is not tried for {} ms",
                wait.as_millis()
            );
            failure("breaker-open", text)
        })?),
    };
    let remaining = call.deadline.saturating_duration_since(Instant::now());
    // After `committed`, the outcome is unknown until the server has answered. A mail that may be
    // out costs an attempt, also as a breaker's probe: if it were deferred like a refused one, it
    // would go out again with every probe.
    let asked = guest.asked();
    let committed = || guest.set_asked(None);
    let send = mail.send(
        call.manifest.name.as_str(),
        envelope,
        mime,
        remaining,
        &committed,
    );
    let (answer, report) = send.instrument(call.span.clone()).await;
    if answer.as_ref().is_err_and(|failure| !failure.ambiguous) {
        guest.set_asked(asked);
    }
    if let Some(admission) = admission {
        let failed = answer.as_ref().err().filter(|_| report == Report::Failed);
        admission.report(
            report,
            failed.map(|error| format!("{}: {}", error.phase, error.text)),
        );
    }
    answer
}

impl From<Denied> for SmtpFailure {
    fn from(Denied(reason): Denied) -> Self {
        failure("denied", reason)
    }
}

macro_rules! bind {
    ($version:ident) => {
        mod $version {
            use super::failure::SmtpRefusal;
            use super::*;
            use patchbay_runtime::wit::$version::smtp;

            impl smtp::Host for Guest<'_> {
                async fn send(
                    &mut self,
                    envelope: smtp::Envelope,
                    mime: Vec<u8>,
                ) -> HostResult<Result<smtp::Receipt, smtp::SmtpFailure>> {
                    let envelope = Envelope {
                        sender: envelope.sender,
                        recipients: envelope.recipients,
                    };
                    Ok(self
                        .outside(|call| send(call, envelope, mime))
                        .await?
                        .map(receipt)
                        .map_err(failure))
                }
            }

            fn receipt(receipt: SmtpReceipt) -> smtp::Receipt {
                smtp::Receipt {
                    reply: receipt.reply,
                    refused: refusals(receipt.refused),
                }
            }

            fn failure(failure: SmtpFailure) -> smtp::SmtpFailure {
                smtp::SmtpFailure {
                    phase: failure.phase.into(),
                    reply_code: failure.reply_code,
                    enhanced_code: failure.enhanced_code,
                    text: failure.text,
                    ambiguous: failure.ambiguous,
                    refused: refusals(failure.refused),
                }
            }

            fn refusals(refused: Vec<SmtpRefusal>) -> Vec<smtp::Refusal> {
                let refusal = |refusal: SmtpRefusal| smtp::Refusal {
                    recipient: refusal.recipient,
                    reply_code: refusal.reply_code,
                    enhanced_code: refusal.enhanced_code,
                    text: refusal.text,
                };
                refused.into_iter().map(refusal).collect()
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);

#[cfg(test)]
mod tests;
