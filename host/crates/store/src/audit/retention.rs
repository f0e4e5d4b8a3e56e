//! What may be deleted of a trail: nothing, unless an operator has said how long it is kept.

use chrono::{DateTime, Utc};
use patchbay_model::audit::{ActorKind, OPERATORS};
use serde_json::json;
use sqlx::Executor;

use super::{NewHostEntry, append_host_entry};
use crate::{Store, StoreError};

/// Entries that one expiry deletes at most, so that it is not too long a transaction.
const MOST_BATCHES: i64 = 10_000;

/// A trail whose entries are not kept for ever.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RetainedTrail {
    pub trail: String,
    pub keep_days: i32,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

/// That entries were deleted, and by whose decision.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ExpiryRow {
    pub trail: String,
    /// Entries up to this id …
    pub up_to: i64,
    /// … in batches that were sealed before this.
    pub before: DateTime<Utc>,
    pub count: i64,
    pub by: String,
    pub at: DateTime<Utc>,
    /// Whether the trail of operators tells of it.
    pub is_recorded: bool,
}

/// The result of an expiry.
#[derive(Debug, Clone)]
pub struct Expired {
    /// Entries that were deleted.
    pub count: i64,
    pub before: DateTime<Utc>,
    /// Whether there is more to delete: repeat it.
    pub more: bool,
}

impl Store {
    pub async fn audit_retention(&self) -> Result<Vec<RetainedTrail>, StoreError> {
        let query = sqlx::query_as(
            "select trail, keep_days, changed_at, changed_by from audit_retention order by trail",
        );
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// Nothing is deleted by this.
    pub async fn set_audit_retention(
        &self,
        trail: &str,
        keep_days: i32,
        actor: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into audit_retention (trail, keep_days, changed_by) values ($1, $2, $3) \
             on conflict (trail) do update set keep_days = $2, changed_at = now(), changed_by = $3",
        );
        query
            .bind(trail)
            .bind(keep_days)
            .bind(actor)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The trail is kept for ever again.
    pub async fn reset_audit_retention(&self, trail: &str) -> Result<(), StoreError> {
        sqlx::query("delete from audit_retention where trail = $1")
            .bind(trail)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Deletes the entries of batches that are older than the trail is kept. The batches stay. In
    /// one transaction: the expiry, an entry in the trail of operators, the deletion, and the right
    /// to delete, which is taken back.
    pub async fn expire_audit(
        &self,
        trail: &str,
        actor: &str,
        reason: Option<&str>,
    ) -> Result<Expired, StoreError> {
        let mut tx = self.pool.begin().await?;
        tx.execute("set local statement_timeout = '10min'").await?;
        let before: Option<DateTime<Utc>> = sqlx::query_scalar(
            "select now() - make_interval(days => keep_days) from audit_retention where trail = $1",
        )
        .bind(trail)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(before) = before else {
            return Err(StoreError::Conflict(format!(
                "Trail {trail} is kept for ever. To delete old entries, first say how long it is kept: patchbay audit retention set {trail} --days N"
            )));
        };
        let (up_to, count): (Option<i64>, i64) = sqlx::query_as(
            "select max(e.id), count(*) from (select ids from audit_batches where trail = $1 and sealed_at < $2 \
               and exists (select from audit_entries e where e.id = audit_batches.ids[1]) order by epoch, n limit $3) b \
             cross join lateral unnest(b.ids) as i (id) join audit_entries e on e.id = i.id and e.trail = $1",
        )
        .bind(trail)
        .bind(before)
        .bind(MOST_BATCHES)
        .fetch_one(&mut *tx)
        .await?;
        let Some(up_to) = up_to else {
            return Ok(Expired {
                count: 0,
                before,
                more: false,
            });
        };
        sqlx::query(
            "insert into audit_expiries (trail, up_to, before, count, by, reason) values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(trail)
        .bind(up_to)
        .bind(before)
        .bind(count)
        .bind(actor)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
        let key = format!("expired/{trail}/{up_to}/{}", before.timestamp_micros());
        let told = json!({ "trail": trail, "upTo": up_to, "before": before, "count": count });
        let entry = NewHostEntry {
            trail: OPERATORS,
            entry_key: &key,
            actor_kind: ActorKind::of_actor(actor),
            actor_id: Some(actor),
            actor_name: Some(actor),
            action: "audit.expired",
            entity: Some(trail),
            address: None,
            platform: None,
            correlation_id: None,
            entry: &told,
        };
        append_host_entry(&mut tx, &entry).await?;
        let granted = tx
            .execute("grant delete on audit_entries to current_user")
            .await;
        let may_delete: bool =
            sqlx::query_scalar("select has_table_privilege('audit_entries', 'delete')")
                .fetch_one(&mut *tx)
                .await
                .unwrap_or(false);
        if granted.is_err() || !may_delete {
            return Err(StoreError::Conflict(
                "This host's login may not delete entries, because the tables belong to another login. \
                 Let that login run: patchbay audit expire, with its own DATABASE_URL; see docs/operations/audit.md"
                    .into(),
            ));
        }
        let deleted = sqlx::query(
            "delete from audit_entries e using (select ids from audit_batches where trail = $1 and sealed_at < $2 \
               and exists (select from audit_entries e where e.id = audit_batches.ids[1]) order by epoch, n limit $3) b \
             where e.id = any(b.ids) and e.trail = $1 and e.id <= $4",
        )
        .bind(trail)
        .bind(before)
        .bind(MOST_BATCHES)
        .bind(up_to)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if deleted != count.unsigned_abs() {
            return Err(StoreError::Conflict(
                "Entries of the trail changed meanwhile. Nothing was deleted; try again".into(),
            ));
        }
        tx.execute("revoke delete on audit_entries from current_user")
            .await?;
        let more: bool = sqlx::query_scalar(
            "select exists (select from audit_batches where trail = $1 and sealed_at < $2 \
             and exists (select from audit_entries e where e.id = audit_batches.ids[1]))",
        )
        .bind(trail)
        .bind(before)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Expired {
            count,
            before,
            more,
        })
    }
}
