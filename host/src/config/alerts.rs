//! `[alerts]`: who is notified, and how often.

use std::time::Duration;

use patchbay_mailbox::Mailbox;
use url::Url;

use super::general::General;
use super::key::{key, section};
use super::kind::{Form, Kind, mailboxes, milliseconds, seconds, secret_url};
use super::mail::Mail;
use patchbay_app::alerts::rule::is_link;
use patchbay_app::alerts::{AlertConfig, ChannelConfig};

section! {
    /// Alerts.
    pub struct Alerts {
        /// URL to which alerts are posted as JSON
        webhook_url: Option<Url> = key("alerts.webhook_url", secret_url()).secret();
        /// Incoming webhook of Slack, or of a service that accepts the same format
        slack_url: Option<Url> = key("alerts.slack_url", secret_url()).secret();
        /// Addresses to which alerts are mailed, through mail.host and from mail.from
        mail_to: Vec<Mailbox> = key("alerts.mail_to", mailboxes()).or_empty();
        /// URL that is requested every minute while alerts work, for a dead-man service, which
        /// raises an alarm when requests are missing
        ping_url: Option<Url> = key("alerts.ping_url", secret_url()).secret();
        /// Time between two evaluations of the rules
        every: Duration = key("alerts.every_ms", milliseconds(50..=600_000)).default("15000");
        /// Time after which the message of an alert that still fires is sent again
        repeat: Duration = key("alerts.repeat_s", seconds(1..=30 * 86_400)).default("14400");
        /// Address of the runbooks in messages; the rule's name is appended as fragment
        runbook_base: String = key("alerts.runbook_base", link()).default("docs/operations/alerts.md");
    }
}

fn link() -> Kind<String> {
    Kind::new(Form::Scalar, |given| match is_link(&given.text) {
        true => Ok(given.text.clone()),
        false => Err(format!(
            "{} is neither an http:// or https:// URL nor a path",
            given.key
        )),
    })
}

impl Alerts {
    /// The channels, and how often rules are evaluated.
    pub fn alerting(&self, general: &General, mail: &Mail) -> AlertConfig {
        AlertConfig {
            channels: ChannelConfig {
                webhook: self.webhook_url.clone(),
                slack: self.slack_url.clone(),
                mail_to: self.mail_to.clone(),
                mail: mail
                    .account()
                    .zip(mail.sender().and_then(|from| from.parse().ok())),
            },
            ping: self.ping_url.clone(),
            every: *self.every,
            repeat: *self.repeat,
            runbooks: self.runbook_base.clone(),
            environment: general.environment.clone(),
        }
    }
}
