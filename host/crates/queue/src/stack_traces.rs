//! Writes better backtraces where BullMQ keeps stack traces, so that Bull Board shows files and
//! lines.
//!
//! Best effort, long after the job settled. A job that is gone, or whose traces have changed
//! meanwhile, is left unchanged.

use patchbay_model::job::JobKey;
use redis::aio::MultiplexedConnection;

use crate::QueueError;
use crate::attempt_stream::AttemptReader;
use crate::js;

impl AttemptReader {
    /// Replaces every stack trace of the job that equals `old` with `new` (attempts that failed
    /// alike have the same trace). Returns whether there was one.
    pub async fn replace_trace(
        &mut self,
        job: &JobKey,
        old: &str,
        new: &str,
    ) -> Result<bool, QueueError> {
        // A separate connection, because `WATCH` applies to a connection.
        let mut connection = match self.editing.take() {
            Some(connection) => connection,
            None => {
                self.connection
                    .client()
                    .get_multiplexed_async_connection()
                    .await?
            }
        };
        let replaced = replace(&mut connection, job, old, new).await?;
        // Not kept after an error, when the connection may still watch.
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
    redis::cmd("WATCH")
        .arg(&key)
        .query_async::<()>(connection)
        .await?;
    let (created, traces): (Option<String>, Option<String>) = redis::cmd("HMGET")
        .arg(&key)
        .arg(&["timestamp", "stacktrace"])
        .query_async(connection)
        .await?;
    let changed = traces
        .filter(|_| created.and_then(|created| js::whole(&created)) == Some(job.created_ms))
        .and_then(|traces| replaced(&traces, old, new));
    let Some(changed) = changed else {
        redis::cmd("UNWATCH").query_async::<()>(connection).await?;
        return Ok(false);
    };
    let mut pipe = redis::pipe();
    pipe.atomic().hset(&key, "stacktrace", changed).ignore();
    // Nil if the job has changed since. Its worker then writes the traces that it knows.
    let written: Option<()> = pipe.query_async(connection).await?;
    Ok(written.is_some())
}

/// The list with every `old` replaced; `None` if there is none.
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
        assert_eq!(
            replaced(r#"["a","b","a"]"#, "a", "c").as_deref(),
            Some(r#"["c","b","c"]"#)
        );
        assert_eq!(replaced(r#"["a"]"#, "b", "c"), None);
        assert_eq!(replaced("nonsense", "b", "c"), None);
    }
}
