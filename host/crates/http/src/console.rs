//! The console's place in the server: it asks the API's own routes, as a client inside the process.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::map_response;
use axum::response::Response;
use http::Extensions;
use http::header::CACHE_CONTROL;
use patchbay_console::Config;
use patchbay_model::job::Trace;

use crate::AppState;
use crate::client_address::{ClientAddress, Connection, UnknownProxy};
use crate::cookies;
use crate::security_headers::MayBeKept;

/// `api`: the routes of the table of operations, each with its guard. What is around all of them (ids,
/// refusals, limits of bodies) is around the console's request already.
pub(crate) fn router(state: &AppState, api: Router<AppState>) -> Router<AppState> {
    let is_https = state.is_https;
    let session_cookie = move |extensions: &Extensions| {
        let address = extensions.get::<ClientAddress>();
        let client = address.map_or(Ipv4Addr::UNSPECIFIED.into(), |ClientAddress(client)| {
            *client
        });
        cookies::operator_name(is_https, client)
    };
    let console = patchbay_console::router(Config {
        api: api.with_state(state.clone()),
        carried,
        session_cookie: Arc::new(session_cookie),
        has_single_sign_on: state.app.sso.is_on(),
        has_shared_login: state.basic.is_some(),
    });
    console.layer(map_response(kept))
}

/// What the API knows of a request before its own route.
fn carried(outer: &Extensions) -> Extensions {
    fn carry<T: Clone + Send + Sync + 'static>(outer: &Extensions, inner: &mut Extensions) {
        if let Some(value) = outer.get::<T>() {
            inner.insert(value.clone());
        }
    }
    let mut inner = Extensions::new();
    carry::<Trace>(outer, &mut inner);
    carry::<ClientAddress>(outer, &mut inner);
    carry::<Connection>(outer, &mut inner);
    carry::<UnknownProxy>(outer, &mut inner);
    inner
}

/// Style and script are the same for everybody, and their address changes with them: browsers keep
/// them although their request had a cookie.
async fn kept(mut response: Response) -> Response {
    let is_fixed = response
        .headers()
        .get(CACHE_CONTROL)
        .is_some_and(|value| value.as_bytes().ends_with(b"immutable"));
    if is_fixed {
        response.extensions_mut().insert(MayBeKept);
    }
    response
}
