//! Connection, migrations, facts and change notifications.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool, Row};
use tokio::sync::OnceCell;

use crate::{StoreError, TermKey};

/// Held while migrating, so that hosts that start together do it once. Any number will do as long as it is always this one.
const MIGRATION_LOCK: i64 = 0x7061_7463_6862_6179;
pub(crate) const CHANNEL: &str = "patchbay_plugins";

/// Where Postgres is.
#[derive(Clone)]
pub struct StoreConfig {
    /// `postgres://…`
    pub url: String,
    /// Connections kept open.
    pub min_connections: u32,
    /// Connections at most.
    pub max_connections: u32,
    /// Longest wait for a free one.
    pub acquire_timeout: Duration,
}

/// What `migrate` did.
#[derive(Debug)]
pub struct MigrationReport {
    /// Names of the migrations that were applied now.
    pub applied: Vec<String>,
}

/// What `doctor` wants to know.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct DatabaseFacts {
    pub server_version_num: i32,
    pub server_version: String,
    pub max_connections: i32,
    pub connections_in_use: i64,
    pub can_create: bool,
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    pub(crate) options: PgConnectOptions,
    /// Where Postgres is, without anything of the host's own sessions.
    pub(crate) base: PgConnectOptions,
    pub(crate) terms: Arc<OnceCell<TermKey>>,
}

impl Store {
    /// Connects; fails when Postgres is away.
    pub async fn connect(config: StoreConfig) -> Result<Self, StoreError> {
        let store = Self::new(config)?;
        store.ping().await?;
        Ok(store)
    }

    /// Connects when it is used.
    pub fn new(config: StoreConfig) -> Result<Self, StoreError> {
        let base = PgConnectOptions::from_str(&config.url)?;
        let options = base
            .clone()
            .application_name("patchbay")
            // Nothing of ours takes seconds; a statement that does must not hold its connection for ever.
            .options([("search_path", "patchbay,public"), ("statement_timeout", "30s")]);
        let pool = PgPoolOptions::new()
            .min_connections(config.min_connections)
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout)
            .connect_lazy_with(options.clone());
        Ok(Self { pool, options, base, terms: Arc::default() })
    }

    /// Brings the schema up to date. Safe when several hosts start at once.
    pub async fn migrate(&self) -> Result<MigrationReport, StoreError> {
        // A connection of its own: the lock belongs to the session, and migrations may take longer than a statement.
        let mut connection = PgConnection::connect_with(&self.options).await?;
        connection.execute("set statement_timeout = 0").await?;
        sqlx::query("select pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut connection).await?;
        connection.execute("create schema if not exists patchbay").await?;
        let before = applied(&mut connection).await?;
        // Not `run`: it takes what is not `Send` for every lifetime, and the caller may be a task.
        sqlx::migrate!("../../../migrations").set_locking(false).run_direct(None, &mut connection, false).await?;
        let after = applied(&mut connection).await?;
        connection.close().await?;
        Ok(MigrationReport { applied: after.into_iter().filter(|name| !before.contains(name)).collect() })
    }

    /// Names of the migrations that are still to come.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let done = applied(&mut connection).await?;
        let all = sqlx::migrate!("../../../migrations");
        Ok(all.iter().map(|m| m.description.to_string()).filter(|name| !done.contains(name)).collect())
    }

    /// A round trip.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let started = Instant::now();
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(started.elapsed())
    }

    /// Facts about the server.
    pub async fn facts(&self) -> Result<DatabaseFacts, StoreError> {
        let row = sqlx::query(
            "select current_setting('server_version_num')::int as num, current_setting('server_version') as version, \
             current_setting('max_connections')::int as most, (select count(*) from pg_stat_activity) as used, \
             has_database_privilege(current_database(), 'create') as can_create",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(DatabaseFacts {
            server_version_num: row.try_get("num")?,
            server_version: row.try_get("version")?,
            max_connections: row.try_get("most")?,
            connections_in_use: row.try_get("used")?,
            can_create: row.try_get("can_create")?,
        })
    }

    /// To hear of changes to plugins.
    pub fn changes(&self) -> Changes {
        Changes { pool: self.pool.clone(), listener: None }
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let there: bool = sqlx::query_scalar("select to_regclass('patchbay._sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(Vec::new());
    }
    let names = sqlx::query_scalar("select description from patchbay._sqlx_migrations where success order by version");
    Ok(names.fetch_all(connection).await?)
}

/// Wakes on each change of a plugin. A lost notification costs only the wait: callers re-read anyway.
pub struct Changes {
    pool: PgPool,
    listener: Option<PgListener>,
}

impl Changes {
    /// Returns on a notification, or after `at_most`.
    pub async fn wait(&mut self, at_most: Duration) {
        let heard = tokio::time::timeout(at_most, async {
            if self.listener.is_none() {
                let mut listener = PgListener::connect_with(&self.pool).await?;
                listener.listen(CHANNEL).await?;
                self.listener = Some(listener);
            }
            match &mut self.listener {
                Some(listener) => listener.recv().await.map(drop),
                None => Ok(()),
            }
        });
        if let Ok(Err(error)) = heard.await {
            tracing::debug!(%error, "not listening for changes");
            self.listener = None;
            tokio::time::sleep(at_most).await;
        }
    }
}
