//! Tables of the old backend to which an entry is written, too, in the same transaction. They are
//! copies: the ledger is what counts.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection};
use tracing::error;

use crate::StoreError;

/// What the old backend calls an action; it knows no others.
const LOGIN_ACTIONS: [&str; 3] = ["login", "logout", "master_login"];
/// Its table.
const LOGIN_LOGS: &str = "public.login_logs";

/// What `login_logs` of the old backend has of an entry.
pub(super) struct LoginLog<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) action: &'a str,
    pub(super) address: Option<IpAddr>,
    pub(super) user_agent: Option<&'a Value>,
}

/// Writes to `login_logs` of the old backend, if it has that table. A table that does not take the
/// row does not stop a login: that is logged, and the entry stays.
pub(super) async fn login_log(
    connection: &mut PgConnection,
    id: i64,
    login: &LoginLog<'_>,
) -> Result<(), StoreError> {
    if !LOGIN_ACTIONS.contains(&login.action) {
        return Ok(());
    }
    let mut row = Map::new();
    row.insert("userId".into(), json!(login.user));
    row.insert("action".into(), json!(login.action));
    row.insert("ipAddress".into(), json!(login.address));
    row.insert("userAgent".into(), json!(login.user_agent));
    row.insert("timestamp".into(), Value::Null);
    project(connection, LOGIN_LOGS, id, row).await
}

async fn project(
    connection: &mut PgConnection,
    table: &'static str,
    id: i64,
    mut row: Map<String, Value>,
) -> Result<(), StoreError> {
    let mut inner = connection.begin().await?;
    let written = async {
        // Columns that the table lacks are left out.
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select a.attname::text, format_type(a.atttypid, null) from pg_attribute a \
             where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped",
        )
        .bind(table)
        .fetch_all(&mut *inner)
        .await?;
        if columns.is_empty() {
            return Ok(());
        }
        // An id of its own where it is a number: the table's other writer counts them.
        if let Some((_, kind)) = columns.iter().find(|(name, _)| name == "id")
            && ["uuid", "text", "character varying"].contains(&kind.as_str())
        {
            row.insert("id".into(), json!(uuid_of(table, id)));
        }
        let at = "select at from audit_entries where id = $1";
        if row.contains_key("timestamp") {
            let at: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(at)
                .bind(id)
                .fetch_one(&mut *inner)
                .await?;
            row.insert("timestamp".into(), json!(at));
        }
        let names: Vec<String> = columns
            .iter()
            .filter(|(name, _)| row.contains_key(name))
            .map(|(name, _)| format!("\"{}\"", name.replace('"', "\"\"")))
            .collect();
        let names = names.join(", ");
        // Postgres turns each value into its column's type.
        let text = format!(
            "insert into {table} ({names}) select {names} from jsonb_populate_record(null::{table}, $1)"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(Value::Object(row));
        query.execute(&mut *inner).await?;
        Ok::<_, sqlx::Error>(())
    };
    match written.await {
        Ok(()) => Ok(inner.commit().await?),
        Err(problem @ sqlx::Error::Database(_)) => {
            error!(error = %problem, table, "an audit entry was not written to the old backend's table; the entry itself is kept");
            Ok(inner.rollback().await?)
        }
        Err(other) => Err(other.into()),
    }
}

/// The id in the old table: the same for the same entry, so that the two can be compared.
fn uuid_of(table: &str, id: i64) -> uuid::Uuid {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("patchbay audit entry\0{table}\0{id}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
