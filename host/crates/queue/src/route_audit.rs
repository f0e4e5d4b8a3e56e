//! The Redis stream of what the audit trail is told of requests to routes. A request appends to it;
//! the recorder of routes copies it to Postgres. Adding an entry again changes nothing there, so a
//! host that dies between the copy and the deletion loses and doubles nothing.

use std::time::Duration;

use redis::streams::StreamRangeReply;

use crate::connection::Connection;
use crate::scripts::Call;
use crate::streams;
use crate::transaction::APPEND_WHEN_FULL;
use crate::{Broker, QueueError};

/// Longest wait for Redis. The client of the request waits, too.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// An entry's id in the stream, and its JSON; nothing where another program wrote it.
pub type RouteEntry = (String, Option<String>);

/// Cheap to clone.
#[derive(Clone)]
pub struct RouteAuditStream {
    connection: Connection,
    key: String,
    probe_key: String,
}

impl Broker {
    pub fn route_audit(&self) -> RouteAuditStream {
        RouteAuditStream {
            connection: self.connection.clone(),
            key: format!("{}:route-audit", self.config.own_prefix),
            probe_key: self.config.probe_key(),
        }
    }
}

impl RouteAuditStream {
    /// Also while Redis's memory is full.
    pub async fn append(&self, entry: &str) -> Result<(), QueueError> {
        let call = Call::new(&APPEND_WHEN_FULL, &[&self.key, &self.probe_key]);
        let call = call.arg(&["*", "e", entry][..]);
        let mut connection = self.connection.get();
        let appended =
            tokio::time::timeout(ANSWER_WITHIN, call.invoke::<String>(&mut connection)).await;
        appended.map_err(|_| {
            redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
        })??;
        Ok(())
    }

    /// How many entries wait.
    pub async fn waiting(&self) -> Result<u64, QueueError> {
        Ok(redis::AsyncCommands::xlen(&mut self.connection.get(), &self.key).await?)
    }

    /// The oldest entries.
    pub async fn read(&self, most: usize) -> Result<Vec<RouteEntry>, QueueError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.key).arg("-").arg("+");
        command.arg("COUNT").arg(most);
        let reply: redis::Value = command.query_async(&mut self.connection.get()).await?;
        let range: StreamRangeReply = streams::read(reply)?;
        Ok(range
            .ids
            .into_iter()
            .map(|mut entry| {
                let json = entry.map.remove("e");
                let json = json.and_then(|json| redis::from_redis_value::<String>(json).ok());
                (entry.id, json)
            })
            .collect())
    }

    /// Deletes entries that Postgres has.
    pub async fn delete(&self, ids: &[String]) -> Result<(), QueueError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XDEL");
        command.arg(&self.key).arg(ids);
        let _deleted: u64 = command.query_async(&mut self.connection.get()).await?;
        Ok(())
    }
}
