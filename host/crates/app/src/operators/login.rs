//! Logging in with name, password and second factor; and logging out.

use patchbay_api::operators::{self as api, OperatorSessionEnd};
use patchbay_store::{OperatorKey, OperatorMethod, OperatorRow};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use zeroize::Zeroizing;

use super::enrolment::{RECOVERY, normal_code};
use super::refusals::Refused;
use super::{Credential, OpenedSession, OperatorParts, Operators, is_active};
use crate::actions::Caller;
use crate::error::{Error, Kind};
use crate::login_meters::{LoginKind, LoginMethod};
use crate::people::tokens::code_mac;
use crate::people::{AUTH_REQUESTS, Visitor, unauthorized, within};

/// Attempts under way count as failures until they are settled; these many never use up the free
/// ones.
pub(super) const AT_ONCE: usize = 4;
/// Longest name, in bytes.
const MAX_NAME: usize = 64;

impl Operators {
    /// Opens a session for name, password and the code of the second factor, or a recovery code in
    /// its place. Every refusal looks the same.
    pub async fn log_in(
        &self,
        visitor: &Visitor,
        body: api::OperatorLogIn,
    ) -> Result<(OperatorRow, OpenedSession), Error> {
        let parts = &*self.0;
        let result = parts.steps.hold_refusals(parts.log_in(visitor, body)).await;
        parts
            .meters
            .count(LoginKind::Operator, LoginMethod::Password, &result);
        result
    }

    /// Ends the session of this request.
    pub async fn log_out(&self, who: &Caller) -> Result<api::LoggedOut, Error> {
        let acting = &who.operator;
        let (Credential::Session(session), Some(operator)) = (&acting.credential, acting.id) else {
            return Err(Error::new(
                Kind::Conflict,
                "conflict",
                "This request belongs to no session, so there is none to end. A token is revoked with: patchbay token revoke",
            ));
        };
        let parts = &*self.0;
        let act = async {
            within(parts.store.end_operator_session(operator, *session)).await?;
            parts.changed(operator);
            Ok(api::LoggedOut {
                name: acting.name.to_string(),
            })
        };
        let details = json!({ "session": session });
        parts
            .actions
            .record::<OperatorSessionEnd, _>(who, &acting.name, details, act)
            .await
    }
}

impl OperatorParts {
    async fn log_in(
        &self,
        visitor: &Visitor,
        body: api::OperatorLogIn,
    ) -> Result<(OperatorRow, OpenedSession), Error> {
        self.admit(visitor).await?;
        let (Some(name), Some(password)) = (body.name, body.password.map(Zeroizing::new)) else {
            return Err(Error::invalid("name and password are required"));
        };
        let name = name.trim().to_lowercase();
        let code = body.totp.as_ref().and_then(api::Digits::text);
        let recovery = body.recovery_code.map(Zeroizing::new);
        let _turns = self.turns(&name, visitor).await?;
        let attempt = self.attempts.begin_login(&name, visitor).await?;
        let is_name = name.len() <= MAX_NAME && !name.contains('\0');
        let row = match is_name {
            true => within(self.store.find_operator(OperatorKey::Name(&name))).await?,
            false => None,
        };
        let hash = row.as_ref().and_then(|row| row.password_hash.clone());
        let has_hash = hash.is_some();
        let is_right = self.is_right(password, hash).await? && has_hash;
        let row = row.filter(|row| is_right && is_active(row));
        let method = match &row {
            Some(row) => {
                self.second_factor(row, visitor, code.as_deref(), recovery)
                    .await?
            }
            None => None,
        };
        let opened = match row.as_ref().zip(method) {
            Some((row, method)) => self.sessions.open(row, method, visitor).await?,
            None => None,
        };
        let Some((row, opened)) = row.zip(opened) else {
            self.attempts.login_failed(&attempt).await;
            self.refusals.note(Refused::login(visitor.address));
            return Err(self.wrong());
        };
        self.attempts.login_passed(&attempt).await;
        Ok((row, opened))
    }

    /// Waits until few enough logins of this network and of this name are under way: many at once must
    /// not keep others from having theirs compared.
    pub(super) async fn turns(
        &self,
        name: &str,
        visitor: &Visitor,
    ) -> Result<[Option<OwnedSemaphorePermit>; 2], Error> {
        let of_network = match visitor.network_that_tells_apart() {
            Some(network) => Some(self.networks.take(network).await?),
            None => None,
        };
        let key = format!("{name}\0{}", visitor.network);
        let of_name = self.logins.take(&key).await?;
        Ok([of_network, Some(of_name)])
    }

    /// Every request about logging in counts by its network; without Redis, none does.
    pub(super) async fn admit(&self, visitor: &Visitor) -> Result<(), Error> {
        if let Some(network) = visitor.network_that_tells_apart() {
            self.limits
                .take_if_possible(&AUTH_REQUESTS, network)
                .await?;
        }
        Ok(())
    }

    /// How the second factor was shown; `None`: it was not. A code is spent, for all hosts.
    async fn second_factor(
        &self,
        row: &OperatorRow,
        visitor: &Visitor,
        code: Option<&str>,
        recovery: Option<Zeroizing<String>>,
    ) -> Result<Option<OperatorMethod>, Error> {
        let Some(salt) = &row.totp else {
            if self.config.require_totp {
                // The answer is that of a wrong password, or it would confirm the right one.
                tracing::warn!(
                    operator = row.name,
                    "an operator has the right password but no second factor, which operators.require_totp asks for; \
                     an owner can give a link to set one: patchbay operator link NAME"
                );
                return Ok(None);
            }
            return Ok(Some(OperatorMethod::Password));
        };
        let Some(code) = code else {
            // Nobody guesses a recovery code, so it gets in also while others guess at codes. Neither is
            // a guess: whoever knows the password must not lock its owner out.
            return self.by_recovery_code(row, recovery).await;
        };
        let Ok(tried) = self.begin_code(row, visitor).await else {
            // The answer does not tell that the password was right.
            return Ok(None);
        };
        let is_right = match self.totp_step(salt, code).await? {
            Some(step) => within(self.store.spend_operator_step(row.id, step)).await?,
            None => false,
        };
        self.code_tried(tried, is_right).await;
        Ok(is_right.then_some(OperatorMethod::Password))
    }

    /// To be called before a code of the second factor is compared. Tries from all networks count
    /// together: whoever knows the password must not try every code from one network after another. A
    /// network that the operator has logged in from counts only by itself (see
    /// [`Attempts::begin_login`](super::attempts::Attempts::begin_login)), so nobody else keeps the
    /// operator out there.
    pub(super) async fn begin_code(
        &self,
        row: &OperatorRow,
        visitor: &Visitor,
    ) -> Result<Option<String>, Error> {
        let is_known = match visitor.network.parse() {
            Ok(network) => within(self.store.knows_operator_network(row.id, network)).await?,
            Err(_) => false,
        };
        if is_known {
            return Ok(None);
        }
        let key = format!("code\0{}", row.id);
        self.attempts.begin(&key).await?;
        Ok(Some(key))
    }

    /// Settles what [`begin_code`](Self::begin_code) has begun.
    pub(super) async fn code_tried(&self, tried: Option<String>, is_right: bool) {
        match (tried, is_right) {
            (Some(key), true) => self.attempts.passed(&key).await,
            (Some(key), false) => self.attempts.failed(&key).await,
            (None, _) => {}
        }
    }

    async fn by_recovery_code(
        &self,
        row: &OperatorRow,
        recovery: Option<Zeroizing<String>>,
    ) -> Result<Option<OperatorMethod>, Error> {
        let Some(recovery) = recovery.as_deref().and_then(|text| normal_code(text)) else {
            return Ok(None);
        };
        let mac = code_mac(&self.sealed, RECOVERY, &row.id.to_string(), &recovery).await?;
        let is_used = within(self.store.use_recovery_code(row.id, &mac)).await?;
        Ok(is_used.then_some(OperatorMethod::RecoveryCode))
    }

    /// The same for every reason.
    fn wrong(&self) -> Error {
        let message = match self.config.require_totp {
            true => {
                "Name, password or code is wrong. If you have no second factor yet, an owner can give you a link to set one: patchbay operator link \
                 NAME"
            }
            false => "Name, password or code is wrong",
        };
        unauthorized("invalid-credentials", message)
    }
}
