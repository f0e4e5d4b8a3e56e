//! The record of logins: entries of the audit trail `login_logs`.

use std::net::IpAddr;

use patchbay_model::audit::{ActorKind, LOGIN_LOGS};
use serde_json::json;
use sqlx::types::Uuid;

use crate::audit::NewHostEntry;
use crate::{Store, StoreError};

/// A login or a logout.
#[derive(Debug)]
pub struct NewLogin<'a> {
    /// Absent where nobody was found.
    pub user_id: Option<&'a str>,
    pub email: &'a str,
    /// `login`, `logout`, `master_login` or `master_login_failed`.
    pub action: &'a str,
    pub address: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
    pub platform: Option<&'a str>,
    pub correlation_id: Option<&'a str>,
}

impl Store {
    pub async fn note_login(&self, login: &NewLogin<'_>) -> Result<(), StoreError> {
        let key = Uuid::now_v7().to_string();
        let entry = NewHostEntry {
            trail: LOGIN_LOGS,
            entry_key: &key,
            actor_kind: ActorKind::User,
            actor_id: login.user_id,
            actor_name: Some(login.email),
            action: login.action,
            entity: login.user_id,
            address: login.address,
            platform: login.platform,
            correlation_id: login.correlation_id,
            entry: &json!({ "userAgent": login.user_agent }),
        };
        self.append_entry(&entry).await.map(drop)
    }

    /// Marks a step of the emergency login's one-time password as used. False if it was used.
    pub async fn spend_master_step(&self, step: i64) -> Result<bool, StoreError> {
        let spent =
            sqlx::query("insert into spent_master_steps (step) values ($1) on conflict do nothing")
                .bind(step)
                .execute(&self.pool)
                .await?
                .rows_affected()
                > 0;
        sqlx::query("delete from spent_master_steps where spent_at < now() - interval '1 hour'")
            .execute(&self.pool)
            .await?;
        Ok(spent)
    }
}
