//! Old rows of the old backend's tables, taken over as entries: with all their columns, and with
//! the time at which they were taken over. They prove nothing about the time before.

use sqlx::Row;

use crate::{Store, StoreError};

/// Which columns of the old table say what. Found in its catalogue.
#[derive(Debug, Clone)]
pub struct ImportColumns {
    /// Quoted, with its schema.
    table: String,
    /// Quoted; the primary key.
    id: String,
    id_type: String,
    /// Quoted, if there is one.
    actor: Option<String>,
    action: Option<String>,
    /// As entries name the table of their copies.
    copied_as: String,
}

/// One step of an import.
#[derive(Debug, Clone, Default)]
pub struct ImportStep {
    /// Rows that were read.
    pub read: u64,
    /// Rows that were not entries before.
    pub added: u64,
    /// Where the next step begins; absent at the end.
    pub next: Option<String>,
}

/// Columns that say who did it, the better one first.
const ACTORS: [&str; 4] = ["userId", "user_id", "changed_by", "changedBy"];
const ACTIONS: [&str; 2] = ["action", "activity_type"];

/// Types of primary keys, by which rows are read in steps.
const ORDERED: [&str; 7] = [
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "uuid",
    "text",
    "character varying",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Store {
    /// Looks at an old table, named `schema.table`.
    pub async fn audit_import_columns(
        &self,
        table: &str,
        id: &str,
    ) -> Result<ImportColumns, StoreError> {
        let (schema, name) = table.split_once('.').unwrap_or(("public", table));
        let rows = sqlx::query(
            "select a.attname::text as name, format_type(a.atttypid, null) as kind from pg_attribute a \
             join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace \
             where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped \
             and has_table_privilege(c.oid, 'select') \
             and n.nspname not in ('patchbay', 'patchbay_outbox', 'pg_catalog', 'information_schema')",
        )
        .bind(schema)
        .bind(name)
        .fetch_all(&self.pool)
        .await?;
        let mut columns = Vec::new();
        for row in rows {
            columns.push((
                row.try_get::<String, _>("name")?,
                row.try_get::<String, _>("kind")?,
            ));
        }
        if columns.is_empty() {
            return Err(StoreError::NotFound(format!(
                "There is no table {schema}.{name} that can be imported, or this host's login may not see it"
            )));
        }
        let Some((id, id_type)) = columns.iter().find(|(column, _)| column == id) else {
            return Err(StoreError::NotFound(format!(
                "Table {schema}.{name} has no column {id}. Name the column that identifies a row"
            )));
        };
        if !ORDERED.contains(&id_type.as_str()) {
            return Err(StoreError::Conflict(format!(
                "Column {id} of {schema}.{name} is of type {id_type}: name a column with numbers, texts or UUIDs that are unique"
            )));
        }
        let first_of = |names: &[&str]| {
            let found = names
                .iter()
                .find(|name| columns.iter().any(|(column, _)| column == *name));
            found.map(|name| quoted(name))
        };
        Ok(ImportColumns {
            table: format!("{}.{}", quoted(schema), quoted(name)),
            id: quoted(id),
            id_type: id_type.clone(),
            actor: first_of(&ACTORS),
            action: first_of(&ACTIONS),
            copied_as: format!("{schema}.{name}"),
        })
    }

    /// Takes over up to `most` rows behind the row `after`. What was taken over before stays, and a
    /// row that is the copy of an entry is none to take over.
    pub async fn import_audit(
        &self,
        trail: &str,
        columns: &ImportColumns,
        after: Option<&str>,
        most: i64,
    ) -> Result<ImportStep, StoreError> {
        let ImportColumns {
            table, id, id_type, ..
        } = columns;
        let text = |column: &Option<String>| match column {
            Some(column) => format!("t.{column}::text"),
            None => "null::text".to_owned(),
        };
        let (actor, action) = (text(&columns.actor), text(&columns.action));
        let statement = format!(
            "with old as (select t.{id}::text as key, t.{id} as place, to_jsonb(t) as row, {actor} as actor, {action} as action \
               from {table} t where $2::text is null or t.{id} > $2::text::{id_type} order by t.{id} limit $3), \
             added as (insert into audit_entries (trail, entry_key, idempotency_key, actor_kind, actor_id, action, origin, entry) \
               select $1, key, 'import', case when actor is null then null else 'user' end, actor, action, 'import', row from old \
               where key not in (select audit_projection_id($4, e.id)::text from audit_entries e where e.trail = $1 and e.origin = 'live') \
               order by place on conflict (trail, idempotency_key, entry_key) do nothing returning 1) \
             select (select count(*) from old) as read, (select count(*) from added) as added, \
             (select key from old order by place desc limit 1) as last"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(trail)
            .bind(after)
            .bind(most)
            .bind(&columns.copied_as)
            .fetch_one(&self.pool)
            .await?;
        let read: i64 = row.try_get("read")?;
        let added: i64 = row.try_get("added")?;
        Ok(ImportStep {
            read: read.unsigned_abs(),
            added: added.unsigned_abs(),
            next: row
                .try_get::<Option<String>, _>("last")?
                .filter(|_| read >= most),
        })
    }
}
