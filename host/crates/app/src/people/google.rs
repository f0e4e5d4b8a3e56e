//! Logging in with Google: an ID token that is checked against configured keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use patchbay_api::people as api;
use patchbay_store::{SessionMethod, UserKey, UserRow};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{GoogleKeySource, GoogleLogin};
use super::tokens::refresh_token;
use super::{People, PeopleParts, Role, Visitor, address, forbidden, within};
use crate::error::{Error, Kind};
use crate::login_meters::{LoginKind, LoginMethod};

const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];
/// Addresses of this domain are Google's own.
const OWN_DOMAIN: &str = "gmail.com";
const MAX_TOKEN: usize = 8 << 10;
const LEEWAY_S: i64 = 5;
const FETCH_LIMIT: Duration = Duration::from_secs(5);
const MAX_KEYS_BYTES: usize = 1 << 20;
const KEYS_LAST: Duration = Duration::from_secs(3_600);
/// An unknown `kid` makes the keys be read again, at most so often.
const REREAD_AFTER: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    email: Option<String>,
    #[serde(default)]
    email_verified: Flag,
    hd: Option<String>,
    name: Option<String>,
    picture: Option<String>,
    exp: i64,
    iat: i64,
}

/// A boolean, which some libraries send as a text.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Flag {
    #[default]
    Absent,
    Is(bool),
    Text(String),
}

impl Flag {
    fn is_true(&self) -> bool {
        match self {
            Self::Is(flag) => *flag,
            Self::Text(text) => text == "true",
            Self::Absent => false,
        }
    }
}

/// The keys that this process has read.
#[derive(Default)]
pub(super) struct GoogleKeys {
    known: Mutex<Option<(Arc<JwkSet>, Instant)>>,
    reading: tokio::sync::Mutex<()>,
}

impl People {
    /// Logs in with an ID token of Google; a new address becomes an account.
    pub async fn google(
        &self,
        visitor: &Visitor,
        body: api::GoogleLogIn,
    ) -> Result<api::Issued, Error> {
        let parts = self.parts()?;
        let Some(google) = &parts.config.google else {
            let message = "Login with Google is off. To change that, set people.google_client_ids and people.google_keys_url";
            return Err(Error::new(Kind::NotFound, "not-found", message));
        };
        let result = parts.google(google, visitor, body).await;
        parts
            .noticed
            .logins
            .count(LoginKind::User, LoginMethod::Google, &result);
        result
    }
}

impl PeopleParts {
    async fn google(
        &self,
        google: &GoogleLogin,
        visitor: &Visitor,
        body: api::GoogleLogIn,
    ) -> Result<api::Issued, Error> {
        let parts = self;
        parts.admit(visitor).await?;
        let token = body.id_token.as_deref().unwrap_or_default();
        if token.is_empty() {
            return Err(Error::invalid("idToken is required"));
        }
        let claims = parts.google_claims(google, token).await?;
        let user = parts.google_account(visitor, &claims).await?;
        if user.is_blocked() {
            return Err(forbidden("blocked", "Account is blocked"));
        }
        parts.refuse_platform(visitor, &user)?;
        let (refresh, hash) = refresh_token();
        let session = parts.new_session(visitor, SessionMethod::Google, hash);
        within(parts.store.open_session_of(&user, &session)).await?;
        parts.user_changed(&user.id);
        parts.note_login(visitor, &user, "login").await?;
        parts
            .issued(
                "Google sign-in successful",
                &user,
                session.id,
                Some(refresh),
            )
            .await
    }

    async fn google_claims(&self, google: &GoogleLogin, token: &str) -> Result<Claims, Error> {
        if token.len() > MAX_TOKEN {
            return Err(failed());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| failed())?;
        // Never a key of the token's own choice, nor a secret as a public key.
        if header.alg != Algorithm::RS256 || header.crit.is_some() {
            return Err(failed());
        }
        let kid = header.kid.ok_or_else(failed)?;
        let mut keys = self.google_keys(google, KEYS_LAST).await?;
        if keys.find(&kid).is_none() {
            keys = self.google_keys(google, REREAD_AFTER).await?;
        }
        let key = keys.find(&kid).ok_or_else(failed)?;
        let key = DecodingKey::from_jwk(key).map_err(|_| failed())?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let decoded = jsonwebtoken::decode::<Claims>(token, &key, &validation);
        let claims = decoded.map_err(|_| failed())?.claims;
        let now = self.now_ms() / 1_000;
        let is_good = ISSUERS.contains(&claims.iss.as_str())
            && google.client_ids.contains(&claims.aud)
            && claims.exp.saturating_add(LEEWAY_S) >= now
            && claims.iat <= now + LEEWAY_S
            && !claims.sub.is_empty()
            && claims.sub.len() <= 255
            && claims.email_verified.is_true();
        if is_good { Ok(claims) } else { Err(failed()) }
    }

    /// The account of these claims, which is made if there is none.
    async fn google_account(&self, visitor: &Visitor, claims: &Claims) -> Result<UserRow, Error> {
        let table = self.table().await?;
        let by_sub = self.store.find_user(table, UserKey::Google(&claims.sub));
        if let Some(user) = within(by_sub).await? {
            return Ok(user);
        }
        let norm = claims.email.as_deref().and_then(address::norm);
        let norm = norm.ok_or_else(failed)?;
        let key = UserKey::Email {
            typed: &norm,
            norm: &norm,
        };
        let Some(user) = within(self.store.find_user(table, key)).await? else {
            return self.new_google_account(visitor, claims, &norm).await;
        };
        // Google vouches for an address only where it hands it out. Somebody else could have a
        // Google account with another's address.
        let domain = norm.rsplit_once('@').map_or("", |(_, domain)| domain);
        let is_googles = domain == OWN_DOMAIN
            || claims
                .hd
                .as_deref()
                .is_some_and(|hd| hd.eq_ignore_ascii_case(domain));
        let is_powerful = matches!(Role::parse(&user.role), Some(Role::Admin | Role::Finance));
        if !is_googles || is_powerful || user.google_sub.is_some() {
            return Err(failed());
        }
        let linked = self.store.link_google(table, &user, &norm, &claims.sub);
        within(linked).await?.ok_or_else(failed)
    }

    async fn new_google_account(
        &self,
        visitor: &Visitor,
        claims: &Claims,
        norm: &str,
    ) -> Result<UserRow, Error> {
        let table = self.table().await?;
        let mut values: Map<String, Value> = Map::new();
        values.insert("role".into(), table.spelling("role", "user").into());
        values.insert("stage".into(), table.stage(2).into());
        values.insert("isVerified".into(), "true".into());
        values.insert("isProfileComplete".into(), "false".into());
        values.insert("googleId".into(), claims.sub.as_str().into());
        let short = |text: &String| {
            text.chars()
                .filter(|c| *c != '\0')
                .take(255)
                .collect::<String>()
        };
        let picture = claims
            .picture
            .as_ref()
            .filter(|picture| picture.len() <= 2_048 && picture.starts_with("https://"));
        for (column, text) in [
            ("fullName", claims.name.as_ref().map(short)),
            ("profilePhoto", picture.cloned()),
            (
                "ipAddress",
                visitor.address.map(|address| address.to_string()),
            ),
            ("userAgent", visitor.user_agent().map(str::to_owned)),
        ] {
            if let Some(text) = text {
                values.insert(column.into(), text.into());
            }
        }
        let made = self
            .store
            .sign_up_with_google(table, norm, &claims.sub, &values);
        within(made).await?.ok_or_else(failed)
    }

    async fn google_keys(
        &self,
        google: &GoogleLogin,
        newer_than: Duration,
    ) -> Result<Arc<JwkSet>, Error> {
        let fresh = || {
            let known = self.google.known.lock();
            let known = known.as_ref().filter(|(_, at)| at.elapsed() < newer_than);
            known.map(|(keys, _)| Arc::clone(keys))
        };
        if let Some(keys) = fresh() {
            return Ok(keys);
        }
        let _one_at_a_time = self.google.reading.lock().await;
        if let Some(keys) = fresh() {
            return Ok(keys);
        }
        match read_keys(&google.keys).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *self.google.known.lock() = Some((Arc::clone(&keys), Instant::now()));
                Ok(keys)
            }
            Err(error) => {
                tracing::warn!(%error, "the keys of people.google_keys_url or people.google_keys_file cannot be read");
                // Those of before still serve.
                let known = self
                    .google
                    .known
                    .lock()
                    .as_ref()
                    .map(|(keys, _)| Arc::clone(keys));
                known.ok_or_else(|| {
                    Error::unavailable("Google's keys cannot be read now; try again")
                })
            }
        }
    }
}

async fn read_keys(source: &GoogleKeySource) -> anyhow::Result<JwkSet> {
    let bytes = match source {
        GoogleKeySource::File(path) => tokio::fs::read(path).await?,
        GoogleKeySource::Url(url) => {
            let client = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(FETCH_LIMIT)
                .build()?;
            let mut answer = client.get(url).send().await?.error_for_status()?;
            let mut bytes = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                bytes.extend_from_slice(&chunk);
                anyhow::ensure!(
                    bytes.len() <= MAX_KEYS_BYTES,
                    "the answer is larger than 1 MiB"
                );
            }
            bytes
        }
    };
    Ok(serde_json::from_slice(&bytes)?)
}

fn failed() -> Error {
    Error::invalid("Google sign-in failed")
}
