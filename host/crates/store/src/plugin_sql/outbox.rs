//! The outbox: jobs that exist only after the commit of a plugin's transaction.
//!
//! The plugin's login inserts the row within its transaction, so the guest's SQL could insert rows
//! too. But only the host can compute the MAC, which covers the whole row, and each nonce is
//! accepted once. After a row's jobs are in their queue, one transaction deletes the row and stores
//! its nonce. A crash before that adds the jobs again, under the same ids.

use std::collections::HashSet;

use patchbay_model::PluginName;
use patchbay_model::job::NewJob;
use patchbay_model::sql::SqlJobs;
use sqlx::types::Uuid;
use sqlx::{PgConnection, Postgres, Row, Transaction};
use subtle::ConstantTimeEq;

use super::installation::Installation;
use super::statement::Failed;
use super::{PluginSql, error};
use crate::StoreError;

/// Rows per transaction of the relay.
const BATCH: i64 = 100;
/// How long nonces are remembered, and the maximum age of a row: an older row could not be
/// distinguished from a replayed one.
const REMEMBERED_DAYS: i32 = 30;

/// Jobs of one row with a valid MAC. Their ids are the same each time.
#[derive(Debug)]
pub struct OutboxEntry {
    pub plugin: PluginName,
    pub jobs: Vec<NewJob>,
    row: i64,
    nonce: Uuid,
}

/// Rows that this process has locked. When the batch is dropped, they are free again.
pub struct OutboxBatch {
    tx: Transaction<'static, Postgres>,
    pub entries: Vec<OutboxEntry>,
    forged: Vec<i64>,
}

pub(super) async fn write(
    connection: &mut PgConnection,
    installation: &Installation,
    plugin: &PluginName,
    jobs: &SqlJobs,
) -> Result<(), Failed> {
    if jobs.jobs.is_empty() {
        return Ok(());
    }
    let invalid = |error: serde_json::Error| {
        Failed::Statement(patchbay_model::sql::SqlError::new(
            "invalid",
            error.to_string(),
        ))
    };
    let payload = serde_json::to_string(&jobs.jobs).map_err(invalid)?;
    let grants = jobs.grants.join("\n");
    let nonce = Uuid::new_v4();
    let issued_ms = chrono::Utc::now().timestamp_millis();
    let mac = installation.outbox_mac(
        plugin.as_str(),
        nonce.as_bytes(),
        issued_ms,
        &grants,
        &payload,
    );
    sqlx::query(
        "insert into patchbay_outbox.jobs (plugin, nonce, issued_ms, grants, payload, mac) values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(plugin.as_str())
    .bind(nonce)
    .bind(issued_ms)
    .bind(grants)
    .bind(payload)
    .bind(&mac[..])
    .execute(connection)
    .await
    .map_err(|failed| Failed::Statement(error::guest(&failed)))?;
    Ok(())
}

impl PluginSql {
    /// The oldest rows that no other process has locked; `None` when there are none.
    pub async fn take_outbox(&self) -> Result<Option<OutboxBatch>, StoreError> {
        let mut tx = self.0.pool.begin().await?;
        let rows = sqlx::query(
            "select o.id, o.plugin, o.nonce, o.issued_ms, o.grants, o.payload, o.mac, \
               exists (select from outbox_nonces n where n.nonce = o.nonce) as used, \
               o.issued_ms < extract(epoch from now() - make_interval(days => $2)) * 1000 as outlived \
             from patchbay_outbox.jobs o order by o.id limit $1 for update of o skip locked",
        )
        .bind(BATCH)
        .bind(REMEMBERED_DAYS)
        .fetch_all(&mut *tx)
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let installation = self.installation().await?;
        let mut batch = OutboxBatch {
            tx,
            entries: Vec::new(),
            forged: Vec::new(),
        };
        let mut seen = HashSet::new();
        for row in rows {
            let (id, plugin): (i64, String) = (row.try_get("id")?, row.try_get("plugin")?);
            match entry(installation, id, &plugin, &row, &mut seen)? {
                Ok(entry) => batch.entries.push(entry),
                Err(reason) => {
                    // The row claims this plugin, but its MAC is wrong, so the name may be false.
                    tracing::error!(
                        row = id,
                        claimed_plugin = plugin,
                        reason,
                        "A row of the outbox was dropped; its jobs are not added"
                    );
                    batch.forged.push(id);
                }
            }
        }
        Ok(Some(batch))
    }
}

fn entry(
    installation: &Installation,
    id: i64,
    plugin: &str,
    row: &sqlx::postgres::PgRow,
    seen: &mut HashSet<Uuid>,
) -> Result<Result<OutboxEntry, &'static str>, StoreError> {
    let (nonce, payload): (Uuid, String) = (row.try_get("nonce")?, row.try_get("payload")?);
    let (grants, mac): (String, Vec<u8>) = (row.try_get("grants")?, row.try_get("mac")?);
    let issued_ms = row.try_get("issued_ms")?;
    let right = installation.outbox_mac(plugin, nonce.as_bytes(), issued_ms, &grants, &payload);
    if !bool::from(right[..].ct_eq(&mac)) {
        return Ok(Err("forged: its MAC is not the host's"));
    }
    if row.try_get("used")? || !seen.insert(nonce) {
        return Ok(Err("replayed: its jobs were added before"));
    }
    if row.try_get("outlived")? {
        return Ok(Err("too old to be distinguished from a replayed one"));
    }
    let (Ok(plugin), Ok(mut jobs)) = (
        plugin.parse(),
        serde_json::from_str::<Vec<NewJob>>(&payload),
    ) else {
        return Ok(Err("unreadable: written by another version"));
    };
    for (place, job) in jobs.iter_mut().enumerate() {
        if job.id.is_none() {
            job.id = format!("outbox-{}-{place}", nonce.simple()).parse().ok();
        }
    }
    Ok(Ok(OutboxEntry {
        plugin,
        jobs,
        row: id,
        nonce,
    }))
}

impl OutboxBatch {
    /// Called after the jobs are in their queues: deletes the added rows and the forged rows. Rows
    /// that are left out become free again.
    pub async fn done(mut self, added: &[OutboxEntry]) -> Result<(), StoreError> {
        let nonces: Vec<Uuid> = added.iter().map(|entry| entry.nonce).collect();
        let rows: Vec<i64> = added
            .iter()
            .map(|entry| entry.row)
            .chain(self.forged)
            .collect();
        sqlx::query("insert into outbox_nonces (nonce) select unnest($1::uuid[])")
            .bind(nonces)
            .execute(&mut *self.tx)
            .await?;
        sqlx::query("delete from patchbay_outbox.jobs where id = any($1)")
            .bind(rows)
            .execute(&mut *self.tx)
            .await?;
        sqlx::query(
            "delete from outbox_nonces where used_at < now() - make_interval(days => $1 + 1)",
        )
        .bind(REMEMBERED_DAYS)
        .execute(&mut *self.tx)
        .await?;
        Ok(self.tx.commit().await?)
    }
}
