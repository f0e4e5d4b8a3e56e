//! The stream of finished attempts: written before a job settles, read by whoever copies it to Postgres.

use std::time::Duration;

use patchbay_model::attempt::AttemptRecord;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};

use crate::QueueError;
use crate::connection::Connection;

const GROUP: &str = "store";
/// Entries of a reader that has been silent this long belong to a dead process.
const IDLE_MS: u64 = 30_000;

/// One stream for all queues of this installation.
#[derive(Clone)]
pub struct AttemptStream {
    pub(crate) connection: Connection,
    /// Reads block, so they have a connection of their own.
    pub(crate) blocking: redis::Client,
    pub(crate) key: String,
    pub(crate) consumer: String,
}

/// An entry: its id, and the record or why it cannot be read.
pub type Entry = (String, Result<AttemptRecord, String>);

impl AttemptStream {
    /// Appends; durable as far as Redis is.
    pub async fn append(&self, record: &AttemptRecord) -> Result<(), QueueError> {
        let json = serde_json::to_string(record).map_err(|e| QueueError::Invalid(e.to_string()))?;
        let mut command = redis::cmd("XADD");
        command.arg(&self.key).arg("*").arg("r").arg(json);
        let _: String = command.query_async(&mut self.connection.get()).await?;
        Ok(())
    }

    /// Entries that nobody has acknowledged: our own first, then those of dead readers, then new ones. A zero `block` does not wait.
    pub async fn read(&self, most: usize, block: Duration) -> Result<Vec<Entry>, QueueError> {
        let mut connection = self.connection.get();
        let made: redis::RedisResult<()> = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.key)
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM")
            .query_async(&mut connection)
            .await;
        if let Err(error) = made
            && error.code() != Some("BUSYGROUP")
        {
            return Err(error.into());
        }
        let own = self.read_group(&mut connection, "0", most, None).await?;
        if !own.is_empty() {
            return Ok(own);
        }
        let claimed: StreamAutoClaimReply = redis::cmd("XAUTOCLAIM")
            .arg(&self.key)
            .arg(GROUP)
            .arg(&self.consumer)
            .arg(IDLE_MS)
            .arg("0")
            .arg("COUNT")
            .arg(most)
            .query_async(&mut connection)
            .await?;
        if !claimed.claimed.is_empty() {
            return Ok(claimed.claimed.into_iter().map(decode).collect());
        }
        if block.is_zero() {
            return self.read_group(&mut connection, ">", most, None).await;
        }
        let mut blocking = self
            .blocking
            .get_multiplexed_async_connection_with_config(
                &redis::AsyncConnectionConfig::new().set_response_timeout(Some(block + Duration::from_secs(2))),
            )
            .await?;
        self.read_group(&mut blocking, ">", most, Some(block)).await
    }

    async fn read_group(
        &self,
        connection: &mut impl redis::aio::ConnectionLike,
        from: &str,
        most: usize,
        block: Option<Duration>,
    ) -> Result<Vec<Entry>, QueueError> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.consumer).arg("COUNT").arg(most);
        if let Some(block) = block {
            command.arg("BLOCK").arg(block.as_millis() as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(from);
        let reply: Option<StreamReadReply> = command.query_async(connection).await?;
        Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).map(decode).collect())
    }

    /// Forgets entries that Postgres has.
    pub async fn ack(&self, ids: &[String]) -> Result<(), QueueError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.cmd("XACK").arg(&self.key).arg(GROUP).arg(ids).ignore();
        pipe.cmd("XDEL").arg(&self.key).arg(ids).ignore();
        Ok(pipe.query_async(&mut self.connection.get()).await?)
    }
}

fn decode(entry: StreamId) -> Entry {
    let record = match entry.get::<String>("r") {
        Some(json) => serde_json::from_str(&json).map_err(|error| error.to_string()),
        None => Err("it has no record".to_owned()),
    };
    (entry.id, record)
}
