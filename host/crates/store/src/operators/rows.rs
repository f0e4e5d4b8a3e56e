//! The rows of operators.

use chrono::{DateTime, Utc};
use patchbay_model::operator::OperatorRole;
use sqlx::types::Uuid;
use sqlx::{FromRow, Row};

use super::ending::{drop_links, revoke_sessions, revoke_tokens};
use super::{changed, keeps_an_owner};
use crate::{Store, StoreError};

/// Whether somebody may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorState {
    /// Has a link, and no password yet.
    Invited,
    Active,
    /// Cannot log in; every session and token has ended.
    Disabled,
}

impl OperatorState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Active => "active",
            Self::Disabled => "disabled",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "invited" => Self::Invited,
            _ => Self::Disabled,
        }
    }
}

/// Where an operator comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorSource {
    /// Made here; the role is given here.
    Local,
    /// Made at the first single sign-on; the role comes from groups, at each login.
    Oidc,
}

impl OperatorSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Oidc => "oidc",
        }
    }
}

/// What a one-time password's secret is derived from, together with a key of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotpSalt {
    /// The key's id.
    pub kid: String,
    pub salt: [u8; 32],
}

impl TotpSalt {
    pub(super) fn of(kid: Option<String>, salt: Option<Vec<u8>>) -> Option<Self> {
        Some(Self {
            kid: kid?,
            salt: salt?.try_into().ok()?,
        })
    }
}

#[derive(Clone)]
pub struct OperatorRow {
    pub id: Uuid,
    pub name: String,
    pub email: Option<String>,
    pub role: OperatorRole,
    pub may_see_data: bool,
    pub source: OperatorSource,
    pub password_hash: Option<String>,
    pub totp: Option<TotpSalt>,
    pub state: OperatorState,
    pub epoch: i32,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub last_login_at: Option<DateTime<Utc>>,
}

impl FromRow<'_, sqlx::postgres::PgRow> for OperatorRow {
    fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        let (role, source): (String, String) = (row.try_get("role")?, row.try_get("source")?);
        let state: String = row.try_get("state")?;
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            email: row.try_get("email")?,
            // A role of a later version has no rights here.
            role: OperatorRole::parse(&role).unwrap_or(OperatorRole::Viewer),
            may_see_data: row.try_get("may_see_data")?,
            source: match source.as_str() {
                "oidc" => OperatorSource::Oidc,
                _ => OperatorSource::Local,
            },
            password_hash: row.try_get("password_hash")?,
            totp: TotpSalt::of(row.try_get("totp_kid")?, row.try_get("totp_salt")?),
            state: OperatorState::parse(&state),
            epoch: row.try_get("epoch")?,
            created_at: row.try_get("created_at")?,
            created_by: row.try_get("created_by")?,
            last_login_at: row.try_get("last_login_at")?,
        })
    }
}

/// The columns of [`OperatorRow`], of the table `o`.
pub(super) const COLUMNS: &str = "o.id, o.name, o.email, o.role, o.may_see_data, o.source, o.password_hash, o.totp_kid, o.totp_salt, o.state, \
    o.epoch, o.created_at, o.created_by, o.last_login_at";

/// By what an operator is found.
#[derive(Debug, Clone, Copy)]
pub enum OperatorKey<'a> {
    Id(Uuid),
    Name(&'a str),
    /// At the provider of single sign-on.
    Identity {
        issuer: &'a str,
        subject: &'a str,
    },
}

#[derive(Debug)]
pub struct NewOperator<'a> {
    pub id: Uuid,
    pub name: &'a str,
    pub email: Option<&'a str>,
    pub role: OperatorRole,
    pub may_see_data: bool,
    pub source: OperatorSource,
    pub by: &'a str,
}

impl Store {
    /// Makes an operator: invited, or active one of single sign-on. Fails with `Conflict` when the
    /// name is taken.
    pub async fn add_operator(&self, new: &NewOperator<'_>) -> Result<OperatorRow, StoreError> {
        let state = match new.source {
            OperatorSource::Local => OperatorState::Invited,
            OperatorSource::Oidc => OperatorState::Active,
        };
        let text = format!(
            "insert into operators as o (id, name, email, role, may_see_data, source, state, created_by) values ($1, $2, $3, $4, $5, $6, $7, $8) \
             on conflict (name) do nothing returning {COLUMNS}"
        );
        let row: Option<OperatorRow> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(new.id)
            .bind(new.name)
            .bind(new.email)
            .bind(new.role.as_str())
            .bind(new.may_see_data)
            .bind(new.source.as_str())
            .bind(state.as_str())
            .bind(new.by)
            .fetch_optional(&self.pool)
            .await?;
        row.ok_or_else(|| {
            StoreError::Conflict(format!(
                "There is an operator {} already. Names are never used again, because they stand in audit trails: choose another one",
                new.name
            ))
        })
    }

    pub async fn find_operator(
        &self,
        key: OperatorKey<'_>,
    ) -> Result<Option<OperatorRow>, StoreError> {
        let (id, name, issuer, subject) = match key {
            OperatorKey::Id(id) => (Some(id), None, None, None),
            OperatorKey::Name(name) => (None, Some(name), None, None),
            OperatorKey::Identity { issuer, subject } => (None, None, Some(issuer), Some(subject)),
        };
        let text = format!(
            "select {COLUMNS} from operators o where o.id = $1 or o.name = $2 \
             or o.id = (select operator_id from operator_identities where issuer = $3 and subject = $4)"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id)
            .bind(name)
            .bind(issuer)
            .bind(subject)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// All of them, by name.
    pub async fn operators(&self) -> Result<Vec<OperatorRow>, StoreError> {
        let text = format!("select {COLUMNS} from operators o order by o.name");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Links a person at the provider of single sign-on to an operator. False if that person is
    /// linked already.
    pub async fn link_identity(
        &self,
        operator: Uuid,
        issuer: &str,
        subject: &str,
        email: Option<&str>,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "insert into operator_identities (issuer, subject, operator_id, email) values ($1, $2, $3, $4) on conflict do nothing",
        );
        let added = query
            .bind(issuer)
            .bind(subject)
            .bind(operator)
            .bind(email)
            .execute(&self.pool)
            .await?;
        Ok(added.rows_affected() > 0)
    }

    /// Gives an operator another role, and says whether that changed anything.
    pub async fn set_operator_role(
        &self,
        id: Uuid,
        role: OperatorRole,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let set = sqlx::query(
            "update operators set role = $2, changed_at = now() where id = $1 and role <> $2",
        )
        .bind(id)
        .bind(role.as_str())
        .execute(&mut *tx)
        .await
        .map_err(keeps_an_owner)?
        .rows_affected();
        changed(&mut tx, id).await?;
        tx.commit().await?;
        Ok(set > 0)
    }

    /// Sets whether an operator may see data of jobs, and says whether that changed anything.
    pub async fn set_operator_sees_data(&self, id: Uuid, may: bool) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let set = sqlx::query(
            "update operators set may_see_data = $2, changed_at = now() where id = $1 and may_see_data <> $2",
        )
        .bind(id)
        .bind(may)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        changed(&mut tx, id).await?;
        tx.commit().await?;
        Ok(set > 0)
    }

    /// Disables an operator: sessions, tokens and links end. Or enables one again; somebody without
    /// a password is invited then. Says whether that changed anything.
    pub async fn set_operator_enabled(&self, id: Uuid, enabled: bool) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let set = match enabled {
            true => {
                "update operators set state = case when password_hash is null and source = 'local' then 'invited' else 'active' end, \
                 changed_at = now() where id = $1 and state = 'disabled'"
            }
            false => {
                "update operators set state = 'disabled', epoch = epoch + 1, changed_at = now() where id = $1 and state <> 'disabled'"
            }
        };
        let set = sqlx::query(set)
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(keeps_an_owner)?
            .rows_affected();
        if !enabled {
            revoke_sessions(&mut tx, id).await?;
            revoke_tokens(&mut tx, id, "disabled").await?;
            drop_links(&mut tx, id).await?;
        }
        changed(&mut tx, id).await?;
        tx.commit().await?;
        Ok(set > 0)
    }

    /// Spends a step of an operator's one-time password. False if it, or a later one, was used.
    pub async fn spend_operator_step(&self, id: Uuid, step: i64) -> Result<bool, StoreError> {
        let query =
            sqlx::query("update operators set totp_step = $2 where id = $1 and totp_step < $2");
        let spent = query.bind(id).bind(step).execute(&self.pool).await?;
        Ok(spent.rows_affected() > 0)
    }

    /// Uses a recovery code. False if it is unknown or was used.
    pub async fn use_recovery_code(&self, id: Uuid, mac: &[u8; 32]) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "update operator_recovery set used_at = now() where operator_id = $1 and code_mac = $2 and used_at is null",
        );
        let used = query
            .bind(id)
            .bind(mac.as_slice())
            .execute(&self.pool)
            .await?;
        Ok(used.rows_affected() > 0)
    }

    /// Recovery codes that are left.
    pub async fn count_recovery_codes(&self, id: Uuid) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(
            "select count(*) from operator_recovery where operator_id = $1 and used_at is null",
        );
        Ok(query.bind(id).fetch_one(&self.pool).await?)
    }
}
