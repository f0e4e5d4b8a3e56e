//! Default security headers of all answers. A handler that sets one of them itself, such as for an
//! HTML page, keeps its own value. Only what belongs to a credential is never cached, whatever a
//! handler says.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, REFERRER_POLICY, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");
const CROSS_ORIGIN_OPENER_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-opener-policy");

const DEFAULTS: [(HeaderName, &str); 7] = [
    // Answers are only for their recipient: a shared cache could give an operator's answer to the
    // next client.
    (CACHE_CONTROL, "no-store"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];

pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// A year. Not for the names below this one: only their owner knows whether they serve HTTPS.
const HTTPS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Marks an answer that a client may keep although its request had a credential.
#[derive(Clone, Copy)]
pub(super) struct MayBeKept;

/// Whether clients reach this host by HTTPS, from this host itself or from a proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct IsHttps(pub(super) bool);

pub(super) async fn add(
    State(IsHttps(is_https)): State<IsHttps>,
    request: Request,
    next: Next,
) -> Response {
    let has_credential = gives_credential(request.headers());
    let mut response = next.run(request).await;
    let may_be_kept = response.extensions().get::<MayBeKept>().is_some();
    let headers = response.headers_mut();
    // A route of a plugin may say that its client keeps the answer.
    if (has_credential && !may_be_kept) || headers.contains_key(SET_COOKIE) {
        headers.insert(CACHE_CONTROL, NO_STORE);
    }
    if is_https {
        headers.insert(STRICT_TRANSPORT_SECURITY, HTTPS_ONLY);
    }
    for (name, value) in DEFAULTS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

fn gives_credential(headers: &HeaderMap) -> bool {
    [AUTHORIZATION, COOKIE, API_KEY]
        .iter()
        .any(|name| headers.contains_key(name))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use axum::{Router, middleware};
    use tower::ServiceExt;

    use super::*;

    async fn answered(path: &str, given: Option<HeaderName>, is_https: bool) -> HeaderMap {
        let cached = async || [(CACHE_CONTROL, "public, max-age=60")];
        let issued = async || [(CACHE_CONTROL, "public"), (SET_COOKIE, "a=b")];
        let router = Router::new()
            .route("/cached", get(cached))
            .route("/issued", get(issued))
            .layer(middleware::from_fn_with_state(IsHttps(is_https), add));
        let mut request = http::Request::builder().uri(path);
        if let Some(name) = given {
            request = request.header(name, "x");
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("an answer");
        response.headers().clone()
    }

    #[tokio::test]
    async fn what_belongs_to_a_credential_is_never_cached() {
        let cached = async |path, given| {
            let headers = answered(path, given, false).await;
            headers[CACHE_CONTROL] != "no-store"
        };
        assert!(cached("/cached", None).await);
        for given in [AUTHORIZATION, COOKIE, API_KEY] {
            assert!(!cached("/cached", Some(given)).await);
        }
        assert!(!cached("/issued", None).await);
        assert!(!cached("/nothing", None).await, "the default");
    }

    #[tokio::test]
    async fn only_an_https_address_asks_browsers_for_https() {
        let of = async |is_https| answered("/cached", None, is_https).await;
        assert!(!of(false).await.contains_key(STRICT_TRANSPORT_SECURITY));
        assert_eq!(
            of(true).await[STRICT_TRANSPORT_SECURITY],
            "max-age=31536000"
        );
    }
}
