//! Better backtraces in BullMQ's own place for them, so that Bull Board shows files and lines.
//!
//! Best effort, long after the job settled: a job that is gone, or whose traces have changed meanwhile, is left as it is.

use patchbay_model::job::JobKey;
use redis::aio::MultiplexedConnection;

use crate::QueueError;
use crate::attempt_stream::AttemptReader;
use crate::js;

impl AttemptReader {
    /// Writes `new` over every stack trace of the job that is `old` (attempts that failed alike have the same). Whether there was one.
    pub async fn replace_trace(&mut self, job: &JobKey, old: &str, new: &str) -> Result<bool, QueueError> {
        // Of its own: WATCH belongs to a connection.
        let mut connection = match self.editing.take() {
            Some(connection) => connection,
            None => self.connection.client().get_multiplexed_async_connection().await?,
        };
        let replaced = replace(&mut connection, job, old, new).await?;
        // Not after an error: the connection may still watch.
        self.editing = Some(connection);
        Ok(replaced)
    }
}

async fn replace(
    connection: &mut MultiplexedConnection,
    job: &JobKey,
    old: &str,
    new: &str,
) -> redis::RedisResult<bool> {
    let key = format!("{}:{}:{}", job.prefix, job.queue, job.id);
    redis::cmd("WATCH").arg(&key).query_async::<()>(connection).await?;
    let (created, traces): (Option<String>, Option<String>) =
        redis::cmd("HMGET").arg(&key).arg(&["timestamp", "stacktrace"]).query_async(connection).await?;
    let changed = traces
        .filter(|_| created.and_then(|created| js::whole(&created)) == Some(job.created_ms))
        .and_then(|traces| replaced(&traces, old, new));
    let Some(changed) = changed else {
        redis::cmd("UNWATCH").query_async::<()>(connection).await?;
        return Ok(false);
    };
    let mut pipe = redis::pipe();
    pipe.atomic().hset(&key, "stacktrace", changed).ignore();
    // Nil when the job has changed since: its worker writes the traces as it knows them.
    let written: Option<()> = pipe.query_async(connection).await?;
    Ok(written.is_some())
}

/// The list with every `old` replaced; nothing when there is none.
fn replaced(traces: &str, old: &str, new: &str) -> Option<String> {
    let mut traces: Vec<String> = serde_json::from_str(traces).ok()?;
    let mut found = false;
    for trace in traces.iter_mut().filter(|trace| *trace == old) {
        new.clone_into(trace);
        found = true;
    }
    found.then(|| serde_json::Value::from(traces).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_traces_are_replaced() {
        assert_eq!(replaced(r#"["a","b","a"]"#, "a", "c").as_deref(), Some(r#"["c","b","c"]"#));
        assert_eq!(replaced(r#"["a"]"#, "b", "c"), None);
        assert_eq!(replaced("nonsense", "b", "c"), None);
    }
}
