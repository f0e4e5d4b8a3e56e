//! Limits failed logins: guessing a password takes impractically long, and the owner is never
//! locked out.
//!
//! Owner and attacker can share an address (behind a proxy, on this machine), and right credentials
//! look like a right guess. So nobody is refused: once an address has some failures, its
//! credentials are checked one after another, at a fixed pace, in order of arrival, whether right
//! or wrong. The same holds for an IPv6 /56 and /48 with some more, since one customer has many /64.
//! After many failures in total, it holds for every address, so that many addresses do not allow
//! many guesses; only addresses from which somebody has logged in before are left out. A connection
//! that has shown the right credentials never waits. Repeating the same wrong credentials is no
//! guess: a program with an old password makes nobody wait. The state is in memory, per process,
//! and bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::client_address::network;

/// Failures of one address before it waits: people mistype, and programs try an old password a few
/// times.
const FREE_PER_ADDRESS: u32 = 10;
/// Failures of an IPv6 /56 and of a /48 before all addresses in it wait.
const FREE_PER_WIDE: [(u32, u32); 2] = [(56, 20), (48, 40)];
/// Failures of all addresses together before every address waits that nobody has logged in from.
const FREE_IN_ALL: u32 = 50;
/// Time between two checks. Five guesses a second, over all addresses, are about 430,000 a day; a
/// password of twelve random letters is out of reach.
const PACE: Duration = Duration::from_millis(200);
/// Maximum number of waiting requests, which is 20 s of waiting. More are told to come back later:
/// that many connections at once are an attack on more than a password.
const MAX_WAITING: usize = 100;
/// All failures are forgotten if no other follows within this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Wrong credentials remembered per address, for programs with old passwords.
const REMEMBERED: usize = 4;
/// Maximum number of addresses. The one with the oldest last failure is dropped first.
const MAX_KNOWN: usize = 10_000;
/// Maximum number of addresses that somebody has logged in from. The one with the oldest last login is
/// dropped first.
const MAX_PROVEN: usize = 1_000;

/// Recent failed logins.
#[derive(Debug)]
pub(super) struct LoginLimiter {
    state: Mutex<State>,
    places: Semaphore,
    /// Time of the next check. The first in line holds the lock; the others wait for it in order,
    /// and leave the line when their clients disconnect.
    line: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

#[derive(Debug, Default)]
struct State {
    addresses: RecentFailures<IpAddr>,
    /// Failures in wider networks, each with its length in bits.
    wide: HashMap<(Ipv6Addr, u32), (u32, Instant)>,
    /// When somebody has last logged in from an address.
    proven: HashMap<IpAddr, Instant>,
    in_all: Option<(u32, Instant)>,
}

/// Decision about credentials before they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// They may be checked at once.
    None,
    /// They are known to be wrong.
    Wrong,
    /// They may be a guess and must wait: see [`LoginLimiter::turn`].
    Guess,
}

#[derive(Debug)]
struct RecentFailures<K>(HashMap<K, Failures>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// The last credentials that were tried.
    tried: [Option<Tried>; REMEMBERED],
}

/// A truncated digest of credentials. It only has to distinguish the few that are remembered
/// together.
type Tried = [u8; 8];

impl<K> Default for RecentFailures<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> RecentFailures<K> {
    fn get(&self, key: &K, now: Instant) -> Option<Failures> {
        self.0
            .get(key)
            .copied()
            .filter(|failures| now.saturating_duration_since(failures.last) < FORGOTTEN_AFTER)
    }

    /// Returns false if the same credentials were tried before.
    fn fail(&mut self, key: K, credentials: Tried, now: Instant) -> bool {
        let before = self.get(&key, now);
        let mut tried = before.map_or([None; REMEMBERED], |failures| failures.tried);
        if tried.contains(&Some(credentials)) {
            return false;
        }
        tried.rotate_right(1);
        tried[0] = Some(credentials);
        let count = before
            .map_or(0, |failures| failures.count)
            .saturating_add(1);
        if self.0.len() >= MAX_KNOWN && !self.0.contains_key(&key) {
            self.0.retain(|_, failures| {
                now.saturating_duration_since(failures.last) < FORGOTTEN_AFTER
            });
            if self.0.len() >= MAX_KNOWN
                && let Some(oldest) = self
                    .0
                    .iter()
                    .min_by_key(|(_, failures)| failures.last)
                    .map(|(key, _)| *key)
            {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(
            key,
            Failures {
                count,
                last: now,
                tried,
            },
        );
        true
    }
}

impl Default for LoginLimiter {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            places: Semaphore::new(MAX_WAITING),
            line: tokio::sync::Mutex::default(),
        }
    }
}

impl LoginLimiter {
    /// Whether these credentials from this address must wait for their turn.
    pub(super) fn doubt(&self, address: IpAddr, credentials: &str, now: Instant) -> Decision {
        let state = self.state.lock();
        let key = network(address);
        let own = state.addresses.get(&key, now);
        if own.is_some_and(|own| own.tried.contains(&Some(digest(credentials)))) {
            return Decision::Wrong;
        }
        if own.is_some_and(|own| own.count >= FREE_PER_ADDRESS) {
            return Decision::Guess;
        }
        if state.proven.contains_key(&key) {
            return Decision::None;
        }
        match state.failed_in_all(now) >= FREE_IN_ALL || state.is_in_failing_network(key, now) {
            true => Decision::Guess,
            false => Decision::None,
        }
    }

    /// Returns when a guess may be checked. If too many wait, fails with the time after which to
    /// retry. Dropping the future frees the place.
    pub(super) async fn turn(&self) -> Result<(), Duration> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(PACE * MAX_WAITING as u32);
        };
        let mut next = self.line.lock().await;
        if let Some(at) = *next {
            tokio::time::sleep_until(at).await;
        }
        *next = Some(tokio::time::Instant::now() + PACE);
        Ok(())
    }

    /// Records that these credentials were checked and are wrong.
    pub(super) fn failed(&self, address: IpAddr, credentials: &str, now: Instant) {
        let mut state = self.state.lock();
        let before = state.failed_in_all(now);
        if state
            .addresses
            .fail(network(address), digest(credentials), now)
        {
            state.in_all = Some((before.saturating_add(1), now));
            state.fail_in_wide(address, now);
        }
    }

    /// Records that the right credentials came from this address.
    pub(super) fn passed(&self, address: IpAddr, now: Instant) {
        let mut state = self.state.lock();
        let key = network(address);
        if state.proven.len() >= MAX_PROVEN
            && !state.proven.contains_key(&key)
            && let Some(oldest) = state
                .proven
                .iter()
                .min_by_key(|(_, last)| **last)
                .map(|(key, _)| *key)
        {
            state.proven.remove(&oldest);
        }
        state.proven.insert(key, now);
    }
}

/// The wider networks of an IPv6 address, and how often each may fail.
fn wide_networks(address: IpAddr) -> impl Iterator<Item = ((Ipv6Addr, u32), u32)> {
    let v6 = match address.to_canonical() {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    };
    v6.into_iter().flat_map(|v6| {
        FREE_PER_WIDE.map(|(bits, free)| {
            let network = Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - bits)));
            ((network, bits), free)
        })
    })
}

impl State {
    fn is_in_failing_network(&self, address: IpAddr, now: Instant) -> bool {
        wide_networks(address).any(|(network, free)| {
            self.wide.get(&network).is_some_and(|(count, last)| {
                *count >= free && now.saturating_duration_since(*last) < FORGOTTEN_AFTER
            })
        })
    }

    fn fail_in_wide(&mut self, address: IpAddr, now: Instant) {
        for (network, _) in wide_networks(address) {
            if self.wide.len() >= MAX_KNOWN && !self.wide.contains_key(&network) {
                self.wide
                    .retain(|_, (_, last)| now.saturating_duration_since(*last) < FORGOTTEN_AFTER);
                if self.wide.len() >= MAX_KNOWN {
                    // So many failures make everybody wait anyway.
                    continue;
                }
            }
            let (count, last) = self.wide.entry(network).or_insert((0, now));
            if now.saturating_duration_since(*last) >= FORGOTTEN_AFTER {
                *count = 0;
            }
            (*count, *last) = (count.saturating_add(1), now);
        }
    }

    fn failed_in_all(&self, now: Instant) -> u32 {
        let lately = self
            .in_all
            .filter(|(_, last)| now.saturating_duration_since(*last) < FORGOTTEN_AFTER);
        lately.map_or(0, |(count, _)| count)
    }
}

fn digest(credentials: &str) -> Tried {
    Sha256::digest(credentials.as_bytes())[..8]
        .try_into()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const RIGHT: &str = "operator:right";

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    /// Fails with a new password each time.
    fn fail(logins: &LoginLimiter, from: IpAddr, times: u32, now: Instant) {
        (0..times)
            .for_each(|_| logins.failed(from, &format!("operator:{}", uuid::Uuid::now_v7()), now));
    }

    #[test]
    fn programs_with_old_passwords_keep_nobody_waiting() {
        let (logins, now) = (LoginLimiter::default(), Instant::now());
        for n in 0..1_000 {
            logins.failed(address(1), &format!("operator:old {}", n % REMEMBERED), now);
        }
        assert_eq!(logins.doubt(address(1), RIGHT, now), Decision::None);
        assert_eq!(
            logins.doubt(address(1), "operator:old 1", now),
            Decision::Wrong,
            "it is not looked at again"
        );
        fail(&logins, address(1), FREE_PER_ADDRESS, now);
        assert_eq!(
            logins.doubt(address(1), RIGHT, now),
            Decision::Guess,
            "guesses count all the same"
        );
        assert_eq!(
            logins.doubt(address(2), RIGHT, now),
            Decision::None,
            "another address"
        );
        assert_eq!(
            logins.doubt(address(1), RIGHT, now + FORGOTTEN_AFTER),
            Decision::None,
            "forgotten"
        );
    }

    #[test]
    fn many_addresses_wait_as_one_and_an_address_that_somebody_logged_in_from_does_not_wait() {
        let (logins, now) = (LoginLimiter::default(), Instant::now());
        logins.passed(address(1_001), now);
        for n in 0..FREE_IN_ALL {
            assert_eq!(
                logins.doubt(address(n), RIGHT, now),
                Decision::None,
                "its first guess"
            );
            fail(&logins, address(n), 1, now);
        }
        assert_eq!(logins.doubt(address(7), RIGHT, now), Decision::Guess);
        assert_eq!(
            logins.doubt(address(1_000), RIGHT, now),
            Decision::Guess,
            "the next address is no way around it"
        );
        assert_eq!(logins.doubt(address(1_001), RIGHT, now), Decision::None);
        fail(&logins, address(1_001), FREE_PER_ADDRESS, now);
        assert_eq!(
            logins.doubt(address(1_001), RIGHT, now),
            Decision::Guess,
            "somebody guesses there, too"
        );
        assert_eq!(
            logins.doubt(address(7), RIGHT, now + FORGOTTEN_AFTER),
            Decision::None
        );
    }

    #[test]
    fn many_networks_of_one_customer_wait_as_one() {
        let (logins, now) = (LoginLimiter::default(), Instant::now());
        let of = |text: &str| text.parse::<IpAddr>().expect("an address");
        for n in 0..20 {
            let from = of(&format!("2001:db8:0:{n:x}::1"));
            assert_eq!(logins.doubt(from, RIGHT, now), Decision::None, "{n}");
            fail(&logins, from, 1, now);
        }
        assert_eq!(
            logins.doubt(of("2001:db8:0:ff::1"), RIGHT, now),
            Decision::Guess,
            "another /64 of the /56"
        );
        assert_eq!(
            logins.doubt(of("2001:db8:0:100::1"), RIGHT, now),
            Decision::None,
            "another /56"
        );
        for n in 0..20 {
            fail(&logins, of(&format!("2001:db8:0:{n:x}00::1")), 1, now);
        }
        assert_eq!(
            logins.doubt(of("2001:db8:0:ffff::1"), RIGHT, now),
            Decision::Guess,
            "another /56 of the /48"
        );
        assert_eq!(
            logins.doubt(of("2001:db8:1::1"), RIGHT, now),
            Decision::None,
            "another /48"
        );
    }

    #[tokio::test]
    async fn guesses_are_looked_at_one_after_another_and_whoever_leaves_gives_its_place_up() {
        let (logins, began) = (LoginLimiter::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(logins.turn().await, Ok(()));
        }
        assert!(began.elapsed() >= PACE * 2, "{:?}", began.elapsed());
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(logins.turn())).collect();
        assert!(
            waiting.iter_mut().all(|turn| turn.now_or_never().is_none()),
            "each waits"
        );
        assert_eq!(logins.turn().await, Err(PACE * MAX_WAITING as u32));
        drop(waiting);
        assert_eq!(logins.turn().await, Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (logins, now) = (LoginLimiter::default(), Instant::now());
        for n in 0..MAX_KNOWN as u32 + 500 {
            logins.failed(
                address(n),
                &n.to_string(),
                now + Duration::from_millis(n.into()),
            );
        }
        assert_eq!(logins.state.lock().addresses.0.len(), MAX_KNOWN);
        // Two wider networks each.
        for n in 0..MAX_KNOWN as u32 / 2 + 50 {
            let of_its_own = u128::from(n) << 80;
            let from = IpAddr::from(Ipv6Addr::from_bits((0x2001 << 112) | of_its_own));
            fail(&logins, from, 1, now);
            logins.passed(from, now + Duration::from_millis(n.into()));
        }
        let state = logins.state.lock();
        assert_eq!(state.wide.len(), MAX_KNOWN);
        assert_eq!(state.proven.len(), MAX_PROVEN);
    }
}
