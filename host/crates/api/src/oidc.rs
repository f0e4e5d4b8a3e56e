//! Single sign-on of operators by OpenID Connect.

use chrono::{DateTime, Utc};
use patchbay_model::operator::OperatorRole;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Response, ResponseBuilder, Schema};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Answer, Data, ErrorBody, Schemas, reference};
use crate::body::{Credentials, NoBody};
use crate::operation::NoQuery;
use crate::operations;
use crate::operators::Digits;

operations! {
    /// Begin single sign-on: sends the browser to the provider.
    OidcStart = "operator_oidc.start": GET "/api/admin/oidc/start" ((), OidcStartQuery, NoBody) -> Redirect,
        Anyone, Reads, errors [
            404 "`not-found`: single sign-on is off",
            502 "`provider-failed`: the provider does not answer as it should",
        ];
    /// Where the provider sends the browser back to. Signs in, and sends the browser on. A browser
    /// (`Accept: text/html`) gets errors as pages, and the page for the code of the second factor.
    OidcCallback = "operator_oidc.callback": GET "/api/admin/oidc/callback" ((), OidcAnswer, NoBody) -> Redirect,
        Anyone, Reads, errors [
            400 "`sign-in-failed`: the answer belongs to no login of this browser, or is not genuine",
            403 "`no-role`: no group of this person has a role here. `second-factor`: the code of the authenticator is missing \
                 (`details.totpSecret` for an authenticator that is not set up yet), or the provider does not report a second factor. \
                 `forbidden`: the operator is disabled",
            404 "`not-found`: single sign-on is off",
            409 "`conflict`: the last owner would lose the role, or the person is linked to another operator. `no-vault-key`: this host has no master key, \
                 which seals second factors",
            502 "`provider-failed`: the provider does not answer as it should",
        ];
    /// Type the code of the second factor that the callback has asked for, in the same browser.
    OidcCode = "operator_oidc.code": POST "/api/admin/oidc/code" ((), NoQuery, Credentials<OidcTypedCode>) -> Redirect,
        Anyone, Changes, audit "operator.login", errors [
            400 "`sign-in-failed`: no login of this browser waits for a code. `invalid-input`: there is no code",
            403 "`second-factor`: the code is wrong, or was used",
            404 "`not-found`: single sign-on is off",
            409 "`no-vault-key`: no configured master key opens the second factor",
        ];
    /// End the session of this request, and send the browser to the provider to log out there, too.
    OidcLogout = "operator_oidc.logout": POST "/api/admin/oidc/logout" ((), NoQuery, NoBody) -> Redirect,
        Viewer, Changes, audit "operator.logout", errors [404 "`not-found`: single sign-on is off", 409 "`conflict`: the request belongs to no session"];
    /// Show whether single sign-on is on, what groups give, and to whom the caller is linked.
    OidcStatusShow = "operator_oidc.status": GET "/api/admin/oidc" ((), NoQuery, NoBody) -> Data<OidcStatus>,
        Viewer, Reads, errors [];
    /// Ask the provider what it offers, and say what does not fit. Nobody is signed in.
    OidcTest = "operator_oidc.test": GET "/api/admin/oidc/test" ((), NoQuery, NoBody) -> Data<OidcTested>,
        Operator, Reads, errors [
            404 "`not-found`: single sign-on is off",
            502 "`provider-failed`: the provider does not answer as it should; the message says how",
        ];
    /// Begin to link the caller to a person at the provider, who must log in there anew. The answer
    /// says where the browser must go. Needs a session that began with a password within the last 10
    /// minutes.
    OidcLink = "operator_oidc.link": POST "/api/admin/oidc/link" ((), OidcStartQuery, NoBody) -> Data<OidcAddress>,
        Viewer, Changes, audit "operator.link-identity", errors [
            403 "`reauthenticate`: the session is too old. `forbidden`: the request belongs to no session",
            404 "`not-found`: single sign-on is off",
            409 "`conflict`: the operator comes from single sign-on",
            502 "`provider-failed`: the provider does not answer as it should",
        ];
    /// Unlink the caller from the provider: only name and password open a session then.
    OidcUnlink = "operator_oidc.unlink": DELETE "/api/admin/oidc/link" ((), NoQuery, NoBody) -> Data<OidcUnlinked>,
        Viewer, Changes, audit "operator.unlink-identity", errors [
            403 "`forbidden`: the request belongs to no operator",
            404 "`not-found`: the caller is linked to nobody",
            409 "`conflict`: the operator comes from single sign-on",
        ];
}

/// The browser is sent on, by `Location`.
#[derive(Debug)]
pub enum Redirect {}

impl Answer for Redirect {
    type Data = ();
    const STATUS: &'static str = "303";

    fn response(_schemas: &mut Schemas) -> Response {
        ResponseBuilder::new()
            .description("The browser is sent on, by the header `Location`")
            .build()
    }

    fn failure(_status: u16, schemas: &mut Schemas) -> Option<RefOr<Schema>> {
        Some(reference::<ErrorBody>(schemas))
    }
}

/// Where to go afterwards.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default)]
pub struct OidcStartQuery {
    /// Path on this host where the browser goes afterwards; absent, or anything else: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_to: Option<String>,
}

/// What the provider makes the browser bring.
#[derive(Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default)]
pub struct OidcAnswer {
    /// Which login it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// For the provider, who gives an ID token for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The provider (RFC 9207).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Why the provider signed nobody in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A code of the second factor.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct OidcTypedCode {
    /// As the authenticator shows it. Each is valid once.
    #[serde(default)]
    #[schema(required)]
    pub totp: Option<Digits>,
}

/// Whether single sign-on is on, and for whom.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcStatus {
    /// How it is configured; null: it is off.
    pub provider: Option<OidcProvider>,
    /// Persons at providers who are linked to the caller.
    pub identities: Vec<OidcIdentity>,
}

/// A configured provider.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcProvider {
    /// What people know it as.
    pub label: String,
    /// Its address, which also is its name.
    pub issuer: String,
    /// What it knows this host as.
    pub client_id: String,
    /// What must be registered there: where it sends browsers back to.
    pub redirect_uri: String,
    /// The claim of the ID token that holds the groups.
    pub groups_claim: String,
    /// What groups give.
    pub roles: Vec<OidcGroupRole>,
    /// Groups that may see data of jobs.
    pub payload_groups: Vec<String>,
    /// Methods of which the provider must report one. Empty: this host asks for its own second
    /// factor, unless `operators.require_totp` is false.
    pub require_amr: Vec<String>,
}

/// What a group gives.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OidcGroupRole {
    /// As the provider writes it.
    pub group: String,
    /// The role.
    pub role: OperatorRole,
}

/// A person at a provider.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcIdentity {
    /// The provider.
    pub issuer: String,
    /// The person's id there.
    pub subject: String,
    /// The person's address there, when it was linked.
    pub email: Option<String>,
    /// Since when.
    pub linked_at: DateTime<Utc>,
}

/// What the provider offers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcTested {
    /// Its address.
    pub issuer: String,
    /// What must be registered there: where it sends browsers back to.
    pub redirect_uri: String,
    /// Where it asks people to log in.
    pub authorization_endpoint: String,
    /// Where people log out; null: it offers none.
    pub end_session_endpoint: Option<String>,
    /// Keys that it publishes.
    pub keys: usize,
    /// Algorithms of ID tokens that it announces and this host accepts.
    pub algorithms: Vec<String>,
    /// Whether its answers name it (RFC 9207), which protects against a mix-up of providers.
    pub names_issuer: bool,
    /// Scopes that it announces; null: it announces none.
    pub scopes: Option<Vec<String>>,
    /// Claims that it announces; null: it announces none.
    pub claims: Option<Vec<String>>,
    /// What does not fit. Empty: nothing was found.
    pub problems: Vec<String>,
}

/// Where the browser must go.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OidcAddress {
    /// At the provider. Only the browser that asked can use it, for 10 minutes.
    pub address: String,
}

/// What was unlinked.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OidcUnlinked {
    /// How many persons at providers.
    pub count: u64,
}
