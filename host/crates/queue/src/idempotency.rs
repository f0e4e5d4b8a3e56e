//! Answers that are kept for requests that come again with the same key, shared by all hosts.
//!
//! Redis's clock decides. This module never sees a key or an answer: callers pass a hash, and sealed
//! bytes. Each change compares the owner, so that a host that was too slow overwrites nothing.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;

use crate::connection::Connection;
use crate::memory::Memory;
use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Longest wait for Redis.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);

/// `KEYS[1]`: fingerprint of the input `f`, owner `o`, end of its lease `l` in Unix milliseconds,
/// and, once it has ended, the answer `a` or the mark of an answer that was not kept `m`. `ARGV`:
/// owner, lease, time until it is forgotten, and fingerprints of the input, newest first.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local time = redis.call("TIME")
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local known = redis.call("HMGET", KEYS[1], "f", "l", "a", "m")
        if known[1] then
            local same = false
            for i = 4, #ARGV do same = same or ARGV[i] == known[1] end
            if not same then return {"other"} end
            if known[3] then return {"answer", known[3]} end
            if known[4] then return {"mark"} end
            if (tonumber(known[2] or "") or 0) > now then return {"busy"} end
        end
        redis.call("HSET", KEYS[1], "f", ARGV[4], "o", ARGV[1], "l", now + tonumber(ARGV[2]))
        redis.call("PEXPIRE", KEYS[1], ARGV[3])
        return {"ours"}"#,
    )
});

/// `KEYS[1]` as in [`CLAIM`]. `ARGV`: owner, time until it is forgotten, field, value. Returns
/// whether the owner still had it. The first write takes no memory (see `transaction`).
static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"if redis.call("HGET", KEYS[1], "o") ~= ARGV[1] then return 0 end
        redis.call("PEXPIRE", KEYS[1], ARGV[2])
        redis.call("HDEL", KEYS[1], "o", "l")
        redis.call("HSET", KEYS[1], ARGV[3], ARGV[4])
        return 1"#,
    )
});

/// `KEYS[1]` as in [`CLAIM`]. `ARGV`: owner, and `1` where nothing was begun. The input's
/// fingerprint stays unless nothing was begun.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"if redis.call("HGET", KEYS[1], "o") ~= ARGV[1] then return 0 end
        if ARGV[2] == "1" then return redis.call("DEL", KEYS[1]) end
        return redis.call("HDEL", KEYS[1], "o", "l")"#,
    )
});

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing, or its request has ended without an answer to keep: the caller has it now.
    Ours,
    /// Its request has another input.
    Other,
    /// Its request goes on.
    Busy,
    Answered(Vec<u8>),
    /// Answered, and the answer was not kept.
    Unkept,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct KeptAnswers {
    connection: Connection,
    prefix: String,
    memory: Memory,
}

impl Broker {
    pub fn kept_answers(&self) -> KeptAnswers {
        KeptAnswers {
            connection: self.connection.clone(),
            prefix: self.config.own_prefix.clone(),
            memory: self.memory.clone(),
        }
    }
}

impl KeptAnswers {
    fn key(&self, name: &str) -> String {
        format!("{}:idem:{name}", self.prefix)
    }

    /// Claims a key for `owner` for the time of `lease`, unless it is known. Fails at once where
    /// Redis is known to be away.
    pub async fn claim(
        &self,
        name: &str,
        owner: &str,
        fingerprints: &[String],
        lease: Duration,
        forgotten_after: Duration,
    ) -> Result<Claimed, QueueError> {
        if !self.connection.standings().borrow().serves() {
            return Err(away());
        }
        let mut call = Call::new(&CLAIM, &[self.key(name)])
            .arg(owner)
            .arg(milliseconds(lease))
            .arg(milliseconds(forgotten_after));
        for fingerprint in fingerprints {
            call = call.arg(fingerprint);
        }
        let known: Vec<Vec<u8>> = self.ask(call).await?;
        let mut known = known.into_iter();
        Ok(match known.next().as_deref() {
            Some(b"ours") => Claimed::Ours,
            Some(b"other") => Claimed::Other,
            Some(b"answer") => Claimed::Answered(known.next().unwrap_or_default()),
            Some(b"mark") => Claimed::Unkept,
            _ => Claimed::Busy,
        })
    }

    /// Keeps the answer of a claimed key, or only its mark: without an answer, and while Redis is
    /// nearly full. False: the claim was another owner's by then.
    pub async fn keep(
        &self,
        name: &str,
        owner: &str,
        answer: Option<&[u8]>,
        forgotten_after: Duration,
    ) -> Result<bool, QueueError> {
        let answer = match answer {
            Some(answer) if self.memory.refuse_when_full().await.is_ok() => Some(answer),
            _ => None,
        };
        let (field, value) = answer.map_or(("m", &b"1"[..]), |answer| ("a", answer));
        let call = Call::new(&KEEP, &[self.key(name)])
            .arg(owner)
            .arg(milliseconds(forgotten_after))
            .arg(field)
            .arg(value);
        self.ask(call).await
    }

    /// Gives a claim up, so that the next request with the key runs. `has_begun`: with the same
    /// input only.
    pub async fn release(
        &self,
        name: &str,
        owner: &str,
        has_begun: bool,
    ) -> Result<(), QueueError> {
        let call = Call::new(&RELEASE, &[self.key(name)])
            .arg(owner)
            .arg(if has_begun { "0" } else { "1" });
        let _was_ours: u64 = self.ask(call).await?;
        Ok(())
    }

    async fn ask<T: redis::FromRedisValue>(&self, call: Call) -> Result<T, QueueError> {
        let mut connection = self.connection.get();
        let asked = tokio::time::timeout(ANSWER_WITHIN, call.invoke(&mut connection)).await;
        Ok(asked.map_err(|_| away())??)
    }
}

fn away() -> QueueError {
    let error: redis::RedisError = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
    error.into()
}

/// At least 1.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
