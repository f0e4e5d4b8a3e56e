//! The verdict on a request: the host's check, then the plugin's. The same for one that arrives, one
//! that was deferred, and one that an operator has judged again.

use std::sync::Arc;
use std::time::Instant;

use patchbay_model::job::{NewJob, Trace};
use patchbay_model::webhook::{EventReply, Rejected, WebhookRequest};
use patchbay_queue::QueueError;
use patchbay_store::EventKey;

use super::InboxParts;
use super::check::{self, Checked};
use super::event::{self, Content};
use crate::error::Error;
use crate::plugins::{Runner, Verification, Webhook};

/// What is said of a request.
pub(super) enum Judged {
    Accepted(Box<AcceptedEvent>),
    Rejected(Rejected),
    /// Nothing could be said. `is_counted`: the plugin was asked in vain.
    Unjudged {
        code: &'static str,
        message: String,
        is_counted: bool,
    },
}

/// On what occasion a request is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It has just come.
    Arriving,
    /// It is kept; for which processing of the event, 0 for the first.
    Again(u32),
}

impl Asked {
    fn processing(self) -> u32 {
        match self {
            Self::Arriving => 0,
            Self::Again(processing) => processing,
        }
    }
}

pub(super) struct AcceptedEvent {
    pub key: EventKey,
    pub event_id: Option<String>,
    pub kind: String,
    pub jobs: Vec<NewJob>,
    pub reply: Option<EventReply>,
}

impl InboxParts {
    /// Whether the request passes the host's own check.
    pub(super) fn check(&self, webhook: &Webhook, request: &WebhookRequest) -> Checked {
        check::check(
            webhook.spec.check_of(&request.method),
            &webhook.plugin,
            &*self.secrets,
            &self.plugins.granted(&webhook.plugin),
            request,
        )
    }

    /// Asks the plugin, after the host's check. Fails only without Postgres, where the key of events is
    /// not known yet.
    pub(super) async fn judge(
        &self,
        webhook: &Webhook,
        content: &Content,
        checked: Checked,
        asked: Asked,
        trace: &Trace,
    ) -> Result<Judged, Error> {
        match checked {
            Checked::Passed => {}
            Checked::Refused(code) => {
                return Ok(Judged::Rejected(Rejected {
                    status: 401,
                    code: code.into(),
                    message: check::meaning(code).into(),
                }));
            }
            Checked::NoSecret(message) => {
                return Ok(Judged::Unjudged {
                    code: "secret-missing",
                    message,
                    is_counted: false,
                });
            }
        }
        let revision = match &webhook.runner {
            Runner::Revision(revision) => Arc::clone(revision),
            Runner::Quarantined(since) => {
                return Ok(Judged::Unjudged {
                    code: "quarantined",
                    message: format!("{} has been quarantined since {since}", webhook.plugin),
                    is_counted: false,
                });
            }
            Runner::Deactivated(since) => {
                return Ok(Judged::Unjudged {
                    code: "deactivated",
                    message: format!("{} has been deactivated since {since}", webhook.plugin),
                    is_counted: false,
                });
            }
            Runner::NotLoaded(reason) => {
                return Ok(Judged::Unjudged {
                    code: "not-loaded",
                    message: format!("{} does not run on this host: {reason}", webhook.plugin),
                    is_counted: false,
                });
            }
        };
        // Also without the token of a check that the webhook had when the request came.
        let stripped = check::stripped(webhook.spec.check.as_ref(), &content.request);
        let stripped = check::stripped(content.hides.check.as_ref(), &stripped);
        let began = Instant::now();
        let verified = self
            .plugins
            .verify(&revision, stripped.clone(), trace.clone())
            .await;
        self.verify_times.observe(webhook, began.elapsed());
        let method = &content.request.method;
        // A request counts once: a plugin that was released would otherwise be stopped again by those that
        // wait since it was quarantined.
        if asked == Asked::Arriving && webhook.spec.check_of(method).is_some() {
            self.plugins
                .note_verification(&revision, &webhook.spec.queue, trace, &verified);
        }
        let accepted = match verified {
            Verification::Accepted(accepted) => accepted,
            Verification::Rejected(rejected) => return Ok(Judged::Rejected(rejected)),
            Verification::Unjudged(unjudged) => {
                return Ok(Judged::Unjudged {
                    code: unjudged.code,
                    message: unjudged.message,
                    // Neither is the plugin's fault.
                    is_counted: !["secret-missing", "verify-failed"].contains(&unjudged.code),
                });
            }
        };
        let keys = self.event_keys().await?;
        let key = event::event_key(&keys, webhook, &stripped, accepted.event_id.as_deref());
        let made = match webhook.spec.is_handshake(method) {
            true => Vec::new(),
            false => accepted.jobs,
        };
        let jobs = event::jobs(&webhook.spec, &key, asked.processing(), made, trace);
        if let Err(QueueError::Invalid(reason)) = self.broker.check(&jobs) {
            return Ok(Judged::Unjudged {
                code: "verify-invalid",
                message: format!("The queue refuses a job of the event: {reason}"),
                is_counted: true,
            });
        }
        Ok(Judged::Accepted(Box::new(AcceptedEvent {
            key,
            event_id: accepted.event_id,
            kind: accepted.kind,
            jobs,
            reply: accepted.reply,
        })))
    }

    /// The key of an event with an id that the plugin has named.
    pub(super) async fn key_of_id(
        &self,
        plugin: &str,
        webhook: &str,
        id: &str,
    ) -> Result<EventKey, Error> {
        let keys = self.event_keys().await?;
        Ok(event::key_of_id(&keys, plugin, webhook, id))
    }

    /// Asks Postgres once.
    pub(super) async fn event_keys(&self) -> Result<patchbay_store::EventKeys, Error> {
        let keys = self.event_keys.get_or_try_init(|| self.store.event_keys());
        Ok(keys.await?.clone())
    }
}
