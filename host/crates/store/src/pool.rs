//! Connection, migrations, facts and change notifications.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool, Row};
use tokio::sync::OnceCell;

use crate::error::ReadOnly;
use crate::notify::CHANNEL;
use crate::{StoreError, TermKey};

/// Held while migrating, so that hosts that start together do it once. Any number will do as long as it is always this one.
const MIGRATION_LOCK: i64 = 0x7061_7463_6862_6179;
/// Of every session of the host's own. Said after connecting, and not in the startup packet: poolers refuse `options` there, or are told to
/// ignore it, and tables would land in another schema. Nothing of ours takes seconds; a statement that does must not hold its connection
/// for ever. Compiling one takes longer than running it.
const SESSION: &str = "set search_path = patchbay, public; set statement_timeout = '30s'; set jit = off";
/// Those that the migrations make.
const OUR_SCHEMAS: [&str; 2] = ["patchbay", "patchbay_outbox"];
/// A pooler may by chance hand out other sessions for a while.
const SESSION_LOOKS: usize = 3;
/// Between two tries to connect at the start.
const RETRY: Duration = Duration::from_millis(250);
/// Oldest major version that is tested.
const OLDEST_VERSION_NUM: i32 = 150_000;

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
pub struct DatabaseFacts {
    pub server_version: String,
    pub max_connections: i32,
    pub connections_in_use: i64,
    pub login: String,
    pub database: String,
    /// Schemas, needed as long as one of ours is missing.
    pub can_create: bool,
    /// Whether the schemas are there.
    pub is_installed: bool,
    /// Schemas, tables and sequences of ours that the login does not own.
    pub foreign: Vec<String>,
    /// Roles, for plugins' logins.
    pub can_create_roles: bool,
}

/// What [`Store::probe`] has found.
#[derive(Debug, Clone, Copy)]
pub struct StoreProbe {
    /// For a connection of the pool, a look at whether it is alive included.
    pub waited: Duration,
    /// Then, for a round trip.
    pub round_trip: Duration,
    /// Why nothing can be written; nothing where it can.
    pub read_only: Option<ReadOnly>,
}

/// Connections of the host's own pool; plugins have others.
#[derive(Debug, Clone, Copy)]
pub struct PoolUsage {
    pub in_use: usize,
    pub idle: usize,
    pub limit: usize,
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    pub(crate) options: PgConnectOptions,
    /// Where Postgres is, without anything of the host's own sessions.
    pub(crate) base: PgConnectOptions,
    terms: Arc<OnceCell<TermKey>>,
    /// When a session that may not write was last met: older ones are not used any more, since they may keep that for ever.
    read_only_at: Arc<Mutex<Option<Instant>>>,
}

impl Store {
    /// Connects, and sees whether this Postgres can be used; tries again for so long while it does not answer.
    pub async fn connect(config: StoreConfig, within: Duration) -> Result<Self, StoreError> {
        let store = Self::new(config)?;
        store.reach(within).await?;
        Ok(store)
    }

    /// Connects when it is used.
    pub fn new(config: StoreConfig) -> Result<Self, StoreError> {
        // Poolers do not know that parameter, and since Postgres 12 it changes nothing.
        let mut base = PgConnectOptions::from_str(&config.url)?.extra_float_digits(None);
        // An IPv6 address as it stands in a URL would be looked up as a name.
        if let Some(address) = base.get_host().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address = address.to_owned();
            base = base.host(&address);
        }
        let options = base.clone().application_name("patchbay");
        let read_only_at = Arc::new(Mutex::new(None::<Instant>));
        let pool = PgPoolOptions::new()
            .min_connections(config.min_connections)
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(SESSION).await?;
                    Ok(())
                })
            })
            .before_acquire({
                let read_only_at = Arc::clone(&read_only_at);
                move |_, session| {
                    let read_only_at = *read_only_at.lock();
                    let is_younger = read_only_at.is_none_or(|at| session.age < at.elapsed());
                    Box::pin(async move { Ok(is_younger) })
                }
            })
            .connect_lazy_with(options.clone());
        Ok(Self { pool, options, base, terms: Arc::default(), read_only_at })
    }

    /// A connection of its own, set as every session of ours.
    pub(crate) async fn session(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        connection.execute(SESSION).await?;
        Ok(connection)
    }

    /// Waits at most that long for Postgres to answer, and sees whether it can be used. Not through the pool, which keeps the reason of a
    /// failure for itself.
    pub async fn reach(&self, within: Duration) -> Result<(), StoreError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let tried = tokio::time::timeout_at(deadline, self.examine()).await;
            let error = match tried.map_err(|_| StoreError::no_answer()).flatten() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !matches!(error, StoreError::Unavailable(_)) || tokio::time::Instant::now() + RETRY >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether this Postgres is one that can be used. Asks nothing that needs a prepared statement, and changes nothing.
    async fn examine(&self) -> Result<(), StoreError> {
        let (mut one, mut other) = tokio::try_join!(self.session(), self.session())?;
        see_whether_sessions_are_ours(&mut one, &mut other).await?;
        other.close().await.ok();
        let facts = "select current_setting('server_version_num')::int, current_setting('server_version'), \
             current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only')::bool";
        let facts = sqlx::query_as(facts).persistent(false).fetch_one(&mut one).await;
        let (version_num, version, encoding, is_standby, is_read_only): (i32, String, String, bool, bool) =
            facts.map_err(|error| if lacks_its_statement(&error) { shared_sessions() } else { error.into() })?;
        one.close().await.ok();
        if version_num < OLDEST_VERSION_NUM {
            return Err(StoreError::Unfit(format!("this is PostgreSQL {version}; Patchbay needs 15 or newer")));
        }
        if encoding != "UTF8" {
            return Err(StoreError::Unfit(format!(
                "the database is encoded in {encoding}, which cannot hold every text; Patchbay needs UTF8. \
                 Make another one: createdb --encoding=UTF8 --template=template0 NAME"
            )));
        }
        match ReadOnly::of(is_standby, is_read_only) {
            Some(why) => Err(StoreError::ReadOnly(why)),
            None => Ok(()),
        }
    }

    /// Brings the schema up to date. Safe when several hosts start at once.
    pub async fn migrate(&self) -> Result<MigrationReport, StoreError> {
        self.examine().await?;
        // A connection of its own: the lock belongs to the session, and migrations may take longer than a statement.
        let mut connection = self.session().await?;
        connection.execute("set statement_timeout = 0").await?;
        sqlx::query("select pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut connection).await?;
        // Not `if not exists`: that asks for the right to create even where there is nothing to create.
        let is_there = "select to_regnamespace('patchbay') is not null";
        if !sqlx::query_scalar::<_, bool>(is_there).fetch_one(&mut connection).await? {
            let made = connection.execute("create schema patchbay").await;
            made.map_err(|error| match error.as_database_error().and_then(|error| error.code()).as_deref() {
                Some("42501") => StoreError::Unfit(
                    "this login may not make the schema patchbay. As an administrator of Postgres: \
                     grant create on database NAME to LOGIN (patchbay doctor writes the statement)"
                        .into(),
                ),
                _ => error.into(),
            })?;
        }
        // Otherwise everything would be made in the next schema of the path.
        let first: Option<String> =
            sqlx::query_scalar("select current_schema()::text").fetch_one(&mut connection).await?;
        if first.as_deref() != Some("patchbay") {
            return Err(StoreError::Unfit(
                "this login may not use the schema patchbay, or something between here and Postgres changes search_path. \
                 Make the login the schema's owner: alter schema patchbay owner to LOGIN"
                    .into(),
            ));
        }
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

    /// A round trip through the pool, and whether anything may be written.
    pub async fn probe(&self) -> Result<StoreProbe, StoreError> {
        let started = Instant::now();
        let mut connection = self.pool.acquire().await?;
        let waited = started.elapsed();
        let query = "select pg_is_in_recovery(), current_setting('transaction_read_only')::bool";
        let (is_standby, is_read_only) = sqlx::query_as(query).fetch_one(&mut *connection).await?;
        let round_trip = started.elapsed() - waited;
        let read_only = ReadOnly::of(is_standby, is_read_only);
        if read_only.is_some() {
            *self.read_only_at.lock() = Some(Instant::now());
        }
        Ok(StoreProbe { waited, round_trip, read_only })
    }

    /// Why no connection can be had, if that is so: the pool tries again and again, and keeps the reason for itself.
    pub async fn why_unreachable(&self) -> Option<StoreError> {
        let session = self.session().await;
        session.map_err(StoreError::from).err()
    }

    /// The pool as it is now.
    pub fn pool_usage(&self) -> PoolUsage {
        let open = self.pool.size() as usize;
        let idle = self.pool.num_idle().min(open);
        PoolUsage { in_use: open - idle, idle, limit: self.pool.options().get_max_connections() as usize }
    }

    /// Facts about the server.
    pub async fn facts(&self) -> Result<DatabaseFacts, StoreError> {
        let row = sqlx::query(
            "select current_setting('server_version') as version, current_user::text as login, \
             current_database()::text as database, \
             current_setting('max_connections')::int as most, (select count(*) from pg_stat_activity) as used, \
             has_database_privilege(current_database(), 'create') as can_create, \
             (select count(*) = 2 from pg_namespace where nspname = any($1)) as is_installed, \
             (select rolcreaterole or rolsuper from pg_roles where rolname = current_user) as can_create_roles, \
             array(select 'schema ' || nspname from pg_namespace \
               where nspname = any($1) and not pg_has_role(nspowner, 'usage') \
               union all select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace \
               where n.nspname = any($1) and c.relkind in ('r', 'p', 'S', 'v') and not pg_has_role(c.relowner, 'usage') \
               order by 1) as foreign_ones",
        )
        .bind(OUR_SCHEMAS.map(str::to_owned).to_vec())
        .fetch_one(&self.pool)
        .await?;
        Ok(DatabaseFacts {
            server_version: row.try_get("version")?,
            max_connections: row.try_get("most")?,
            connections_in_use: row.try_get("used")?,
            login: row.try_get("login")?,
            database: row.try_get("database")?,
            can_create: row.try_get("can_create")?,
            is_installed: row.try_get("is_installed")?,
            foreign: row.try_get("foreign_ones")?,
            can_create_roles: row.try_get("can_create_roles")?,
        })
    }

    /// The key of this installation for terms of the history, read once per process.
    pub async fn term_key(&self) -> Result<&TermKey, StoreError> {
        self.terms
            .get_or_try_init(|| async {
                let key: Vec<u8> = sqlx::query_scalar("select key from installation").fetch_one(&self.pool).await?;
                Ok(TermKey::derived_from(&key))
            })
            .await
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

/// Two clients of a pooler that shares sessions between them (PgBouncer's `pool_mode = transaction` or `statement`) meet the same backend, or
/// one client another backend each time. Both are idle in between, so that a pooler is free to do it. By the simple protocol: prepared
/// statements are what fails first there.
async fn see_whether_sessions_are_ours(one: &mut PgConnection, other: &mut PgConnection) -> Result<(), StoreError> {
    let mut seen: Option<(i32, i32)> = None;
    for _ in 0..SESSION_LOOKS {
        // One of them twice in a row: two clients that take turns would have two servers of a round for their own.
        let (first, again, second) = (backend_of(one).await?, backend_of(one).await?, backend_of(other).await?);
        let now = (first, second);
        if first != again || first == second || seen.is_some_and(|before| before != now) {
            return Err(shared_sessions());
        }
        seen = Some(now);
    }
    Ok(())
}

fn shared_sessions() -> StoreError {
    StoreError::Unfit(
        "a pooler between here and Postgres shares sessions between clients (PgBouncer: pool_mode = transaction or statement). \
         Patchbay needs sessions of its own, for locks, notifications and prepared statements: set pool_mode = session for this \
         database, or connect to Postgres directly"
            .into(),
    )
}

/// A statement was prepared in one session, and is asked for in another: not there, or there twice.
fn lacks_its_statement(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "26000" || code == "42P05")
}

async fn backend_of(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let row = connection.fetch_one(sqlx::raw_sql("select pg_backend_pid()")).await?;
    // Text, as the simple protocol has it.
    let pid: String = row.try_get_unchecked(0)?;
    pid.parse().map_err(|_| StoreError::Unfit(format!("pg_backend_pid() is {pid:?}")))
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
