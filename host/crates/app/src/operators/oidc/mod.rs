//! Single sign-on of operators by OpenID Connect: the provider says who somebody is, and groups say
//! what that person may do.
//!
//! A login belongs to the browser that began it. The browser holds a secret in a cookie; from it and
//! from the state, PKCE verifier and nonce are derived, so nothing that Postgres holds helps to
//! finish somebody's login. A person is linked to an operator by issuer and subject, never by an
//! address.

mod config;
mod discovered;
mod linking;
mod person;
mod provider;
mod return_to;
mod rights;
mod second_factor;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use patchbay_api::oidc as api;
use patchbay_store::{NewSignIn, OperatorMethod, OperatorRow, OperatorState};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use config::OidcConfig;
pub use discovered::is_protected;

use super::{OpenedSession, OperatorParts, Operators, Refused, new_secret};
use crate::Parts;
use crate::actions::Caller;
use crate::error::{Error, Kind};
use crate::login_meters::{LoginKind, LoginMethod};
use crate::operator::Credential;
use crate::people::tokens::token_hash;
use crate::people::{Visitor, forbidden, within};
use person::Person;
use provider::{Answered, Provider, ProviderError};
use rights::shown_list;
use second_factor::is_wrong_code;

/// How long somebody may take at the provider, and to type a code.
pub const LOGIN_LIFE: Duration = Duration::from_secs(600);
/// Longest state, code or cookie, in bytes.
const MAX_TEXT: usize = 8 << 10;
/// Longest error code that is repeated.
const MAX_ERROR: usize = 64;

/// Single sign-on; a host may have none.
#[derive(Clone)]
pub struct SingleSignOn(Option<Arc<SsoParts>>);

pub(crate) struct SsoParts {
    config: Arc<OidcConfig>,
    provider: Provider,
    operators: Arc<OperatorParts>,
}

/// A login that has begun.
pub struct BegunSignIn {
    /// Where the browser goes.
    pub address: String,
    /// For a cookie of this browser.
    pub browser: Zeroizing<String>,
}

/// Somebody who has come back from the provider.
pub struct Arrived {
    /// Path on this host.
    pub return_to: String,
    /// Absent when an operator has linked a person, and has a session already.
    pub session: Option<OpenedSession>,
}

impl SsoParts {
    pub(crate) fn new(config: OidcConfig, operators: &Arc<OperatorParts>) -> Self {
        let config = Arc::new(config);
        Self {
            provider: Provider::new(Arc::clone(&config)),
            operators: Arc::clone(operators),
            config,
        }
    }
}

impl SingleSignOn {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self(parts.sso.clone())
    }

    fn parts(&self) -> Result<&Arc<SsoParts>, Error> {
        self.0.as_ref().ok_or_else(|| {
            Error::not_found(
                "Single sign-on is off on this host. To change that, set operators.oidc.issuer",
            )
        })
    }

    /// Whether it is configured on this host.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a login.
    pub async fn start(
        &self,
        visitor: &Visitor,
        query: &api::OidcStartQuery,
    ) -> Result<BegunSignIn, Error> {
        let parts = self.parts()?;
        parts.operators.admit(visitor).await?;
        parts.begin(None, query.return_to.as_deref()).await
    }

    /// The provider has sent the browser back. `browser`: its cookie.
    pub async fn arrive(
        &self,
        visitor: &Visitor,
        browser: Option<&str>,
        answer: api::OidcAnswer,
    ) -> Result<Arrived, Error> {
        let parts = self.parts()?;
        parts.operators.admit(visitor).await?;
        let arrived = parts.arrive(visitor, browser, answer).await;
        parts.noted(visitor, arrived)
    }

    /// The code of the second factor, after the provider has said who it is.
    pub async fn type_code(
        &self,
        visitor: &Visitor,
        browser: Option<&str>,
        body: api::OidcTypedCode,
    ) -> Result<Arrived, Error> {
        let parts = self.parts()?;
        parts.operators.admit(visitor).await?;
        let Some(code) = body
            .totp
            .as_ref()
            .and_then(patchbay_api::operators::Digits::text)
        else {
            return Err(Error::invalid("totp: type the code of the authenticator"));
        };
        let arrived = parts.type_code(visitor, browser, &code).await;
        parts.noted(visitor, arrived)
    }

    /// Ends the session of this request. Returns where the browser goes: to the provider, if it is
    /// the provider that has said who this is, and offers a logout; else `/`.
    pub async fn log_out(&self, who: &Caller) -> Result<String, Error> {
        let parts = self.parts()?;
        let is_of_provider = match &who.operator.credential {
            Credential::Session(session) => {
                let asked = parts.operators.store.is_session_of_provider(*session);
                within(asked).await?
            }
            _ => false,
        };
        Operators(Arc::clone(&parts.operators)).log_out(who).await?;
        let discovered = match is_of_provider {
            true => parts.provider.discovered().await.ok(),
            false => None,
        };
        let Some(mut address) = discovered.and_then(|found| found.end_session()) else {
            return Ok("/".to_owned());
        };
        address
            .query_pairs_mut()
            .append_pair("client_id", &parts.config.client_id);
        Ok(address.into())
    }

    /// How single sign-on is configured, and to whom the caller is linked.
    pub async fn status(
        &self,
        who: &Caller,
        operators: &Operators,
    ) -> Result<api::OidcStatus, Error> {
        let identities = match who.operator.id {
            Some(id) => within(operators.0.store.operator_identities(id)).await?,
            None => Vec::new(),
        };
        Ok(api::OidcStatus {
            provider: self.0.as_ref().map(|parts| parts.shown()),
            identities: identities
                .into_iter()
                .map(|row| api::OidcIdentity {
                    issuer: row.issuer,
                    subject: row.subject,
                    email: row.email,
                    linked_at: row.created_at,
                })
                .collect(),
        })
    }

    /// What the provider offers now.
    pub async fn test(&self) -> Result<api::OidcTested, Error> {
        let parts = self.parts()?;
        let discovered = parts.provider.read_again().await.map_err(|error| {
            let message = format!(
                "{} does not answer as it should: {error}",
                parts.config.issuer
            );
            Error::new(Kind::Upstream, "provider-failed", message)
        })?;
        let facts = discovered.facts();
        let end_session = discovered.end_session().map(String::from);
        Ok(api::OidcTested {
            issuer: parts.config.issuer.clone(),
            redirect_uri: parts.config.redirect_uri(),
            authorization_endpoint: facts.authorization_endpoint,
            end_session_endpoint: end_session,
            keys: facts.keys,
            names_issuer: discovered.names_issuer(),
            problems: parts.config.problems(&facts.offers, facts.keys),
            algorithms: facts.algorithms,
            scopes: facts.offers.scopes,
            claims: facts.offers.claims,
        })
    }
}

impl SsoParts {
    /// `links`: an operator who links a person; that person must log in at the provider anew.
    async fn begin(
        &self,
        links: Option<Uuid>,
        return_to: Option<&str>,
    ) -> Result<BegunSignIn, Error> {
        let discovered = self.provider.discovered().await.map_err(failed)?;
        let ((browser, browser_hash), (state, state_hash)) = (new_secret(), new_secret());
        let address = self.provider.login_address(
            &discovered,
            state.to_string(),
            derived(&browser, NONCE, &state),
            derived(&browser, VERIFIER, &state),
            links.is_some(),
        );
        let address = address.map_err(failed)?.into();
        let new = NewSignIn {
            state_hash,
            browser_hash,
            links,
            return_to: &return_to::on_this_host(return_to),
            lasts: LOGIN_LIFE,
        };
        within(self.operators.store.begin_sign_in(&new)).await?;
        Ok(BegunSignIn { address, browser })
    }

    async fn arrive(
        &self,
        visitor: &Visitor,
        browser: Option<&str>,
        answer: api::OidcAnswer,
    ) -> Result<Arrived, Error> {
        let state = answer.state.filter(|state| state.len() <= MAX_TEXT);
        let browser = browser.filter(|browser| browser.len() <= MAX_TEXT);
        let Some((state, browser)) = state.zip(browser) else {
            return Err(unknown_login());
        };
        let (state_hash, browser_hash) = (token_hash(&state), token_hash(browser));
        let used = self.operators.store.use_sign_in(&state_hash, &browser_hash);
        let Some(login) = within(used).await? else {
            return Err(unknown_login());
        };
        self.refuse_other_issuer(answer.iss.as_deref()).await?;
        if let Some(error) = &answer.error {
            let is_code = error.len() <= MAX_ERROR
                && error
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let code = if is_code { error } else { "no reason" };
            return Err(not_signed_in(&format!(
                "The provider has signed nobody in ({code})"
            )));
        }
        let Some(code) = answer.code.filter(|code| code.len() <= MAX_TEXT) else {
            return Err(not_signed_in("The provider's answer has no code"));
        };
        let (nonce, verifier) = (
            derived(browser, NONCE, &state),
            derived(browser, VERIFIER, &state),
        );
        let logged_in_since = login.links.map(|_| login.began_at);
        let answered = Answered {
            code,
            verifier,
            nonce,
            logged_in_since,
        };
        let person = self.provider.person(answered, self.now());
        let person = person.await.map_err(failed)?;
        if let Some(operator) = login.links {
            self.link(visitor, operator, &person).await?;
            return Ok(Arrived {
                return_to: login.return_to,
                session: None,
            });
        }
        self.refuse_one_factor(&person)?;
        let row = self.operator_of(visitor, &person).await?;
        if row.state != OperatorState::Active {
            let message = format!(
                "{} is disabled. An owner can change that: patchbay operator enable {}",
                row.name, row.name
            );
            return Err(forbidden("forbidden", &message));
        }
        if self.needs_code() {
            return Err(self.ask_for_code(&state_hash, &row).await?);
        }
        let session = Some(self.open(visitor, &row).await?);
        Ok(Arrived {
            return_to: login.return_to,
            session,
        })
    }

    /// A provider that this host did not ask must not finish a login at the one that it did
    /// (RFC 9207).
    async fn refuse_other_issuer(&self, named: Option<&str>) -> Result<(), Error> {
        let is_other = match named {
            Some(named) => named != self.config.issuer,
            None => {
                let discovered = self.provider.discovered().await.map_err(failed)?;
                discovered.names_issuer()
            }
        };
        if is_other {
            return Err(not_signed_in(
                "The answer is not of the provider that was asked",
            ));
        }
        Ok(())
    }

    /// Where the provider must report a second factor, refuses a person of whom it reports none.
    fn refuse_one_factor(&self, person: &Person) -> Result<(), Error> {
        let required = &self.config.require_amr;
        if required.is_empty()
            || person
                .methods
                .iter()
                .any(|method| required.contains(method))
        {
            return Ok(());
        }
        let message = format!(
            "{} does not report that a second factor was used (amr: {}; one of {} is required). Set one up there, and sign in with it",
            self.config.label,
            shown_list(&person.methods),
            required.join(", ")
        );
        Err(forbidden("second-factor", &message))
    }

    async fn open(&self, visitor: &Visitor, row: &OperatorRow) -> Result<OpenedSession, Error> {
        let sessions = &self.operators.sessions;
        let opened = sessions.open(row, OperatorMethod::Oidc, visitor).await?;
        // Changed by an owner in this moment.
        opened.ok_or_else(unknown_login)
    }

    /// Counts a login by how it ended, and notes one that was refused.
    fn noted(&self, visitor: &Visitor, arrived: Result<Arrived, Error>) -> Result<Arrived, Error> {
        let asks = |error: &Error| {
            error.details.is_some() && error.code == "second-factor" && !is_wrong_code(error)
        };
        if arrived.as_ref().is_err_and(asks) {
            return arrived;
        }
        let meters = &self.operators.meters;
        meters.count(LoginKind::Operator, LoginMethod::Oidc, &arrived);
        let is_refused = |error: &Error| matches!(error.kind, Kind::Invalid | Kind::Forbidden);
        if arrived.as_ref().is_err_and(is_refused) {
            self.operators
                .refusals
                .note(Refused::login(visitor.address));
        }
        arrived
    }

    fn shown(&self) -> api::OidcProvider {
        let config = &self.config;
        let roles = config.roles.iter();
        api::OidcProvider {
            label: config.label.clone(),
            issuer: config.issuer.clone(),
            client_id: config.client_id.clone(),
            redirect_uri: config.redirect_uri(),
            groups_claim: config.groups_claim.clone(),
            roles: roles
                .map(|(group, role)| api::OidcGroupRole {
                    group: group.clone(),
                    role: *role,
                })
                .collect(),
            payload_groups: config.data_groups.clone(),
            require_amr: config.require_amr.clone(),
        }
    }

    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.operators.now_ms()).unwrap_or_default()
    }
}

const NONCE: &str = "nonce";
/// 43 characters of those that RFC 7636 allows.
const VERIFIER: &str = "verifier";

/// A secret of this login and this purpose.
fn derived(browser: &str, purpose: &str, state: &str) -> String {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(browser.as_bytes()).expect("HMAC takes any key");
    mac.update(format!("{purpose}\0{state}").as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// What the browser is told of the provider's failure; operators read the rest in the log.
fn failed(error: ProviderError) -> Error {
    match error {
        ProviderError::Away(reason) => {
            tracing::warn!(
                reason,
                "single sign-on failed: the provider does not answer as it should"
            );
            Error::new(
                Kind::Upstream,
                "provider-failed",
                "The provider of single sign-on does not answer as it should, so nobody can sign in with it now. Try again, or log in with name and \
                 password. An operator can find the reason with: patchbay operator oidc test",
            )
        }
        ProviderError::Refused(reason) => {
            tracing::warn!(reason, "single sign-on is refused");
            not_signed_in("The provider's answer is not valid")
        }
    }
}

fn not_signed_in(reason: &str) -> Error {
    let message = format!("{reason}. Nobody was signed in. Begin again: GET /api/admin/oidc/start");
    Error::new(Kind::Invalid, "sign-in-failed", message)
}

fn unknown_login() -> Error {
    not_signed_in(
        "This answer belongs to no login of this browser: it was used, it is older than 10 minutes, or it was begun elsewhere",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_depends_on_browser_state_and_purpose() {
        let verifier = derived("browser", VERIFIER, "state");
        assert_eq!(verifier.len(), 43);
        assert_eq!(verifier, derived("browser", VERIFIER, "state"));
        for other in [
            derived("other", VERIFIER, "state"),
            derived("browser", VERIFIER, "other"),
            derived("browser", NONCE, "state"),
        ] {
            assert_ne!(verifier, other);
        }
    }
}
