//! The record of logins: entries of the audit trail `login_logs`, and rows of the old backend's table
//! of that name where it is there.

use std::net::IpAddr;

use serde_json::json;
use sqlx::types::Uuid;

use crate::{Store, StoreError};

/// A login or a logout.
#[derive(Debug)]
pub struct NewLogin<'a> {
    /// Empty where nobody was found.
    pub user_id: &'a str,
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
        let address = login.address.map(|address| address.to_string());
        sqlx::query(
            "insert into audit_entries (trail, entry_key, actor_kind, actor_id, actor_name, action, entity, address, platform, correlation_id, entry) \
             values ('login_logs', $1, 'user', nullif($2, ''), $3, $4, nullif($2, ''), $5::text::inet, $6, $7, $8)",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(login.user_id)
        .bind(login.email)
        .bind(login.action)
        .bind(address)
        .bind(login.platform)
        .bind(login.correlation_id)
        .bind(json!({ "userAgent": login.user_agent }))
        .execute(&self.pool)
        .await?;
        Ok(())
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
