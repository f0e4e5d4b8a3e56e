//! Quarantined revisions: they take no calls until an operator decides.

use patchbay_model::quarantine::Quarantine;
use patchbay_model::{PluginName, RevisionDigest};
use serde_json::json;
use sqlx::{PgConnection, Row};

use crate::audit::plugin_event;
use crate::notify::notify;
use crate::rows::{damaged, digest, plugin};
use crate::{Store, StoreError};

/// Ends a revision's quarantine, if it has one.
pub(crate) async fn end(
    connection: &mut PgConnection,
    digest: &RevisionDigest,
    actor: &str,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "update quarantines set ended_at = now(), ended_by = $2, end_reason = $3 where digest = $1 and ended_at is null",
    )
    .bind(digest.to_string())
    .bind(actor)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// Quarantines a revision if it is active, and notifies every process. Returns false when it is
    /// not active any more. Records an action, as for an operator.
    pub async fn quarantine(
        &self,
        plugin: &PluginName,
        digest: &RevisionDigest,
        reason: &str,
        actor: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let set = sqlx::query(
            "update plugins set generation = generation + 1 where name = $1 and active = $2 \
             and exists (select from revisions where digest = $2 and state = 'active')",
        );
        let set = set
            .bind(plugin.as_str())
            .bind(digest.to_string())
            .execute(&mut *tx)
            .await?;
        if set.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("update revisions set state = 'quarantined' where digest = $1")
            .bind(digest.to_string())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "insert into quarantines (plugin, digest, reason, began_by) values ($1, $2, $3, $4)",
        )
        .bind(plugin.as_str())
        .bind(digest.to_string())
        .bind(reason)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into operator_actions (actor, kind, action, target, details, ended_at) \
             values ($1, 'host', 'plugin.quarantine', $2, $3, now())",
        )
        .bind(actor)
        .bind(plugin.as_str())
        .bind(json!({ "digest": digest, "reason": reason }))
        .execute(&mut *tx)
        .await?;
        let told = json!({ "digest": digest, "reason": reason });
        plugin_event(&mut tx, plugin.as_str(), "quarantine", actor, &told).await?;
        notify(&mut tx).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends the quarantine of a plugin's revision, and notifies every process.
    pub async fn release(
        &self,
        plugin: &PluginName,
        reason: &str,
        actor: &str,
    ) -> Result<RevisionDigest, StoreError> {
        let mut tx = self.pool.begin().await?;
        let active: Option<Option<String>> = sqlx::query_scalar(
            "update plugins set generation = generation + 1 where name = $1 returning active",
        )
        .bind(plugin.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let active =
            active.ok_or_else(|| StoreError::NotFound(format!("No plugin is called {plugin}")))?;
        let released: Option<String> = sqlx::query_scalar(
            "update revisions set state = 'active' where digest = $1 and state = 'quarantined' returning digest",
        )
        .bind(active)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(released) = released else {
            return Err(StoreError::Conflict(format!("{plugin} is not quarantined")));
        };
        let released: RevisionDigest = released.parse().map_err(damaged)?;
        end(&mut tx, &released, actor, reason).await?;
        let told = json!({ "digest": released });
        plugin_event(&mut tx, plugin.as_str(), "release", actor, &told).await?;
        notify(&mut tx).await?;
        tx.commit().await?;
        Ok(released)
    }

    /// Quarantines that have not ended.
    pub async fn quarantined(&self) -> Result<Vec<Quarantine>, StoreError> {
        let query = sqlx::query(
            "select q.plugin, q.digest, q.reason, q.began_at, q.began_by, r.version, r.manifest, \
             r.digest is not distinct from p.active as is_current \
             from quarantines q join revisions r using (digest) join plugins p on p.name = q.plugin \
             where q.ended_at is null and r.state = 'quarantined'",
        );
        let rows = query.fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| {
                Ok(Quarantine {
                    plugin: plugin(&row)?,
                    digest: digest(&row, "digest")?,
                    version: row.try_get("version")?,
                    manifest: row.try_get("manifest")?,
                    reason: row.try_get("reason")?,
                    began_at: row.try_get("began_at")?,
                    began_by: row.try_get("began_by")?,
                    is_current: row.try_get("is_current")?,
                })
            })
            .collect()
    }
}
