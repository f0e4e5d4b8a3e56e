//! Trails that operators define: what their entries must look like, who may read them, and which
//! old table gets a copy.

use chrono::{DateTime, Utc};
use patchbay_model::TrailName;
use patchbay_model::role::Role;
use patchbay_model::trail_pack::{EntryFields, Projection, TrailPack};
use serde_json::Value;
use sqlx::types::Json;

use super::projection::make_table;
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
    /// Roles of accounts.
    pub readers: Vec<String>,
    pub fields: Json<EntryFields>,
    pub projection: Option<Json<Projection>>,
    /// Whether the projection's table is `absent`, `open` (others may change its rows) or `guarded`.
    pub table_state: Option<String>,
}

/// What an entry of a plugin must look like, and what becomes of it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TrailDefinition {
    pub schema: Value,
    pub fields: Json<EntryFields>,
    pub projection: Option<Json<Projection>>,
}

impl TrailDefinition {
    /// Whether entries are nothing but entries.
    pub(super) fn is_plain(&self) -> bool {
        self.projection.is_none() && self.fields.0 == EntryFields::default()
    }
}

impl Store {
    /// Sorted by name; or only the one with this name.
    pub async fn audit_trails(
        &self,
        name: Option<&TrailName>,
    ) -> Result<Vec<TrailRow>, StoreError> {
        let query = sqlx::query_as(
            "select t.*, case when t.projection is null then null when place.oid is null then 'absent' \
             when exists (select from pg_trigger g where g.tgrelid = place.oid and g.tgname = 'patchbay_append_only') then 'guarded' \
             else 'open' end as table_state from audit_trails t cross join lateral (select case when t.projection is not null then \
             to_regclass(format('%I.%I', split_part(t.projection ->> 'table', '.', 1), split_part(t.projection ->> 'table', '.', 2))) end as oid) place \
             where $1::text is null or t.name = $1 order by t.name",
        );
        Ok(query
            .bind(name.map(TrailName::as_str))
            .fetch_all(&self.pool)
            .await?)
    }

    /// `None` when there is no such trail.
    pub async fn audit_trail_definition(
        &self,
        trail: &TrailName,
    ) -> Result<Option<TrailDefinition>, StoreError> {
        let query =
            sqlx::query_as("select schema, fields, projection from audit_trails where name = $1");
        Ok(query
            .bind(trail.as_str())
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Creates a trail, or changes it for future entries. Without a description, the present one
    /// stays; so does what a pack said of it.
    pub async fn set_audit_trail(
        &self,
        name: &TrailName,
        schema: &Value,
        description: Option<&str>,
        actor: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into audit_trails (name, schema, description, created_by, changed_by) values ($1, $2, coalesce($3, ''), $4, $4) \
             on conflict (name) do update set schema = $2, description = coalesce($3, audit_trails.description), \
             changed_at = now(), changed_by = $4",
        );
        query
            .bind(name.as_str())
            .bind(schema)
            .bind(description)
            .bind(actor)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Creates a trail as its pack says, or replaces all that is said of it, for future entries. The
    /// projection's table is made if it is absent; returns whether it was.
    pub async fn install_audit_trail(
        &self,
        name: &TrailName,
        pack: &TrailPack,
        actor: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let is_made = match &pack.projection {
            Some(projection) => make_table(&mut tx, projection).await?,
            None => false,
        };
        let readers: Vec<&str> = pack
            .readers
            .iter()
            .map(|role| Role::as_str(*role))
            .collect();
        sqlx::query(
            "insert into audit_trails (name, schema, description, readers, fields, projection, created_by, changed_by) \
             values ($1, $2, $3, $4, $5, $6, $7, $7) \
             on conflict (name) do update set schema = $2, description = $3, readers = $4, fields = $5, projection = $6, \
             changed_at = now(), changed_by = $7",
        )
        .bind(name.as_str())
        .bind(&pack.schema)
        .bind(&pack.description)
        .bind(readers)
        .bind(Json(&pack.fields))
        .bind(pack.projection.as_ref().map(Json))
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        if let Some(keep_days) = pack.keep_days {
            sqlx::query(
                "insert into audit_retention (trail, keep_days, changed_by) values ($1, $2, $3) \
                 on conflict (trail) do update set keep_days = $2, changed_at = now(), changed_by = $3 \
                 where audit_retention.keep_days <> $2",
            )
            .bind(name.as_str())
            .bind(keep_days)
            .bind(actor)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(is_made)
    }

    /// The trail takes no more entries; the present entries stay, and so does the projection's table.
    pub async fn remove_audit_trail(&self, name: &TrailName) -> Result<(), StoreError> {
        let query = sqlx::query("delete from audit_trails where name = $1").bind(name.as_str());
        if query.execute(&self.pool).await?.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!(
                "There is no audit trail {name}. See: patchbay audit trail list"
            )));
        }
        Ok(())
    }
}
