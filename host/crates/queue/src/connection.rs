//! Our shared connection to Redis, replaced when it goes silent.
//!
//! The client library reconnects when a connection breaks, but not when it merely stops answering, as behind a dead router: then every
//! call would time out for as long as the system's TCP keeps the connection. So it is asked every second, by one task that ends with
//! the last clone.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::watch;
use tracing::warn;

use crate::QueueError;

/// A reply later than this is no reply: callers need an answer before their own limits.
const RESPONSE_LIMIT: Duration = Duration::from_secs(5);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A connection that does not answer `PING` for this long is silent. Redis answers in microseconds, and under load in milliseconds;
/// below the time limit of health probes, so that they replace it, too.
const SILENCE_LIMIT: Duration = Duration::from_secs(1);
/// Bounds how late silence is noticed.
const PING_EVERY: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

struct Shared {
    client: redis::Client,
    current: ArcSwap<ConnectionManager>,
    /// How often it was replaced.
    replaced: watch::Sender<u64>,
}

impl Connection {
    pub(crate) async fn open(client: redis::Client) -> Result<Self, QueueError> {
        let current = ArcSwap::from_pointee(connect(&client).await?);
        let shared = Arc::new(Shared { client, current, replaced: watch::Sender::new(0) });
        tokio::spawn(keep_asking(Arc::downgrade(&shared)));
        Ok(Self(shared))
    }

    /// To send commands over.
    pub(crate) fn get(&self) -> ConnectionManager {
        ConnectionManager::clone(&self.0.current.load())
    }

    /// For connections of one's own.
    pub(crate) fn client(&self) -> &redis::Client {
        &self.0.client
    }

    /// Tells when it was replaced: other connections of the same age are as silent.
    pub(crate) fn replacements(&self) -> watch::Receiver<u64> {
        self.0.replaced.subscribe()
    }

    /// A round trip. When there is no answer, the connection is replaced: the next commands go over a fresh one.
    pub(crate) async fn ping(&self) -> Result<(), QueueError> {
        let mut connection = self.get();
        let command = redis::cmd("PING");
        let ping = command.query_async::<String>(&mut connection);
        if let Ok(answer) = tokio::time::timeout(SILENCE_LIMIT, ping).await {
            return answer.map(drop).map_err(QueueError::from);
        }
        let fresh = connect(&self.0.client).await?;
        warn!("Redis was silent; reconnected");
        self.0.current.store(Arc::new(fresh));
        self.0.replaced.send_modify(|times| *times += 1);
        Ok(())
    }
}

async fn keep_asking(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        // Whoever needs the connection meets the error, too.
        Connection(shared).ping().await.ok();
        tokio::time::sleep(PING_EVERY).await;
    }
}

async fn connect(client: &redis::Client) -> Result<ConnectionManager, QueueError> {
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(RESPONSE_LIMIT))
        .set_connection_timeout(Some(CONNECT_LIMIT))
        .set_number_of_retries(3)
        .set_max_delay(Duration::from_millis(500));
    Ok(ConnectionManager::new_with_config(client.clone(), config).await?)
}
