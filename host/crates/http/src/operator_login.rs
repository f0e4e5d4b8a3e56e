//! Authentication of operators with HTTP Basic, until there are user accounts.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AppState;
use super::client_address::{ClientAddress, Connection};
use super::error::ApiError;
use super::login_limiter::{Decision, LoginLimiter};

/// Limit for encoded credentials, in bytes: hashing that many takes microseconds.
const MAX_CREDENTIALS: usize = 4 << 10;

/// The operator's credentials as hashes: comparing them takes the same time for every input of any
/// length.
pub(crate) struct Operator {
    name: String,
    digest: [u8; 32],
    failed: LoginLimiter,
}

impl Operator {
    pub(crate) fn new(username: &str, password: &str) -> Self {
        Self {
            name: username.to_owned(),
            digest: digest(&format!("{username}:{password}")),
            failed: LoginLimiter::default(),
        }
    }

    fn accepts(&self, credentials: &str) -> bool {
        self.digest.ct_eq(&digest(credentials)).into()
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The operator, for the audit trail. [`require`] puts it into the request.
#[derive(Debug, Clone)]
pub(super) struct Actor(pub(super) String);

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

fn unauthorized() -> Response {
    let message = "Operator credentials are needed, or those given are wrong";
    let mut response =
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    let challenge = HeaderValue::from_static("Basic realm=\"Patchbay\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

fn credentials(headers: &HeaderMap) -> Option<String> {
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

/// Lets only operators pass.
pub(super) async fn require(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(operator) = &state.operator else {
        let message = "No operator is configured: set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD";
        return ApiError::new(StatusCode::FORBIDDEN, "forbidden", message).into_response();
    };
    let Some(credentials) = credentials(request.headers()) else {
        return unauthorized();
    };
    // The address is only absent if there is no connection.
    let client = request
        .extensions()
        .get()
        .map_or(Ipv4Addr::UNSPECIFIED.into(), |ClientAddress(address)| {
            *address
        });
    let connection = request
        .extensions()
        .get::<Connection>()
        .cloned()
        .unwrap_or_default();
    if !connection.is_proven() {
        match operator.failed.doubt(client, &credentials, Instant::now()) {
            Decision::None => {}
            Decision::Wrong => return unauthorized(),
            Decision::Guess => {
                if let Err(wait) = operator.failed.turn().await {
                    return too_many(wait);
                }
            }
        }
    }
    let is_right = operator.accepts(&credentials);
    connection.set_proven(is_right);
    if !is_right {
        operator.failed.failed(client, &credentials, Instant::now());
        tracing::warn!(%client, "operator credentials are wrong");
        return unauthorized();
    }
    request
        .extensions_mut()
        .insert(Actor(operator.name.clone()));
    next.run(request).await
}
