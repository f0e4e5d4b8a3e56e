//! Connections under plugins' logins: at most two per plugin, within one budget for all plugins.
//! Each connection is cleaned before another call gets it.
//!
//! A connection counts until Postgres has ended its backend. One that is not given back in order (a
//! deadline, a killed guest, a result that is too large) is never used again: its backend is ended
//! first, and only then its place becomes free.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::PluginName;
use patchbay_model::sql::SqlError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::activity::{Place, Places, Waiting};
use super::error;

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Time limit for what the host does to a connection between two calls.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// For every session of a plugin. Names must be written with their schema, so that nothing that
/// others create elsewhere is found by accident. Not in the startup packet: poolers refuse
/// `options` there, or ignore it.
const SESSION: &str = "set search_path = pg_catalog; set client_min_messages = error";
/// Undoes changes of a session. Not `DISCARD ALL`: that breaks the cache of prepared statements.
const CLEAN: &str = "close all; unlisten *; reset all; discard temp; discard sequences; select pg_catalog.pg_advisory_unlock_all(); \
     set search_path = pg_catalog; set client_min_messages = error";

pub(super) struct Pools {
    host: PgPool,
    pub(super) runtime: tokio::runtime::Handle,
    budget: Arc<Semaphore>,
    max_connections: usize,
    per_plugin: Mutex<HashMap<PluginName, Arc<Places>>>,
    idle: Mutex<Vec<Idle>>,
    /// Calls that wait for a place in the budget. While there are any, no connection is kept idle.
    waiting: AtomicUsize,
}

struct Idle {
    plugin: PluginName,
    session: Session,
    since: Instant,
}

struct Session {
    connection: PgConnection,
    pid: i32,
    role: String,
    _place: OwnedSemaphorePermit,
}

/// A connection for one transaction.
pub(super) struct Lease {
    session: Option<Session>,
    plugin: PluginName,
    own: Option<Place>,
    pools: Arc<Pools>,
}

impl Pools {
    pub(super) fn new(host: PgPool, max_connections: usize) -> Arc<Self> {
        Arc::new(Self {
            host,
            runtime: tokio::runtime::Handle::current(),
            budget: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            per_plugin: Mutex::default(),
            idle: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    pub(super) fn places(&self, plugin: &PluginName) -> Arc<Places> {
        let mut all = self.per_plugin.lock();
        Arc::clone(all.entry(plugin.clone()).or_default())
    }

    /// The limit of connections, and the present number.
    pub(super) fn budget(&self) -> (usize, usize) {
        (
            self.max_connections,
            self.max_connections
                .saturating_sub(self.budget.available_permits()),
        )
    }

    /// Waits for a place of the plugin, then for the budget. Dropping the future returns both.
    pub(super) async fn lease(
        self: &Arc<Self>,
        plugin: &PluginName,
        options: &PgConnectOptions,
        role: &str,
    ) -> Result<Lease, SqlError> {
        let closed = |_| SqlError::unavailable("the host is stopping");
        let places = self.places(plugin);
        let waiting = places.wait();
        let own = places.take().await.map_err(closed)?;
        if let Some(session) = self.take_idle(|idle| &idle.plugin == plugin) {
            return Ok(self.lend(session, plugin, own));
        }
        let place = {
            let _waiting = Waiting::new(&self.waiting);
            // An idle connection of another plugin is closed; dropping it frees its place.
            if self.budget.available_permits() == 0
                && let Some(other) = self.take_idle(|_| true)
            {
                close(other).await;
            }
            Arc::clone(&self.budget)
                .acquire_owned()
                .await
                .map_err(closed)?
        };
        drop(waiting);
        let connect = async {
            let mut connection = PgConnection::connect_with(options).await?;
            connection.execute(SESSION).await?;
            let pid = sqlx::query_scalar("select pg_catalog.pg_backend_pid()")
                .fetch_one(&mut connection)
                .await?;
            Ok(Session {
                connection,
                pid,
                role: role.to_owned(),
                _place: place,
            })
        };
        let session = connect
            .await
            .map_err(|failed| error::connecting(plugin, &failed))?;
        Ok(self.lend(session, plugin, own))
    }

    fn lend(self: &Arc<Self>, session: Session, plugin: &PluginName, own: Place) -> Lease {
        Lease {
            session: Some(session),
            plugin: plugin.clone(),
            own: Some(own),
            pools: Arc::clone(self),
        }
    }

    fn take_idle(&self, wanted: impl Fn(&Idle) -> bool) -> Option<Session> {
        let mut idle = self.idle.lock();
        let place = idle.iter().position(wanted)?;
        Some(idle.remove(place).session)
    }

    /// Closes connections that were idle for longer than [`IDLE`].
    pub(super) async fn sweep(&self) {
        while let Some(session) = self.take_idle(|idle| idle.since.elapsed() > IDLE) {
            close(session).await;
        }
    }

    /// Ends a backend and waits for its end.
    async fn end(&self, mut session: Session) {
        for _ in 0..3 {
            // The condition includes the role, so that it ends no other session whose process id
            // Postgres has reused. False: the backend still exists after 5 s.
            let ended = sqlx::query_scalar::<_, bool>(
                "select coalesce(bool_and(pg_terminate_backend(pid, 5000)), true) from pg_stat_activity where pid = $1 and usename = $2",
            )
            .bind(session.pid)
            .bind(&session.role)
            .fetch_one(&self.host);
            match ended.await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(role = session.role, pid = session.pid, %error, "The session of a plugin in Postgres could not be ended");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        // The session's statement_timeout is the last resort; the socket closes with the session.
        tokio::time::timeout(HOUSEKEEPING, session.connection.ping())
            .await
            .ok();
    }
}

async fn close(session: Session) {
    tokio::time::timeout(HOUSEKEEPING, session.connection.close())
        .await
        .ok();
}

impl Lease {
    /// Fails only after [`Lease::give_back`].
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, SqlError> {
        self.session
            .as_mut()
            .map(|session| &mut session.connection)
            .ok_or_else(|| SqlError::denied("the transaction has ended"))
    }

    /// Begins a transaction that Postgres itself ends after `limit` at the latest.
    pub(super) async fn begin(&mut self, limit: Duration) -> Result<(), SqlError> {
        let ms = limit.as_millis().clamp(1, 3_600_000);
        let text = format!(
            "begin; set local statement_timeout = {ms}; set local idle_in_transaction_session_timeout = {ms}"
        );
        self.host_statement(text).await
    }

    /// Runs a statement of the host's own, without parameters.
    pub(super) async fn host_statement(&mut self, text: impl Into<String>) -> Result<(), SqlError> {
        let text = text.into();
        let connection = self.connection()?;
        connection
            .execute(sqlx::AssertSqlSafe(text))
            .await
            .map_err(|failed| error::guest(&failed))?;
        Ok(())
    }

    /// After the end of the transaction: cleans the session and keeps it for the next call. If that
    /// fails, its backend is ended.
    pub(super) async fn give_back(mut self) {
        let Ok(connection) = self.connection() else {
            return;
        };
        let cleaned = tokio::time::timeout(HOUSEKEEPING, connection.execute(CLEAN)).await;
        if !matches!(cleaned, Ok(Ok(_))) {
            return;
        }
        let Some(session) = self.session.take() else {
            return;
        };
        let mut idle = self.pools.idle.lock();
        if self.pools.waiting.load(Ordering::SeqCst) == 0 {
            idle.push(Idle {
                plugin: self.plugin.clone(),
                session,
                since: Instant::now(),
            });
            return;
        }
        drop(idle);
        close(session).await;
    }
}

impl Drop for Lease {
    /// Not given back: the backend may still be working, and dropping the connection stops nothing.
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let (own, pools, plugin) = (
            self.own.take(),
            Arc::clone(&self.pools),
            self.plugin.clone(),
        );
        self.pools.runtime.spawn(async move {
            let pid = session.pid;
            pools.end(session).await;
            tracing::info!(%plugin, pid, "A call did not return its database connection; its session in Postgres was ended");
            if let Some(place) = own {
                place.count_ended();
            }
        });
    }
}
