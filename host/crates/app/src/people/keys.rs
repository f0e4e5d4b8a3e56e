//! Use cases of the keys that the host uses itself: listing them, and replacing the one that signs
//! access tokens.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use patchbay_api::keys::{HostKey, HostKeySource, HostKeyState, KeysReplace, KeysRotate};
use patchbay_store::{SealedKeyRow, Store};
use serde_json::json;

use super::tokens::PURPOSE;
use super::{PeopleParts, accounts_off, within};
use crate::Parts;
use crate::actions::{Actions, Caller};
use crate::error::{Error, Kind};
use crate::vault::Vault;

#[derive(Clone)]
pub struct Keys {
    store: Store,
    vault: Arc<Vault>,
    people: Option<Arc<PeopleParts>>,
    actions: Actions,
}

impl Keys {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            vault: Arc::clone(&parts.vault),
            people: parts.people.clone(),
            actions: parts.actions.clone(),
        }
    }

    /// Every key, by purposes; of each the youngest first. Never the keys themselves.
    pub async fn list(&self) -> Result<Vec<HostKey>, Error> {
        let rows = within(self.store.sealed_keys(None)).await?;
        let mut keys = Vec::new();
        for row in &rows {
            keys.push(self.key(&rows, row).await?);
        }
        let configured = self
            .people
            .as_ref()
            .map(|people| &people.config.jwt_secrets);
        let configured = configured.into_iter().flatten().enumerate();
        keys.extend(configured.map(|(place, (kid, _))| HostKey {
            kid: kid.clone(),
            purpose: PURPOSE.to_owned(),
            source: HostKeySource::Configuration,
            state: match place {
                0 => HostKeyState::Signs,
                _ => HostKeyState::Verifies,
            },
            created_at: None,
            signs_from: None,
            verifies_until: None,
            missing_on: Vec::new(),
            problem: None,
        }));
        Ok(keys)
    }

    async fn key(&self, rows: &[SealedKeyRow], row: &SealedKeyRow) -> Result<HostKey, Error> {
        let missing_on = match row.is_waiting() {
            true => within(self.store.hosts_without_token_key(&row.kid)).await?,
            false => Vec::new(),
        };
        let problem = self.vault.keys().open_host_key(row).err();
        Ok(HostKey {
            kid: row.kid.clone(),
            purpose: row.purpose.clone(),
            source: HostKeySource::Vault,
            state: state(rows, row, Utc::now()),
            created_at: Some(row.created_at),
            signs_from: Some(row.signs_from).filter(|_| !row.is_waiting()),
            verifies_until: row.verifies_until,
            missing_on,
            problem: problem.map(|problem| problem.to_string()),
        })
    }

    /// Makes a key for access tokens that signs once every running host knows it. The one before
    /// verifies until its last token has ended.
    pub async fn rotate(&self, who: &Caller) -> Result<HostKey, Error> {
        let people = self.people_with_own_keys()?;
        let act = async {
            let (kid, sealed) = people.sealed.make(PURPOSE)?;
            within(self.store.add_waiting_key(PURPOSE, &kid, &sealed)).await?;
            people.tokens.keys_changed();
            self.one(&kid).await
        };
        let kid = |key: &HostKey| json!({ "kid": key.kid });
        self.actions
            .record_as::<KeysRotate, _>(who, PURPOSE, json!({}), act, kid)
            .await
    }

    /// Makes a key for access tokens that signs at once, and ends all others: for a leak. Clients
    /// must refresh their access tokens.
    pub async fn replace(&self, who: &Caller) -> Result<HostKey, Error> {
        let people = self.people_with_own_keys()?;
        let act = async {
            let (kid, sealed) = people.sealed.make(PURPOSE)?;
            let replaced = self.store.replace_sealed_keys(PURPOSE, &kid, &sealed);
            within(replaced).await?;
            people.tokens.keys_changed();
            self.one(&kid).await
        };
        let kid = |key: &HostKey| json!({ "kid": key.kid });
        self.actions
            .record_as::<KeysReplace, _>(who, PURPOSE, json!({}), act, kid)
            .await
    }

    async fn one(&self, kid: &str) -> Result<HostKey, Error> {
        let rows = within(self.store.sealed_keys(Some(PURPOSE))).await?;
        match rows.iter().find(|row| row.kid == kid) {
            Some(row) => self.key(&rows, row).await,
            None => Err(Error::conflict(
                "The key was replaced by another one meanwhile. See: patchbay key list",
            )),
        }
    }

    fn people_with_own_keys(&self) -> Result<&Arc<PeopleParts>, Error> {
        let people = self.people.as_ref().ok_or_else(accounts_off)?;
        if !people.tokens.is_configured() {
            return Ok(people);
        }
        let message = "The keys of access tokens are configured (people.jwt_secrets, people.jwt_secret), so this host cannot replace them. \
             Append the new secret to people.jwt_secrets on every host, then move it to the front, then remove the old one 16 minutes later";
        Err(Error::new(Kind::Conflict, "keys-configured", message))
    }
}

/// Of the keys of one purpose, the youngest that may sign by now does.
fn state(rows: &[SealedKeyRow], row: &SealedKeyRow, now: DateTime<Utc>) -> HostKeyState {
    if row.is_waiting() {
        return HostKeyState::Waits;
    }
    let mut signing = rows
        .iter()
        .filter(|other| other.purpose == row.purpose && !other.is_waiting());
    let youngest = signing.find(|other| other.signs_from <= now);
    match youngest {
        Some(youngest) if youngest.kid != row.kid => HostKeyState::Verifies,
        _ => HostKeyState::Signs,
    }
}
