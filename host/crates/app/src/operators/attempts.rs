//! Waits after failed logins: shared by all hosts through Redis; while Redis is away, of this
//! process, so that operators get in when they are needed most.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Kind};
use crate::limits::{FailureClass, Limits};
use crate::people::Visitor;
use crate::people::login::{GUESSING_WAIT, OF_ONE_ACCOUNT_FROM_ANYWHERE, OF_ONE_NETWORK};
use crate::quota::whole_seconds;

/// Wrong passwords, codes and links. Somebody mistypes; somebody else guesses.
const FAILURES: FailureClass = FailureClass {
    name: "operator-login",
    what: "failed logins",
    free: 5,
    longest: Duration::from_secs(900),
    forgotten_after: Duration::from_secs(900),
};
/// The one that failed longest ago is forgotten first.
const MOST_KNOWN: usize = 10_000;

pub(super) struct Attempts {
    limits: Limits,
    local: Mutex<HashMap<String, Failed>>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    count: u32,
    last: Instant,
    wait: Duration,
}

/// A login under way: it counts for its name from its network, for its name from anywhere, and for
/// its network. The same classes as those of accounts, with keys of their own.
pub(super) struct LoginAttempt {
    name_and_network: String,
    name: String,
    /// Absent where the network is that of an unknown proxy.
    network: Option<String>,
}

impl LoginAttempt {
    fn new(name: &str, visitor: &Visitor) -> Self {
        Self {
            name_and_network: format!("{name}\0{}", visitor.network),
            name: format!("operator\0{name}"),
            network: visitor
                .network_that_tells_apart()
                .map(|network| format!("operators\0{network}")),
        }
    }
}

impl Attempts {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            local: Mutex::default(),
        }
    }

    /// To be called before a login; the caller settles it.
    pub(super) async fn begin_login(
        &self,
        name: &str,
        visitor: &Visitor,
    ) -> Result<LoginAttempt, Error> {
        let attempt = LoginAttempt::new(name, visitor);
        if let Some(network) = &attempt.network {
            self.begin_of(&OF_ONE_NETWORK, network).await?;
        }
        if let Err(waits) = self.begin(&attempt.name_and_network).await {
            self.pass_network(&attempt).await;
            return Err(waits);
        }
        Ok(attempt)
    }

    /// Where many networks guess at one name, each of them that fails waits longer. Others never wait
    /// for it.
    pub(super) async fn login_failed(&self, attempt: &LoginAttempt) {
        if let Some(network) = &attempt.network {
            self.fail(&OF_ONE_NETWORK, network, Duration::ZERO).await;
        }
        let class = &OF_ONE_ACCOUNT_FROM_ANYWHERE;
        let anywhere = self.fail(class, &attempt.name, Duration::ZERO).await;
        let at_least = match anywhere.is_zero() {
            true => Duration::ZERO,
            false => GUESSING_WAIT,
        };
        self.fail(&FAILURES, &attempt.name_and_network, at_least)
            .await;
    }

    pub(super) async fn login_passed(&self, attempt: &LoginAttempt) {
        self.passed(&attempt.name_and_network).await;
        self.pass_network(attempt).await;
    }

    /// It was neither right nor wrong: nothing was compared.
    pub(super) async fn login_left(&self, attempt: &LoginAttempt) {
        let limits = &self.limits;
        limits
            .passed(&FAILURES, &attempt.name_and_network)
            .await
            .ok();
        self.pass_network(attempt).await;
    }

    /// The failures of the network stay: its other names are guessed at all the same.
    async fn pass_network(&self, attempt: &LoginAttempt) {
        if let Some(network) = &attempt.network {
            // Without Redis it is forgotten after 15 s.
            self.limits.passed(&OF_ONE_NETWORK, network).await.ok();
        }
    }

    /// To be called before an attempt; the caller settles it.
    pub(super) async fn begin(&self, key: &str) -> Result<(), Error> {
        self.begin_of(&FAILURES, key).await
    }

    pub(super) async fn failed(&self, key: &str) {
        self.fail(&FAILURES, key, Duration::ZERO).await;
    }

    pub(super) async fn passed(&self, key: &str) {
        self.local.lock().remove(&local_key(&FAILURES, key));
        // Without Redis it is forgotten after 15 s.
        self.limits.forgive(&FAILURES, key).await.ok();
    }

    async fn begin_of(&self, class: &FailureClass, key: &str) -> Result<(), Error> {
        match self.limits.wait_after_failures(class, key).await {
            Err(error) if error.kind == Kind::Unavailable => self.begin_here(class, key),
            begun => begun,
        }
    }

    /// Returns how long the next attempt must wait, which is at least so long.
    async fn fail(&self, class: &FailureClass, key: &str, at_least: Duration) -> Duration {
        match self.limits.failed_and_waits(class, key, at_least).await {
            Ok(wait) => wait,
            Err(_) => self.fail_here(class, key, at_least),
        }
    }

    fn begin_here(&self, class: &FailureClass, key: &str) -> Result<(), Error> {
        let known = self.local.lock().get(&local_key(class, key)).copied();
        let left = known.map_or(Duration::ZERO, |failed| {
            failed.wait.saturating_sub(failed.last.elapsed())
        });
        if left.is_zero() {
            return Ok(());
        }
        let message = format!(
            "Too many {}. Try again in {} s",
            class.what,
            whole_seconds(left)
        );
        Err(Error::new(Kind::RateLimited, "rate-limited", message).retry_after(left))
    }

    fn fail_here(&self, class: &FailureClass, key: &str, at_least: Duration) -> Duration {
        let mut local = self.local.lock();
        local.retain(|_, failed| failed.last.elapsed() < FAILURES.forgotten_after * 2);
        if local.len() >= MOST_KNOWN
            && let Some(oldest) = local.iter().min_by_key(|(_, failed)| failed.last)
            && let oldest = oldest.0.clone()
        {
            local.remove(&oldest);
        }
        let before = local.get(&local_key(class, key));
        let count = before.map_or(0, |failed| failed.count).saturating_add(1);
        let wait = match count.checked_sub(class.free + 1) {
            Some(more) => Duration::from_secs(1 << more.min(10)).min(class.longest),
            None => Duration::ZERO,
        };
        let wait = wait.max(at_least);
        let last = Instant::now();
        local.insert(local_key(class, key), Failed { count, last, wait });
        wait
    }
}

fn local_key(class: &FailureClass, key: &str) -> String {
    format!("{}\0{key}", class.name)
}
