//! Rate limits and waits after failures, shared by all hosts through Redis.
//!
//! Redis holds no address and no name: keys are hashes, keyed with the master key where there is
//! one. Without Redis every function fails with `Unavailable`, and the caller decides what that
//! means; limits of routes and vendors are then counted by each host (see [`LocalRates`]). What a request has taken is noted for its answer (see [`Quotas`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use patchbay_queue::{Broker, FailureRule, RateLimits, Taken};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{Error, Kind};
use crate::local_rates::LocalRates;
use crate::quota::{Quota, Quotas, whole_seconds};

/// The class of requests without a login.
pub const ANONYMOUS: &str = "anonymous";

/// A slower answer of Redis is not waited for, where a host can count alone.
const SLOW: Duration = Duration::from_millis(250);
/// Until it is asked again.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// How much each key may take.
#[derive(Debug, Clone)]
pub struct Class {
    /// Unique, kebab-case. It stands in Redis's keys, in headers and in metrics.
    pub name: &'static str,
    /// In the message: "Too many requests from this network. Try again in 3 s".
    pub what: &'static str,
    pub count: u32,
    /// Whole seconds.
    pub window: Duration,
}

/// How each key waits after failures.
#[derive(Debug, Clone)]
pub struct FailureClass {
    /// As in [`Class`].
    pub name: &'static str,
    /// As in [`Class`].
    pub what: &'static str,
    /// Failures after which nobody waits.
    pub free: u32,
    /// The wait begins with 1 s and doubles up to this.
    pub longest: Duration,
    /// Failures are forgotten so long after the last wait has ended.
    pub forgotten_after: Duration,
}

impl FailureClass {
    fn rule(&self) -> FailureRule {
        FailureRule {
            free: self.free,
            longest: self.longest,
            forgotten_after: self.forgotten_after,
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Limits {
    redis: RateLimits,
    key: Option<Arc<Zeroizing<[u8; 32]>>>,
    refused: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    /// For limits that hold also without Redis.
    local: Arc<LocalRates>,
    /// Until then, Redis is not asked for those: it was too slow.
    slow_until: Arc<Mutex<Option<Instant>>>,
}

impl Limits {
    /// `key`: for the hashes in Redis; the same on all hosts.
    pub(crate) fn new(
        broker: &Broker,
        key: Option<Zeroizing<[u8; 32]>>,
        local: Arc<LocalRates>,
    ) -> Self {
        Self {
            local,
            slow_until: Arc::default(),
            redis: broker.rate_limits(),
            key: key.map(Arc::new),
            refused: Arc::new(Mutex::new(BTreeMap::from([(ANONYMOUS, 0)]))),
        }
    }

    /// How often each class has refused something in this process since its start.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        let refused = self.refused.lock();
        refused
            .iter()
            .map(|(class, times)| (*class, *times))
            .collect()
    }

    fn refuse(&self, class: &'static str, what: &str, wait: Duration) -> Error {
        *self.refused.lock().entry(class).or_default() += 1;
        too_many(what, wait)
    }

    /// Takes one unit of this class for this key. Fails with `rate-limited` when none is left.
    pub async fn take(&self, class: &Class, key: &str) -> Result<Quota, Error> {
        let taken = self
            .redis
            .take(&self.hashed(class.name, key), class.count, class.window)
            .await?;
        self.answer(class, taken)
    }

    fn answer(&self, class: &Class, taken: Taken) -> Result<Quota, Error> {
        let quota = Quota {
            name: class.name,
            limit: class.count,
            window: class.window,
            remaining: taken.remaining,
            reset: taken.next_in,
        };
        Quotas::note(quota);
        if taken.is_taken {
            return Ok(quota);
        }
        let mut error = self.refuse(class.name, class.what, taken.next_in);
        error.quota = Some(Box::new(quota));
        Err(error)
    }

    /// As [`Limits::take`], but without Redis nothing is taken and nothing refused (`None`). For
    /// limits that only keep a crowd out.
    pub async fn take_if_possible(&self, class: &Class, key: &str) -> Result<Option<Quota>, Error> {
        let key = self.hashed(class.name, key);
        let taken = self.redis.take_if_possible(&key, class.count, class.window);
        let taken = taken.await;
        taken.map(|taken| self.answer(class, taken)).transpose()
    }

    /// As [`Limits::take`], but while Redis is away or slow this host counts alone: its part of the
    /// limit among the hosts that run.
    pub async fn take_here_without_redis(&self, class: &Class, key: &str) -> Result<Quota, Error> {
        let key = self.hashed(class.name, key);
        let is_slow = self
            .slow_until
            .lock()
            .is_some_and(|end| Instant::now() < end);
        let taken = match is_slow {
            true => None,
            false => {
                let asked = self.redis.take_if_possible(&key, class.count, class.window);
                match tokio::time::timeout(SLOW, asked).await {
                    Ok(taken) => taken,
                    Err(_) => {
                        *self.slow_until.lock() = Some(Instant::now() + SLOW_FOR);
                        None
                    }
                }
            }
        };
        let taken = taken.unwrap_or_else(|| self.local.take(&key, class.count, class.window));
        self.answer(class, taken)
    }

    /// To be called before an attempt. Fails with `rate-limited` while the key must wait after
    /// failures, and while so many attempts are under way that they may use up the free ones. The
    /// caller settles each attempt with [`Limits::failed`], [`Limits::passed`] or
    /// [`Limits::forgive`]; one that is not settled is forgotten after 15 s.
    pub async fn wait_after_failures(&self, class: &FailureClass, key: &str) -> Result<(), Error> {
        let hashed = self.hashed(class.name, key);
        match self.redis.begin(&hashed, class.rule()).await? {
            Some(wait) => Err(self.refuse(class.name, class.what, wait)),
            None => Ok(()),
        }
    }

    /// The attempt has failed. Returns how long the next one must wait.
    pub async fn failed(&self, class: &FailureClass, key: &str) -> Result<Duration, Error> {
        self.failed_and_waits(class, key, Duration::ZERO).await
    }

    /// As [`Limits::failed`], but the next attempt must wait at least so long.
    pub async fn failed_and_waits(
        &self,
        class: &FailureClass,
        key: &str,
        at_least: Duration,
    ) -> Result<Duration, Error> {
        let hashed = self.hashed(class.name, key);
        Ok(self.redis.fail(&hashed, class.rule(), at_least).await?)
    }

    /// Fails with `rate-limited` while the key must wait after failures. Begins no attempt, and
    /// without Redis nobody waits: for credentials that cannot be guessed.
    pub async fn refuse_while_waiting(&self, class: &FailureClass, key: &str) -> Result<(), Error> {
        let hashed = self.hashed(class.name, key);
        match self.redis.look_if_possible(&hashed, class.rule()).await {
            Some(wait) if !wait.is_zero() => Err(self.refuse(class.name, class.what, wait)),
            _ => Ok(()),
        }
    }

    /// The attempt has not failed, but the failures before it stay counted.
    pub async fn passed(&self, class: &FailureClass, key: &str) -> Result<(), Error> {
        Ok(self.redis.pass(&self.hashed(class.name, key)).await?)
    }

    /// The attempt has not failed, and the failures before it are forgotten.
    pub async fn forgive(&self, class: &FailureClass, key: &str) -> Result<(), Error> {
        Ok(self.redis.forget(&self.hashed(class.name, key)).await?)
    }

    /// The class is part of what is hashed, so that equal keys of two classes look different.
    fn hashed(&self, class: &str, key: &str) -> String {
        let text = format!("{class}\0{key}");
        let digest: [u8; 32] = match &self.key {
            Some(secret) => {
                let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&***secret)
                    .expect("HMAC takes any key");
                mac.update(text.as_bytes());
                mac.finalize().into_bytes().into()
            }
            None => Sha256::digest(text).into(),
        };
        format!("{class}:{}", hex::encode(&digest[..16]))
    }
}

fn too_many(what: &str, wait: Duration) -> Error {
    let message = format!("Too many {what}. Try again in {} s", whole_seconds(wait));
    Error::new(Kind::RateLimited, "rate-limited", message).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_said_in_whole_seconds_that_suffice() {
        let error = too_many("logins", Duration::from_millis(1_001));
        assert_eq!(error.message, "Too many logins. Try again in 2 s");
        assert_eq!(error.retry_after, Some(Duration::from_millis(1_001)));
    }
}
