//! Whether the login of the configuration still opens the API.

use sqlx::Row;

use crate::identity_changes::notify;
use crate::{Store, StoreError};

/// What the login of the configuration opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasicMode {
    /// Everything, as an owner.
    On,
    /// Only Bull Board and metrics.
    Board,
    /// Nothing.
    Off,
}

impl BasicMode {
    pub const ALL: [Self; 3] = [Self::On, Self::Board, Self::Off];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Board => "board",
            Self::Off => "off",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

impl Store {
    pub async fn basic_mode(&self) -> Result<BasicMode, StoreError> {
        let mode: Option<String> = sqlx::query_scalar("select mode from operator_basic")
            .fetch_optional(&self.pool)
            .await?;
        Ok(mode
            .as_deref()
            .and_then(BasicMode::parse)
            .unwrap_or(BasicMode::On))
    }

    /// Sets what the login of the configuration opens. False, and nothing is changed, if it should
    /// open less while no active owner with a second factor has ever signed in (`needs_totp`), or
    /// none at all.
    pub async fn set_basic_mode(
        &self,
        mode: BasicMode,
        by: &str,
        needs_totp: bool,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let set = sqlx::query(
            "update operator_basic set mode = $1, changed_at = now(), changed_by = $2 where $1 = 'on' or exists \
             (select from operators where role = 'owner' and state = 'active' and last_login_at is not null \
             and (totp_kid is not null or source = 'oidc' or not $3))",
        )
        .bind(mode.as_str())
        .bind(by)
        .bind(needs_totp)
        .execute(&mut *tx)
        .await?
        .rows_affected()
            > 0;
        notify(&mut tx, '*', "basic").await?;
        tx.commit().await?;
        Ok(set)
    }

    /// Active owners, and how many of them have signed in.
    pub async fn count_owners(&self) -> Result<(i64, i64), StoreError> {
        let row = sqlx::query(
            "select count(*) as owners, count(*) filter (where last_login_at is not null) as seen \
             from operators where role = 'owner' and state = 'active'",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((row.try_get("owners")?, row.try_get("seen")?))
    }
}
