//! The rights that Redis's user needs: for the line in docs/operations/infrastructure.md, for
//! `patchbay doctor`, and checked regularly by each host.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use crate::access::RedisConfig;
use crate::{QueueError, Trouble};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// A command, as `ACL SETUSER` names it.
    Command(&'static str),
    /// Keys that begin with this prefix.
    Keys(String),
    Channel(String),
}

impl std::fmt::Display for Right {
    /// In the syntax of `ACL SETUSER`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(name) => write!(f, "+{name}"),
            Self::Keys(prefix) => write!(f, "~{prefix}:*"),
            Self::Channel(name) => write!(f, "&{name}"),
        }
    }
}

/// Every command that Patchbay or one of BullMQ's scripts uses, as a complete call. `K` stands for
/// a key.
const CALLS: &[&str] = &[
    "bzpopmin K 1",
    "client|list",
    "client|setname x",
    "copy K K",
    "del K",
    "echo x",
    "evalsha 0000000000000000000000000000000000000000 0",
    "exists K",
    "expire K 1",
    "get K",
    "getrange K 0 0",
    "hdel K x",
    "hexists K x",
    "hget K x",
    "hgetall K",
    "hincrby K x 1",
    "hkeys K",
    "hlen K",
    "hmget K x",
    "hmset K x x",
    "hscan K 0",
    "hset K x x",
    "incr K",
    "incrby K 1",
    "info",
    "lindex K 0",
    "llen K",
    "lpop K",
    "lpos K x",
    "lpush K x",
    "lrange K 0 0",
    "lrem K 0 x",
    "lset K 0 x",
    "ltrim K 0 0",
    "memory|usage K",
    "persist K",
    "pexpire K 1",
    "psetex K 1 x",
    "pttl K",
    "rename K K",
    "rpoplpush K K",
    "rpush K x",
    "sadd K x",
    "scan 0",
    "scard K",
    "script|load x",
    "select 0",
    "set K x",
    "smembers K",
    "srem K x",
    "sscan K 0",
    "strlen K",
    "time",
    "type K",
    "unlink K",
    "xack K x 1-0",
    "xadd K * x x",
    "xautoclaim K x x 1 0",
    "xdel K 1-0",
    "xgroup|create K x 0",
    "xlen K",
    "xrange K - +",
    "xreadgroup GROUP x x STREAMS K >",
    "xrevrange K + -",
    "xtrim K MAXLEN 1",
    "zadd K 1 x",
    "zcard K",
    "zcount K 0 0",
    "zpopmin K",
    "zrange K 0 0",
    "zrangebyscore K 0 0",
    "zrank K x",
    "zrem K x",
    "zremrangebyrank K 0 0",
    "zremrangebyscore K 0 0",
    "zrevrange K 0 0",
    "zrevrangebyscore K 0 0",
    "zscore K x",
];

/// The commands of transactions themselves. They are really called, and have no effect in this
/// order.
const TRANSACTIONS: &[&str] = &["watch K", "unwatch", "exec", "multi", "discard"];

/// Commands that only operators need. Without them a host runs jobs as before, and some answers to
/// operators are incomplete.
const FOR_OPERATORS: &[&str] = &[
    "client|list",
    "client|setname",
    "copy",
    "echo",
    "getrange",
    "hscan",
    "info",
    "memory|usage",
    "scan",
    "strlen",
    "unlink",
    "xrevrange",
    "zrevrange",
];

impl Right {
    /// Whether jobs are lost or do not run without it.
    pub(crate) fn is_essential(&self) -> bool {
        !matches!(self, Self::Command(name) if FOR_OPERATORS.contains(name))
    }
}

/// The rights that Patchbay needs and the user lacks. Changes nothing: Redis checks rights before
/// it queues a command in a transaction, and the transaction is discarded. Uses its own
/// connections, which are closed afterwards.
pub(crate) async fn missing(
    client: &redis::Client,
    config: &RedisConfig,
) -> Result<Vec<Right>, QueueError> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let calls = |calls: &[&'static str]| -> Vec<(Right, redis::Cmd)> {
        let key = format!("{}:doctor", config.own_prefix);
        calls
            .iter()
            .map(|call| (Right::Command(name(call)), command(call, &key)))
            .collect()
    };
    let mut missing = refused(&mut connection, calls(TRANSACTIONS), false).await?;
    if !missing.is_empty() {
        // Outside of a transaction the other commands would take effect.
        return Ok(missing);
    }
    let mut asked = calls(CALLS);
    for prefix in [&config.prefix, &config.own_prefix] {
        asked.push((
            Right::Keys(prefix.clone()),
            command("del K", &format!("{prefix}:doctor:doctor")),
        ));
    }
    let channel = config.kill_channel();
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(&channel).arg("");
    asked.push((Right::Command("publish"), publish.clone()));
    asked.push((Right::Channel(channel.clone()), publish));
    missing.extend(refused(&mut connection, asked, true).await?);
    // Subscribing needs its own connection, as in real use.
    let mut subscription = client.get_async_pubsub().await?;
    if let Err(error) = subscription.subscribe(&channel).await
        && lacks(&Right::Command("subscribe"), error)
    {
        missing.push(Right::Command("subscribe"));
    }
    Ok(missing)
}

async fn refused(
    connection: &mut MultiplexedConnection,
    asked: Vec<(Right, redis::Cmd)>,
    in_transaction: bool,
) -> Result<Vec<Right>, QueueError> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    if in_transaction {
        pipe.cmd("MULTI").ignore();
    }
    for (_, command) in &asked {
        pipe.add_command(command.clone());
    }
    if in_transaction {
        pipe.cmd("DISCARD").ignore();
    }
    let replies: Vec<RedisResult<Value>> = pipe.query_async(connection).await?;
    let refused = asked.into_iter().zip(replies);
    Ok(refused
        .filter_map(|((right, _), reply)| {
            reply
                .err()
                .filter(|error| lacks(&right, error.clone()))
                .map(|_| right)
        })
        .collect())
}

/// Whether the error says that this right is missing. One call needs a command, a key and perhaps a
/// channel.
fn lacks(right: &Right, error: redis::RedisError) -> bool {
    let QueueError::CannotServe {
        trouble: Trouble::Rights(said),
        ..
    } = QueueError::from(error)
    else {
        return false;
    };
    let (keys, channel) = (
        said.contains("the keys") || said.contains("a key"),
        said.contains("channel"),
    );
    match right {
        Right::Command(_) => !keys && !channel,
        Right::Keys(_) => keys,
        Right::Channel(_) => channel,
    }
}

fn command(call: &str, key: &str) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for word in call.split(' ').flat_map(|word| word.split('|')) {
        command.arg(if word == "K" { key } else { word });
    }
    command
}

fn name(call: &'static str) -> &'static str {
    call.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn commands() -> BTreeSet<&'static str> {
        CALLS
            .iter()
            .chain(TRANSACTIONS)
            .map(|call| name(call))
            .chain(["publish", "subscribe"])
            .collect()
    }

    #[test]
    fn the_documented_user_has_these_rights_and_no_others() {
        let page = include_str!("../../../../docs/operations/infrastructure.md");
        let line = page
            .split("```")
            .find(|block| block.contains("ACL SETUSER"))
            .expect("the line");
        let documented: BTreeSet<&str> = line
            .split_whitespace()
            .filter_map(|word| word.strip_prefix('+'))
            .collect();
        let wanted = commands();
        assert_eq!(
            documented,
            wanted,
            "write: {}",
            wanted
                .iter()
                .map(|name| format!("+{name}"))
                .collect::<Vec<_>>()
                .join(" ")
        );
    }

    #[test]
    fn whatever_bullmqs_scripts_call_is_among_them() {
        let commands = commands();
        for file in std::fs::read_dir(env!("OUT_DIR"))
            .expect("the scripts")
            .filter_map(Result::ok)
        {
            let script = std::fs::read_to_string(file.path()).unwrap_or_default();
            // `rcall(pushCmd, …)` uses a command that is elsewhere in the script as text, or is
            // built as an argument: `'L') + 'PUSH'`.
            let calls = script.split(['"', '\'']).skip(1).step_by(2);
            let calls = calls.filter(|text| {
                text.len() > 2 && text.bytes().all(|byte| byte.is_ascii_uppercase())
            });
            for call in calls.filter(|call| {
                script.contains(&format!("call(\"{call}\""))
                    || (call.len() == 5 && call.ends_with("PUSH"))
            }) {
                assert!(
                    commands.contains(call.to_ascii_lowercase().as_str()),
                    "{call} in {:?}",
                    file.path()
                );
            }
        }
    }
}
