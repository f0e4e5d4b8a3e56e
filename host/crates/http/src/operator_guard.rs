//! Lets only those operators pass who may call an operation: by a session, a token, or the login of
//! the configuration.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use patchbay_api::operation::{Access, Operation};
use patchbay_app::Error;
use patchbay_app::operators::{BasicMode, Operator, Refused};

use crate::AppState;
use crate::client_address::{ClientAddress, Connection};
use crate::cookies;
use crate::error::ApiError;
use crate::job_data;
use crate::operator_login::{Refusal, credentials, unauthorized};
use crate::own_key;

const BEARER: &str = "bearer ";
/// What every token of a program begins with.
const TOKEN: &str = "pbt_";

/// Lets only those pass who may call this operation, and puts them into the request.
pub(crate) async fn require(
    State((state, operation)): State<(AppState, &'static Operation)>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = client(&request);
    let connection = request
        .extensions()
        .get::<Connection>()
        .cloned()
        .unwrap_or_default();
    let found = identify(&state, operation, request.headers(), client, &connection).await;
    let operator = match found {
        Ok(operator) => operator,
        Err(refused) => return refused,
    };
    if let Err(error) = refuse(&operator, operation, request.uri().query()) {
        let refused = Refused::operation(&operator, operation.id, &error.code, Some(client));
        state.app.operators.note_refused(refused);
        return ApiError::from(error).into_response();
    }
    request.extensions_mut().insert(operator);
    next.run(request).await
}

/// Whether the request shows who sends it in a way that only operators have.
pub(crate) fn is_of_operator(request: &Request, state: &AppState) -> bool {
    let headers = request.headers();
    if headers.contains_key(AUTHORIZATION) {
        return token(headers).is_some() || credentials(headers).is_some();
    }
    let cookie = cookies::operator_name(state.is_https, client(request));
    cookies::one(headers, cookie).is_some()
}

fn refuse(operator: &Operator, operation: &Operation, query: Option<&str>) -> Result<(), Error> {
    operator.refuse(operation)?;
    match job_data::asked_by(operation, query.unwrap_or_default()) {
        Some(what) => operator.refuse_data(&what),
        None => Ok(()),
    }
}

async fn identify(
    state: &AppState,
    operation: &'static Operation,
    headers: &HeaderMap,
    client: IpAddr,
    connection: &Connection,
) -> Result<Operator, Response> {
    let operators = &state.app.operators;
    let failed = |error: Error| ApiError::from(error).into_response();
    if let Some(token) = token(headers) {
        if state.own_key.as_ref().is_some_and(|key| key.is(token)) {
            return Ok(Operator::of_configuration(own_key::NAME));
        }
        let found = operators.of_token(token, Some(client)).await;
        return found.map_err(failed)?.ok_or_else(|| {
            operators.note_refused(Refused::login(Some(client)));
            unauthorized()
        });
    }
    if !headers.contains_key(AUTHORIZATION)
        && let Some(secret) = cookies::one(headers, cookies::operator_name(state.is_https, client))
    {
        let found = operators.of_session(&secret).await.map_err(failed)?;
        return found.ok_or_else(unauthorized);
    }
    let Some(basic) = &state.basic else {
        let message = "No operator is configured: set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD. Operators with a name of their own log in \
                       with: patchbay login";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message).into_response());
    };
    let Some(credentials) = credentials(headers) else {
        return Err(unauthorized());
    };
    if let Err(refusal) = basic.check(&credentials, client, connection).await {
        if matches!(refusal, Refusal::Wrong) {
            operators.note_refused(Refused::login(Some(client)));
        }
        return Err(refusal.into_response());
    }
    let operator = Operator::of_configuration(basic.name());
    let mode = operators.basic_mode().await;
    let is_open = match mode {
        BasicMode::On => true,
        BasicMode::Board => operation.access == Access::ViewerByDefault,
        BasicMode::Off => false,
    };
    if is_open {
        return Ok(operator);
    }
    let error = Error::new(
        patchbay_app::error::Kind::Forbidden,
        "basic-closed",
        "The shared login of the configuration (admin.username) no longer opens this: operators log in with a name of their own. \
         Log in: patchbay login",
    );
    let refused = Refused::operation(&operator, operation.id, &error.code, Some(client));
    operators.note_refused(refused);
    Err(failed(error))
}

/// The token of a program, if the header has one.
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let scheme = value.get(..BEARER.len())?;
    let token = value[BEARER.len()..].trim();
    (scheme.eq_ignore_ascii_case(BEARER) && token.starts_with(TOKEN)).then_some(token)
}

/// The address is only absent if there is no connection.
fn client(request: &Request) -> IpAddr {
    let address = request.extensions().get();
    address.map_or(Ipv4Addr::UNSPECIFIED.into(), |ClientAddress(address)| {
        *address
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_bearer_with_the_prefix_is_a_token_of_a_program() {
        let of = |value: &'static str| {
            let headers = [(AUTHORIZATION, HeaderValue::from_static(value))];
            let headers: HeaderMap = headers.into_iter().collect();
            token(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer pbt_a").as_deref(), Some("pbt_a"));
        assert_eq!(of("bearer  pbt_a ").as_deref(), Some("pbt_a"));
        for other in ["Bearer eyJ", "Basic pbt_a", "pbt_a", "Bearer", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
