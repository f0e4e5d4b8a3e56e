//! Rate limits that all hosts share. The counts are in Redis, and Redis's clock decides, so a wrong
//! clock of a host changes nothing.
//!
//! This module never sees what is limited: callers pass a hash. Each key ends by itself, and each
//! decision is one call of one script. Full memory of Redis does not stop it: the first write of
//! each script takes no memory (see `transaction`).

use std::sync::LazyLock;
use std::time::Duration;

use redis::{FromRedisValue, Script};

use crate::connection::Connection;
use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Longest wait for Redis. A login or a request must not hang because limits cannot be read.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);
/// An attempt that nobody has settled within this time is forgotten: its host is gone.
const UNSETTLED_FOR: Duration = Duration::from_secs(15);
/// Another attempt of the same key decides whether this one must wait, and it has not ended yet.
const WAIT_FOR_OTHER: Duration = Duration::from_secs(1);

/// Takes one unit by GCRA. `KEYS[1]`: the theoretical arrival time, microseconds since 1970.
/// `ARGV`: units, window in microseconds. Returns whether it was taken, units left, and
/// microseconds until one more is there. A time further ahead than the window is left over from a
/// clock that was set back, or from a wider window, and counts for nothing.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local time = redis.call("TIME")
        local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
        local window = tonumber(ARGV[2])
        local interval = math.max(math.floor(window / tonumber(ARGV[1])), 1)
        local due = tonumber(redis.call("GET", KEYS[1]) or "") or now
        if due < now or due > now + window then due = now end
        local next = due + interval
        if next > now + window then return {0, 0, next - now - window} end
        redis.call("DEL", KEYS[1])
        redis.call("SET", KEYS[1], string.format("%.0f", next), "PX", math.ceil((next - now) / 1000))
        local left = now + window - next
        return {1, math.floor(left / interval), interval - left % interval}"#,
    )
});

/// Begins an attempt. `KEYS[1]`: failures `n`, not before `at`, unsettled attempts `p`, and when the
/// last of those began `pa`; times in Unix milliseconds. `ARGV`: free failures, longest wait, time
/// until unsettled attempts are forgotten, wait for one of them. Returns the wait in milliseconds; 0:
/// it has begun. As long as unsettled attempts may use up the free failures, no other begins, so that
/// many at once are no way around the wait. A wait beyond the longest is left over from a clock that
/// was set back.
static BEGIN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local time = redis.call("TIME")
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local free, longest, unsettled = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
        local known = redis.call("HMGET", KEYS[1], "n", "at", "p", "pa")
        local n, at = tonumber(known[1] or "") or 0, tonumber(known[2] or "") or 0
        local p, pa = tonumber(known[3] or "") or 0, tonumber(known[4] or "") or 0
        local wait = at - now
        if wait > 0 and wait <= longest then return wait end
        if pa + unsettled <= now or pa > now then p = 0 end
        if p > 0 and n + p >= free then return tonumber(ARGV[4]) end
        local kept = math.max(redis.call("PTTL", KEYS[1]), unsettled)
        redis.call("PEXPIRE", KEYS[1], kept)
        redis.call("HSET", KEYS[1], "p", p + 1, "pa", now)
        redis.call("PEXPIRE", KEYS[1], kept)
        return 0"#,
    )
});

/// Looks whether an attempt must wait, and begins none. `KEYS[1]` as in [`BEGIN`]. `ARGV`: longest
/// wait. Returns the wait in milliseconds.
static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local time = redis.call("TIME")
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local wait = (tonumber(redis.call("HGET", KEYS[1], "at") or "") or 0) - now
        if wait > 0 and wait <= tonumber(ARGV[1]) then return wait end
        return 0"#,
    )
});

/// Settles an attempt as failed. `KEYS[1]` as in [`BEGIN`]. `ARGV`: free failures, longest wait, time
/// after which failures are forgotten, shortest wait; milliseconds. Returns the wait of the next
/// attempt.
static FAIL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local time = redis.call("TIME")
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local free, longest = tonumber(ARGV[1]), tonumber(ARGV[2])
        local known = redis.call("HMGET", KEYS[1], "n", "p")
        local n, p = (tonumber(known[1] or "") or 0) + 1, tonumber(known[2] or "") or 0
        local wait = 0
        if n > free then wait = math.min(1000 * 2 ^ math.min(n - free - 1, 40), longest) end
        wait = math.max(wait, tonumber(ARGV[4]))
        redis.call("PEXPIRE", KEYS[1], tonumber(ARGV[3]) + wait)
        redis.call("HSET", KEYS[1], "n", n, "at", now + wait, "p", math.max(p - 1, 0))
        redis.call("PEXPIRE", KEYS[1], tonumber(ARGV[3]) + wait)
        return wait"#,
    )
});

/// Settles an attempt that did not fail: its failures before stay.
static PASS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local p = tonumber(redis.call("HGET", KEYS[1], "p") or "") or 0
        if p < 1 then return 0 end
        redis.call("HDEL", KEYS[1], "p")
        if p > 1 then redis.call("HSET", KEYS[1], "p", p - 1) end
        return 1"#,
    )
});

/// The answer to a request for one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// False: none was left.
    pub is_taken: bool,
    /// Units that are left now.
    pub remaining: u64,
    /// Until one more unit is there.
    pub next_in: Duration,
}

/// How failures are waited for.
#[derive(Debug, Clone, Copy)]
pub struct FailureRule {
    /// Failures after which nobody waits.
    pub free: u32,
    /// The wait begins with 1 s and doubles with each failure up to this.
    pub longest: Duration,
    /// Failures are forgotten so long after the wait that followed the last of them.
    pub forgotten_after: Duration,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct RateLimits {
    connection: Connection,
    prefix: String,
}

impl Broker {
    pub fn rate_limits(&self) -> RateLimits {
        RateLimits {
            connection: self.connection.clone(),
            prefix: self.config.own_prefix.clone(),
        }
    }
}

impl RateLimits {
    /// `key`: `<class>:<hash>`.
    fn key(&self, key: &str) -> String {
        format!("{}:limit:{key}", self.prefix)
    }

    fn call(&self, script: &'static Script, key: &str) -> Call {
        Call::new(script, &[self.key(key)])
    }

    async fn ask<T: FromRedisValue>(&self, call: Call) -> Result<T, QueueError> {
        let mut connection = self.connection.get();
        let asked = tokio::time::timeout(ANSWER_WITHIN, call.invoke(&mut connection)).await;
        Ok(asked.map_err(silent)??)
    }

    /// Takes one of `count` units per `window`. After a quiet window, all of them may be taken at
    /// once.
    pub async fn take(&self, key: &str, count: u32, window: Duration) -> Result<Taken, QueueError> {
        let call = self
            .call(&TAKE, key)
            .arg(count.max(1))
            .arg(u64::try_from(window.as_micros()).unwrap_or(u64::MAX).max(1));
        let (is_taken, remaining, next_us): (bool, u64, u64) = self.ask(call).await?;
        Ok(Taken {
            is_taken,
            remaining,
            next_in: Duration::from_micros(next_us),
        })
    }

    /// As [`RateLimits::take`]; `None`, and at once where that is known, while Redis is away or cannot
    /// serve.
    pub async fn take_if_possible(&self, key: &str, count: u32, window: Duration) -> Option<Taken> {
        let serves = self.connection.standings().borrow().serves();
        if !serves {
            return None;
        }
        self.take(key, count, window).await.ok()
    }

    /// Begins an attempt. `Some`: it must not be made yet; wait so long.
    pub async fn begin(
        &self,
        key: &str,
        rule: FailureRule,
    ) -> Result<Option<Duration>, QueueError> {
        let call = self
            .call(&BEGIN, key)
            .arg(rule.free)
            .arg(milliseconds(rule.longest))
            .arg(milliseconds(UNSETTLED_FOR))
            .arg(milliseconds(WAIT_FOR_OTHER));
        let wait: u64 = self.ask(call).await?;
        Ok((wait > 0).then(|| Duration::from_millis(wait)))
    }

    /// How long an attempt must wait; it is not begun. `None`, and at once where that is known, while
    /// Redis is away or cannot serve.
    pub async fn look_if_possible(&self, key: &str, rule: FailureRule) -> Option<Duration> {
        let serves = self.connection.standings().borrow().serves();
        if !serves {
            return None;
        }
        let call = self.call(&LOOK, key).arg(milliseconds(rule.longest));
        self.ask(call).await.ok().map(Duration::from_millis)
    }

    /// Settles an attempt as failed, and returns how long the next one must wait: by the rule, and
    /// at least so long.
    pub async fn fail(
        &self,
        key: &str,
        rule: FailureRule,
        at_least: Duration,
    ) -> Result<Duration, QueueError> {
        let call = self
            .call(&FAIL, key)
            .arg(rule.free)
            .arg(milliseconds(rule.longest))
            .arg(milliseconds(rule.forgotten_after))
            .arg(u64::try_from(at_least.as_millis()).unwrap_or(u64::MAX));
        Ok(Duration::from_millis(self.ask(call).await?))
    }

    /// Settles an attempt as no failure; earlier failures stay counted.
    pub async fn pass(&self, key: &str) -> Result<(), QueueError> {
        let _was_unsettled: u64 = self.ask(self.call(&PASS, key)).await?;
        Ok(())
    }

    /// Forgets all failures.
    pub async fn forget(&self, key: &str) -> Result<(), QueueError> {
        let (mut connection, key) = (self.connection.get(), self.key(key));
        let forgotten = redis::AsyncCommands::del::<_, ()>(&mut connection, key);
        Ok(tokio::time::timeout(ANSWER_WITHIN, forgotten)
            .await
            .map_err(silent)??)
    }
}

fn silent(_: tokio::time::error::Elapsed) -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// At least 1.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
