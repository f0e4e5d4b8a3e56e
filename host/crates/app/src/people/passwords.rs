//! Hashes of passwords: argon2id for new ones; those of the old backend (bcrypt) are still
//! compared.
//!
//! Every comparison costs the same, whether or not there is an account, and whatever made its hash,
//! so that time tells nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use patchbay_telemetry::metrics::histogram::{Histogram, Reading};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::config::HashCost;
use crate::Error;
use crate::error::Kind;

/// Longest password, in bytes.
pub(crate) const MAX_BYTES: usize = 1_024;
/// What the old backend hashed: bcrypt never saw more.
const BCRYPT_BYTES: usize = 72;
/// As the old backend's next hashes; and of its dummy, as its present ones.
const BCRYPT_COST: u32 = 12;
const BCRYPT_DUMMY_COST: u32 = 10;
/// Requests that may wait for a thread.
const MAX_WAITING: usize = 500;
/// A request that waits for others is refused after this.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A stored hash may ask for this much more than ours. One that asks for more is not computed: its
/// row could be a trap.
const MAX_TIMES_OUR_COST: u32 = 4;

/// Passwords that are tried first, sorted, in lower case: the 10,000 most used of at least 8
/// characters and the 2,500 most used of 6 and 7 in the list of zxcvbn (see NOTICE), and some that are
/// near to what this host serves.
static COMMON: LazyLock<Vec<&str>> =
    LazyLock::new(|| include_str!("common_passwords.txt").lines().collect());

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wrong,
    Right,
    /// Right, and the hash should be made anew.
    RightButOld,
}

#[derive(Clone)]
pub(crate) struct Passwords(Arc<Inner>);

struct Inner {
    argon2: Argon2<'static>,
    cost: HashCost,
    /// New hashes are the old backend's.
    makes_bcrypt: bool,
    /// Compared where there is no hash.
    dummy: String,
    bcrypt_dummy: String,
    has_bcrypt: AtomicBool,
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Of each hash and comparison, without the wait for a thread.
    time: Histogram,
}

impl Passwords {
    /// Computes one hash, to know how long it takes here.
    pub(crate) fn new(cost: HashCost, makes_bcrypt: bool) -> anyhow::Result<Self> {
        let params = Params::new(cost.memory_kib, cost.passes, 1, None).map_err(|error| {
            anyhow::anyhow!("people.hash_memory_kib, people.hash_passes: {error}")
        })?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let began = Instant::now();
        let dummy = hash_with(&argon2, b"a password that nobody has")?;
        let takes = began.elapsed();
        let bcrypt_dummy = bcrypt_with("a password that nobody has", BCRYPT_DUMMY_COST)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        tracing::info!(
            memory_kib = cost.memory_kib,
            passes = cost.passes,
            takes_ms = u64::try_from(takes.as_millis()).unwrap_or(u64::MAX),
            threads,
            "passwords are hashed with argon2id"
        );
        Ok(Self(Arc::new(Inner {
            argon2,
            cost,
            makes_bcrypt,
            dummy,
            bcrypt_dummy,
            has_bcrypt: AtomicBool::new(true),
            threads: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
            time: Histogram::of_seconds(),
        })))
    }

    /// Whether any account still has a hash of the old backend. While one has, every comparison
    /// also costs one of those.
    pub(crate) fn set_has_bcrypt(&self, has: bool) {
        self.0.has_bcrypt.store(has, Ordering::Relaxed);
    }

    pub(crate) async fn hash(&self, password: Zeroizing<String>) -> Result<String, Error> {
        self.on_a_thread(move |inner| match inner.makes_bcrypt {
            true => bcrypt_with(&password, BCRYPT_COST),
            false => hash_with(&inner.argon2, password.as_bytes()),
        })
        .await?
        .map_err(|error| {
            tracing::error!(%error, "a password could not be hashed");
            Error::internal()
        })
    }

    /// As [`Self::hash`], but argon2id also where the old backend compares hashes: of passwords that
    /// it never sees.
    pub(crate) async fn hash_with_argon2id(
        &self,
        password: Zeroizing<String>,
    ) -> Result<String, Error> {
        let hashed = self.on_a_thread(move |inner| hash_with(&inner.argon2, password.as_bytes()));
        hashed.await?.map_err(|error| {
            tracing::error!(%error, "a password could not be hashed");
            Error::internal()
        })
    }

    /// Compares a password with a hash; without one, does the same work.
    pub(crate) async fn verify(
        &self,
        password: Zeroizing<String>,
        hash: Option<String>,
    ) -> Result<Verdict, Error> {
        self.on_a_thread(move |inner| inner.compare(&password, hash.as_deref()))
            .await
    }

    /// How long hashes and comparisons took.
    pub(crate) fn time(&self) -> Reading {
        self.0.time.read()
    }

    /// Requests that are compared, or wait for it.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.0);
        let _waits = Waits::begin(&self.0.waiting).ok_or_else(busy)?;
        let permit = Arc::clone(&inner.threads).acquire_owned();
        let permit = tokio::time::timeout(LONGEST_WAIT, permit)
            .await
            .map_err(|_| busy())?
            .map_err(|_| Error::internal())?;
        let done = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let done = work(&inner);
            inner.time.observe_time(began.elapsed());
            drop(permit);
            done
        });
        done.await.map_err(|_| Error::internal())
    }
}

pub(super) fn busy() -> Error {
    Error::new(
        Kind::Unavailable,
        "unavailable",
        "Too many logins wait to be checked. Try again in 10 s",
    )
    .retry_after(LONGEST_WAIT)
}

/// A request among those that wait.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Option<Self> {
        if waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(waiting))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    fn compare(&self, password: &str, hash: Option<&str>) -> Verdict {
        let (argon2, bcrypt) = match hash {
            Some(hash) if is_bcrypt(hash) => (None, Some(hash)),
            Some(hash) if hash.starts_with("$argon2") => (Some(hash), None),
            Some(_) => {
                tracing::error!(
                    "an account has a password hash of an unknown kind; nobody can log in to it with a password"
                );
                (None, None)
            }
            None => (None, None),
        };
        let by_argon2 = self.by_argon2(password, argon2.unwrap_or(&self.dummy)) && argon2.is_some();
        let by_bcrypt = bcrypt.is_some() || self.has_bcrypt.load(Ordering::Relaxed);
        let by_bcrypt = by_bcrypt
            && bcrypt::verify(cut(password), bcrypt.unwrap_or(&self.bcrypt_dummy)).unwrap_or(false)
            && bcrypt.is_some();
        if by_bcrypt {
            return match self.makes_bcrypt {
                true => Verdict::Right,
                false => Verdict::RightButOld,
            };
        }
        match by_argon2 {
            true if argon2.is_some_and(|hash| !self.is_current(hash)) && !self.makes_bcrypt => {
                Verdict::RightButOld
            }
            true => Verdict::Right,
            false => Verdict::Wrong,
        }
    }

    fn by_argon2(&self, password: &str, hash: &str) -> bool {
        let Ok(parsed) = PasswordHash::new(hash) else {
            return false;
        };
        let Ok(params) = Params::try_from(&parsed) else {
            return false;
        };
        let memory = self.cost.memory_kib.max(LEAST.memory_kib);
        let passes = self.cost.passes.max(LEAST.passes);
        if params.m_cost() > memory.saturating_mul(MAX_TIMES_OUR_COST)
            || params.t_cost() > passes.saturating_mul(MAX_TIMES_OUR_COST)
            || params.p_cost() > MAX_TIMES_OUR_COST
        {
            tracing::error!(
                memory_kib = params.m_cost(),
                passes = params.t_cost(),
                "a password hash asks for far more work than ours; it is not computed"
            );
            return false;
        }
        self.argon2
            .verify_password(password.as_bytes(), &parsed)
            .is_ok()
    }

    /// Made with at least our cost.
    fn is_current(&self, hash: &str) -> bool {
        let params = PasswordHash::new(hash)
            .ok()
            .and_then(|parsed| Params::try_from(&parsed).ok());
        params.is_some_and(|params| {
            params.m_cost() >= self.cost.memory_kib && params.t_cost() >= self.cost.passes
        })
    }
}

fn hash_with(argon2: &Argon2<'_>, password: &[u8]) -> anyhow::Result<String> {
    let salt: [u8; 16] = rand::random();
    let hash = argon2
        .hash_password_with_salt(password, &salt)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(hash.to_string())
}

/// OWASP's least, and ours unless configured.
const LEAST: HashCost = HashCost {
    memory_kib: 19_456,
    passes: 2,
};

/// Whether a hash in the configuration may guard every account.
pub fn is_strong_hash(hash: &str) -> bool {
    let params = PasswordHash::new(hash)
        .ok()
        .filter(|parsed| parsed.algorithm.as_str() == "argon2id")
        .and_then(|parsed| Params::try_from(&parsed).ok());
    params.is_some_and(|params| {
        params.m_cost() >= LEAST.memory_kib && params.t_cost() >= LEAST.passes
    })
}

/// A hash for the configuration.
pub fn hash_for_configuration(password: &str) -> anyhow::Result<String> {
    let params = Params::new(LEAST.memory_kib, LEAST.passes, 1, None)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    hash_with(&argon2, password.as_bytes())
}

fn bcrypt_with(password: &str, cost: u32) -> anyhow::Result<String> {
    bcrypt::hash(cut(password), cost).map_err(|error| anyhow::anyhow!("{error}"))
}

fn is_bcrypt(hash: &str) -> bool {
    ["$2a$", "$2b$", "$2y$", "$2x$"]
        .iter()
        .any(|head| hash.starts_with(head))
}

/// The part of a password that the old backend's bcrypt saw.
fn cut(password: &str) -> &[u8] {
    &password.as_bytes()[..password.len().min(BCRYPT_BYTES)]
}

fn is_common(password: &str) -> bool {
    COMMON
        .binary_search(&password.to_lowercase().as_str())
        .is_ok()
}

/// Refuses a new password that is too short, too long, common, or the address itself.
pub(crate) fn check_new(
    password: &str,
    field: &str,
    least: usize,
    email: &str,
) -> Result<(), Error> {
    let problem = if password.chars().count() < least {
        format!("must have at least {least} characters")
    } else if password.len() > MAX_BYTES {
        format!("must have at most {MAX_BYTES} bytes")
    } else if password.contains('\0') {
        "must not contain a NUL character".to_owned()
    } else if is_common(password) {
        "is one of the most used passwords. Choose another one".to_owned()
    } else if password.eq_ignore_ascii_case(email) {
        "must not be the mail address".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("{field}: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: HashCost = HashCost {
        memory_kib: 64,
        passes: 1,
    };

    fn passwords(makes_bcrypt: bool) -> Passwords {
        Passwords::new(COST, makes_bcrypt).expect("usable costs")
    }

    fn text(password: &str) -> Zeroizing<String> {
        password.to_owned().into()
    }

    async fn compared(passwords: &Passwords, password: &str, hash: &str) -> Verdict {
        let hash = Some(hash.to_owned());
        passwords
            .verify(text(password), hash)
            .await
            .expect("a verdict")
    }

    #[tokio::test]
    async fn a_hash_accepts_its_password_and_no_other() {
        let passwords = passwords(false);
        let hash = passwords.hash(text("grüße 🦀")).await.expect("a hash");
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        assert_eq!(
            compared(&passwords, "grüße 🦀", &hash).await,
            Verdict::Right
        );
        assert_eq!(
            compared(&passwords, "grüsse 🦀", &hash).await,
            Verdict::Wrong
        );
        let nobody = passwords.verify(text("a password that nobody has"), None);
        assert_eq!(nobody.await.expect("a verdict"), Verdict::Wrong);
    }

    #[tokio::test]
    async fn hashes_of_the_old_backend_are_compared_as_it_made_them_and_are_made_anew() {
        let passwords = passwords(false);
        let long = "x".repeat(80);
        let hash = bcrypt::hash(&long.as_bytes()[..72], 4).expect("a hash");
        for head in ["$2a$", "$2b$", "$2y$"] {
            let hash = hash.replacen("$2b$", head, 1);
            assert_eq!(
                compared(&passwords, &long, &hash).await,
                Verdict::RightButOld,
                "{head}"
            );
            assert_eq!(compared(&passwords, "x", &hash).await, Verdict::Wrong);
        }
    }

    #[tokio::test]
    async fn beside_the_old_backend_its_hashes_stay() {
        let passwords = passwords(true);
        let hash = passwords.hash(text("a password")).await.expect("a hash");
        assert!(hash.starts_with("$2b$12$"), "{hash}");
        assert_eq!(
            compared(&passwords, "a password", &hash).await,
            Verdict::Right
        );
    }

    #[tokio::test]
    async fn a_hash_that_asks_for_gigabytes_is_not_computed() {
        let passwords = passwords(false);
        let hash = passwords.hash(text("a password")).await.expect("a hash");
        let trap = hash.replace("m=64", "m=4194304");
        assert_eq!(
            compared(&passwords, "a password", &trap).await,
            Verdict::Wrong
        );
        for odd in ["", "plain", "$argon2id$", "$2b$", "$2b$99$x"] {
            assert_eq!(
                compared(&passwords, "a password", odd).await,
                Verdict::Wrong
            );
        }
    }

    #[test]
    fn the_list_of_common_passwords_is_sorted_and_in_lower_case() {
        assert!(COMMON.len() > 10_000, "{}", COMMON.len());
        assert!(COMMON.is_sorted());
        let is_found = |common: &&str| is_common(&common.to_uppercase());
        assert!(COMMON.iter().all(is_found));
    }

    #[test]
    fn new_passwords_are_checked() {
        let check = |password: &str| check_new(password, "password", 8, "ada@example.com");
        assert!(check("a fine one").is_ok());
        for password in [
            "short",
            "Password1",
            "TRUSTNO1",
            "mentor123",
            "ada@example.COM",
            "nul \0 inside",
            &"x".repeat(1_025),
        ] {
            assert!(check(password).is_err(), "{password}");
        }
    }
}
