//! Schedules that plugins make at run time. Each has an owner, and no plugin whose manifest names it.

use patchbay_model::PluginName;
use patchbay_model::schedule::ScheduleId;
use serde_json::json;

use crate::audit::plugin_event;
use crate::schedules::{COLUMNS, bind, insert};
use crate::{ScheduleFields, ScheduleRow, Store, StoreError};

impl Store {
    /// Makes a plugin's schedule, or makes it what is wanted; returns whether anything has changed.
    /// Whether it is paused stays. An id of another owner, or one schedule more than `max`, is a
    /// conflict.
    pub async fn put_runtime_schedule(
        &self,
        plugin: &PluginName,
        fields: &ScheduleFields,
        max: u32,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        // One after the other, so that two calls together do not make more than `max`.
        sqlx::query("select from plugins where name = $1 for no key update")
            .bind(plugin.as_str())
            .execute(&mut *tx)
            .await?;
        let owned: i64 = sqlx::query_scalar("select count(*) from schedules where owner = $1")
            .bind(plugin.as_str())
            .fetch_one(&mut *tx)
            .await?;
        let actor = actor(plugin);
        let is_new = insert(&mut tx, fields, None, &actor).await?;
        if is_new {
            if owned >= i64::from(max) {
                return Err(StoreError::Conflict(format!(
                    "{plugin} has {owned} schedules of its own already, and asks for at most {max}"
                )));
            }
            sqlx::query("update schedules set owner = $2 where id = $1")
                .bind(fields.id.as_str())
                .bind(plugin.as_str())
                .execute(&mut *tx)
                .await?;
        } else {
            let query = sqlx::query_scalar("select owner from schedules where id = $1 for update");
            let owner: Option<String> = query.bind(fields.id.as_str()).fetch_one(&mut *tx).await?;
            if owner.as_deref() != Some(plugin.as_str()) {
                return Err(StoreError::Conflict(format!(
                    "There is already a schedule {}, which {plugin} has not made",
                    fields.id
                )));
            }
            let query = sqlx::query(
                "update schedules set queue = $2, name = $3, data = $4, every_ms = $5, cron = $6, tz = $7, missed = $8, description = $9, \
                 updated_at = now(), updated_by = $10 where id = $1 and \
                 (queue, name, data, every_ms, cron, tz, missed, description) is distinct from ($2, $3, $4, $5, $6, $7, $8, $9)",
            );
            let changed = bind(query, fields).bind(&actor).execute(&mut *tx).await?;
            if changed.rows_affected() == 0 {
                return Ok(false);
            }
        }
        let told = json!({ "schedule": fields.id.as_str(), "queue": fields.queue });
        plugin_event(&mut tx, plugin.as_str(), "schedule.put", &actor, &told).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns whether the plugin had made one.
    pub async fn remove_runtime_schedule(
        &self,
        plugin: &PluginName,
        id: &ScheduleId,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let gone = sqlx::query("delete from schedules where id = $1 and owner = $2")
            .bind(id.as_str())
            .bind(plugin.as_str())
            .execute(&mut *tx)
            .await?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        let told = json!({ "schedule": id.as_str() });
        let actor = actor(plugin);
        plugin_event(&mut tx, plugin.as_str(), "schedule.remove", &actor, &told).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Those of a plugin with ids after this one, sorted by id.
    pub async fn runtime_schedules(
        &self,
        plugin: &PluginName,
        after: &str,
        limit: i64,
    ) -> Result<Vec<ScheduleRow>, StoreError> {
        let text = format!(
            "select {COLUMNS} from schedules where owner = $1 and id > $2 order by id limit $3"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(plugin.as_str())
            .bind(after)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?)
    }
}

/// As whom a plugin stands in records.
fn actor(plugin: &PluginName) -> String {
    format!("plugin {plugin}")
}
