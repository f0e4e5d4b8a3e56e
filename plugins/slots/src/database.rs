//! Statements of Postgres: parameters, rows, and what an error means for whoever asked.

use patchbay_plugin::sql::{self, Statement, Value as Cell};
use patchbay_plugin::{Failure, Retry, Value, json};

use crate::time::Millis;

/// What Postgres answers when a lock was not free in time, or two waited for each other; and what
/// the host answers when a statement took too long.
const BUSY: [&str; 3] = ["55P03", "40P01", "timeout"];
/// A value that the column's type cannot hold: no such label of the enum, no UUID.
const UNREADABLE: &str = "22P02";

/// How long a transaction waits for a lock, while it holds others itself.
const LOCK_TIMEOUT: &str = "500ms";
/// How long one statement of a batch may take; a smaller batch is tried then.
const STATEMENT_TIMEOUT: &str = "5s";
const LIMITS: &str =
    "select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)";

pub type Row = Vec<Cell>;

/// A statement that did not do what was asked.
#[derive(Debug)]
pub struct Failed(pub sql::Error);

impl Failed {
    /// Somebody else holds a lock, or the batch was too large: it may go better with a smaller one.
    pub fn is_busy(&self) -> bool {
        BUSY.contains(&self.0.code.as_str())
    }

    pub fn is_unreadable(&self) -> bool {
        self.0.code == UNREADABLE
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        let error = failed.0;
        let told = |code: &str, retry| {
            Failure::new(code, format!("{}: {}", error.code, error.message), retry)
        };
        match error.code.as_str() {
            "denied" | "42501" => told("not-granted", Retry::Never),
            "unavailable" | "timeout" => told("unavailable", Retry::Backoff),
            // A status of the settings, mostly: nothing else that we send is free text.
            UNREADABLE => told("bad-settings", Retry::Never),
            _ if error.retryable => told("unavailable", Retry::Backoff),
            // A table or column that is not as expected stays so.
            _ => told("database", Retry::Never),
        }
    }
}

pub fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

/// An array of any type.
pub fn array<T: Into<Value> + Clone>(items: &[T]) -> Cell {
    Cell::Json(Value::Array(items.iter().cloned().map(Into::into).collect()).to_string())
}

pub fn query(statement: &str, parameters: Vec<Cell>) -> Result<Vec<Row>, Failed> {
    sql::query(statement, &parameters)
        .map(|answer| answer.rows)
        .map_err(Failed)
}

/// Statements in one transaction that waits for locks only shortly. Gives the rows of the last.
pub fn transaction(
    statements: impl IntoIterator<Item = (String, Vec<Cell>)>,
) -> Result<Vec<Row>, Failed> {
    let limits = vec![text(LOCK_TIMEOUT), text(STATEMENT_TIMEOUT)];
    let all = std::iter::once((LIMITS.to_owned(), limits)).chain(statements);
    let all = all.map(|(text, parameters)| Statement {
        text,
        parameters,
        expect_rows: None,
    });
    let all: Vec<Statement> = all.collect();
    let mut answers = sql::batch(&all, &[]).map_err(Failed)?;
    Ok(answers.pop().map(|answer| answer.rows).unwrap_or_default())
}

/// Postgres's clock: one for all hosts.
pub fn now() -> Result<Millis, Failed> {
    let rows = query("select (extract(epoch from now()) * 1000)::int8", vec![])?;
    Ok(rows.first().map_or(0, |row| int(row, 0)))
}

/// The number in a column; 0 for anything else.
pub fn int(row: &[Cell], place: usize) -> i64 {
    match row.get(place) {
        Some(Cell::Int(value)) => *value,
        // numeric: sums of bigint.
        Some(Cell::Text(text)) => text.parse().unwrap_or_default(),
        _ => 0,
    }
}

/// The text in a column, if there is one.
pub fn text_at(row: &[Cell], place: usize) -> Option<&str> {
    match row.get(place) {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
}

/// As JSON: for columns whose type is the table's business, such as ids.
pub fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Boolean(value) => json!(value),
        Cell::Int(value) => json!(value),
        Cell::Float(value) => json!(value),
        Cell::Text(text) => json!(text),
        Cell::Json(text) => patchbay_plugin::parse(text).unwrap_or(Value::Null),
        Cell::Null | Cell::Bytes(_) => Value::Null,
    }
}
