//! What operators grant to plugins, and how often plugins use it.

use chrono::{DateTime, NaiveDate, Utc};
use patchbay_model::PluginName;
use patchbay_model::grant::Ask;
use serde_json::json;
use sqlx::{PgConnection, Row};

use crate::audit::plugin_event;
use crate::notify::notify;
use crate::{Store, StoreError};

/// Uses within this time are counted.
pub const USES_DAYS: i32 = 30;

/// A grant, or the uses of a revoked one.
#[derive(Debug, Clone)]
pub struct GrantRow {
    pub ask: Ask,
    /// Absent: revoked.
    pub granted_by: Option<String>,
    pub granted_at: Option<DateTime<Utc>>,
    /// Within the last [`USES_DAYS`].
    pub uses: i64,
    pub last_used: Option<NaiveDate>,
}

fn texts(asks: &[Ask]) -> Vec<&str> {
    asks.iter().map(Ask::as_str).collect()
}

pub(crate) async fn grant(
    connection: &mut PgConnection,
    plugin: &PluginName,
    asks: &[Ask],
    actor: &str,
) -> Result<(), StoreError> {
    let new: Vec<String> = sqlx::query_scalar(
        "insert into grants (plugin, ask, granted_by) select $1, unnest($2::text[]), $3 on conflict do nothing returning ask",
    )
    .bind(plugin.as_str())
    .bind(texts(asks))
    .bind(actor)
    .fetch_all(&mut *connection)
    .await?;
    if new.is_empty() {
        return Ok(());
    }
    let told = json!({ "asks": new });
    plugin_event(connection, plugin.as_str(), "grant", actor, &told).await
}

impl Store {
    pub async fn granted(&self, plugin: &PluginName) -> Result<Vec<Ask>, StoreError> {
        let query =
            sqlx::query_scalar("select ask from grants where plugin = $1").bind(plugin.as_str());
        let asks: Vec<String> = query.fetch_all(&self.pool).await?;
        Ok(asks.into_iter().map(Ask::new).collect())
    }

    /// Grants with their uses; includes revoked grants that were used.
    pub async fn grants(&self, plugin: &PluginName) -> Result<Vec<GrantRow>, StoreError> {
        let rows = sqlx::query(
            "with used as (select ask, sum(uses)::bigint as uses, max(day) as last_used from grant_uses \
               where plugin = $1 and day > current_date - $2::integer group by ask) \
             select coalesce(g.ask, u.ask) as ask, granted_by, granted_at, coalesce(uses, 0) as uses, last_used \
             from (select * from grants where plugin = $1) g full join used u on u.ask = g.ask order by 1",
        )
        .bind(plugin.as_str())
        .bind(USES_DAYS)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(GrantRow {
                    ask: Ask::new(row.try_get::<String, _>("ask")?),
                    granted_by: row.try_get("granted_by")?,
                    granted_at: row.try_get("granted_at")?,
                    uses: row.try_get("uses")?,
                    last_used: row.try_get("last_used")?,
                })
            })
            .collect()
    }

    pub async fn grant(
        &self,
        plugin: &PluginName,
        asks: &[Ask],
        actor: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        grant(&mut tx, plugin, asks, actor).await?;
        notify(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Revokes grants and notifies every process. Returns those that were granted.
    pub async fn revoke(
        &self,
        plugin: &PluginName,
        asks: &[Ask],
        actor: &str,
    ) -> Result<Vec<Ask>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let mut revoked: Vec<String> = sqlx::query_scalar(
            "delete from grants where plugin = $1 and ask = any($2::text[]) returning ask",
        )
        .bind(plugin.as_str())
        .bind(texts(asks))
        .fetch_all(&mut *tx)
        .await?;
        revoked.sort();
        if !revoked.is_empty() {
            let told = json!({ "asks": revoked });
            plugin_event(&mut tx, plugin.as_str(), "revoke", actor, &told).await?;
        }
        notify(&mut tx).await?;
        tx.commit().await?;
        Ok(revoked.into_iter().map(Ask::new).collect())
    }

    /// Grants all asks of a plugin from before grants existed. Does nothing the second time.
    pub async fn adopt_grants(&self, plugin: &PluginName, asks: &[Ask]) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let first = sqlx::query(
            "update plugins set grants_adopted = true where name = $1 and not grants_adopted",
        )
        .bind(plugin.as_str())
        .execute(&mut *tx)
        .await?;
        if first.rows_affected() > 0 {
            grant(&mut tx, plugin, asks, "upgrade").await?;
        }
        Ok(tx.commit().await?)
    }

    pub async fn count_uses(&self, uses: &[((PluginName, Ask), u64)]) -> Result<(), StoreError> {
        // All processes update in the same order, to avoid a deadlock between two of them.
        let mut uses: Vec<_> = uses.iter().collect();
        uses.sort();
        let plugins: Vec<&str> = uses
            .iter()
            .map(|((plugin, _), _)| plugin.as_str())
            .collect();
        let asks: Vec<&str> = uses.iter().map(|((_, ask), _)| ask.as_str()).collect();
        let counts: Vec<i64> = uses
            .iter()
            .map(|(_, n)| i64::try_from(*n).unwrap_or(i64::MAX))
            .collect();
        sqlx::query(
            "insert into grant_uses (plugin, ask, day, uses) \
             select p, a, current_date, n from unnest($1::text[], $2::text[], $3::bigint[]) as t(p, a, n) \
             on conflict (plugin, ask, day) do update set uses = grant_uses.uses + excluded.uses",
        )
        .bind(plugins)
        .bind(asks)
        .bind(counts)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
