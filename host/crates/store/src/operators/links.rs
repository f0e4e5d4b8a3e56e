//! Links with which somebody sets password and second factor.

use std::time::Duration;

use sqlx::types::Uuid;
use sqlx::{FromRow, Row};

use super::ending::{drop_links, revoke_sessions, revoke_tokens};
use super::rows::COLUMNS;
use super::{OperatorRow, TotpSalt, changed};
use crate::{Store, StoreError};

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkPurpose {
    /// The first password.
    Enrol,
    /// Another password, and another second factor.
    Reset,
}

impl LinkPurpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrol => "enrol",
            Self::Reset => "reset",
        }
    }
}

#[derive(Debug)]
pub struct NewLink {
    pub token_hash: [u8; 32],
    pub operator: Uuid,
    pub purpose: LinkPurpose,
    pub lasts: Duration,
}

/// A link that can be used.
pub struct EnrolLink {
    pub operator: OperatorRow,
    pub purpose: LinkPurpose,
    /// The second factor that it was shown with.
    pub totp: Option<TotpSalt>,
}

/// What a link sets.
pub struct Enrolment<'a> {
    pub token_hash: &'a [u8; 32],
    pub password_hash: &'a str,
    /// The confirmed second factor, and the step of the code that confirmed it; `None`: without one.
    pub totp: Option<(&'a TotpSalt, i64)>,
    pub recovery_macs: &'a [[u8; 32]],
}

impl Store {
    /// Makes a link; the ones before it end.
    pub async fn add_operator_link(&self, link: &NewLink) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        drop_links(&mut tx, link.operator).await?;
        sqlx::query(
            "insert into operator_links (token_hash, operator_id, purpose, ends_at) values ($1, $2, $3, now() + make_interval(secs => $4))",
        )
        .bind(link.token_hash.as_slice())
        .bind(link.operator)
        .bind(link.purpose.as_str())
        .bind(link.lasts.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// A link that was not used and has not ended, of somebody who is not disabled.
    pub async fn operator_link(
        &self,
        token_hash: &[u8; 32],
    ) -> Result<Option<EnrolLink>, StoreError> {
        let text = format!(
            "select l.purpose, l.totp_kid as link_kid, l.totp_salt as link_salt, {COLUMNS} from operator_links l \
             join operators o on o.id = l.operator_id \
             where l.token_hash = $1 and l.used_at is null and l.ends_at > now() and o.state <> 'disabled'"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(token_hash.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let purpose: String = row.try_get("purpose")?;
        Ok(Some(EnrolLink {
            operator: OperatorRow::from_row(&row)?,
            purpose: match purpose.as_str() {
                "reset" => LinkPurpose::Reset,
                _ => LinkPurpose::Enrol,
            },
            totp: TotpSalt::of(row.try_get("link_kid")?, row.try_get("link_salt")?),
        }))
    }

    /// Notes the second factor that a link is shown with, unless it was shown with one before.
    pub async fn offer_totp(
        &self,
        token_hash: &[u8; 32],
        totp: &TotpSalt,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update operator_links set totp_kid = $2, totp_salt = $3 where token_hash = $1 and totp_kid is null",
        )
        .bind(token_hash.as_slice())
        .bind(&totp.kid)
        .bind(totp.salt.as_slice())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Uses a link: password, second factor and recovery codes are set, the operator is active, and
    /// what was open before ends. `None` if the link was used meanwhile.
    pub async fn enrol_operator(
        &self,
        enrolment: &Enrolment<'_>,
    ) -> Result<Option<OperatorRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let used: Option<Uuid> = sqlx::query_scalar(
            "update operator_links set used_at = now() where token_hash = $1 and used_at is null and ends_at > now() returning operator_id",
        )
        .bind(enrolment.token_hash.as_slice())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(id) = used else { return Ok(None) };
        let totp = enrolment.totp;
        let text = format!(
            "update operators o set password_hash = $2, totp_kid = $3, totp_salt = $4, totp_step = $5, state = 'active', epoch = o.epoch + 1, \
             changed_at = now() where o.id = $1 and o.state <> 'disabled' returning {COLUMNS}"
        );
        let row: Option<OperatorRow> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id)
            .bind(enrolment.password_hash)
            .bind(totp.map(|(totp, _)| totp.kid.as_str()))
            .bind(totp.map(|(totp, _)| totp.salt.as_slice()))
            .bind(totp.map_or(0, |(_, step)| step))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        sqlx::query("delete from operator_recovery where operator_id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        let macs: Vec<Vec<u8>> = enrolment
            .recovery_macs
            .iter()
            .map(|mac| mac.to_vec())
            .collect();
        sqlx::query(
            "insert into operator_recovery (operator_id, code_mac) select $1, unnest($2::bytea[])",
        )
        .bind(id)
        .bind(macs)
        .execute(&mut *tx)
        .await?;
        revoke_sessions(&mut tx, id).await?;
        changed(&mut tx, id).await?;
        tx.commit().await?;
        Ok(Some(row))
    }

    /// For somebody who is locked out: everything that is open ends, a disabled operator is enabled,
    /// and a link is made. `None` if there is no such operator.
    pub async fn recover_operator(
        &self,
        name: &str,
        token_hash: &[u8; 32],
        lasts: Duration,
    ) -> Result<Option<OperatorRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let text = format!(
            "update operators o set state = case when o.state = 'disabled' then case when o.password_hash is null then 'invited' else 'active' end \
             else o.state end, epoch = o.epoch + 1, changed_at = now() where o.name = $1 returning {COLUMNS}"
        );
        let row: Option<OperatorRow> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(name)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        revoke_sessions(&mut tx, row.id).await?;
        revoke_tokens(&mut tx, row.id, "recover").await?;
        drop_links(&mut tx, row.id).await?;
        sqlx::query(
            "insert into operator_links (token_hash, operator_id, purpose, ends_at) values ($1, $2, 'reset', now() + make_interval(secs => $3))",
        )
        .bind(token_hash.as_slice())
        .bind(row.id)
        .bind(lasts.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        changed(&mut tx, row.id).await?;
        tx.commit().await?;
        Ok(Some(row))
    }
}
