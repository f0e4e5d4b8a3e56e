//! Routes of single sign-on. Browsers come here themselves, so a success sends them on, and an error
//! is a page for those who ask for HTML.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use patchbay_api::answer::Success;
use patchbay_api::oidc::*;
use patchbay_app::operators::Operators;
use patchbay_app::operators::oidc::{Arrived, BegunSignIn, LOGIN_LIFE, SingleSignOn};
use patchbay_app::people::Visitor;
use patchbay_app::{Caller, Error};

use crate::AppState;
use crate::cookies;
use crate::error::ApiError;
use crate::routes::{Ask, CallerExtractor, Routes};
use crate::sign_in_pages;
use crate::user_login::From;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add_raw::<OidcStart, _>(start)
        .add_raw::<OidcCallback, _>(arrive)
        .add_raw::<OidcCode, _>(type_code)
        .add_raw::<OidcLogout, _>(log_out)
        .add_raw::<OidcStatusShow, _>(status)
        .add::<OidcTest, _>(test)
        .add_raw::<OidcLink, _>(link)
        .add_raw::<OidcUnlink, _>(unlink)
}

/// The cookie by which a browser is known until its login is complete. The prefix as for sessions.
fn browser_cookie(is_https: bool, client: IpAddr) -> &'static str {
    match cookies::operator_name(is_https, client).starts_with("__Host-") {
        true => "__Host-patchbay-oidc",
        false => "patchbay-oidc",
    }
}

/// Sets that cookie; without a secret, ends it.
fn of_browser(name: &str, secret: Option<&str>) -> String {
    let secure = if name.starts_with("__Host-") {
        "; Secure"
    } else {
        ""
    };
    let (value, life) = match secret {
        Some(secret) => (secret, LOGIN_LIFE.as_secs()),
        None => ("", 0),
    };
    format!("{name}={value}; Path=/; Max-Age={life}; HttpOnly{secure}; SameSite=Lax")
}

fn client(visitor: &Visitor) -> IpAddr {
    visitor.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

fn sent_on(address: &str) -> Response {
    match HeaderValue::from_str(address) {
        Ok(address) => (StatusCode::SEE_OTHER, [(LOCATION, address)]).into_response(),
        Err(_) => ApiError::internal().into_response(),
    }
}

/// A page for browsers, JSON for programs.
fn refused(headers: &HeaderMap, error: Error) -> Response {
    let accepts = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or_default();
    match accepts.contains("text/html") {
        true => sign_in_pages::of_error(error),
        false => ApiError::from(error).into_response(),
    }
}

fn begun(state: &AppState, visitor: &Visitor, begun: &BegunSignIn, response: Response) -> Response {
    let name = browser_cookie(state.is_https, client(visitor));
    cookies::with(response, vec![of_browser(name, Some(&begun.browser))])
}

async fn start(
    State(state): State<AppState>,
    From(visitor): From,
    headers: HeaderMap,
    ask: Ask<OidcStart>,
) -> Response {
    match state.app.sso.start(&visitor, &ask.query).await {
        Ok(login) => begun(&state, &visitor, &login, sent_on(&login.address)),
        Err(error) => refused(&headers, error),
    }
}

async fn arrive(
    State(state): State<AppState>,
    From(visitor): From,
    headers: HeaderMap,
    ask: Ask<OidcCallback>,
) -> Response {
    let browser = cookies::one(&headers, browser_cookie(state.is_https, client(&visitor)));
    let arrived = state
        .app
        .sso
        .arrive(&visitor, browser.as_deref(), ask.query);
    arrived_at(&state, &visitor, &headers, arrived.await)
}

async fn type_code(
    State(state): State<AppState>,
    From(visitor): From,
    headers: HeaderMap,
    ask: Ask<OidcCode>,
) -> Response {
    let browser = cookies::one(&headers, browser_cookie(state.is_https, client(&visitor)));
    let typed = state
        .app
        .sso
        .type_code(&visitor, browser.as_deref(), ask.body.0);
    arrived_at(&state, &visitor, &headers, typed.await)
}

fn arrived_at(
    state: &AppState,
    visitor: &Visitor,
    headers: &HeaderMap,
    arrived: Result<Arrived, Error>,
) -> Response {
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(error) => return refused(headers, error),
    };
    let client = client(visitor);
    let mut set = vec![of_browser(browser_cookie(state.is_https, client), None)];
    if let Some(session) = &arrived.session {
        let name = cookies::operator_name(state.is_https, client);
        set.push(cookies::of_operator(name, Some(&session.secret)));
    }
    cookies::with(sent_on(&arrived.return_to), set)
}

async fn log_out(
    State(state): State<AppState>,
    From(visitor): From,
    CallerExtractor(who): CallerExtractor,
    headers: HeaderMap,
    _ask: Ask<OidcLogout>,
) -> Response {
    match state.app.sso.log_out(&who).await {
        Ok(address) => {
            let name = cookies::operator_name(state.is_https, client(&visitor));
            cookies::with(sent_on(&address), vec![cookies::of_operator(name, None)])
        }
        Err(error) => refused(&headers, error),
    }
}

async fn status(
    State(sso): State<SingleSignOn>,
    State(operators): State<Operators>,
    CallerExtractor(who): CallerExtractor,
    _ask: Ask<OidcStatusShow>,
) -> Response {
    answered(sso.status(&who, &operators).await)
}

async fn test(sso: SingleSignOn, _: Caller, _: Ask<OidcTest>) -> Result<OidcTested, Error> {
    sso.test().await
}

async fn link(
    State(state): State<AppState>,
    From(visitor): From,
    CallerExtractor(who): CallerExtractor,
    ask: Ask<OidcLink>,
) -> Response {
    match state.app.sso.begin_link(&who, &ask.query).await {
        Ok(login) => {
            let address = OidcAddress {
                address: login.address.clone(),
            };
            begun(&state, &visitor, &login, answered(Ok(address)))
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn unlink(
    State(sso): State<SingleSignOn>,
    State(operators): State<Operators>,
    CallerExtractor(who): CallerExtractor,
    _ask: Ask<OidcUnlink>,
) -> Response {
    answered(sso.unlink(&who, &operators).await)
}

fn answered<T: serde::Serialize>(result: Result<T, Error>) -> Response {
    match result {
        Ok(data) => axum::Json(Success::from(data)).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_of_a_login_is_for_this_host_alone_and_short() {
        let name =
            |is_https, client: &str| browser_cookie(is_https, client.parse().expect("an address"));
        assert_eq!(name(true, "127.0.0.1"), "__Host-patchbay-oidc");
        assert_eq!(name(false, "10.0.0.1"), "__Host-patchbay-oidc");
        assert_eq!(name(false, "::1"), "patchbay-oidc");
        assert_eq!(
            of_browser("__Host-patchbay-oidc", Some("s")),
            "__Host-patchbay-oidc=s; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax"
        );
        assert_eq!(
            of_browser("patchbay-oidc", None),
            "patchbay-oidc=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn only_who_asks_for_html_gets_a_page() {
        let kind = |accept: &'static str| {
            let accept = HeaderValue::from_static(accept);
            let headers = [(ACCEPT, accept)].into_iter().collect();
            let response = refused(&headers, Error::not_found("nothing"));
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            response.headers()[http::header::CONTENT_TYPE].clone()
        };
        assert_eq!(kind("text/html,*/*;q=0.8"), "text/html; charset=utf-8");
        assert_eq!(kind("*/*"), "application/json");
    }
}
