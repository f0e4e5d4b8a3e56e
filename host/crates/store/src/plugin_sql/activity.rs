//! What plugins do with their database connections, to find the connection that blocks others.
//!
//! Places and waits are those of this process; sessions are what Postgres shows of all processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::PluginName;
use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::PluginSql;
use crate::StoreError;

/// Per plugin and process: one slow statement does not stop it, and it does not crowd out others.
pub(super) const PER_PLUGIN: usize = 2;

/// Connections of the plugins of this process.
#[derive(Debug)]
pub struct SqlActivity {
    /// Limit for all plugins together.
    pub max_connections: usize,
    /// Open connections, idle ones included.
    pub connections: usize,
    /// Each plugin that has a login here, sorted by name.
    pub plugins: Vec<PluginActivity>,
}

#[derive(Debug)]
pub struct PluginActivity {
    pub plugin: PluginName,
    /// The plugin's role in Postgres.
    pub login: String,
    /// Limit in this process.
    pub max_connections: usize,
    pub places: PlacesTaken,
    /// Backends that this process has ended since its start, as calls did not give them back.
    pub ended: u64,
    /// In Postgres, of all processes; the longest transaction first.
    pub sessions: Vec<SqlSession>,
}

/// A plugin's places in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacesTaken {
    /// Places of calls with statements or a transaction, and of backends that are being ended.
    pub in_use: usize,
    /// How long the longest of them is held.
    pub longest: Duration,
    /// Calls that wait for a place, or that have a place and wait for the budget of all plugins.
    pub waiting: usize,
}

/// A session as `pg_stat_activity` shows it. What the host's login may not see is absent.
#[derive(Debug)]
pub struct SqlSession {
    /// Process id of the backend.
    pub pid: i32,
    /// `active`, `idle in transaction`, …
    pub state: Option<String>,
    /// Age of the open transaction.
    pub transaction: Option<Duration>,
    /// `Lock: tuple`, `Timeout: PgSleep`, …
    pub waits_for: Option<String>,
    /// Sessions, of any login, that wait for a lock of this one.
    pub blocks: i64,
    /// The last statement, truncated, without its parameters; absent when the session is idle.
    pub statement: Option<String>,
}

pub(super) struct Places {
    places: Arc<Semaphore>,
    taken: Mutex<Vec<Instant>>,
    waiting: AtomicUsize,
    ended: AtomicU64,
}

/// Held until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    since: Instant,
    of: Arc<Places>,
}

pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Places {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PER_PLUGIN)),
            taken: Mutex::default(),
            waiting: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
        }
    }
}

impl Places {
    /// For a call that is about to wait, for a place or for the budget of all plugins.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting::new(&self.waiting)
    }

    pub(super) async fn take(self: &Arc<Self>) -> Result<Place, AcquireError> {
        let permit = Arc::clone(&self.places).acquire_owned().await?;
        let since = Instant::now();
        self.taken.lock().push(since);
        Ok(Place {
            _permit: permit,
            since,
            of: Arc::clone(self),
        })
    }

    fn now(&self) -> PlacesTaken {
        let taken = self.taken.lock();
        PlacesTaken {
            in_use: taken.len(),
            longest: taken.iter().map(Instant::elapsed).max().unwrap_or_default(),
            waiting: self.waiting.load(Ordering::SeqCst),
        }
    }
}

impl Place {
    /// The backend was ended instead of being given back.
    pub(super) fn count_ended(self) {
        self.of.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        if let Some(place) = taken.iter().position(|since| *since == self.since) {
            taken.swap_remove(place);
        }
    }
}

impl PluginSql {
    pub fn places_of(&self, plugin: &PluginName) -> PlacesTaken {
        self.0.pools.places(plugin).now()
    }

    /// For each plugin that has a login here, sorted by name: its places, and how many backends
    /// this process has ended. Does not ask Postgres.
    pub fn usage(&self) -> Vec<(PluginName, PlacesTaken, u64)> {
        let of = |plugin: PluginName| {
            let places = self.0.pools.places(&plugin);
            (plugin, places.now(), places.ended.load(Ordering::Relaxed))
        };
        self.plugins().into_iter().map(of).collect()
    }

    /// For all plugins, or for one.
    pub async fn activity(&self, only: Option<&PluginName>) -> Result<SqlActivity, StoreError> {
        let installation = self.installation().await?;
        let rows = sqlx::query(
            "select a.usename::text as login, a.pid, a.state, \
               case when a.state <> 'idle' then a.wait_event_type || ': ' || a.wait_event end as waits_for, \
               extract(epoch from clock_timestamp() - a.xact_start)::float8 as open_s, \
               case when a.state <> 'idle' then left(regexp_replace(a.query, '\\s+', ' ', 'g'), 200) end as statement, \
               (select count(*) from pg_stat_activity w \
                 where w.wait_event_type = 'Lock' and a.pid = any(pg_blocking_pids(w.pid))) as blocks \
             from pg_stat_activity a where a.datname = current_database() and a.usename like $1 \
             order by a.xact_start nulls last, a.pid",
        )
        // In a `like` pattern an underscore would match any character.
        .bind(installation.role_prefix().replace('_', "\\_") + "%")
        .fetch_all(&self.0.pool)
        .await?;
        let mut sessions = rows
            .iter()
            .map(session)
            .collect::<Result<Vec<(String, SqlSession)>, StoreError>>()?;
        let mut plugins = Vec::new();
        for plugin in self
            .plugins()
            .into_iter()
            .filter(|plugin| only.is_none_or(|only| only == plugin))
        {
            let login = installation.role(&plugin);
            let places = self.0.pools.places(&plugin);
            let of_plugin = sessions
                .extract_if(.., |(of, _)| *of == login)
                .map(|(_, session)| session)
                .collect();
            plugins.push(PluginActivity {
                max_connections: PER_PLUGIN,
                places: places.now(),
                ended: places.ended.load(Ordering::Relaxed),
                sessions: of_plugin,
                login,
                plugin,
            });
        }
        let (max_connections, connections) = self.0.pools.budget();
        Ok(SqlActivity {
            max_connections,
            connections,
            plugins,
        })
    }
}

fn session(row: &PgRow) -> Result<(String, SqlSession), StoreError> {
    let open_s: Option<f64> = row.try_get("open_s")?;
    let session = SqlSession {
        pid: row.try_get("pid")?,
        state: row.try_get("state")?,
        transaction: open_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        waits_for: row.try_get("waits_for")?,
        blocks: row.try_get("blocks")?,
        statement: row.try_get("statement")?,
    };
    Ok((row.try_get("login")?, session))
}
