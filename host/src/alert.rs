//! What somebody must be told of: one line in the log with stable fields and, where configured, one HTTP POST.
//!
//! Never holds anybody up: alerts wait in a short line of their own, and one that cannot be delivered is given up and logged.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use reqwest::{StatusCode, Url};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::quarantine::Tripped;

/// Alerts that wait for delivery; further ones are only logged.
const MAX_WAITING: usize = 64;
/// For one try.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Before each further try.
const RETRY_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// One alert, as it is posted.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Stable, kebab-case.
    alert: &'static str,
    plugin: String,
    revision: String,
    host: String,
    reason: String,
    /// What was done about it, and what to do next.
    consequence: String,
    at: String,
}

impl Alert {
    /// A plugin stands still.
    pub(crate) fn quarantined(tripped: &Tripped, host: &str, consequence: String) -> Self {
        Self {
            alert: "plugin-quarantined",
            plugin: tripped.plugin.to_string(),
            revision: tripped.digest.to_string(),
            host: host.to_owned(),
            reason: tripped.reason.clone(),
            consequence,
            at: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }
}

/// Where alerts go.
#[derive(Debug, Clone)]
pub struct Alerts(Option<mpsc::Sender<Alert>>);

impl Alerts {
    /// Delivers until cancelled, when there is a webhook.
    pub fn start(webhook: Option<Url>, stop: CancellationToken) -> Result<Self, reqwest::Error> {
        let Some(webhook) = webhook else { return Ok(Self(None)) };
        let redirect = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().timeout(TIMEOUT).redirect(redirect).build()?;
        let (sender, mut waiting) = mpsc::channel::<Alert>(MAX_WAITING);
        tokio::spawn(async move {
            let deliver = async {
                while let Some(alert) = waiting.recv().await {
                    deliver(&http, &webhook, &alert).await;
                }
            };
            tokio::select! { () = deliver => {}, () = stop.cancelled() => {} }
        });
        Ok(Self(Some(sender)))
    }

    /// Logs it, and has it delivered.
    pub fn fire(&self, alert: Alert) {
        error!(
            alert = alert.alert,
            plugin = alert.plugin,
            revision = alert.revision,
            host = alert.host,
            reason = alert.reason,
            consequence = alert.consequence,
            "alert"
        );
        if let Some(sender) = &self.0
            && sender.try_send(alert).is_err()
        {
            warn!("too many alerts wait for alerts.webhook_url: this one is not posted");
        }
    }
}

/// The address is not logged: such addresses are secrets.
async fn deliver(http: &reqwest::Client, webhook: &Url, alert: &Alert) {
    let mut waits = RETRY_AFTER.into_iter();
    loop {
        let reason = match http.post(webhook.clone()).json(alert).send().await {
            Ok(response) if response.status().is_success() => return,
            Ok(response) if !may_help_to_repeat(response.status()) => {
                return warn!(alert = alert.alert, status = %response.status(), "alerts.webhook_url refuses an alert");
            }
            Ok(response) => format!("it answered with {}", response.status()),
            Err(error) => error.without_url().to_string(),
        };
        let Some(wait) = waits.next() else {
            return warn!(alert = alert.alert, reason, "an alert could not be delivered to alerts.webhook_url");
        };
        tokio::time::sleep(wait).await;
    }
}

fn may_help_to_repeat(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}
