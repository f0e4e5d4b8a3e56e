//! Failed logins, so that guessing a password takes for ever and its owner is not kept out by it.
//!
//! After some failures an address must wait, twice as long after each further one, and while it waits its credentials are not looked at.
//! After many failures under one name, from wherever, an address that has failed itself must wait, too: many addresses do not make many
//! guesses. An address that has not failed is never told to wait, so the owner gets in from another one. Who repeats the same credentials
//! guesses nothing: a program with an old password keeps nobody out. In memory, of this process, bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// People mistype, and programs try a few times with an old password.
const FREE_PER_ADDRESS: u32 = 10;
/// Several operators' programs share the one name.
const FREE_PER_NAME: u32 = 50;
/// Long enough that a day allows some 1,400 guesses, short enough to sit out.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Without a further failure everything is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Programs with old passwords on one address.
const REMEMBERED: usize = 4;
/// Addresses, and names. Beyond it those whose last failure is the oldest are forgotten.
const MAX_KNOWN: usize = 10_000;

/// Failed logins of late.
#[derive(Debug, Default)]
pub(super) struct Logins(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    addresses: Known<IpAddr>,
    /// By hash: whoever guesses chooses them.
    names: Known<[u8; 32]>,
}

#[derive(Debug)]
struct Known<K>(HashMap<K, Failures>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// What was tried of late.
    tried: [Option<Tried>; REMEMBERED],
}

/// A digest of credentials, of the part that tells them from the few others that are remembered with them.
type Tried = [u8; 8];

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> Known<K> {
    fn get(&self, key: &K, now: Instant) -> Option<Failures> {
        self.0.get(key).copied().filter(|failures| now.saturating_duration_since(failures.last) < FORGOTTEN_AFTER)
    }

    fn fail(&mut self, key: K, credentials: Tried, now: Instant) {
        let before = self.get(&key, now);
        let mut tried = before.map_or([None; REMEMBERED], |failures| failures.tried);
        if tried.contains(&Some(credentials)) {
            return;
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
    }
}

impl Logins {
    /// How long this address must wait before credentials with this name are looked at.
    pub(super) fn wait(&self, address: IpAddr, name: &str, now: Instant) -> Option<Duration> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = state.addresses.get(&network(address), now)?;
        let under_name = state.names.get(&hash(name), now).map_or(0, |failures| failures.count);
        let wait = wait_after(own.count, FREE_PER_ADDRESS).max(wait_after(under_name, FREE_PER_NAME));
        // From its own last failure on, so that others who fail do not prolong it.
        (own.last + wait).checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// These credentials were looked at and are wrong.
    pub(super) fn failed(&self, address: IpAddr, credentials: &str, now: Instant) {
        let tried = hash(credentials)[..8].try_into().unwrap_or_default();
        let name = credentials.split(':').next().unwrap_or_default();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.addresses.fail(network(address), tried, now);
        state.names.fail(hash(name), tried, now);
    }

    /// They are right.
    pub(super) fn succeeded(&self, address: IpAddr) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.addresses.0.is_empty() {
            state.addresses.0.remove(&network(address));
        }
    }
}

/// Whoever has one IPv6 address has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

fn hash(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

/// Nothing while failures are free, then a second, and twice as long with each further one.
fn wait_after(count: u32, free: u32) -> Duration {
    match count.checked_sub(free) {
        None => Duration::ZERO,
        Some(further) => Duration::from_secs(1 << further.min(6)).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "operator";

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    /// Another password each time.
    fn fail(logins: &Logins, from: IpAddr, times: u32, now: Instant) {
        (0..times).for_each(|_| logins.failed(from, &format!("{NAME}:{}", uuid::Uuid::now_v7()), now));
    }

    #[test]
    fn programs_with_old_passwords_keep_nobody_out() {
        let (logins, now) = (Logins::default(), Instant::now());
        for n in 0..1_000 {
            logins.failed(address(1), &format!("{NAME}:old {}", n % REMEMBERED), now);
        }
        assert_eq!(logins.wait(address(1), NAME, now), None);
        fail(&logins, address(1), FREE_PER_ADDRESS, now);
        assert!(logins.wait(address(1), NAME, now).is_some(), "guesses count all the same");
    }

    #[test]
    fn an_address_waits_longer_with_each_failure_and_others_do_not() {
        let (logins, now) = (Logins::default(), Instant::now());
        fail(&logins, address(1), FREE_PER_ADDRESS - 1, now);
        assert_eq!(logins.wait(address(1), NAME, now), None);
        let mut waits = Vec::new();
        for _ in 0..8 {
            fail(&logins, address(1), 1, now);
            waits.push(logins.wait(address(1), NAME, now).expect("it waits").as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(logins.wait(address(1), "another", now), Some(LONGEST_WAIT), "whatever name");
        assert_eq!(logins.wait(address(2), NAME, now), None);
        assert_eq!(logins.wait(address(1), NAME, now + LONGEST_WAIT), None, "waited for");
        logins.succeeded(address(1));
        fail(&logins, address(1), 1, now);
        assert_eq!(logins.wait(address(1), NAME, now), None, "counted from nothing");
    }

    #[test]
    fn many_addresses_wait_as_one_and_an_address_without_a_failure_gets_in() {
        let (logins, now) = (Logins::default(), Instant::now());
        for n in 0..FREE_PER_NAME + 20 {
            assert_eq!(logins.wait(address(n), NAME, now), None, "its first guess");
            fail(&logins, address(n), 1, now);
        }
        assert_eq!(logins.wait(address(7), NAME, now), Some(LONGEST_WAIT));
        assert_eq!(logins.wait(address(7), "another", now), None);
        assert_eq!(logins.wait(address(1_000), NAME, now), None);
        // Whoever mistyped once waits once, however long the others go on.
        let later = now + LONGEST_WAIT;
        fail(&logins, address(8), 3, later);
        assert_eq!(logins.wait(address(7), NAME, later), None);
    }

    #[test]
    fn failures_are_forgotten_and_what_is_remembered_is_bounded() {
        let (logins, now) = (Logins::default(), Instant::now());
        fail(&logins, address(1), 100, now);
        assert_eq!(logins.wait(address(1), NAME, now + FORGOTTEN_AFTER), None);
        for n in 0..MAX_KNOWN as u32 + 500 {
            logins.failed(address(n), &n.to_string(), now + Duration::from_millis(n.into()));
        }
        let state = logins.0.lock().expect("no panic");
        assert_eq!((state.addresses.0.len(), state.names.0.len()), (MAX_KNOWN, MAX_KNOWN));
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
