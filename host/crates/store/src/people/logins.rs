//! The record of logins: entries of the audit trail `login_logs`.

use std::net::IpAddr;
use std::time::Duration;

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

/// See [`Store::emergency_logins`].
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EmergencyLoginRow {
    pub entry_key: String,
    pub is_failure: bool,
    /// The account; absent where it failed.
    pub actor_id: Option<String>,
    pub address: Option<String>,
}

impl Store {
    /// Returns the key of the entry.
    pub async fn note_login(&self, login: &NewLogin<'_>) -> Result<String, StoreError> {
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
        self.append_entry(&entry).await?;
        Ok(key)
    }

    /// Uses of the emergency login and tries that failed, of the last minutes, the newest first.
    pub async fn emergency_logins(
        &self,
        since: Duration,
    ) -> Result<Vec<EmergencyLoginRow>, StoreError> {
        let query = sqlx::query_as(
            "select entry_key, action = 'master_login_failed' as is_failure, actor_id, host(address) as address from audit_entries \
             where trail = 'login_logs' and action in ('master_login', 'master_login_failed') and origin = 'live' \
             and at > now() - make_interval(secs => $1) order by id desc limit 50",
        );
        Ok(query
            .bind(since.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Sessions that ended lately because a refresh token was shown twice.
    pub async fn refresh_reuses(&self, since: Duration) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(
            "select count(*) from user_sessions where revoked_reason = 'refresh-reuse' and revoked_at > now() - make_interval(secs => $1)",
        );
        Ok(query
            .bind(since.as_secs_f64())
            .fetch_one(&self.pool)
            .await?)
    }

    /// Open sessions of accounts, and of operators.
    pub async fn open_sessions(&self) -> Result<(i64, i64), StoreError> {
        let query = sqlx::query_as(
            "select (select count(*) from user_sessions where revoked_at is null and ends_at > now()), \
             (select count(*) from operator_sessions where revoked_at is null and ends_at > now())",
        );
        Ok(query.fetch_one(&self.pool).await?)
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
