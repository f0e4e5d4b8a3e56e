//! Refuses requests that a page of another site makes a browser send, because the browser adds the
//! operator's credentials automatically.
//!
//! The rules are those of Go's `http.CrossOriginProtection`: requests that only read pass, so that
//! links to what is shown work. Those that are recorded do not: a link on another site must not write
//! a reveal or an export into an operator's record. Otherwise `Sec-Fetch-Site` decides, which browsers send to addresses that they trust (https,
//! loopback). Without it, `Origin` must match `Host`. Programs other than browsers send neither,
//! and pass.
//!
//! Operations for users may also be called by pages of the origins in `http.cors_origins`, and with
//! a credential that no browser adds by itself.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use patchbay_api::operation::Operation;

use super::cors::Cors;
use super::error::ApiError;
use super::security_headers::API_KEY;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Other origins whose pages may send changes, such as `https://operations.example`. Needed for
/// example behind a proxy that changes `Host`.
pub(super) type AllowedOrigins = Arc<[String]>;

/// What [`refuse`] asks: one pointer, because the router copies it several times per request.
pub(super) struct Guard {
    pub(super) allowed: AllowedOrigins,
    pub(super) cors: Cors,
    pub(super) recorded: RecordedReads,
}

pub(super) async fn refuse(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let Guard {
        allowed,
        cors,
        recorded,
    } = &*guard;
    let headers = request.headers();
    let is_users_own =
        cors.covers(&request) && (cors.allows(headers.get(ORIGIN)) || has_own_credential(headers));
    let only_reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let is_recorded = only_reads && recorded.covers(&request);
    if !is_users_own
        && !cors.is_open(&request)
        && (!only_reads || is_recorded)
        && is_cross_site(request.uri(), request.headers(), allowed)
    {
        let origin = request
            .headers()
            .get(ORIGIN)
            .and_then(|origin| origin.to_str().ok())
            .unwrap_or("unknown");
        tracing::info!(origin, "a request from a page of another site is refused");
        let message = match is_recorded {
            false => {
                "This request comes from a page of another site, so nothing was done. \
                 If the page is yours, add its origin to http.allowed_origins"
            }
            true => {
                "This request comes from a page of another site, and it would be recorded under your name, so nothing was done. \
                 If you want it, open the address yourself: copy it into the address bar"
            }
        };
        return ApiError::new(StatusCode::FORBIDDEN, "cross-site", message).into_response();
    }
    next.run(request).await
}

/// Operations that only read, and whose use is recorded, by the template of the path.
pub(super) struct RecordedReads(HashMap<&'static str, When>);

/// When a read is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// With `reveal=true`.
    Revealing,
}

/// Recorded under a name that their rows do not have.
const BY_ANOTHER_NAME: [&str; 3] = ["audit.export", "trails.entries", "trails.export"];

impl RecordedReads {
    pub(super) fn new(operations: impl Iterator<Item = &'static Operation>) -> Self {
        let when = |operation: &'static Operation| match operation.audit {
            _ if operation.method != patchbay_api::operation::Method::GET => None,
            None => BY_ANOTHER_NAME
                .contains(&operation.id)
                .then_some(When::Always),
            Some(_) if !operation.access.is_for_operators() => None,
            Some(name) if name.contains("reveal") => Some(When::Revealing),
            Some(_) => Some(When::Always),
        };
        let known = operations.filter_map(|operation| Some((operation.path, when(operation)?)));
        Self(known.collect())
    }

    fn covers(&self, request: &Request) -> bool {
        let path = request.extensions().get::<MatchedPath>();
        let when = path.and_then(|path| self.0.get(path.as_str()));
        match when {
            None => false,
            Some(When::Always) => true,
            Some(When::Revealing) => reveals(request.uri().query().unwrap_or_default()),
        }
    }
}

fn reveals(query: &str) -> bool {
    url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "reveal" && value != "false")
}

/// A credential that a page must know to send it.
fn has_own_credential(headers: &HeaderMap) -> bool {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().get(..7));
    headers.contains_key(API_KEY)
        || bearer.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
}

fn is_cross_site(uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> bool {
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

    fn refused(headers: &[(&str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| {
            (
                name.parse::<HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            )
        });
        let allowed = ["https://ops.example".to_owned()];
        is_cross_site(&Uri::from_static("/x"), &headers.collect(), &allowed)
    }

    #[test]
    fn programs_and_pages_of_ours_pass() {
        for headers in [
            &[][..],
            &[("host", "a.example")],
            &[
                ("sec-fetch-site", "same-origin"),
                ("origin", "https://a.example"),
                ("host", "inner:8080"),
            ],
            &[("sec-fetch-site", "none")],
            &[
                ("origin", "http://a.example:8080"),
                ("host", "A.example:8080"),
            ],
            &[
                ("origin", "https://ops.example"),
                ("host", "inner:8080"),
                ("sec-fetch-site", "cross-site"),
            ],
        ] {
            assert!(!refused(headers), "{headers:?}");
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
            assert!(refused(headers), "{headers:?}");
        }
    }

    #[test]
    fn every_read_that_is_recorded_is_known() {
        let known = RecordedReads::new(patchbay_api::operations());
        let when = |path: &str| known.0.get(path).copied();
        for path in [
            "/api/admin/history/export",
            "/api/admin/history/bodies/{queue}/{id}",
            "/api/admin/incident",
            "/api/admin/audit/export",
        ] {
            assert_eq!(when(path), Some(When::Always), "{path}");
        }
        for path in [
            "/api/admin/queues/{queue}/jobs",
            "/api/admin/queues/{queue}/jobs/{id}",
            "/api/admin/queues/{queue}/jobs/{id}/timeline",
            "/api/admin/plugins/{name}/settings",
            "/api/admin/schedules/{id}",
        ] {
            assert_eq!(when(path), Some(When::Revealing), "{path}");
        }
        for path in ["/api/admin/queues", "/api/admin/history/search", "/metrics"] {
            assert_eq!(when(path), None, "{path}");
        }
        for id in BY_ANOTHER_NAME {
            assert!(
                patchbay_api::operations().any(|operation| operation.id == id),
                "{id}"
            );
        }
        assert!(reveals("a=1&rev%65al=true") && !reveals("reveal=false"));
    }
}
