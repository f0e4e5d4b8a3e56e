//! Sealing: entries that wait become a batch, chained to the batch before.

use chrono::{DateTime, Utc};
use patchbay_model::audit_chain::Hash;
use sqlx::{Connection, PgConnection};

use super::{NewHostEntry, append_host_entry};
use crate::{Leadership, Store, StoreError};

/// Held by whoever adds a batch, until the end of the transaction. The leader's lock alone would
/// not do: an operator may accept a gap on another host.
const SEAL_LOCK: i64 = 0x7061_7463_7365_616c;

/// A batch without its entries.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BatchRow {
    pub trail: String,
    pub epoch: i32,
    pub n: i64,
    /// Of its entries, in their order.
    pub ids: Vec<i64>,
    pub count: i32,
    pub root: Vec<u8>,
    pub chain: Vec<u8>,
    /// Absent while no master key was configured.
    pub mac: Option<Vec<u8>>,
    /// Id of the key of the MAC.
    pub kid: Option<String>,
    pub sealed_at: DateTime<Utc>,
}

/// Entries of one trail that are in no batch yet.
#[derive(Debug)]
pub struct Sealable<'a> {
    pub trail: &'a str,
    /// The newest batch of the trail.
    pub head: Option<&'a BatchRow>,
    /// Id and leaf of each, in their order.
    pub entries: &'a [(i64, Vec<u8>)],
    /// The time of the transaction.
    pub now: DateTime<Utc>,
}

/// A batch that is to be stored, with all the entries of the [`Sealable`].
#[derive(Debug)]
pub struct NewBatch {
    pub epoch: i32,
    pub n: i64,
    pub root: Hash,
    pub chain: Hash,
    /// And the id of its key.
    pub mac: Option<(Hash, String)>,
}

/// The result of [`Leadership::seal`].
#[derive(Debug)]
pub enum Sealed {
    /// Nothing waited.
    Nothing,
    /// The caller has refused.
    Refused,
    /// The trail's newest batch now.
    Batch(BatchRow),
}

/// How long the oldest entry of a trail has waited to be sealed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PendingAge {
    pub trail: String,
    pub count: i64,
    pub age_s: f64,
}

impl Store {
    /// Whether an entry has waited longer than this to be sealed.
    pub async fn audit_waits_for(&self, longer_than_s: f64) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(
            "select exists (select from audit_pending where at < now() - make_interval(secs => $1))",
        );
        Ok(query.bind(longer_than_s).fetch_one(&self.pool).await?)
    }

    /// Trails with entries that wait to be sealed.
    pub async fn audit_pending(&self) -> Result<Vec<PendingAge>, StoreError> {
        let query = sqlx::query_as(
            "select trail, count(*) as count, greatest(0, extract(epoch from now() - min(at)))::float8 as age_s \
             from audit_pending group by trail order by trail",
        );
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// The newest batch of each trail, or of one.
    pub async fn audit_heads(&self, trail: Option<&str>) -> Result<Vec<BatchRow>, StoreError> {
        // One look into the index per trail, however many batches there are.
        let query = sqlx::query_as(
            "with recursive trails as ((select min(trail) as trail from audit_batches) \
               union all select (select min(b.trail) from audit_batches b where b.trail > t.trail) from trails t where t.trail is not null) \
             select h.* from trails t cross join lateral \
               (select trail, epoch, n, ids, count, root, chain, mac, kid, sealed_at from audit_batches b \
               where b.trail = t.trail order by epoch desc, n desc limit 1) h \
             where $1::text is null or t.trail = $1 order by t.trail",
        );
        Ok(query.bind(trail).fetch_all(&self.pool).await?)
    }

    /// The chain of a batch; `None` if there is no such batch.
    pub async fn audit_chain_at(
        &self,
        trail: &str,
        epoch: i32,
        n: i64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let query = sqlx::query_scalar(
            "select chain from audit_batches where trail = $1 and epoch = $2 and n = $3",
        );
        let query = query.bind(trail).bind(epoch).bind(n);
        Ok(query.fetch_optional(&self.pool).await?)
    }

    /// Begins a new epoch of a trail with this entry, and nothing else in its first batch.
    pub async fn begin_audit_epoch(
        &self,
        entry: &NewHostEntry<'_>,
        make: impl FnOnce(&Sealable<'_>) -> Option<NewBatch> + Send,
    ) -> Result<BatchRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        lock(&mut tx).await?;
        append_host_entry(&mut tx, entry).await?;
        let query = sqlx::query_as(
            "select id, leaf from audit_entries where trail = $1 and idempotency_key = $2 and entry_key = $3",
        );
        let added: (i64, Vec<u8>) = query
            .bind(entry.trail)
            .bind(super::ledger::HOST)
            .bind(entry.entry_key)
            .fetch_one(&mut *tx)
            .await?;
        let head = head(&mut tx, entry.trail).await?;
        let entries = [added];
        let sealable = Sealable {
            trail: entry.trail,
            head: head.as_ref(),
            entries: &entries,
            now: now(&mut tx).await?,
        };
        let Some(batch) = make(&sealable) else {
            return Err(StoreError::Conflict(format!(
                "Audit trail {} has got another batch meanwhile. See: patchbay audit verify",
                entry.trail
            )));
        };
        let row = store_batch(&mut tx, &sealable, &batch).await?;
        sqlx::query("delete from audit_verifications where trail = $1")
            .bind(entry.trail)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(row)
    }
}

impl Leadership<'_> {
    /// Makes a batch of up to `most` entries of a trail that wait. `make` gets them, and refuses by
    /// giving nothing. All or nothing is stored.
    pub async fn seal(
        &mut self,
        trail: &str,
        most: i64,
        make: impl FnOnce(&Sealable<'_>) -> Option<NewBatch> + Send,
    ) -> Result<Sealed, StoreError> {
        let mut tx = self.0.begin().await?;
        lock(&mut tx).await?;
        // An entry that is gone stays noted as waiting: it was deleted before it was sealed.
        let query = sqlx::query_as(
            "select p.id, e.leaf from audit_pending p join audit_entries e on e.id = p.id and e.trail = p.trail \
             where p.trail = $1 order by p.id limit $2",
        );
        let entries: Vec<(i64, Vec<u8>)> = query.bind(trail).bind(most).fetch_all(&mut *tx).await?;
        if entries.is_empty() {
            return Ok(Sealed::Nothing);
        }
        let head = head(&mut tx, trail).await?;
        let sealable = Sealable {
            trail,
            head: head.as_ref(),
            entries: &entries,
            now: now(&mut tx).await?,
        };
        let Some(batch) = make(&sealable) else {
            return Ok(Sealed::Refused);
        };
        let row = store_batch(&mut tx, &sealable, &batch).await?;
        tx.commit().await?;
        Ok(Sealed::Batch(row))
    }

    /// Notes in the trail of operators that actions which began long ago have no end: their host
    /// was killed meanwhile. Returns how many.
    pub async fn note_unended_actions(&mut self, after_s: f64) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "insert into audit_entries (trail, entry_key, idempotency_key, actor_kind, actor_name, action, entity, entry) \
             select b.trail, a.id || '/unknown', b.idempotency_key, b.actor_kind, b.actor_name, b.action, b.entity, \
             jsonb_build_object('actionId', a.id, 'phase', 'unknown') \
             from operator_actions a join audit_entries b \
             on b.trail = 'operators' and b.idempotency_key = 'host' and b.entry_key = a.id || '/began' \
             where a.ended_at is null and a.began_at < now() - make_interval(secs => $1) \
             and a.began_at > now() - interval '7 days' \
             on conflict (trail, idempotency_key, entry_key) do nothing",
        );
        Ok(query
            .bind(after_s)
            .execute(&mut *self.0)
            .await?
            .rows_affected())
    }
}

async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(SEAL_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

async fn now(connection: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    Ok(sqlx::query_scalar("select now()")
        .fetch_one(connection)
        .await?)
}

async fn head(connection: &mut PgConnection, trail: &str) -> Result<Option<BatchRow>, StoreError> {
    let query = sqlx::query_as(
        "select trail, epoch, n, ids, count, root, chain, mac, kid, sealed_at from audit_batches \
         where trail = $1 order by epoch desc, n desc limit 1",
    );
    Ok(query.bind(trail).fetch_optional(connection).await?)
}

/// Stores a batch, and notes that its entries do not wait any more.
async fn store_batch(
    connection: &mut PgConnection,
    sealable: &Sealable<'_>,
    batch: &NewBatch,
) -> Result<BatchRow, StoreError> {
    let ids: Vec<i64> = sealable.entries.iter().map(|(id, _)| *id).collect();
    let removed = sqlx::query("delete from audit_pending where id = any($1)")
        .bind(&ids)
        .execute(&mut *connection)
        .await?;
    if removed.rows_affected() != ids.len() as u64 {
        return Err(StoreError::Conflict(
            "Entries of an audit trail were sealed by somebody else meanwhile".into(),
        ));
    }
    let (mac, kid) = match &batch.mac {
        Some((mac, kid)) => (Some(mac.to_vec()), Some(kid.as_str())),
        None => (None, None),
    };
    let query = sqlx::query_as(
        "insert into audit_batches (trail, epoch, n, ids, count, root, chain, mac, kid, sealed_at) \
         values ($1, $2, $3, $4, cardinality($4::bigint[]), $5, $6, $7, $8, $9) \
         returning trail, epoch, n, ids, count, root, chain, mac, kid, sealed_at",
    );
    Ok(query
        .bind(sealable.trail)
        .bind(batch.epoch)
        .bind(batch.n)
        .bind(&ids)
        .bind(&batch.root[..])
        .bind(&batch.chain[..])
        .bind(mac)
        .bind(kid)
        .bind(sealable.now)
        .fetch_one(connection)
        .await?)
}
