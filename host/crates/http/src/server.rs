//! Accepts and serves connections, with limits on their number, on the time for a TLS handshake and
//! a request head, on the size of a head, and on the time in which a client must read some of an
//! answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use axum::Router;
use axum::serve::Listener;
use http::Request;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use patchbay_app::http_standing::HttpStanding;
use patchbay_app::service::Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::client_address::{ClientAddress, Connection, UnknownProxy, untrusted_proxy};
use super::framing::{Followed, Framing, TwoLengths};
use super::open_connections::OpenConnections;
use super::tls::Tls;

/// For a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Largest head of a request. hyper allows 100 fields.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// What is read at once, and of a head that has not ended.
const MAX_BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// For the first request head of a connection.
    pub first_head_timeout: Duration,
    /// For a further one, from the previous response. It also closes idle connections.
    pub header_timeout: Duration,
    /// For a whole request body.
    pub body_timeout: Duration,
    /// For a client to read some of the answer; a client that reads nothing for so long is
    /// disconnected.
    pub write_timeout: Duration,
    /// Maximum number of open connections; others wait to be accepted.
    pub max_connections: usize,
    /// Of one network, which is not a trusted proxy; further ones are closed at once.
    pub max_connections_per_network: usize,
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
    connections: Connections,
    operations: TaskTracker,
}

/// What each connection is served with. Cheap to clone.
#[derive(Clone)]
struct Connections {
    router: Router,
    limits: HttpLimits,
    /// `None`: plain HTTP.
    tls: Option<Arc<Tls>>,
    standing: Arc<HttpStanding>,
    open: OpenConnections,
}

impl Server {
    pub(crate) fn new(
        listener: TcpListener,
        tls: Option<Arc<Tls>>,
        router: Router,
        limits: HttpLimits,
        operations: TaskTracker,
        standing: Arc<HttpStanding>,
    ) -> Self {
        let proxies = Arc::clone(&limits.trusted_proxies);
        let open = OpenConnections::new(limits.max_connections_per_network, proxies);
        Self {
            listener: Mutex::new(Some(listener)),
            connections: Connections {
                router,
                limits,
                tls,
                standing,
                open,
            },
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
        let open = serve(listener, &self.connections, &stop).await;
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

/// Serves until `stop`, and gives what is open then.
async fn serve(
    listener: &mut TcpListener,
    connections: &Connections,
    stop: &CancellationToken,
) -> GracefulShutdown {
    let max_connections = connections.limits.max_connections;
    let places = Arc::new(Semaphore::new(max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            if places.available_permits() == 0 {
                warn!(
                    open = max_connections,
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
        let Some(counted) = connections.open.count(peer) else {
            debug!(%peer, "one network has http.max_connections_per_network connections: another is closed");
            continue;
        };
        let (connections, watcher, stop) = (connections.clone(), graceful.watcher(), stop.clone());
        tokio::spawn(async move {
            let stream = tokio::select! {
                // A handshake is not worth waiting for.
                () = stop.cancelled(), if connections.tls.is_some() => None,
                stream = connections.shake_hands(stream) => stream,
            };
            match stream {
                Some(Stream::Plain(stream)) => connections.talk(stream, peer, watcher).await,
                Some(Stream::Tls(stream)) => connections.talk(stream, peer, watcher).await,
                None => {}
            }
            drop((place, counted));
        });
    }
    graceful
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Connections {
    /// `None`: there was no handshake in time.
    async fn shake_hands(&self, stream: TcpStream) -> Option<Stream> {
        let Some(tls) = &self.tls else {
            return Some(Stream::Plain(stream));
        };
        let handshake = tls.acceptor().accept(stream);
        match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
            Ok(Ok(stream)) => Some(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                debug!(%error, "a TLS handshake has failed");
                None
            }
            Err(_) => {
                debug!("a TLS handshake has taken too long");
                None
            }
        }
    }

    /// Only HTTP/1: telling it from HTTP/2 reads from a client without a time limit.
    async fn talk(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        peer: SocketAddr,
        watcher: Watcher,
    ) {
        let Self {
            router,
            limits,
            standing,
            ..
        } = self;
        let proxies = limits.trusted_proxies;
        let connection = Connection::default();
        let framing = Arc::<parking_lot::Mutex<Framing>>::default();
        let heads = Arc::clone(&framing);
        let (first, first_head) = tokio::sync::oneshot::channel::<()>();
        let first = parking_lot::Mutex::new(Some(first));
        let first = Arc::new(first);
        let service = TowerToHyperService::new(router.map_request(
            move |mut request: Request<hyper::body::Incoming>| {
                drop(first.lock().take());
                let client = ClientAddress::of(peer.ip(), request.headers(), &proxies);
                let untrusted = untrusted_proxy(peer.ip(), request.headers(), &proxies);
                let has_two_lengths = heads.lock().next_has_two_lengths();
                let extensions = request.extensions_mut();
                extensions.insert(client);
                extensions.insert(connection.clone());
                if let Some(proxy) = untrusted {
                    standing.note_untrusted_proxy(proxy);
                }
                if let Some(unknown) = UnknownProxy::of(untrusted, &proxies) {
                    extensions.insert(unknown);
                }
                if has_two_lengths {
                    extensions.insert(TwoLengths);
                }
                request
            },
        ));
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.write_timeout));
        let stream = TokioIo::new(Followed::new(Box::pin(stream), framing));
        let connection = Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(stream, service);
        let first_head = tokio::time::timeout(limits.first_head_timeout, first_head);
        let mut connection = std::pin::pin!(watcher.watch(connection));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            head = first_head => match head {
                // The sender is dropped when a head has come.
                Ok(_) => connection.await,
                Err(_) => {
                    debug!("no whole head of a request has come in time");
                    return;
                }
            },
        };
        if let Err(error) = ended {
            debug!(%error, "a connection broke off");
        }
    }
}
