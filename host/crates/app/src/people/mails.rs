//! Mails about accounts: what they say, and their way from the outbox to the queue.

use std::time::Duration;

use patchbay_model::JobId;
use patchbay_model::confidential::ACCOUNT_MAIL;
use patchbay_model::job::{Keep, NewJob, Trace};
use patchbay_queue::QueueError;
use patchbay_store::OutgoingMail;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::config::{RESET_CODE_LIFE, SIGNUP_CODE_LIFE};
use super::{PeopleParts, Visitor};
use crate::Error;

/// Jobs of one step of the relay.
const BATCH: i64 = 50;
/// How long a mail waits when its process died between the commit and adding its job.
const POLL: Duration = Duration::from_secs(1);

/// A mail in the outbox.
#[derive(Serialize, Deserialize)]
struct Waiting {
    name: String,
    data: Value,
    #[serde(default)]
    correlation_id: Option<String>,
    #[serde(default)]
    platform: Option<String>,
}

fn mail(visitor: &Visitor, name: &str, data: Value) -> Value {
    json!({
        "name": name,
        "data": data,
        "correlation_id": visitor.trace.correlation_id,
        "platform": visitor.trace.platform,
    })
}

fn minutes(life: Duration) -> u64 {
    life.as_secs() / 60
}

pub(super) fn signup_code(visitor: &Visitor, to: &str, code: &str) -> Value {
    let data = json!({ "to": to, "otp": code, "expiresInMinutes": minutes(SIGNUP_CODE_LIFE) });
    mail(visitor, "otp", data)
}

pub(super) fn account_exists(visitor: &Visitor, to: &str) -> Value {
    let text = "Somebody tried to sign up with this address, and it has an account already. \
                If it was you, log in, or set a new password. If it was not you, there is nothing to do.";
    let data = json!({ "to": to, "subject": "You already have an account", "text": text });
    mail(visitor, "send", data)
}

pub(super) fn reset_code(visitor: &Visitor, to: &str, code: &str) -> Value {
    let text = format!(
        "Your code to set a new password is {code}. It is valid for {} minutes. \
         If you did not ask for it, there is nothing to do.",
        minutes(RESET_CODE_LIFE)
    );
    let data = json!({ "to": to, "subject": "Set a new password", "text": text });
    mail(visitor, "send", data)
}

pub(super) fn password_changed(visitor: &Visitor, to: &str) -> Value {
    let text = "The password of your account was changed, and all other sessions were logged out. \
                If it was not you, set a new password now.";
    let data = json!({ "to": to, "subject": "Your password was changed", "text": text });
    mail(visitor, "send", data)
}

pub(super) fn session_ended(visitor: &Visitor, to: &str) -> Value {
    let text = "A login of your account was used in two places at once, so it was logged out. \
                If you did not copy it yourself, change your password.";
    let data = json!({ "to": to, "subject": "You were logged out", "text": text });
    mail(visitor, "send", data)
}

pub(super) fn master_login(visitor: &Visitor, to: &str) -> Value {
    let text = "An administrator logged in to your account with the emergency login. \
                If you did not expect this, ask your administrator.";
    let data =
        json!({ "to": to, "subject": "An administrator logged in to your account", "text": text });
    mail(visitor, "send", data)
}

impl PeopleParts {
    /// A mail that depends on no transaction.
    pub(super) async fn send(&self, mail: &Value) -> Result<(), Error> {
        super::within(self.store.put_mail(uuid::Uuid::now_v7(), mail)).await?;
        self.mails.notify_one();
        Ok(())
    }

    /// Makes jobs of the mails that wait, until the stop.
    pub(super) async fn relay_mails(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.mails.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
            match self.relay_once().await {
                Ok(()) => {}
                Err(error) => {
                    warn!(
                        error = error.message,
                        "mails about accounts could not be added to their queue; trying again"
                    );
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    async fn relay_once(&self) -> Result<(), Error> {
        while let Some(batch) = self.store.take_mails(BATCH).await? {
            let mut added = Vec::new();
            let mut failed = None;
            for mail in &batch.mails {
                match self.add_job(mail).await {
                    Ok(()) => added.push(mail.id),
                    // Keeping it would hold up the others for ever.
                    Err(QueueError::Invalid(reason)) => {
                        error!(
                            reason,
                            "a mail about an account was dropped: its queue refuses it"
                        );
                        added.push(mail.id);
                    }
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            batch.done(&added).await?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn add_job(&self, mail: &OutgoingMail) -> Result<(), QueueError> {
        // For nobody: see `as_if_a_code_was_sent`.
        if mail.job.is_null() {
            return Ok(());
        }
        let waiting: Waiting = serde_json::from_value(mail.job.clone())
            .map_err(|error| QueueError::Invalid(error.to_string()))?;
        let id: JobId = format!("{ACCOUNT_MAIL}{}", mail.id)
            .parse()
            .map_err(|_| QueueError::Invalid("its id is none".into()))?;
        let mut job = NewJob::new(
            self.config.mail_queue.clone(),
            waiting.name,
            waiting.data.to_string(),
        );
        job.id = Some(id);
        // Without a priority it comes before jobs that have one. A code must not stay in Redis once its mail has gone out.
        job.keep_completed = Some(Keep {
            age: None,
            count: Some(0),
        });
        job.trace = Trace {
            correlation_id: waiting.correlation_id,
            platform: waiting.platform,
            traceparent: None,
        };
        self.broker.add(vec![job]).await.map(drop)
    }
}
