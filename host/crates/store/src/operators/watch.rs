//! What alerts on operators look at.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use crate::{Store, StoreError};

/// An operator who has become an owner lately.
#[derive(Debug, FromRow)]
pub struct NewOwnerRow {
    pub name: String,
    pub owner_since: DateTime<Utc>,
}

/// Changes made lately by somebody who is no operator with a name: the login of the configuration.
#[derive(Debug, FromRow)]
pub struct SharedLoginRow {
    /// The name that the login had.
    pub actor: String,
    pub changes: i64,
    pub last_at: DateTime<Utc>,
}

/// A token of a program, or a key of a vendor, that expires.
#[derive(Debug, FromRow)]
pub struct ExpiringRow {
    /// The operator whose token it is; absent for the key of a vendor.
    pub operator: Option<String>,
    /// The token's name, or the key's prefix.
    pub name: String,
    pub expires_at: DateTime<Utc>,
}

impl Store {
    /// Operators who have become owners lately and are, the newest first.
    pub async fn new_owners(&self, since: Duration) -> Result<Vec<NewOwnerRow>, StoreError> {
        let query = sqlx::query_as(
            "select name, owner_since from operators where state <> 'disabled' and owner_since > now() - make_interval(secs => $1) \
             order by owner_since desc limit 50",
        );
        Ok(query
            .bind(since.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Changes lately by the login of the configuration. None while no owner with a name has logged
    /// in: until then it is the only way in.
    pub async fn shared_login_changes(
        &self,
        since: Duration,
    ) -> Result<Vec<SharedLoginRow>, StoreError> {
        let query = sqlx::query_as(
            "select actor, count(*) as changes, max(began_at) as last_at from operator_actions a \
             where kind = 'operator' and actor not like 'user %' and began_at > now() - make_interval(secs => $1) \
             and not exists (select from operators o where o.name = a.actor) \
             and began_at > (select min(least(o.last_login_at, (select min(s.created_at) from operator_sessions s where s.operator_id = o.id))) \
             from operators o where o.role = 'owner' and o.state = 'active') \
             group by actor order by actor limit 50",
        );
        Ok(query
            .bind(since.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Tokens and keys made for at least `made_for` that end within `within`, or have ended within
    /// the last week without being replaced; the next to end first.
    pub async fn expiring(
        &self,
        made_for: Duration,
        within: Duration,
    ) -> Result<Vec<ExpiringRow>, StoreError> {
        let query = sqlx::query_as(
            "select o.name as operator, t.name, t.expires_at from operator_tokens t join operators o on o.id = t.operator_id \
             where t.revoked_at is null and o.state = 'active' and t.expires_at - t.created_at >= make_interval(secs => $1) \
             and t.expires_at between now() - interval '7 days' and now() + make_interval(secs => $2) \
             union all \
             select null, prefix, expires_at from vendor_keys \
             where state = 'active' and replaced_by is null and expires_at - created_at >= make_interval(secs => $1) \
             and expires_at between now() - interval '7 days' and now() + make_interval(secs => $2) \
             order by expires_at limit 200",
        );
        Ok(query
            .bind(made_for.as_secs_f64())
            .bind(within.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }
}
