//! Records what operators do: who does what is written before it is done, and how it ended
//! afterwards.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures::FutureExt;
use patchbay_api::operation::{Effect, Endpoint};
use patchbay_model::job::Trace;
use patchbay_store::{NewAction, Store};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::error::Kind;
use crate::operator::{Credential, Operator};

/// Delay between tries to record the end of an action while Postgres is away.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: usize = 600;

/// Who calls a use case.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name under which actions are recorded.
    pub actor: String,
    /// What the caller may do.
    pub operator: Operator,
    pub trace: Trace,
    /// Address of the client.
    pub from: Option<IpAddr>,
    /// Why, in the caller's words.
    pub reason: Option<String>,
    pub confirmation: Confirmation,
}

/// Whether the caller has said that something may be destroyed.
#[derive(Debug, Clone)]
pub enum Confirmation {
    Given,
    Missing {
        /// What the caller must send to confirm.
        expected: String,
    },
}

impl Caller {
    /// Refuses a caller who has not confirmed. `consequence` is a clause: `removes the job`.
    pub(crate) fn confirmed(&self, consequence: &str) -> Result<(), Error> {
        let Confirmation::Missing { expected } = &self.confirmation else {
            return Ok(());
        };
        let message = format!(
            "Nothing was done. This {consequence}, which cannot be undone. To confirm, send the same request with the query \
             parameter confirm={expected}"
        );
        let details = serde_json::json!({ "confirm": expected });
        Err(Error::new(Kind::Unconfirmed, "not-confirmed", message).with_details(details))
    }

    /// The details of an action, with the reason, the token and the address of the caller. A reason
    /// that the details already have stays.
    pub(crate) fn noted(&self, mut details: Value) -> Value {
        if let Value::Object(details) = &mut details {
            let has_reason = details
                .get("reason")
                .is_some_and(|reason| !reason.is_null());
            if let (false, Some(reason)) = (has_reason, &self.reason) {
                details.insert("reason".into(), reason.as_str().into());
            }
            if let Credential::Token { name, .. } = &self.operator.credential {
                details.insert("token".into(), name.as_str().into());
            }
            if let Some(from) = self.from {
                details.insert("from".into(), from.to_string().into());
            }
        }
        details
    }
}

#[derive(Clone)]
pub struct Actions {
    store: Store,
    /// Writes that still run after their request has ended. The host waits for them before it
    /// exits.
    tasks: TaskTracker,
}

impl Actions {
    pub fn new(store: Store, tasks: TaskTracker) -> Self {
        Self { store, tasks }
    }

    /// Does `act`, and records it under the name of operation `E` with its whole result.
    pub async fn record<E: Endpoint, T: Serialize>(
        &self,
        who: &Caller,
        target: &str,
        details: Value,
        act: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let whole = |result: &T| serde_json::to_value(result).unwrap_or(Value::Null);
        self.record_as::<E, T>(who, target, details, act, whole)
            .await
    }

    /// As [`Self::record`], but records only what `to_record` takes from the result. An operation
    /// that destroys something needs the caller's confirmation.
    pub async fn record_as<E: Endpoint, T>(
        &self,
        who: &Caller,
        target: &str,
        details: Value,
        act: impl Future<Output = Result<T, Error>>,
        to_record: impl Fn(&T) -> Value,
    ) -> Result<T, Error> {
        let action = const {
            E::OPERATION
                .audit
                .expect("only what is recorded has a name to be recorded by")
        };
        if let Effect::Destroys(consequence) = E::OPERATION.effect {
            who.confirmed(consequence)?;
        }
        self.record_action(who, action, target, details, act, to_record)
            .await
    }

    /// As [`Self::record_as`], under a given action name, and without asking for a confirmation.
    pub(crate) async fn record_action<T>(
        &self,
        who: &Caller,
        action: &str,
        target: &str,
        details: Value,
        act: impl Future<Output = Result<T, Error>>,
        to_record: impl Fn(&T) -> Value,
    ) -> Result<T, Error> {
        let id = self.begin(who, action, target, details).await?;
        let result = AssertUnwindSafe(act).catch_unwind().await;
        let end = match &result {
            Ok(Ok(data)) => Ok(with_effect(action, to_record(data))),
            Ok(Err(error)) => Err(kept(error).to_owned()),
            Err(_panic) => Err("a fault of the host".to_owned()),
        };
        if let Err(error) = self.store.finish_action(id, &end).await {
            tracing::error!(error = %error, action, target, "the end of an operator's action is not recorded yet");
            // The action has happened, so the client gets its result now. Its end is recorded as
            // soon as Postgres is back.
            let store = self.store.clone();
            self.tasks.spawn(async move {
                for _ in 0..TRIES {
                    tokio::time::sleep(PAUSE).await;
                    if store.finish_action(id, &end).await.is_ok() {
                        return;
                    }
                }
            });
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Records that an action begins. The caller records its end with
    /// [`Store::finish_action`].
    pub(crate) async fn begin(
        &self,
        who: &Caller,
        action: &str,
        target: &str,
        details: Value,
    ) -> Result<i64, Error> {
        let action = NewAction {
            actor: &who.actor,
            is_host: false,
            action,
            target,
            details: &who.noted(details),
        };
        Ok(self.store.begin_action(&action).await?)
    }
}

/// The result that is recorded. Of an action that has changed nothing, `noEffect` says why, and
/// `count` is 0.
fn with_effect(action: &str, result: Value) -> Value {
    let Some(why) = no_effect(action, &result) else {
        return result;
    };
    let mut fields = match result {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.insert("count".into(), 0.into());
    fields.insert("noEffect".into(), why.into());
    Value::Object(fields)
}

/// Why an action with this result has changed nothing, as a clause without its subject.
fn no_effect(action: &str, result: &Value) -> Option<&'static str> {
    let is_given = |name: &str| !matches!(result[name], Value::Null | Value::Bool(false));
    let was_so = is_given("already");
    let is_none = result["count"] == 0 || result.as_array().is_some_and(Vec::is_empty);
    Some(match action {
        "queue.pause" if was_so => "was already paused",
        "queue.pause" if is_none => "no queue was paused",
        "queue.resume" if was_so => "was not paused",
        "queue.resume" if is_none => "no queue was resumed",
        "queue.drain" | "queue.clean" if is_none => "no job was removed",
        "queue.put-back" if is_none => "no job was put back",
        "queue.concurrency" | "queue.rate-limit" if was_so => "the limit was the same",
        "job.add" if is_given("known") => "a job with this id was there",
        "job.add-many" if is_none => "jobs with these ids were there",
        "schedule.pause" if was_so => "was already paused",
        "schedule.resume" if was_so => "was not paused",
        "breaker.open" if was_so => "was already open",
        "breaker.close" if was_so => "was already closed",
        "plugin.activate" if result["changed"] == false && !is_given("released") => {
            "was already active"
        }
        "plugin.grant" if was_so => "was already granted",
        "plugin.prune" if is_none => "no revision was old enough",
        "dead-letter.acknowledge" if was_so => "was already acknowledged",
        "dead-letter.unacknowledge" if was_so => "was not acknowledged",
        "dead-letter.assign" | "dead-letter.note" if was_so => "was the same",
        "operator.disable" | "vendor-key.disable" if was_so => "was already disabled",
        "operator.enable" | "vendor-key.enable" if was_so => "was not disabled",
        "operator.set-role" | "person.set-role" if was_so => "had this role",
        "operator.set-data" | "operator.basic" | "vendor-key.edit" if was_so => "was the same",
        "operator-token.revoke" | "vendor-key.revoke" if was_so => "was already revoked",
        "person.block" if was_so => "was already blocked",
        "person.unblock" if was_so => "was not blocked",
        "operator.end-sessions" | "person.end-sessions" if result["ended"] == 0 => {
            "no session was open"
        }
        _ => return None,
    })
}

/// The part of an error that is recorded. It is never personal.
fn kept(error: &Error) -> &str {
    if error.is_private {
        &error.code
    } else {
        &error.message
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_changed_nothing_is_recorded_with_why_and_the_count_0() {
        for (action, result, why) in [
            (
                "queue.pause",
                json!({ "count": 0, "already": { "by": "ada" } }),
                "was already paused",
            ),
            (
                "queue.pause",
                json!({ "count": 0, "unchanged": ["a"] }),
                "no queue was paused",
            ),
            ("queue.drain", json!({ "count": 0 }), "no job was removed"),
            (
                "schedule.resume",
                json!({ "id": "x", "already": true }),
                "was not paused",
            ),
            (
                "plugin.activate",
                json!({ "changed": false }),
                "was already active",
            ),
            ("plugin.prune", json!([]), "no revision was old enough"),
            (
                "operator.disable",
                json!({ "already": true }),
                "was already disabled",
            ),
            (
                "person.end-sessions",
                json!({ "ended": 0 }),
                "no session was open",
            ),
        ] {
            let recorded = with_effect(action, result);
            assert_eq!(
                (&recorded["count"], &recorded["noEffect"]),
                (&json!(0), &json!(why)),
                "{action}"
            );
        }
        // An empty queue that is removed is gone.
        for (action, result) in [
            ("queue.obliterate", json!({ "count": 0 })),
            ("queue.pause", json!({ "count": 1 })),
            ("breaker.open", json!({ "host": "x", "already": false })),
            ("job.add", json!({ "id": "1", "known": false })),
            ("job.remove", Value::Null),
            ("vendor-key.revoke", json!({ "already": false })),
            ("operator.end-sessions", json!({ "ended": 2 })),
        ] {
            assert_eq!(with_effect(action, result.clone()), result, "{action}");
        }
    }
}
