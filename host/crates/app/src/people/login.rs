//! Logging in with a password.

use std::time::Duration;

use patchbay_api::people as api;
use patchbay_store::{NewLogin, SessionMethod, UserKey, UserRow};
use zeroize::Zeroizing;

use super::passwords::{MAX_BYTES, Verdict};
use super::tokens::refresh_token;
use super::{People, PeopleParts, Role, Visitor, address, forbidden, invalid_credentials, within};
use crate::error::Error;
use crate::limits::FailureClass;
use crate::login_meters::{LoginKind, LoginMethod};

/// Somebody mistypes; somebody else guesses.
pub(super) const OF_ONE_ACCOUNT: FailureClass = FailureClass {
    name: "login-account",
    what: "failed logins",
    free: 5,
    longest: Duration::from_secs(900),
    forgotten_after: Duration::from_secs(900),
};
/// One account is guessed at from many networks: then each of them that fails waits. Others never
/// wait for it, so the owner gets in from elsewhere.
pub(crate) const OF_ONE_ACCOUNT_FROM_ANYWHERE: FailureClass = FailureClass {
    name: "login-account-anywhere",
    what: "failed logins",
    free: 50,
    longest: GUESSING_WAIT,
    forgotten_after: Duration::from_secs(900),
};
pub(crate) const GUESSING_WAIT: Duration = Duration::from_secs(60);
/// Attempts under way count as failures until they are settled; these many never use up the free
/// ones.
pub(super) const AT_ONCE: usize = 4;
pub(crate) const AT_ONCE_OF_NETWORK: usize = 64;
/// Many accounts from one network, with a few passwords each.
pub(crate) const OF_ONE_NETWORK: FailureClass = FailureClass {
    name: "login-network",
    what: "failed logins from this network",
    free: 100,
    longest: Duration::from_secs(60),
    forgotten_after: Duration::from_secs(900),
};

impl People {
    /// Logs in with address and password.
    pub async fn log_in(&self, visitor: &Visitor, body: api::LogIn) -> Result<api::Issued, Error> {
        let parts = self.parts()?;
        let result = parts.steps.hold_refusals(parts.log_in(visitor, body)).await;
        parts
            .noticed
            .logins
            .count(LoginKind::User, LoginMethod::Password, &result);
        result
    }
}

impl PeopleParts {
    async fn log_in(&self, visitor: &Visitor, body: api::LogIn) -> Result<api::Issued, Error> {
        let parts = self;
        parts.admit(visitor).await?;
        let Some(typed) = body
            .email
            .as_deref()
            .map(str::trim)
            .filter(|email| !email.is_empty())
        else {
            return Err(Error::invalid("Email is required"));
        };
        let Some(password) = body.password.map(Zeroizing::new) else {
            return Err(Error::invalid("Password is required"));
        };
        // Accounts of the old backend may have addresses that nobody could sign up with now.
        let norm = address::norm(typed).unwrap_or_else(|| typed.to_lowercase());
        if typed.len() > 254 || typed.contains('\0') || password.len() > MAX_BYTES {
            return Err(invalid_credentials());
        }
        let table = parts.table().await?;
        let account = format!("{norm}\0{}", visitor.network);
        let network = visitor.network_that_tells_apart();
        let _turn_of_network = match network {
            Some(network) => Some(parts.networks.take(network).await?),
            None => None,
        };
        let _turn = parts.logins.take(&account).await?;
        parts
            .limits
            .wait_after_failures(&OF_ONE_ACCOUNT, &account)
            .await?;
        if let Some(network) = network {
            let limits = &parts.limits;
            limits.wait_after_failures(&OF_ONE_NETWORK, network).await?;
        }
        let key = UserKey::Email { typed, norm: &norm };
        let user = within(parts.store.find_user(table, key)).await?;
        let hash = user.as_ref().and_then(|user| user.password.clone());
        let guessed = user.as_ref().map(|user| user.id.clone());
        let verdict = parts.passwords.verify(password.clone(), hash).await?;
        let Some(user) = user.filter(|_| verdict != Verdict::Wrong) else {
            if let Some(id) = guessed {
                parts.noticed.logins.guessed(&id, &visitor.network);
            }
            parts.failed(&norm, &account).await?;
            if let Some(network) = network {
                parts.limits.failed(&OF_ONE_NETWORK, network).await?;
            }
            return Err(invalid_credentials());
        };
        parts.limits.forgive(&OF_ONE_ACCOUNT, &account).await?;
        if let Some(network) = network {
            parts.limits.passed(&OF_ONE_NETWORK, network).await?;
        }
        parts.refuse_login(visitor, &norm, &user).await?;
        let (refresh, token_hash) = refresh_token();
        let session = parts.new_session(visitor, SessionMethod::Password, token_hash);
        let opened = parts.store.open_session(table, &user, &session);
        let Some(user) = within(opened).await? else {
            return Err(invalid_credentials());
        };
        parts.note_login(visitor, &user, "login").await?;
        if verdict == Verdict::RightButOld {
            parts.upgrade(&user, password);
        }
        parts
            .issued("Login successful", &user, session.id, Some(refresh))
            .await
    }

    /// Counts a wrong password: of the account, and of the account from this network.
    async fn failed(&self, norm: &str, account_and_network: &str) -> Result<(), Error> {
        let limits = &self.limits;
        let anywhere = limits.failed(&OF_ONE_ACCOUNT_FROM_ANYWHERE, norm).await?;
        let at_least = match anywhere.is_zero() {
            true => Duration::ZERO,
            false => GUESSING_WAIT,
        };
        limits
            .failed_and_waits(&OF_ONE_ACCOUNT, account_and_network, at_least)
            .await?;
        Ok(())
    }

    /// Why an account may not log in though its password is right.
    async fn refuse_login(
        &self,
        visitor: &Visitor,
        norm: &str,
        user: &UserRow,
    ) -> Result<(), Error> {
        if user.is_blocked() {
            return Err(forbidden("blocked", "Account is blocked"));
        }
        if !user.is_verified {
            // A limit on codes must not hide the reason.
            self.send_signup_code(visitor, norm, user).await.ok();
            return Err(forbidden("not-verified", "Email not verified"));
        }
        self.refuse_platform(visitor, user)
    }

    pub(super) fn refuse_platform(&self, visitor: &Visitor, user: &UserRow) -> Result<(), Error> {
        let mut closed = self.config.platform_roles.iter();
        let closed = closed.find(|(platform, _)| platform == visitor.platform());
        let role = Role::parse(&user.role);
        match closed {
            Some((_, roles)) if !role.is_some_and(|role| roles.contains(&role)) => {
                Err(forbidden("forbidden", "Access denied"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the hash anew after the answer.
    fn upgrade(&self, user: &UserRow, password: Zeroizing<String>) {
        let Some(old) = user.password.clone() else {
            return;
        };
        let (store, passwords, id) = (self.store.clone(), self.passwords.clone(), user.id.clone());
        let Some(table) = self.table.get().cloned() else {
            return;
        };
        tokio::spawn(async move {
            let Ok(new) = passwords.hash(password).await else {
                return;
            };
            if let Err(error) = store.upgrade_hash(&table, &id, &old, &new).await {
                tracing::warn!(%error, "a password hash could not be made anew; the next login tries again");
            }
        });
    }

    /// Records a login or a logout. Returns the key of the entry.
    pub(super) async fn note_login(
        &self,
        visitor: &Visitor,
        user: &UserRow,
        action: &'static str,
    ) -> Result<String, Error> {
        let login = NewLogin {
            user_id: Some(&user.id),
            email: &user.email,
            action,
            address: visitor.address,
            user_agent: visitor.user_agent(),
            platform: visitor.trace.platform.as_deref(),
            correlation_id: visitor.trace.correlation_id.as_deref(),
        };
        Ok(within(self.store.note_login(&login)).await?)
    }
}
