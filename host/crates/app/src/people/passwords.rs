//! Hashes of passwords: argon2id for new ones; those of the old backend (bcrypt) are still
//! compared.
//!
//! Every comparison costs the same, whether or not there is an account, and whatever made its hash,
//! so that time tells nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::config::HashCost;
use crate::Error;
use crate::error::Kind;

/// Longest password, in bytes.
pub(super) const MAX_BYTES: usize = 1_024;
/// What the old backend hashed: bcrypt never saw more.
const BCRYPT_BYTES: usize = 72;
/// As the old backend's next hashes; and of its dummy, as its present ones.
const BCRYPT_COST: u32 = 12;
const BCRYPT_DUMMY_COST: u32 = 10;
/// Requests that may wait for a thread.
const MAX_WAITING: usize = 500;
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A stored hash may ask for this much more than ours. One that asks for more is not computed: its
/// row could be a trap.
const MAX_TIMES_OUR_COST: u32 = 4;

/// Passwords that are tried first.
const COMMON: &[&str] = &[
    "00000000",
    "11111111",
    "12121212",
    "123123123",
    "12341234",
    "12345678",
    "123456789",
    "1234567890",
    "123456789a",
    "1234qwer",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "1qaz2wsx",
    "55555555",
    "66666666",
    "77777777",
    "87654321",
    "88888888",
    "987654321",
    "99999999",
    "aa123456",
    "aaaaaaaa",
    "abc12345",
    "abcd1234",
    "abcdefgh",
    "access14",
    "adminadmin",
    "administrator",
    "alexander",
    "asdf1234",
    "asdfasdf",
    "asdfghjk",
    "asdfghjkl",
    "barcelona",
    "baseball",
    "basketball",
    "batman123",
    "blink182",
    "butterfly",
    "changeme",
    "charlie1",
    "chocolate",
    "computer",
    "corvette",
    "danielle",
    "destiny1",
    "dragon123",
    "elephant",
    "engineer",
    "explorer",
    "facebook",
    "fishing1",
    "football",
    "football1",
    "forever1",
    "freedom1",
    "garfield",
    "hello123",
    "helloworld",
    "hello1234",
    "iloveyou",
    "iloveyou1",
    "internet",
    "jennifer",
    "jessica1",
    "jonathan",
    "jordan23",
    "letmein1",
    "letmein123",
    "liverpool",
    "logitech",
    "lovely123",
    "master123",
    "maverick",
    "mercedes",
    "michael1",
    "michelle",
    "midnight",
    "midnight1",
    "monkey123",
    "newpassword",
    "nicholas",
    "p@ssw0rd",
    "p@ssword",
    "pa55word",
    "passw0rd",
    "password",
    "password!",
    "password1",
    "password12",
    "password123",
    "password1234",
    "patricia",
    "pokemon1",
    "princess",
    "princess1",
    "q1w2e3r4",
    "qazwsx123",
    "qazwsxedc",
    "qwer1234",
    "qwerasdf",
    "qwerty12",
    "qwerty123",
    "qwertyui",
    "qwertyuiop",
    "rockstar",
    "samantha",
    "secret123",
    "security",
    "shadow123",
    "slipknot",
    "snickers",
    "something",
    "spiderman",
    "starwars",
    "steelers",
    "sunshine",
    "sunshine1",
    "superman",
    "superman1",
    "swordfish",
    "test1234",
    "testtest",
    "thomas123",
    "trustno1",
    "victoria",
    "vladimir",
    "welcome1",
    "welcome123",
    "whatever",
    "william1",
    "winston1",
    "zaq12wsx",
    "zxcvbnm1",
    "zxcvbnm123",
    "passwort",
    "passwort1",
    "password0",
    "india123",
    "krishna1",
    "mumbai123",
    "bangalore",
    "student1",
    "student123",
    "teacher1",
    "mentor123",
];

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Wrong,
    Right,
    /// Right, and the hash should be made anew.
    RightButOld,
}

#[derive(Clone)]
pub(super) struct Passwords(Arc<Inner>);

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
}

impl Passwords {
    /// Computes one hash, to know how long it takes here.
    pub(super) fn new(cost: HashCost, makes_bcrypt: bool) -> anyhow::Result<Self> {
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
        })))
    }

    /// Whether any account still has a hash of the old backend. While one has, every comparison
    /// also costs one of those.
    pub(super) fn set_has_bcrypt(&self, has: bool) {
        self.0.has_bcrypt.store(has, Ordering::Relaxed);
    }

    pub(super) async fn hash(&self, password: Zeroizing<String>) -> Result<String, Error> {
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

    /// Compares a password with a hash; without one, does the same work.
    pub(super) async fn verify(
        &self,
        password: Zeroizing<String>,
        hash: Option<String>,
    ) -> Result<Verdict, Error> {
        self.on_a_thread(move |inner| inner.compare(&password, hash.as_deref()))
            .await
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
            let done = work(&inner);
            drop(permit);
            done
        });
        done.await.map_err(|_| Error::internal())
    }
}

fn busy() -> Error {
    Error::new(
        Kind::Unavailable,
        "unavailable",
        "Too many logins wait to be checked; try again",
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

/// Refuses a new password that is too short, too long, common, or the address itself.
pub(super) fn check_new(
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
    } else if COMMON.contains(&password.to_lowercase().as_str()) {
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
    fn new_passwords_are_checked() {
        let check = |password: &str| check_new(password, "password", 8, "ada@example.com");
        assert!(check("a fine one").is_ok());
        for password in [
            "short",
            "Password1",
            "ada@example.COM",
            "nul \0 inside",
            &"x".repeat(1_025),
        ] {
            assert!(check(password).is_err(), "{password}");
        }
    }
}
