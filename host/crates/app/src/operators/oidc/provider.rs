//! The provider, over HTTP: its discovery, and what it says of a person.
//!
//! Everything that comes from it is checked before it is believed: the issuer, the keys and
//! algorithms of the discovery, and the whole ID token. None of its tokens is kept.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreClientAuthMethod,
    CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AuthType, AuthorizationCode, ClaimsVerificationError, Client, ClientId,
    ClientSecret, CsrfToken, EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet,
    HttpRequest, HttpResponse, IdToken, IdTokenFields, IdTokenVerifier, IssuerUrl, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope,
    SignatureVerificationError, StandardErrorResponse, StandardTokenResponse, TokenResponse,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::config::OidcConfig;
use super::discovered::{Discovered, Metadata, is_believed, is_protected};
use super::person::{self, Person};

/// For all that one request of a browser waits for, so that it is answered within 5 s.
const LIMIT: Duration = Duration::from_millis(4_500);
const LONGEST_ANSWER: usize = 1 << 20;
/// Discovery and keys are read again after this time.
const LAST: Duration = Duration::from_secs(3_600);
/// An unknown key makes them be read again, at most so often.
const REREAD_AFTER: Duration = Duration::from_secs(60);
/// An ID token is used at once, so an older one was kept by somebody.
const OLDEST_TOKEN: TimeDelta = TimeDelta::minutes(10);
/// Between the clocks of the provider and of this host.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);
const LONGEST_SUBJECT: usize = 255;

/// The claims that OpenID Connect does not define, such as groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OtherClaims {
    #[serde(flatten)]
    all: Map<String, Value>,
}

impl AdditionalClaims for OtherClaims {}

type Tokens = StandardTokenResponse<
    IdTokenFields<
        OtherClaims,
        EmptyExtraTokenFields,
        CoreGenderClaim,
        CoreJweContentEncryptionAlgorithm,
        CoreJwsSigningAlgorithm,
    >,
    CoreTokenType,
>;

type IdTokenOfPerson = IdToken<
    OtherClaims,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

type OidcClient = Client<
    OtherClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    Tokens,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Why the provider was of no use. The texts are for operators.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProviderError {
    /// It did not answer as it should.
    #[error("{0}")]
    Away(String),
    /// It does not accept what the browser brought, or what it says cannot be believed.
    #[error("{0}")]
    Refused(String),
}

/// What the browser has brought back, and what must come with it.
pub(super) struct Answered {
    pub(super) code: String,
    pub(super) verifier: String,
    pub(super) nonce: String,
    /// The person must have logged in at the provider since then. A provider that does not announce the
    /// claim `auth_time` cannot show that.
    pub(super) logged_in_since: Option<DateTime<Utc>>,
}

/// What an ID token must fit.
struct Expected {
    nonce: Nonce,
    logged_in_since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("The answer is larger than 1 MiB")]
    TooLarge,
}

pub(super) struct Provider {
    config: Arc<OidcConfig>,
    http: OnceLock<reqwest::Client>,
    known: Mutex<Option<Arc<Discovered>>>,
    reading: tokio::sync::Mutex<()>,
}

impl Provider {
    pub(super) fn new(config: Arc<OidcConfig>) -> Self {
        Self {
            config,
            http: OnceLock::new(),
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// What the provider says of itself; read at most an hour ago.
    pub(super) async fn discovered(&self) -> Result<Arc<Discovered>, ProviderError> {
        in_time(self.newer_than(LAST)).await
    }

    /// Reads it again.
    pub(super) async fn read_again(&self) -> Result<Arc<Discovered>, ProviderError> {
        in_time(self.newer_than(Duration::ZERO)).await
    }

    /// Where the browser goes to log in.
    pub(super) fn login_address(
        &self,
        discovered: &Discovered,
        state: String,
        nonce: String,
        verifier: String,
        asks_again: bool,
    ) -> Result<Url, ProviderError> {
        let client = self.client(discovered)?;
        let verifier = PkceCodeVerifier::new(verifier);
        let mut request = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .add_scopes(self.config.scopes.iter().cloned().map(Scope::new));
        if asks_again {
            request = request
                .add_prompt(CoreAuthPrompt::Login)
                .set_max_age(Duration::ZERO);
        }
        Ok(request.url().0)
    }

    /// Exchanges the code for an ID token, checks it, and returns whom it names.
    pub(super) async fn person(
        &self,
        answered: Answered,
        now: DateTime<Utc>,
    ) -> Result<Person, ProviderError> {
        let Answered {
            code,
            verifier,
            nonce,
            logged_in_since,
        } = answered;
        in_time(async {
            let discovered = self.newer_than(LAST).await?;
            let token = self.exchange(&discovered, code, verifier).await?;
            let expected = Expected {
                nonce: Nonce::new(nonce),
                logged_in_since,
                now,
            };
            match self.checked(&discovered, &token, &expected) {
                Err(Unbelievable::UnknownKey) => {
                    // The provider may have changed its keys.
                    let discovered = self.newer_than(REREAD_AFTER).await?;
                    self.checked(&discovered, &token, &expected)
                }
                checked => checked,
            }
            .map_err(|reason| {
                ProviderError::Refused(format!("The ID token is not valid: {reason}"))
            })
        })
        .await
    }

    async fn newer_than(&self, age: Duration) -> Result<Arc<Discovered>, ProviderError> {
        let fresh = || {
            let known = self.known.lock();
            known
                .as_ref()
                .filter(|known| known.read_at.elapsed() < age)
                .map(Arc::clone)
        };
        if let Some(known) = fresh() {
            return Ok(known);
        }
        let _one_at_a_time = self.reading.lock().await;
        if let Some(known) = fresh() {
            return Ok(known);
        }
        let read = Arc::new(self.read().await?);
        *self.known.lock() = Some(Arc::clone(&read));
        Ok(read)
    }

    async fn read(&self) -> Result<Discovered, ProviderError> {
        let issuer = IssuerUrl::new(self.config.issuer.clone())
            .map_err(|_| ProviderError::Away("operators.oidc.issuer is not a URL".to_owned()))?;
        let http = self.http()?;
        let send = |request| send(http.clone(), request);
        let metadata = Metadata::discover_async(issuer, &send).await;
        let metadata = metadata.map_err(|error| ProviderError::Away(chain(&error)))?;
        let algorithms: Vec<CoreJwsSigningAlgorithm> = metadata
            .id_token_signing_alg_values_supported()
            .iter()
            .filter(|algorithm| is_believed(algorithm))
            .cloned()
            .collect();
        if algorithms.is_empty() {
            return Err(ProviderError::Away(
                "The provider signs ID tokens with no algorithm that this host accepts".to_owned(),
            ));
        }
        if metadata.token_endpoint().is_none() {
            return Err(ProviderError::Away(
                "The discovery document names no token endpoint".to_owned(),
            ));
        }
        let discovered = Discovered {
            metadata,
            algorithms,
            read_at: Instant::now(),
        };
        let unprotected = discovered.endpoints().find(|url| !is_protected(url));
        match unprotected {
            Some(url) => Err(ProviderError::Away(format!(
                "The discovery document names an address without HTTPS: {url}"
            ))),
            None => Ok(discovered),
        }
    }

    fn http(&self) -> Result<&reqwest::Client, ProviderError> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let made = reqwest::Client::builder()
            // The address that an answer points to is nobody's that was configured.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(LIMIT)
            .build()
            .map_err(|error| ProviderError::Away(chain(&error)))?;
        Ok(self.http.get_or_init(|| made))
    }

    fn client(&self, discovered: &Discovered) -> Result<OidcClient, ProviderError> {
        let config = &self.config;
        let redirect = RedirectUrl::new(config.redirect_uri())
            .map_err(|_| ProviderError::Away("http.public_url is not a URL".to_owned()))?;
        let secret = config.client_secret.as_ref();
        let client = OidcClient::from_provider_metadata(
            discovered.metadata.clone(),
            ClientId::new(config.client_id.clone()),
            secret.map(|secret| ClientSecret::new(secret.to_string())),
        );
        let methods = discovered.metadata.token_endpoint_auth_methods_supported();
        let has = |method| methods.is_some_and(|methods| methods.contains(&method));
        let in_body = has(CoreClientAuthMethod::ClientSecretPost)
            && !has(CoreClientAuthMethod::ClientSecretBasic);
        let client = match in_body {
            true => client.set_auth_type(AuthType::RequestBody),
            false => client,
        };
        Ok(client.set_redirect_uri(redirect))
    }

    async fn exchange(
        &self,
        discovered: &Discovered,
        code: String,
        verifier: String,
    ) -> Result<IdTokenOfPerson, ProviderError> {
        let client = self.client(discovered)?;
        let http = self.http()?;
        let send = |request| send(http.clone(), request);
        let request = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| ProviderError::Away(error.to_string()))?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier));
        let answered: Result<Tokens, _> = request.request_async(&send).await;
        let tokens = answered.map_err(|error| match error {
            RequestTokenError::ServerResponse(answer) => match answer.error() {
                CoreErrorResponseType::InvalidGrant => ProviderError::Refused(
                    "The provider does not accept the code of this login".to_owned(),
                ),
                other => ProviderError::Away(format!(
                    "The provider refused this host at its token endpoint: {}",
                    other.as_ref()
                )),
            },
            error => ProviderError::Away(chain(&error)),
        })?;
        tokens
            .id_token()
            .cloned()
            .ok_or_else(|| ProviderError::Away("The provider sent no ID token".to_owned()))
    }

    /// Checks an ID token as OpenID Connect Core 1.0, 3.1.3.7, says.
    fn checked(
        &self,
        discovered: &Discovered,
        token: &IdTokenOfPerson,
        expected: &Expected,
    ) -> Result<Person, Unbelievable> {
        let Expected {
            nonce,
            logged_in_since,
            now,
        } = expected;
        let (now, logged_in_since) = (*now, *logged_in_since);
        let reports_auth_time = discovered.reports_auth_time();
        // As if there were no client secret: a token that is signed with it is never genuine here.
        let verifier = IdTokenVerifier::new_public_client(
            ClientId::new(self.config.client_id.clone()),
            discovered.metadata.issuer().clone(),
            discovered.metadata.jwks().clone(),
        )
        .set_allowed_algs(discovered.algorithms.iter().cloned())
        .set_time_fn(move || now - LEEWAY)
        .set_issue_time_verifier_fn(move |issued| {
            let is_near = issued >= now - OLDEST_TOKEN && issued <= now + LEEWAY;
            is_near
                .then_some(())
                .ok_or_else(|| "it was not issued just now".to_owned())
        })
        .set_auth_time_verifier_fn(move |logged_in| {
            let is_new = match (logged_in_since, logged_in) {
                (Some(since), Some(at)) => at >= since - LEEWAY,
                (Some(_), None) => !reports_auth_time,
                (None, _) => true,
            };
            is_new
                .then_some(())
                .ok_or_else(|| "the provider has not asked for a new login (auth_time)".to_owned())
        });
        let claims = token
            .claims(&verifier, nonce)
            .map_err(|error| match error {
                ClaimsVerificationError::SignatureVerification(
                    SignatureVerificationError::NoMatchingKey,
                ) => Unbelievable::UnknownKey,
                error => Unbelievable::Other(chain(&error)),
            })?;
        let for_other = claims
            .authorized_party()
            .is_some_and(|party| party.as_str() != self.config.client_id);
        if for_other {
            let reason = "it was issued for another client (azp)";
            return Err(Unbelievable::Other(reason.to_owned()));
        }
        let subject = claims.subject().as_str();
        if subject.is_empty() || subject.len() > LONGEST_SUBJECT || subject.contains('\0') {
            let reason = "it names nobody (sub)";
            return Err(Unbelievable::Other(reason.to_owned()));
        }
        let other = &claims.additional_claims().all;
        let methods = claims.auth_method_refs().into_iter().flatten();
        Ok(Person {
            subject: subject.to_owned(),
            email: claims.email().map(|email| readable(email.as_str())),
            username: claims
                .preferred_username()
                .map(|name| name.as_str().to_owned()),
            groups: person::groups(other.get(&self.config.groups_claim)),
            methods: methods.map(|method| method.as_str().to_owned()).collect(),
        })
    }
}

/// Why an ID token is not believed.
#[derive(Debug, thiserror::Error)]
enum Unbelievable {
    #[error("no key of the provider has signed it")]
    UnknownKey,
    #[error("{0}")]
    Other(String),
}

async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, FetchError> {
    let (head, body) = request.into_parts();
    let request = http
        .request(head.method, head.uri.to_string())
        .headers(head.headers)
        .body(body);
    let mut answer = request.send().await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_ANSWER {
            return Err(FetchError::TooLarge);
        }
    }
    let mut response = HttpResponse::new(bytes);
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}

async fn in_time<T>(
    asked: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answered) => answered,
        Err(_) => Err(ProviderError::Away(
            "The provider did not answer within 4.5 s".to_owned(),
        )),
    }
}

/// An error with its causes, as one text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// An address without what a terminal or a page would take for more than text.
fn readable(email: &str) -> String {
    email
        .chars()
        .filter(|c| !c.is_control())
        .take(254)
        .collect()
}
