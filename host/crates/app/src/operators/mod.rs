//! Operators as people: logging in, sessions, second factors, tokens of programs, and what owners do
//! with operators.
//!
//! Every right is read from Postgres, or from what this process remembers of it while it hears of
//! changes; so a change acts on the next request, on every host.

mod administration;
mod attempts;
mod basic;
mod config;
mod enrolment;
mod identity;
mod login;
pub mod oidc;
mod recover;
mod refusals;
mod sessions;
mod tokens;
mod totp;
mod upkeep;

use std::sync::Arc;

use patchbay_queue::Broker;
use patchbay_store::{OperatorKey, OperatorRow, OperatorState, Store};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

pub use config::OperatorsConfig;
pub use patchbay_model::operator::OperatorRole;
pub use patchbay_store::BasicMode;
pub use recover::{Recovered, recover};
pub use refusals::Refused;
pub use sessions::{OpenedSession, Sessions};
pub use upkeep::upkeep_service;

pub use crate::operator::{Credential, Operator};

use crate::actions::Actions;
use crate::answer_steps::AnswerSteps;
use crate::error::Error;
use crate::limits::Limits;
use crate::login_meters::LoginMeters;
use crate::people::passwords::{MAX_BYTES, Passwords, Verdict};
use crate::people::turns::Turns;
use crate::people::within;
use crate::sealed_keys::SealedKeys;
use crate::{Parts, people};
use attempts::Attempts;
use basic::Basic;
use identity::Identities;
use refusals::Refusals;

/// The operators.
#[derive(Clone)]
pub struct Operators(pub(crate) Arc<OperatorParts>);

pub(crate) struct OperatorParts {
    store: Store,
    broker: Broker,
    config: OperatorsConfig,
    steps: AnswerSteps,
    sealed: SealedKeys,
    limits: Limits,
    attempts: Attempts,
    /// Logins of one operator from one network.
    logins: Turns,
    /// Logins from one network.
    networks: Turns,
    /// Made at the first login, where no accounts have them: computing the first hash takes time.
    passwords: OnceCell<Passwords>,
    sessions: Sessions,
    identities: Identities,
    basic: Basic,
    refusals: Refusals,
    actions: Actions,
    meters: Arc<LoginMeters>,
}

/// What operators share with the rest of the application.
pub(crate) struct Shared<'a> {
    pub(crate) store: &'a Store,
    pub(crate) broker: &'a Broker,
    pub(crate) sealed: SealedKeys,
    pub(crate) limits: &'a Limits,
    pub(crate) actions: &'a Actions,
    pub(crate) meters: &'a Arc<LoginMeters>,
    /// Those of the accounts, where this host serves any.
    pub(crate) passwords: Option<&'a Passwords>,
}

impl Operators {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self(Arc::clone(&parts.operators))
    }

    /// Opens sessions, for logins of another kind.
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }
}

impl OperatorParts {
    pub(crate) fn new(config: OperatorsConfig, shared: Shared<'_>) -> Self {
        let Shared {
            store,
            broker,
            sealed,
            limits,
            actions,
            meters,
            passwords,
        } = shared;
        Self {
            sessions: Sessions::new(store.clone(), config.session, config.session_idle),
            attempts: Attempts::new(limits.clone()),
            logins: Turns::new(login::AT_ONCE),
            networks: Turns::new(people::login::AT_ONCE_OF_NETWORK),
            passwords: OnceCell::new_with(passwords.cloned()),
            identities: Identities::default(),
            basic: Basic::new(store.clone()),
            refusals: Refusals::new(store.clone()),
            store: store.clone(),
            broker: broker.clone(),
            limits: limits.clone(),
            actions: actions.clone(),
            meters: Arc::clone(meters),
            sealed,
            steps: AnswerSteps::new(config.answer_step),
            config,
        }
    }

    async fn passwords(&self) -> Result<&Passwords, Error> {
        let cost = self.config.hash;
        let made = self.passwords.get_or_try_init(|| async move {
            let made = tokio::task::spawn_blocking(move || Passwords::new(cost, false)).await;
            let passwords = made.map_err(|_| Error::internal())?.map_err(|error| {
                tracing::error!(%error, "passwords of operators cannot be hashed");
                Error::internal()
            })?;
            passwords.set_has_bcrypt(false);
            Ok::<_, Error>(passwords)
        });
        made.await
    }

    /// Compares a password; without a hash, does the same work.
    async fn is_right(
        &self,
        password: Zeroizing<String>,
        hash: Option<String>,
    ) -> Result<bool, Error> {
        let is_short = password.len() <= MAX_BYTES;
        let verdict = self.passwords().await?.verify(password, hash).await?;
        Ok(is_short && verdict != Verdict::Wrong)
    }

    fn now_ms(&self) -> i64 {
        self.broker.now_ms().cast_signed()
    }

    async fn named(&self, name: &str) -> Result<OperatorRow, Error> {
        let found = within(self.store.find_operator(OperatorKey::Name(name))).await?;
        found.ok_or_else(|| {
            Error::not_found("There is no such operator. List them: patchbay operator list")
        })
    }
}

/// A random text of 32 bytes in base64url, and its hash. A slow hash would add nothing.
fn new_secret() -> (Zeroizing<String>, [u8; 32]) {
    use base64::Engine;
    let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
    let text = Zeroizing::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*bytes));
    let hash = people::tokens::token_hash(&text);
    (text, hash)
}

fn is_active(row: &OperatorRow) -> bool {
    row.state == OperatorState::Active
}
