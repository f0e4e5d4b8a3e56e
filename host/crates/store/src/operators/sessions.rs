//! Sessions of operators.

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Uuid;
use sqlx::{FromRow, Row};

use super::ending::revoke_sessions;
use super::rows::COLUMNS;
use super::{OperatorRow, changed};
use crate::{Store, StoreError};

/// How somebody has signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorMethod {
    Password,
    /// Password, and a recovery code in place of the second factor.
    RecoveryCode,
    Oidc,
}

impl OperatorMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::RecoveryCode => "recovery-code",
            Self::Oidc => "oidc",
        }
    }
}

/// A session that begins.
#[derive(Debug)]
pub struct NewOperatorSession<'a> {
    pub id: Uuid,
    pub token_hash: [u8; 32],
    pub operator: Uuid,
    pub method: OperatorMethod,
    pub lasts: Duration,
    pub address: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// An open session.
#[derive(Debug, Clone, FromRow)]
pub struct OperatorSessionRow {
    pub id: Uuid,
    pub method: String,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    /// Address of the client.
    pub address: Option<String>,
    pub user_agent: Option<String>,
}

/// Whose session it is, and until when, as things are now.
#[derive(Clone)]
pub struct OperatorSessionView {
    pub id: Uuid,
    pub operator: OperatorRow,
    pub ends_at: DateTime<Utc>,
}

impl Store {
    /// Opens a session of an active operator whose epoch is still this one, and returns its end.
    /// `None`: the operator has changed meanwhile.
    pub async fn open_operator_session(
        &self,
        session: &NewOperatorSession<'_>,
        epoch: i32,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let ends_at: Option<DateTime<Utc>> = sqlx::query_scalar(
            "insert into operator_sessions (token_hash, id, operator_id, epoch, method, ends_at, address, user_agent) \
             select $1, $2, o.id, o.epoch, $4, now() + make_interval(secs => $5), $6::text::inet, $7 from operators o \
             where o.id = $3 and o.state = 'active' and o.epoch = $8 returning ends_at",
        )
        .bind(session.token_hash.as_slice())
        .bind(session.id)
        .bind(session.operator)
        .bind(session.method.as_str())
        .bind(session.lasts.as_secs_f64())
        .bind(session.address.map(|address| address.to_string()))
        .bind(session.user_agent)
        .bind(epoch)
        .fetch_optional(&mut *tx)
        .await?;
        if ends_at.is_some() {
            sqlx::query("update operators set last_login_at = now() where id = $1")
                .bind(session.operator)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(ends_at)
    }

    /// Whose open session this is; `None` if it has ended, was idle for too long, or never was.
    pub async fn operator_session(
        &self,
        token_hash: &[u8; 32],
        idle: Duration,
    ) -> Result<Option<OperatorSessionView>, StoreError> {
        let text = format!(
            "select s.id as session_id, s.ends_at as session_ends_at, {COLUMNS} from operator_sessions s join operators o on o.id = s.operator_id \
             where s.token_hash = $1 and s.revoked_at is null and s.ends_at > now() and s.last_seen_at > now() - make_interval(secs => $2) \
             and s.epoch = o.epoch and o.state = 'active'"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(token_hash.as_slice())
            .bind(idle.as_secs_f64())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(OperatorSessionView {
            id: row.try_get("session_id")?,
            ends_at: row.try_get("session_ends_at")?,
            operator: OperatorRow::from_row(&row)?,
        }))
    }

    /// Notes that the session was used, at most twice a minute.
    pub async fn touch_operator_session(&self, session: Uuid) -> Result<(), StoreError> {
        sqlx::query(
            "update operator_sessions set last_seen_at = now() where id = $1 and last_seen_at < now() - interval '30 seconds'",
        )
        .bind(session)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Open sessions of an operator, the one used last first.
    pub async fn operator_sessions(
        &self,
        operator: Uuid,
        idle: Duration,
    ) -> Result<Vec<OperatorSessionRow>, StoreError> {
        let query = sqlx::query_as(
            "select s.id, s.method, s.created_at, s.last_seen_at, s.ends_at, host(s.address) as address, s.user_agent from operator_sessions s \
             join operators o on o.id = s.operator_id where s.operator_id = $1 and s.revoked_at is null and s.ends_at > now() \
             and s.last_seen_at > now() - make_interval(secs => $2) and s.epoch = o.epoch order by s.last_seen_at desc, s.id limit 200",
        );
        Ok(query
            .bind(operator)
            .bind(idle.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Ends one session of an operator.
    pub async fn end_operator_session(
        &self,
        operator: Uuid,
        session: Uuid,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "update operator_sessions set revoked_at = now() where id = $1 and operator_id = $2 and revoked_at is null",
        )
        .bind(session)
        .bind(operator)
        .execute(&mut *tx)
        .await?;
        changed(&mut tx, operator).await?;
        Ok(tx.commit().await?)
    }

    /// Ends every session of an operator, and returns how many were open.
    pub async fn end_operator_sessions(&self, operator: Uuid) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("update operators set epoch = epoch + 1 where id = $1")
            .bind(operator)
            .execute(&mut *tx)
            .await?;
        let ended = revoke_sessions(&mut tx, operator).await?;
        changed(&mut tx, operator).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Deletes sessions, links and logins that ended long ago.
    pub async fn sweep_operators(&self) -> Result<(), StoreError> {
        for statement in [
            "delete from operator_sessions where ends_at < now() - interval '30 days'",
            "delete from operator_links where ends_at < now() - interval '30 days'",
            "delete from oidc_logins where ends_at < now() - interval '1 hour'",
        ] {
            sqlx::query(statement).execute(&self.pool).await?;
        }
        Ok(())
    }
}
