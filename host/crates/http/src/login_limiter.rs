//! Failed logins, so that guessing a password takes for ever and its owner is never kept out by it.
//!
//! Whoever shares an address with somebody who guesses (behind a proxy, on this machine) must get in, and right credentials can be told from
//! a right guess by nothing. So nobody is turned away: from an address with some failures, credentials are looked at one after another, at a
//! pace, right or wrong, first come, first served. After many failures in all, that holds for every address that has failed itself: many
//! addresses do not make many guesses. An address that has not failed waits for nobody, and a connection that has shown the right
//! credentials does not, either. Who repeats the same wrong credentials guesses nothing: a program with an old password keeps nobody
//! waiting. In memory, of this process, bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// People mistype, and programs try a few times with an old password.
const FREE_PER_ADDRESS: u32 = 10;
/// From all addresses together.
const FREE_IN_ALL: u32 = 50;
/// Between two looks: five guesses a second, from wherever, are some 430,000 a day; a password of twelve random letters lasts for ages.
const PACE: Duration = Duration::from_millis(200);
/// So many wait at most: 20 s. Who comes then is told to come back; so many connections at once are an attack on more than a password.
const PLACES: usize = 100;
/// Without a further failure everything is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Programs with old passwords on one address.
const REMEMBERED: usize = 4;
/// Addresses. Beyond it those whose last failure is the oldest are forgotten.
const MAX_KNOWN: usize = 10_000;

/// Failed logins of late.
#[derive(Debug)]
pub(super) struct LoginLimiter {
    state: Mutex<State>,
    places: Semaphore,
    /// When the next one is looked at. Held by the first in line; those behind it wait for the lock, in order, and leave with their clients.
    line: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

#[derive(Debug, Default)]
struct State {
    addresses: RecentFailures<IpAddr>,
    in_all: Option<(u32, Instant)>,
}

/// What is known of credentials before they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// They may be looked at at once.
    None,
    /// They are known to be wrong.
    Wrong,
    /// They may be a guess: see [`LoginLimiter::turn`].
    Guess,
}

#[derive(Debug)]
struct RecentFailures<K>(HashMap<K, Failures>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// What was tried of late.
    tried: [Option<Tried>; REMEMBERED],
}

/// A digest of credentials, of the part that tells them from the few others that are remembered with them.
type Tried = [u8; 8];

impl<K> Default for RecentFailures<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> RecentFailures<K> {
    fn get(&self, key: &K, now: Instant) -> Option<Failures> {
        self.0.get(key).copied().filter(|failures| now.saturating_duration_since(failures.last) < FORGOTTEN_AFTER)
    }

    /// False when the same was tried before.
    fn fail(&mut self, key: K, credentials: Tried, now: Instant) -> bool {
        let before = self.get(&key, now);
        let mut tried = before.map_or([None; REMEMBERED], |failures| failures.tried);
        if tried.contains(&Some(credentials)) {
            return false;
        }
        tried.rotate_right(1);
        tried[0] = Some(credentials);
        let count = before.map_or(0, |failures| failures.count).saturating_add(1);
        if self.0.len() >= MAX_KNOWN && !self.0.contains_key(&key) {
            self.0.retain(|_, failures| now.saturating_duration_since(failures.last) < FORGOTTEN_AFTER);
            if self.0.len() >= MAX_KNOWN
                && let Some(oldest) = self.0.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| *key)
            {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(key, Failures { count, last: now, tried });
        true
    }
}

impl Default for LoginLimiter {
    fn default() -> Self {
        Self { state: Mutex::default(), places: Semaphore::new(PLACES), line: tokio::sync::Mutex::default() }
    }
}

impl LoginLimiter {
    /// Whether these credentials, from this address, must wait for their turn.
    pub(super) fn doubt(&self, address: IpAddr, credentials: &str, now: Instant) -> Doubt {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = state.addresses.get(&network(address), now) else { return Doubt::None };
        if own.tried.contains(&Some(digest(credentials))) {
            return Doubt::Wrong;
        }
        match own.count >= FREE_PER_ADDRESS || state.failed_in_all(now) >= FREE_IN_ALL {
            true => Doubt::Guess,
            false => Doubt::None,
        }
    }

    /// Returns when a guess may be looked at. An error when too many wait: how long to stay away. Dropping the future gives the place up.
    pub(super) async fn turn(&self) -> Result<(), Duration> {
        let Ok(_place) = self.places.try_acquire() else { return Err(PACE * PLACES as u32) };
        let mut next = self.line.lock().await;
        if let Some(at) = *next {
            tokio::time::sleep_until(at).await;
        }
        *next = Some(tokio::time::Instant::now() + PACE);
        Ok(())
    }

    /// These credentials were looked at and are wrong.
    pub(super) fn failed(&self, address: IpAddr, credentials: &str, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.failed_in_all(now);
        if state.addresses.fail(network(address), digest(credentials), now) {
            state.in_all = Some((before.saturating_add(1), now));
        }
    }
}

impl State {
    fn failed_in_all(&self, now: Instant) -> u32 {
        let lately = self.in_all.filter(|(_, last)| now.saturating_duration_since(*last) < FORGOTTEN_AFTER);
        lately.map_or(0, |(count, _)| count)
    }
}

/// Whoever has one IPv6 address has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

fn digest(credentials: &str) -> Tried {
    Sha256::digest(credentials.as_bytes())[..8].try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const RIGHT: &str = "operator:right";

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    /// Another password each time.
    fn fail(logins: &LoginLimiter, from: IpAddr, times: u32, now: Instant) {
        (0..times).for_each(|_| logins.failed(from, &format!("operator:{}", uuid::Uuid::now_v7()), now));
    }

    #[test]
    fn programs_with_old_passwords_keep_nobody_waiting() {
        let (logins, now) = (LoginLimiter::default(), Instant::now());
        for n in 0..1_000 {
            logins.failed(address(1), &format!("operator:old {}", n % REMEMBERED), now);
        }
        assert_eq!(logins.doubt(address(1), RIGHT, now), Doubt::None);
        assert_eq!(logins.doubt(address(1), "operator:old 1", now), Doubt::Wrong, "it is not looked at again");
        fail(&logins, address(1), FREE_PER_ADDRESS, now);
        assert_eq!(logins.doubt(address(1), RIGHT, now), Doubt::Guess, "guesses count all the same");
        assert_eq!(logins.doubt(address(2), RIGHT, now), Doubt::None, "another address");
        assert_eq!(logins.doubt(address(1), RIGHT, now + FORGOTTEN_AFTER), Doubt::None, "forgotten");
    }

    #[test]
    fn many_addresses_wait_as_one_and_an_address_without_a_failure_does_not_wait() {
        let (logins, now) = (LoginLimiter::default(), Instant::now());
        for n in 0..FREE_IN_ALL {
            assert_eq!(logins.doubt(address(n), RIGHT, now), Doubt::None, "its first guess");
            fail(&logins, address(n), 1, now);
        }
        assert_eq!(logins.doubt(address(7), RIGHT, now), Doubt::Guess);
        assert_eq!(logins.doubt(address(1_000), RIGHT, now), Doubt::None);
        assert_eq!(logins.doubt(address(7), RIGHT, now + FORGOTTEN_AFTER), Doubt::None);
    }

    #[tokio::test]
    async fn guesses_are_looked_at_one_after_another_and_whoever_leaves_gives_its_place_up() {
        let (logins, began) = (LoginLimiter::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(logins.turn().await, Ok(()));
        }
        assert!(began.elapsed() >= PACE * 2, "{:?}", began.elapsed());
        let mut waiting: Vec<_> = (0..PLACES).map(|_| Box::pin(logins.turn())).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()), "each waits");
        assert_eq!(logins.turn().await, Err(PACE * PLACES as u32));
        drop(waiting);
        assert_eq!(logins.turn().await, Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (logins, now) = (LoginLimiter::default(), Instant::now());
        for n in 0..MAX_KNOWN as u32 + 500 {
            logins.failed(address(n), &n.to_string(), now + Duration::from_millis(n.into()));
        }
        assert_eq!(logins.state.lock().expect("no panic").addresses.0.len(), MAX_KNOWN);
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
