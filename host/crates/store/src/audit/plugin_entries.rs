//! Entries of plugins: each once per job and key, with actor, action and entity where the trail's
//! pack says in which properties they are.

use patchbay_model::audit::{ActorKind, NewAuditEntry};
use patchbay_model::job::JobKey;
use patchbay_model::trail_pack::MAX_FIELD_BYTES;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::TrailDefinition;
use super::projection::{Written, project};
use crate::attempts::without_nul;
use crate::{Store, StoreError};

/// A property of an entry as a text. It is indexed, hence short.
fn text_of(entry: &Value, property: Option<&String>) -> Option<String> {
    let mut text = match entry.get(property?)? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    text.truncate(text.floor_char_boundary(MAX_FIELD_BYTES));
    Some(text)
}

impl Store {
    /// Adds an entry, unless its job has already written one under this key. Returns whether it was
    /// added. `value` is the JSON of `entry.entry`.
    pub async fn append_audit(
        &self,
        entry: &NewAuditEntry,
        value: &Value,
        trail: &TrailDefinition,
    ) -> Result<bool, StoreError> {
        if trail.is_plain() {
            let mut connection = self.pool.acquire().await?;
            let added = insert(&mut connection, entry, value, trail).await?;
            return Ok(added.is_some());
        }
        let mut tx = self.pool.begin().await?;
        let unique = &trail.fields.unique;
        let entity = text_of(value, trail.fields.entity.as_ref());
        if !unique.is_empty() {
            // Of two writers about one entity, one waits for the other.
            sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 42))")
                .bind(format!(
                    "{}\n{}",
                    entry.trail,
                    entity.as_deref().unwrap_or_default()
                ))
                .execute(&mut *tx)
                .await?;
        }
        let Some(id) = insert(&mut tx, entry, value, trail).await? else {
            return Ok(false);
        };
        if !unique.is_empty() {
            let once: Map<String, Value> = unique
                .iter()
                .map(|property| {
                    let value = value.get(property).cloned().unwrap_or_default();
                    (property.clone(), value)
                })
                .collect();
            let is_twice: bool = sqlx::query_scalar(
                "select exists (select from audit_entries where trail = $1 and entity is not distinct from $2 and id <> $3 and entry @> $4)",
            )
            .bind(entry.trail.as_str())
            .bind(entity)
            .bind(id)
            .bind(Value::Object(once))
            .fetch_one(&mut *tx)
            .await?;
            if is_twice {
                let unique = unique.join(", ");
                return Err(StoreError::Conflict(format!(
                    "The trail has an entry with the same {unique} about this already. Read the newest one again, and take the next"
                )));
            }
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// Inserts the entry, and its copy. Returns its id; `None` when its key was there before.
async fn insert(
    connection: &mut PgConnection,
    entry: &NewAuditEntry,
    value: &Value,
    trail: &TrailDefinition,
) -> Result<Option<i64>, StoreError> {
    let (job, fields) = (entry.job.as_ref(), &trail.fields);
    let plugin = entry.plugin.as_str();
    let actor = text_of(value, fields.actor.as_ref());
    let (kind, actor_id, actor_name) = match actor.as_deref() {
        // The plugin vouches for it; the entry has both.
        Some(actor) => (ActorKind::User, actor, None),
        None => (ActorKind::Plugin, plugin, Some(plugin)),
    };
    let action = text_of(value, fields.action.as_ref());
    let entity = text_of(value, fields.entity.as_ref());
    // The producer chose the correlation id, so it may hold any text.
    let correlation_id = entry.correlation_id.as_deref().map(without_nul);
    let query = sqlx::query_as(
        "insert into audit_entries (trail, entry_key, idempotency_key, plugin, revision, queue, job_id, correlation_id, entry, \
         actor_kind, actor_id, actor_name, action, entity) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12, $13, $14) \
         on conflict (trail, idempotency_key, entry_key) do nothing returning id, at",
    );
    let added: Option<(i64, chrono::DateTime<chrono::Utc>)> = query
        .bind(entry.trail.as_str())
        .bind(&entry.entry_key)
        .bind(job.map(JobKey::idempotency_key))
        .bind(plugin)
        .bind(entry.revision.to_string())
        .bind(job.map(|job| job.queue.as_str()))
        .bind(job.map(|job| job.id.as_str()))
        .bind(correlation_id.as_deref())
        .bind(&entry.entry)
        .bind(kind.as_str())
        .bind(actor_id)
        .bind(actor_name)
        .bind(action.as_deref())
        .bind(entity.as_deref())
        .fetch_optional(&mut *connection)
        .await?;
    let Some((id, at)) = added else {
        return Ok(None);
    };
    if let Some(projection) = &trail.projection {
        let written = Written {
            id,
            at,
            actor_id: Some(actor_id),
            actor_name,
            action: action.as_deref(),
            entity: entity.as_deref(),
            address: None,
            platform: None,
            plugin: Some(plugin),
            job: job.map(|job| job.id.as_str()),
            correlation_id: correlation_id.as_deref(),
            entry: value,
        };
        project(connection, projection, &written).await?;
    }
    Ok(Some(id))
}
