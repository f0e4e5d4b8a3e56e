//! Several commands as one, and what is left of it when Redis is full.
//!
//! Above `maxmemory` Redis refuses every command between `MULTI` and `EXEC`, also those that read or free memory (server.c,
//! `reject_cmd_on_oom`). A script is refused only a first write that takes memory: this is how BullMQ's scripts settle jobs all the same.

use std::sync::LazyLock;

use redis::aio::ConnectionManager;
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Script};

/// Appends to a stream also when Redis is full: deleting a key that is not there is a first write which takes no memory.
pub(crate) static APPEND_WHEN_FULL: LazyLock<Script> =
    LazyLock::new(|| Script::new("redis.call('DEL', KEYS[2]) return redis.call('XADD', KEYS[1], unpack(ARGV))"));

/// Runs what `write` asks for in a transaction; when Redis is full, without one, in the same order and one round trip.
pub(crate) async fn transaction<T: FromRedisValue>(
    mut connection: ConnectionManager,
    write: impl Fn(&mut Pipeline),
) -> RedisResult<T> {
    let mut pipe = redis::pipe();
    pipe.atomic();
    write(&mut pipe);
    match pipe.query_async(&mut connection).await {
        Err(error) if is_full(&error) => {
            let mut pipe = redis::pipe();
            write(&mut pipe);
            pipe.query_async(&mut connection).await
        }
        answered => answered,
    }
}

/// Whether Redis refused because its memory is full.
pub(crate) fn is_full(error: &RedisError) -> bool {
    // Before Redis 7, errors within scripts have no code of their own.
    let of_full = |code: &str, detail: &str| code == "OOM" || detail.contains("OOM command not allowed");
    match error.clone().into_server_errors() {
        // Of a pipeline, the first one tells.
        Some(errors) => {
            errors.first().is_some_and(|(_, first)| of_full(first.code(), first.details().unwrap_or_default()))
        }
        None => error.code() == Some("OOM"),
    }
}
