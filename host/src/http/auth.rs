//! Operators: HTTP Basic until identity exists.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AppState;
use super::client::ClientAddress;
use super::error::ApiError;
use super::logins::Logins;

/// The operator's credentials, hashed: comparing hashes takes the same time for every input, whatever its length.
pub struct Operator {
    name: String,
    digest: [u8; 32],
    failed: Logins,
}

impl Operator {
    /// From the configuration.
    pub fn new(username: &str, password: &str) -> Self {
        Self { name: username.to_owned(), digest: digest(&format!("{username}:{password}")), failed: Logins::default() }
    }

    fn accepts(&self, credentials: &str) -> bool {
        self.digest.ct_eq(&digest(credentials)).into()
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Who acts, for the audit trail. Left by [`require`] in the request.
#[derive(Debug, Clone)]
pub(super) struct Actor(pub(super) String);

/// Whatever the credentials: they were not looked at.
fn too_many(wait: Duration) -> Response {
    let seconds = wait.as_millis().div_ceil(1_000);
    let message =
        format!("too many failed logins: nothing is looked at for {seconds} s; other addresses are not concerned");
    let mut response = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", message).into_response();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    response
}

/// Lets operators through and nobody else.
pub(super) async fn require(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let Some(operator) = &state.operator else {
        let message = "no operator is configured: set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD";
        return ApiError::new(StatusCode::FORBIDDEN, "forbidden", message).into_response();
    };
    let credentials = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(credentials) = credentials {
        let name = credentials.split(':').next().unwrap_or_default();
        // Absent only without a connection.
        let client = request.extensions().get().map_or(Ipv4Addr::UNSPECIFIED.into(), |ClientAddress(address)| *address);
        if let Some(wait) = operator.failed.wait(client, name, Instant::now()) {
            return too_many(wait);
        }
        if operator.accepts(&credentials) {
            operator.failed.succeeded(client);
            request.extensions_mut().insert(Actor(operator.name.clone()));
            return next.run(request).await;
        }
        operator.failed.failed(client, &credentials, Instant::now());
        tracing::warn!(%client, "operator credentials are wrong");
    }
    let mut response = ApiError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "operator credentials are needed, or those given are wrong",
    )
    .into_response();
    let challenge = HeaderValue::from_static("Basic realm=\"Patchbay\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}
