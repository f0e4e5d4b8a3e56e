//! Keys that seal the history's bodies; they are stored sealed. Only the host opens them.

use chrono::{DateTime, Utc};
use sqlx::Row;

use crate::{SealedSecret, Store, StoreError};

#[derive(Clone)]
pub struct HistoryKeyRow {
    pub id: String,
    pub sealed: SealedSecret,
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// Newest first.
    pub async fn history_keys(&self) -> Result<Vec<HistoryKeyRow>, StoreError> {
        let query = sqlx::query(
            "select id, key_id, nonce, ciphertext, created_at from history_keys order by created_at desc, id",
        );
        let rows = query.fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| {
                let sealed = SealedSecret {
                    key_id: row.try_get("key_id")?,
                    nonce: row.try_get("nonce")?,
                    ciphertext: row.try_get("ciphertext")?,
                };
                Ok(HistoryKeyRow {
                    id: row.try_get("id")?,
                    sealed,
                    created_at: row.try_get("created_at")?,
                })
            })
            .collect()
    }

    pub async fn add_history_key(&self, id: &str, sealed: &SealedSecret) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into history_keys (id, key_id, nonce, ciphertext) values ($1, $2, $3, $4)",
        );
        let query = query
            .bind(id)
            .bind(&sealed.key_id)
            .bind(&sealed.nonce)
            .bind(&sealed.ciphertext);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Seals a key again, with another master key.
    pub async fn reseal_history_key(
        &self,
        id: &str,
        sealed: &SealedSecret,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update history_keys set key_id = $2, nonce = $3, ciphertext = $4 where id = $1",
        );
        let query = query
            .bind(id)
            .bind(&sealed.key_id)
            .bind(&sealed.nonce)
            .bind(&sealed.ciphertext);
        query.execute(&self.pool).await?;
        Ok(())
    }
}
