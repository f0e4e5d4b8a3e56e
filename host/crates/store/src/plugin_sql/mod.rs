//! SQL of plugins. Each plugin has its own database login, so that Postgres itself enforces what
//! the plugin may read or write.
//!
//! Owns the logins, their connections and the outbox. Never decides who may use SQL (`capability`
//! does), and never runs a guest's statement on the host's own login. Everything fails closed: a
//! plugin whose login could not be reconciled runs no SQL.

mod activity;
mod error;
mod installation;
mod lease;
mod oid;
mod outbox;
mod parameters;
mod roles;
mod rows;
mod statement;
mod transaction;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use patchbay_model::PluginName;
use patchbay_model::sql::{
    PluginDatabase, SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction,
};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool};
use tokio::sync::{Notify, OnceCell};

use crate::{Store, StoreError};
use installation::Installation;
use lease::{Lease, Pools};
use statement::{Budget, Failed};

pub use activity::{PlacesTaken, PluginActivity, SqlActivity, SqlSession};
pub use outbox::{OutboxBatch, OutboxEntry};
pub use roles::{RoleError, Wanted};

const MAX_STATEMENTS: usize = 1_000;

/// Whether a plugin's login has the rights that it should have.
#[derive(Debug, Clone)]
enum Access {
    Ready(Wanted),
    Blocked(String),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct PluginSql(Arc<Inner>);

struct Inner {
    pool: PgPool,
    base: PgConnectOptions,
    /// Read when it is first needed, so that a host starts while Postgres is away.
    installation: OnceCell<Installation>,
    pools: Arc<Pools>,
    access: Mutex<HashMap<PluginName, Access>>,
    committed: Notify,
}

impl PluginSql {
    /// `max_connections` is the limit for all plugins of this process. Opens no connection yet.
    pub fn new(store: &Store, max_connections: usize) -> Self {
        Self(Arc::new(Inner {
            pool: PgPool::clone(&store.pool),
            base: PgConnectOptions::clone(&store.base),
            installation: OnceCell::new(),
            pools: Pools::new(PgPool::clone(&store.pool), max_connections),
            access: Mutex::default(),
            committed: Notify::new(),
        }))
    }

    async fn installation(&self) -> Result<&Installation, StoreError> {
        self.0
            .installation
            .get_or_try_init(|| Installation::load(&self.0.pool))
            .await
    }

    async fn installation_for_guest(&self) -> Result<&Installation, SqlError> {
        self.installation()
            .await
            .map_err(|_| SqlError::unavailable("Postgres does not answer"))
    }

    /// Checks that a plugin can get these rights without getting more through them.
    pub async fn check(&self, wanted: &Wanted) -> Result<(), RoleError> {
        roles::check_tables(&self.0.pool, wanted).await
    }

    /// Grants the plugin's login the missing rights and revokes the others. After a failure the
    /// plugin runs no more statements.
    pub async fn reconcile(&self, plugin: &PluginName, wanted: &Wanted) -> Result<(), RoleError> {
        if matches!(self.access(plugin), Some(Access::Ready(present)) if &present == wanted) {
            return Ok(());
        }
        let done = async {
            roles::reconcile(&self.0.pool, self.installation().await?, plugin, wanted).await
        }
        .await;
        self.set_access(
            plugin,
            match &done {
                Ok(()) => Access::Ready(wanted.clone()),
                Err(error) => Access::Blocked(error.to_string()),
            },
        );
        done
    }

    /// Why the plugin runs no statements; `None` when its login is in order.
    pub fn problem(&self, plugin: &PluginName) -> Option<String> {
        match self.access(plugin) {
            Some(Access::Blocked(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Before an activation: gives the login these rights, or the activation is refused. If the
    /// previous revision stays active after all, the next [`PluginSql::reconcile`] revokes what is
    /// too much.
    pub async fn prepare(&self, plugin: &PluginName, wanted: &Wanted) -> Result<(), RoleError> {
        roles::check_tables(&self.0.pool, wanted).await?;
        roles::reconcile(&self.0.pool, self.installation().await?, plugin, wanted).await?;
        if self.access(plugin).is_some() {
            self.set_access(plugin, Access::Ready(wanted.clone()));
        }
        Ok(())
    }

    /// Returns soon after a commit with jobs in this process, or after `at_most`. Closes idle
    /// connections.
    pub async fn wait_for_jobs(&self, at_most: Duration) {
        tokio::time::timeout(at_most, self.0.committed.notified())
            .await
            .ok();
        self.0.pools.sweep().await;
    }

    fn access(&self, plugin: &PluginName) -> Option<Access> {
        self.0.access.lock().get(plugin).cloned()
    }

    /// Plugins that have a login here, sorted.
    fn plugins(&self) -> BTreeSet<PluginName> {
        let access = self.0.access.lock();
        let has_login =
            |access: &Access| !matches!(access, Access::Ready(wanted) if wanted.is_empty());
        access
            .iter()
            .filter(|(_, access)| has_login(access))
            .map(|(plugin, _)| plugin.clone())
            .collect()
    }

    fn set_access(&self, plugin: &PluginName, access: Access) {
        self.0.access.lock().insert(plugin.clone(), access);
    }

    async fn lease(&self, plugin: &PluginName) -> Result<Lease, SqlError> {
        match self.access(plugin) {
            Some(Access::Ready(wanted)) if !wanted.is_empty() => {}
            Some(Access::Ready(_)) => {
                return Err(SqlError::denied("an operator has not granted any table"));
            }
            // The host started while Postgres was away.
            None => {
                return Err(SqlError::unavailable(
                    "the host has not checked the plugin's database login yet",
                ));
            }
            Some(Access::Blocked(_)) => {
                return Err(SqlError::unavailable(
                    "the plugin's database login cannot be used; see the host's log",
                ));
            }
        }
        let installation = self.installation_for_guest().await?;
        let role = installation.role(plugin);
        let options = self
            .0
            .base
            .clone()
            .username(&role)
            .password(&installation.password(&role))
            .application_name(&format!("patchbay plugin {plugin}"))
            // Statements and their values must not be logged.
            .disable_statement_logging();
        self.0.pools.lease(plugin, &options, &role).await
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn late<E>(_: E) -> SqlError {
    SqlError::timeout("the statement did not end before the deadline of the call")
}

async fn run_all(
    lease: &mut Lease,
    statements: Vec<SqlStatement>,
    budget: &mut Budget,
) -> Result<Vec<SqlAnswer>, Failed> {
    let mut answers = Vec::with_capacity(statements.len());
    for one in statements {
        answers.push(statement::run(lease.connection()?, one, budget).await?);
    }
    Ok(answers)
}

/// Ends a failed transaction, and gives its connection back if that is still in order.
async fn abandon(mut lease: Lease, failed: Failed) -> SqlError {
    match failed {
        // Dropping the lease ends the backend.
        Failed::Connection(error) => error,
        Failed::Statement(error) => {
            if lease.host_statement("rollback").await.is_ok() {
                lease.give_back().await;
            }
            error
        }
    }
}

#[async_trait]
impl PluginDatabase for PluginSql {
    async fn run(
        &self,
        plugin: &PluginName,
        deadline: Instant,
        statements: Vec<SqlStatement>,
        jobs: Option<SqlJobs>,
    ) -> Result<Vec<SqlAnswer>, SqlError> {
        if statements.len() > MAX_STATEMENTS {
            return Err(SqlError::new(
                "too-large",
                format!("at most {MAX_STATEMENTS} statements at once"),
            ));
        }
        // Checked before a connection is taken, so that a refused statement takes none.
        statements
            .iter()
            .try_for_each(|statement| statement::check(&statement.text))?;
        let work = async {
            let mut lease = self.lease(plugin).await?;
            lease.begin(left(deadline)).await?;
            let done = async {
                let answers = run_all(&mut lease, statements, &mut Budget::default()).await?;
                if let Some(jobs) = &jobs {
                    let installation = self.installation_for_guest().await?;
                    outbox::write(lease.connection()?, installation, plugin, jobs).await?;
                }
                Ok(answers)
            };
            let answers = match done.await {
                Ok(answers) => answers,
                Err(failed) => return Err(abandon(lease, failed).await),
            };
            // A deferred constraint may still fail here; Postgres has then rolled back.
            let committed = lease.host_statement("commit").await;
            if committed.is_ok() && jobs.is_some() {
                self.0.committed.notify_one();
            }
            lease.give_back().await;
            committed.map(|()| answers)
        };
        tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    async fn begin(
        &self,
        plugin: &PluginName,
        deadline: Instant,
    ) -> Result<Arc<dyn SqlTransaction>, SqlError> {
        let opened = transaction::open(self.clone(), plugin.clone(), deadline);
        tokio::time::timeout_at(deadline.into(), opened)
            .await
            .unwrap_or_else(|elapsed| Err(late(elapsed)))
    }
}
