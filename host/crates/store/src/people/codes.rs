//! One-time codes: of a signup, and to set a new password.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::types::Uuid;
use sqlx::{Connection, PgConnection};

use super::users::{self, UserKey};
use super::{UsersTable, mails};
use crate::{Store, StoreError};

/// Wrong codes of one network for one address.
const MAX_TRIES: i32 = 5;
/// Of all networks for one address. A network that asked for a code keeps its own [`MAX_TRIES`].
const MAX_TRIES_IN_ALL: i64 = 25;
/// Codes of one purpose that are valid at once for an address.
const MAX_LIVE: i64 = 3;
/// Whose codes lead nowhere.
const NOBODY: &str = "";

/// What a code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodePurpose {
    Signup,
    Reset,
}

impl CodePurpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signup => "signup",
            Self::Reset => "reset",
        }
    }
}

/// A code that is sent.
#[derive(Debug)]
pub struct NewCode<'a> {
    pub purpose: CodePurpose,
    pub email_norm: &'a str,
    pub code_mac: [u8; 32],
    /// Of a signup.
    pub password_hash: Option<&'a str>,
    /// Who asked for it.
    pub network: &'a str,
    pub browser_hash: Option<[u8; 32]>,
    pub valid_for: Duration,
    pub replaces: Replaces,
}

/// Which earlier codes a new one takes the place of.
#[derive(Debug, Clone, Copy)]
pub enum Replaces {
    /// All that this network has asked for.
    OfNetwork,
    /// This one, or none.
    Only(Option<Uuid>),
}

/// A signup.
#[derive(Debug)]
pub struct NewSignup<'a> {
    pub code: NewCode<'a>,
    /// The codes of this address that the caller knows.
    pub known: &'a [Uuid],
    /// Columns of a new account, by the old backend's names.
    pub values: &'a Map<String, Value>,
    /// The mail with the code, and the one for an account that is verified already.
    pub mail: &'a Value,
    pub mail_if_verified: &'a Value,
}

/// A code that may be typed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct CodeRow {
    pub id: Uuid,
    pub user_id: String,
    pub code_mac: Vec<u8>,
    pub password_hash: Option<String>,
    pub network: String,
    pub browser_hash: Option<Vec<u8>>,
    pub expires_at: DateTime<Utc>,
    pub is_expired: bool,
}

impl Store {
    /// Makes an unverified account unless there is one, with a code; for a verified account, only
    /// the mail. The mail waits in the outbox. False, and nothing is done: there is a code that the
    /// caller does not know.
    pub async fn sign_up(
        &self,
        table: &UsersTable,
        signup: &NewSignup<'_>,
    ) -> Result<bool, StoreError> {
        let norm = signup.code.email_norm;
        let key = UserKey::Email { typed: norm, norm };
        let mut tx = self.pool.begin().await?;
        lock_address(&mut tx, norm).await?;
        let is_overtaken: bool = sqlx::query_scalar(
            "select exists (select from one_time_codes where purpose = $1 and email_norm = $2 and used_at is null \
             and user_id <> $3 and id <> all($4))",
        )
        .bind(signup.code.purpose.as_str())
        .bind(norm)
        .bind(NOBODY)
        .bind(signup.known)
        .fetch_one(&mut *tx)
        .await?;
        if is_overtaken {
            return Ok(false);
        }
        let known = users::find(&mut tx, table, key).await?;
        // The time must not tell which addresses have accounts: the same statements run for each,
        // and what is not wanted is undone.
        let mut inner = tx.begin().await?;
        let id = Uuid::now_v7().to_string();
        users::create(&mut inner, table, &id, norm, signup.values).await?;
        match known {
            None => inner.commit().await?,
            Some(_) => inner.rollback().await?,
        }
        let user = users::find(&mut tx, table, key).await?;
        let Some(user) = user else {
            return Err(StoreError::Conflict(
                "The account could not be made: the table of accounts has a rule that refuses it"
                    .into(),
            ));
        };
        let mut inner = tx.begin().await?;
        put_code(&mut inner, &signup.code, &user.id).await?;
        let mail = if user.is_verified {
            inner.rollback().await?;
            signup.mail_if_verified
        } else {
            inner.commit().await?;
            signup.mail
        };
        mails::put(&mut tx, Uuid::now_v7(), mail).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// A code for an account that exists, with its mail in the outbox.
    pub async fn send_code(
        &self,
        code: &NewCode<'_>,
        user_id: &str,
        mail: &Value,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        lock_address(&mut tx, code.email_norm).await?;
        put_code(&mut tx, code, user_id).await?;
        mails::put(&mut tx, Uuid::now_v7(), mail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Does the work of [`Store::send_code`] for an address without an account: the time must not
    /// tell that there is none. The code is nobody's, and the mail is dropped.
    pub async fn as_if_a_code_was_sent(&self, code: &NewCode<'_>) -> Result<(), StoreError> {
        self.send_code(code, NOBODY, &Value::Null).await
    }

    /// Counts a try, before the code is looked at, and says whether it is one too many.
    pub async fn count_code_try(
        &self,
        purpose: CodePurpose,
        email_norm: &str,
        network: &str,
        window: Duration,
    ) -> Result<bool, StoreError> {
        let (own, all, asked): (i32, i64, bool) = sqlx::query_as(
            "with counted as (insert into one_time_code_tries as t (purpose, email_norm, network, tries, ends_at) \
             values ($1, $2, $3, 1, now() + make_interval(secs => $4)) \
             on conflict (purpose, email_norm, network) do update set \
             tries = case when t.ends_at < now() then 1 else t.tries + 1 end, \
             ends_at = case when t.ends_at < now() then excluded.ends_at else t.ends_at end returning tries) \
             select (select tries from counted), \
             (select coalesce(sum(tries), 0) from one_time_code_tries where purpose = $1 and email_norm = $2 and ends_at >= now()), \
             exists (select from one_time_codes where purpose = $1 and email_norm = $2 and network = $3 and expires_at > now())",
        )
        .bind(purpose.as_str())
        .bind(email_norm)
        .bind(network)
        .bind(window.as_secs_f64())
        .fetch_one(&self.pool)
        .await?;
        Ok(own > MAX_TRIES || (all >= MAX_TRIES_IN_ALL && !asked))
    }

    /// Codes that were not used, the oldest first; those of the last hour that have ended, too.
    pub async fn codes(
        &self,
        purpose: CodePurpose,
        email_norm: &str,
    ) -> Result<Vec<CodeRow>, StoreError> {
        let query = sqlx::query_as(
            "select id, user_id, code_mac, password_hash, network, browser_hash, expires_at, expires_at <= now() as is_expired \
             from one_time_codes where purpose = $1 and email_norm = $2 and used_at is null and user_id <> $3 \
             order by id",
        );
        Ok(query
            .bind(purpose.as_str())
            .bind(email_norm)
            .bind(NOBODY)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Deletes what has ended: codes an hour after their end, tries, sessions and their tokens a
    /// day after theirs, mails never.
    pub async fn sweep_people(&self) -> Result<u64, StoreError> {
        let mut swept = 0;
        for statement in [
            "delete from one_time_codes where expires_at < now() - interval '1 hour'",
            "delete from one_time_code_tries where ends_at < now()",
            "delete from user_sessions where ends_at < now() - interval '1 day'",
        ] {
            swept += sqlx::query(statement)
                .execute(&self.pool)
                .await?
                .rows_affected();
        }
        Ok(swept)
    }
}

/// Marks every live code of the address as used, and says whether `id` was among them.
pub(super) async fn use_codes(
    connection: &mut PgConnection,
    purpose: CodePurpose,
    email_norm: &str,
    id: Uuid,
) -> Result<bool, StoreError> {
    let used: Vec<Uuid> = sqlx::query_scalar(
        "update one_time_codes set used_at = now(), password_hash = null \
         where purpose = $1 and email_norm = $2 and used_at is null and expires_at > now() returning id",
    )
    .bind(purpose.as_str())
    .bind(email_norm)
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query("delete from one_time_code_tries where purpose = $1 and email_norm = $2")
        .bind(purpose.as_str())
        .bind(email_norm)
        .execute(connection)
        .await?;
    Ok(used.contains(&id))
}

/// Until the end of the transaction, nobody else makes an account or a code for this address.
pub(super) async fn lock_address(
    connection: &mut PgConnection,
    email_norm: &str,
) -> Result<(), StoreError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('patchbay address ' || $1, 0))")
        .bind(email_norm)
        .execute(connection)
        .await?;
    Ok(())
}

async fn put_code(
    connection: &mut PgConnection,
    code: &NewCode<'_>,
    user_id: &str,
) -> Result<(), StoreError> {
    let (network, one) = match code.replaces {
        Replaces::OfNetwork => (Some(code.network), None),
        Replaces::Only(one) => (None, one),
    };
    sqlx::query(
        "delete from one_time_codes where purpose = $1 and email_norm = $2 and used_at is null and (network = $3 or id = $4)",
    )
    .bind(code.purpose.as_str())
    .bind(code.email_norm)
    .bind(network)
    .bind(one)
    .execute(&mut *connection)
    .await?;
    // The oldest beyond the limit end, and stay known: a password of one of several signups does not
    // count where nothing tells which signup was the owner's.
    sqlx::query(
        "update one_time_codes set expires_at = now() where id in \
         (select id from one_time_codes where purpose = $1 and email_norm = $2 and used_at is null and expires_at > now() \
          order by created_at desc offset $3)",
    )
    .bind(code.purpose.as_str())
    .bind(code.email_norm)
    .bind(MAX_LIVE - 1)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "insert into one_time_codes (id, purpose, email_norm, user_id, code_mac, password_hash, network, browser_hash, expires_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9))",
    )
    .bind(Uuid::now_v7())
    .bind(code.purpose.as_str())
    .bind(code.email_norm)
    .bind(user_id)
    .bind(code.code_mac.as_slice())
    .bind(code.password_hash)
    .bind(code.network)
    .bind(code.browser_hash.as_ref().map(<[u8; 32]>::as_slice))
    .bind(code.valid_for.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(())
}
