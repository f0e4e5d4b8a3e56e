//! Logging in with name, password and second factor; and logging out.

use patchbay_api::operators::{self as api, OperatorSessionEnd};
use patchbay_store::{OperatorKey, OperatorMethod, OperatorRow, TotpSalt};
use serde_json::json;
use zeroize::Zeroizing;

use super::enrolment::{RECOVERY, normal_code};
use super::refusals::Refused;
use super::{Credential, OpenedSession, OperatorParts, Operators, is_active};
use crate::actions::Caller;
use crate::error::{Error, Kind};
use crate::login_meters::{LoginKind, LoginMethod};
use crate::people::tokens::code_mac;
use crate::people::{AUTH_REQUESTS, Visitor, forbidden, unauthorized, within};

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
        let result = parts.log_in(visitor, body).await;
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
        let key = format!("{name}\0{}", visitor.network);
        let _turn = self.logins.take(&key).await?;
        self.attempts.begin(&key).await?;
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
            Some(row) => self.second_factor(row, code.as_deref(), recovery).await?,
            None => None,
        };
        let opened = match row.as_ref().zip(method) {
            Some((row, method)) => self.sessions.open(row, method, visitor).await?,
            None => None,
        };
        let Some((row, opened)) = row.zip(opened) else {
            self.attempts.failed(&key).await;
            self.refusals.note(Refused::login(visitor.address));
            return Err(wrong());
        };
        self.attempts.passed(&key).await;
        Ok((row, opened))
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
        code: Option<&str>,
        recovery: Option<Zeroizing<String>>,
    ) -> Result<Option<OperatorMethod>, Error> {
        let Some(salt) = &row.totp else {
            return match self.config.require_totp {
                false => Ok(Some(OperatorMethod::Password)),
                true => Err(forbidden(
                    "forbidden",
                    "This host asks for a second factor (operators.require_totp), and you have none. An owner can give you a link to set one: \
                     patchbay operator link NAME",
                )),
            };
        };
        // From any number of networks: whoever knows the password must not try every code. The answer
        // does not tell that the password was right.
        let key = format!("code\0{}", row.id);
        if self.attempts.begin(&key).await.is_err() {
            return Ok(None);
        }
        let method = self.shown(row, salt, code, recovery).await?;
        match method {
            Some(_) => self.attempts.passed(&key).await,
            None => self.attempts.failed(&key).await,
        }
        Ok(method)
    }

    async fn shown(
        &self,
        row: &OperatorRow,
        salt: &TotpSalt,
        code: Option<&str>,
        recovery: Option<Zeroizing<String>>,
    ) -> Result<Option<OperatorMethod>, Error> {
        if let Some(code) = code {
            let step = self.totp_step(salt, code).await?;
            let is_spent = match step {
                Some(step) => within(self.store.spend_operator_step(row.id, step)).await?,
                None => false,
            };
            return Ok(is_spent.then_some(OperatorMethod::Password));
        }
        let Some(recovery) = recovery.as_deref().and_then(|text| normal_code(text)) else {
            return Ok(None);
        };
        let mac = code_mac(&self.sealed, RECOVERY, &row.id.to_string(), &recovery).await?;
        let is_used = within(self.store.use_recovery_code(row.id, &mac)).await?;
        Ok(is_used.then_some(OperatorMethod::RecoveryCode))
    }
}

fn wrong() -> Error {
    unauthorized("invalid-credentials", "Name, password or code is wrong")
}
