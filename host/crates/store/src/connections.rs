//! The host's connections to Postgres: sqlx's pool, which here does not wait for a server that
//! refuses connections. By itself, the pool takes a refusal for a server that is about to start, and
//! tries again until its time limit. A server that is silent still has that whole time.

use std::io::ErrorKind;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgConnectOptions, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{Describe, Either, Error, Execute, Executor, SqlStr, Transaction};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;

/// Most connections are there sooner, also new ones.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same after a refusal: enough to find that an open connection still works.
const LITTLE_PATIENCE: Duration = Duration::from_millis(20);
/// Requests that wait together ask the server together, at most so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For how long a refusal counts.
const LATELY: Duration = Duration::from_secs(1);
/// The server is not asked for longer; it does not refuse then.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Cheap to clone. Everything else of the pool is reached through `Deref`.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pool: PgPool,
    server: Arc<Server>,
    /// Waits for a server that refuses connections, too.
    is_patient: bool,
}

#[derive(Debug)]
struct Server {
    address: Address,
    /// When it was last asked, and whether it refused.
    last: Mutex<Option<(Instant, bool)>>,
}

#[derive(Debug)]
enum Address {
    Tcp(String, u16),
    Socket(PathBuf),
}

impl Connections {
    pub(crate) fn new(pool: PgPool, options: &PgConnectOptions) -> Self {
        let (host, port) = (options.get_host(), options.get_port());
        let directory = match options.get_socket() {
            Some(directory) => Some(directory.clone()),
            None if host.starts_with('/') => Some(PathBuf::from(host)),
            None => None,
        };
        let address = match directory {
            Some(directory) => Address::Socket(directory.join(format!(".s.PGSQL.{port}"))),
            None => Address::Tcp(host.to_owned(), port),
        };
        let server = Server {
            address,
            last: Mutex::default(),
        };
        Self {
            pool,
            server: Arc::new(server),
            is_patient: false,
        }
    }

    pub(crate) fn patient(&self) -> Self {
        Self {
            is_patient: true,
            ..self.clone()
        }
    }

    /// A connection of the pool.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>, Error> {
        if self.is_patient {
            return self.pool.acquire().await;
        }
        tokio::select! {
            biased;
            acquired = self.pool.acquire() => acquired,
            refusal = self.server.refusal() => Err(refusal),
        }
    }

    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Transaction::begin(self.acquire().await?, None).await
    }
}

impl Deref for Connections {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

impl Server {
    /// Returns when the server refuses connections, and never otherwise.
    async fn refusal(&self) -> Error {
        let was_refused = match *self.last.lock().await {
            Some((at, true)) => at.elapsed() < LATELY,
            _ => false,
        };
        let patience = match was_refused {
            true => LITTLE_PATIENCE,
            false => PATIENCE,
        };
        tokio::time::sleep(patience).await;
        while !self.refuses().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Error::Io(ErrorKind::ConnectionRefused.into())
    }

    async fn refuses(&self) -> bool {
        let mut last = self.last.lock().await;
        match *last {
            Some((at, refused)) if at.elapsed() < LOOK_EVERY => refused,
            _ => {
                let refused = self.address.refuses().await;
                *last = Some((Instant::now(), refused));
                refused
            }
        }
    }
}

impl Address {
    async fn refuses(&self) -> bool {
        let connect = async {
            match self {
                Self::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).await.map(drop),
                Self::Socket(path) => UnixStream::connect(path).await.map(drop),
            }
        };
        let connected = tokio::time::timeout(LOOK_LIMIT, connect).await;
        matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
    }
}

/// As sqlx has it for its pool.
impl<'p> Executor<'p> for &'_ Connections {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        // No statement of the host reads more rows than are kept in memory anyhow.
        let rows = async move {
            let mut connection = match pool.acquire().await {
                Ok(connection) => connection,
                Err(error) => return vec![Err(error)],
            };
            connection.fetch_many(query).collect::<Vec<_>>().await
        };
        rows.map(stream::iter).flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.describe(sql).await })
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;
    use tokio::net::TcpListener;

    use super::*;

    fn connections(port: u16, limit: Duration) -> Connections {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port);
        let pool = PgPoolOptions::new().acquire_timeout(limit);
        Connections::new(pool.connect_lazy_with(options.clone()), &options)
    }

    async fn free_port() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("a port")
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_error_long_before_the_time_limit() {
        let listener = free_port().await;
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let connections = connections(port, Duration::from_secs(60));
        let began = Instant::now();
        for _ in 0..5 {
            let error = sqlx::query("select 1").execute(&connections).await;
            let error = error.expect_err("nobody listens");
            assert!(
                matches!(&error, Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused),
                "{error}"
            );
        }
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn whoever_is_patient_waits_for_a_server_that_starts_again() {
        let listener = free_port().await;
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let connections = connections(port, Duration::from_millis(600)).patient();
        let error = connections.acquire().await.expect_err("nobody listens");
        assert!(matches!(error, Error::PoolTimedOut), "{error}");
    }

    #[tokio::test]
    async fn a_silent_server_has_the_whole_time_of_the_pool() {
        // It accepts, and says nothing.
        let listener = free_port().await;
        let port = listener.local_addr().expect("an address").port();
        let connections = connections(port, Duration::from_millis(600));
        let began = Instant::now();
        let error = connections.begin().await.expect_err("no answer");
        assert!(matches!(error, Error::PoolTimedOut), "{error}");
        assert!(began.elapsed() >= Duration::from_millis(600));
        drop(listener);
    }
}
