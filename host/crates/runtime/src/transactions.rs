//! Transactions that a guest holds, and the statements in them.

use std::sync::Arc;

use patchbay_model::sql::{SqlAnswer, SqlError, SqlStatement, SqlTransaction};

use crate::state::State;

type Answer<T> = wasmtime::Result<Result<T, SqlError>>;

impl State {
    /// One statement in a transaction of its own.
    pub(crate) async fn sql(&mut self, statement: SqlStatement) -> Answer<SqlAnswer> {
        let capabilities = Arc::clone(&self.capabilities);
        let run = async move { capabilities.sql_run(vec![statement], Vec::new()).await };
        Ok(self.outside(run).await?.map(|mut answers| answers.pop().unwrap_or_default()))
    }

    /// One statement in a transaction that is open.
    pub(crate) async fn sql_within(&mut self, transaction: u32, statement: SqlStatement) -> Answer<SqlAnswer> {
        let transaction = self.transaction(transaction)?;
        self.outside(async move { transaction.run(statement).await }).await
    }

    /// Gives the number of the new transaction.
    pub(crate) async fn begin_transaction(&mut self) -> Answer<u32> {
        let capabilities = Arc::clone(&self.capabilities);
        let transaction = match self.outside(async move { capabilities.sql_begin().await }).await? {
            Ok(transaction) => transaction,
            Err(refused) => return Ok(Err(refused)),
        };
        self.transactions.last += 1;
        self.transactions.open.insert(self.transactions.last, transaction);
        Ok(Ok(self.transactions.last))
    }

    pub(crate) fn transaction(&self, number: u32) -> wasmtime::Result<Arc<dyn SqlTransaction>> {
        let known = self.transactions.open.get(&number).map(Arc::clone);
        known.ok_or_else(|| wasmtime::format_err!("no such transaction"))
    }

    /// Undoes what was not committed.
    pub(crate) async fn end_transaction(&mut self, number: u32) -> wasmtime::Result<()> {
        if let Some(transaction) = self.transactions.open.remove(&number) {
            // On the host's threads, since it is undone there.
            self.outside(async move { drop(transaction) }).await?;
        }
        Ok(())
    }
}
