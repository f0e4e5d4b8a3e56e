//! Whether the login of the configuration still opens the API.

use sqlx::Row;

use crate::identity_changes::notify;
use crate::{Store, StoreError};

/// What became of a wish to let the login of the configuration open more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasicSet {
    Changed,
    /// It opened that already.
    Same,
    /// Nobody could undo it.
    Refused,
}

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

    /// Sets what the login of the configuration opens. Refused if it should open less while no active owner with a second factor has ever signed in (`needs_totp`), or
    /// none at all.
    pub async fn set_basic_mode(
        &self,
        mode: BasicMode,
        by: &str,
        needs_totp: bool,
    ) -> Result<BasicSet, StoreError> {
        let mut tx = self.pool.begin().await?;
        let set: Option<bool> = sqlx::query_scalar(
            "with before as (select mode from operator_basic for update) \
             update operator_basic set mode = $1, changed_at = case when before.mode = $1 then changed_at else now() end, \
             changed_by = case when before.mode = $1 then changed_by else $2 end from before where $1 = 'on' or exists \
             (select from operators where role = 'owner' and state = 'active' and last_login_at is not null \
             and (totp_kid is not null or source = 'oidc' or not $3)) returning before.mode = $1",
        )
        .bind(mode.as_str())
        .bind(by)
        .bind(needs_totp)
        .fetch_optional(&mut *tx)
        .await?;
        notify(&mut tx, '*', "basic").await?;
        tx.commit().await?;
        Ok(match set {
            Some(true) => BasicSet::Same,
            Some(false) => BasicSet::Changed,
            None => BasicSet::Refused,
        })
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
