//! Ways to tell somebody: a webhook in our own shape or Slack's, and mail straight to the server, never through a queue.
//!
//! Addresses of webhooks are secrets: no error repeats one.

use std::time::Duration;

use patchbay_capability::{MailConfig, MailTransport};
use patchbay_mailbox::Mailbox;
use patchbay_model::address::is_loopback;
use reqwest::Url;
use serde_json::{Value, json};

/// For one try.
const TIMEOUT: Duration = Duration::from_secs(5);

/// All that there may be.
pub(super) const NAMES: [&str; 3] = ["webhook", "slack", "mail"];

/// What is configured.
pub struct ChannelConfig {
    /// `alerts.webhook_url`
    pub webhook: Option<Url>,
    /// `alerts.slack_url`
    pub slack: Option<Url>,
    /// `alerts.mail_to`
    pub mail_to: Vec<Mailbox>,
    /// The mail account; its sender.
    pub mail: Option<(MailConfig, Mailbox)>,
}

/// One way.
pub(super) struct Channel {
    pub name: &'static str,
    way: Way,
}

enum Way {
    Webhook(reqwest::Client, Url),
    Slack(reqwest::Client, Url),
    Mail { transport: Box<MailTransport>, from: Mailbox, to: Vec<Mailbox> },
}

/// All that are configured.
pub(super) fn channels(config: ChannelConfig) -> anyhow::Result<Vec<Channel>> {
    let webhook = config.webhook.map(|url| {
        let http = http_client(&url)?;
        anyhow::Ok(Channel { name: "webhook", way: Way::Webhook(http, url) })
    });
    let slack = config.slack.map(|url| {
        let http = http_client(&url)?;
        anyhow::Ok(Channel { name: "slack", way: Way::Slack(http, url) })
    });
    let mail = config.mail.filter(|_| !config.mail_to.is_empty());
    let mail = mail.map(|(account, from)| {
        // Its own connections and its own patience: plugins' mails must not hold it up.
        let transport = Box::new(MailTransport::new(Some(MailConfig { timeout: TIMEOUT, ..account }))?);
        anyhow::Ok(Channel { name: "mail", way: Way::Mail { transport, from, to: config.mail_to } })
    });
    webhook.into_iter().chain(slack).chain(mail).collect()
}

/// For a webhook or the ping.
pub(super) fn http_client(url: &Url) -> Result<reqwest::Client, reqwest::Error> {
    let mut client = reqwest::Client::builder();
    if is_loopback(url.as_str()) {
        client = client.no_proxy();
    }
    client.timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build()
}

/// Succeeds when it is answered so.
pub(super) async fn ask(request: reqwest::RequestBuilder) -> Result<(), String> {
    match request.send().await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("it answered with {}", response.status())),
        Err(error) if error.is_timeout() => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        Err(error) => {
            let error = error.without_url();
            let cause = std::iter::successors(std::error::Error::source(&error), |cause| cause.source()).last();
            Err(cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
        }
    }
}

impl Channel {
    /// Tells, within [`TIMEOUT`]; gives why it was not told.
    pub(super) async fn send(&self, body: &Value) -> Result<(), String> {
        match &self.way {
            Way::Webhook(http, url) => ask(http.post(url.clone()).json(body)).await,
            Way::Slack(http, url) => ask(http.post(url.clone()).json(&json!({ "text": slack(body) }))).await,
            Way::Mail { transport, from, to } => {
                let id = message_id(body);
                transport.notify(from, to, &id, &subject(body), &text(body)).await
            }
        }
    }
}

fn field<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_default()
}

/// `[production] CRITICAL plugin-quarantined: email`, or `… RECOVERED …`.
fn subject(body: &Value) -> String {
    let state = match field(body, "event") {
        "recovered" => "recovered".to_owned(),
        "still-firing" => format!("still {}", field(body, "severity")),
        "test" => "test".to_owned(),
        _ => field(body, "severity").to_owned(),
    };
    let [environment, alert, subject] = ["environment", "alert", "subject"].map(|name| field(body, name));
    format!("[{environment}] {} {alert}: {subject}", state.to_uppercase())
}

fn text(body: &Value) -> String {
    let recovered = field(body, "event") == "recovered";
    let mut lines = vec![format!("{}{}", if recovered { "It was: " } else { "" }, field(body, "reason"))];
    let mut add = |label: &str, name: &str| {
        if !field(body, name).is_empty() {
            lines.push(format!("{label}: {}", field(body, name)));
        }
    };
    if !recovered {
        add("Done", "consequence");
        add("Next", "next");
    }
    add("Runbook", "runbook");
    add("Since", "since");
    add("At", "at");
    lines.join("\n") + "\n"
}

/// Slack takes three characters for its own (api.slack.com, "Escaping text").
fn slack(body: &Value) -> String {
    let escape = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("*{}*\n{}", escape(subject(body)), escape(text(body)).trim_end())
}

/// The same for the same message, so that a repeat is recognisable.
fn message_id(body: &Value) -> String {
    use sha2::{Digest, Sha256};
    format!("alert-{}", &hex::encode(Sha256::digest(body.to_string().as_bytes()))[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_well_and_slack_gets_its_own_escapes() {
        let mut body = json!({
            "alert": "oldest-waiting", "event": "firing", "severity": "warning", "subject": "emailQueue",
            "environment": "production", "reason": "3 jobs wait in <emailQueue>, the oldest for 901 s",
            "next": "patchbay queue why emailQueue", "runbook": "docs/operations/alerts.md#oldest-waiting",
            "since": "2026-11-24T19:14:15Z", "at": "2026-11-24T19:15:15Z",
        });
        assert_eq!(subject(&body), "[production] WARNING oldest-waiting: emailQueue");
        assert!(
            slack(&body)
                .starts_with("*[production] WARNING oldest-waiting: emailQueue*\n3 jobs wait in &lt;emailQueue&gt;")
        );
        let firing = message_id(&body);
        body["event"] = "recovered".into();
        assert_eq!(subject(&body), "[production] RECOVERED oldest-waiting: emailQueue");
        assert!(text(&body).starts_with("It was: 3 jobs wait") && !text(&body).contains("Next:"));
        assert_ne!(firing, message_id(&body));
    }
}
