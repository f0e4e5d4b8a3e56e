//! Single sign-on: logins that are under way, and operators as the provider tells of them.

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::operator::OperatorRole;
use sqlx::types::Uuid;
use sqlx::{FromRow, Row};

use super::rows::COLUMNS;
use super::{
    NewOperator, OperatorRow, OperatorSource, OperatorState, TotpSalt, changed, keeps_an_owner,
};
use crate::{Store, StoreError};

/// A login that begins.
#[derive(Debug)]
pub struct NewSignIn<'a> {
    pub state_hash: [u8; 32],
    /// Of the browser that began it.
    pub browser_hash: [u8; 32],
    /// Who links a person at the provider; `None`: somebody logs in.
    pub links: Option<Uuid>,
    /// Where the browser goes afterwards, on this host.
    pub return_to: &'a str,
    pub lasts: Duration,
}

/// A login whose answer has come.
#[derive(Debug)]
pub struct SignIn {
    /// As in [`NewSignIn`].
    pub links: Option<Uuid>,
    pub return_to: String,
    pub began_at: DateTime<Utc>,
}

/// A login that waits for the code of the second factor.
pub struct WaitingSignIn {
    pub state_hash: [u8; 32],
    pub operator: OperatorRow,
    /// The second factor that was shown to somebody who has none.
    pub offered: Option<TotpSalt>,
    pub return_to: String,
}

/// What became of a person whom the provider names for the first time.
pub enum Provisioned {
    Made(Box<OperatorRow>),
    /// Somebody else has the name.
    NameTaken,
    /// The same person was made at the same time.
    Known,
}

/// A person at the provider who is linked to an operator.
#[derive(Debug, FromRow)]
pub struct IdentityRow {
    pub issuer: String,
    pub subject: String,
    pub email: Option<String>,
    pub created_at: DateTime<Utc>,
}

impl Store {
    pub async fn begin_sign_in(&self, new: &NewSignIn<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "insert into oidc_logins (state_hash, browser_hash, purpose, operator_id, return_to, ends_at) \
             values ($1, $2, case when $3::uuid is null then 'sign-in' else 'link' end, $3, $4, now() + make_interval(secs => $5))",
        )
        .bind(new.state_hash.as_slice())
        .bind(new.browser_hash.as_slice())
        .bind(new.links)
        .bind(new.return_to)
        .bind(new.lasts.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Uses a state, once. `None`: it is unknown, of another browser, used or too old; a state of
    /// another browser stays usable.
    pub async fn use_sign_in(
        &self,
        state_hash: &[u8; 32],
        browser_hash: &[u8; 32],
    ) -> Result<Option<SignIn>, StoreError> {
        let row = sqlx::query(
            "update oidc_logins set used_at = now() where state_hash = $1 and browser_hash = $2 and purpose <> 'code' \
             and used_at is null and ends_at > now() returning operator_id, return_to, created_at",
        )
        .bind(state_hash.as_slice())
        .bind(browser_hash.as_slice())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SignIn {
            links: row.try_get("operator_id")?,
            return_to: row.try_get("return_to")?,
            began_at: row.try_get("created_at")?,
        }))
    }

    /// Lets a login whose state was used wait for the code of the second factor.
    pub async fn await_code(
        &self,
        state_hash: &[u8; 32],
        operator: Uuid,
        offered: Option<&TotpSalt>,
        lasts: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update oidc_logins set purpose = 'code', operator_id = $2, totp_kid = $3, totp_salt = $4, used_at = null, \
             ends_at = now() + make_interval(secs => $5) where state_hash = $1",
        )
        .bind(state_hash.as_slice())
        .bind(operator)
        .bind(offered.map(|totp| totp.kid.as_str()))
        .bind(offered.map(|totp| totp.salt.as_slice()))
        .bind(lasts.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The login of this browser that waits for a code, of an active operator.
    pub async fn waiting_sign_in(
        &self,
        browser_hash: &[u8; 32],
    ) -> Result<Option<WaitingSignIn>, StoreError> {
        let text = format!(
            "select l.state_hash, l.totp_kid as offered_kid, l.totp_salt as offered_salt, l.return_to, {COLUMNS} from oidc_logins l \
             join operators o on o.id = l.operator_id \
             where l.browser_hash = $1 and l.purpose = 'code' and l.used_at is null and l.ends_at > now() and o.state = 'active' \
             order by l.created_at desc limit 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(browser_hash.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let state_hash: Vec<u8> = row.try_get("state_hash")?;
        let Ok(state_hash) = state_hash.try_into() else {
            return Ok(None);
        };
        Ok(Some(WaitingSignIn {
            state_hash,
            operator: OperatorRow::from_row(&row)?,
            offered: TotpSalt::of(row.try_get("offered_kid")?, row.try_get("offered_salt")?),
            return_to: row.try_get("return_to")?,
        }))
    }

    /// Ends the wait for a code. False if another request has ended it.
    pub async fn finish_sign_in(&self, state_hash: &[u8; 32]) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "update oidc_logins set used_at = now() where state_hash = $1 and purpose = 'code' and used_at is null",
        );
        let done = query
            .bind(state_hash.as_slice())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Makes an operator of single sign-on together with the link to the person at the provider.
    pub async fn provision_operator(
        &self,
        new: &NewOperator<'_>,
        issuer: &str,
        subject: &str,
    ) -> Result<Provisioned, StoreError> {
        let mut tx = self.pool.begin().await?;
        let text = format!(
            "insert into operators as o (id, name, email, role, may_see_data, source, state, created_by) values ($1, $2, $3, $4, $5, $6, $7, $8) \
             on conflict (name) do nothing returning {COLUMNS}"
        );
        let made: Option<OperatorRow> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(new.id)
            .bind(new.name)
            .bind(new.email)
            .bind(new.role.as_str())
            .bind(new.may_see_data)
            .bind(OperatorSource::Oidc.as_str())
            .bind(OperatorState::Active.as_str())
            .bind(new.by)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(made) = made else {
            return Ok(Provisioned::NameTaken);
        };
        let linked = sqlx::query(
            "insert into operator_identities (issuer, subject, operator_id, email) values ($1, $2, $3, $4) on conflict do nothing",
        )
        .bind(issuer)
        .bind(subject)
        .bind(made.id)
        .bind(new.email)
        .execute(&mut *tx)
        .await?;
        if linked.rows_affected() == 0 {
            return Ok(Provisioned::Known);
        }
        tx.commit().await?;
        Ok(Provisioned::Made(Box::new(made)))
    }

    /// Gives an operator of single sign-on what the groups at the provider say.
    pub async fn follow_groups(
        &self,
        id: Uuid,
        role: OperatorRole,
        may_see_data: bool,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "update operators set role = $2, may_see_data = $3, changed_at = now() where id = $1 and source = 'oidc'",
        )
        .bind(id)
        .bind(role.as_str())
        .bind(may_see_data)
        .execute(&mut *tx)
        .await
        .map_err(keeps_an_owner)?;
        changed(&mut tx, id).await?;
        Ok(tx.commit().await?)
    }

    /// Sets the second factor of an operator who has none. False if there is one.
    pub async fn set_first_totp(
        &self,
        id: Uuid,
        totp: &TotpSalt,
        step: i64,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "update operators set totp_kid = $2, totp_salt = $3, totp_step = $4, changed_at = now() where id = $1 and totp_kid is null",
        );
        let set = query
            .bind(id)
            .bind(&totp.kid)
            .bind(totp.salt.as_slice())
            .bind(step)
            .execute(&self.pool)
            .await?;
        Ok(set.rows_affected() > 0)
    }

    /// Whether a session is open, and began so recently with a password.
    pub async fn is_fresh_session(
        &self,
        session: Uuid,
        within: Duration,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(
            "select exists (select from operator_sessions where id = $1 and revoked_at is null and method <> 'oidc' \
             and authenticated_at > now() - make_interval(secs => $2))",
        );
        Ok(query
            .bind(session)
            .bind(within.as_secs_f64())
            .fetch_one(&self.pool)
            .await?)
    }

    /// Whether this operator has opened a session from this network before, in the last weeks. Of an
    /// IPv6 network, `network` is the address of its /64.
    pub async fn knows_operator_network(
        &self,
        operator: Uuid,
        network: IpAddr,
    ) -> Result<bool, StoreError> {
        let bits = if network.is_ipv4() { 32 } else { 64 };
        let query = sqlx::query_scalar(
            "select exists (select from operator_sessions where operator_id = $1 and address <<= $2::text::inet)",
        );
        Ok(query
            .bind(operator)
            .bind(format!("{network}/{bits}"))
            .fetch_one(&self.pool)
            .await?)
    }

    /// Whether the provider has said who this session's operator is.
    pub async fn is_session_of_provider(&self, session: Uuid) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(
            "select exists (select from operator_sessions where id = $1 and method = 'oidc')",
        );
        Ok(query.bind(session).fetch_one(&self.pool).await?)
    }

    /// The persons at providers who are linked to an operator, the first one first.
    pub async fn operator_identities(&self, id: Uuid) -> Result<Vec<IdentityRow>, StoreError> {
        let query = sqlx::query_as(
            "select issuer, subject, email, created_at from operator_identities where operator_id = $1 order by created_at, subject",
        );
        Ok(query.bind(id).fetch_all(&self.pool).await?)
    }

    /// Unlinks an operator from every person at providers, and returns how many there were.
    pub async fn unlink_identities(&self, id: Uuid) -> Result<u64, StoreError> {
        let query = sqlx::query("delete from operator_identities where operator_id = $1");
        Ok(query.bind(id).execute(&self.pool).await?.rows_affected())
    }
}
