//! Requests to routes of plugins. The router knows only the host's own paths; all others are looked
//! up in the table of routes, once per request and before everything that depends on the route.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use patchbay_app::Error;
use patchbay_app::plugins::{PathMatch, Route};
use patchbay_app::routes::{Received, Reply, ReplyBody, Routes, Sender, Unserved};
use patchbay_model::manifest::{RouteSpec, UnavailableSpec};
use patchbay_model::request_path::InvalidPath;

use crate::AppState;
use crate::anonymous;
use crate::client_address::ClientAddress;
use crate::error::ApiError;
use crate::plugin_calls::idempotency_key;
use crate::{not_found, run_to_end, user_login, vendor_login, webhooks};

const JSON: &str = "application/json";
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

    /// Whether a request with this method is for accounts, or for visitors.
    pub(crate) fn is_for_users(&self, method: &Method) -> bool {
        match self {
            Self::Found(found) => found
                .route(method.as_str())
                .is_some_and(|route| route.is_for_users()),
            Self::Invalid(_) => false,
        }
    }
}

/// Puts a [`Lookup`] into requests for paths that are not the host's.
pub(crate) async fn look_up(
    State(routes): State<Routes>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.extensions().get::<MatchedPath>().is_none() {
        let found = match routes.find(request.uri().path()) {
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
                let response = serve(&state, &found, &route, request).await;
                let (name, revision) = (route.name(), route.digest.short());
                let status = response.status().as_u16();
                tracing::debug!(
                    route = name,
                    revision,
                    status,
                    "a route of a plugin was asked"
                );
                return response;
            }
            None => match found.webhook(request.method().as_str()) {
                Some(webhook) => return webhooks::serve(&state, webhook, request).await,
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
    let response = match respond(state, found, route, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    match is_head {
        true => without_body(response),
        false => response,
    }
}

async fn respond(
    state: &AppState,
    found: &PathMatch,
    route: &Route,
    request: Request,
) -> Result<Response, ApiError> {
    let routes = &state.app.routes;
    let caller = routes.admit(route, &sender(&request)).await?;
    if let Err(unserved) = Routes::runner(route) {
        return unavailable(unserved);
    }
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let received = receive(&route.spec, request).await?;
    let (routes, found, name) = (routes.clone(), found.clone(), route.spec.method);
    // The route, and with it its revision, is held until the answer is there.
    let call = async move {
        let Some(route) = found.route(name.as_str()) else {
            return Err(Unserved::Refused(Error::internal()));
        };
        routes.call(route, found.values(), caller, received).await
    };
    let outcome = match is_safe {
        true => call.await,
        // A client that leaves will ask again: what it has begun is done to the end.
        false => run_to_end::complete(state, call)
            .await
            .ok_or_else(ApiError::internal)?,
    };
    match outcome {
        Ok(reply) => write(reply),
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

/// Reads what the route takes of a request, and nothing else.
async fn receive(spec: &RouteSpec, request: Request) -> Result<Received, ApiError> {
    let headers = request.headers();
    let named = spec.request_headers.iter().flat_map(|name| {
        let values = headers.get_all(name.as_str()).iter();
        values.map(move |value| (name.clone(), value.as_bytes().to_vec()))
    });
    let received = Received {
        query: request.uri().query().unwrap_or_default().to_owned(),
        body: None,
        headers: named.collect(),
        idempotency_key: idempotency_key(headers)?,
        range: headers.get(RANGE).map(|range| range.as_bytes().to_vec()),
    };
    if !spec.takes_body() {
        return Ok(received);
    }
    let most = usize::try_from(spec.max_body_bytes).unwrap_or(usize::MAX);
    let too_large = || {
        let message = format!("The body is larger than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    };
    let is_json = is_json(headers);
    let announced = headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return Err(unsupported(
            "The body must not be compressed: send it without Content-Encoding",
        ));
    }
    if announced.is_some_and(|length| length > spec.max_body_bytes) {
        return Err(too_large());
    }
    let read = axum::body::to_bytes(request.into_body(), most).await;
    let bytes = read.map_err(|error| match ApiError::of_body(&error, most) {
        error if error.is_too_large() => too_large(),
        error => error,
    })?;
    if !bytes.is_empty() && !is_json {
        return Err(unsupported(
            "The body must be JSON: send it with Content-Type: application/json",
        ));
    }
    Ok(Received {
        body: (!bytes.is_empty()).then(|| bytes.to_vec()),
        ..received
    })
}

fn unsupported(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid-input", message)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON))
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

fn write(reply: Reply) -> Result<Response, ApiError> {
    let status = StatusCode::from_u16(reply.status).map_err(|_| ApiError::internal())?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| ApiError::internal());
    let mut response = match reply.body {
        ReplyBody::Empty => status.into_response(),
        ReplyBody::Json(text) => (status, [(CONTENT_TYPE, value(JSON)?)], text).into_response(),
        ReplyBody::Bytes(kind, content) => {
            let is_shown = SHOWN.iter().any(|shown| kind.starts_with(shown));
            let disposition = if is_shown { "inline" } else { "attachment" };
            let headers = [
                (CONTENT_TYPE, value(&kind)?),
                (CONTENT_DISPOSITION, HeaderValue::from_static(disposition)),
            ];
            (status, headers, content).into_response()
        }
    };
    for (name, value) in reply.headers {
        let name = HeaderName::try_from(name).map_err(|_| ApiError::internal())?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| ApiError::internal())?;
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// The answer to HEAD: it says how long the content would be.
fn without_body(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let length = http_body::Body::size_hint(&body).exact();
    if let Some(length) = length.filter(|_| head.status != StatusCode::NO_CONTENT) {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}
