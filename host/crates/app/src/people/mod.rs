//! Accounts of API clients: signing up, logging in, sessions, passwords.
//!
//! The accounts are rows of the old backend's table, which is used as it is. Business rules belong
//! to plugins; here is only who somebody is. No answer and no time tells a stranger whether an
//! address has an account, unless the configuration says so.

mod address;
mod administration;
mod codes;
mod config;
mod google;
mod identity;
mod key_rotation;
mod keys;
pub(crate) mod login;
mod mails;
mod master;
pub(crate) mod passwords;
mod profile;
mod proposals;
mod recovery;
mod refresh;
mod signup;
pub(crate) mod tokens;
pub(crate) mod turns;
mod upkeep;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use patchbay_api::people as api;
use patchbay_model::job::Trace;
use patchbay_queue::Broker;
use patchbay_store::{NewSession, SessionMethod, Store, StoreError, UserRow, UsersTable};
use tokio::sync::{OnceCell, mpsc};
use uuid::Uuid;

pub use config::{
    ACCESS_LIFE, GoogleKeySource, GoogleLogin, HashCost, MasterLogin, PeopleConfig, REFRESH_LIFE,
    SIGNUP_CODE_LIFE,
};
pub use key_rotation::{key_rotation, key_service};
pub use keys::Keys;
pub use master::Emergency;
pub use master::totp_secret;
pub use passwords::{hash_for_configuration, is_strong_hash};
pub use patchbay_model::role::Role;
pub use proposals::Proposals;
pub use tokens::LEGACY_KID;
pub use upkeep::{mail_service, upkeep_service};

use crate::answer_steps::AnswerSteps;
use crate::error::{Error, Kind};
use crate::limits::{Class, Limits};
use crate::login_meters::LoginMeters;
use crate::sealed_keys::SealedKeys;
use crate::{Parts, actions};
use identity::Identities;
use passwords::Passwords;
use tokens::Tokens;
use turns::Turns;

/// Longest wait for Postgres in a request: its client is told within 2 s.
const POSTGRES_LIMIT: Duration = Duration::from_millis(1_700);
/// Longest text of a client's program that is kept.
const MAX_USER_AGENT: usize = 512;

/// A class behind one address may log in at once.
pub(crate) const AUTH_REQUESTS: Class = Class {
    name: "auth",
    what: "requests from this network",
    count: 300,
    window: Duration::from_secs(60),
};

/// Who sends a request, before anybody knows whose account it is about.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub address: Option<IpAddr>,
    /// The network of the address, which limits count by.
    pub network: String,
    /// The network is that of a proxy which nobody trusts: all its clients look alike, and one of
    /// them would use up what all of them may do.
    pub is_behind_unknown_proxy: bool,
    pub user_agent: Option<String>,
    /// Its platform is a known one.
    pub trace: Trace,
    /// A cookie that the browser got when it signed up.
    pub browser: Option<String>,
}

impl Visitor {
    /// The network, unless it is that of an unknown proxy.
    pub(crate) fn network_that_tells_apart(&self) -> Option<&str> {
        (!self.is_behind_unknown_proxy).then_some(&self.network)
    }

    fn platform(&self) -> &str {
        self.trace.platform.as_deref().unwrap_or_default()
    }

    pub(crate) fn user_agent(&self) -> Option<&str> {
        let text = self.user_agent.as_deref()?;
        Some(&text[..text.floor_char_boundary(MAX_USER_AGENT)])
    }
}

/// Whose request it is: an account and its session, as they are now.
#[derive(Debug, Clone)]
pub struct Principal {
    pub user: Arc<UserRow>,
    pub role: Option<Role>,
    /// Absent with a token of the old backend.
    pub session: Option<Uuid>,
    pub is_master: bool,
}

/// The accounts; a host may have none.
#[derive(Clone)]
pub struct People(Option<Arc<PeopleParts>>);

pub(crate) struct PeopleParts {
    store: Store,
    broker: Broker,
    config: PeopleConfig,
    passwords: Passwords,
    tokens: Tokens,
    /// For every answer that may depend on whether there is an account.
    steps: AnswerSteps,
    sealed: SealedKeys,
    limits: Limits,
    identities: Identities,
    refreshing: Turns,
    /// Logins of one account from one network.
    logins: Turns,
    /// Logins from one network.
    networks: Turns,
    google: google::GoogleKeys,
    table: OnceCell<UsersTable>,
    mails: tokio::sync::Notify,
    actions: actions::Actions,
    noticed: Noticed,
    /// Hashes of the old backend that are left; -1 before anybody has counted them.
    bcrypt_left: AtomicI64,
}

/// Where what happens at logins is told, beside the answer.
pub(crate) struct Noticed {
    pub(crate) logins: Arc<LoginMeters>,
    /// Uses of the emergency login, which alert at once.
    pub(crate) emergencies: mpsc::UnboundedSender<Emergency>,
}

impl People {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self(parts.people.clone())
    }

    /// Whether this host serves accounts.
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    fn parts(&self) -> Result<&Arc<PeopleParts>, Error> {
        self.0.as_ref().ok_or_else(accounts_off)
    }
}

impl PeopleParts {
    pub(crate) fn new(
        config: PeopleConfig,
        store: Store,
        broker: Broker,
        sealed: SealedKeys,
        limits: Limits,
        actions: actions::Actions,
        noticed: Noticed,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            passwords: Passwords::new(config.hash, config.node_verifies_passwords)?,
            tokens: Tokens::new(&config.jwt_secrets, sealed.clone())?,
            steps: AnswerSteps::new(config.answer_step),
            identities: Identities::default(),
            refreshing: Turns::new(1),
            logins: Turns::new(login::AT_ONCE),
            networks: Turns::new(login::AT_ONCE_OF_NETWORK),
            google: google::GoogleKeys::default(),
            table: OnceCell::new(),
            mails: tokio::sync::Notify::new(),
            sealed,
            limits,
            broker,
            store,
            config,
            actions,
            noticed,
            bcrypt_left: AtomicI64::new(-1),
        })
    }

    /// `schema.table` of the accounts.
    pub(crate) fn table_name(&self) -> Arc<str> {
        self.config.table.as_str().into()
    }

    /// Hashes of the old backend that are left, as of the last minute.
    pub(crate) fn bcrypt_left(&self) -> Option<i64> {
        let left = self.bcrypt_left.load(Ordering::Relaxed);
        (left >= 0).then_some(left)
    }

    /// The threads that compare passwords.
    pub(crate) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    async fn table(&self) -> Result<&UsersTable, Error> {
        let read = self.table.get_or_try_init(|| {
            let blocked = self.config.blocked_column.as_deref();
            within(self.store.users_table(&self.config.table, blocked))
        });
        Ok(read.await?)
    }

    fn now_ms(&self) -> i64 {
        self.broker.now_ms().cast_signed()
    }

    /// Every request about logging in counts by its network.
    async fn admit(&self, visitor: &Visitor) -> Result<(), Error> {
        self.take_of_network(&AUTH_REQUESTS, visitor).await
    }

    /// Counts a request by its network, where that tells clients apart.
    async fn take_of_network(&self, class: &Class, visitor: &Visitor) -> Result<(), Error> {
        if let Some(network) = visitor.network_that_tells_apart() {
            self.limits.take(class, network).await?;
        }
        Ok(())
    }

    /// What a new session is made of, with its first refresh token.
    fn new_session<'a>(
        &self,
        visitor: &'a Visitor,
        method: SessionMethod,
        refresh: [u8; 32],
    ) -> NewSession<'a> {
        NewSession {
            id: Uuid::now_v7(),
            platform: visitor.platform(),
            method,
            address: visitor.address,
            user_agent: visitor.user_agent(),
            lasts: self.config.session,
            refresh: Some((refresh, REFRESH_LIFE)),
        }
    }

    /// The answer of a login.
    async fn issued(
        &self,
        message: &str,
        user: &UserRow,
        session: Uuid,
        refresh: Option<String>,
    ) -> Result<api::Issued, Error> {
        let is_master = refresh.is_none();
        let token = self
            .tokens
            .sign(user, session, is_master, self.now_ms())
            .await?;
        Ok(api::Issued {
            success: true,
            message: message.to_owned(),
            token,
            refresh_token: refresh,
            expires_in: ACCESS_LIFE.as_secs(),
            user: api::UserSummary {
                id: user.id.clone(),
                email: user.email.clone(),
                name: user.full_name.clone(),
                image: user.profile_photo.clone(),
            },
        })
    }
}

/// Waits for Postgres no longer than a client does.
pub(crate) async fn within<T>(
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(POSTGRES_LIMIT, asked).await {
        Ok(answered) => answered,
        Err(_) => Err(StoreError::no_answer()),
    }
}

pub(crate) fn accounts_off() -> Error {
    let message = "This host serves no accounts. To change that, set people.enabled to true";
    Error::new(Kind::NotFound, "accounts-off", message)
}

pub(crate) fn unauthorized(code: &'static str, message: &str) -> Error {
    Error::new(Kind::Unauthorized, code, message)
}

fn invalid_token() -> Error {
    unauthorized("invalid-token", "Invalid token")
}

fn invalid_credentials() -> Error {
    unauthorized("invalid-credentials", "Invalid credentials")
}

pub(crate) fn forbidden(code: &'static str, message: &str) -> Error {
    Error::new(Kind::Forbidden, code, message)
}

fn plain(message: &str) -> api::Plain {
    api::Plain {
        success: true,
        message: message.to_owned(),
    }
}
