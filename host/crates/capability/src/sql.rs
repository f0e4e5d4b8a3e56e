//! Statements and transactions in the operator's tables, each plugin under its own login.

use std::sync::Arc;

use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_model::job::NewJob;
use patchbay_model::manifest::Manifest;
use patchbay_model::sql::{SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction, SqlValue};
use patchbay_runtime::wit::{Resource, types};
use tracing::Instrument;

use crate::HostCall;
use crate::call::{Gate, redis_error};
use crate::enqueue::{few_enough, new_jobs, prepare};
use crate::guest::{Guest, HostResult};

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.sql.is_some()
}

/// Runs all statements and adds all jobs in one transaction, or does nothing.
async fn run(
    gate: Gate,
    statements: Vec<SqlStatement>,
    jobs: Vec<NewJob>,
) -> Result<Vec<SqlAnswer>, SqlError> {
    gate.not_in_transaction()?;
    check(&gate, &statements)?;
    let jobs = if jobs.is_empty() {
        None
    } else {
        Some(jobs_of(&gate, jobs)?)
    };
    let call = gate.call();
    let run = gate
        .services()
        .sql
        .run(&call.manifest.name, call.deadline, statements, jobs);
    run.instrument(call.span.clone()).await
}

async fn run_one(gate: Gate, statement: SqlStatement) -> Result<SqlAnswer, SqlError> {
    Ok(run(gate, vec![statement], Vec::new())
        .await?
        .pop()
        .unwrap_or_default())
}

/// Begins a transaction that stays open between statements. One per call; other outside calls are
/// denied while it is open.
async fn begin(gate: Gate) -> Result<Arc<dyn SqlTransaction>, SqlError> {
    check(&gate, &[])?;
    if gate.guest().transaction.lock().is_some() {
        return Err(SqlError::denied("a call can have only one transaction"));
    }
    let transaction = gate
        .services()
        .sql
        .begin(&gate.call().manifest.name, gate.call().deadline)
        .await?;
    *gate.guest().transaction.lock() = Some(Arc::downgrade(&transaction));
    Ok(transaction)
}

/// At least one table must be granted; Postgres checks the rest. Counts the grants in a statement.
fn check(gate: &Gate, statements: &[SqlStatement]) -> Result<(), SqlError> {
    let call = gate.call();
    let Some(spec) = &call.manifest.sql else {
        return Err(SqlError::denied("the manifest does not ask for sql"));
    };
    let granted = spec
        .accesses()
        .filter(|(table, access)| call.granted.contains(&Ask::sql(table, access)));
    let granted: Vec<_> = granted.collect();
    if granted.is_empty() {
        return Err(SqlError::denied("an operator has not granted any table"));
    }
    for statement in statements {
        let text = statement.text.to_ascii_lowercase();
        for (table, access) in &granted {
            if text.contains(&table.table().to_ascii_lowercase())
                && text.contains(access.privilege.as_str())
            {
                gate.granted(Ask::sql(table, access))?;
            }
        }
    }
    Ok(())
}

/// Checks jobs for a transaction: whatever would be refused later is refused now.
fn jobs_of(gate: &Gate, mut jobs: Vec<NewJob>) -> Result<SqlJobs, SqlError> {
    let refused = |error: CapabilityError| SqlError {
        retryable: error.retryable,
        ..SqlError::new(error.code, error.message)
    };
    few_enough(&jobs).map_err(refused)?;
    prepare(gate, None, jobs.iter_mut()).map_err(refused)?;
    gate.services()
        .queues
        .check(&jobs)
        .map_err(redis_error)
        .map_err(refused)?;
    let others = jobs
        .iter()
        .filter(|job| gate.call().manifest.queue(&job.queue).is_none());
    let mut grants: Vec<String> = others
        .map(|job| Ask::enqueue(&job.queue).to_string())
        .collect();
    grants.sort();
    grants.dedup();
    Ok(SqlJobs { jobs, grants })
}

/// Converts a guest's jobs; does not check them.
fn jobs(jobs: Vec<types::NewJob>) -> Result<Vec<NewJob>, SqlError> {
    new_jobs(jobs).map_err(|invalid| SqlError::new(invalid.code, invalid.message))
}

/// An entry of the guest's table. Each statement, its jobs and its commit are separate host calls.
struct Transaction(Arc<dyn SqlTransaction>);

impl Guest<'_> {
    async fn batch(
        &mut self,
        statements: Vec<SqlStatement>,
        jobs: Result<Vec<NewJob>, SqlError>,
    ) -> HostResult<Result<Vec<SqlAnswer>, SqlError>> {
        match jobs {
            Ok(jobs) => {
                self.through(HostCall::Sql, |gate| run(gate, statements, jobs))
                    .await
            }
            Err(invalid) => Ok(Err(invalid)),
        }
    }

    async fn begin_transaction(&mut self) -> HostResult<Result<u32, SqlError>> {
        Ok(match self.through(HostCall::Sql, begin).await? {
            Ok(transaction) => Ok(self.0.table().push(Transaction(transaction))?.rep()),
            Err(refused) => Err(refused),
        })
    }

    fn transaction(&mut self, rep: u32) -> HostResult<Arc<dyn SqlTransaction>> {
        Ok(Arc::clone(
            &self
                .0
                .table()
                .get(&Resource::<Transaction>::new_borrow(rep))?
                .0,
        ))
    }

    async fn run_within(
        &mut self,
        rep: u32,
        statement: SqlStatement,
    ) -> HostResult<Result<SqlAnswer, SqlError>> {
        let transaction = self.transaction(rep)?;
        self.through(HostCall::Sql, |_| async move {
            transaction.run(statement).await
        })
        .await
    }

    async fn enqueue_within(
        &mut self,
        rep: u32,
        jobs: Result<Vec<NewJob>, SqlError>,
    ) -> HostResult<Result<(), SqlError>> {
        let transaction = self.transaction(rep)?;
        let jobs = match jobs {
            Ok(jobs) => jobs,
            Err(invalid) => return Ok(Err(invalid)),
        };
        self.outside(|call| async move {
            // Only the part that reaches the database is measured.
            let jobs = jobs_of(&call.unmeasured(), jobs)?;
            call.through(
                HostCall::Sql,
                |_| async move { transaction.enqueue(jobs).await },
            )
            .await
        })
        .await
    }

    async fn commit(&mut self, rep: u32) -> HostResult<Result<(), SqlError>> {
        let transaction = self.transaction(rep)?;
        self.through(HostCall::Sql, |_| async move { transaction.commit().await })
            .await
    }

    /// Rolls back what was not committed, on the host's threads.
    async fn end_transaction(&mut self, rep: u32) -> HostResult<()> {
        let transaction = self
            .0
            .table()
            .delete(Resource::<Transaction>::new_own(rep))?;
        self.0.outside(async move { drop(transaction) }).await
    }
}

macro_rules! bind {
    ($version:ident) => {
        mod $version {
            use super::*;
            use patchbay_runtime::wit::$version::sql;

            type Answer<T> = HostResult<Result<T, sql::Error>>;

            fn error(error: SqlError) -> sql::Error {
                let SqlError {
                    code,
                    message,
                    constraint,
                    retryable,
                } = error;
                sql::Error {
                    code,
                    message,
                    constraint,
                    retryable,
                }
            }

            fn statement(
                text: String,
                parameters: Vec<sql::Value>,
                wants_rows: bool,
            ) -> SqlStatement {
                let parameters = parameters.into_iter().map(parameter).collect();
                SqlStatement {
                    text,
                    parameters,
                    expect_rows: None,
                    wants_rows,
                }
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
                let column = |(name, type_name)| sql::Column { name, type_name };
                sql::Rows {
                    columns: answer.columns.into_iter().map(column).collect(),
                    rows: answer
                        .rows
                        .into_iter()
                        .map(|row| row.into_iter().map(value).collect())
                        .collect(),
                }
            }

            impl sql::Host for Guest<'_> {
                async fn query(
                    &mut self,
                    text: String,
                    parameters: Vec<sql::Value>,
                ) -> Answer<sql::Rows> {
                    let statement = statement(text, parameters, true);
                    Ok(self
                        .through(HostCall::Sql, |gate| run_one(gate, statement))
                        .await?
                        .map(rows)
                        .map_err(error))
                }

                async fn execute(
                    &mut self,
                    text: String,
                    parameters: Vec<sql::Value>,
                ) -> Answer<u64> {
                    let statement = statement(text, parameters, false);
                    let answer = self
                        .through(HostCall::Sql, |gate| run_one(gate, statement))
                        .await?;
                    Ok(answer.map(|answer| answer.affected).map_err(error))
                }

                async fn batch(
                    &mut self,
                    statements: Vec<sql::Statement>,
                    new_jobs: Vec<types::NewJob>,
                ) -> Answer<Vec<sql::Rows>> {
                    let statements = statements.into_iter().map(|one| SqlStatement {
                        expect_rows: one.expect_rows,
                        ..statement(one.text, one.parameters, true)
                    });
                    let answers = Guest::batch(self, statements.collect(), jobs(new_jobs)).await?;
                    Ok(answers
                        .map(|answers| answers.into_iter().map(rows).collect())
                        .map_err(error))
                }

                async fn begin(&mut self) -> Answer<Resource<sql::Transaction>> {
                    Ok(self
                        .begin_transaction()
                        .await?
                        .map(Resource::new_own)
                        .map_err(error))
                }
            }

            impl sql::HostTransaction for Guest<'_> {
                async fn query(
                    &mut self,
                    transaction: Resource<sql::Transaction>,
                    text: String,
                    parameters: Vec<sql::Value>,
                ) -> Answer<sql::Rows> {
                    let statement = statement(text, parameters, true);
                    Ok(self
                        .run_within(transaction.rep(), statement)
                        .await?
                        .map(rows)
                        .map_err(error))
                }

                async fn execute(
                    &mut self,
                    transaction: Resource<sql::Transaction>,
                    text: String,
                    parameters: Vec<sql::Value>,
                ) -> Answer<u64> {
                    let answer = self
                        .run_within(transaction.rep(), statement(text, parameters, false))
                        .await?;
                    Ok(answer.map(|answer| answer.affected).map_err(error))
                }

                async fn enqueue(
                    &mut self,
                    transaction: Resource<sql::Transaction>,
                    new_jobs: Vec<types::NewJob>,
                ) -> Answer<()> {
                    Ok(self
                        .enqueue_within(transaction.rep(), jobs(new_jobs))
                        .await?
                        .map_err(error))
                }

                async fn commit(&mut self, transaction: Resource<sql::Transaction>) -> Answer<()> {
                    Ok(Guest::commit(self, transaction.rep()).await?.map_err(error))
                }

                async fn drop(
                    &mut self,
                    transaction: Resource<sql::Transaction>,
                ) -> HostResult<()> {
                    self.end_transaction(transaction.rep()).await
                }
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
