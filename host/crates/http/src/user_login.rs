//! Who sends a request of accounts: a visitor, or an account with an access token.

use std::net::Ipv4Addr;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use patchbay_api::operation::Operation;
use patchbay_app::operators::Operator;
use patchbay_app::people::{Principal, Visitor};
use patchbay_model::job::Trace;

use crate::AppState;
use crate::client_address::{ClientAddress, UnknownProxy, network};
use crate::cookies;
use crate::error::ApiError;
use crate::operator_guard;

/// Scheme of `Authorization`, in any case.
const BEARER: &str = "bearer ";

/// Who sends the request, whoever that is.
pub(crate) struct From(pub(crate) Visitor);

impl FromRequestParts<AppState> for From {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        let address = parts
            .extensions
            .get()
            .map(|ClientAddress(address)| *address);
        let user_agent = parts.headers.get(http::header::USER_AGENT);
        Ok(Self(Visitor {
            network: network(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())).to_string(),
            address,
            is_behind_unknown_proxy: parts.extensions.get::<UnknownProxy>().is_some(),
            user_agent: user_agent
                .map(|text| String::from_utf8_lossy(text.as_bytes()).replace('\0', "")),
            trace: parts.extensions.get::<Trace>().cloned().unwrap_or_default(),
            browser: cookies::one(&parts.headers, cookies::BROWSER),
        }))
    }
}

/// The account that sends the request. [`require`] puts it into the request.
pub(crate) struct SignedIn(pub(crate) Principal);

impl FromRequestParts<AppState> for SignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        let principal = parts.extensions.get::<Principal>().cloned();
        principal.map(Self).ok_or_else(ApiError::internal)
    }
}

/// Lets only accounts pass.
pub(crate) async fn require(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let token = access_token(request.headers());
    match state.app.people.authenticate(token.as_deref()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// Lets operators pass who may call this operation, and accounts with the role admin. A request
/// without any credentials is asked for an operator's.
pub(crate) async fn require_admin_or_operator(
    State((state, operation)): State<(AppState, &'static Operation)>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_of_operator = operator_guard::is_of_operator(&request, &state);
    let token = access_token(request.headers()).filter(|_| !is_of_operator);
    let Some(token) = token.filter(|_| state.app.people.is_enabled()) else {
        return operator_guard::require(State((state, operation)), request, next).await;
    };
    match state.app.people.authenticate_admin(&token).await {
        Ok(principal) => {
            let operator = Operator::of_account(&principal.user.id);
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// Of the header, or else of a cookie. A cookie that is there twice, with another value, may have
/// been set by a neighbouring host: neither is taken.
pub(crate) fn access_token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let text = value.to_str().unwrap_or_default();
        let is_bearer = text
            .get(..BEARER.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(BEARER));
        // Another scheme is no token, and the cookie is not looked at.
        return Some(match is_bearer {
            true => text[BEARER.len()..].trim().to_owned(),
            false => String::new(),
        });
    }
    cookies::agreeing(headers, &cookies::ACCESS)
}
