//! Answers that are kept for requests that come again with the same key, shared by all hosts.
//!
//! Redis's clock decides. This module never sees a key or an answer: callers pass a hash, and sealed
//! bytes. Each change compares the owner, so that a host that was too slow overwrites nothing.
//!
//! What records take is counted in the same scripts, for each caller and for all, and bounded: a
//! client with a login must not fill Redis.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;

use crate::connection::Connection;
use crate::memory::Memory;
use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Longest wait for Redis.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);

/// What a record takes besides its answer, in bytes: its name, its fields and what Redis needs for
/// them.
const RECORD_BYTES: u64 = 320;
/// A caller whose records take so many times what its answers may take gets no more of them.
const RECORDS_BEYOND: u64 = 4;
/// Least such bound, in bytes, however little may be kept.
const LEAST_RECORDS: u64 = 4 << 20;
/// Longest life of a record.
const DAY_MS: u64 = 24 * 3_600_000;
/// Beyond the life of a record, until the count of its bytes is forgotten: hours are counted whole.
const COUNTED_BEYOND_MS: u64 = 2 * 3_600_000;

/// Bytes that records take, by the hour in which they end: fields of one hash for a caller, and of
/// one for all. An hour that is over counts no more, so a record that Redis forgets is given back
/// without anybody's doing, at most an hour late.
const COUNTING: &str = r#"
    local function hour_of(ms) return math.floor(ms / 3600000) end
    local function taken(key, hour)
        local sum, first, all = 0, nil, redis.call("HGETALL", key)
        for i = 1, #all, 2 do
            local at = tonumber(all[i])
            if at >= hour then
                sum = sum + math.max(tonumber(all[i + 1]), 0)
                if not first or at < first then first = at end
            end
        end
        return sum, first
    end
    local function count(key, hour, at, bytes, kept)
        redis.call("HINCRBY", key, string.format("%.0f", at), string.format("%.0f", bytes))
        for _, known in ipairs(redis.call("HKEYS", key)) do
            if tonumber(known) < hour then redis.call("HDEL", key, known) end
        end
        redis.call("PEXPIRE", key, kept)
    end
    local function move(key, hour, from, to, bytes, kept)
        if from == to then return end
        if from and from >= hour then count(key, hour, from, -bytes, kept) end
        count(key, hour, to, bytes, kept)
    end
"#;

/// `KEYS[1]`: fingerprint of the input `f`, owner `o`, end of its lease `l` in Unix milliseconds, the
/// hour in which it is counted `b`, and, once it has ended, the answer `a` or the mark of an answer
/// that was not kept `m`. `KEYS[2]`, `KEYS[3]`: what the caller's records take, and all. `ARGV`:
/// owner, lease, time until it is forgotten, time until its count is forgotten, bytes of a record,
/// most bytes of the caller's records, and fingerprints of the input, newest first.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    counting(
        r#"local time = redis.call("TIME")
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local hour, bytes = hour_of(now), tonumber(ARGV[5])
        local known = redis.call("HMGET", KEYS[1], "f", "l", "a", "m", "b")
        if known[1] then
            local same = false
            for i = 7, #ARGV do same = same or ARGV[i] == known[1] end
            if not same then return {"other"} end
            if known[3] then return {"answer", known[3]} end
            if known[4] then return {"mark"} end
            if (tonumber(known[2] or "") or 0) > now then return {"busy"} end
        else
            local sum, first = taken(KEYS[2], hour)
            if sum + bytes > tonumber(ARGV[6]) then
                return {"full", string.format("%.0f", ((first or hour) + 1) * 3600000 - now)}
            end
        end
        local ends = hour_of(now + tonumber(ARGV[3]))
        redis.call("HSET", KEYS[1], "f", ARGV[7], "o", ARGV[1], "l", now + tonumber(ARGV[2]), "b", ends)
        redis.call("PEXPIRE", KEYS[1], ARGV[3])
        for i = 2, 3 do move(KEYS[i], hour, tonumber(known[5] or ""), ends, bytes, ARGV[4]) end
        return {"ours"}"#,
    )
});

/// `KEYS` as in [`CLAIM`]. `ARGV`: owner, time until it is forgotten, time until its count is
/// forgotten, bytes of a record, field, value, most bytes of the caller, most bytes of all. Returns 0:
/// the owner did not have it; 1: kept as it was given; 2, 3: only the mark, since there was no room
/// for the caller, or for all. The first write takes no memory (see `transaction`).
static KEEP: LazyLock<Script> = LazyLock::new(|| {
    counting(
        r#"local known = redis.call("HMGET", KEYS[1], "o", "b")
        if known[1] ~= ARGV[1] then return 0 end
        local time = redis.call("TIME")
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local hour, ends = hour_of(now), hour_of(now + tonumber(ARGV[2]))
        redis.call("PEXPIRE", KEYS[1], ARGV[2])
        redis.call("HDEL", KEYS[1], "o", "l")
        local field, value, outcome = ARGV[5], ARGV[6], 1
        for i = 2, 3 do
            if field == "a" and taken(KEYS[i], hour) + #value > tonumber(ARGV[5 + i]) then
                field, value, outcome = "m", "1", i
            end
        end
        redis.call("HSET", KEYS[1], field, value, "b", ends)
        for i = 2, 3 do
            move(KEYS[i], hour, tonumber(known[2] or ""), ends, tonumber(ARGV[4]), ARGV[3])
            if field == "a" then count(KEYS[i], hour, ends, #value, ARGV[3]) end
        end
        return outcome"#,
    )
});

/// `KEYS` as in [`CLAIM`]. `ARGV`: owner, `1` where nothing was begun, bytes of a record, time until
/// its count is forgotten. The input's fingerprint stays unless nothing was begun.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    counting(
        r#"local known = redis.call("HMGET", KEYS[1], "o", "b")
        if known[1] ~= ARGV[1] then return 0 end
        if ARGV[2] ~= "1" then return redis.call("HDEL", KEYS[1], "o", "l") end
        local time = redis.call("TIME")
        local hour, at = hour_of(tonumber(time[1]) * 1000), tonumber(known[2] or "")
        redis.call("DEL", KEYS[1])
        for i = 2, 3 do
            if at and at >= hour then count(KEYS[i], hour, at, -tonumber(ARGV[3]), ARGV[4]) end
        end
        return 1"#,
    )
});

fn counting(script: &str) -> Script {
    Script::new(&format!("{COUNTING}{script}"))
}

/// How much kept answers may take in Redis, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct KeptBytes {
    /// Of one caller, on all routes.
    pub of_caller: u64,
    /// Of all callers together.
    pub of_all: u64,
}

impl KeptBytes {
    /// For all records of a caller, with and without an answer.
    fn of_records(self) -> u64 {
        let most = self.of_caller.saturating_mul(RECORDS_BEYOND);
        most.max(LEAST_RECORDS)
    }
}

/// A record: a hash each, for its name and for its caller.
#[derive(Debug, Clone, Copy)]
pub struct RecordName<'a> {
    pub name: &'a str,
    pub caller: &'a str,
}

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
    /// The caller has as many records as it may have; the first of them end after this time.
    TooMany(Duration),
}

/// What has become of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It is there for a repeat.
    Kept,
    /// Only its mark is there.
    Marked(Unkept),
    /// The claim was another owner's by then.
    NotOurs,
}

/// Why only the mark of an answer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unkept {
    /// It is larger than any answer that is kept.
    Size,
    /// The caller's answers take as much as they may.
    Caller,
    /// All answers take as much as they may.
    All,
    /// Redis is nearly full.
    Memory,
}

impl Unkept {
    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Caller => "caller",
            Self::All => "all",
            Self::Memory => "memory",
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct KeptAnswers {
    connection: Connection,
    prefix: String,
    memory: Memory,
    bytes: KeptBytes,
}

impl Broker {
    pub fn kept_answers(&self, bytes: KeptBytes) -> KeptAnswers {
        KeptAnswers {
            bytes,
            connection: self.connection.clone(),
            prefix: self.config.own_prefix.clone(),
            memory: self.memory.clone(),
        }
    }
}

impl KeptAnswers {
    fn call(&self, script: &'static Script, record: RecordName<'_>) -> Call {
        let prefix = &self.prefix;
        let keys = [
            format!("{prefix}:idem:{}", record.name),
            format!("{prefix}:idem-bytes:{}", record.caller),
            format!("{prefix}:idem-bytes:all"),
        ];
        Call::new(script, &keys)
    }

    /// Claims a key for `owner` for the time of `lease`, unless it is known. Fails at once where
    /// Redis is known to be away.
    pub async fn claim(
        &self,
        record: RecordName<'_>,
        owner: &str,
        fingerprints: &[String],
        lease: Duration,
        forgotten_after: Duration,
    ) -> Result<Claimed, QueueError> {
        if !self.connection.standings().borrow().serves() {
            return Err(away());
        }
        let mut call = self
            .call(&CLAIM, record)
            .arg(owner)
            .arg(milliseconds(lease))
            .arg(milliseconds(forgotten_after))
            .arg(milliseconds(forgotten_after) + COUNTED_BEYOND_MS)
            .arg(RECORD_BYTES)
            .arg(self.bytes.of_records());
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
            Some(b"full") => {
                let wait = known.next().and_then(|ms| String::from_utf8(ms).ok());
                let wait = wait.and_then(|ms| ms.parse().ok()).unwrap_or(1_000);
                Claimed::TooMany(Duration::from_millis(wait))
            }
            _ => Claimed::Busy,
        })
    }

    /// Keeps the answer of a claimed key, or only its mark: without an answer, while Redis is nearly
    /// full, and where answers take as much as they may.
    pub async fn keep(
        &self,
        record: RecordName<'_>,
        owner: &str,
        answer: Option<&[u8]>,
        forgotten_after: Duration,
    ) -> Result<Keeping, QueueError> {
        let answer = match answer {
            None => Err(Unkept::Size),
            Some(answer) => match self.memory.refuse_when_full().await {
                Ok(()) => Ok(answer),
                Err(_) => Err(Unkept::Memory),
            },
        };
        let (field, value) = answer.map_or(("m", &b"1"[..]), |answer| ("a", answer));
        let call = self
            .call(&KEEP, record)
            .arg(owner)
            .arg(milliseconds(forgotten_after))
            .arg(milliseconds(forgotten_after) + COUNTED_BEYOND_MS)
            .arg(RECORD_BYTES)
            .arg(field)
            .arg(value)
            .arg(self.bytes.of_caller)
            .arg(self.bytes.of_all);
        let outcome: u64 = self.ask(call).await?;
        Ok(match (outcome, answer) {
            (0, _) => Keeping::NotOurs,
            (_, Err(why)) => Keeping::Marked(why),
            (2, _) => Keeping::Marked(Unkept::Caller),
            (3, _) => Keeping::Marked(Unkept::All),
            _ => Keeping::Kept,
        })
    }

    /// Gives a claim up, so that the next request with the key runs. `has_begun`: with the same
    /// input only.
    pub async fn release(
        &self,
        record: RecordName<'_>,
        owner: &str,
        has_begun: bool,
    ) -> Result<(), QueueError> {
        let call = self
            .call(&RELEASE, record)
            .arg(owner)
            .arg(if has_begun { "0" } else { "1" })
            .arg(RECORD_BYTES)
            .arg(COUNTED_BEYOND_MS + DAY_MS);
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
