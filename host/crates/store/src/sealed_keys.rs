//! Keys that the host uses itself, sealed by the vault's master key. This crate only moves
//! ciphertext.

use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use crate::identity_changes::notify;
use crate::leader::Leadership;
use crate::{SealedSecret, Store, StoreError};

/// Advisory lock of a first key: hosts that start together make one.
const FIRST_KEY_LOCK: i64 = 0x7061_7463_6b65_7973;
/// Of all changes of the keys of a purpose.
const CHANGE_LOCK: i64 = 0x7061_7463_6b65_7974;
/// From when a key signs that waits until every host knows it. Hosts of earlier versions read it as
/// a time to come.
const WAITING_YEAR: i32 = 9_999;
const NOT_YET: &str = "9999-01-01T00:00:00Z";

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

impl SealedKeyRow {
    /// It does not sign yet: some host may not know it.
    pub fn is_waiting(&self) -> bool {
        self.signs_from.year() >= WAITING_YEAR
    }
}

/// What there is to do for the keys of a purpose.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct KeyWork {
    /// A key that waits until every host knows it.
    pub waiting: Option<String>,
    /// The key that signs is too old.
    pub is_due: bool,
    /// A key verifies nothing any more.
    pub has_ended: bool,
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

/// Replacing the key of a purpose.
impl Store {
    /// Stores a key that does not sign yet. A conflict if one waits already.
    pub async fn add_waiting_key(
        &self,
        purpose: &str,
        kid: &str,
        sealed: &SealedSecret,
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        add_waiting(&mut connection, purpose, kid, sealed).await
    }

    /// Stores a key that signs at once, and removes every other one of its purpose. Returns those.
    pub async fn replace_sealed_keys(
        &self,
        purpose: &str,
        kid: &str,
        sealed: &SealedSecret,
    ) -> Result<Vec<String>, StoreError> {
        let mut tx = self.pool.begin().await?;
        lock(&mut tx).await?;
        let query = sqlx::query_scalar("delete from sealed_keys where purpose = $1 returning kid");
        let ended = query.bind(purpose).fetch_all(&mut *tx).await?;
        let query = sqlx::query(
            "insert into sealed_keys (purpose, kid, nonce, sealed, key_id) values ($1, $2, $3, $4, $5)",
        );
        query
            .bind(purpose)
            .bind(kid)
            .bind(&sealed.nonce)
            .bind(&sealed.ciphertext)
            .bind(&sealed.key_id)
            .execute(&mut *tx)
            .await?;
        notify(&mut tx, 'k', purpose).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// What there is to do; a key that has signed for `longest` is due.
    pub async fn key_work(&self, purpose: &str, longest: Duration) -> Result<KeyWork, StoreError> {
        let query = sqlx::query_as(
            "select (select kid from sealed_keys where purpose = $1 and signs_from >= $2::text::timestamptz limit 1), \
             coalesce((select max(signs_from) <= now() - make_interval(secs => $3) from sealed_keys \
                       where purpose = $1 and signs_from < $2::text::timestamptz), false), \
             exists (select from sealed_keys where purpose = $1 and verifies_until <= now())",
        );
        let (waiting, is_due, has_ended) = query
            .bind(purpose)
            .bind(NOT_YET)
            .bind(longest.as_secs_f64())
            .fetch_one(&self.pool)
            .await?;
        Ok(KeyWork {
            waiting,
            is_due,
            has_ended,
        })
    }
}

impl Leadership<'_> {
    /// As [`Store::add_waiting_key`].
    pub async fn add_waiting_key(
        &mut self,
        purpose: &str,
        kid: &str,
        sealed: &SealedSecret,
    ) -> Result<(), StoreError> {
        add_waiting(self.0, purpose, kid, sealed).await
    }

    /// Lets a key sign that has waited; the others of its purpose verify for `keep` more. False if
    /// it is gone.
    pub async fn let_key_sign(
        &mut self,
        purpose: &str,
        kid: &str,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        let mut tx = self.0.begin().await?;
        lock(&mut tx).await?;
        let query = sqlx::query(
            "update sealed_keys set signs_from = now() where purpose = $1 and kid = $2 and signs_from >= $3::text::timestamptz",
        );
        let signs = query
            .bind(purpose)
            .bind(kid)
            .bind(NOT_YET)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if signs == 0 {
            return Ok(false);
        }
        let query = sqlx::query(
            "update sealed_keys set verifies_until = now() + make_interval(secs => $3) where purpose = $1 and kid <> $2 and verifies_until is null",
        );
        query
            .bind(purpose)
            .bind(kid)
            .bind(keep.as_secs_f64())
            .execute(&mut *tx)
            .await?;
        notify(&mut tx, 'k', purpose).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Removes keys that verify nothing any more, and returns them.
    pub async fn forget_ended_keys(&mut self, purpose: &str) -> Result<Vec<String>, StoreError> {
        let mut tx = self.0.begin().await?;
        lock(&mut tx).await?;
        let query = sqlx::query_scalar(
            "delete from sealed_keys where purpose = $1 and verifies_until <= now() returning kid",
        );
        let ended = query.bind(purpose).fetch_all(&mut *tx).await?;
        notify(&mut tx, 'k', purpose).await?;
        tx.commit().await?;
        Ok(ended)
    }
}

async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(CHANGE_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

async fn add_waiting(
    connection: &mut PgConnection,
    purpose: &str,
    kid: &str,
    sealed: &SealedSecret,
) -> Result<(), StoreError> {
    let mut tx = connection.begin().await?;
    lock(&mut tx).await?;
    let query = sqlx::query_scalar(
        "select kid from sealed_keys where purpose = $1 and signs_from >= $2::text::timestamptz limit 1",
    );
    let waiting: Option<String> = query
        .bind(purpose)
        .bind(NOT_YET)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(waiting) = waiting {
        return Err(StoreError::Conflict(format!(
            "A rotation is under way: key {waiting} waits until every host knows it. See: patchbay key list"
        )));
    }
    let query = sqlx::query(
        "insert into sealed_keys (purpose, kid, nonce, sealed, key_id, signs_from) values ($1, $2, $3, $4, $5, $6::text::timestamptz)",
    );
    query
        .bind(purpose)
        .bind(kid)
        .bind(&sealed.nonce)
        .bind(&sealed.ciphertext)
        .bind(&sealed.key_id)
        .bind(NOT_YET)
        .execute(&mut *tx)
        .await?;
    notify(&mut tx, 'k', purpose).await?;
    tx.commit().await?;
    Ok(())
}
