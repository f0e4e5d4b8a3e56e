//! Requests to routes of plugins. The router knows only the host's own paths; all others are looked
//! up in the table of routes, once per request and before everything that depends on the route.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use patchbay_app::Error;
use patchbay_app::plugins::{PathMatch, Route};
use patchbay_app::routes::{
    Received, RelayBody, RelayedContent, Reply, ReplyBody, Routes, Sender, Unserved,
};
use patchbay_model::job::Trace;
use patchbay_model::manifest::{CacheSpec, Cors, UnavailableSpec};
use patchbay_model::request_path::InvalidPath;
use patchbay_telemetry::traces::{Span, SpanKind};
use sha2::{Digest, Sha256};

use crate::AppState;
use crate::anonymous;
use crate::client_address::ClientAddress;
use crate::error::ApiError;
use crate::route_request::receive;
use crate::security_headers::MayBeKept;
use crate::{not_found, run_to_end, user_login, vendor_login, webhooks};

const JSON: &str = "application/json";
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Larger answers get no tag of the host.
const MAX_TAGGED_BYTES: usize = 1 << 20;
/// What a browser may show on this origin; it must save all other content.
const SHOWN: [&str; 3] = ["audio/", "image/", "application/pdf"];

/// What the path of a request means to plugins. Absent where no plugin has the path.
#[derive(Clone)]
pub(crate) enum Lookup {
    Found(PathMatch),
    Invalid(InvalidPath),
}

impl Lookup {
    /// The path of its route as the manifest has it, so that a client's text becomes no label.
    pub(crate) fn template(&self) -> Option<&str> {
        match self {
            Self::Found(found) => Some(found.template()),
            Self::Invalid(_) => None,
        }
    }

    /// Whether a webhook takes requests with this method.
    pub(crate) fn is_webhook(&self, method: &Method) -> bool {
        match self {
            Self::Found(found) => {
                let method = method.as_str();
                found.route(method).is_none() && found.webhook(method).is_some()
            }
            Self::Invalid(_) => false,
        }
    }

    /// Which pages of other origins may read the answer to a request with this method: those that
    /// the operator lists, all, or none.
    pub(crate) fn readable_by(&self, method: &Method) -> Pages {
        let Self::Found(found) = self else {
            return Pages::None;
        };
        let Some(route) = found.route(method.as_str()) else {
            return Pages::None;
        };
        match route.spec.cors {
            Cors::Any => Pages::Any,
            Cors::Default if route.is_for_users() => Pages::Listed,
            Cors::Default | Cors::None => Pages::None,
        }
    }
}

/// Pages of other origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    None,
    /// Those of the operator's list, with credentials.
    Listed,
    /// Never with credentials.
    Any,
}

/// Puts a [`Lookup`] into requests for paths that are not the host's.
pub(crate) async fn look_up(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.extensions().get::<MatchedPath>().is_none() {
        let found = match state.app.routes.find(request.uri().path()) {
            Ok(found) => found.map(Lookup::Found),
            Err(invalid) => Some(Lookup::Invalid(invalid)),
        };
        if let Some(found) = found {
            request.extensions_mut().insert(found);
        }
    }
    next.run(request).await
}

/// Answers what no route of the host takes.
pub(crate) async fn answer(State(state): State<AppState>, request: Request) -> Response {
    let lookup = request.extensions().get::<Lookup>().cloned();
    let network = anonymous::network_of(&request);
    let refused = match lookup {
        Some(Lookup::Found(found)) => match found.route(request.method().as_str()) {
            Some(route) => {
                let route = Arc::clone(route);
                let started = Instant::now();
                let response = serve(&state, &found, &route, request).await;
                let (name, revision) = (route.name(), route.digest.short());
                let status = response.status().as_u16();
                state.app.routes.count(&route, status, started.elapsed());
                tracing::debug!(
                    route = name,
                    revision,
                    status,
                    "a route of a plugin was asked"
                );
                return response;
            }
            None => match found.webhook(request.method().as_str()) {
                Some(webhook) => {
                    let is_head = request.method() == Method::HEAD;
                    let response = webhooks::serve(&state, webhook, request).await;
                    return match is_head {
                        true => without_body(response),
                        false => response,
                    };
                }
                None => other_method(&found, request.method()),
            },
        },
        Some(Lookup::Invalid(reason)) => {
            let status = StatusCode::BAD_REQUEST;
            ApiError::new(status, "invalid-path", reason.to_string()).into_response()
        }
        None => {
            return match state.anonymous.take(network).await {
                Ok(()) => not_found(request).await,
                Err(refused) => refused.into_response(),
            };
        }
    };
    match state.anonymous.take(network).await {
        Ok(()) => refused,
        Err(limited) => limited.into_response(),
    }
}

/// OPTIONS, or a method that no route of the path has.
fn other_method(found: &PathMatch, method: &Method) -> Response {
    let mut response = match *method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => {
            let message = format!(
                "This path does not serve that method. It serves {}",
                found.allow()
            );
            let status = StatusCode::METHOD_NOT_ALLOWED;
            ApiError::new(status, "method-not-allowed", message).into_response()
        }
    };
    if let Ok(allow) = HeaderValue::from_str(&found.allow()) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

async fn serve(state: &AppState, found: &PathMatch, route: &Route, request: Request) -> Response {
    let is_head = request.method() == Method::HEAD;
    let trace = request.extensions().get().cloned().unwrap_or_default();
    let mut step = open_span(state, route, &trace);
    let trace = step.causes(trace);
    let mut response = match respond(state, found, route, request, trace).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    if let Some(cache) = route.spec.cache
        && matches!(response.status().as_u16(), 200 | 206 | 304)
    {
        keep(&mut response, cache, &route.spec.request_headers);
    }
    let status = response.status();
    step.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        step.failed("5xx");
    }
    match is_head {
        true => without_body(response),
        false => response,
    }
}

/// Begins a trace: what clients of routes say of theirs is not believed, since it would decide what is
/// sent to the collector.
fn open_span(state: &AppState, route: &Route, trace: &Trace) -> Span {
    let method = route.spec.method.as_str();
    let path = route.spec.path.as_str();
    let root = Trace {
        traceparent: None,
        ..trace.clone()
    };
    let name = || format!("{method} {path}");
    let mut step = state.traces.span(SpanKind::Request, name, &root);
    step.set("http.request.method", method);
    step.set("http.route", path.to_owned());
    step.set("patchbay.plugin", route.plugin.to_string());
    step.set("patchbay.route", route.spec.id().to_owned());
    step.set("patchbay.revision", route.digest.short());
    step.name_in(&tracing::Span::current());
    step
}

/// What the route declares of caches.
fn keep(response: &mut Response, cache: CacheSpec, asked: &[String]) {
    let Ok(told) = HeaderValue::from_str(&cache.to_string()) else {
        return;
    };
    response.headers_mut().insert(CACHE_CONTROL, told);
    // Whoever sends other values of these may get another answer.
    let mut vary = "authorization, cookie, origin, x-api-key, x-platform".to_owned();
    for name in asked {
        vary.push_str(", ");
        vary.push_str(name);
    }
    if let Ok(vary) = HeaderValue::from_str(&vary) {
        response.headers_mut().append(VARY, vary);
    }
    response.extensions_mut().insert(MayBeKept);
}

async fn respond(
    state: &AppState,
    found: &PathMatch,
    route: &Route,
    request: Request,
    trace: Trace,
) -> Result<Response, ApiError> {
    let routes = &state.app.routes;
    let admitted = routes.admit(route, &sender(&request)).await?;
    if let Err(unserved) = Routes::runner(route) {
        return unavailable(unserved);
    }
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let known = request.headers().get(IF_NONE_MATCH).cloned();
    let received = Received {
        trace,
        ..receive(&route.spec, request, |network| {
            routes.room(&admitted, network)
        })
        .await?
    };
    // Whoever waits for the answer to the same key gets it also when this client leaves.
    let ends_with_client = is_get && received.idempotency_key.is_none();
    let (routes, found, name) = (routes.clone(), found.clone(), route.spec.method);
    // The route, and with it its revision, is held until the answer is there.
    let call = async move {
        let Some(route) = found.route(name.as_str()) else {
            return Err(Unserved::Refused(Error::internal()));
        };
        routes.call(route, found.values(), admitted, received).await
    };
    let outcome = match ends_with_client {
        true => call.await,
        // A client that leaves will ask again: what it has begun is done to the end.
        false => run_to_end::complete(state, call)
            .await
            .ok_or_else(ApiError::internal)?,
    };
    match outcome {
        Ok(reply) => write(reply, is_get.then_some(known.as_ref())),
        Err(unserved) => unavailable(unserved),
    }
}

fn sender(request: &Request) -> Sender {
    let (headers, extensions) = (request.headers(), request.extensions());
    let address = extensions.get().map(|ClientAddress(address)| *address);
    Sender {
        token: user_login::access_token(headers),
        key: vendor_login::key(headers),
        address,
        network: anonymous::network_of(request),
        trace: extensions.get().cloned().unwrap_or_default(),
    }
}

fn unavailable(unserved: Unserved) -> Result<Response, ApiError> {
    match unserved {
        Unserved::Refused(error) => Err(error.into()),
        Unserved::Declared(UnavailableSpec { status, body }) => {
            let status = StatusCode::from_u16(status).map_err(|_| ApiError::internal())?;
            Ok((status, axum::Json(body)).into_response())
        }
    }
}

/// `known`: for GET, what the client says that it has already.
fn write(reply: Reply, known: Option<Option<&HeaderValue>>) -> Result<Response, ApiError> {
    let status = StatusCode::from_u16(reply.status).map_err(|_| ApiError::internal())?;
    let tag = match (&reply.body, known) {
        (ReplyBody::Json(text), Some(_)) => tag_of(status, text.as_bytes()),
        (ReplyBody::Bytes(_, content), Some(_)) => tag_of(status, content),
        _ => None,
    };
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| ApiError::internal());
    let mut response = match reply.body {
        ReplyBody::Empty => status.into_response(),
        ReplyBody::Json(text) => (status, [(CONTENT_TYPE, value(JSON)?)], text).into_response(),
        ReplyBody::Bytes(kind, content) => {
            let headers = [
                (CONTENT_TYPE, value(&kind)?),
                (CONTENT_DISPOSITION, disposition(&kind)),
            ];
            (status, headers, content).into_response()
        }
        ReplyBody::Relayed(RelayedContent {
            content_type,
            length,
            body,
        }) => {
            let headers = [
                (CONTENT_TYPE, value(&content_type)?),
                (CONTENT_DISPOSITION, disposition(&content_type)),
                (CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox")),
            ];
            let mut response = (status, headers, relayed(body)).into_response();
            let length = length.map(HeaderValue::from);
            let lengths = length.map(|length| (CONTENT_LENGTH, length));
            response.headers_mut().extend(lengths);
            response
        }
    };
    if reply.is_replayed {
        let headers = response.headers_mut();
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    // A plugin's own tag, below, goes before.
    response.headers_mut().extend(tag.map(|tag| (ETAG, tag)));
    for (name, value) in reply.headers {
        let name = HeaderName::try_from(name).map_err(|_| ApiError::internal())?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| ApiError::internal())?;
        match name {
            ETAG => drop(response.headers_mut().insert(name, value)),
            name => drop(response.headers_mut().append(name, value)),
        }
    }
    match known.flatten() {
        Some(known) if status == StatusCode::OK && is_known(known, response.headers()) => {
            Ok(unchanged(response))
        }
        _ => Ok(response),
    }
}

fn disposition(kind: &str) -> HeaderValue {
    let is_shown = SHOWN.iter().any(|shown| kind.starts_with(shown));
    HeaderValue::from_static(if is_shown { "inline" } else { "attachment" })
}

/// No faster than the client reads. An error cuts the connection off, so that the client does not
/// take what it has for the whole.
fn relayed(body: RelayBody) -> Body {
    let pieces = futures::stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match body.next().await? {
            Ok(piece) => Some((Ok(Bytes::from(piece)), Some(body))),
            Err(aborted) => Some((Err(aborted), None)),
        }
    });
    Body::from_stream(pieces)
}

fn tag_of(status: StatusCode, content: &[u8]) -> Option<HeaderValue> {
    if status != StatusCode::OK || content.len() > MAX_TAGGED_BYTES {
        return None;
    }
    let hash = URL_SAFE_NO_PAD.encode(&Sha256::digest(content)[..16]);
    HeaderValue::from_str(&format!("\"{hash}\"")).ok()
}

/// Whether the client has this answer already (RFC 9110, 13.1.2: weak tags are compared as strong
/// ones).
fn is_known(known: &HeaderValue, headers: &HeaderMap) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Some(tag) = headers.get(ETAG).and_then(|tag| tag.to_str().ok()) else {
        return false;
    };
    let tag = plain(tag);
    known
        .to_str()
        .is_ok_and(|known| known.trim() == "*" || known.split(',').any(|one| plain(one) == tag))
}

/// Without the content and what describes it.
fn unchanged(response: Response) -> Response {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_DISPOSITION] {
        head.headers.remove(name);
    }
    Response::from_parts(head, Body::empty())
}

/// The answer to HEAD: it says how long the content would be.
fn without_body(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let length = http_body::Body::size_hint(&body).exact();
    let has_none = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    if let Some(length) = length.filter(|_| !has_none) {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}
