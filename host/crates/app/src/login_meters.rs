//! What this process has seen of logins: counts for metrics, and recent failures for alerts. Holds
//! no address of a person and no password.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

const MINUTE: Duration = Duration::from_secs(60);
/// Minutes of "lately".
const LATELY: u64 = 5;
const DAY: u64 = 24 * 60;
/// How long failures from many networks belong together.
const TOGETHER: Duration = Duration::from_secs(900);
/// Accounts and networks that are remembered. Whoever guesses more at once is counted anyway.
const MOST_ACCOUNTS: usize = 1_000;
const MOST_NETWORKS: usize = 64;
/// Accounts that a report names, and from how many networks on.
const REPORTED: usize = 20;
const REPORTED_FROM: usize = 3;

/// Whose login it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginKind {
    User,
    Operator,
}

impl LoginKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
        }
    }
}

/// By what somebody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginMethod {
    Password,
    /// The code of a signup.
    Otp,
    Google,
    Master,
    Oidc,
}

impl LoginMethod {
    fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Otp => "otp",
            Self::Google => "google",
            Self::Master => "master",
            Self::Oidc => "oidc",
        }
    }
}

/// Whose logins there are, by what.
const METHODS: [(LoginKind, LoginMethod); 6] = [
    (LoginKind::User, LoginMethod::Password),
    (LoginKind::User, LoginMethod::Otp),
    (LoginKind::User, LoginMethod::Google),
    (LoginKind::User, LoginMethod::Master),
    (LoginKind::Operator, LoginMethod::Password),
    (LoginKind::Operator, LoginMethod::Oidc),
];
const RESULTS: [&str; 6] = ["ok", "wrong", "refused", "limited", "invalid", "failed"];

/// Kind, method and result.
type Labels = (&'static str, &'static str, &'static str);

fn result_of<T>(method: LoginMethod, result: &Result<T, Error>) -> &'static str {
    let Err(error) = result else {
        return "ok";
    };
    match (error.kind, method) {
        (Kind::Unauthorized, _) => "wrong",
        // The old backend's status for a wrong code and for a wrong ID token.
        (Kind::Invalid, LoginMethod::Otp | LoginMethod::Google | LoginMethod::Oidc) => "wrong",
        // A wrong code after the provider; that one is needed is not counted.
        (Kind::Forbidden, LoginMethod::Oidc) if error.details.is_some() => "wrong",
        (Kind::Invalid, _) => "invalid",
        (Kind::Forbidden, _) => "refused",
        (Kind::RateLimited, _) => "limited",
        _ => "failed",
    }
}

pub(crate) struct LoginMeters {
    counts: Mutex<BTreeMap<Labels, u64>>,
    /// Sessions that ended because a refresh token was shown twice.
    refresh_reuse: AtomicU64,
    failures: Mutex<Failures>,
}

impl Default for LoginMeters {
    fn default() -> Self {
        let zeros = METHODS.iter().flat_map(|(kind, method)| {
            RESULTS.map(|result| ((kind.as_str(), method.as_str(), result), 0))
        });
        Self {
            counts: Mutex::new(zeros.collect()),
            refresh_reuse: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }
}

impl LoginMeters {
    /// Counts an attempt by how it ended.
    pub(crate) fn count<T>(&self, kind: LoginKind, method: LoginMethod, result: &Result<T, Error>) {
        let result = result_of(method, result);
        let labels = (kind.as_str(), method.as_str(), result);
        *self.counts.lock().entry(labels).or_default() += 1;
        if result == "wrong" && method != LoginMethod::Otp {
            self.failures.lock().count(Instant::now());
        }
    }

    /// The attempt on this account has failed.
    pub(crate) fn guessed(&self, account: &str, network: &str) {
        self.failures
            .lock()
            .guessed(account, network, Instant::now());
    }

    pub(crate) fn refresh_reused(&self) {
        self.refresh_reuse.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> BTreeMap<Labels, u64> {
        self.counts.lock().clone()
    }

    pub(crate) fn reuses(&self) -> u64 {
        self.refresh_reuse.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> FailedLogins {
        self.failures.lock().report(Instant::now())
    }
}

/// Failed logins of a process, as it tells them to the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailedLogins {
    /// Within 5 minutes.
    pub lately: u64,
    /// Within the 24 hours before those.
    pub day_before: u64,
    /// Accounts by id, with hashes of the networks from which logins to them failed within 15
    /// minutes.
    pub accounts: BTreeMap<String, BTreeSet<u32>>,
}

#[derive(Default)]
struct Failures {
    /// Failures of each minute since `began`, the oldest first.
    minutes: VecDeque<(u64, u64)>,
    began: Option<Instant>,
    accounts: HashMap<String, HashMap<u32, Instant>>,
}

impl Failures {
    fn minute(&mut self, now: Instant) -> u64 {
        let began = *self.began.get_or_insert(now);
        now.duration_since(began).as_secs() / MINUTE.as_secs()
    }

    fn count(&mut self, now: Instant) {
        let minute = self.minute(now);
        match self.minutes.back_mut() {
            Some((last, count)) if *last == minute => *count += 1,
            _ => self.minutes.push_back((minute, 1)),
        }
        while self
            .minutes
            .front()
            .is_some_and(|(oldest, _)| oldest + DAY + LATELY < minute)
        {
            self.minutes.pop_front();
        }
    }

    fn guessed(&mut self, account: &str, network: &str, now: Instant) {
        if self.accounts.len() >= MOST_ACCOUNTS {
            self.forget(now);
        }
        if self.accounts.len() >= MOST_ACCOUNTS && !self.accounts.contains_key(account) {
            return;
        }
        let mut hasher = DefaultHasher::new();
        network.hash(&mut hasher);
        // The same on every host: the hasher has no key.
        let network = (hasher.finish() & u64::from(u32::MAX)) as u32;
        let networks = self.accounts.entry(account.to_owned()).or_default();
        if networks.len() < MOST_NETWORKS || networks.contains_key(&network) {
            networks.insert(network, now);
        }
    }

    fn forget(&mut self, now: Instant) {
        self.accounts.retain(|_, networks| {
            networks.retain(|_, at| now.duration_since(*at) < TOGETHER);
            !networks.is_empty()
        });
    }

    fn report(&mut self, now: Instant) -> FailedLogins {
        self.forget(now);
        let minute = self.minute(now);
        let is_late = |(at, _): &&(u64, u64)| at + LATELY > minute;
        let sum = |each: &mut dyn Iterator<Item = &(u64, u64)>| each.map(|(_, count)| count).sum();
        let lately = sum(&mut self.minutes.iter().filter(is_late));
        let day_before = sum(&mut self
            .minutes
            .iter()
            .filter(|one| !is_late(one) && one.0 + DAY + LATELY > minute));
        let mut accounts: Vec<(&String, &HashMap<u32, Instant>)> = self
            .accounts
            .iter()
            .filter(|(_, networks)| networks.len() >= REPORTED_FROM)
            .collect();
        accounts.sort_by_key(|(_, networks)| std::cmp::Reverse(networks.len()));
        let accounts = accounts.into_iter().take(REPORTED).map(|(account, from)| {
            let networks: BTreeSet<u32> = from.keys().copied().collect();
            (account.clone(), networks)
        });
        FailedLogins {
            lately,
            day_before,
            accounts: accounts.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_five_minutes_are_told_apart_from_those_of_the_day_before() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let at = |minutes: u64| start + MINUTE * u32::try_from(minutes).expect("few");
        for minute in [0, 1, 60, 1_200, 1_438, 1_440] {
            failures.count(at(minute));
        }
        let told = failures.report(at(1_441));
        assert_eq!((told.lately, told.day_before), (2, 4));
        let told = failures.report(at(1_446));
        assert_eq!((told.lately, told.day_before), (0, 4), "{told:?}");
    }

    #[test]
    fn an_account_is_told_with_its_networks_until_they_are_quiet() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        for network in 0..100 {
            failures.guessed("ada", &network.to_string(), start);
        }
        failures.guessed("bob", "1", start);
        let told = failures.report(start);
        assert_eq!(told.accounts.len(), 1);
        assert_eq!(told.accounts["ada"].len(), MOST_NETWORKS);
        assert!(failures.report(start + TOGETHER).accounts.is_empty());
    }

    #[test]
    fn attempts_are_counted_by_how_they_ended() {
        let meters = LoginMeters::default();
        let wrong = Error::new(Kind::Unauthorized, "invalid-credentials", "");
        let limited = Error::new(Kind::RateLimited, "rate-limited", "");
        meters.count(LoginKind::User, LoginMethod::Password, &Ok(()));
        for error in [wrong, limited] {
            meters.count::<()>(LoginKind::User, LoginMethod::Password, &Err(error));
        }
        let counts = meters.counts();
        for result in ["ok", "wrong", "limited"] {
            assert_eq!(counts[&("user", "password", result)], 1, "{result}");
        }
        assert_eq!(counts[&("user", "google", "ok")], 0);
        assert_eq!(meters.failed().lately, 1);
    }
}
