//! Hands messages to the operator's mail server, with one verdict per recipient.
//!
//! Fresh connections are reused, but only by the same plugin: what one guest's message did to a
//! connection never affects another's. If the final dot was sent and never answered, the result is
//! `ambiguous`: the message may have been taken, and only its stable Message-ID keeps a repeat
//! recognisable. Why it speaks SMTP itself: docs/decisions/025-own-smtp-client.md.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lettre::message::header::ContentType;
use lettre::{Address as HeaderAddress, Message};
use patchbay_mailbox::{Address, Mailbox};
use tracing::{debug, warn};

use super::Envelope;
use super::account::{Account, MailConfig, MailError};
use super::connection::Connection;
use super::error::Broken;
use super::failure::{
    Ended, Progress, SmtpFailure, SmtpReceipt, SmtpRefusal, all_refused, failure, local_refusal,
    refused_here,
};
use super::idle::Idle;
use super::wire::EncodedMessage;
use crate::breaker::Report;

/// Limit for the answer to a message (RFC 5321 §4.5.3.2.6): giving up earlier may send it twice.
const END_LIMIT: Duration = Duration::from_secs(600);
/// Time that a guest still has, before its own deadline, to note that the outcome is unknown.
const LAST_NOTE: Duration = Duration::from_secs(1);
/// Owner of the connections for the host's own messages; no plugin's name has a colon.
const HOST: &str = "host:";

pub struct MailTransport {
    account: Option<Account>,
    pub(super) idle: Arc<Idle>,
}

/// Sender and recipients of a message.
struct Route<'a> {
    sender: Address,
    /// Each as the guest wrote it, and as the server gets it.
    recipients: Vec<(&'a str, Address)>,
    wire: &'a EncodedMessage,
}

impl MailTransport {
    /// `None`: no account is configured, and every send says so. Opens no connection.
    pub fn new(config: Option<MailConfig>) -> Result<Self, MailError> {
        let account = config.map(Account::new).transpose()?;
        Ok(Self {
            account,
            idle: Arc::default(),
        })
    }

    /// The account's server as breakers name it: `smtp://host:port`. Absent without an account.
    pub fn server(&self) -> Option<String> {
        self.account
            .as_ref()
            .map(|account| format!("smtp://{}:{}", account.config.host, account.config.port))
    }

    /// Sends a plain-text message of the host itself to all of `to`. `id` must be the same each
    /// time that the same message is sent.
    pub async fn notify(
        &self,
        from: &Mailbox,
        to: &[Mailbox],
        id: &str,
        subject: &str,
        text: &str,
    ) -> Result<(), String> {
        let mut message = Message::builder()
            .from(in_header(from))
            .message_id(Some(format!("<{id}@patchbay>")));
        for recipient in to {
            message = message.to(in_header(recipient));
        }
        let one_line: String = subject
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let message = message
            .subject(one_line)
            .header(ContentType::TEXT_PLAIN)
            .body(text.to_owned());
        let mime = message
            .map_err(|error| format!("the message cannot be written: {error}"))?
            .formatted();
        let recipients = to.iter().map(|to| to.address.to_string()).collect();
        let envelope = Envelope {
            sender: from.address.to_string(),
            recipients,
        };
        let patience = self
            .account
            .as_ref()
            .map_or(Duration::ZERO, |account| account.config.timeout);
        let (result, _) = self.send(HOST, envelope, &mime, patience, &|| ()).await;
        match result {
            Ok(receipt) if receipt.refused.is_empty() => Ok(()),
            // The other recipients have it; a repeat would reach them twice.
            Ok(receipt) => {
                warn!(
                    refused = receipt.refused.len(),
                    "The mail server refuses some recipients of alerts.mail_to"
                );
                Ok(())
            }
            Err(failure) => Err(format!("{}: {}", failure.phase, failure.text)),
        }
    }

    /// Sends over a connection of `plugin`, within `remaining`. Calls `committed` when the server
    /// may take the message from then on.
    pub(crate) async fn send(
        &self,
        plugin: &str,
        envelope: Envelope,
        mime: &[u8],
        remaining: Duration,
        committed: &(dyn Fn() + Send + Sync),
    ) -> (Result<SmtpReceipt, SmtpFailure>, Report) {
        let Some(account) = &self.account else {
            let failure = failure(
                "not-configured",
                "no mail account is configured on this host",
            );
            return (Err(failure), Report::Unknown);
        };
        if mime.len() > account.config.max_message_bytes {
            let text = format!(
                "the message has {} bytes; the limit of this host is {}",
                mime.len(),
                account.config.max_message_bytes
            );
            return (Err(failure("too-large", text)), Report::Unknown);
        }
        let started = Instant::now();
        let mut progress = Progress {
            phase: "connect",
            refused: Vec::new(),
        };
        let result = self
            .within(
                account,
                plugin,
                &envelope,
                mime,
                remaining,
                &mut progress,
                committed,
            )
            .await;
        let report = result
            .as_ref()
            .err()
            .map_or(Report::Answered, |ended| ended.report);
        let refused = progress.refused;
        let result = match result {
            Ok(reply) => Ok(SmtpReceipt { reply, refused }),
            Err(ended) => Err(SmtpFailure {
                refused,
                ..ended.failure
            }),
        };
        let result = account.withheld(result);
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        // Counts only: addresses are personal data.
        match &result {
            Ok(receipt) => debug!(
                recipients = envelope.recipients.len(),
                refused = receipt.refused.len(),
                elapsed_ms,
                "mail taken"
            ),
            Err(error) => warn!(
                phase = error.phase,
                reply_code = error.reply_code,
                ambiguous = error.ambiguous,
                elapsed_ms,
                "A mail was not accepted"
            ),
        }
        (result, report)
    }

    /// Keeps the time limits; returns the words of the server that took the message.
    #[allow(clippy::too_many_arguments)]
    async fn within(
        &self,
        account: &Account,
        plugin: &str,
        envelope: &Envelope,
        mime: &[u8],
        remaining: Duration,
        progress: &mut Progress,
        committed: &(dyn Fn() + Send + Sync),
    ) -> Result<String, Ended> {
        let started = Instant::now();
        let limit = remaining.min(account.config.timeout);
        let wire =
            EncodedMessage::new(mime).map_err(|text| refused_here("data", 554, "5.6.0", text))?;
        let route = Route::new(envelope, &wire, &mut progress.refused)?;
        let late = |ambiguous, phase: &str, limit: Duration| {
            let text = format!(
                "no answer within {} ms, in phase {phase}",
                limit.as_millis()
            );
            Ended {
                failure: SmtpFailure {
                    ambiguous,
                    ..failure("timeout", text)
                },
                report: Report::Failed,
            }
        };
        let before_end =
            tokio::time::timeout(limit, self.before_end(account, plugin, &route, progress)).await;
        let mut connection = before_end.map_err(|_| late(false, progress.phase, limit))??;

        progress.phase = "data";
        committed();
        let rest = remaining.saturating_sub(started.elapsed());
        let limit = rest.saturating_sub(LAST_NOTE).max(rest / 2).min(END_LIMIT);
        let reply = match tokio::time::timeout(limit, connection.end()).await {
            Err(_) => return Err(late(true, "data", limit)),
            Ok(Ok(reply)) if reply.is_positive() || reply.is_negative() => reply,
            Ok(ended) => {
                let broken =
                    ended.map_or_else(|broken| broken, |reply| Broken::Unexpected(reply.code));
                let mut ended = Ended::broken("data", &broken);
                ended.failure.ambiguous = true;
                return Err(ended);
            }
        };
        if reply.code != 421 {
            self.idle.keep(plugin, connection).await;
        }
        if reply.is_positive() {
            Ok(reply.text())
        } else {
            Err(Ended::replied("data", &reply))
        }
    }

    /// Everything before the end of the message: during this, no server may take it.
    async fn before_end(
        &self,
        account: &Account,
        plugin: &str,
        route: &Route<'_>,
        progress: &mut Progress,
    ) -> Result<Connection, Ended> {
        let mut connection = self.begun(account, plugin, route, progress).await?;
        progress.phase = "rcpt";
        let mut taken = 0;
        for (text, address) in &route.recipients {
            if !address.is_ascii() && !connection.extensions.smtp_utf8 {
                let text = (*text).to_owned();
                progress.refused.push(local_refusal(
                    text,
                    "5.6.7",
                    "the mail server takes only ASCII before the @",
                ));
                continue;
            }
            match connection.command(&format!("RCPT TO:<{address}>")).await {
                Ok(reply) if reply.is_positive() => taken += 1,
                Ok(reply) if reply.is_negative() => {
                    progress.refused.push(SmtpRefusal {
                        recipient: (*text).to_owned(),
                        reply_code: reply.code,
                        enhanced_code: reply.enhanced_code(),
                        text: reply.text(),
                    });
                    // The server closes the connection: nobody gets the message.
                    if reply.code == 421 {
                        return Err(Ended::replied("rcpt", &reply));
                    }
                }
                Ok(reply) => return Err(Ended::broken("rcpt", &Broken::Unexpected(reply.code))),
                Err(broken) => return Err(Ended::broken("rcpt", &broken)),
            }
        }
        if taken == 0 {
            if connection
                .command("RSET")
                .await
                .is_ok_and(|reply| reply.is_positive())
            {
                self.idle.keep(plugin, connection).await;
            }
            return Err(Ended {
                failure: all_refused(&progress.refused),
                report: Report::Answered,
            });
        }
        progress.phase = "data-command";
        match connection.command("DATA").await {
            Ok(reply) if reply.code == 354 => {}
            Ok(reply) if reply.is_negative() => return Err(Ended::replied("data", &reply)),
            Ok(reply) => return Err(Ended::broken("data", &Broken::Unexpected(reply.code))),
            Err(broken) => return Err(Ended::broken("data", &broken)),
        }
        match connection.message(&route.wire.bytes).await {
            Ok(None) => Ok(connection),
            Ok(Some(reply)) => Err(Ended::replied("data", &reply)),
            Err(broken) => Err(Ended::broken("data", &broken)),
        }
    }

    /// A connection whose server has taken `MAIL`: an idle one, if one still answers.
    async fn begun(
        &self,
        account: &Account,
        plugin: &str,
        route: &Route<'_>,
        progress: &mut Progress,
    ) -> Result<Connection, Ended> {
        if let Some(mut reused) = self.idle.take(plugin).await {
            let command = route.mail_command(&account.config, &reused)?;
            // A refusal may be due to its age. Nothing was sent yet, so a fresh one may try.
            if reused
                .command(&command)
                .await
                .is_ok_and(|reply| reply.is_positive())
            {
                return Ok(reused);
            }
        }
        let mut connection = account.connect(progress).await?;
        progress.phase = "mail";
        let command = route.mail_command(&account.config, &connection)?;
        match connection.command(&command).await {
            Ok(reply) if reply.is_positive() => Ok(connection),
            Ok(reply) => {
                let ended = Ended::replied("mail", &reply);
                tokio::spawn(connection.quit());
                Err(ended)
            }
            Err(broken) => Err(Ended::broken("mail", &broken)),
        }
    }
}

impl<'a> Route<'a> {
    fn new(
        envelope: &'a Envelope,
        wire: &'a EncodedMessage,
        refused: &mut Vec<SmtpRefusal>,
    ) -> Result<Self, SmtpFailure> {
        let sender = envelope.sender.parse::<Address>();
        let sender = sender
            .map_err(|error| refused_here("mail", 553, "5.1.7", &format!("the sender {error}")))?;
        let mut recipients = Vec::with_capacity(envelope.recipients.len());
        for text in &envelope.recipients {
            match text.parse::<Address>() {
                Ok(address) => recipients.push((text.as_str(), address)),
                // The code that a server would give (RFC 3463: bad destination mailbox address
                // syntax).
                Err(error) => {
                    refused.push(local_refusal(text.clone(), "5.1.3", &error.to_string()))
                }
            }
        }
        if recipients.is_empty() {
            return Err(all_refused(refused));
        }
        Ok(Self {
            sender,
            recipients,
            wire,
        })
    }

    fn mail_command(
        &self,
        config: &MailConfig,
        connection: &Connection,
    ) -> Result<String, SmtpFailure> {
        let extensions = &connection.extensions;
        if let Some(limit) = extensions
            .size
            .flatten()
            .filter(|&limit| self.wire.size as u64 > limit)
        {
            let text = format!(
                "the message has {} bytes; the limit of the mail server {} is {limit}",
                self.wire.size, config.host
            );
            return Err(failure("too-large", text));
        }
        if !self.sender.is_ascii() && !extensions.smtp_utf8 {
            let text = "the sender is not ASCII before the @, and the mail server takes only such addresses";
            return Err(refused_here("mail", 553, "5.6.7", text));
        }
        let any_utf8 = !self.sender.is_ascii()
            || self.wire.has_eight_bit_header
            || self
                .recipients
                .iter()
                .any(|(_, address)| !address.is_ascii());
        let smtp_utf8 = any_utf8 && extensions.smtp_utf8;
        if self.wire.has_eight_bit && !extensions.eight_bit_mime && !smtp_utf8 {
            let text = "the message has characters beyond ASCII, which this mail server does not take unencoded: \
                        encode them (quoted-printable, base64, encoded words)";
            return Err(refused_here("data", 554, "5.6.3", text));
        }
        let mut command = format!("MAIL FROM:<{}>", self.sender);
        if extensions.size.is_some() {
            command.push_str(&format!(" SIZE={}", self.wire.size));
        }
        if self.wire.has_eight_bit && extensions.eight_bit_mime {
            command.push_str(" BODY=8BITMIME");
        }
        if smtp_utf8 {
            command.push_str(" SMTPUTF8");
        }
        Ok(command)
    }
}

fn in_header(mailbox: &Mailbox) -> lettre::message::Mailbox {
    let address = mailbox.address.to_string();
    let (local, domain) = address.rsplit_once('@').unwrap_or_default();
    lettre::message::Mailbox::new(
        mailbox.name.clone(),
        HeaderAddress::new_dangerous(local, domain),
    )
}
