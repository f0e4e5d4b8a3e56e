//! Who a request comes from, as things are now.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use patchbay_model::operator::Scope;
use patchbay_store::{IdentityChange, OperatorSessionView, OperatorTokenView};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::tokens::parts_of_token;
use super::{Credential, Operator, OperatorParts, Operators};
use crate::error::Error;
use crate::identity_changes::Follower;
use crate::people::tokens::token_hash;
use crate::people::within;
use crate::remembered::{Remembered, Touched};

/// Longest secret of a session, in bytes.
const MAX_SECRET: usize = 128;

/// What this process remembers.
#[derive(Default)]
pub(super) struct Identities {
    sessions: Remembered<[u8; 32], OperatorSessionView>,
    tokens: Remembered<String, OperatorTokenView>,
    touched_sessions: Touched<Uuid>,
    touched_tokens: Touched<String>,
}

impl Operators {
    /// Whose session this is. `None`: nobody's, or it has ended.
    pub async fn of_session(&self, secret: &str) -> Result<Option<Operator>, Error> {
        if secret.is_empty() || secret.len() > MAX_SECRET {
            return Ok(None);
        }
        let parts = &*self.0;
        let hash = token_hash(secret);
        let Some(view) = parts.session_view(hash).await? else {
            return Ok(None);
        };
        // What is remembered may have ended meanwhile.
        if view.ends_at.timestamp_millis() <= parts.now_ms() {
            return Ok(None);
        }
        if parts.identities.touched_sessions.is_due(view.id) {
            let (store, session) = (parts.store.clone(), view.id);
            tokio::spawn(async move { store.touch_operator_session(session).await.ok() });
        }
        let row = &view.operator;
        Ok(Some(Operator {
            name: row.name.as_str().into(),
            id: Some(row.id),
            credential: Credential::Session(view.id),
            role: row.role,
            may_see_data: row.may_see_data,
        }))
    }

    /// Whose token this is. A token can do no more than its operator can now.
    pub async fn of_token(
        &self,
        text: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<Operator>, Error> {
        let Some((id, secret)) = parts_of_token(text) else {
            return Ok(None);
        };
        let parts = &*self.0;
        let Some(view) = parts.token_view(id).await? else {
            return Ok(None);
        };
        let is_right: bool = token_hash(secret).ct_eq(&view.secret_hash).into();
        let token = &view.token;
        let is_near = token.networks.is_empty()
            || address.is_some_and(|address| {
                let read = |text: &String| text.parse::<IpNet>().ok();
                let mut networks = token.networks.iter().filter_map(read);
                networks.any(|network| network.contains(&address.to_canonical()))
            });
        let is_over = token.expires_at.timestamp_millis() <= parts.now_ms();
        if !is_right || !is_near || is_over {
            return Ok(None);
        }
        if parts.identities.touched_tokens.is_due(token.id.clone()) {
            let (store, id) = (parts.store.clone(), token.id.clone());
            tokio::spawn(async move { store.touch_operator_token(&id).await.ok() });
        }
        let row = &view.operator;
        let scopes = token.scopes.iter();
        Ok(Some(Operator {
            name: row.name.as_str().into(),
            id: Some(row.id),
            credential: Credential::Token {
                id: token.id.clone(),
                name: token.name.clone(),
                // A scope of a later version opens nothing here.
                scopes: scopes.filter_map(|text| Scope::parse(text)).collect(),
            },
            role: row.role.min(token.role),
            may_see_data: row.may_see_data && token.may_see_data,
        }))
    }
}

impl OperatorParts {
    async fn session_view(
        &self,
        hash: [u8; 32],
    ) -> Result<Option<Arc<OperatorSessionView>>, Error> {
        let remembered = &self.identities.sessions;
        if let Some(known) = remembered.get(&hash) {
            return Ok(Some(known));
        }
        let drops = remembered.drops();
        let read = self.store.operator_session(&hash, self.sessions.idle());
        let view = within(read).await?.map(Arc::new);
        if let Some(view) = &view {
            remembered.put(hash, view, drops);
        }
        Ok(view)
    }

    async fn token_view(&self, id: &str) -> Result<Option<Arc<OperatorTokenView>>, Error> {
        let remembered = &self.identities.tokens;
        let key = id.to_owned();
        if let Some(known) = remembered.get(&key) {
            return Ok(Some(known));
        }
        let drops = remembered.drops();
        let view = within(self.store.operator_token(id)).await?.map(Arc::new);
        if let Some(view) = &view {
            remembered.put(key, view, drops);
        }
        Ok(view)
    }

    /// This process has changed an operator itself: its own next request must see it.
    pub(super) fn changed(&self, operator: Uuid) {
        let identities = &self.identities;
        identities
            .sessions
            .drop_those(|_, view| view.operator.id == operator);
        identities
            .tokens
            .drop_those(|_, view| view.operator.id == operator);
    }
}

impl Follower for OperatorParts {
    fn set_hears(&self, hears: bool) {
        self.identities.sessions.set_hears(hears);
        self.identities.tokens.set_hears(hears);
        if hears {
            self.basic.reread();
        }
    }

    fn changed(&self, change: &IdentityChange) {
        match change {
            IdentityChange::Operator(id) => {
                if let Ok(id) = id.parse() {
                    Self::changed(self, id);
                }
            }
            IdentityChange::All => {
                self.identities.sessions.drop_those(|_, _| true);
                self.identities.tokens.drop_those(|_, _| true);
                self.basic.reread();
            }
            _ => {}
        }
    }
}
