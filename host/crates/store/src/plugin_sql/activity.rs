//! What plugins do with their connections: for whoever looks for the one that holds the others up.
//!
//! Places and waits are this process's; sessions are what Postgres shows of all processes.

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

/// Per plugin and process: enough that one slow statement does not stop it, too few to crowd out others.
pub(super) const PER_PLUGIN: usize = 2;

/// Connections of the plugins of this process.
#[derive(Debug)]
pub struct SqlActivity {
    /// Most of them, all plugins together.
    pub max_connections: usize,
    /// Open now, those that nobody uses included.
    pub connections: usize,
    /// Of each plugin that has a login here, by name.
    pub plugins: Vec<PluginActivity>,
}

/// Of one plugin.
#[derive(Debug)]
pub struct PluginActivity {
    /// Its name.
    pub plugin: PluginName,
    /// Its role in Postgres.
    pub login: String,
    /// Most connections in this process.
    pub max_connections: usize,
    /// How its places are taken in this process.
    pub places: PlacesTaken,
    /// Backends that this process has ended since its start, since a call did not give them back in order.
    pub ended: u64,
    /// In Postgres, of all processes; the longest transaction first.
    pub sessions: Vec<SqlSession>,
}

/// Of one plugin in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacesTaken {
    /// By calls that run statements or hold a transaction, and by backends that are being ended.
    pub in_use: usize,
    /// The longest of them.
    pub longest: Duration,
    /// Calls that wait for one, or with one for a place among those of all plugins.
    pub waiting: usize,
}

/// A session as `pg_stat_activity` shows it. Absent is what our own login may not see.
#[derive(Debug)]
pub struct SqlSession {
    /// Of its backend.
    pub pid: i32,
    /// `active`, `idle in transaction`, …
    pub state: Option<String>,
    /// How long its transaction is open.
    pub transaction: Option<Duration>,
    /// `Lock: tuple`, `Timeout: PgSleep`, …
    pub waits_for: Option<String>,
    /// Sessions of anybody that wait for a lock of this one.
    pub blocks: i64,
    /// Its last statement, cut off, unless it is idle. Parameters are not part of it.
    pub statement: Option<String>,
}

/// A plugin's places.
pub(super) struct Places {
    places: Arc<Semaphore>,
    taken: Mutex<Vec<Instant>>,
    waiting: AtomicUsize,
    ended: AtomicU64,
}

/// One of them, until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    since: Instant,
    of: Arc<Places>,
}

/// A call that waits.
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
    /// For a call that is about to wait, here or for its place in the budget of all.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting::new(&self.waiting)
    }

    pub(super) async fn take(self: &Arc<Self>) -> Result<Place, AcquireError> {
        let permit = Arc::clone(&self.places).acquire_owned().await?;
        let since = Instant::now();
        self.taken.lock().push(since);
        Ok(Place { _permit: permit, since, of: Arc::clone(self) })
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
    /// Its backend was ended instead of being given back.
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
    /// How a plugin's places are taken in this process.
    pub fn places_of(&self, plugin: &PluginName) -> PlacesTaken {
        self.0.pools.places(plugin).now()
    }

    /// Of each plugin that has a login here, by name: its places, and how many backends this process has ended. Asks nobody.
    pub fn usage(&self) -> Vec<(PluginName, PlacesTaken, u64)> {
        let of = |plugin: PluginName| {
            let places = self.0.pools.places(&plugin);
            (plugin, places.now(), places.ended.load(Ordering::Relaxed))
        };
        self.plugins().into_iter().map(of).collect()
    }

    /// Of all plugins, or of one.
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
        // An underscore would stand for any character.
        .bind(installation.role_prefix().replace('_', "\\_") + "%")
        .fetch_all(&self.0.pool)
        .await?;
        let mut sessions = rows.iter().map(session).collect::<Result<Vec<(String, SqlSession)>, StoreError>>()?;
        let mut plugins = Vec::new();
        for plugin in self.plugins().into_iter().filter(|plugin| only.is_none_or(|only| only == plugin)) {
            let login = installation.role(&plugin);
            let places = self.0.pools.places(&plugin);
            let of_plugin = sessions.extract_if(.., |(of, _)| *of == login).map(|(_, session)| session).collect();
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
        Ok(SqlActivity { max_connections, connections, plugins })
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
