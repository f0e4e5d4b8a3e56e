//! Channels for alert messages: a webhook in Patchbay's own format or in Slack's, and mail, which
//! goes straight to the server and never through a queue.
//!
//! Webhook URLs are secrets: no error repeats one.

use std::time::Duration;

use patchbay_capability::{MailConfig, MailTransport};
use patchbay_mailbox::Mailbox;
use patchbay_model::address::is_loopback;
use reqwest::Url;
use serde_json::{Value, json};

/// Limit of one try.
const TIMEOUT: Duration = Duration::from_secs(5);

/// All channels that exist.
pub(super) const NAMES: [&str; 3] = ["webhook", "slack", "mail"];

pub struct ChannelConfig {
    /// `alerts.webhook_url`
    pub webhook: Option<Url>,
    /// `alerts.slack_url`
    pub slack: Option<Url>,
    /// `alerts.mail_to`
    pub mail_to: Vec<Mailbox>,
    /// The mail account, and the sender.
    pub mail: Option<(MailConfig, Mailbox)>,
}

pub(super) struct Channel {
    pub name: &'static str,
    way: Transport,
}

enum Transport {
    Webhook(reqwest::Client, Url),
    Slack(reqwest::Client, Url),
    Mail {
        transport: Box<MailTransport>,
        from: Mailbox,
        to: Vec<Mailbox>,
    },
}

/// Makes the configured channels.
pub(super) fn channels(config: ChannelConfig) -> anyhow::Result<Vec<Channel>> {
    let webhook = config.webhook.map(|url| {
        let http = http_client(&url)?;
        anyhow::Ok(Channel {
            name: "webhook",
            way: Transport::Webhook(http, url),
        })
    });
    let slack = config.slack.map(|url| {
        let http = http_client(&url)?;
        anyhow::Ok(Channel {
            name: "slack",
            way: Transport::Slack(http, url),
        })
    });
    let mail = config.mail.filter(|_| !config.mail_to.is_empty());
    let mail = mail.map(|(account, from)| {
        // The channel has its own connections and timeout, so that mails of plugins do not delay
        // it.
        let transport = Box::new(MailTransport::new(Some(MailConfig {
            timeout: TIMEOUT,
            ..account
        }))?);
        anyhow::Ok(Channel {
            name: "mail",
            way: Transport::Mail {
                transport,
                from,
                to: config.mail_to,
            },
        })
    });
    webhook.into_iter().chain(slack).chain(mail).collect()
}

/// The client for a webhook or the ping.
pub(super) fn http_client(url: &Url) -> Result<reqwest::Client, reqwest::Error> {
    let mut client = reqwest::Client::builder();
    if is_loopback(url.as_str()) {
        client = client.no_proxy();
    }
    client
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Sends the request, and succeeds when the answer has a status of success.
pub(super) async fn ask(request: reqwest::RequestBuilder) -> Result<(), String> {
    match request.send().await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("it answered with {}", response.status())),
        Err(error) if error.is_timeout() => {
            Err(format!("no answer within {} s", TIMEOUT.as_secs()))
        }
        Err(error) => {
            let error = error.without_url();
            let cause =
                std::iter::successors(std::error::Error::source(&error), |cause| cause.source())
                    .last();
            Err(cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
        }
    }
}

impl Channel {
    /// Sends the message within [`TIMEOUT`]. The error says why it failed.
    pub(super) async fn send(&self, body: &Value) -> Result<(), String> {
        match &self.way {
            Transport::Webhook(http, url) => ask(http.post(url.clone()).json(body)).await,
            Transport::Slack(http, url) => {
                ask(http.post(url.clone()).json(&json!({ "text": slack(body) }))).await
            }
            Transport::Mail {
                transport,
                from,
                to,
            } => {
                let id = message_id(body);
                transport
                    .notify(from, to, &id, &subject(body), &text(body))
                    .await
            }
        }
    }
}

fn field<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_default()
}

/// Makes the subject: `[production] CRITICAL plugin-quarantined: email`, or `… RECOVERED …`.
fn subject(body: &Value) -> String {
    let state = match field(body, "event") {
        "recovered" => "recovered".to_owned(),
        "still-firing" => format!("still {}", field(body, "severity")),
        "test" => "test".to_owned(),
        _ => field(body, "severity").to_owned(),
    };
    let [environment, alert, subject] =
        ["environment", "alert", "subject"].map(|name| field(body, name));
    format!(
        "[{environment}] {} {alert}: {subject}",
        state.to_uppercase()
    )
}

fn text(body: &Value) -> String {
    let recovered = field(body, "event") == "recovered";
    // A host of the version before tells neither the length nor that it is over.
    let it_was = if recovered && body["lastedMs"].is_null() {
        "It was: "
    } else {
        ""
    };
    let mut lines = vec![format!("{it_was}{}", field(body, "reason"))];
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

/// Escapes the three characters that Slack reserves (api.slack.com, "Escaping text").
fn slack(body: &Value) -> String {
    let escape = |text: String| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    format!(
        "*{}*\n{}",
        escape(subject(body)),
        escape(text(body)).trim_end()
    )
}

/// The id is the same for the same message, so that a repeat is recognised.
fn message_id(body: &Value) -> String {
    use sha2::{Digest, Sha256};
    format!(
        "alert-{}",
        &hex::encode(Sha256::digest(body.to_string().as_bytes()))[..32]
    )
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
        assert_eq!(
            subject(&body),
            "[production] WARNING oldest-waiting: emailQueue"
        );
        assert!(slack(&body).starts_with(
            "*[production] WARNING oldest-waiting: emailQueue*\n3 jobs wait in &lt;emailQueue&gt;"
        ));
        let firing = message_id(&body);
        body["event"] = "recovered".into();
        assert_eq!(
            subject(&body),
            "[production] RECOVERED oldest-waiting: emailQueue"
        );
        assert!(text(&body).starts_with("It was: 3 jobs wait") && !text(&body).contains("Next:"));
        assert_ne!(firing, message_id(&body));
        let whole = "emailQueue: recovered after 12 min. It was: 3 jobs waited";
        (body["reason"], body["lastedMs"]) = (whole.into(), 720_000.into());
        assert!(text(&body).starts_with(whole), "{}", text(&body));
    }
}
