//! Tables of the old backend to which an entry is written, too, in the same transaction. They are
//! copies: the ledger is what counts.

use std::net::IpAddr;
use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use patchbay_model::sql::TableName;
use patchbay_model::trail_pack::{Projection, Source};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tracing::error;

use crate::{Store, StoreError};

/// The old backend's record of logins.
pub(super) static LOGINS: LazyLock<Projection> = LazyLock::new(Projection::of_logins);

/// An entry that was written, as columns of a copy ask for it.
pub(super) struct Written<'a> {
    pub(super) id: i64,
    pub(super) at: DateTime<Utc>,
    pub(super) actor_id: Option<&'a str>,
    pub(super) actor_name: Option<&'a str>,
    pub(super) action: Option<&'a str>,
    pub(super) entity: Option<&'a str>,
    pub(super) address: Option<IpAddr>,
    pub(super) platform: Option<&'a str>,
    pub(super) plugin: Option<&'a str>,
    pub(super) job: Option<&'a str>,
    pub(super) correlation_id: Option<&'a str>,
    pub(super) entry: &'a Value,
}

impl Written<'_> {
    fn value(&self, source: &Source, table: &TableName) -> Value {
        match source {
            Source::Id => json!(uuid_of(table, self.id)),
            Source::At => json!(self.at),
            Source::ActorId => json!(self.actor_id),
            Source::ActorName => json!(self.actor_name),
            Source::Action => json!(self.action),
            Source::Entity => json!(self.entity),
            Source::Address => json!(self.address),
            Source::Platform => json!(self.platform),
            Source::Plugin => json!(self.plugin),
            Source::Job => json!(self.job),
            Source::CorrelationId => json!(self.correlation_id),
            Source::Entry(property) => self.entry.get(property).cloned().unwrap_or_default(),
        }
    }
}

/// Writes the copy, if the table is there. A table that does not take the row does not stop what the
/// entry tells of: that is logged, and the entry stays.
pub(super) async fn project(
    connection: &mut PgConnection,
    projection: &Projection,
    written: &Written<'_>,
) -> Result<(), StoreError> {
    if !projection.takes(written.action) {
        return Ok(());
    }
    let name = &projection.table;
    let table = name.quoted();
    let mut inner = connection.begin().await?;
    let copied = async {
        // Columns that the table lacks are left out.
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select a.attname::text, format_type(a.atttypid, null) from pg_attribute a \
             where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped",
        )
        .bind(&table)
        .fetch_all(&mut *inner)
        .await?;
        let mut row = Map::new();
        for (column, kind) in &columns {
            let Some(projected) = projection.columns.get(column) else {
                continue;
            };
            // An id of its own where it is a number: the table's other writer counts them.
            let takes_id = ["uuid", "text", "character varying"].contains(&kind.as_str());
            if projected.from != Source::Id || takes_id {
                row.insert(column.clone(), written.value(&projected.from, name));
            }
        }
        if row.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = row.keys().map(|name| format!("\"{name}\"")).collect();
        let names = names.join(", ");
        // Postgres turns each value into its column's type.
        let text = format!(
            "insert into {table} ({names}) select {names} from jsonb_populate_record(null::{table}, $1)"
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(Value::Object(row));
        query.execute(&mut *inner).await?;
        Ok::<_, sqlx::Error>(())
    };
    match copied.await {
        Ok(()) => Ok(inner.commit().await?),
        Err(problem @ sqlx::Error::Database(_)) => {
            error!(error = %problem, table = %name, "an audit entry was not written to the old backend's table; the entry itself is kept");
            Ok(inner.rollback().await?)
        }
        Err(other) => Err(other.into()),
    }
}

/// The id in the old table: the same for the same entry, so that the two can be compared. The
/// function `audit_projection_id` of Postgres computes the same.
fn uuid_of(table: &TableName, id: i64) -> uuid::Uuid {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("patchbay audit entry\0{table}\0{id}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Makes the table if it is absent, and guards it from the start. Returns whether it was absent.
pub(super) async fn make_table(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<bool, StoreError> {
    let (name, table) = (&projection.table, projection.table.quoted());
    if is_there(connection, &table).await? {
        return Ok(false);
    }
    let has_schema: bool =
        sqlx::query_scalar("select exists (select from pg_namespace where nspname = $1)")
            .bind(name.schema())
            .fetch_one(&mut *connection)
            .await?;
    let columns: Vec<String> = projection
        .columns
        .iter()
        .map(|(column, projected)| {
            let key = match projected.from {
                Source::Id => " primary key",
                _ => "",
            };
            format!("\"{column}\" {}{key}", projected.kind.as_str())
        })
        .collect();
    let making = async {
        if !has_schema {
            let text = format!("create schema \"{}\"", name.schema());
            run(&mut *connection, text).await?;
        }
        let text = format!("create table {table} ({})", columns.join(", "));
        run(&mut *connection, text).await?;
        guard(&mut *connection, &table).await
    };
    making.await.map_err(|error| permitted(name, error))?;
    Ok(true)
}

/// Refuses every change of the table but new rows.
async fn guard(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    for text in [
        format!(
            "create trigger patchbay_append_only before update or delete or truncate on {table} \
             for each statement execute function patchbay.refuse_change_of_audit()"
        ),
        format!("alter table {table} enable always trigger patchbay_append_only"),
        format!("revoke update, delete, truncate on {table} from current_user"),
    ] {
        run(&mut *connection, text).await?;
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, text: String) -> Result<(), sqlx::Error> {
    let done = sqlx::query(AssertSqlSafe(text)).execute(connection);
    done.await.map(drop)
}

async fn is_there(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(connection)
        .await
}

/// What the host's login may not do, a person can arrange; what Postgres does not understand of a
/// definition, its author can mend.
fn permitted(table: &TableName, error: sqlx::Error) -> StoreError {
    let Some(database) = error.as_database_error() else {
        return error.into();
    };
    match database.code().as_deref() {
        Some("42501") => StoreError::Conflict(format!(
            "This host's login may not make or guard {table}. Let an administrator of the database make the table, or give this login the right"
        )),
        Some(code) if code.starts_with("42") => StoreError::Conflict(format!(
            "Postgres does not make or guard {table}: {}",
            database.message()
        )),
        _ => error.into(),
    }
}

impl Store {
    /// Refuses from now on every change of a trail's old table but new rows. Returns whether that was
    /// new.
    pub async fn guard_projection(&self, projection: &Projection) -> Result<bool, StoreError> {
        let (name, table) = (&projection.table, projection.table.quoted());
        let mut tx = self.pool.begin().await?;
        if !is_there(&mut tx, &table).await? {
            return Err(StoreError::NotFound(format!("There is no table {name}")));
        }
        let is_guarded: bool = sqlx::query_scalar(
            "select exists (select from pg_trigger where tgrelid = to_regclass($1) and tgname = 'patchbay_append_only')",
        )
        .bind(&table)
        .fetch_one(&mut *tx)
        .await?;
        if is_guarded {
            return Ok(false);
        }
        guard(&mut tx, &table)
            .await
            .map_err(|error| permitted(name, error))?;
        tx.commit().await?;
        Ok(true)
    }
}
