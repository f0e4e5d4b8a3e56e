//! Opening sessions, however somebody has signed in.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::audit::{ActorKind, OPERATORS};
use patchbay_store::{NewHostEntry, NewOperatorSession, OperatorMethod, OperatorRow, Store};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::new_secret;
use crate::error::Error;
use crate::people::{Visitor, within};

/// Opens sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    store: Store,
    lasts: Duration,
    idle: Duration,
}

/// A session that has begun.
pub struct OpenedSession {
    pub id: Uuid,
    /// Whoever shows it is the operator: for a cookie, never for a log.
    pub secret: Zeroizing<String>,
    pub ends_at: DateTime<Utc>,
}

impl Sessions {
    pub(super) fn new(store: Store, lasts: Duration, idle: Duration) -> Self {
        Self { store, lasts, idle }
    }

    /// A session that is not used for so long has ended.
    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    /// Opens a session of an active operator who has shown who they are, and records the login. The
    /// secret is new: one that a client brings is never taken. `None`: the operator has changed
    /// since the row was read.
    pub async fn open(
        &self,
        operator: &OperatorRow,
        method: OperatorMethod,
        visitor: &Visitor,
    ) -> Result<Option<OpenedSession>, Error> {
        let (secret, token_hash) = new_secret();
        let session = NewOperatorSession {
            id: Uuid::now_v7(),
            token_hash,
            operator: operator.id,
            method,
            lasts: self.lasts,
            address: visitor.address,
            user_agent: visitor.user_agent(),
        };
        let opened = self.store.open_operator_session(&session, operator.epoch);
        let Some(ends_at) = within(opened).await? else {
            return Ok(None);
        };
        let key = format!("{}/login", session.id);
        let entry = NewHostEntry {
            trail: OPERATORS,
            entry_key: &key,
            actor_kind: ActorKind::Operator,
            actor_id: Some(&operator.name),
            actor_name: Some(&operator.name),
            action: "operator.login",
            entity: Some(&operator.name),
            address: visitor.address,
            platform: None,
            correlation_id: visitor.trace.correlation_id.as_deref(),
            entry: &json!({ "session": session.id, "method": method.as_str() }),
        };
        within(self.store.append_entry(&entry)).await?;
        Ok(Some(OpenedSession {
            id: session.id,
            secret,
            ends_at,
        }))
    }
}
