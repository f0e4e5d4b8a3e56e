//! Refuses requests that a page of another site makes a browser send, because the browser adds the
//! operator's credentials automatically.
//!
//! The rules are those of Go's `http.CrossOriginProtection`: requests that only read pass.
//! Otherwise `Sec-Fetch-Site` decides, which browsers send to addresses that they trust (https,
//! loopback). Without it, `Origin` must match `Host`. Programs other than browsers send neither,
//! and pass.
//!
//! Operations for users may also be called by pages of the origins in `http.cors_origins`, and with
//! a credential that no browser adds by itself.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};

use super::cors::Cors;
use super::error::ApiError;
use super::security_headers::API_KEY;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Other origins whose pages may send changes, such as `https://operations.example`. Needed for
/// example behind a proxy that changes `Host`.
pub(super) type AllowedOrigins = Arc<[String]>;

pub(super) async fn refuse(
    State((allowed, cors)): State<(AllowedOrigins, Cors)>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let is_users_own =
        cors.covers(&request) && (cors.allows(headers.get(ORIGIN)) || has_own_credential(headers));
    if !is_users_own && is_cross_site(request.method(), request.uri(), request.headers(), &allowed)
    {
        let origin = request
            .headers()
            .get(ORIGIN)
            .and_then(|origin| origin.to_str().ok())
            .unwrap_or("unknown");
        tracing::info!(origin, "a request from a page of another site is refused");
        let message = "This request comes from a page of another site, so nothing was done. \
                       If the page is yours, add its origin to http.allowed_origins";
        return ApiError::new(StatusCode::FORBIDDEN, "cross-site", message).into_response();
    }
    next.run(request).await
}

/// A credential that a page must know to send it.
fn has_own_credential(headers: &HeaderMap) -> bool {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().get(..7));
    headers.contains_key(API_KEY)
        || bearer.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
}

fn is_cross_site(method: &Method, uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> bool {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
        return false;
    }
    let origin = headers
        .get(ORIGIN)
        .map(|origin| origin.to_str().unwrap_or_default());
    if origin.is_some_and(|origin| {
        allowed
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }) {
        return false;
    }
    if let Some(site) = headers.get(FETCH_SITE) {
        // `same-site` is another origin, too: anything on a neighbouring name or port. `none` is a
        // person who used the address bar or a bookmark.
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = origin else { return false };
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(|host| host.as_str()));
    // `null` (from a sandboxed frame) matches no host. The scheme is ignored, because a proxy may
    // have ended TLS.
    let theirs = origin.split_once("://").map(|(_, authority)| authority);
    theirs.is_none()
        || !theirs
            .zip(host)
            .is_some_and(|(theirs, ours)| theirs.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: &str, headers: &[(&str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| {
            (
                name.parse::<HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            )
        });
        let method = method.parse().expect("a method");
        let allowed = ["https://ops.example".to_owned()];
        is_cross_site(
            &method,
            &Uri::from_static("/x"),
            &headers.collect(),
            &allowed,
        )
    }

    #[test]
    fn programs_pages_of_ours_and_what_only_reads_pass() {
        for (method, headers) in [
            ("POST", &[][..]),
            ("DELETE", &[("host", "a.example")]),
            (
                "POST",
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "https://a.example"),
                    ("host", "inner:8080"),
                ],
            ),
            ("PUT", &[("sec-fetch-site", "none")]),
            (
                "POST",
                &[
                    ("origin", "http://a.example:8080"),
                    ("host", "A.example:8080"),
                ],
            ),
            (
                "POST",
                &[
                    ("origin", "https://ops.example"),
                    ("host", "inner:8080"),
                    ("sec-fetch-site", "cross-site"),
                ],
            ),
            (
                "GET",
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "https://evil.example"),
                    ("host", "a.example"),
                ],
            ),
        ] {
            assert!(!refused(method, headers), "{method} {headers:?}");
        }
    }

    #[test]
    fn only_a_bearer_token_and_a_key_are_credentials_that_no_browser_adds() {
        let of = |name: &'static str, value: &'static str| {
            let name = HeaderName::from_static(name);
            let headers = [(name, http::HeaderValue::from_static(value))];
            has_own_credential(&headers.into_iter().collect())
        };
        assert!(of("authorization", "bearer abc") && of("x-api-key", "abc"));
        assert!(!of("authorization", "Basic abc") && !of("authorization", "bear"));
        assert!(!of("cookie", "token=abc"));
    }

    #[test]
    fn pages_of_others_are_refused() {
        for headers in [
            &[("sec-fetch-site", "cross-site")][..],
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "https://b.a.example"),
                ("host", "a.example"),
            ],
            // `Sec-Fetch-Site` takes precedence over the other headers.
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://a.example"),
                ("host", "a.example"),
            ],
            &[("sec-fetch-site", "nonsense")],
            &[("origin", "https://evil.example"), ("host", "a.example")],
            &[
                ("origin", "http://a.example:8081"),
                ("host", "a.example:8080"),
            ],
            &[
                ("origin", "http://a.example.evil.example"),
                ("host", "a.example"),
            ],
            &[("origin", "null"), ("host", "null")],
            &[("origin", "https://evil.example")],
            &[
                ("origin", "https://evil.ops.example"),
                ("host", "a.example"),
            ],
        ] {
            for method in ["POST", "PUT", "PATCH", "DELETE", "QUERY"] {
                assert!(refused(method, headers), "{method} {headers:?}");
            }
        }
    }
}
