//! Accepts and serves connections, with limits on their number, on the time for a request head, and
//! on the time in which a client must read some of an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use axum::Router;
use axum::serve::Listener;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use patchbay_app::service::Service;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::client_address::{ClientAddress, Connection};

#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// For a request head, from the start of the connection or the previous response. It also
    /// closes idle connections.
    pub header_timeout: Duration,
    /// For a whole request body.
    pub body_timeout: Duration,
    /// For a client to read some of the answer; a client that reads nothing for so long is
    /// disconnected.
    pub write_timeout: Duration,
    /// Maximum number of open connections; others wait to be accepted.
    pub max_connections: usize,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Other origins whose pages may send changes.
    pub allowed_origins: Arc<[String]>,
}

/// The address where HTTP is served. Taken before any job is: a host that cannot listen does not
/// start.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// The server.
pub(crate) struct Server {
    /// None from the stop on.
    listener: Mutex<Option<TcpListener>>,
    router: Router,
    limits: HttpLimits,
    operations: TaskTracker,
}

impl Server {
    pub(crate) fn new(
        listener: TcpListener,
        router: Router,
        limits: HttpLimits,
        operations: TaskTracker,
    ) -> Self {
        Self {
            listener: Mutex::new(Some(listener)),
            router,
            limits,
            operations,
        }
    }
}

#[async_trait]
impl Service for Server {
    fn name(&self) -> &'static str {
        "http"
    }

    /// Takes no more connections from the stop on, and ends with the last one that is open.
    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut place = self.listener.lock().await;
        let listener = place.as_mut().context("it has stopped listening")?;
        let open = serve(listener, &self.router, &self.limits, &stop).await;
        *place = None;
        open.shutdown().await;
        Ok(())
    }

    /// Also for operations whose clients have left.
    async fn finish(&self) -> anyhow::Result<()> {
        self.operations.close();
        self.operations.wait().await;
        Ok(())
    }
}

/// Serves until `stop`, and gives what is open then. Only HTTP/1: telling it from HTTP/2 reads from
/// a client without a time limit.
async fn serve(
    listener: &mut TcpListener,
    router: &Router,
    limits: &HttpLimits,
    stop: &CancellationToken,
) -> GracefulShutdown {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout);
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            if places.available_permits() == 0 {
                warn!(
                    open = limits.max_connections,
                    "the limit http.max_connections is reached: further connections wait"
                );
            }
            let place = Arc::clone(&places).acquire_owned().await;
            // This is axum's `accept`: after an error, such as too many open files, it waits and
            // continues.
            (place, Listener::accept(listener).await)
        };
        let (place, (stream, peer)): (_, (_, SocketAddr)) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        let proxies = Arc::clone(&limits.trusted_proxies);
        let connection = Connection::default();
        let service =
            TowerToHyperService::new(router.clone().map_request(move |mut request: Request<_>| {
                let client = ClientAddress::of(peer.ip(), request.headers(), &proxies);
                request.extensions_mut().insert(client);
                request.extensions_mut().insert(connection.clone());
                request
            }));
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.write_timeout));
        let connection = builder
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    graceful
}
