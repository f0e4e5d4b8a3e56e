//! Operators: HTTP Basic until identity exists.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AppState;
use super::error::ApiError;

/// The operator's credentials, hashed: comparing hashes takes the same time for every input, whatever its length.
pub struct Operator {
    name: String,
    digest: [u8; 32],
}

impl Operator {
    /// From the configuration.
    pub fn new(username: &str, password: &str) -> Self {
        Self { name: username.to_owned(), digest: digest(&format!("{username}:{password}")) }
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
    if credentials.is_some_and(|credentials| operator.accepts(&credentials)) {
        request.extensions_mut().insert(Actor(operator.name.clone()));
        return next.run(request).await;
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
