//! Changing the hash of a password, and what that ends.

use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::types::Uuid;

use super::codes::{CodePurpose, use_codes};
use super::sessions::{raise_epoch, replace_token};
use super::users::{self, UserKey, UserRow};
use super::{UsersTable, mails, password_mark};
use crate::{Store, StoreError};

impl Store {
    /// Replaces the hash of an account, and ends its sessions; `session` goes on with another
    /// refresh token. `None` if the hash has changed meanwhile. The mail to the owner waits in the
    /// outbox.
    pub async fn change_password(
        &self,
        table: &UsersTable,
        user: &UserRow,
        hash: &str,
        session: Uuid,
        next_refresh: ([u8; 32], Duration),
        mail: &Value,
    ) -> Result<Option<UserRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let now = users::find(&mut tx, table, UserKey::Id(&user.id)).await?;
        if now.is_none_or(|now| now.password != user.password) {
            return Ok(None);
        }
        let changed = set(&mut tx, table, &user.id, hash, Some(session)).await?;
        let (token, life) = next_refresh;
        replace_token(&mut tx, session, &token, life).await?;
        mails::put(&mut tx, Uuid::now_v7(), mail).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Sets the password of an account by a code. `None` if the code was used meanwhile.
    pub async fn reset_password(
        &self,
        table: &UsersTable,
        email_norm: &str,
        code: Uuid,
        user_id: &str,
        hash: &str,
        mail: &Value,
    ) -> Result<Option<UserRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !use_codes(&mut tx, CodePurpose::Reset, email_norm, code).await? {
            return Ok(None);
        }
        // Whoever can read the account's mail has proven what a signup asks for.
        let mut values = Map::new();
        values.insert("isVerified".into(), "true".into());
        users::change(&mut tx, table, user_id, &values).await?;
        let changed = set(&mut tx, table, user_id, hash, None).await?;
        mails::put(&mut tx, Uuid::now_v7(), mail).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Replaces the hash of the same password by a better one. Sessions go on. Does nothing if the
    /// hash is not `old` any more.
    pub async fn upgrade_hash(
        &self,
        table: &UsersTable,
        user_id: &str,
        old: &str,
        new: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let text = format!(
            "update {} set \"password\" = $3 where \"id\" = {} and \"password\"::text = $2",
            table.name(),
            table.id("$1")
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(user_id)
            .bind(old)
            .bind(new)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() > 0 {
            sqlx::query("update user_sessions set password_mark = $3 where user_id = $1 and password_mark = $2")
                .bind(user_id)
                .bind(password_mark(Some(old)).as_slice())
                .bind(password_mark(Some(new)).as_slice())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

async fn set(
    connection: &mut sqlx::PgConnection,
    table: &UsersTable,
    user_id: &str,
    hash: &str,
    except: Option<Uuid>,
) -> Result<Option<UserRow>, StoreError> {
    let mut values = Map::new();
    values.insert("password".into(), hash.into());
    users::change(&mut *connection, table, user_id, &values).await?;
    users::ensure(&mut *connection, user_id).await?;
    sqlx::query("update people set password_changed_at = now() where user_id = $1")
        .bind(user_id)
        .execute(&mut *connection)
        .await?;
    raise_epoch(&mut *connection, user_id, except, "password").await?;
    if let Some(session) = except {
        sqlx::query("update user_sessions set password_mark = $2 where id = $1")
            .bind(session)
            .bind(password_mark(Some(hash)).as_slice())
            .execute(&mut *connection)
            .await?;
    }
    users::find(connection, table, UserKey::Id(user_id)).await
}
