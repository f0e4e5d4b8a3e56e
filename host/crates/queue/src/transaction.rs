//! Runs several commands as one transaction, or without one when Redis is full.
//!
//! Above `maxmemory` Redis refuses every command between `MULTI` and `EXEC`, even those that read
//! or free memory (server.c, `reject_cmd_on_oom`). In a script it refuses only a first write that
//! takes memory, which is how BullMQ's scripts can still settle jobs.

use std::sync::LazyLock;

use redis::aio::ConnectionManager;
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Script};

/// Appends to a stream even when Redis is full: its first write deletes a missing key, which takes
/// no memory.
pub(crate) static APPEND_WHEN_FULL: LazyLock<Script> = LazyLock::new(|| {
    Script::new("redis.call('DEL', KEYS[2]) return redis.call('XADD', KEYS[1], unpack(ARGV))")
});

/// Runs the commands of `write` in a transaction. If Redis is full, runs them without one, in the
/// same order and one round trip.
pub(crate) async fn transaction<T: FromRedisValue>(
    mut connection: ConnectionManager,
    write: impl Fn(&mut Pipeline),
) -> RedisResult<T> {
    let mut pipe = redis::pipe();
    pipe.atomic();
    write(&mut pipe);
    match pipe.query_async(&mut connection).await {
        Err(error) if refused_as_full(&error) => {
            let mut pipe = redis::pipe();
            write(&mut pipe);
            pipe.query_async(&mut connection).await
        }
        answered => answered,
    }
}

/// Whether Redis refused because its memory is full.
pub(crate) fn refused_as_full(error: &RedisError) -> bool {
    // Before Redis 7, errors inside scripts have no code of their own.
    let of_full =
        |code: &str, detail: &str| code == "OOM" || detail.contains("OOM command not allowed");
    match error.clone().into_server_errors() {
        // Of the errors of a pipeline, the first one is the cause.
        Some(errors) => errors
            .first()
            .is_some_and(|(_, first)| of_full(first.code(), first.details().unwrap_or_default())),
        None => error.code() == Some("OOM"),
    }
}
