//! Connections, migrations, facts about the server, and change notifications.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool, Row};
use tokio::sync::OnceCell;

use crate::connections::Connections;
use crate::error::ReadOnly;
use crate::notify::CHANNEL;
use crate::{StoreError, TermKey};

/// Lock held during migrations, so that hosts that start together migrate once. Any number works,
/// but it must never change.
const MIGRATION_LOCK: i64 = 0x7061_7463_6862_6179;
/// Set in every session of the host. Sent after connecting, not in the startup packet: poolers
/// refuse `options` there, or are configured to ignore it, and tables would be created in another
/// schema. No statement of the host takes seconds; one that does must not hold its connection for
/// ever. JIT is off, because compiling a statement takes longer than running it.
const SESSION: &str =
    "set search_path = patchbay, public; set statement_timeout = '30s'; set jit = off";
/// The schemas that the migrations create.
const OUR_SCHEMAS: [&str; 2] = ["patchbay", "patchbay_outbox"];
/// A pooler may by chance hand out different sessions for a while, so the check is repeated.
const SESSION_LOOKS: usize = 3;
/// Between two connection attempts at the start.
const RETRY: Duration = Duration::from_millis(250);
/// Oldest major version that is tested.
const OLDEST_VERSION_NUM: i32 = 150_000;

#[derive(Clone)]
pub struct StoreConfig {
    /// `postgres://…`
    pub url: String,
    /// Idle connections that are kept open.
    pub min_connections: u32,
    pub max_connections: u32,
    /// Longest wait for a free connection, and for a server that does not answer. One that refuses
    /// connections is not waited for.
    pub acquire_timeout: Duration,
}

#[derive(Debug)]
pub struct MigrationReport {
    /// Names of the migrations that this run applied.
    pub applied: Vec<String>,
}

/// Facts for `doctor`.
#[derive(Debug)]
pub struct DatabaseFacts {
    pub server_version: String,
    pub max_connections: i32,
    pub connections_in_use: i64,
    pub login: String,
    pub database: String,
    /// Whether the login may create schemas. Needed only while a schema is missing.
    pub can_create: bool,
    pub is_installed: bool,
    /// The host's schemas, tables and sequences that the login does not own.
    pub foreign: Vec<String>,
    /// Whether the login may create roles, which plugins' logins need.
    pub can_create_roles: bool,
}

/// The result of [`Store::probe`].
#[derive(Debug, Clone, Copy)]
pub struct StoreProbe {
    /// Wait for a connection of the pool, including the check that it is alive.
    pub waited: Duration,
    /// One round trip after that.
    pub round_trip: Duration,
    /// Why nothing can be written; `None` where it can.
    pub read_only: Option<ReadOnly>,
}

/// Connections of the host's own pool; plugins have other ones.
#[derive(Debug, Clone, Copy)]
pub struct PoolUsage {
    pub in_use: usize,
    pub idle: usize,
    pub limit: usize,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: Connections,
    pub(crate) options: Arc<PgConnectOptions>,
    /// The connection options, without the host's session settings.
    pub(crate) base: Arc<PgConnectOptions>,
    terms: Arc<OnceCell<TermKey>>,
    /// When a read-only session was last found. Sessions opened before that are not used any more,
    /// since they may stay read-only for ever.
    read_only_at: Arc<Mutex<Option<Instant>>>,
}

impl Store {
    /// Connects, and checks whether this Postgres can be used. Retries for up to `within` while
    /// Postgres does not answer.
    pub async fn connect(config: StoreConfig, within: Duration) -> Result<Self, StoreError> {
        let store = Self::new(config)?;
        store.reach(within).await?;
        Ok(store)
    }

    /// Does not connect; the first use does.
    pub fn new(config: StoreConfig) -> Result<Self, StoreError> {
        // Poolers do not know this parameter, and since Postgres 12 it changes nothing.
        let mut base = PgConnectOptions::from_str(&config.url)?.extra_float_digits(None);
        // With its brackets from the URL, an IPv6 address would be looked up as a host name.
        if let Some(address) = base
            .get_host()
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
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
        Ok(Self {
            pool: Connections::new(pool, &options),
            options: Arc::new(options),
            base: Arc::new(base),
            terms: Arc::default(),
            read_only_at,
        })
    }

    /// The same store for work that rather waits than fails while Postgres refuses connections, as
    /// during its restart: what a guest writes in a job.
    pub fn patient(&self) -> Self {
        Self {
            pool: self.pool.patient(),
            ..self.clone()
        }
    }

    /// A connection outside of the pool, with the settings of every session of the host.
    pub(crate) async fn session(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        connection.execute(SESSION).await?;
        Ok(connection)
    }

    /// Waits up to `within` for Postgres to answer, and checks whether it can be used. Does not use
    /// the pool, which does not report the reason of a failure.
    pub async fn reach(&self, within: Duration) -> Result<(), StoreError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let tried = tokio::time::timeout_at(deadline, self.examine()).await;
            let error = match tried.map_err(|_| StoreError::no_answer()).flatten() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !matches!(error, StoreError::Unavailable(_))
                || tokio::time::Instant::now() + RETRY >= deadline
            {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Checks whether this Postgres can be used. Uses no prepared statements and changes nothing.
    async fn examine(&self) -> Result<(), StoreError> {
        let (mut one, mut other) = tokio::try_join!(self.session(), self.session())?;
        check_session_pooling(&mut one, &mut other).await?;
        other.close().await.ok();
        let facts = "select current_setting('server_version_num')::int, current_setting('server_version'), \
             current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only')::bool";
        let facts = sqlx::query_as(facts)
            .persistent(false)
            .fetch_one(&mut one)
            .await;
        let (version_num, version, encoding, is_standby, is_read_only): (
            i32,
            String,
            String,
            bool,
            bool,
        ) = facts.map_err(|error| {
            if lacks_its_statement(&error) {
                shared_sessions()
            } else {
                error.into()
            }
        })?;
        one.close().await.ok();
        if version_num < OLDEST_VERSION_NUM {
            return Err(StoreError::Unfit(format!(
                "This is PostgreSQL {version}; Patchbay needs 15 or newer"
            )));
        }
        if encoding != "UTF8" {
            return Err(StoreError::Unfit(format!(
                "The database has the encoding {encoding}, which cannot store every text; Patchbay needs UTF8. \
                 Create another one: createdb --encoding=UTF8 --template=template0 NAME"
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
        // A separate connection: the lock belongs to the session, and migrations may take longer
        // than a statement may.
        let mut connection = self.session().await?;
        connection.execute("set statement_timeout = 0").await?;
        sqlx::query("select pg_advisory_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut connection)
            .await?;
        // Not `if not exists`: that needs the right to create even when the schema exists.
        let is_there = "select to_regnamespace('patchbay') is not null";
        if !sqlx::query_scalar::<_, bool>(is_there)
            .fetch_one(&mut connection)
            .await?
        {
            let made = connection.execute("create schema patchbay").await;
            made.map_err(|error| {
                match error.as_database_error().and_then(|error| error.code()).as_deref() {
                Some("42501") => StoreError::Unfit(
                    "This login may not create the schema patchbay. As an administrator of Postgres: \
                     grant create on database NAME to LOGIN (patchbay doctor writes the statement)"
                        .into(),
                ),
                _ => error.into(),
            }
            })?;
        }
        // Otherwise everything would be created in the next schema of the path.
        let first: Option<String> = sqlx::query_scalar("select current_schema()::text")
            .fetch_one(&mut connection)
            .await?;
        if first.as_deref() != Some("patchbay") {
            return Err(StoreError::Unfit(
                "This login may not use the schema patchbay, or something between this host and Postgres changes search_path. \
                 Make the login the schema's owner: alter schema patchbay owner to LOGIN"
                    .into(),
            ));
        }
        let before = applied(&mut connection).await?;
        // Not `run`: its future is not `Send` for every lifetime, and the caller may be a task.
        sqlx::migrate!("../../../migrations")
            .set_locking(false)
            .run_direct(None, &mut connection, false)
            .await?;
        let after = applied(&mut connection).await?;
        connection.close().await?;
        Ok(MigrationReport {
            applied: after
                .into_iter()
                .filter(|name| !before.contains(name))
                .collect(),
        })
    }

    /// Names of the migrations that are not applied yet.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let done = applied(&mut connection).await?;
        let all = sqlx::migrate!("../../../migrations");
        Ok(all
            .iter()
            .map(|m| m.description.to_string())
            .filter(|name| !done.contains(name))
            .collect())
    }

    /// Makes a round trip through the pool, and checks whether writing is possible.
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
        Ok(StoreProbe {
            waited,
            round_trip,
            read_only,
        })
    }

    /// Why the host cannot connect, if so. The pool only retries and does not report the reason.
    pub async fn why_unreachable(&self) -> Option<StoreError> {
        let session = self.session().await;
        session.map_err(StoreError::from).err()
    }

    pub fn pool_usage(&self) -> PoolUsage {
        let open = self.pool.size() as usize;
        let idle = self.pool.num_idle().min(open);
        PoolUsage {
            in_use: open - idle,
            idle,
            limit: self.pool.options().get_max_connections() as usize,
        }
    }

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
               and c.relname <> all(array['audit_entries', 'audit_entries_id_seq', 'audit_batches', 'audit_expiries', 'audit_expiries_id_seq']) \
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

    /// The installation's key for terms of the history, read once per process.
    pub async fn term_key(&self) -> Result<&TermKey, StoreError> {
        self.terms
            .get_or_try_init(|| async {
                let key: Vec<u8> = sqlx::query_scalar("select key from installation")
                    .fetch_one(&self.pool)
                    .await?;
                Ok(TermKey::derived_from(&key))
            })
            .await
    }

    /// Listens for changes to plugins.
    pub fn changes(&self) -> Changes {
        Changes {
            pool: PgPool::clone(&self.pool),
            listener: None,
        }
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Detects a pooler that shares sessions between clients (PgBouncer's `pool_mode = transaction` or
/// `statement`): two clients get the same backend, or one client gets a different backend each
/// time. Both connections are idle in between, so that a pooler can do this. Uses the simple
/// protocol, because prepared statements are the first thing to fail behind such a pooler.
async fn check_session_pooling(
    one: &mut PgConnection,
    other: &mut PgConnection,
) -> Result<(), StoreError> {
    let mut seen: Option<(i32, i32)> = None;
    for _ in 0..SESSION_LOOKS {
        // One connection is asked twice in a row: two clients that alternate could each get their
        // own server of a round-robin.
        let (first, again, second) = (
            backend_of(one).await?,
            backend_of(one).await?,
            backend_of(other).await?,
        );
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
        "A pooler between this host and Postgres shares sessions between clients (PgBouncer: pool_mode = transaction or statement). \
         Patchbay needs sessions of its own, for locks, notifications and prepared statements: set pool_mode = session for this \
         database, or connect to Postgres directly"
            .into(),
    )
}

/// A statement was prepared in another session: it does not exist here, or exists twice.
fn lacks_its_statement(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "26000" || code == "42P05")
}

async fn backend_of(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let row = connection
        .fetch_one(sqlx::raw_sql("select pg_backend_pid()"))
        .await?;
    // The simple protocol returns text.
    let pid: String = row.try_get_unchecked(0)?;
    pid.parse().map_err(|_| {
        StoreError::Unfit(format!(
            "pg_backend_pid() returned {pid:?}, which is not a process id"
        ))
    })
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let there: bool =
        sqlx::query_scalar("select to_regclass('patchbay._sqlx_migrations') is not null")
            .fetch_one(&mut *connection)
            .await?;
    if !there {
        return Ok(Vec::new());
    }
    let names = sqlx::query_scalar(
        "select description from patchbay._sqlx_migrations where success order by version",
    );
    Ok(names.fetch_all(connection).await?)
}

/// Wakes on each change of a plugin. A lost notification only costs time: callers re-read.
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
