//! Plugins that were active and are not any more. Their paths stay until they are removed.

use chrono::{DateTime, Utc};
use patchbay_model::grant::Ask;
use patchbay_model::{PluginName, RevisionDigest};
use serde_json::Value;
use sqlx::Row;

use crate::rows::{digest, plugin};
use crate::{Store, StoreError};

/// A deactivated plugin, with the revision that was active last.
#[derive(Debug, Clone)]
pub struct DeactivatedRow {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub manifest: Value,
    pub granted: Vec<Ask>,
    pub at: DateTime<Utc>,
}

impl Store {
    /// Deactivated plugins with webhooks, the last one first.
    pub async fn deactivated_with_webhooks(&self) -> Result<Vec<DeactivatedRow>, StoreError> {
        let query = sqlx::query(
            "select p.name as plugin, r.digest, r.manifest, stopped.at, array(select ask from grants where plugin = p.name) as granted \
             from plugins p \
             cross join lateral (select a.digest, a.at from activations a where a.plugin = p.name order by a.id desc limit 1) stopped \
             cross join lateral (select k.digest, k.manifest from activations a join revisions k using (digest) \
               where a.plugin = p.name and k.plugin = p.name order by a.id desc limit 1) r \
             where p.active is null and stopped.digest is null and r.manifest -> 'webhooks' <> '[]' \
             order by stopped.at desc, p.name",
        );
        let rows = query.fetch_all(&self.pool).await?;
        let row = |row: &sqlx::postgres::PgRow| {
            let granted: Vec<String> = row.try_get("granted")?;
            Ok(DeactivatedRow {
                plugin: plugin(row)?,
                digest: digest(row, "digest")?,
                manifest: row.try_get("manifest")?,
                granted: granted.into_iter().map(Ask::new).collect(),
                at: row.try_get("at")?,
            })
        };
        rows.iter().map(row).collect()
    }
}
