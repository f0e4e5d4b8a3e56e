//! A plain key-value space in Redis, for guests. The caller has already prefixed the keys with the
//! plugin's name.

use std::time::Duration;

use redis::AsyncCommands;

use crate::QueueError;
use crate::connection::Connection;
use crate::memory::Memory;

#[derive(Clone)]
pub struct Kv {
    pub(crate) connection: Connection,
    pub(crate) prefix: String,
    pub(crate) memory: Memory,
}

impl Kv {
    fn key(&self, key: &str) -> String {
        format!("{}:kv:{key}", self.prefix)
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError> {
        Ok(self.connection.get().get(self.key(key)).await?)
    }

    /// Refused while Redis is nearly full, like all writes here.
    pub async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), QueueError> {
        self.memory.refuse_when_full().await?;
        let ttl = ttl.as_millis() as u64;
        Ok(self
            .connection
            .get()
            .pset_ex(self.key(key), value, ttl.max(1))
            .await?)
    }

    /// Writes only if the key is absent; false if it had a value.
    pub async fn set_if_absent(
        &self,
        key: &str,
        value: &[u8],
        ttl: Duration,
    ) -> Result<bool, QueueError> {
        self.memory.refuse_when_full().await?;
        let mut command = redis::cmd("SET");
        command
            .arg(self.key(key))
            .arg(value)
            .arg("PX")
            .arg((ttl.as_millis() as u64).max(1))
            .arg("NX");
        let set: Option<String> = command.query_async(&mut self.connection.get()).await?;
        Ok(set.is_some())
    }

    pub async fn delete(&self, key: &str) -> Result<bool, QueueError> {
        let deleted: u64 = self.connection.get().del(self.key(key)).await?;
        Ok(deleted > 0)
    }

    /// Returns the new value. The ttl applies only when this call creates the key.
    pub async fn increment(&self, key: &str, by: i64, ttl: Duration) -> Result<i64, QueueError> {
        self.memory.refuse_when_full().await?;
        let key = self.key(key);
        let mut pipe = redis::pipe();
        // One transaction, because a key without a ttl would stay for ever if the process died in
        // between.
        pipe.atomic()
            .cmd("SET")
            .arg(&key)
            .arg(0)
            .arg("PX")
            .arg((ttl.as_millis() as u64).max(1))
            .arg("NX")
            .ignore()
            .cmd("INCRBY")
            .arg(&key)
            .arg(by);
        let (value,): (i64,) = pipe.query_async(&mut self.connection.get()).await?;
        Ok(value)
    }
}
