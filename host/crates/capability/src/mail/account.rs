//! The operator's mail account: connecting to its server, and logging in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use patchbay_mailbox::domain_to_ascii;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt;
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::connection::Connection;
use super::error::Broken;
use super::failure::{Ended, Progress, SmtpFailure, SmtpReceipt, failure, refused_here};
use super::reply::Reply;
use crate::credential_echo;
use crate::secrets::SecretValue;

/// Message for the guest instead of the server's words.
pub(super) const ECHOED: &str =
    "the mail server's answer repeats the account's password, and is withheld";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// No encryption: for a mail catcher on this machine.
    None,
    /// Plain text first, then upgraded; refused when the server cannot.
    StartTls,
    /// From the first byte (port 465).
    Implicit,
}

#[derive(Clone)]
pub struct MailConfig {
    pub host: String,
    /// Usually 465, 587 or 25.
    pub port: u16,
    pub tls: MailTls,
    /// Name in EHLO: a domain, or an address in brackets. Absent: this side's address.
    pub hello_name: Option<String>,
    /// Absent: no authentication.
    pub username: Option<String>,
    /// Absent, as `password_file`: no authentication.
    pub password: Option<String>,
    /// A file with the password instead. It is read for each login, so that a new password needs no
    /// restart.
    pub password_file: Option<PathBuf>,
    /// Limit of a conversation up to the end of the message. The answer to the message may take
    /// longer: up to 10 minutes, as long as the guest may run.
    pub timeout: Duration,
    pub max_message_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error("mail over TLS to {host:?} cannot be set up: {reason}")]
    Tls { host: String, reason: String },
    #[error(
        "mail.hello_name {0:?} is neither a domain nor an address in brackets, such as [192.0.2.1]"
    )]
    HelloName(String),
    #[error("mail.username or mail.password has a NUL character, which a login cannot contain")]
    Credentials,
}

/// Passwords of a file that are guarded: the one that is read now, and one before it.
const GUARDED: usize = 2;
/// Of a file with a password.
const MAX_PASSWORD_BYTES: u64 = 4 << 10;

pub(super) struct Account {
    pub(super) config: MailConfig,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    credentials: Option<(String, Password)>,
    /// Values that no reply may repeat to a guest.
    guarded: Mutex<Vec<SecretValue>>,
}

enum Password {
    Given(SecretValue),
    InFile(PathBuf),
}

impl Account {
    pub(super) fn new(mut config: MailConfig) -> Result<Self, MailError> {
        let tls = match config.tls {
            MailTls::None => None,
            MailTls::StartTls | MailTls::Implicit => {
                let failed = |reason: String| MailError::Tls {
                    host: config.host.clone(),
                    reason,
                };
                let host = domain_to_ascii(&config.host).unwrap_or_else(|| config.host.clone());
                let name = ServerName::try_from(host).map_err(|error| failed(error.to_string()))?;
                let tls = ClientConfig::with_platform_verifier()
                    .map_err(|error| failed(error.to_string()))?;
                Some((TlsConnector::from(Arc::new(tls)), name))
            }
        };
        if let Some(name) = &config.hello_name {
            let ascii = domain_to_ascii(name).ok_or_else(|| MailError::HelloName(name.clone()))?;
            config.hello_name = Some(ascii);
        }
        let password = match (config.password.take(), config.password_file.take()) {
            (_, Some(file)) => Some(Password::InFile(file)),
            (Some(password), None) => Some(Password::Given(usable(&config.host, password)?)),
            (None, None) => None,
        };
        let credentials = config.username.take().zip(password);
        if credentials
            .as_ref()
            .is_some_and(|(username, _)| username.contains('\0'))
        {
            return Err(MailError::Credentials);
        }
        let guarded = credentials
            .iter()
            .filter_map(|(_, password)| match password {
                Password::Given(value) => Some(value.clone()),
                Password::InFile(_) => None,
            });
        let guarded = Mutex::new(guarded.collect());
        Ok(Self {
            config,
            tls,
            credentials,
            guarded,
        })
    }

    /// The login, with the password as it is now.
    pub(super) async fn login(&self) -> Result<Option<(&str, SecretValue)>, SmtpFailure> {
        let Some((username, password)) = &self.credentials else {
            return Ok(None);
        };
        let file = match password {
            Password::Given(value) => return Ok(Some((username.as_str(), value.clone()))),
            Password::InFile(file) => file,
        };
        // The path is for operators, not for guests.
        let unusable = |reason: &str| {
            warn!(
                file = %file.display(),
                reason, "The password of the mail account cannot be read"
            );
            failure("auth", "the file of mail.password_file cannot be used")
        };
        let read = read_password(file).await;
        let read = read.map_err(|error| unusable(&error.to_string()))?;
        let value =
            usable(&self.config.host, read).map_err(|error| unusable(&error.to_string()))?;
        let mut guarded = self.guarded.lock();
        if !guarded
            .iter()
            .any(|known| known.matches(value.expose().as_bytes()))
        {
            guarded.push(value.clone());
            let old = guarded.len().saturating_sub(GUARDED);
            guarded.drain(..old);
        }
        drop(guarded);
        Ok(Some((username.as_str(), value)))
    }

    /// Opens a connection; greets, secures and logs in as configured.
    pub(super) async fn connect(&self, progress: &mut Progress) -> Result<Connection, Ended> {
        let hello = self.config.hello_name.as_deref();
        let broken = |phase| move |broken: Broken| Ended::broken(phase, &broken);
        let positive = |phase, reply: Reply| match reply {
            reply if reply.is_positive() => Ok(()),
            reply if reply.is_negative() => Err(Ended::replied(phase, &reply)),
            reply => Err(Ended::broken(phase, &Broken::Unexpected(reply.code))),
        };
        progress.phase = "connect";
        let mut connection = Connection::open(&self.config.host, self.config.port)
            .await
            .map_err(broken("connect"))?;
        if let (MailTls::Implicit, Some((tls, name))) = (self.config.tls, &self.tls) {
            progress.phase = "tls";
            connection = connection
                .secure(tls, name.clone())
                .await
                .map_err(broken("tls"))?;
            progress.phase = "connect";
        }
        positive(
            "connect",
            connection.greeting().await.map_err(broken("connect"))?,
        )?;
        positive(
            "connect",
            connection.hello(hello).await.map_err(broken("connect"))?,
        )?;
        if let (MailTls::StartTls, Some((tls, name))) = (self.config.tls, &self.tls) {
            progress.phase = "tls";
            if !connection.extensions.start_tls {
                tokio::spawn(connection.quit());
                return Err(failure(
                    "tls",
                    "the mail server does not offer STARTTLS; see mail.tls",
                )
                .into());
            }
            positive(
                "tls",
                connection
                    .command("STARTTLS")
                    .await
                    .map_err(broken("tls"))?,
            )?;
            connection = connection
                .secure(tls, name.clone())
                .await
                .map_err(broken("tls"))?;
            // Anybody may have sent what came unencrypted, so EHLO is sent again.
            positive("tls", connection.hello(hello).await.map_err(broken("tls"))?)?;
        }
        if self.credentials.is_some() {
            progress.phase = "auth";
        }
        if let Some((username, password)) = self.login().await? {
            if !connection.extensions.auth_plain && !connection.extensions.auth_login {
                let secure = if self.config.tls == MailTls::None {
                    " without TLS (mail.tls)"
                } else {
                    ""
                };
                let text = format!("the mail server offers no login by PLAIN or LOGIN{secure}");
                tokio::spawn(connection.quit());
                // RFC 5321: 504 means that a parameter is not implemented.
                return Err(refused_here("auth", 504, "5.5.4", &text).into());
            }
            positive(
                "auth",
                connection
                    .auth(username, password.expose())
                    .await
                    .map_err(broken("auth"))?,
            )?;
        }
        Ok(connection)
    }

    /// A server that refuses a login may repeat it, and its words reach guests, operators and logs.
    pub(super) fn withheld(
        &self,
        mut result: Result<SmtpReceipt, SmtpFailure>,
    ) -> Result<SmtpReceipt, SmtpFailure> {
        let (text, refused) = match &mut result {
            Ok(receipt) => (&mut receipt.reply, &mut receipt.refused),
            Err(failure) => (&mut failure.text, &mut failure.refused),
        };
        let guarded = self.guarded.lock().clone();
        let mut echoed = false;
        for text in refused
            .iter_mut()
            .map(|refusal| &mut refusal.text)
            .chain([text])
        {
            if credential_echo::repeats([text.as_bytes()], &guarded) {
                echoed = true;
                ECHOED.clone_into(text);
            }
        }
        if echoed {
            warn!(host = self.config.host, "{ECHOED}");
        }
        result
    }
}

/// As the server wants it.
fn usable(host: &str, password: String) -> Result<SecretValue, MailError> {
    if password.contains('\0') {
        return Err(MailError::Credentials);
    }
    let password = match is_gmail(host) {
        true => without_groups(password),
        false => password,
    };
    Ok(SecretValue::new(password))
}

/// Without the line's end, which editors add.
async fn read_password(file: &std::path::Path) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut read = String::new();
    let file = tokio::fs::File::open(file).await?;
    file.take(MAX_PASSWORD_BYTES)
        .read_to_string(&mut read)
        .await?;
    let password = read.trim_end_matches(['\r', '\n']);
    match password {
        "" => Err(std::io::Error::other("it is empty")),
        password => Ok(password.to_owned()),
    }
}

fn is_gmail(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    [".gmail.com", ".googlemail.com"]
        .iter()
        .any(|domain| host.ends_with(domain))
}

/// Google shows an app password as four groups of four letters. The spaces are not part of it, and
/// no other password of Google's can log in here. Anything else is sent unchanged.
fn without_groups(password: String) -> String {
    let groups: Vec<&str> = password.split(' ').collect();
    let is_group = |group: &&str| group.len() == 4 && group.bytes().all(|b| b.is_ascii_lowercase());
    if groups.len() == 4 && groups.iter().all(is_group) {
        groups.concat()
    } else {
        password
    }
}
