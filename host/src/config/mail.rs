//! `[mail]`: the operator's mail account.

use std::path::PathBuf;
use std::time::Duration;

use patchbay_capability::{MailConfig, MailTls};
use patchbay_mailbox::{Mailbox, domain_to_ascii};

use super::key::{key, section};
use super::kind::{Form, Kind, mebibytes, milliseconds, number, one_of, sender, text};

/// The only server that the old backend used.
const HOST_OF_A_LOGIN: &str = "smtp.gmail.com";

const TLS: &[(&str, MailTls)] = &[
    ("implicit", MailTls::Implicit),
    ("starttls", MailTls::StartTls),
    ("none", MailTls::None),
];

section! {
    /// Mail.
    pub struct Mail {
        /// Mail server; smtp.gmail.com when only EMAIL_USER is set, as in the old backend
        host: Option<String> = key("mail.host", text());
        /// Port
        port: u16 = key("mail.port", number(1..=65_535)).default("465");
        /// implicit (465), starttls (587) or none
        tls: MailTls = key("mail.tls", one_of(TLS)).default("implicit");
        /// What EHLO says: this host's domain; default: its address in brackets
        hello_name: Option<String> = key("mail.hello_name", hello_name());
        /// Login at the mail server
        username: Option<String> = key("mail.username", text()).old(&["EMAIL_USER"]);
        /// Password, sent as given (of Gmail's app passwords without the spaces)
        password: Option<String> = key("mail.password", text()).old(&["EMAIL_PASS"]).secret();
        /// File with the password, read for each login: a new one needs no restart
        password_file: Option<PathBuf> = key("mail.password_file", text());
        /// Sender for mail plugins that set none; default: mail.username, where that is an address
        from: Option<String> = key("mail.from", sender()).old(&["EMAIL_FROM"]);
        /// Time limit for a conversation up to the end of the message; the answer to it may take as
        /// long as the job may run
        timeout: Duration = key("mail.timeout_ms", milliseconds(100..=600_000)).default("30000").old(&["EMAIL_TIMEOUT_MS"]);
        /// Largest message
        max_message: usize = key("mail.max_message_mb", mebibytes(1..=100)).default("25");
    }
}

fn hello_name() -> Kind<String> {
    Kind::new(Form::Scalar, |given| match domain_to_ascii(&given.text) {
        Some(_) => Ok(given.text.clone()),
        None => Err(format!(
            "{}: {:?} is neither a domain nor an address in brackets",
            given.key, given.text
        )),
    })
}

impl Mail {
    /// The account, if one is configured.
    pub fn account(&self) -> Option<MailConfig> {
        let host = self
            .host
            .clone()
            .or_else(|| self.username.is_some().then(|| HOST_OF_A_LOGIN.to_owned()))?;
        Some(MailConfig {
            host,
            port: *self.port,
            tls: *self.tls,
            username: self.username.clone(),
            password: self.password.clone(),
            password_file: self.password_file.clone(),
            hello_name: self.hello_name.clone(),
            timeout: *self.timeout,
            max_message_bytes: *self.max_message,
        })
    }

    /// The default sender, for plugins that set none.
    pub fn sender(&self) -> Option<String> {
        // A login does not have to be an address.
        let username = || {
            self.username
                .clone()
                .filter(|name| name.parse::<Mailbox>().is_ok())
        };
        self.from.clone().or_else(username)
    }
}
