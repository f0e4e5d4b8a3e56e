//! Tokens of programs. Each belongs to an operator, and can do no more than that operator.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::operator::OperatorRole;
use sqlx::types::Uuid;
use sqlx::{FromRow, Row};

use super::rows::COLUMNS;
use super::{OperatorRow, changed};
use crate::{Store, StoreError};

#[derive(Debug)]
pub struct NewOperatorToken<'a> {
    pub id: &'a str,
    pub secret_hash: [u8; 32],
    pub operator: Uuid,
    pub name: &'a str,
    pub role: OperatorRole,
    pub may_see_data: bool,
    pub scopes: &'a [String],
    pub networks: &'a [String],
    pub lasts: Duration,
}

/// A token, for its owner and for lists. It holds no secret.
#[derive(Debug, Clone)]
pub struct OperatorTokenRow {
    pub id: String,
    /// Name of the operator.
    pub operator: String,
    pub operator_id: Uuid,
    pub name: String,
    pub role: OperatorRole,
    pub may_see_data: bool,
    pub scopes: Vec<String>,
    pub networks: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

impl FromRow<'_, sqlx::postgres::PgRow> for OperatorTokenRow {
    fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        let role: String = row.try_get("token_role")?;
        Ok(Self {
            id: row.try_get("token_id")?,
            operator: row.try_get("name")?,
            operator_id: row.try_get("id")?,
            name: row.try_get("token_name")?,
            role: OperatorRole::parse(&role).unwrap_or(OperatorRole::Viewer),
            may_see_data: row.try_get("token_sees")?,
            scopes: row.try_get("scopes")?,
            networks: row.try_get("networks")?,
            created_at: row.try_get("token_created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

const TOKEN_COLUMNS: &str = "t.id as token_id, t.name as token_name, t.role as token_role, t.may_see_data as token_sees, t.scopes, t.networks, \
    t.created_at as token_created_at, t.expires_at, t.last_used_at, t.revoked_at";

/// A valid token with its operator, as things are now.
#[derive(Clone)]
pub struct OperatorTokenView {
    pub token: OperatorTokenRow,
    pub secret_hash: [u8; 32],
    pub operator: OperatorRow,
}

impl Store {
    /// Makes a token. Fails with `Conflict` when its operator has one of this name.
    pub async fn add_operator_token(
        &self,
        new: &NewOperatorToken<'_>,
    ) -> Result<OperatorTokenRow, StoreError> {
        let text = format!(
            "with t as (insert into operator_tokens (id, secret_hash, operator_id, name, role, may_see_data, scopes, networks, expires_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9)) \
             on conflict (operator_id, name) where revoked_at is null do nothing returning *) \
             select {TOKEN_COLUMNS}, {COLUMNS} from t join operators o on o.id = t.operator_id"
        );
        let row: Option<OperatorTokenRow> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(new.id)
            .bind(new.secret_hash.as_slice())
            .bind(new.operator)
            .bind(new.name)
            .bind(new.role.as_str())
            .bind(new.may_see_data)
            .bind(new.scopes)
            .bind(new.networks)
            .bind(new.lasts.as_secs_f64())
            .fetch_optional(&self.pool)
            .await?;
        row.ok_or_else(|| {
            StoreError::Conflict(format!(
                "You have a token {} already. Revoke it, or choose another name",
                new.name
            ))
        })
    }

    /// A token that was not revoked and has not expired, of an active operator.
    pub async fn operator_token(&self, id: &str) -> Result<Option<OperatorTokenView>, StoreError> {
        let text = format!(
            "select t.secret_hash, {TOKEN_COLUMNS}, {COLUMNS} from operator_tokens t join operators o on o.id = t.operator_id \
             where t.id = $1 and t.revoked_at is null and t.expires_at > now() and o.state = 'active'"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let hash: Vec<u8> = row.try_get("secret_hash")?;
        Ok(Some(OperatorTokenView {
            token: OperatorTokenRow::from_row(&row)?,
            secret_hash: hash.try_into().unwrap_or_default(),
            operator: OperatorRow::from_row(&row)?,
        }))
    }

    /// Tokens that can be used, by operator and name; of one operator, or of all.
    pub async fn operator_tokens(
        &self,
        operator: Option<Uuid>,
    ) -> Result<Vec<OperatorTokenRow>, StoreError> {
        let text = format!(
            "select {TOKEN_COLUMNS}, {COLUMNS} from operator_tokens t join operators o on o.id = t.operator_id \
             where ($1::uuid is null or t.operator_id = $1) and t.revoked_at is null and t.expires_at > now() order by o.name, t.name limit 1000"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(operator)
            .fetch_all(&self.pool)
            .await?)
    }

    /// A token, found by its id, that was revoked; of one operator, or of any.
    pub async fn revoked_operator_token(
        &self,
        id: &str,
        operator: Option<Uuid>,
    ) -> Result<Option<OperatorTokenRow>, StoreError> {
        let text = format!(
            "select {TOKEN_COLUMNS}, {COLUMNS} from operator_tokens t join operators o on o.id = t.operator_id \
             where t.id = $1 and ($2::uuid is null or t.operator_id = $2) and t.revoked_at is not null"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id)
            .bind(operator)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Revokes a token, found by its id or its name; of one operator, or of any. `None` if there is
    /// no such token that was not revoked.
    pub async fn revoke_operator_token(
        &self,
        id_or_name: &str,
        operator: Option<Uuid>,
        by: &str,
    ) -> Result<Option<OperatorTokenRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let text = format!(
            "with t as (update operator_tokens set revoked_at = now(), revoked_by = $3 where id = (select id from operator_tokens \
             where (id = $1 or (name = $1 and $2::uuid is not null)) and ($2::uuid is null or operator_id = $2) and revoked_at is null \
             order by id = $1 desc limit 1) returning *) \
             select {TOKEN_COLUMNS}, {COLUMNS} from t join operators o on o.id = t.operator_id"
        );
        let row: Option<OperatorTokenRow> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id_or_name)
            .bind(operator)
            .bind(by)
            .fetch_optional(&mut *tx)
            .await?;
        if let Some(row) = &row {
            changed(&mut tx, row.operator_id).await?;
        }
        tx.commit().await?;
        Ok(row)
    }

    /// Notes that the token was used, at most once a minute.
    pub async fn touch_operator_token(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query(
            "update operator_tokens set last_used_at = now() where id = $1 and (last_used_at is null or last_used_at < now() - interval '1 minute')",
        )
        .bind(id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
