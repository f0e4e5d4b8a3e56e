//! One login per plugin, with exactly the rights that are granted.
//!
//! Compares the rights in Postgres with the wanted ones and changes the difference, in one
//! transaction; every process may do it at any time. If the host's login may not make such changes,
//! nothing is changed and the error names the statements that an administrator has to run.

use std::collections::BTreeSet;

use patchbay_model::PluginName;
use patchbay_model::sql::{TableAccess, TableName};
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Row};

use super::installation::Installation;
use crate::StoreError;

/// Why a login does not have the rights that it should have.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The rights cannot be granted: change the manifest or the database.
    #[error("{0}")]
    Refused(String),
    /// The host's login may not grant them: an administrator must run these statements.
    #[error("An administrator of the database must run this first ({reason}):\n{}", statements.join(";\n") + ";")]
    NeedsAdministrator {
        reason: String,
        /// To be run in this order.
        statements: Vec<String>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for RoleError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Tables, and what the plugin may do with each.
pub type Wanted = Vec<(TableName, TableAccess)>;

/// Columns that the plugin's login may fill in; Postgres fills in the others.
const OUTBOX_COLUMNS: [&str; 6] = ["plugin", "nonce", "issued_ms", "grants", "payload", "mac"];

/// One right, as Postgres stores it. No relation: on the schema. No column: on all of the relation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    schema: String,
    relation: Option<String>,
    is_sequence: bool,
    column: Option<String>,
    privilege: String,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Right {
    fn on_schema(schema: &str) -> Self {
        Self {
            schema: schema.into(),
            relation: None,
            is_sequence: false,
            column: None,
            privilege: "usage".into(),
        }
    }

    fn on_table(schema: &str, table: &str, column: Option<&str>, privilege: &str) -> Self {
        Self {
            schema: schema.into(),
            relation: Some(table.into()),
            is_sequence: false,
            column: column.map(Into::into),
            privilege: privilege.into(),
        }
    }

    /// For example `select (a) on table s.t`.
    fn text(&self) -> String {
        let column = self
            .column
            .as_deref()
            .map(|column| format!(" ({})", quoted(column)))
            .unwrap_or_default();
        let object = match &self.relation {
            None => format!("schema {}", quoted(&self.schema)),
            Some(relation) => {
                let kind = if self.is_sequence {
                    "sequence"
                } else {
                    "table"
                };
                format!("{kind} {}.{}", quoted(&self.schema), quoted(relation))
            }
        };
        format!("{}{column} on {object}", self.privilege)
    }
}

/// Refuses tables that would give a plugin more rights than its manifest asks for, or none.
pub(super) async fn check_tables(pool: &PgPool, wanted: &Wanted) -> Result<(), RoleError> {
    let schemas: BTreeSet<&str> = wanted.iter().map(|(table, _)| table.schema()).collect();
    for (table, access) in wanted {
        let oid = oid_of(&mut *pool.acquire().await?, table).await?;
        let Some(oid) = oid else {
            return Err(RoleError::Refused(format!(
                "There is no table {table}. Make it first: plugins have theirs in tables.sql, beside plugin.toml"
            )));
        };
        let columns: Vec<String> = sqlx::query_scalar(
            "select attname::text from pg_attribute where attrelid = $1::int8::oid and attnum > 0 and not attisdropped",
        )
        .bind(oid)
        .fetch_all(pool)
        .await?;
        if let Some(missing) = access
            .columns
            .iter()
            .find(|column| !columns.contains(column))
        {
            return Err(RoleError::Refused(format!(
                "{table} has no column {missing}"
            )));
        }
    }
    for schema in schemas {
        let open: bool = sqlx::query_scalar(
            "select exists (select from pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a \
             where nspname = $1 and a.grantee = 0 and a.privilege_type = 'CREATE')",
        )
        .bind(schema)
        .fetch_one(pool)
        .await?;
        if open {
            return Err(RoleError::Refused(format!(
                "Every login may create objects in the schema {schema}, and so could the plugin. Run this first: revoke create on schema {} from public",
                quoted(schema)
            )));
        }
        let definer: Option<String> = sqlx::query_scalar(
            "select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace, \
               aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a \
             where n.nspname = $1 and p.prosecdef and a.grantee = 0 and a.privilege_type = 'EXECUTE' \
               and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype) order by 1 limit 1",
        )
        .bind(schema)
        .fetch_optional(pool)
        .await?;
        if let Some(function) = definer {
            return Err(RoleError::Refused(format!(
                "Every login may call {function}, which runs with its owner's rights (SECURITY DEFINER), and so could the plugin. \
                 Run this first: revoke execute on function {function} from public"
            )));
        }
    }
    Ok(())
}

/// Looked up in the catalogue: `to_regclass` fails where the host's login may not use the schema.
async fn oid_of(
    connection: &mut PgConnection,
    table: &TableName,
) -> Result<Option<i64>, RoleError> {
    let oid = sqlx::query_scalar(
        "select c.oid::int8 from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'v', 'm', 'p', 'f')",
    );
    Ok(oid
        .bind(table.schema())
        .bind(table.table())
        .fetch_optional(connection)
        .await?)
}

/// Gives the login exactly the wanted rights.
pub(super) async fn reconcile(
    pool: &PgPool,
    installation: &Installation,
    plugin: &PluginName,
    wanted: &Wanted,
) -> Result<(), RoleError> {
    let role = installation.role(plugin);
    let mut tx = pool.begin().await?;
    // One process at a time. No plugin can hold this lock.
    sqlx::query("select from installation for update")
        .execute(&mut *tx)
        .await?;
    let Some(statements) = plan(&mut tx, installation, &role, wanted).await? else {
        return Ok(());
    };
    for statement in &statements {
        if let Err(error) = (&mut *tx).execute(AssertSqlSafe(statement.clone())).await {
            let Some(database) = error.as_database_error() else {
                return Err(error.into());
            };
            let message = database.message().to_owned();
            return Err(match database.code().as_deref() {
                Some("42501") => RoleError::NeedsAdministrator {
                    reason: message,
                    statements,
                },
                // There is no such schema, table or column.
                Some("3F000" | "42P01" | "42703") => RoleError::Refused(message),
                _ => error.into(),
            });
        }
    }
    // Postgres only warns where the host's login may not grant a right, so this checks again.
    if let Some(left) = plan(&mut tx, installation, &role, wanted).await? {
        let reason = "the host's login lacks the grant option, or another login granted the rights"
            .to_owned();
        return Err(RoleError::NeedsAdministrator {
            reason,
            statements: if left.len() < statements.len() {
                left
            } else {
                statements
            },
        });
    }
    tx.commit().await?;
    tracing::info!(%plugin, role, changes = statements.len(), "The rights of the plugin's database login have changed");
    Ok(())
}

/// The statements that are needed; `None` when all rights are as wanted.
async fn plan(
    connection: &mut PgConnection,
    installation: &Installation,
    role: &str,
    wanted: &Wanted,
) -> Result<Option<Vec<String>>, RoleError> {
    let quoted_role = quoted(role);
    let known = sqlx::query(
        "select oid::int8 as oid, rolcanlogin and not (rolsuper or rolinherit or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls) as fits, \
           array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid) as memberships, \
           pg_has_role(oid, 'usage') as may_signal, quote_ident(current_user) as us \
         from pg_roles r where rolname = $1",
    )
    .bind(role)
    .fetch_optional(&mut *connection)
    .await?;
    if known.is_none() && wanted.is_empty() {
        return Ok(None);
    }
    let mut statements = Vec::new();
    let mut oid = None;
    match &known {
        None => {
            statements.push(format!(
                "create role {quoted_role} login noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls password '{}'",
                installation.verifier(role)
            ));
            let us: String = sqlx::query_scalar("select quote_ident(current_user) where not (select rolsuper from pg_roles where rolname = current_user)")
                .fetch_optional(&mut *connection)
                .await?
                .unwrap_or_default();
            if !us.is_empty() {
                statements.push(format!("grant {quoted_role} to {us}"));
            }
        }
        Some(row) => {
            oid = Some(row.try_get::<i64, _>("oid")?);
            if !row.try_get::<bool, _>("fits")? {
                statements.push(format!(
                    "alter role {quoted_role} login noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls"
                ));
            }
            for group in row.try_get::<Vec<String>, _>("memberships")? {
                statements.push(format!("revoke {} from {quoted_role}", quoted(&group)));
            }
            // The host needs this to end the login's backends.
            if !row.try_get::<bool, _>("may_signal")? {
                statements.push(format!(
                    "grant {quoted_role} to {}",
                    row.try_get::<String, _>("us")?
                ));
            }
        }
    }
    let wanted = rights(&mut *connection, wanted).await?;
    // Not with OID 0 for a login that does not exist yet: 0 means everybody.
    let actual = match oid {
        Some(oid) => actual(&mut *connection, oid).await?,
        None => BTreeSet::new(),
    };
    statements.extend(
        actual
            .difference(&wanted)
            .map(|right| format!("revoke {} from {quoted_role} cascade", right.text())),
    );
    statements.extend(
        wanted
            .difference(&actual)
            .map(|right| format!("grant {} to {quoted_role}", right.text())),
    );
    Ok((!statements.is_empty()).then_some(statements))
}

async fn rights(
    connection: &mut PgConnection,
    wanted: &Wanted,
) -> Result<BTreeSet<Right>, RoleError> {
    let mut rights = BTreeSet::new();
    for (table, access) in wanted {
        rights.insert(Right::on_schema(table.schema()));
        let on = |column| {
            Right::on_table(
                table.schema(),
                table.table(),
                column,
                access.privilege.as_str(),
            )
        };
        if access.columns.is_empty() {
            rights.insert(on(None));
        }
        rights.extend(access.columns.iter().map(|column| on(Some(column))));
        if access.privilege != patchbay_model::sql::Privilege::Insert {
            continue;
        }
        let Some(oid) = oid_of(&mut *connection, table).await? else {
            continue;
        };
        // Sequences of serial columns.
        let sequences = sqlx::query(
            "select n.nspname::text as schema, s.relname::text as name from pg_depend d \
               join pg_class s on s.oid = d.objid and s.relkind = 'S' join pg_namespace n on n.oid = s.relnamespace \
             where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'a' \
               and d.refobjid = $1::int8::oid",
        )
        .bind(oid)
        .fetch_all(&mut *connection)
        .await?;
        for row in sequences {
            let right =
                Right::on_table(row.try_get("schema")?, row.try_get("name")?, None, "usage");
            rights.insert(Right {
                is_sequence: true,
                ..right
            });
        }
    }
    if !wanted.is_empty() {
        rights.insert(Right::on_schema("patchbay_outbox"));
        rights.extend(
            OUTBOX_COLUMNS
                .map(|column| Right::on_table("patchbay_outbox", "jobs", Some(column), "insert")),
        );
    }
    Ok(rights)
}

async fn actual(connection: &mut PgConnection, role: i64) -> Result<BTreeSet<Right>, RoleError> {
    let rows = sqlx::query(
        "select nspname::text as schema, null::text as relation, false as is_sequence, null::text as attribute, lower(a.privilege_type) as privilege \
           from pg_namespace, aclexplode(nspacl) a where a.grantee = $1::int8::oid \
         union all \
         select n.nspname::text, c.relname::text, c.relkind = 'S', null, lower(a.privilege_type) \
           from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) a where a.grantee = $1::int8::oid \
         union all \
         select n.nspname::text, c.relname::text, false, t.attname::text, lower(a.privilege_type) \
           from pg_attribute t join pg_class c on c.oid = t.attrelid join pg_namespace n on n.oid = c.relnamespace, \
             aclexplode(t.attacl) a where a.grantee = $1::int8::oid and not t.attisdropped",
    )
    .bind(role)
    .fetch_all(connection)
    .await?;
    let right = |row: sqlx::postgres::PgRow| {
        Ok(Right {
            schema: row.try_get("schema")?,
            relation: row.try_get("relation")?,
            is_sequence: row.try_get("is_sequence")?,
            column: row.try_get("attribute")?,
            privilege: row.try_get("privilege")?,
        })
    };
    rows.into_iter().map(right).collect()
}
