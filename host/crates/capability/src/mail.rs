//! Handing finished messages to the operator's mail server, with one verdict per recipient.
//!
//! Connections are reused while they are fresh. What is sent after the final dot and never answered is `ambiguous`: the message may
//! have been taken, and only its stable Message-ID keeps a repeat recognisable.

use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lettre::address::AddressError;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::{Address, Message};
use patchbay_model::capability::{Envelope, SmtpFailure, SmtpReceipt, SmtpRefusal};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::breaker::Report;
use crate::{SecretValue, leak};

/// Idle connections kept.
const MAX_IDLE: usize = 8;
/// Servers close idle connections after minutes (RFC 5321 §4.5.3.2: at least 5); well before that, none is reused.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// What the guest is told instead of the server's words.
const ECHOED: &str = "the mail server's words repeat the account's password, and are withheld";

/// How the connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// Not at all: for a catcher on this machine.
    None,
    /// Plain, then upgraded; refused when the server cannot.
    StartTls,
    /// From the first byte (port 465).
    Implicit,
}

/// The operator's mail account.
#[derive(Clone)]
pub struct MailConfig {
    /// Name or address.
    pub host: String,
    /// Usually 465, 587 or 25.
    pub port: u16,
    /// See [`MailTls`].
    pub tls: MailTls,
    /// Absent: no authentication.
    pub username: Option<String>,
    /// Absent: no authentication.
    pub password: Option<String>,
    /// For one whole conversation.
    pub timeout: Duration,
    /// Largest message.
    pub max_message_bytes: usize,
}

/// A configuration that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("mail over TLS to {host:?} cannot be set up")]
pub struct MailError {
    host: String,
    source: Error,
}

/// Mail for all plugins.
pub struct MailTransport {
    account: Option<Account>,
    idle: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
}

struct Account {
    config: MailConfig,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    /// What no reply may repeat to a guest.
    guarded: Vec<SecretValue>,
}

pub(crate) fn failure(phase: &'static str, text: impl Into<String>) -> SmtpFailure {
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
struct Ended {
    failure: SmtpFailure,
    report: Report,
}

/// Ours: the server was not asked, or did nothing wrong.
impl From<SmtpFailure> for Ended {
    fn from(failure: SmtpFailure) -> Self {
        Self { failure, report: Report::Unknown }
    }
}

/// How far a conversation got; outlives it when its time runs out.
struct Progress {
    phase: &'static str,
    refused: Vec<SmtpRefusal>,
}

impl MailTransport {
    /// `None`: no account is configured, and every send says so. Connects nowhere.
    pub fn new(config: Option<MailConfig>) -> Result<Self, MailError> {
        let account = config.map(Account::new).transpose()?;
        Ok(Self { account, idle: Mutex::default() })
    }

    /// Where the account is, as breakers name it: `smtp://host:port`. Nothing without an account.
    pub fn server(&self) -> Option<String> {
        self.account.as_ref().map(|account| format!("smtp://{}:{}", account.config.host, account.config.port))
    }

    /// A message of the host itself, as plain text, to all of `to`. `id`: the same for the same message, however often it is sent.
    pub async fn notify(&self, from: &str, to: &[String], id: &str, subject: &str, text: &str) -> Result<(), String> {
        let sender: Mailbox = from.parse().map_err(|error| invalid("the sender", &error))?;
        let mut message = Message::builder().from(sender.clone()).message_id(Some(format!("<{id}@patchbay>")));
        for recipient in to {
            message = message.to(recipient.parse().map_err(|error| invalid("a recipient", &error))?);
        }
        let message = message.subject(subject).header(ContentType::TEXT_PLAIN).body(text.to_owned());
        let mime = message.map_err(|error| format!("the message cannot be written: {error}"))?.formatted();
        let recipients =
            to.iter().map(|to| to.parse::<Mailbox>().map_or_else(|_| to.clone(), |to| to.email.to_string()));
        let envelope = Envelope { sender: sender.email.to_string(), recipients: recipients.collect() };
        let (result, _) = self.send(envelope, &mime, Duration::MAX).await;
        match result {
            Ok(receipt) if receipt.refused.is_empty() => Ok(()),
            // The others have it; a repeat would reach them twice.
            Ok(receipt) => {
                warn!(refused = receipt.refused.len(), "the mail server refuses some recipients of alerts.mail_to");
                Ok(())
            }
            Err(failure) => Err(format!("{}: {}", failure.phase, failure.text)),
        }
    }

    pub(crate) async fn send(
        &self,
        envelope: Envelope,
        mime: &[u8],
        remaining: Duration,
    ) -> (Result<SmtpReceipt, SmtpFailure>, Report) {
        let Some(account) = &self.account else {
            let failure = failure("not-configured", "no mail account is configured on this host");
            return (Err(failure), Report::Unknown);
        };
        if mime.len() > account.config.max_message_bytes {
            let text = format!("{} bytes; this host sends at most {}", mime.len(), account.config.max_message_bytes);
            return (Err(failure("too-large", text)), Report::Unknown);
        }
        let started = Instant::now();
        let mut progress = Progress { phase: "connect", refused: Vec::new() };
        let limit = remaining.min(account.config.timeout);
        let outcome = tokio::time::timeout(limit, self.converse(account, &envelope, mime, &mut progress)).await;
        let result = outcome.unwrap_or_else(|_| {
            let ambiguous = progress.phase == "data";
            let text = format!("no answer within {} ms, in phase {}", limit.as_millis(), progress.phase);
            let refused = std::mem::take(&mut progress.refused);
            let failure = SmtpFailure { ambiguous, refused, ..failure("timeout", text) };
            Err(Ended { failure, report: Report::Failed })
        });
        let report = result.as_ref().err().map_or(Report::Answered, |ended| ended.report);
        let result = account.withheld(result.map_err(|ended| ended.failure));
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
                "mail not taken"
            ),
        }
        (result, report)
    }

    async fn converse(
        &self,
        account: &Account,
        envelope: &Envelope,
        mime: &[u8],
        progress: &mut Progress,
    ) -> Result<SmtpReceipt, Ended> {
        let invalid_sender = |_| failure("mail", "the sender is not a mail address");
        let sender: Address = envelope.sender.parse().map_err(invalid_sender)?;
        let recipients = valid_recipients(envelope, &mut progress.refused);
        if recipients.is_empty() {
            return Err(all_refused(std::mem::take(&mut progress.refused)).into());
        }
        let utf8 = !envelope.sender.is_ascii() || recipients.iter().any(|(text, _)| !text.is_ascii());
        let parameters = || if utf8 { vec![MailParameter::SmtpUtfEight] } else { Vec::new() };

        let mut connection = match self.take_idle() {
            // It may have been closed meanwhile: nothing was sent yet, so a fresh one may begin again.
            Some(mut reused) => match reused.command(Mail::new(Some(sender.clone()), parameters())).await {
                Ok(_) => reused,
                Err(_) => account.begin(&sender, parameters(), utf8, progress).await?,
            },
            None => account.begin(&sender, parameters(), utf8, progress).await?,
        };

        progress.phase = "rcpt";
        let mut taken = 0;
        for (text, address) in recipients {
            match connection.command(Rcpt::new(address, Vec::new())).await {
                Ok(_) => taken += 1,
                Err(error) if error.status().is_some() => progress.refused.push(refusal(text, &error)),
                Err(error) => return Err(broken("rcpt", &error, std::mem::take(&mut progress.refused))),
            }
        }
        if taken == 0 {
            let refused = std::mem::take(&mut progress.refused);
            // 421 announces that the server closes.
            let closing = refused.iter().any(|refusal| refusal.reply_code == 421);
            if !closing && connection.command("RSET\r\n").await.is_ok() {
                self.put_idle(connection);
            }
            let report = if closing { Report::Failed } else { Report::Answered };
            return Err(Ended { failure: all_refused(refused), report });
        }
        progress.phase = "data-command";
        if let Err(error) = connection.command(Data).await {
            return Err(broken("data", &error, std::mem::take(&mut progress.refused)));
        }
        progress.phase = "data";
        match connection.message(mime).await {
            Ok(response) => {
                self.put_idle(connection);
                let reply = response.message().collect::<Vec<_>>().join(" ");
                Ok(SmtpReceipt { reply, refused: std::mem::take(&mut progress.refused) })
            }
            Err(error) => {
                let mut ended = broken("data", &error, std::mem::take(&mut progress.refused));
                ended.failure.ambiguous = error.status().is_none();
                Err(ended)
            }
        }
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < IDLE_LIMIT);
        idle.pop().map(|(_, connection)| connection)
    }

    fn put_idle(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !connection.has_broken() && idle.len() < MAX_IDLE {
            idle.push((Instant::now(), connection));
        }
    }
}

impl Account {
    fn new(config: MailConfig) -> Result<Self, MailError> {
        let tls = match config.tls {
            MailTls::None => None,
            MailTls::StartTls | MailTls::Implicit => Some(
                TlsParameters::new(config.host.clone())
                    .map_err(|source| MailError { host: config.host.clone(), source })?,
            ),
        };
        // Gmail shows app passwords in groups of four; the spaces are not part of them.
        let password =
            config.password.as_ref().map(|text| text.chars().filter(|c| !c.is_whitespace()).collect::<String>());
        let guarded = password.iter().cloned().map(SecretValue::new).collect();
        let credentials =
            config.username.clone().zip(password).map(|(username, password)| Credentials::new(username, password));
        Ok(Self { config, tls, credentials, guarded })
    }

    /// A server that is angry at a login may repeat it, and what a server says ends up in front of guests, operators and logs.
    fn withheld(&self, mut result: Result<SmtpReceipt, SmtpFailure>) -> Result<SmtpReceipt, SmtpFailure> {
        let (text, refused) = match &mut result {
            Ok(receipt) => (&mut receipt.reply, &mut receipt.refused),
            Err(failure) => (&mut failure.text, &mut failure.refused),
        };
        let mut echoed = false;
        for text in refused.iter_mut().map(|refusal| &mut refusal.text).chain([text]) {
            if leak::repeats([text.as_bytes()], &self.guarded) {
                echoed = true;
                ECHOED.clone_into(text);
            }
        }
        if echoed {
            warn!(host = self.config.host, "{ECHOED}");
        }
        result
    }

    /// A new connection with its first `MAIL`.
    async fn begin(
        &self,
        sender: &Address,
        parameters: Vec<MailParameter>,
        utf8: bool,
        progress: &mut Progress,
    ) -> Result<AsyncSmtpConnection, Ended> {
        let hello = ClientId::default();
        let server = (self.config.host.as_str(), self.config.port);
        let connected = if self.config.tls == MailTls::Implicit {
            let (limit, tls) = (Some(self.config.timeout), self.tls.clone());
            AsyncSmtpConnection::connect_tokio1(server, limit, &hello, tls, None).await
        } else {
            AsyncSmtpConnection::connect_with_transport(Box::new(connect(server).await?), &hello).await
        };
        let phase = |error: &Error| if error.is_tls() { "tls" } else { "connect" };
        let mut connection = connected.map_err(|error| broken(phase(&error), &error, Vec::new()))?;
        if let (MailTls::StartTls, Some(tls)) = (self.config.tls, &self.tls) {
            progress.phase = "tls";
            connection.starttls(tls.clone(), &hello).await.map_err(|error| broken("tls", &error, Vec::new()))?;
        }
        if let Some(credentials) = &self.credentials {
            progress.phase = "auth";
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            connection.auth(&mechanisms, credentials).await.map_err(|error| broken("auth", &error, Vec::new()))?;
        }
        if utf8 && !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(failure(
                "mail",
                "an address has characters beyond ASCII, and the mail server does not take such addresses",
            )
            .into());
        }
        progress.phase = "mail";
        let begun = connection.command(Mail::new(Some(sender.clone()), parameters)).await;
        begun.map_err(|error| broken("mail", &error, Vec::new()))?;
        Ok(connection)
    }
}

/// The library writes a message and its final dot one after the other; without this, the system keeps the dot back until the server has
/// acknowledged the message, which it does 40 ms late.
async fn connect(server: (&str, u16)) -> Result<TcpStream, Ended> {
    let connected = TcpStream::connect(server).await.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    connected.map_err(|error| Ended { failure: failure("connect", error.to_string()), report: Report::Failed })
}

/// Parses each address; what is none is refused as a server would (RFC 3463: 5.1.3, bad destination mailbox address syntax).
fn valid_recipients<'a>(envelope: &'a Envelope, refused: &mut Vec<SmtpRefusal>) -> Vec<(&'a str, Address)> {
    let mut valid = Vec::with_capacity(envelope.recipients.len());
    for text in &envelope.recipients {
        match text.parse() {
            Ok(address) => valid.push((text.as_str(), address)),
            Err(_) => refused.push(SmtpRefusal {
                recipient: text.clone(),
                reply_code: 553,
                enhanced_code: Some("5.1.3".into()),
                text: "not a mail address".into(),
            }),
        }
    }
    valid
}

fn invalid(what: &str, error: &AddressError) -> String {
    format!("{what} is not a mail address: {error}")
}

fn all_refused(refused: Vec<SmtpRefusal>) -> SmtpFailure {
    let first = refused.first();
    SmtpFailure {
        reply_code: first.map(|refusal| refusal.reply_code),
        enhanced_code: first.and_then(|refusal| refusal.enhanced_code.clone()),
        refused: refused.clone(),
        ..failure("rcpt", first.map_or_else(|| "no recipients".to_owned(), |refusal| refusal.text.clone()))
    }
}

fn refusal(recipient: &str, error: &Error) -> SmtpRefusal {
    let (reply_code, enhanced_code, text) = reply(error);
    SmtpRefusal { recipient: recipient.to_owned(), reply_code: reply_code.unwrap_or_default(), enhanced_code, text }
}

fn broken(phase: &'static str, error: &Error, refused: Vec<SmtpRefusal>) -> Ended {
    let (reply_code, enhanced_code, text) = reply(error);
    let report = if matches!(reply_code, None | Some(421)) { Report::Failed } else { Report::Answered };
    Ended { failure: SmtpFailure { phase, reply_code, enhanced_code, text, ambiguous: false, refused }, report }
}

/// The server's verdict, or our words for a broken connection.
fn reply(error: &Error) -> (Option<u16>, Option<String>, String) {
    let text = StdError::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let code = error.status().map(u16::from);
    // `5.7.8 Username and Password not accepted`: RFC 2034 puts it first in the text.
    let enhanced = text.split_whitespace().next().filter(|word| is_enhanced(word)).map(str::to_owned);
    (code, enhanced.filter(|_| code.is_some()), text)
}

fn is_enhanced(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
