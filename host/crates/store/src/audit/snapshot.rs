//! What a verification reads: everything as of one moment, in pages.

use chrono::{DateTime, Utc};
use patchbay_model::audit_chain::LeafFields;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Executor, PgConnection, Row};

use super::{BatchRow, ExpiryRow};
use crate::{Store, StoreError};

/// All that is read belongs together, however long it takes. A transaction of its own, so that the
/// session goes back to nobody.
const BEGIN: &str =
    "begin isolation level repeatable read read only; set local statement_timeout = '10min'";

/// An entry, and the leaf that is stored with it.
#[derive(Debug)]
pub struct StoredEntry {
    pub fields: LeafFields,
    pub leaf: Vec<u8>,
}

/// The result of the last verification of a trail.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct VerificationRow {
    pub trail: String,
    pub at: DateTime<Utc>,
    /// `whole`, `broken` or `shorter`.
    pub result: String,
    pub problem: Option<String>,
    pub entries: i64,
    pub batches: i64,
}

/// A connection of its own, with one view of the database.
pub struct AuditSnapshot(PgConnection);

impl Store {
    pub async fn audit_snapshot(&self) -> Result<AuditSnapshot, StoreError> {
        let mut session = self.session().await?;
        session.execute(BEGIN).await?;
        Ok(AuditSnapshot(session))
    }

    pub async fn audit_verifications(&self) -> Result<Vec<VerificationRow>, StoreError> {
        let query = sqlx::query_as(
            "select trail, at, result, problem, entries, batches from audit_verifications order by trail",
        );
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// When the trail was verified that has waited longest; the beginning of time when no trail was,
    /// although there are batches. `None`: there is nothing to verify.
    pub async fn audit_verified_at(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let query = sqlx::query_scalar(
            "select coalesce((select min(at) from audit_verifications), \
             (select 'epoch'::timestamptz where exists (select from audit_batches)))",
        );
        Ok(query.fetch_one(&self.pool).await?)
    }

    /// The noted batches of each trail that was last found not to be whole, as JSON.
    pub async fn audit_finding_anchors(&self) -> Result<Vec<Value>, StoreError> {
        let query = sqlx::query_scalar(
            "select anchors from audit_verifications where result <> 'whole' and anchors is not null",
        );
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// Notes the result of a verification, with the batches that it compared the trail with. `at` is
    /// Postgres's present time.
    pub async fn note_audit_verification(
        &self,
        trail: &str,
        result: &str,
        problem: Option<&str>,
        anchors: &Value,
        (entries, batches): (i64, i64),
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into audit_verifications (trail, result, problem, entries, batches, anchors) values ($1, $2, $3, $4, $5, $6) \
             on conflict (trail) do update set at = now(), result = $2, problem = $3, entries = $4, batches = $5, anchors = $6",
        );
        query
            .bind(trail)
            .bind(result)
            .bind(problem)
            .bind(entries)
            .bind(batches)
            .bind(anchors)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

impl AuditSnapshot {
    /// Every trail that has an entry, a batch, or an entry that waits.
    pub async fn trails(&mut self) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query_scalar(
            "select trail from audit_entries union select trail from audit_batches union select trail from audit_pending order by 1",
        );
        Ok(query.fetch_all(&mut self.0).await?)
    }

    /// Batches of a trail behind this place, in their order.
    pub async fn batches(
        &mut self,
        trail: &str,
        (epoch, n): (i32, i64),
        most: i64,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let query = sqlx::query_as(
            "select trail, epoch, n, ids, count, root, chain, mac, kid, sealed_at from audit_batches \
             where trail = $1 and (epoch, n) > ($2, $3) order by epoch, n limit $4",
        );
        Ok(query
            .bind(trail)
            .bind(epoch)
            .bind(n)
            .bind(most)
            .fetch_all(&mut self.0)
            .await?)
    }

    /// The entries with these ids, of whatever trail, sorted by id.
    pub async fn entries(&mut self, ids: &[i64]) -> Result<Vec<StoredEntry>, StoreError> {
        let query = sqlx::query(
            "select id, trail, entry_key, idempotency_key, plugin, revision, queue, job_id, correlation_id, \
             (extract(epoch from at) * 1000000)::bigint as at_us, entry::text as entry, actor_kind, actor_id, actor_name, action, entity, \
             address::text as address, platform, origin, leaf from audit_entries where id = any($1) order by id",
        );
        let rows = query.bind(ids).fetch_all(&mut self.0).await?;
        rows.into_iter().map(stored).collect()
    }

    pub async fn pending(&mut self, trail: &str) -> Result<Vec<i64>, StoreError> {
        let query = sqlx::query_scalar("select id from audit_pending where trail = $1 order by id");
        Ok(query.bind(trail).fetch_all(&mut self.0).await?)
    }

    /// Ids of a trail's entries behind this one, in their order.
    pub async fn ids(
        &mut self,
        trail: &str,
        after: i64,
        most: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let query = sqlx::query_scalar(
            "select id from audit_entries where trail = $1 and id > $2 order by id limit $3",
        );
        Ok(query
            .bind(trail)
            .bind(after)
            .bind(most)
            .fetch_all(&mut self.0)
            .await?)
    }

    /// What may be missing from a trail. `is_recorded`: whether the trail of operators tells of it.
    pub async fn expiries(&mut self, trail: &str) -> Result<Vec<ExpiryRow>, StoreError> {
        let query = sqlx::query_as(
            "select x.trail, x.up_to, x.before, x.count, x.by, x.at, exists (select from audit_entries e \
               where e.trail = 'operators' and e.action = 'audit.expired' and e.entity = x.trail \
               and e.entry ->> 'upTo' = x.up_to::text and e.entry ->> 'count' = x.count::text) as is_recorded \
             from audit_expiries x where x.trail = $1 order by x.id",
        );
        Ok(query.bind(trail).fetch_all(&mut self.0).await?)
    }

    /// The heads that the trail of operators has noted last, as JSON.
    pub async fn noted_heads(&mut self) -> Result<Option<serde_json::Value>, StoreError> {
        let query = sqlx::query_scalar::<_, Option<serde_json::Value>>(
            "select entry -> 'heads' from audit_entries where trail = 'operators' and action = 'audit.anchor' \
             and idempotency_key = 'host' order by id desc limit 1",
        );
        Ok(query.fetch_optional(&mut self.0).await?.flatten())
    }

    pub async fn close(self) {
        self.0.close().await.ok();
    }
}

fn stored(row: PgRow) -> Result<StoredEntry, StoreError> {
    Ok(StoredEntry {
        fields: LeafFields {
            id: row.try_get("id")?,
            trail: row.try_get("trail")?,
            entry_key: row.try_get("entry_key")?,
            idempotency_key: row.try_get("idempotency_key")?,
            plugin: row.try_get("plugin")?,
            revision: row.try_get("revision")?,
            queue: row.try_get("queue")?,
            job_id: row.try_get("job_id")?,
            correlation_id: row.try_get("correlation_id")?,
            at_us: row.try_get("at_us")?,
            entry: row.try_get("entry")?,
            actor_kind: row.try_get("actor_kind")?,
            actor_id: row.try_get("actor_id")?,
            actor_name: row.try_get("actor_name")?,
            action: row.try_get("action")?,
            entity: row.try_get("entity")?,
            address: row.try_get("address")?,
            platform: row.try_get("platform")?,
            origin: row.try_get("origin")?,
        },
        leaf: row.try_get("leaf")?,
    })
}
