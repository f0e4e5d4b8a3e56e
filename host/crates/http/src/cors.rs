//! Lets pages of the configured origins call the operations for users, with their credentials
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Which operations these are is a property of their access, and so are routes of plugins; all others answer without any CORS
//! header, so no page of another origin can read them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, ETAG, ORIGIN, RETRY_AFTER, VARY,
};
use http::{HeaderValue, Method};
use patchbay_api::operation::Operation;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowMethods, AllowOrigin, CorsLayer};

use crate::plugin_calls::IDEMPOTENCY_KEY;
use crate::plugin_routes::{IDEMPOTENT_REPLAYED, Lookup, Pages};
use crate::quotas;
use crate::request_id::{CORRELATION_ID, PLATFORM, REQUEST_ID};

/// How long a browser may remember the answer to its question.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The router clones it with each request, so it is one pointer.
#[derive(Clone)]
pub(super) struct Cors(Arc<Rules>);

struct Rules {
    origins: Vec<HeaderValue>,
    /// Methods of the operations for users, by the template of the path.
    operations: HashMap<&'static str, Vec<Method>>,
    layer: CorsLayer,
}

impl Cors {
    /// `origins` as browsers write them.
    pub(super) fn new(
        origins: &[String],
        operations: impl Iterator<Item = &'static Operation>,
    ) -> Self {
        let covered = operations
            .filter(|operation| operation.access.is_for_users())
            .map(|operation| (method(operation), operation.path));
        Self::of(origins, &covered.collect::<Vec<_>>())
    }

    fn of(origins: &[String], covered: &[(Method, &'static str)]) -> Self {
        let mut operations: HashMap<&'static str, Vec<Method>> = HashMap::new();
        for (method, path) in covered {
            operations.entry(path).or_default().push(method.clone());
        }
        let origins: Vec<HeaderValue> = origins
            .iter()
            .filter_map(|origin| HeaderValue::from_str(origin).ok())
            .collect();
        let layer = CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins.clone()))
            .allow_credentials(true)
            .allow_methods([
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers([
                AUTHORIZATION,
                CONTENT_TYPE,
                PLATFORM,
                CORRELATION_ID,
                IDEMPOTENCY_KEY,
            ])
            .expose_headers([
                quotas::LEFT,
                quotas::POLICY,
                RETRY_AFTER,
                REQUEST_ID,
                IDEMPOTENT_REPLAYED,
                ETAG,
            ])
            .max_age(MAX_AGE);
        Self(Arc::new(Rules {
            origins,
            operations,
            layer,
        }))
    }

    /// Whether the request is for an operation for users; a preflight, whether it asks for one.
    pub(super) fn covers(&self, request: &Request) -> bool {
        self.readers(request) == Pages::Listed
    }

    /// Whether every page may send this request: no credential that a browser adds counts for it.
    pub(super) fn is_open(&self, request: &Request) -> bool {
        self.readers(request) == Pages::Any
    }

    fn readers(&self, request: &Request) -> Pages {
        let asked = request.headers().get(ACCESS_CONTROL_REQUEST_METHOD);
        let method = match (request.method(), asked) {
            (&Method::OPTIONS, Some(asked)) => Method::from_bytes(asked.as_bytes()).ok(),
            (&Method::HEAD, _) => Some(Method::GET),
            (method, _) => Some(method.clone()),
        };
        let Some(method) = method else {
            return Pages::None;
        };
        if let Some(lookup) = request.extensions().get::<Lookup>() {
            return lookup.readable_by(&method);
        }
        let template = request.extensions().get::<MatchedPath>();
        let methods = template.and_then(|path| self.0.operations.get(path.as_str()));
        match methods.is_some_and(|methods| methods.contains(&method)) {
            true => Pages::Listed,
            false => Pages::None,
        }
    }

    /// Whether the origin of the request is on the list.
    pub(super) fn allows(&self, origin: Option<&HeaderValue>) -> bool {
        origin.is_some_and(|origin| self.0.origins.contains(origin))
    }
}

fn method(operation: &Operation) -> Method {
    use patchbay_api::operation::Method as Known;
    match operation.method {
        Known::GET => Method::GET,
        Known::POST => Method::POST,
        Known::PUT => Method::PUT,
        Known::PATCH => Method::PATCH,
        Known::DELETE => Method::DELETE,
    }
}

pub(super) async fn answer(State(cors): State<Cors>, request: Request, next: Next) -> Response {
    match cors.readers(&request) {
        Pages::None => return next.run(request).await,
        Pages::Any => return for_all(next, request).await,
        Pages::Listed => {}
    }
    if !cors.allows(request.headers().get(ORIGIN)) {
        // A cache must not give this answer to a page of an origin on the list.
        let mut response = next.run(request).await;
        response
            .headers_mut()
            .append(VARY, HeaderValue::from_static("origin"));
        return response;
    }
    match cors.0.layer.layer(next).oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Without `access-control-allow-credentials`, a browser gives no page an answer to a request with
/// credentials.
async fn for_all(next: Next, request: Request) -> Response {
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::any())
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers([CONTENT_TYPE, PLATFORM, CORRELATION_ID])
        .expose_headers([quotas::LEFT, quotas::POLICY, RETRY_AFTER, REQUEST_ID, ETAG])
        .max_age(MAX_AGE);
    match layer.layer(next).oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use axum::{Router, middleware};
    use http::StatusCode;

    use super::*;

    const ORIGIN_OF_PAGE: &str = "https://app.example";

    /// Two operations on one path: GET is for users, POST is not.
    fn router() -> Router {
        let cors = Cors::of(
            &[ORIGIN_OF_PAGE.to_owned()],
            &[(Method::GET, "/things/{id}")],
        );
        Router::new()
            .route("/things/{id}", get(async || "seen").post(async || "done"))
            .method_not_allowed_fallback(async || StatusCode::METHOD_NOT_ALLOWED)
            .layer(middleware::from_fn_with_state(cors, answer))
    }

    async fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        router().oneshot(request).await.expect("an answer")
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers().get(name)?.to_str().ok()
    }

    #[tokio::test]
    async fn a_page_on_the_list_reads_an_operation_for_users_and_may_ask_first() {
        let response = ask("GET", "/things/1", &[("origin", ORIGIN_OF_PAGE)]).await;
        assert_eq!(response.status(), StatusCode::OK);
        let allowed = header(&response, "access-control-allow-origin");
        assert_eq!(allowed, Some(ORIGIN_OF_PAGE));
        let credentials = header(&response, "access-control-allow-credentials");
        assert_eq!(credentials, Some("true"));
        let exposed = header(&response, "access-control-expose-headers").unwrap_or_default();
        assert_eq!(
            exposed,
            "ratelimit,ratelimit-policy,retry-after,x-request-id,idempotent-replayed,etag"
        );
        assert!(header(&response, "vary").is_some_and(|vary| vary.contains("origin")));

        let headers = [
            ("origin", ORIGIN_OF_PAGE),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "authorization,x-platform"),
        ];
        let response = ask("OPTIONS", "/things/1", &headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        let allowed = header(&response, "access-control-allow-origin");
        assert_eq!(allowed, Some(ORIGIN_OF_PAGE));
        let methods = header(&response, "access-control-allow-methods");
        assert_eq!(methods, Some("GET,POST,PUT,PATCH,DELETE"));
        let headers = header(&response, "access-control-allow-headers").unwrap_or_default();
        assert_eq!(
            headers,
            "authorization,content-type,x-platform,x-correlation-id,idempotency-key"
        );
        assert_eq!(header(&response, "access-control-max-age"), Some("600"));
    }

    #[tokio::test]
    async fn other_pages_and_other_operations_get_no_header_of_cors() {
        let preflight = |method| [("access-control-request-method", method)];
        for (method, origin, asked, varies) in [
            ("GET", "https://evil.example", None, true),
            ("GET", "https://app.example.evil.example", None, true),
            ("GET", "HTTPS://APP.EXAMPLE", None, true),
            ("GET", "null", None, true),
            ("OPTIONS", "https://evil.example", Some("GET"), true),
            ("POST", ORIGIN_OF_PAGE, None, false),
            ("OPTIONS", ORIGIN_OF_PAGE, Some("POST"), false),
            ("OPTIONS", ORIGIN_OF_PAGE, Some("B A D"), false),
            ("OPTIONS", ORIGIN_OF_PAGE, None, false),
        ] {
            let mut headers = vec![("origin", origin)];
            headers.extend(asked.into_iter().flat_map(preflight));
            let response = ask(method, "/things/1", &headers).await;
            let told = response.headers().keys();
            let told: Vec<_> = told
                .filter(|name| name.as_str().starts_with("access-control"))
                .collect();
            assert!(told.is_empty(), "{method} {origin} {asked:?}: {told:?}");
            assert_eq!(
                header(&response, "vary").is_some(),
                varies,
                "{method} {origin} {asked:?}"
            );
        }
        let response = ask("GET", "/nothing", &[("origin", ORIGIN_OF_PAGE)]).await;
        assert!(header(&response, "access-control-allow-origin").is_none());
    }
}
