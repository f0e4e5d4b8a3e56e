//! Numbers for metrics, read in one round trip: Redis itself, the history's stream and the
//! schedules.

use patchbay_model::QueueName;
use redis::{RedisResult, Value};

use crate::damage::read;
use crate::schedulers::MISSED_AFTER;
use crate::{Broker, QueueError, memory};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Bytes that Redis uses, and its limit (0: no limit). `None` if Redis does not say.
    pub memory: Option<(u64, u64)>,
    /// Finished attempts, of all processes, that Postgres does not have yet.
    pub attempts_waiting: u64,
    /// How long ago the oldest of them finished, in milliseconds.
    pub history_lag_ms: u64,
    /// Per queue, the schedules whose tick has been due for a minute and has not started.
    pub overdue: Vec<(QueueName, u64)>,
}

impl Broker {
    /// One round trip for any number of queues. Damaged values count as zero; the list of queues
    /// says what is wrong with them.
    pub async fn census(&self, names: &[QueueName]) -> Result<ServerStats, QueueError> {
        let stream = self.attempts_key();
        let late = self
            .now_ms()
            .saturating_sub(MISSED_AFTER.as_millis() as u64);
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        pipe.cmd("INFO").arg("memory");
        pipe.xlen(&stream)
            .cmd("XRANGE")
            .arg(&stream)
            .arg("-")
            .arg("+")
            .arg("COUNT")
            .arg(1);
        for name in names {
            pipe.zcount(self.keys(name).repeat(), "-inf", late);
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let mut replies = replies.into_iter();
        let info: String = next(&mut replies)?;
        let attempts_waiting = next(&mut replies)?;
        let oldest: Vec<(String, Value)> = next(&mut replies)?;
        // The entry's id begins with Redis's time when it was written.
        let written = oldest
            .first()
            .and_then(|(id, _)| id.split('-').next()?.parse::<u64>().ok());
        let mut overdue = Vec::with_capacity(names.len());
        for name in names {
            overdue.push((name.clone(), next(&mut replies)?));
        }
        Ok(ServerStats {
            memory: memory::used_and_limit(&info),
            attempts_waiting,
            history_lag_ms: written.map_or(0, |at| self.now_ms().saturating_sub(at)),
            overdue,
        })
    }
}

fn next<T: redis::FromRedisValue + Default>(
    replies: &mut impl Iterator<Item = RedisResult<Value>>,
) -> Result<T, QueueError> {
    Ok(read(replies.next().unwrap_or(Ok(Value::Nil)))?.unwrap_or_default())
}
