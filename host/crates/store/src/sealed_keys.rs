//! Keys that the host uses itself, sealed by the vault's master key. This crate only moves
//! ciphertext.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::{SealedSecret, Store, StoreError};

/// Advisory lock of a first key: hosts that start together make one.
const FIRST_KEY_LOCK: i64 = 0x7061_7463_6b65_7973;

/// A key for one purpose.
#[derive(Clone)]
pub struct SealedKeyRow {
    pub purpose: String,
    /// Unique within its purpose; it tells nothing of the key.
    pub kid: String,
    pub sealed: SealedSecret,
    /// From then on it signs, until a younger one does.
    pub signs_from: DateTime<Utc>,
    /// Absent: for ever.
    pub verifies_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

fn sealed_key(row: PgRow) -> Result<SealedKeyRow, StoreError> {
    Ok(SealedKeyRow {
        purpose: row.try_get("purpose")?,
        kid: row.try_get("kid")?,
        sealed: SealedSecret {
            key_id: row.try_get("key_id")?,
            nonce: row.try_get("nonce")?,
            ciphertext: row.try_get("sealed")?,
        },
        signs_from: row.try_get("signs_from")?,
        verifies_until: row.try_get("verifies_until")?,
        created_at: row.try_get("created_at")?,
    })
}

impl Store {
    /// Of one purpose or of all; of each purpose the one first that signs last.
    pub async fn sealed_keys(
        &self,
        purpose: Option<&str>,
    ) -> Result<Vec<SealedKeyRow>, StoreError> {
        let query = sqlx::query(
            "select purpose, kid, nonce, sealed, key_id, signs_from, verifies_until, created_at from sealed_keys \
             where $1::text is null or purpose = $1 order by purpose, signs_from desc, kid",
        )
        .bind(purpose);
        query
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(sealed_key)
            .collect()
    }

    /// Stores a key, unless its purpose has one already. Returns whether it was stored.
    pub async fn add_first_sealed_key(
        &self,
        purpose: &str,
        kid: &str,
        sealed: &SealedSecret,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(FIRST_KEY_LOCK)
            .execute(&mut *tx)
            .await?;
        let query = sqlx::query(
            "insert into sealed_keys (purpose, kid, nonce, sealed, key_id) select $1, $2, $3, $4, $5 \
             where not exists (select from sealed_keys where purpose = $1)",
        )
        .bind(purpose)
        .bind(kid)
        .bind(&sealed.nonce)
        .bind(&sealed.ciphertext)
        .bind(&sealed.key_id);
        let added = query.execute(&mut *tx).await?.rows_affected() > 0;
        tx.commit().await?;
        Ok(added)
    }

    /// Stores one more key of a purpose, for a rotation.
    pub async fn add_sealed_key(
        &self,
        purpose: &str,
        kid: &str,
        sealed: &SealedSecret,
        signs_from: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into sealed_keys (purpose, kid, nonce, sealed, key_id, signs_from) values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(purpose)
        .bind(kid)
        .bind(&sealed.nonce)
        .bind(&sealed.ciphertext)
        .bind(&sealed.key_id)
        .bind(signs_from);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Replaces the seal of a key; the key stays the same.
    pub async fn reseal_sealed_key(
        &self,
        purpose: &str,
        kid: &str,
        sealed: &SealedSecret,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update sealed_keys set key_id = $3, nonce = $4, sealed = $5 where purpose = $1 and kid = $2",
        )
        .bind(purpose)
        .bind(kid)
        .bind(&sealed.key_id)
        .bind(&sealed.nonce)
        .bind(&sealed.ciphertext);
        query.execute(&self.pool).await?;
        Ok(())
    }
}
