//! Sessions of accounts, and their refresh tokens.

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Map;
use sqlx::types::Uuid;
use sqlx::{FromRow, PgConnection, Row};

use super::codes::{CodePurpose, use_codes};
use super::users::{self, UserKey, UserRow};
use super::{UsersTable, password_mark};
use crate::identity_changes::notify;
use crate::{Store, StoreError};

/// How somebody logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionMethod {
    Password,
    Otp,
    Google,
    Master,
}

impl SessionMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Otp => "otp",
            Self::Google => "google",
            Self::Master => "master",
        }
    }
}

/// A session that begins.
#[derive(Debug)]
pub struct NewSession<'a> {
    pub id: Uuid,
    pub platform: &'a str,
    pub method: SessionMethod,
    pub address: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
    pub lasts: Duration,
    /// Hash and life of its first refresh token; `None`: it cannot be refreshed.
    pub refresh: Option<([u8; 32], Duration)>,
}

/// A session, for its owner and for operators.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SessionRow {
    pub id: Uuid,
    pub user_id: String,
    pub platform: String,
    pub method: String,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    /// Address of the client.
    pub address: Option<String>,
    pub user_agent: Option<String>,
}

/// What a request with a token of this session may do now.
#[derive(Debug, Clone)]
pub struct SessionView {
    pub user: UserRow,
    pub platform: String,
    pub method: String,
    /// Neither revoked nor ended, and nothing has happened to the account that ends it.
    pub is_valid: bool,
}

/// What came of showing a refresh token.
#[derive(Debug)]
pub enum Refreshed {
    /// The next token is valid.
    Renewed {
        session: Uuid,
        user: UserRow,
    },
    /// It had been used before: its session has ended now.
    Reused {
        user: Option<UserRow>,
    },
    Invalid,
}

const COLUMNS: &str = "s.id, s.user_id, s.platform, s.method, s.created_at, s.last_seen_at, s.ends_at, host(s.address) as address, s.user_agent";

impl Store {
    /// Opens a session of an account whose password was found right, if that is still its password.
    /// `None`: the account has changed meanwhile.
    pub async fn open_session(
        &self,
        table: &UsersTable,
        user: &UserRow,
        session: &NewSession<'_>,
    ) -> Result<Option<UserRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let now = users::find(&mut tx, table, UserKey::Id(&user.id)).await?;
        let same = |now: &UserRow| {
            now.password == user.password && now.epoch == user.epoch && !now.is_blocked()
        };
        let Some(now) = now.filter(same) else {
            return Ok(None);
        };
        insert(&mut tx, &now, session).await?;
        tx.commit().await?;
        Ok(Some(now))
    }

    /// Uses a code of a signup: the account is verified, and a session begins. `password`: the hash
    /// that becomes the account's. `None` if the code was used meanwhile.
    pub async fn verify_signup(
        &self,
        table: &UsersTable,
        email_norm: &str,
        code: Uuid,
        user_id: &str,
        password: Option<&str>,
        session: &NewSession<'_>,
    ) -> Result<Option<UserRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !use_codes(&mut tx, CodePurpose::Signup, email_norm, code).await? {
            return Ok(None);
        }
        let Some(user) = users::find(&mut tx, table, UserKey::Id(user_id)).await? else {
            return Ok(None);
        };
        if user.is_blocked() {
            return Ok(None);
        }
        let mut values = Map::new();
        values.insert("isVerified".into(), "true".into());
        if !user.is_verified {
            values.insert("stage".into(), table.stage(2).into());
            if let Some(password) = password {
                values.insert("password".into(), password.into());
            }
        }
        users::change(&mut tx, table, user_id, &values).await?;
        notify(&mut tx, 'u', user_id).await?;
        let Some(user) = users::find(&mut tx, table, UserKey::Id(user_id)).await? else {
            return Ok(None);
        };
        insert(&mut tx, &user, session).await?;
        tx.commit().await?;
        Ok(Some(user))
    }

    /// Opens a session without a check of the account's state; the caller has made it.
    pub async fn open_session_of(
        &self,
        user: &UserRow,
        session: &NewSession<'_>,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        insert(&mut tx, user, session).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What a request of this session may do; `None` if there is no such session or account.
    pub async fn session_view(
        &self,
        table: &UsersTable,
        session: Uuid,
    ) -> Result<Option<SessionView>, StoreError> {
        let text = format!(
            "select s.platform as session_platform, s.method as session_method, s.password_mark, \
             (s.revoked_at is null and s.ends_at > now() and s.epoch = coalesce(p.epoch, 0)) as is_live, {} \
             from user_sessions s join {} u on u.\"id\" = {} left join people p on p.user_id = s.user_id where s.id = $1",
            table.columns(),
            table.name(),
            table.id("s.user_id"),
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(session)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let user = UserRow::from_row(&row)?;
        let mark: Vec<u8> = row.try_get("password_mark")?;
        let is_live: bool = row.try_get("is_live")?;
        let is_valid = is_live
            && mark == password_mark(user.password.as_deref())
            && user.is_verified
            && !user.is_blocked();
        Ok(Some(SessionView {
            platform: row.try_get("session_platform")?,
            method: row.try_get("session_method")?,
            is_valid,
            user,
        }))
    }

    /// Notes that the session was used, at most once a minute.
    pub async fn touch_session(&self, session: Uuid) -> Result<(), StoreError> {
        sqlx::query("update user_sessions set last_seen_at = now() where id = $1 and last_seen_at < now() - interval '1 minute'")
            .bind(session)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Shows a refresh token, and replaces it by the next. A token that was used before ends its
    /// session: somebody else may have it.
    pub async fn refresh(
        &self,
        table: &UsersTable,
        shown: &[u8; 32],
        next: &[u8; 32],
        life: Duration,
    ) -> Result<Refreshed, StoreError> {
        let mut tx = self.pool.begin().await?;
        let found: Option<(Uuid, String)> = sqlx::query_as(
            "select s.id, s.user_id from refresh_tokens t join user_sessions s on s.id = t.session_id where t.token_hash = $1 for update of s",
        )
        .bind(shown.as_slice())
        .fetch_optional(&mut *tx)
        .await?;
        let Some((session, user_id)) = found else {
            return Ok(Refreshed::Invalid);
        };
        let user = users::find(&mut tx, table, UserKey::Id(&user_id)).await?;
        // After the lock: what another request did with this token is seen here.
        let (is_spent, is_expired, generation, is_live, epoch, mark): (bool, bool, i32, bool, i32, Vec<u8>) = sqlx::query_as(
            "select t.spent_at is not null, t.expires_at <= now(), t.generation, s.revoked_at is null and s.ends_at > now(), s.epoch, s.password_mark \
             from refresh_tokens t join user_sessions s on s.id = t.session_id where t.token_hash = $1",
        )
        .bind(shown.as_slice())
        .fetch_one(&mut *tx)
        .await?;
        if is_spent {
            let ended = revoke_one(&mut tx, session, "refresh-reuse").await?;
            tx.commit().await?;
            // An ended session tells its owner once.
            return Ok(Refreshed::Reused {
                user: user.filter(|_| ended),
            });
        }
        let is_current = |user: &UserRow| {
            user.epoch == epoch
                && mark == password_mark(user.password.as_deref())
                && !user.is_blocked()
                && user.is_verified
        };
        let Some(user) = user.filter(|user| is_live && !is_expired && is_current(user)) else {
            return Ok(Refreshed::Invalid);
        };
        sqlx::query("update refresh_tokens set spent_at = now() where token_hash = $1")
            .bind(shown.as_slice())
            .execute(&mut *tx)
            .await?;
        put_token(&mut tx, session, generation + 1, next, life).await?;
        sqlx::query("update user_sessions set last_seen_at = now() where id = $1")
            .bind(session)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Refreshed::Renewed { session, user })
    }

    /// The session that a refresh token belongs to, spent or not.
    pub async fn session_of_token(
        &self,
        shown: &[u8; 32],
    ) -> Result<Option<(Uuid, String)>, StoreError> {
        let query = sqlx::query_as(
            "select s.id, s.user_id from refresh_tokens t join user_sessions s on s.id = t.session_id where t.token_hash = $1",
        );
        Ok(query
            .bind(shown.as_slice())
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Sessions of an account that have not ended, the one used last first.
    pub async fn sessions_of(&self, user_id: &str) -> Result<Vec<SessionRow>, StoreError> {
        let text = format!(
            "select {COLUMNS} from user_sessions s left join people p on p.user_id = s.user_id \
             where s.user_id = $1 and s.revoked_at is null and s.ends_at > now() and s.epoch = coalesce(p.epoch, 0) \
             order by s.last_seen_at desc, s.id limit 200"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(user_id)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Ends one session of an account. Returns whether it was open.
    pub async fn end_session(
        &self,
        user_id: &str,
        session: Uuid,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let is_own: Option<bool> =
            sqlx::query_scalar("select user_id = $2 from user_sessions where id = $1")
                .bind(session)
                .bind(user_id)
                .fetch_optional(&mut *tx)
                .await?;
        if is_own != Some(true) {
            return Ok(false);
        }
        let ended = revoke_one(&mut tx, session, reason).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Ends every session of an account, and returns how many were open.
    pub async fn end_sessions(&self, user_id: &str, reason: &str) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        let ended = raise_epoch(&mut tx, user_id, None, reason).await?;
        tx.commit().await?;
        Ok(ended)
    }
}

impl UsersTable {
    /// How this table writes a stage of the signup, 1 to 3.
    pub fn stage(&self, stage: u8) -> String {
        let names = ["SIGNUP", "OTP_VERIFIED", "PROFILE_COMPLETE"];
        let name = names[usize::from(stage.clamp(1, 3)) - 1];
        match self.spelling("stage", name) {
            // An enum of names has them.
            known if self.is_label("stage", &known) => known,
            _ => stage.to_string(),
        }
    }
}

/// Ends all sessions of an account but `except`: they were opened before this epoch.
pub(super) async fn raise_epoch(
    connection: &mut PgConnection,
    user_id: &str,
    except: Option<Uuid>,
    reason: &str,
) -> Result<u64, StoreError> {
    users::ensure(&mut *connection, user_id).await?;
    let epoch: i32 = sqlx::query_scalar(
        "update people set epoch = epoch + 1 where user_id = $1 returning epoch",
    )
    .bind(user_id)
    .fetch_one(&mut *connection)
    .await?;
    let ended = revoke_all(&mut *connection, user_id, except, reason).await?;
    if let Some(session) = except {
        sqlx::query("update user_sessions set epoch = $2 where id = $1 and revoked_at is null")
            .bind(session)
            .bind(epoch)
            .execute(&mut *connection)
            .await?;
    }
    notify(connection, 'u', user_id).await?;
    Ok(ended)
}

pub(super) async fn revoke_all(
    connection: &mut PgConnection,
    user_id: &str,
    except: Option<Uuid>,
    reason: &str,
) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "update user_sessions set revoked_at = now(), revoked_reason = $3 \
         where user_id = $1 and revoked_at is null and id is distinct from $2",
    );
    Ok(query
        .bind(user_id)
        .bind(except)
        .bind(reason)
        .execute(connection)
        .await?
        .rows_affected())
}

async fn revoke_one(
    connection: &mut PgConnection,
    session: Uuid,
    reason: &str,
) -> Result<bool, StoreError> {
    let query = sqlx::query(
        "update user_sessions set revoked_at = now(), revoked_reason = $2 where id = $1 and revoked_at is null",
    );
    let ended = query
        .bind(session)
        .bind(reason)
        .execute(&mut *connection)
        .await?
        .rows_affected()
        > 0;
    if ended {
        notify(connection, 's', &session.to_string()).await?;
    }
    Ok(ended)
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    user: &UserRow,
    session: &NewSession<'_>,
) -> Result<(), StoreError> {
    users::ensure(&mut *connection, &user.id).await?;
    sqlx::query(
        "insert into user_sessions (id, user_id, epoch, password_mark, platform, method, ends_at, address, user_agent) \
         values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $8::text::inet, $9)",
    )
    .bind(session.id)
    .bind(&user.id)
    .bind(user.epoch)
    .bind(password_mark(user.password.as_deref()).as_slice())
    .bind(session.platform)
    .bind(session.method.as_str())
    .bind(session.lasts.as_secs_f64())
    .bind(session.address.map(|address| address.to_string()))
    .bind(session.user_agent)
    .execute(&mut *connection)
    .await?;
    if let Some((hash, life)) = &session.refresh {
        put_token(connection, session.id, 1, hash, *life).await?;
    }
    Ok(())
}

/// Spends the live token of a session, and gives it another.
pub(super) async fn replace_token(
    connection: &mut PgConnection,
    session: Uuid,
    hash: &[u8; 32],
    life: Duration,
) -> Result<(), StoreError> {
    sqlx::query(
        "update refresh_tokens set spent_at = now() where session_id = $1 and spent_at is null",
    )
    .bind(session)
    .execute(&mut *connection)
    .await?;
    let last: Option<i32> =
        sqlx::query_scalar("select max(generation) from refresh_tokens where session_id = $1")
            .bind(session)
            .fetch_one(&mut *connection)
            .await?;
    put_token(connection, session, last.unwrap_or(0) + 1, hash, life).await
}

async fn put_token(
    connection: &mut PgConnection,
    session: Uuid,
    generation: i32,
    hash: &[u8; 32],
    life: Duration,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into refresh_tokens (token_hash, session_id, generation, expires_at) \
         select $1, s.id, $3, least(now() + make_interval(secs => $4), s.ends_at) from user_sessions s where s.id = $2",
    )
    .bind(hash.as_slice())
    .bind(session)
    .bind(generation)
    .bind(life.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(())
}
