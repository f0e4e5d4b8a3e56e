//! The login of the configuration (admin.username), with HTTP Basic: one name and password, which
//! everybody shares who knows it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use base64::Engine;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::client_address::Connection;
use super::error::ApiError;
use super::login_limiter::{Decision, LoginLimiter};

/// Limit for encoded credentials, in bytes: hashing that many takes microseconds.
const MAX_CREDENTIALS: usize = 4 << 10;

/// Its credentials as hashes: comparing them takes the same time for every input of any length.
pub(crate) struct BasicLogin {
    name: String,
    digest: [u8; 32],
    failed: LoginLimiter,
}

impl BasicLogin {
    pub(crate) fn new(username: &str, password: &str) -> Self {
        Self {
            name: username.to_owned(),
            digest: digest(&format!("{username}:{password}")),
            failed: LoginLimiter::default(),
        }
    }

    /// The name that is recorded.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn accepts(&self, credentials: &str) -> bool {
        self.digest.ct_eq(&digest(credentials)).into()
    }

    /// Checks credentials of this client. Whoever guesses waits.
    pub(crate) async fn check(
        &self,
        credentials: &str,
        client: IpAddr,
        connection: &Connection,
    ) -> Result<(), Refusal> {
        if !connection.is_proven() {
            match self.failed.doubt(client, credentials, Instant::now()) {
                Decision::None => {}
                Decision::Wrong => return Err(Refusal::Wrong),
                Decision::Guess => {
                    if let Err(wait) = self.failed.turn().await {
                        return Err(Refusal::Wait(wait));
                    }
                }
            }
        }
        let is_right = self.accepts(credentials);
        connection.set_proven(is_right);
        if !is_right {
            self.failed.failed(client, credentials, Instant::now());
            tracing::warn!(%client, "operator credentials are wrong");
            return Err(Refusal::Wrong);
        }
        self.failed.passed(client, Instant::now());
        Ok(())
    }
}

/// Why credentials are refused.
pub(crate) enum Refusal {
    Wrong,
    /// They were not checked, because too many requests wait.
    Wait(Duration),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Wrong => unauthorized(),
            Self::Wait(wait) => too_many(wait),
        }
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Answer if the credentials were not checked because too many requests wait.
fn too_many(wait: Duration) -> Response {
    let message = format!(
        "Too many logins wait to be checked, because too many have failed. Try again in {} s. Connections that are logged in are not affected",
        wait.as_secs()
    );
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", message)
        .retry_after(Some(wait))
        .into_response()
}

/// Nobody is logged in.
pub(crate) fn unauthorized() -> Response {
    let message = "Operator credentials are needed, or those given are wrong";
    let mut response =
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    let challenge = HeaderValue::from_static("Basic realm=\"Patchbay\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// Name and password of the header, with a colon between them.
pub(crate) fn credentials(headers: &HeaderMap) -> Option<String> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > MAX_CREDENTIALS {
        return None;
    }
    String::from_utf8(
        base64::engine::general_purpose::STANDARD
            .decode(encoded.trim())
            .ok()?,
    )
    .ok()
}
