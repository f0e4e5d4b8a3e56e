//! The emergency login into any account: a password and a one-time password of the installation,
//! off by default.

use std::time::Duration;

use patchbay_api::people as api;
use patchbay_store::{NewSession, SessionMethod, UserKey};
use totp_rs::{Builder, Secret, Totp};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::config::{ACCESS_LIFE, MasterLogin};
use super::passwords::{MAX_BYTES, Verdict};
use super::{People, PeopleParts, Visitor, address, forbidden, invalid_credentials, mails, within};
use crate::error::{Error, Kind};
use crate::limits::FailureClass;
use crate::login_meters::{LoginKind, LoginMethod};

const FAILURES: FailureClass = FailureClass {
    name: "master-login",
    what: "failed emergency logins from this network",
    free: 3,
    longest: Duration::from_secs(900),
    forgotten_after: Duration::from_secs(3_600),
};

/// A use of the emergency login, or a try that failed.
#[derive(Debug, Clone)]
pub struct Emergency {
    /// Key of its entry in the trail `login_logs`.
    pub key: String,
    /// Id of the account; absent where it failed.
    pub account: Option<String>,
    /// Of the client.
    pub address: Option<String>,
    pub is_failure: bool,
}

impl People {
    /// Logs in to another's account for 15 minutes. Every use and every failure is recorded and
    /// alerts; the owner of the account is told.
    pub async fn master_login(
        &self,
        visitor: &Visitor,
        body: api::MasterLogIn,
    ) -> Result<api::Issued, Error> {
        let parts = self.parts()?;
        let Some(master) = &parts.config.master else {
            let message = "The emergency login is off. To change that, set people.master_password_hash and people.master_totp_secret";
            return Err(Error::new(Kind::NotFound, "not-found", message));
        };
        let work = parts.master_login(master, visitor, body);
        let result = parts.steps.hold_refusals(work).await;
        parts
            .noticed
            .logins
            .count(LoginKind::User, LoginMethod::Master, &result);
        result
    }
}

impl PeopleParts {
    async fn master_login(
        &self,
        master: &MasterLogin,
        visitor: &Visitor,
        body: api::MasterLogIn,
    ) -> Result<api::Issued, Error> {
        let parts = self;
        parts.admit(visitor).await?;
        let (typed, norm) = address::required(body.email.as_deref())?;
        let (Some(password), Some(otp)) = (
            body.master_password.map(Zeroizing::new),
            body.totp.as_ref().and_then(api::Digits::text),
        ) else {
            return Err(Error::invalid("masterPassword and totp are required"));
        };
        let is_near = |address| {
            let mut networks = master.networks.iter();
            master.networks.is_empty() || networks.any(|network| network.contains(&address))
        };
        parts
            .limits
            .wait_after_failures(&FAILURES, &visitor.network)
            .await?;
        if !visitor.address.is_some_and(is_near) {
            parts.limits.failed(&FAILURES, &visitor.network).await?;
            parts.note_master_failure(visitor, &norm).await?;
            return Err(invalid_credentials());
        }
        // Both are always looked at, and the code is spent even if the password is wrong.
        let hash = Some(master.password_hash.to_string());
        let is_short = password.len() <= MAX_BYTES;
        let verdict = parts.passwords.verify(password, hash).await?;
        let is_right = is_short && verdict != Verdict::Wrong;
        let is_fresh = parts.spend_master_code(master, &otp).await?;
        let table = parts.table().await?;
        let key = UserKey::Email { typed, norm: &norm };
        let user = within(parts.store.find_user(table, key)).await?;
        let Some(user) = user.filter(|_| is_right && is_fresh) else {
            parts.limits.failed(&FAILURES, &visitor.network).await?;
            parts.note_master_failure(visitor, &norm).await?;
            return Err(invalid_credentials());
        };
        parts.limits.forgive(&FAILURES, &visitor.network).await?;
        if user.is_blocked() {
            return Err(forbidden("blocked", "Account is blocked"));
        }
        let session = NewSession {
            id: Uuid::now_v7(),
            platform: visitor.platform(),
            method: SessionMethod::Master,
            address: visitor.address,
            user_agent: visitor.user_agent(),
            lasts: ACCESS_LIFE,
            refresh: None,
        };
        within(parts.store.open_session_of(&user, &session)).await?;
        let key = parts.note_login(visitor, &user, "master_login").await?;
        parts.alert(Emergency {
            key,
            account: Some(user.id.clone()),
            address: visitor.address.map(|address| address.to_string()),
            is_failure: false,
        });
        parts
            .send(&mails::master_login(visitor, &user.email))
            .await?;
        tracing::warn!(user = user.id, "the emergency login was used");
        parts
            .issued("Login successful", &user, session.id, None)
            .await
    }

    /// Whether the code is right and was not used before, on any host.
    async fn spend_master_code(&self, master: &MasterLogin, typed: &str) -> Result<bool, Error> {
        let Some(totp) = totp(master) else {
            return Ok(false);
        };
        let now = u64::try_from(self.now_ms() / 1_000).unwrap_or_default();
        match totp.check(typed, now) {
            Some(step) => Ok(within(self.store.spend_master_step(step.cast_signed())).await?),
            None => Ok(false),
        }
    }

    async fn note_master_failure(&self, visitor: &Visitor, norm: &str) -> Result<(), Error> {
        tracing::warn!("an emergency login failed");
        let failed = patchbay_store::NewLogin {
            user_id: None,
            email: norm,
            action: "master_login_failed",
            address: visitor.address,
            user_agent: visitor.user_agent(),
            platform: visitor.trace.platform.as_deref(),
            correlation_id: visitor.trace.correlation_id.as_deref(),
        };
        let key = within(self.store.note_login(&failed)).await?;
        self.alert(Emergency {
            key,
            account: None,
            address: visitor.address.map(|address| address.to_string()),
            is_failure: true,
        });
        Ok(())
    }

    fn alert(&self, emergency: Emergency) {
        // Nobody listens while the host stops; the entry is there.
        self.noticed.emergencies.send(emergency).ok();
    }
}

fn totp(master: &MasterLogin) -> Option<Totp> {
    let builder = Builder::new().with_secret(master.totp_secret.to_vec());
    builder
        .build()
        .inspect_err(|error| tracing::error!(%error, "people.master_totp_secret cannot be used"))
        .ok()
}

/// Reads the secret of a one-time password: base32, of at least 20 bytes (RFC 4226).
pub fn totp_secret(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let plain: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '=')
        .collect();
    let secret = Secret::try_from_base32(plain.to_ascii_uppercase()).ok()?;
    (secret.len() >= 20).then(|| secret.to_vec().into())
}
