//! Access tokens: JWT, HS256, 15 minutes; and the keys that sign them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use patchbay_store::{IdentityChange, StoreError};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::POSTGRES_LIMIT;
use super::config::ACCESS_LIFE;
use crate::Error;
use crate::sealed_keys::SealedKeys;

/// Longest token, in bytes.
const MAX_BYTES: usize = 8 << 10;
/// Between clocks of hosts.
const LEEWAY_S: i64 = 5;
const TYPE: &str = "at+jwt";
const ISSUER: &str = "patchbay";
const AUDIENCE: &str = "api";
/// A key's purpose in `sealed_keys`.
pub(super) const PURPOSE: &str = "jwt";
const CODES_PURPOSE: &str = "codes";
/// Keys are read again after this time; sooner while changes are not heard. When a token names one
/// that is unknown, they are read before it is refused.
const REREAD_AFTER: Duration = Duration::from_secs(30);
const REREAD_UNHEARD_AFTER: Duration = Duration::from_secs(1);
/// Between two reads, whatever tokens name.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// The `kid` of the old backend's only secret: its tokens name none.
pub const LEGACY_KID: &str = "legacy";

/// What a token says. `id`, `email` and `role` are for clients to show; nothing is decided on them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    pub(super) iss: String,
    #[serde(default)]
    pub(super) aud: String,
    #[serde(default)]
    pub(super) sub: String,
    pub(super) id: String,
    #[serde(default)]
    pub(super) email: String,
    #[serde(default)]
    pub(super) role: String,
    /// The session; absent in the old backend's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sid: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) act: Option<String>,
    pub(super) iat: i64,
    pub(super) exp: i64,
    #[serde(default)]
    pub(super) jti: String,
}

/// Who a genuine token speaks of.
#[derive(Debug, Clone)]
pub(super) struct Bearer {
    pub(super) user_id: String,
    pub(super) session: Option<Uuid>,
}

struct Key {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    signs_from_ms: i64,
    verifies_until_ms: Option<i64>,
}

/// The keys of this process.
pub(super) struct Tokens {
    keys: ArcSwap<Vec<Key>>,
    /// Keys come from the configuration, and never change.
    is_configured: bool,
    sealed: SealedKeys,
    reads: Mutex<Reads>,
    reading: tokio::sync::Mutex<()>,
    hears: AtomicBool,
    /// Counts changes of the keys that this process was told of.
    changes: watch::Sender<u64>,
}

/// When the keys were read.
#[derive(Default)]
struct Reads {
    /// When the last read began that came to an end.
    began: Option<Instant>,
    /// Something has changed since then.
    is_stale: bool,
    /// When the last read began, whatever came of it.
    tried: Option<Instant>,
}

impl Reads {
    fn was_read(&self, is_recent: impl Fn(Instant) -> bool) -> bool {
        !self.is_stale && self.began.is_some_and(is_recent)
    }
}

impl Tokens {
    pub(super) fn new(
        configured: &[(String, Zeroizing<String>)],
        sealed: SealedKeys,
    ) -> anyhow::Result<Self> {
        let keys = configured
            .iter()
            .map(|(kid, secret)| key(kid.clone(), secret.as_bytes(), 0, None))
            .collect::<anyhow::Result<Vec<Key>>>()?;
        Ok(Self {
            is_configured: !keys.is_empty(),
            keys: ArcSwap::from_pointee(keys),
            sealed,
            reads: Mutex::default(),
            reading: tokio::sync::Mutex::new(()),
            hears: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        })
    }

    /// Keys come from the configuration.
    pub(super) fn is_configured(&self) -> bool {
        self.is_configured
    }

    /// Of every key that this process knows.
    pub(super) fn kids(&self) -> Vec<String> {
        self.keys.load().iter().map(|key| key.kid.clone()).collect()
    }

    pub(super) fn watch_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn set_hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
        self.keys_changed();
    }

    pub(super) fn changed(&self, change: &IdentityChange) {
        match change {
            IdentityChange::HostKeys(purpose) if purpose == PURPOSE => self.keys_changed(),
            IdentityChange::All => self.keys_changed(),
            _ => {}
        }
    }

    /// This process has changed them itself, or was told.
    pub(super) fn keys_changed(&self) {
        let mut reads = self.reads.lock();
        reads.is_stale = true;
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Signs a token, and returns it with its life.
    pub(super) async fn sign(
        &self,
        user: &patchbay_store::UserRow,
        session: Uuid,
        is_master: bool,
        now_ms: i64,
    ) -> Result<String, Error> {
        self.keep_fresh().await?;
        let keys = self.keys.load();
        // The youngest that signs by now.
        let signing = keys.iter().find(|key| key.signs_from_ms <= now_ms);
        let Some(signing) = signing.or(keys.last()) else {
            return Err(Error::internal());
        };
        let now = now_ms / 1_000;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id.clone(),
            id: user.id.clone(),
            email: user.email.clone(),
            role: user.role.clone(),
            sid: Some(session),
            act: is_master.then(|| "master".to_owned()),
            iat: now,
            exp: now + ACCESS_LIFE.as_secs().cast_signed(),
            jti: Uuid::new_v4().to_string(),
        };
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(signing.kid.clone());
        jsonwebtoken::encode(&header, &claims, &signing.encoding).map_err(|error| {
            tracing::error!(%error, "a token could not be signed");
            Error::internal()
        })
    }

    /// Checks everything that the token itself says. `None`: it is not one of ours, or has ended.
    pub(super) async fn check(
        &self,
        token: &str,
        now_ms: i64,
        even_expired: bool,
    ) -> Result<Option<Bearer>, Error> {
        if token.len() > MAX_BYTES {
            return Ok(None);
        }
        // The algorithm is compared before a key is looked up; the library's own checks of time use
        // the machine's clock, which may jump.
        let Ok(header) = jsonwebtoken::decode_header(token) else {
            return Ok(None);
        };
        if header.alg != Algorithm::HS256 || header.crit.is_some() {
            return Ok(None);
        }
        let kid = header.kid.as_deref().unwrap_or(LEGACY_KID);
        let arrived = Instant::now();
        self.keep_fresh().await?;
        if !self.knows(kid) {
            self.read_unless(|began| began >= arrived).await?;
        }
        let keys = self.keys.load();
        let Some(key) = keys.iter().find(|key| key.kid == kid) else {
            return Ok(None);
        };
        if key.verifies_until_ms.is_some_and(|until| until <= now_ms) {
            return Ok(None);
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let Ok(decoded) = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation) else {
            return Ok(None);
        };
        let claims = decoded.claims;
        let now = now_ms / 1_000;
        let is_expired = claims.exp.saturating_add(LEEWAY_S) < now;
        let has_sane_times = claims.iat <= now + LEEWAY_S
            && claims.exp > claims.iat
            && claims.exp.saturating_sub(claims.iat) <= ACCESS_LIFE.as_secs().cast_signed();
        let is_ours = header.kid.is_some()
            && header.typ.as_deref() == Some(TYPE)
            && claims.iss == ISSUER
            && claims.aud == AUDIENCE
            && claims.sub == claims.id
            && claims.sid.is_some();
        // The old backend's tokens say who they are for and nothing more.
        let is_legacy = kid == LEGACY_KID && header.kid.is_none() && claims.sid.is_none();
        if !has_sane_times || !(is_ours || is_legacy) || (is_expired && !even_expired) {
            return Ok(None);
        }
        Ok(Some(Bearer {
            user_id: claims.id,
            session: claims.sid,
        }))
    }

    fn knows(&self, kid: &str) -> bool {
        self.keys.load().iter().any(|key| key.kid == kid)
    }

    /// Reads the keys where that is due. While Postgres is away, those of before serve, unless a
    /// change may have been missed.
    async fn keep_fresh(&self) -> Result<(), Error> {
        let hears = self.hears.load(Ordering::Acquire);
        let longest = match hears {
            true => REREAD_AFTER,
            false => REREAD_UNHEARD_AFTER,
        };
        match self.read_unless(|began| began.elapsed() < longest).await {
            Err(error) if hears && !self.keys.load().is_empty() => {
                tracing::warn!(
                    error = error.message,
                    "the keys of access tokens could not be read again"
                );
                Ok(())
            }
            ended => ended,
        }
    }

    /// Reads the keys, unless the last read was recent enough; requests that come together share
    /// one.
    pub(super) async fn read_unless(
        &self,
        is_recent: impl Fn(Instant) -> bool,
    ) -> Result<(), Error> {
        if self.is_configured || self.reads.lock().was_read(&is_recent) {
            return Ok(());
        }
        let read = async {
            let _one_at_a_time = self.reading.lock().await;
            if self.reads.lock().was_read(&is_recent) {
                return Ok(());
            }
            let last = self.reads.lock().tried;
            if let Some(last) = last {
                tokio::time::sleep_until((last + LEAST_PAUSE).into()).await;
            }
            self.read().await
        };
        match tokio::time::timeout(POSTGRES_LIMIT, read).await {
            Ok(read) => read,
            Err(_) => Err(StoreError::no_answer().into()),
        }
    }

    async fn read(&self) -> Result<(), Error> {
        let (began, changes) = (Instant::now(), *self.changes.borrow());
        self.reads.lock().tried = Some(began);
        self.read_from_postgres().await?;
        let mut reads = self.reads.lock();
        reads.began = Some(began);
        reads.is_stale = *self.changes.borrow() != changes;
        Ok(())
    }

    async fn read_from_postgres(&self) -> Result<(), Error> {
        let mut opened = self.sealed.all(PURPOSE).await?;
        if opened.is_empty() {
            self.sealed.get_or_create(PURPOSE).await?;
            opened = self.sealed.all(PURPOSE).await?;
        }
        let keys = opened.into_iter().map(|opened| {
            let until = opened.verifies_until.map(|at| at.timestamp_millis());
            key(
                opened.kid,
                &*opened.key,
                opened.signs_from.timestamp_millis(),
                until,
            )
        });
        let keys = keys
            .collect::<anyhow::Result<Vec<Key>>>()
            .map_err(|error| {
                tracing::error!(%error, "the keys of access tokens cannot be used");
                Error::internal()
            })?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

fn key(
    kid: String,
    secret: &[u8],
    signs_from_ms: i64,
    verifies_until_ms: Option<i64>,
) -> anyhow::Result<Key> {
    Ok(Key {
        kid,
        encoding: EncodingKey::from_secret(secret)?,
        decoding: DecodingKey::from_secret(secret)?,
        signs_from_ms,
        verifies_until_ms,
    })
}

/// A new refresh token and its hash.
pub(super) fn refresh_token() -> (String, [u8; 32]) {
    let token = Uuid::new_v4().to_string();
    let hash = token_hash(&token);
    (token, hash)
}

/// Of a token with 122 random bits: a slow hash would add nothing.
pub(crate) fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Six digits.
pub(super) fn code() -> Zeroizing<String> {
    format!("{:06}", rand::rng().random_range(0..1_000_000)).into()
}

/// What is stored of a code: a dump of the table must not tell it, though there are only a million.
pub(crate) async fn code_mac(
    sealed: &SealedKeys,
    purpose: &str,
    email_norm: &str,
    code: &str,
) -> Result<[u8; 32], Error> {
    let key = sealed.get_or_create(CODES_PURPOSE).await?;
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&*key.key).expect("HMAC takes any key");
    mac.update(format!("{purpose}\0{email_norm}\0{code}").as_bytes());
    Ok(mac.finalize().into_bytes().into())
}
