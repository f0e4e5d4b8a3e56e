//! The interface `sql`.

use std::sync::Arc;

use patchbay_model::sql::{SqlAnswer, SqlError, SqlStatement, SqlValue};
use wasmtime::component::Resource;

use super::new_job;
use super::plugin::{sql, types};
use crate::state::State;

type Answer<T> = wasmtime::Result<Result<T, sql::Error>>;

fn error(error: SqlError) -> sql::Error {
    sql::Error { code: error.code, message: error.message, constraint: error.constraint, retryable: error.retryable }
}

fn statement(text: String, parameters: Vec<sql::Value>, expect_rows: Option<u64>, wants_rows: bool) -> SqlStatement {
    SqlStatement { text, parameters: parameters.into_iter().map(parameter).collect(), expect_rows, wants_rows }
}

fn parameter(value: sql::Value) -> SqlValue {
    match value {
        sql::Value::Null => SqlValue::Null,
        sql::Value::Boolean(value) => SqlValue::Boolean(value),
        sql::Value::Int(value) => SqlValue::Int(value),
        sql::Value::Float(value) => SqlValue::Float(value),
        sql::Value::Text(text) => SqlValue::Text(text),
        sql::Value::Bytes(bytes) => SqlValue::Bytes(bytes),
        sql::Value::Json(text) => SqlValue::Json(text),
    }
}

fn value(value: SqlValue) -> sql::Value {
    match value {
        SqlValue::Null => sql::Value::Null,
        SqlValue::Boolean(value) => sql::Value::Boolean(value),
        SqlValue::Int(value) => sql::Value::Int(value),
        SqlValue::Float(value) => sql::Value::Float(value),
        SqlValue::Text(text) => sql::Value::Text(text),
        SqlValue::Bytes(bytes) => sql::Value::Bytes(bytes),
        SqlValue::Json(text) => sql::Value::Json(text),
    }
}

fn rows(answer: SqlAnswer) -> sql::Rows {
    sql::Rows {
        columns: answer.columns.into_iter().map(|(name, type_name)| sql::Column { name, type_name }).collect(),
        rows: answer.rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect(),
    }
}

impl sql::Host for State {
    async fn query(&mut self, text: String, parameters: Vec<sql::Value>) -> Answer<sql::Rows> {
        Ok(self.sql(statement(text, parameters, None, true)).await?.map(rows).map_err(error))
    }

    async fn execute(&mut self, text: String, parameters: Vec<sql::Value>) -> Answer<u64> {
        Ok(self.sql(statement(text, parameters, None, false)).await?.map(|answer| answer.affected).map_err(error))
    }

    async fn batch(&mut self, statements: Vec<sql::Statement>, jobs: Vec<types::NewJob>) -> Answer<Vec<sql::Rows>> {
        let statements = statements.into_iter().map(|one| statement(one.text, one.parameters, one.expect_rows, true));
        let statements: Vec<SqlStatement> = statements.collect();
        let jobs = match jobs.into_iter().map(new_job).collect::<Result<Vec<_>, _>>() {
            Ok(jobs) => jobs,
            Err(invalid) => return Ok(Err(error(SqlError::new(invalid.code, invalid.message)))),
        };
        let capabilities = Arc::clone(&self.capabilities);
        let answers = self.outside(async move { capabilities.sql_run(statements, jobs).await }).await?;
        Ok(answers.map(|answers| answers.into_iter().map(rows).collect()).map_err(error))
    }

    async fn begin(&mut self) -> Answer<Resource<sql::Transaction>> {
        Ok(self.begin_transaction().await?.map(Resource::new_own).map_err(error))
    }
}

impl sql::HostTransaction for State {
    async fn query(
        &mut self,
        transaction: Resource<sql::Transaction>,
        text: String,
        parameters: Vec<sql::Value>,
    ) -> Answer<sql::Rows> {
        let statement = statement(text, parameters, None, true);
        Ok(self.sql_within(transaction.rep(), statement).await?.map(rows).map_err(error))
    }

    async fn execute(
        &mut self,
        transaction: Resource<sql::Transaction>,
        text: String,
        parameters: Vec<sql::Value>,
    ) -> Answer<u64> {
        let statement = statement(text, parameters, None, false);
        Ok(self.sql_within(transaction.rep(), statement).await?.map(|answer| answer.affected).map_err(error))
    }

    async fn enqueue(&mut self, transaction: Resource<sql::Transaction>, jobs: Vec<types::NewJob>) -> Answer<()> {
        let jobs = match jobs.into_iter().map(new_job).collect::<Result<Vec<_>, _>>() {
            Ok(jobs) => jobs,
            Err(invalid) => return Ok(Err(error(SqlError::new(invalid.code, invalid.message)))),
        };
        let (capabilities, transaction) = (Arc::clone(&self.capabilities), self.transaction(transaction.rep())?);
        Ok(self.outside(async move { capabilities.sql_enqueue(transaction, jobs).await }).await?.map_err(error))
    }

    async fn commit(&mut self, transaction: Resource<sql::Transaction>) -> Answer<()> {
        let transaction = self.transaction(transaction.rep())?;
        Ok(self.outside(async move { transaction.commit().await }).await?.map_err(error))
    }

    async fn drop(&mut self, transaction: Resource<sql::Transaction>) -> wasmtime::Result<()> {
        self.end_transaction(transaction.rep()).await
    }
}
