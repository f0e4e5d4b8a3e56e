//! Runs one statement of a guest, on a connection with an open transaction.
//!
//! In the extended protocol Postgres itself refuses a second statement in one text. The check of
//! the first keyword refuses what would end the transaction or change the session.

use std::pin::pin;

use futures::StreamExt;
use patchbay_model::sql::{SqlAnswer, SqlError, SqlStatement, SqlValue};
use sqlx::{
    AssertSqlSafe, Column, Either, Executor, PgConnection, Row, SqlSafeStr, Statement, TypeInfo,
};

use super::{error, parameters, rows};

const KEYWORDS: [&str; 7] = [
    "select", "insert", "update", "delete", "merge", "with", "values",
];
/// Limit for a statement's text. Data belongs in parameters.
const MAX_TEXT_BYTES: usize = 256 << 10;
/// Limit for the rows of one transaction: what a call with 64 MiB of memory can hold.
const MAX_ROWS: usize = 10_000;
/// Limit for the bytes of their values.
const MAX_BYTES: usize = 4 << 20;

/// What the statements of one transaction may still return.
pub(super) struct Budget {
    rows: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            rows: MAX_ROWS,
            bytes: MAX_BYTES,
        }
    }
}

pub(super) enum Failed {
    /// The connection is in order; the transaction has failed.
    Statement(SqlError),
    /// Postgres is still sending, or is gone.
    Connection(SqlError),
}

impl From<SqlError> for Failed {
    fn from(error: SqlError) -> Self {
        Self::Statement(error)
    }
}

impl Failed {
    fn of(error: &sqlx::Error) -> Self {
        let stale_plan = error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code == "0A000");
        let told = error::guest(error);
        // A table was altered after the statement was prepared: another connection prepares again.
        if error.as_database_error().is_none() || stale_plan {
            Self::Connection(told)
        } else {
            Self::Statement(told)
        }
    }
}

/// Allows only the few statements that change neither the transaction's state nor the session.
pub(super) fn check(text: &str) -> Result<(), SqlError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(SqlError::new(
            "too-large",
            format!("a statement can have at most {MAX_TEXT_BYTES} bytes; use parameters"),
        ));
    }
    if text.contains('\0') {
        return Err(SqlError::new("invalid", "a statement must not contain NUL"));
    }
    let rest = after_comments(text).unwrap_or_default();
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    let keyword = rest[..end].to_ascii_lowercase();
    if KEYWORDS.contains(&keyword.as_str()) {
        return Ok(());
    }
    Err(SqlError::denied(format!(
        "a statement must begin with one of {}",
        KEYWORDS.join(", ").to_ascii_uppercase()
    )))
}

/// Skips white space, comments (they nest, as in Postgres) and opening parentheses.
fn after_comments(mut text: &str) -> Option<&str> {
    loop {
        text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '(');
        if let Some(line) = text.strip_prefix("--") {
            text = line.split_once(['\n', '\r'])?.1;
        } else if text.starts_with("/*") {
            text = after_block_comment(text)?;
        } else {
            return Some(text);
        }
    }
}

fn after_block_comment(text: &str) -> Option<&str> {
    let (mut depth, mut at) = (0usize, 0usize);
    loop {
        let rest = text.get(at..)?;
        let (open, close) = (rest.find("/*"), rest.find("*/"));
        match (open, close) {
            (Some(open), Some(close)) if open < close => {
                depth += 1;
                at += open + 2;
            }
            (_, Some(close)) => {
                depth -= 1;
                at += close + 2;
                if depth == 0 {
                    return text.get(at..);
                }
            }
            _ => return None,
        }
    }
}

pub(super) async fn run(
    connection: &mut PgConnection,
    statement: SqlStatement,
    budget: &mut Budget,
) -> Result<SqlAnswer, Failed> {
    check(&statement.text)?;
    let text = AssertSqlSafe(statement.text).into_sql_str();
    let prepared = (&mut *connection)
        .prepare(text.clone())
        .await
        .map_err(|error| Failed::of(&error))?;
    let types = match prepared.parameters() {
        Some(Either::Left(types)) => types.to_vec(),
        _ => Vec::new(),
    };
    let columns: Vec<(String, String)> = prepared
        .columns()
        .iter()
        .map(|column| {
            (
                column.name().to_owned(),
                column.type_info().name().to_ascii_lowercase(),
            )
        })
        .collect();
    let arguments = parameters::convert(connection, statement.parameters, &types).await?;
    let mut answer = SqlAnswer {
        columns,
        ..SqlAnswer::default()
    };
    {
        let mut results = pin!((&mut *connection).fetch_many(sqlx::query_with(text, arguments)));
        while let Some(result) = results.next().await {
            match result.map_err(|error| Failed::of(&error))? {
                Either::Left(done) => answer.affected += done.rows_affected(),
                Either::Right(row) if statement.wants_rows => answer.rows.push(take(&row, budget)?),
                Either::Right(_) => {}
            }
        }
    }
    if let Some(expected) = statement
        .expect_rows
        .filter(|&expected| expected != answer.affected)
    {
        let message = format!(
            "{} rows are affected instead of {expected}",
            answer.affected
        );
        return Err(SqlError::new("P0002", message).into());
    }
    Ok(answer)
}

fn take(row: &sqlx::postgres::PgRow, budget: &mut Budget) -> Result<Vec<SqlValue>, Failed> {
    let too_large = |what: String| Failed::Connection(SqlError::new("too-large", what));
    if budget.rows == 0 {
        return Err(too_large(format!(
            "at most {MAX_ROWS} rows per transaction: use LIMIT"
        )));
    }
    budget.rows -= 1;
    let mut values = Vec::with_capacity(row.columns().len());
    for place in 0..row.columns().len() {
        let raw = row.try_get_raw(place).map_err(|error| Failed::of(&error))?;
        let (value, bytes) = rows::value(&raw).map_err(|reason| {
            let name = row.column(place).name();
            Failed::Connection(SqlError::new("invalid", format!("column {name}: {reason}")))
        })?;
        budget.bytes = budget.bytes.checked_sub(bytes).ok_or_else(|| {
            too_large(format!(
                "at most {MAX_BYTES} bytes of values per transaction"
            ))
        })?;
        values.push(value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_statements_that_leave_transaction_and_session_alone_may_begin() {
        for fine in [
            "select 1",
            "  SELECT 1",
            "-- a comment\nselect 1",
            "/* a /* nested */ one */ select 1",
            "(select 1) union (select 2)",
            "with a as (select 1) select * from a",
            "values (1)",
            "select/**/1",
            "merge into a using b on true when matched then delete",
        ] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "",
            "commit",
            "/* select */ commit",
            "-- select\ncommit",
            "set role x",
            "copy a to program 'x'",
            "do $$ begin end $$",
            "call a()",
            "selects",
            "select_ 1",
            "begin; select 1",
            "explain analyze select 1",
            "prepare transaction 'a'",
            "listen a",
            "/* select 1",
            "--select 1",
            "select '\0'",
            "table a",
            "declare c cursor for select 1",
            "\u{a0}select 1",
            "create table a ()",
            "truncate a",
            "lock table a",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
