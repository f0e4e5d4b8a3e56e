//! Statements of Postgres: parameters, rows, and what an error means for whoever asked.

use patchbay_plugin::queue::NewJob;
use patchbay_plugin::sql::{self, Statement, Value as Cell};
use patchbay_plugin::{Failure, Retry, Value, json};

pub type Row = Vec<Cell>;

const UNIQUE_VIOLATION: &str = "23505";

/// A statement that did not do what was asked.
#[derive(Debug)]
pub struct Failed(sql::Error);

impl Failed {
    pub fn is_duplicate(&self) -> bool {
        self.0.code == UNIQUE_VIOLATION
    }
}

impl From<Failed> for Failure {
    fn from(Failed(error): Failed) -> Self {
        let (code, retry) = match error.code.as_str() {
            "denied" | "42501" => ("not-granted", Retry::Never),
            "unavailable" | "timeout" => ("unavailable", Retry::Backoff),
            _ if error.retryable => ("unavailable", Retry::Backoff),
            _ => ("database", Retry::Never),
        };
        Failure::new(
            code,
            format!("database: {} ({})", error.message, error.code),
            retry,
        )
    }
}

pub fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

pub fn optional(text: Option<&str>) -> Cell {
    text.map_or(Cell::Null, |text| Cell::Text(text.to_owned()))
}

pub fn number(number: Option<i64>) -> Cell {
    number.map_or(Cell::Null, Cell::Int)
}

pub fn document(value: &Value) -> Cell {
    Cell::Json(value.to_string())
}

pub fn query(statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, Failed> {
    sql::query(statement, parameters)
        .map(|answer| answer.rows)
        .map_err(Failed)
}

pub fn execute(statement: &str, parameters: &[Cell]) -> Result<u64, Failed> {
    sql::execute(statement, parameters).map_err(Failed)
}

/// Everything or nothing; the rows of each statement.
pub fn batch(statements: Vec<Statement>, jobs: &[NewJob]) -> Result<Vec<Vec<Row>>, Failed> {
    let answers = sql::batch(&statements, jobs).map_err(Failed)?;
    Ok(answers.into_iter().map(|answer| answer.rows).collect())
}

pub fn statement(text: &str, parameters: Vec<Cell>) -> Statement {
    Statement {
        text: text.to_owned(),
        parameters,
        expect_rows: None,
    }
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

pub fn is_true(row: &[Cell], place: usize) -> bool {
    matches!(row.get(place), Some(Cell::Boolean(true)))
}

/// The text in a column, if there is one.
pub fn text_at(row: &[Cell], place: usize) -> Option<&str> {
    match row.get(place) {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
}

/// As JSON.
pub fn value(cell: Option<&Cell>) -> Value {
    match cell {
        Some(Cell::Boolean(value)) => json!(value),
        Some(Cell::Int(value)) => json!(value),
        Some(Cell::Float(value)) => json!(value),
        Some(Cell::Text(text)) => json!(text),
        Some(Cell::Json(text)) => patchbay_plugin::parse(text).unwrap_or(Value::Null),
        Some(Cell::Null | Cell::Bytes(_)) | None => Value::Null,
    }
}
