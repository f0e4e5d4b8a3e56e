//! Ends a running job, whichever process runs it.
//!
//! Every process with workers hears each kill on one channel and checks whether it holds that job;
//! a process that does not hold it does nothing. A kill that nobody hears changes nothing: the
//! caller sees that the job still runs.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use patchbay_model::job::JobState;
use patchbay_model::{JobId, QueueName};
use redis::AsyncCommands;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tracing::warn;

use crate::connection::Connection;
use crate::orders::Kill;
use crate::{Broker, QueueError};

/// Time limit for a kill. The guest is dropped at once, and its job is settled in one round trip.
const LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(2);
const RECONNECT_EVERY: Duration = Duration::from_secs(1);

impl Broker {
    /// Ends a running job and waits until it has ended. The job fails for good; the reason names
    /// the operator.
    pub async fn kill(&self, queue: &QueueName, id: &JobId, by: &str) -> Result<(), QueueError> {
        const RULE: &str = "only running jobs can be killed";
        let state = async || -> Result<Option<(JobState, Option<String>)>, QueueError> {
            Ok(self
                .job(queue, id)
                .await?
                .map(|job| (job.state, job.processed_by)))
        };
        match state().await? {
            None => {
                return Err(QueueError::NotFound {
                    queue: queue.to_string(),
                    id: id.to_string(),
                });
            }
            Some((JobState::Active, _)) => {}
            Some((state, _)) => return Err(QueueError::WrongState { state, rule: RULE }),
        }
        let order = Kill {
            queue: queue.clone(),
            id: id.clone(),
            by: by.to_owned(),
        };
        let order = serde_json::to_string(&order)
            .map_err(|error| QueueError::Invalid(error.to_string()))?;
        self.connection
            .get()
            .publish::<_, _, ()>(self.config.kill_channel(), order)
            .await?;
        let give_up = Instant::now() + LIMIT;
        loop {
            match state().await? {
                Some((JobState::Active, worker)) if Instant::now() > give_up => {
                    let worker = worker.unwrap_or_else(|| "an unnamed worker".into());
                    return Err(QueueError::NotKilled { worker });
                }
                Some((JobState::Active, _)) => tokio::time::sleep(LOOK_EVERY).await,
                _ => return Ok(()),
            }
        }
    }

    /// Orders to end jobs, as the workers of this process receive them.
    pub(crate) fn kills(&self) -> broadcast::Receiver<Arc<Kill>> {
        let mut first = None;
        let orders = self.kills.get_or_init(|| {
            let (orders, receiver) = broadcast::channel(64);
            first = Some(receiver);
            tokio::spawn(listen(
                self.connection.clone(),
                self.config.kill_channel(),
                orders.clone(),
            ));
            orders
        });
        first.unwrap_or_else(|| orders.subscribe())
    }
}

/// Forwards orders to this process's workers until no worker listens any more.
async fn listen(connection: Connection, channel: String, orders: broadcast::Sender<Arc<Kill>>) {
    let mut replacements = connection.replacements();
    while orders.receiver_count() > 0 {
        if let Err(error) = pass_on(&connection, &channel, &orders, &mut replacements).await {
            warn!(%error, "Orders to kill jobs cannot be received; reconnecting to Redis");
        }
        tokio::time::sleep(RECONNECT_EVERY).await;
    }
}

async fn pass_on(
    connection: &Connection,
    channel: &str,
    orders: &broadcast::Sender<Arc<Kill>>,
    replacements: &mut tokio::sync::watch::Receiver<u64>,
) -> redis::RedisResult<()> {
    let subscribing = async {
        let mut subscription = connection.client().get_async_pubsub().await?;
        subscription.subscribe(channel).await?;
        Ok::<_, redis::RedisError>(subscription)
    };
    let no_answer = |_| redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let mut subscription = tokio::time::timeout(SUBSCRIBE_LIMIT, subscribing)
        .await
        .map_err(no_answer)??;
    let mut messages = subscription.on_message();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                match serde_json::from_slice(message.get_payload_bytes()) {
                    Ok(order) => drop(orders.send(Arc::new(order))),
                    Err(error) => warn!(%error, "An order to kill a job cannot be read and is ignored"),
                }
            }
            // The shared connection was replaced because it was silent or led to a replica. This
            // one is as old, so it is reopened too.
            _ = replacements.changed() => return Ok(()),
        }
    }
}
