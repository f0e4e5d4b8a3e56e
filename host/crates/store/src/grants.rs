//! What operators grant to plugins, and what plugins use of it.

use chrono::{DateTime, NaiveDate, Utc};
use patchbay_model::PluginName;
use patchbay_model::grant::Ask;
use sqlx::{PgConnection, Row};

use crate::notify::notify;
use crate::{Store, StoreError};

/// How long uses are counted back.
pub const USES_DAYS: i32 = 30;

/// A grant, or uses of one that was revoked.
#[derive(Debug, Clone)]
pub struct GrantRow {
    pub ask: Ask,
    /// Absent: not granted any more.
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
    sqlx::query(
        "insert into grants (plugin, ask, granted_by) select $1, unnest($2::text[]), $3 on conflict do nothing",
    )
    .bind(plugin.as_str())
    .bind(texts(asks))
    .bind(actor)
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// What is granted to a plugin.
    pub async fn granted(&self, plugin: &PluginName) -> Result<Vec<Ask>, StoreError> {
        let query = sqlx::query_scalar("select ask from grants where plugin = $1").bind(plugin.as_str());
        let asks: Vec<String> = query.fetch_all(&self.pool).await?;
        Ok(asks.into_iter().map(Ask::new).collect())
    }

    /// Grants and their uses, also of what is granted no more.
    pub async fn grants(&self, plugin: &PluginName) -> Result<Vec<GrantRow>, StoreError> {
        let rows = sqlx::query(
            "with used as (select ask, sum(uses)::bigint as uses, max(day) as last_used from grant_uses \
               where plugin = $1 and day > current_date - $2 group by ask) \
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

    /// Grants and tells every process.
    pub async fn grant(&self, plugin: &PluginName, asks: &[Ask], actor: &str) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        grant(&mut tx, plugin, asks, actor).await?;
        notify(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Takes grants back and tells every process; gives what was granted until now.
    pub async fn revoke(&self, plugin: &PluginName, asks: &[Ask]) -> Result<Vec<Ask>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let mut revoked: Vec<String> =
            sqlx::query_scalar("delete from grants where plugin = $1 and ask = any($2::text[]) returning ask")
                .bind(plugin.as_str())
                .bind(texts(asks))
                .fetch_all(&mut *tx)
                .await?;
        notify(&mut tx).await?;
        tx.commit().await?;
        revoked.sort();
        Ok(revoked.into_iter().map(Ask::new).collect())
    }

    /// Grants what a plugin from before grants existed asks for; nothing the second time.
    pub async fn adopt_grants(&self, plugin: &PluginName, asks: &[Ask]) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let first = sqlx::query("update plugins set grants_adopted = true where name = $1 and not grants_adopted")
            .bind(plugin.as_str())
            .execute(&mut *tx)
            .await?;
        if first.rows_affected() > 0 {
            grant(&mut tx, plugin, asks, "upgrade").await?;
        }
        Ok(tx.commit().await?)
    }

    /// Counts uses.
    pub async fn count_uses(&self, uses: &[((PluginName, Ask), u64)]) -> Result<(), StoreError> {
        // In one order everywhere, so that two processes that count do not wait for each other in a circle.
        let mut uses: Vec<_> = uses.iter().collect();
        uses.sort();
        let plugins: Vec<&str> = uses.iter().map(|((plugin, _), _)| plugin.as_str()).collect();
        let asks: Vec<&str> = uses.iter().map(|((_, ask), _)| ask.as_str()).collect();
        let counts: Vec<i64> = uses.iter().map(|(_, n)| i64::try_from(*n).unwrap_or(i64::MAX)).collect();
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
