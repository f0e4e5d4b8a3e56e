//! Accounts that log in with Google.

use serde_json::{Map, Value};
use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::UsersTable;
use super::codes::lock_address;
use super::users::{self, UserKey, UserRow};
use crate::identity_changes::notify;
use crate::{Store, StoreError};

impl Store {
    /// Makes a verified account without a password. `None` if its address has got an account
    /// meanwhile.
    pub async fn sign_up_with_google(
        &self,
        table: &UsersTable,
        email_norm: &str,
        sub: &str,
        values: &Map<String, Value>,
    ) -> Result<Option<UserRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        lock_address(&mut tx, email_norm).await?;
        let id = Uuid::now_v7().to_string();
        if !users::create(&mut tx, table, &id, email_norm, values).await? {
            return Ok(None);
        }
        set_sub(&mut tx, &id, sub).await?;
        let user = users::find(&mut tx, table, UserKey::Id(&id)).await?;
        tx.commit().await?;
        Ok(user)
    }

    /// Links an account to Google, and verifies it. An account that was not verified loses its
    /// waiting codes and its password: a stranger may have made it. `None` if it has changed
    /// meanwhile.
    pub async fn link_google(
        &self,
        table: &UsersTable,
        user: &UserRow,
        email_norm: &str,
        sub: &str,
    ) -> Result<Option<UserRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        lock_address(&mut tx, email_norm).await?;
        let now = users::find(&mut tx, table, UserKey::Id(&user.id)).await?;
        let Some(now) = now.filter(|now| now.google_sub.is_none() && now.role == user.role) else {
            return Ok(None);
        };
        let mut values = Map::new();
        values.insert("googleId".into(), sub.into());
        if !now.is_verified {
            values.insert("isVerified".into(), "true".into());
            values.insert("stage".into(), table.stage(2).into());
            values.insert("password".into(), Value::Null);
            sqlx::query("delete from one_time_codes where email_norm = $1 and used_at is null")
                .bind(email_norm)
                .execute(&mut *tx)
                .await?;
        }
        users::change(&mut tx, table, &user.id, &values).await?;
        set_sub(&mut tx, &user.id, sub).await?;
        notify(&mut tx, 'u', &user.id).await?;
        let user = users::find(&mut tx, table, UserKey::Id(&user.id)).await?;
        tx.commit().await?;
        Ok(user)
    }
}

async fn set_sub(connection: &mut PgConnection, id: &str, sub: &str) -> Result<(), StoreError> {
    users::ensure(&mut *connection, id).await?;
    sqlx::query("update people set google_sub = $2 where user_id = $1")
        .bind(id)
        .bind(sub)
        .execute(connection)
        .await?;
    Ok(())
}
