//! A transaction that a guest keeps open between statements. It has a time limit, so that a slow
//! guest does not hold locks for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use patchbay_model::PluginName;
use patchbay_model::sql::{SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction};
use tokio::sync::Mutex;

use super::lease::Lease;
use super::statement::{self, Budget, Failed};
use super::{PluginSql, abandon, late, left, outbox};

/// The limit is part of the contract.
const LIFE: Duration = Duration::from_secs(5);

struct Open {
    sql: PluginSql,
    plugin: PluginName,
    ends_at: Instant,
    is_open: Arc<AtomicBool>,
    /// `None` once the transaction has ended.
    lease: Arc<Mutex<Option<(Lease, Budget)>>>,
    has_jobs: AtomicBool,
    /// Ends the transaction at its time limit.
    timer: tokio::task::JoinHandle<()>,
}

pub(super) async fn open(
    sql: PluginSql,
    plugin: PluginName,
    deadline: Instant,
) -> Result<Arc<dyn SqlTransaction>, SqlError> {
    let mut lease = sql.lease(&plugin).await?;
    let ends_at = deadline.min(Instant::now() + LIFE);
    lease.begin(left(ends_at)).await?;
    let is_open = Arc::new(AtomicBool::new(true));
    let lease = Arc::new(Mutex::new(Some((lease, Budget::default()))));
    let timer = tokio::spawn({
        let (lease, is_open) = (Arc::clone(&lease), Arc::clone(&is_open));
        async move {
            tokio::time::sleep_until(ends_at.into()).await;
            is_open.store(false, Ordering::SeqCst);
            // A running statement ends at the same time.
            let ended = lease.lock().await.take();
            if let Some((lease, _)) = ended {
                abandon(lease, Failed::Statement(late(()))).await;
            }
        }
    });
    Ok(Arc::new(Open {
        sql,
        plugin,
        ends_at,
        is_open,
        lease,
        has_jobs: AtomicBool::new(false),
        timer,
    }))
}

fn ended() -> SqlError {
    SqlError::denied(
        "the transaction has ended: it was committed, a statement got no answer, or its limit of 5 s has passed",
    )
}

impl Open {
    /// Runs one step. If the step does not finish, the transaction ends.
    async fn step<T>(
        &self,
        act: impl AsyncFnOnce(&mut Lease, &mut Budget) -> Result<T, Failed>,
    ) -> Result<T, SqlError> {
        let mut slot = self.lease.lock().await;
        // Taken out: if the guest's call ends here, dropping the lease ends its backend.
        let (mut lease, mut budget) = slot.take().ok_or_else(ended)?;
        let result =
            tokio::time::timeout_at(self.ends_at.into(), act(&mut lease, &mut budget)).await;
        match result {
            Ok(Ok(done)) => {
                *slot = Some((lease, budget));
                Ok(done)
            }
            // From here on Postgres refuses everything except a rollback, and tells the guest so.
            Ok(Err(Failed::Statement(error))) => {
                *slot = Some((lease, budget));
                Err(error)
            }
            Ok(Err(Failed::Connection(error))) => {
                self.is_open.store(false, Ordering::SeqCst);
                Err(error)
            }
            Err(elapsed) => {
                self.is_open.store(false, Ordering::SeqCst);
                Err(late(elapsed))
            }
        }
    }
}

#[async_trait]
impl SqlTransaction for Open {
    async fn run(&self, statement: SqlStatement) -> Result<SqlAnswer, SqlError> {
        // A text that is refused before Postgres gets it does not fail the transaction.
        statement::check(&statement.text)?;
        self.step(async |lease, budget| {
            statement::run(lease.connection()?, statement, budget).await
        })
        .await
    }

    async fn enqueue(&self, jobs: SqlJobs) -> Result<(), SqlError> {
        let (installation, plugin) = (self.sql.installation_for_guest().await?, &self.plugin);
        self.step(async |lease, _| {
            outbox::write(lease.connection()?, installation, plugin, &jobs).await
        })
        .await?;
        self.has_jobs.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn commit(&self) -> Result<(), SqlError> {
        let mut slot = self.lease.lock().await;
        let (mut lease, _) = slot.take().ok_or_else(ended)?;
        self.is_open.store(false, Ordering::SeqCst);
        let commit = async {
            // COMMIT of a failed transaction is a ROLLBACK that reports success; this detects it.
            lease
                .host_statement("select")
                .await
                .map_err(Failed::Statement)?;
            lease
                .host_statement("commit")
                .await
                .map_err(Failed::Statement)
        };
        match tokio::time::timeout_at(self.ends_at.into(), commit).await {
            Ok(Ok(())) => {
                if self.has_jobs.load(Ordering::SeqCst) {
                    self.sql.0.committed.notify_one();
                }
                lease.give_back().await;
                Ok(())
            }
            Ok(Err(failed)) => Err(abandon(lease, failed).await),
            Err(elapsed) => Err(late(elapsed)),
        }
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::SeqCst)
    }
}

impl Drop for Open {
    /// Dropped without a commit: rolls back at once.
    fn drop(&mut self) {
        self.timer.abort();
        self.is_open.store(false, Ordering::SeqCst);
        let lease = Arc::clone(&self.lease);
        // No other task holds the slot: a step in progress would hold the transaction itself.
        if let Ok(mut slot) = lease.try_lock()
            && let Some((lease, _)) = slot.take()
        {
            // This may run on a guest's thread, when its call ended in the middle.
            self.sql
                .0
                .pools
                .runtime
                .spawn(abandon(lease, Failed::Statement(late(()))));
        }
    }
}
