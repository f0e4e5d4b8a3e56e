//! Database access of plugins: what a manifest asks for, statements, answers, and their trait.
//!
//! The trait is between `capability`, which decides who may, and `store`, which owns Postgres.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::PluginName;
use crate::job::NewJob;

/// Schemas that no plugin may use: Postgres's own and the host's.
const RESERVED_SCHEMAS: [&str; 4] = [
    "information_schema",
    "patchbay",
    "patchbay_outbox",
    "pg_catalog",
];
/// Postgres cuts off longer names, and two cut names may be equal.
const MAX_NAME_BYTES: usize = 63;

/// `[sql]` of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlSpec {
    pub tables: BTreeMap<TableName, Vec<TableAccess>>,
}

impl SqlSpec {
    /// Refuses an empty list of tables or privileges, and a privilege that is named twice.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        if self.tables.is_empty() {
            return Err(("sql.tables".into(), "name at least one table".into()));
        }
        for (table, accesses) in &self.tables {
            let key = format!("sql.tables.{table}");
            if accesses.is_empty() {
                return Err((
                    key,
                    "name at least one of select, insert, update and delete".into(),
                ));
            }
            let mut seen = BTreeSet::new();
            if let Some(twice) = accesses
                .iter()
                .find(|access| !seen.insert(access.privilege))
            {
                return Err((key, format!("{} is named twice", twice.privilege)));
            }
        }
        Ok(())
    }

    pub fn accesses(&self) -> impl Iterator<Item = (&TableName, &TableAccess)> {
        self.tables
            .iter()
            .flat_map(|(table, accesses)| accesses.iter().map(move |access| (table, access)))
    }
}

/// What may be done with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Privilege {
    Select,
    Insert,
    Update,
    Delete,
}

impl Privilege {
    const ALL: [Self; 4] = [Self::Select, Self::Insert, Self::Update, Self::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A table or view with its schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    schema: String,
    table: String,
}

impl TableName {
    pub fn schema(&self) -> &str {
        &self.schema
    }
    pub fn table(&self) -> &str {
        &self.table
    }
    /// For a statement. Names hold no quotes, so nothing is escaped.
    pub fn quoted(&self) -> String {
        format!("\"{}\".\"{}\"", self.schema, self.table)
    }
}

/// Of a schema, a table or a column: nothing in it needs to be escaped between quotes.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if fits {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is not a valid name; use letters, digits and '_'"
        ))
    }
}

impl FromStr for TableName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((schema, table)) = text.split_once('.') else {
            return Err(format!(
                "{text:?} must name its schema, as in \"public.{text}\""
            ));
        };
        check_name(schema)?;
        check_name(table)?;
        if RESERVED_SCHEMAS.contains(&schema) || schema.starts_with("pg_") {
            return Err(format!("tables of the schema {schema} cannot be used"));
        }
        Ok(Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
        })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

text_form!(TableName);

/// `select` or `select(id, phone)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableAccess {
    pub privilege: Privilege,
    /// Only these columns; empty means the whole table. Sorted.
    pub columns: BTreeSet<String>,
}

impl TableAccess {
    /// `(id, phone)`, or nothing.
    pub fn column_list(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        format!(
            "({})",
            self.columns
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        )
    }
}

impl FromStr for TableAccess {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, list) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => {
                let list = rest
                    .trim_end()
                    .strip_suffix(')')
                    .ok_or_else(|| format!("{text:?} has no closing ')'"))?;
                (name, Some(list))
            }
        };
        let privilege = Privilege::ALL
            .into_iter()
            .find(|privilege| privilege.as_str() == name.trim());
        let privilege = privilege
            .ok_or_else(|| format!("{name:?} must be select, insert, update or delete"))?;
        let mut columns = BTreeSet::new();
        for column in list
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(str::trim)
        {
            check_name(column)?;
            columns.insert(column.to_owned());
        }
        if privilege == Privilege::Delete && !columns.is_empty() {
            return Err("delete takes no columns, because it deletes whole rows".into());
        }
        Ok(Self { privilege, columns })
    }
}

impl fmt::Display for TableAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.privilege, self.column_list())
    }
}

text_form!(TableAccess);

#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    Null,
    Boolean(bool),
    Int(i64),
    Float(f64),
    /// Also numeric, uuid, date, time, timestamp (RFC 3339), interval, inet, enums.
    Text(String),
    Bytes(Vec<u8>),
    /// json, jsonb and arrays.
    Json(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct SqlStatement {
    pub text: String,
    /// `$1`, `$2`, …
    pub parameters: Vec<SqlValue>,
    /// Refused as `P0002` unless exactly this many rows are affected.
    pub expect_rows: Option<u64>,
    pub wants_rows: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SqlAnswer {
    /// Each column's name, and Postgres's name of its type.
    pub columns: Vec<(String, String)>,
    /// Only rows that the caller wanted.
    pub rows: Vec<Vec<SqlValue>>,
    /// Rows affected, or returned.
    pub affected: u64,
}

/// Why a statement was not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct SqlError {
    /// SQLSTATE, or `denied`, `timeout`, `too-large`, `invalid`, `unavailable`.
    pub code: String,
    /// Safe for the guest to see.
    pub message: String,
    pub constraint: Option<String>,
    /// Whether the same statement may work later.
    pub retryable: bool,
}

impl SqlError {
    /// An error of the host's own, not retryable.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            constraint: None,
            retryable: false,
        }
    }
    /// Not in the manifest, not granted, or not possible now.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new("denied", message)
    }
    pub fn timeout(message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::new("timeout", message)
        }
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::new("unavailable", message)
        }
    }
}

/// Jobs that are added when a transaction commits.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlJobs {
    /// Already checked: the queues are the plugin's own, or granted.
    pub jobs: Vec<NewJob>,
    /// The grants that allow it, for the record.
    pub grants: Vec<String>,
}

/// Runs statements of plugins, each plugin under its own login.
#[async_trait]
pub trait PluginDatabase: Send + Sync + 'static {
    /// Everything in one transaction, or nothing. Ends by `deadline`, also on the server.
    async fn run(
        &self,
        plugin: &PluginName,
        deadline: Instant,
        statements: Vec<SqlStatement>,
        jobs: Option<SqlJobs>,
    ) -> Result<Vec<SqlAnswer>, SqlError>;

    /// Begins a transaction that ends by itself at `deadline`.
    async fn begin(
        &self,
        plugin: &PluginName,
        deadline: Instant,
    ) -> Result<std::sync::Arc<dyn SqlTransaction>, SqlError>;
}

/// An open transaction. Dropping it without a commit rolls it back.
#[async_trait]
pub trait SqlTransaction: Send + Sync + 'static {
    async fn run(&self, statement: SqlStatement) -> Result<SqlAnswer, SqlError>;
    async fn enqueue(&self, jobs: SqlJobs) -> Result<(), SqlError>;
    async fn commit(&self) -> Result<(), SqlError>;
    /// Whether it has neither been committed nor ended by itself.
    fn is_open(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_lists_are_read_in_any_order_and_written_in_one() {
        let access: TableAccess = "select( phone,id )".parse().expect("valid");
        assert_eq!(access.to_string(), "select(id, phone)");
        assert_eq!(
            "insert".parse::<TableAccess>().expect("valid").to_string(),
            "insert"
        );
        for wrong in [
            "drop",
            "select(",
            "select()",
            "select(a b)",
            "select(\"a\")",
            "delete(a)",
            "truncate",
        ] {
            assert!(wrong.parse::<TableAccess>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_table_needs_a_schema_and_not_one_of_the_hosts() {
        assert!("crm.leads".parse::<TableName>().is_ok());
        for wrong in [
            "leads",
            "patchbay.revisions",
            "pg_catalog.pg_authid",
            "pg_toast.x",
            "a.b.c",
            "a.\"b",
            ".b",
        ] {
            assert!(wrong.parse::<TableName>().is_err(), "{wrong}");
        }
    }
}
