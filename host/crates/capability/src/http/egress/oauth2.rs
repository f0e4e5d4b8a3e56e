//! Access tokens by the client credentials grant (RFC 6749, 4.4). The host fetches and keeps them;
//! the guest never sees one.
//!
//! One token per rule of a revision. Only one fetch runs at a time; callers that waited for a
//! failed fetch get its error instead of trying again at once. Every error here means that the
//! guest's own request was not sent.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::capability::{HttpError, TimeoutPhase};
use patchbay_model::egress::Target;
use patchbay_model::manifest::EgressAuth;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::form_urlencoded;

use super::client::{EgressClient, Token};
use super::exchange::{Reading, exchange};
use super::inject::{Secrets, basic, secret, sensitive};
use super::request::Outgoing;
use crate::secrets::SecretValue;

/// A token response has a few hundred bytes, a JWT a few thousand.
const MAX_RESPONSE_BYTES: u64 = 64 << 10;
/// The token must fit into a header.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// For responses without `expires_in`. A 401 leads to a new fetch in any case.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// With this limit, a revoked secret is noticed within a day.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A token is replaced this long before it expires (or a tenth of its life, where that is less):
/// clocks differ and requests take time.
const MARGIN: Duration = Duration::from_secs(60);
/// Codes of RFC 6749, 5.2. Other codes are not repeated: they could be any text.
const KNOWN_CODES: &[&str] = &[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

pub(super) struct Grant {
    token_url: Url,
    client_id: SecretValue,
    client_secret: SecretValue,
    scope: Option<String>,
}

impl Grant {
    /// `None` for a rule whose auth is not OAuth2.
    pub(super) fn of(
        auth: Option<&EgressAuth>,
        secrets: Secrets<'_>,
    ) -> Result<Option<Self>, HttpError> {
        let Some(EgressAuth::OAuth2 {
            token_url,
            client_id,
            client_secret,
            scope,
        }) = auth
        else {
            return Ok(None);
        };
        let target = Target::parse(token_url);
        Ok(Some(Self {
            token_url: target
                .map_err(|error| HttpError::Denied(format!("token_url: {error}")))?
                .into_url(),
            client_id: secret(secrets, client_id)?,
            client_secret: secret(secrets, client_secret)?,
            scope: scope.clone(),
        }))
    }

    /// What a response must not repeat. The client's id is public (RFC 6749, 2.2).
    pub(super) fn guarded(&self, token: &Token) -> Vec<SecretValue> {
        vec![self.client_secret.clone(), token.value.clone()]
    }

    fn request(&self) -> Result<Outgoing, HttpError> {
        // RFC 6749, 2.3.1: both are form-encoded before they become Basic credentials.
        let encoded = |value: &SecretValue| {
            form_urlencoded::byte_serialize(value.expose().as_bytes()).collect::<String>()
        };
        let pair = basic(&encoded(&self.client_id), &encoded(&self.client_secret));
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("grant_type", "client_credentials");
        if let Some(scope) = &self.scope {
            body.append_pair("scope", scope);
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, sensitive(format!("Basic {pair}"))?);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let body = Some(body.finish().into_bytes());
        Ok(Outgoing {
            method: Method::POST,
            url: self.token_url.clone(),
            headers,
            body,
        })
    }
}

impl Token {
    /// Tokens for the old secret are useless after a rotation.
    fn is_for(&self, grant: &Grant) -> bool {
        self.client_id.matches(grant.client_id.expose().as_bytes())
            && self
                .client_secret
                .matches(grant.client_secret.expose().as_bytes())
    }
}

impl EgressClient {
    /// A token that has not expired. `refused` is one that the service rejected, not to be reused.
    pub(super) async fn token(
        &self,
        grant: &Grant,
        refused: Option<&Arc<Token>>,
        deadline: Instant,
    ) -> Result<Arc<Token>, HttpError> {
        self.permits(&grant.token_url)?;
        let asked = Instant::now();
        let not_sent = |_| HttpError::Timeout(TimeoutPhase::Connecting);
        let mut state = timeout_at(deadline, self.token.lock())
            .await
            .map_err(not_sent)?;
        if let Some(token) = &state.token
            && token.is_for(grant)
            && Instant::now() < token.fresh_until
            && !refused.is_some_and(|refused| Arc::ptr_eq(refused, token))
        {
            return Ok(Arc::clone(token));
        }
        if let Some((when, error)) = &state.failure
            && *when > asked
        {
            return Err(error.clone());
        }
        state.token = None;
        match self.fetch(grant, deadline).await {
            Ok(token) => {
                let token = Arc::new(token);
                state.token = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(error) => {
                // Other callers may have more time than this one had.
                if !matches!(error, HttpError::Timeout(_)) {
                    state.failure = Some((Instant::now(), error.clone()));
                }
                Err(error)
            }
        }
    }

    async fn fetch(&self, grant: &Grant, deadline: Instant) -> Result<Token, HttpError> {
        let response = exchange(
            self,
            grant.request()?,
            deadline,
            Reading::Whole(MAX_RESPONSE_BYTES),
        )
        .await;
        let response = response.map_err(|error| match error {
            HttpError::Timeout(_) => HttpError::Timeout(TimeoutPhase::Connecting),
            HttpError::Interrupted(_) => HttpError::Interrupted(false),
            HttpError::Connect(text) => HttpError::Connect(format!("token endpoint: {text}")),
            HttpError::TooLarge(_) => unreadable("it is too large"),
            other => other,
        })?;
        let (value, lifetime) = read(response.status, &response.body)?;
        Ok(Token {
            value,
            fresh_until: Instant::now() + lifetime,
            client_id: grant.client_id.clone(),
            client_secret: grant.client_secret.clone(),
        })
    }
}

fn unreadable(reason: &str) -> HttpError {
    HttpError::Other(format!(
        "the token endpoint's answer cannot be used: {reason}"
    ))
}

/// The token and how long to use it. No text from the endpoint gets into an error.
fn read(status: u16, body: &[u8]) -> Result<(SecretValue, Duration), HttpError> {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    match status {
        200 => {}
        400 | 401 | 403 => {
            let code = json["error"]
                .as_str()
                .filter(|code| KNOWN_CODES.contains(code));
            let status = status.to_string();
            let code = code.unwrap_or(&status);
            return Err(HttpError::Denied(format!(
                "the token endpoint refuses the client credentials ({code})"
            )));
        }
        // Without a token the rule's host cannot be used, so the breaker counts it as down.
        500.. => {
            return Err(HttpError::Connect(format!(
                "the token endpoint answered with status {status}"
            )));
        }
        status => {
            return Err(HttpError::Other(format!(
                "the token endpoint answered with status {status}"
            )));
        }
    }
    let token = json["access_token"]
        .as_str()
        .ok_or_else(|| unreadable("it has no access_token"))?;
    if token.is_empty()
        || token.len() > MAX_TOKEN_BYTES
        || !token.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(unreadable("its access_token does not fit into a header"));
    }
    if !json["token_type"]
        .as_str()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"))
    {
        return Err(unreadable("its token_type is not bearer"));
    }
    // Some endpoints write the number as text.
    let seconds = match &json["expires_in"] {
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    };
    let lifetime = seconds.map_or(DEFAULT_LIFETIME, |seconds| {
        Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
    });
    Ok((SecretValue::new(token.to_owned()), usable_for(lifetime)))
}

fn usable_for(lifetime: Duration) -> Duration {
    (lifetime - MARGIN.min(lifetime / 10)).min(MAX_LIFETIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<(SecretValue, Duration), HttpError> {
        read(status, body.as_bytes())
    }

    #[test]
    fn a_token_is_used_until_shortly_before_it_expires() {
        for (body, seconds) in [
            (
                r#"{"access_token":"t0ken","token_type":"Bearer","expires_in":3600}"#,
                3540,
            ),
            (
                r#"{"access_token":"t0ken","token_type":"bearer","expires_in":"100"}"#,
                90,
            ),
            (r#"{"access_token":"t0ken","token_type":"bearer"}"#, 270),
            (
                r#"{"access_token":"t0ken","token_type":"bearer","expires_in":0}"#,
                0,
            ),
            (
                r#"{"access_token":"t0ken","token_type":"bearer","expires_in":-5}"#,
                0,
            ),
            (
                r#"{"access_token":"t0ken","token_type":"bearer","expires_in":1e300}"#,
                24 * 3600,
            ),
        ] {
            let (token, lifetime) = answer(200, body).expect(body);
            assert_eq!(
                (token.expose(), lifetime.as_secs()),
                ("t0ken", seconds),
                "{body}"
            );
        }
    }

    #[test]
    fn answers_that_are_no_token_are_errors_without_their_text() {
        for (status, body, expected) in [
            (
                400,
                r#"{"error":"invalid_scope","error_description":"s3cret"}"#,
                "denied: the token endpoint refuses",
            ),
            (401, r#"{"error":"s3cret"}"#, "(401)"),
            (403, "s3cret", "(403)"),
            (500, "s3cret", "status 500"),
            (302, "s3cret", "status 302"),
            (200, "s3cret", "no access_token"),
            (
                200,
                r#"{"access_token":7,"token_type":"bearer"}"#,
                "no access_token",
            ),
            (
                200,
                r#"{"access_token":"s3cret\r\nx: y","token_type":"bearer"}"#,
                "does not fit",
            ),
            (
                200,
                r#"{"access_token":"","token_type":"bearer"}"#,
                "does not fit",
            ),
            (
                200,
                r#"{"access_token":"s3cret","token_type":"mac"}"#,
                "not bearer",
            ),
            (200, r#"{"access_token":"s3cret"}"#, "not bearer"),
        ] {
            let error = answer(status, body).expect_err(body).to_string();
            assert!(
                error.contains(expected) && !error.contains("s3cret"),
                "{error}"
            );
        }
    }
}
