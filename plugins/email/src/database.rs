//! Statements of Postgres: parameters, rows, and what an error means for whoever asked; likewise of
//! the key-value space.

use patchbay_plugin::bindings::patchbay::plugin::types::CapabilityError;
use patchbay_plugin::sql::{self, Value as Cell};
use patchbay_plugin::{Failure, Retry, Value};

/// While Postgres is away, a job waits so long without using up an attempt.
const AWAY_MS: u64 = 30_000;
/// A value that the column's type cannot hold: no UUID.
pub const UNREADABLE: &str = "22P02";
pub const UNIQUE_VIOLATION: &str = "23505";

pub type Row = Vec<Cell>;

pub fn query(statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, sql::Error> {
    sql::query(statement, parameters).map(|answer| answer.rows)
}

/// What an error that was not expected means.
pub fn failed(error: sql::Error) -> Failure {
    let told = |code: &str, retry| {
        Failure::new(
            code,
            format!("database: {} ({})", error.message, error.code),
            retry,
        )
    };
    match error.code.as_str() {
        "denied" | "42501" => told("not-granted", Retry::Never),
        "unavailable" | "timeout" => told("unavailable", Retry::DeferMs(AWAY_MS)),
        _ if error.retryable => told("unavailable", Retry::DeferMs(AWAY_MS)),
        // A table or column that is not as expected stays so.
        _ => told("database", Retry::Never),
    }
}

/// Without the key-value space we might send twice; the host's Redis is back soon, or the job could
/// not have started.
pub fn kv_failed(error: CapabilityError) -> Failure {
    Failure::new(
        "unavailable",
        format!("key-value: {}", error.message),
        Retry::Backoff,
    )
}

pub fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

pub fn optional(text: Option<&str>) -> Cell {
    text.map_or(Cell::Null, |text| Cell::Text(text.to_owned()))
}

pub fn number(value: Option<i64>) -> Cell {
    value.map_or(Cell::Null, Cell::Int)
}

/// The number in a column; 0 for anything else.
pub fn int(row: &[Cell], place: usize) -> i64 {
    match row.get(place) {
        Some(Cell::Int(value)) => *value,
        _ => 0,
    }
}

/// The text in a column, if there is one.
pub fn text_at(row: &[Cell], place: usize) -> Option<String> {
    match row.get(place) {
        Some(Cell::Text(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The JSON in a column.
pub fn json_at(row: &[Cell], place: usize) -> Value {
    match row.get(place) {
        Some(Cell::Json(text)) => patchbay_plugin::parse(text).unwrap_or(Value::Null),
        _ => Value::Null,
    }
}
