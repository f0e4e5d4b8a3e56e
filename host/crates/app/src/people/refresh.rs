//! Sessions: refreshing, listing and ending them.

use std::time::Duration;

use patchbay_api::people as api;
use patchbay_store::{Refreshed, SessionRow};
use uuid::Uuid;

use super::config::REFRESH_LIFE;
use super::tokens::{refresh_token, token_hash};
use super::{
    People, PeopleParts, Principal, Visitor, invalid_token, mails, plain, unauthorized, within,
};
use crate::error::Error;
use crate::limits::Class;

/// A class behind one address.
const OF_ONE_NETWORK: Class = Class {
    name: "refresh",
    what: "requests from this network",
    count: 600,
    window: Duration::from_secs(60),
};
/// A UUID, and what a client may put around it.
const MAX_TOKEN: usize = 200;

impl People {
    /// Shows a refresh token, which is used up by that. One that was used before ends its session.
    pub async fn refresh(&self, visitor: &Visitor, token: &str) -> Result<api::Issued, Error> {
        let parts = self.parts()?;
        parts.admit(visitor).await?;
        parts.take_of_network(&OF_ONE_NETWORK, visitor).await?;
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(invalid_token());
        }
        let shown = token_hash(token);
        let _turn = parts.refreshing.take(token).await?;
        let table = parts.table().await?;
        let (next, next_hash) = refresh_token();
        let refreshed = parts.store.refresh(table, &shown, &next_hash, REFRESH_LIFE);
        match within(refreshed).await? {
            Refreshed::Renewed { session, user } => {
                parts
                    .issued("Token refreshed", &user, session, Some(next))
                    .await
            }
            Refreshed::Reused { user } => {
                if let Some(user) = user {
                    parts.noticed.logins.refresh_reused();
                    tracing::warn!(
                        user = user.id,
                        "a refresh token was used twice: its session has ended"
                    );
                    parts.user_changed(&user.id);
                    parts
                        .send(&mails::session_ended(visitor, &user.email))
                        .await?;
                }
                Err(invalid_token())
            }
            Refreshed::Invalid => Err(invalid_token()),
        }
    }

    /// Ends the session of an access token (also of one that has expired) or of a refresh token.
    pub async fn log_out(
        &self,
        visitor: &Visitor,
        access: Option<&str>,
        refresh: Option<&str>,
    ) -> Result<api::Plain, Error> {
        let parts = self.parts()?;
        let (user_id, session) = parts.session_to_end(access, refresh).await?;
        let ended = parts.store.end_session(&user_id, session, "logout");
        if within(ended).await? {
            parts.user_changed(&user_id);
            parts.note_logout(visitor, &user_id).await?;
        }
        Ok(plain("Logged out successfully"))
    }

    /// Ends every session of the account.
    pub async fn log_out_everywhere(
        &self,
        visitor: &Visitor,
        access: Option<&str>,
        refresh: Option<&str>,
    ) -> Result<api::Plain, Error> {
        let parts = self.parts()?;
        let (user_id, session) = parts.session_to_end(access, refresh).await?;
        let own = parts.store.end_session(&user_id, session, "logout-all");
        // A token of a session that has ended ends no other.
        if within(own).await? {
            within(parts.store.end_sessions(&user_id, "logout-all")).await?;
            parts.user_changed(&user_id);
            parts.note_logout(visitor, &user_id).await?;
        }
        Ok(plain("Logged out from all devices"))
    }

    /// The account's open sessions, the one used last first.
    pub async fn sessions(&self, who: &Principal) -> Result<api::Sessions, Error> {
        let parts = self.parts()?;
        let rows = within(parts.store.sessions_of(&who.user.id)).await?;
        Ok(api::Sessions {
            success: true,
            data: rows
                .into_iter()
                .map(|row| session_view(row, who.session))
                .collect(),
        })
    }

    /// Ends one session of the account.
    pub async fn end_session(
        &self,
        visitor: &Visitor,
        who: &Principal,
        session: &str,
    ) -> Result<api::Plain, Error> {
        let parts = self.parts()?;
        let unknown = || Error::not_found("Session not found");
        let session: Uuid = session.parse().map_err(|_| unknown())?;
        let ended = parts.store.end_session(&who.user.id, session, "logout");
        if !within(ended).await? {
            return Err(unknown());
        }
        parts.user_changed(&who.user.id);
        parts.note_logout(visitor, &who.user.id).await?;
        Ok(plain("Session ended"))
    }
}

impl PeopleParts {
    async fn session_to_end(
        &self,
        access: Option<&str>,
        refresh: Option<&str>,
    ) -> Result<(String, Uuid), Error> {
        if let Some(token) = access {
            let bearer = self.tokens.check(token, self.now_ms(), true).await?;
            if let Some(bearer) = bearer
                && let Some(session) = bearer.session
            {
                return Ok((bearer.user_id, session));
            }
        }
        let Some(token) = refresh.filter(|token| token.len() <= MAX_TOKEN) else {
            return Err(match access {
                Some(_) => invalid_token(),
                None => unauthorized("token-missing", "Authorization token missing"),
            });
        };
        let found = within(self.store.session_of_token(&token_hash(token))).await?;
        found
            .map(|(session, user)| (user, session))
            .ok_or_else(invalid_token)
    }

    async fn note_logout(&self, visitor: &Visitor, user_id: &str) -> Result<(), Error> {
        let table = self.table().await?;
        let key = patchbay_store::UserKey::Id(user_id);
        match within(self.store.find_user(table, key)).await? {
            Some(user) => self.note_login(visitor, &user, "logout").await.map(drop),
            None => Ok(()),
        }
    }
}

pub(super) fn session_view(row: SessionRow, current: Option<Uuid>) -> api::Session {
    api::Session {
        is_current: current == Some(row.id),
        id: row.id,
        platform: row.platform,
        method: row.method,
        created_at: row.created_at,
        last_seen_at: row.last_seen_at,
        ends_at: row.ends_at,
        address: row.address,
        user_agent: row.user_agent,
    }
}
