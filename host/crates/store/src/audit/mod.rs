//! Audit trails and their entries. Entries are only added; the database refuses every other change.
//!
//! | module | owns |
//! |---|---|
//! | `ledger` | entries of the host |
//! | `projection` | tables of the old backend that get a copy |
//! | `chain` | sealing entries into batches |
//! | `snapshot` | what a verification reads |
//! | `retention` | what may be deleted, and deleting it |
//! | `import` | old rows of the old backend's tables |
//! | `protection` | who could change the tables |

mod chain;
mod import;
mod ledger;
mod projection;
mod protection;
mod retention;
mod snapshot;

use chrono::{DateTime, Utc};
use patchbay_model::audit::{ActorKind, NewAuditEntry};
use patchbay_model::job::JobKey;
use patchbay_model::{PluginName, TrailName};
use serde_json::Value;

pub use self::chain::{BatchRow, NewBatch, PendingAge, Sealable, Sealed};
pub use self::import::{ImportColumns, ImportStep};
pub(crate) use self::ledger::plugin_event;
pub use self::ledger::{NewHostEntry, append_host_entry};
pub use self::protection::Protection;
pub use self::retention::{Expired, ExpiryRow, RetainedTrail};
pub use self::snapshot::{AuditSnapshot, StoredEntry, VerificationRow};

use crate::attempts::without_nul;
use crate::{Store, StoreError};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TrailRow {
    /// The name that a plugin's manifest asks for.
    pub name: String,
    pub description: String,
    /// JSON Schema, draft 2020-12, of the entries.
    pub schema: Value,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AuditRow {
    /// Rises with time; it is the cursor of a list.
    pub id: i64,
    pub trail: String,
    /// Distinguishes the entries of one job.
    pub entry_key: String,
    /// The plugin that wrote it; absent: the host did.
    pub plugin: Option<String>,
    /// Digest of the revision.
    pub revision: Option<String>,
    /// Queue of the job that wrote the entry; absent outside of jobs.
    pub queue: Option<String>,
    pub job_id: Option<String>,
    /// Correlation id of the request that caused the entry.
    pub correlation_id: Option<String>,
    pub at: DateTime<Utc>,
    pub entry: Value,
    /// See [`ActorKind`]. Absent in entries of versions before.
    pub actor_kind: Option<String>,
    pub actor_id: Option<String>,
    pub actor_name: Option<String>,
    pub action: Option<String>,
    /// What it was done to.
    pub entity: Option<String>,
    /// Of the client.
    pub address: Option<String>,
    pub platform: Option<String>,
    /// `live`, or `import`: an old row, taken over at `at`.
    pub origin: String,
}

/// An absent field does not restrict the entries.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub trail: Option<TrailName>,
    pub plugin: Option<PluginName>,
    pub queue: Option<String>,
    pub job: Option<String>,
    /// Id or name of whoever did it, or a plugin's name.
    pub actor: Option<String>,
    pub action: Option<String>,
    pub entity: Option<String>,
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// A cursor: only entries with smaller ids.
    pub before: Option<i64>,
}

impl Store {
    /// Sorted by name.
    pub async fn audit_trails(&self) -> Result<Vec<TrailRow>, StoreError> {
        Ok(sqlx::query_as("select * from audit_trails order by name")
            .fetch_all(&self.pool)
            .await?)
    }

    /// The JSON Schema of a trail's entries; `None` when there is no such trail.
    pub async fn audit_schema(&self, trail: &TrailName) -> Result<Option<Value>, StoreError> {
        let query = sqlx::query_scalar("select schema from audit_trails where name = $1");
        Ok(query
            .bind(trail.as_str())
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Creates a trail, or changes it for future entries. Without a description, the present one
    /// stays. Returns the trail as it is then.
    pub async fn set_audit_trail(
        &self,
        name: &TrailName,
        schema: &Value,
        description: Option<&str>,
        actor: &str,
    ) -> Result<TrailRow, StoreError> {
        let query = sqlx::query_as(
            "insert into audit_trails (name, schema, description, created_by, changed_by) values ($1, $2, coalesce($3, ''), $4, $4) \
             on conflict (name) do update set schema = $2, description = coalesce($3, audit_trails.description), \
             changed_at = now(), changed_by = $4 returning *",
        );
        Ok(query
            .bind(name.as_str())
            .bind(schema)
            .bind(description)
            .bind(actor)
            .fetch_one(&self.pool)
            .await?)
    }

    /// The trail takes no more entries; the present entries stay.
    pub async fn remove_audit_trail(&self, name: &TrailName) -> Result<(), StoreError> {
        let query = sqlx::query("delete from audit_trails where name = $1").bind(name.as_str());
        if query.execute(&self.pool).await?.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!(
                "There is no audit trail {name}. See: patchbay audit trail list"
            )));
        }
        Ok(())
    }

    /// Adds an entry, unless its job has already written one under this key. Returns whether it was
    /// added. `entry.entry` is JSON.
    pub async fn append_audit(&self, entry: &NewAuditEntry) -> Result<bool, StoreError> {
        let job = entry.job.as_ref();
        let query = sqlx::query(
            "insert into audit_entries (trail, entry_key, idempotency_key, plugin, revision, queue, job_id, correlation_id, entry, \
             actor_kind, actor_id, actor_name) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $4, $4) on conflict (trail, idempotency_key, entry_key) do nothing",
        );
        let query = query
            .bind(entry.trail.as_str())
            .bind(&entry.entry_key)
            .bind(job.map(JobKey::idempotency_key))
            .bind(entry.plugin.as_str())
            .bind(entry.revision.to_string())
            .bind(job.map(|job| job.queue.as_str()))
            .bind(job.map(|job| job.id.as_str()))
            // The producer chose the correlation id, so it may hold any text.
            .bind(entry.correlation_id.as_deref().map(without_nul))
            .bind(&entry.entry)
            .bind(ActorKind::Plugin.as_str());
        Ok(query.execute(&self.pool).await?.rows_affected() > 0)
    }

    /// Newest first.
    pub async fn audit_entries(
        &self,
        filter: &AuditFilter,
        most: i64,
    ) -> Result<Vec<AuditRow>, StoreError> {
        // Only conditions that are set are part of the statement, so that each finds its index.
        let mut query = sqlx::QueryBuilder::new(
            "select id, trail, entry_key, plugin, revision, queue, job_id, correlation_id, at, entry, actor_kind, actor_id, actor_name, \
             action, entity, host(address) as address, platform, origin from audit_entries where true",
        );
        let texts = [
            ("trail", filter.trail.as_ref().map(TrailName::as_str)),
            ("plugin", filter.plugin.as_ref().map(PluginName::as_str)),
            ("queue", filter.queue.as_deref()),
            ("job_id", filter.job.as_deref()),
            ("action", filter.action.as_deref()),
            ("entity", filter.entity.as_deref()),
        ];
        for (column, value) in texts
            .into_iter()
            .filter_map(|(column, value)| Some((column, value?)))
        {
            query
                .push(format_args!(" and {column} = "))
                .push_bind(value);
        }
        if let Some(actor) = &filter.actor {
            query.push(" and (actor_id = ").push_bind(actor);
            query.push(" or actor_name = ").push_bind(actor);
            query.push(" or plugin = ").push_bind(actor).push(")");
        }
        if let Some(since) = filter.since {
            query.push(" and at >= ").push_bind(since);
        }
        if let Some(until) = filter.until {
            query.push(" and at < ").push_bind(until);
        }
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(most);
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }
}
