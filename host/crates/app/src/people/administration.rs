//! What operators see and do of accounts.

use patchbay_api::answer::Page;
use patchbay_api::people::{
    self as api, PeopleBlock, PeopleEndSessions, PeopleSetRole, PeopleUnblock,
};
use patchbay_store::{UserKey, UserListing, UserRow};
use serde_json::{Map, Value, json};

use super::profile::stage_of;
use super::refresh::session_view;
use super::{People, PeopleParts, Role, within};
use crate::actions::Caller;
use crate::error::Error;
use crate::nearest::meant;

const MOST: u16 = 200;
/// Letters by which addresses are looked up for a suggestion.
const FIRST_LETTERS: usize = 3;

impl People {
    /// Accounts, sorted by id.
    pub async fn list(&self, query: api::PeopleQuery) -> Result<Page<api::Account>, Error> {
        let parts = self.parts()?;
        let most = query.limit.unwrap_or(50);
        if !(1..=MOST).contains(&most) {
            return Err(Error::invalid(format!(
                "limit: must be a whole number from 1 to {MOST}"
            )));
        }
        let role = query.role.as_deref().map(known_role).transpose()?;
        let listing = UserListing {
            text: query.text,
            role: role.map(|role| role.as_str().to_owned()),
            is_blocked: query.blocked,
            after: query.cursor,
        };
        let table = parts.table().await?;
        let listed = parts.store.list_users(table, &listing, i64::from(most) + 1);
        let mut rows = within(listed).await?;
        let goes_on = rows.len() > usize::from(most);
        rows.truncate(most.into());
        let next_cursor = rows.last().filter(|_| goes_on).map(|row| row.id.clone());
        Ok(Page {
            items: rows.iter().map(account).collect(),
            next_cursor,
            partial: false,
        })
    }

    /// One account, by its id or its address, with its open sessions.
    pub async fn show(&self, name: &str) -> Result<api::AccountDetails, Error> {
        let parts = self.parts()?;
        let user = parts.named(name).await?;
        let sessions = within(parts.store.sessions_of(&user.id)).await?;
        Ok(api::AccountDetails {
            account: account(&user),
            sessions: sessions
                .into_iter()
                .map(|row| session_view(row, None))
                .collect(),
        })
    }

    /// Blocks an account, and ends its sessions.
    pub async fn block(&self, who: &Caller, name: &str) -> Result<api::Account, Error> {
        let parts = self.parts()?;
        let user = parts.named(name).await?;
        let act = async {
            let block = Some((who.actor.as_str(), who.reason.as_deref()));
            let changed = within(parts.store.set_blocked(&user.id, block)).await?;
            parts.user_changed(&user.id);
            let user = parts.by_id(&user.id).await?;
            Ok(after(&user, changed))
        };
        parts
            .actions
            .record_as::<PeopleBlock, _>(who, &user.id, json!({}), act, recorded)
            .await
    }

    /// Lets a blocked account log in again.
    pub async fn unblock(&self, who: &Caller, name: &str) -> Result<api::Account, Error> {
        let parts = self.parts()?;
        let user = parts.named(name).await?;
        let act = async {
            let changed = within(parts.store.set_blocked(&user.id, None)).await?;
            parts.user_changed(&user.id);
            let user = parts.by_id(&user.id).await?;
            if user.is_blocked_elsewhere {
                return Err(Error::conflict(
                    "The table's own column still blocks this account. Change it there",
                ));
            }
            Ok(after(&user, changed))
        };
        parts
            .actions
            .record_as::<PeopleUnblock, _>(who, &user.id, json!({}), act, recorded)
            .await
    }

    /// Ends every session of an account.
    pub async fn end_sessions(
        &self,
        who: &Caller,
        name: &str,
    ) -> Result<api::SessionsEnded, Error> {
        let parts = self.parts()?;
        let user = parts.named(name).await?;
        let act = async {
            let ended = within(parts.store.end_sessions(&user.id, "admin")).await?;
            parts.user_changed(&user.id);
            Ok(api::SessionsEnded { ended })
        };
        parts
            .actions
            .record::<PeopleEndSessions, _>(who, &user.id, json!({}), act)
            .await
    }

    /// Gives an account another role; its next request has it.
    pub async fn set_role(
        &self,
        who: &Caller,
        name: &str,
        body: api::RoleChange,
    ) -> Result<api::Account, Error> {
        let parts = self.parts()?;
        let role = known_role(&body.role)?;
        let user = parts.named(name).await?;
        let details = json!({ "role": role.as_str(), "before": user.role });
        let table = parts.table().await?;
        let is_so = Role::parse(&user.role) == Some(role);
        let act = async {
            if !is_so {
                let mut values = Map::new();
                let spelling = table.spelling("role", role.as_str());
                values.insert("role".into(), spelling.into());
                within(parts.store.change_user(table, &user.id, &values)).await?;
                parts.user_changed(&user.id);
            }
            let user = parts.by_id(&user.id).await?;
            Ok(after(&user, !is_so))
        };
        parts
            .actions
            .record_as::<PeopleSetRole, _>(who, &user.id, details, act, recorded)
            .await
    }
}

impl PeopleParts {
    /// By id, or by address.
    async fn named(&self, name: &str) -> Result<UserRow, Error> {
        let table = self.table().await?;
        let norm = super::address::norm(name).unwrap_or_else(|| name.to_lowercase());
        let key = match name.contains('@') {
            true => UserKey::Email {
                typed: name,
                norm: &norm,
            },
            false => UserKey::Id(name),
        };
        match within(self.store.find_user(table, key)).await? {
            Some(found) => Ok(found),
            None => Err(self.unknown(name).await),
        }
    }

    /// That there is no such account, with the address that may be meant.
    async fn unknown(&self, name: &str) -> Error {
        // A typo is seldom in the first letters.
        let text: String = name.chars().take(FIRST_LETTERS).collect();
        let listing = UserListing {
            text: Some(text),
            role: None,
            is_blocked: None,
            after: None,
        };
        let alike = async {
            let table = self.table().await?;
            let listed = self.store.list_users(table, &listing, MOST.into());
            Ok::<_, Error>(within(listed).await?)
        };
        // The suggestion may fail; the answer is the same.
        let alike = match name.contains('@') {
            true => alike.await.unwrap_or_default(),
            false => Vec::new(),
        };
        let addresses = alike.iter().map(|user| user.email.as_str());
        let suggestion = meant(&name.to_lowercase(), addresses);
        let Error { message, .. } = unknown();
        Error::not_found(message.replacen(". ", &format!(".{suggestion} "), 1))
    }

    async fn by_id(&self, id: &str) -> Result<UserRow, Error> {
        let table = self.table().await?;
        let found = within(self.store.find_user(table, UserKey::Id(id))).await?;
        found.ok_or_else(unknown)
    }
}

fn unknown() -> Error {
    Error::not_found("There is no such account. Find it: patchbay user list --text PART")
}

fn known_role(text: &str) -> Result<Role, Error> {
    Role::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
        Error::invalid(format!("role: must be one of {}", names.join(", ")))
    })
}

/// The account after a change, or after one that was not needed.
fn after(user: &UserRow, changed: bool) -> api::Account {
    api::Account {
        already: !changed,
        ..account(user)
    }
}

fn recorded(account: &api::Account) -> Value {
    json!({ "already": account.already })
}

fn account(user: &UserRow) -> api::Account {
    api::Account {
        id: user.id.clone(),
        email: user.email.clone(),
        role: user.role.clone(),
        has_known_role: Role::parse(&user.role).is_some(),
        name: user.full_name.clone(),
        is_verified: user.is_verified,
        stage: stage_of(user),
        has_password: user.password.is_some(),
        is_blocked: user.is_blocked(),
        blocked_at: user.blocked_at,
        blocked_by: user.blocked_by.clone(),
        block_reason: user.block_reason.clone(),
        already: false,
    }
}
