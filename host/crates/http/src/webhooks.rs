//! Requests of vendors to webhooks of plugins: limits and body, then one use case, then the answer.
//! What is too large or of a wrong type is refused without being read.

use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use patchbay_app::inbox::{Received, Reservation, WebhookAnswer};
use patchbay_app::plugins::Webhook;
use patchbay_model::manifest::WebhookSpec;
use patchbay_model::webhook::EventReply;
use serde_json::json;

use crate::AppState;
use crate::client_address::ClientAddress;
use crate::error::ApiError;
use crate::route_request::is_coded;

/// A body must arrive within this time.
const BODY_LIMIT: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The host answers by this part of the vendor's limit, whatever happens.
const ANSWER_PERCENT: u64 = 80;
/// A request has at most this many headers, and bytes in them.
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 32 << 10;

pub(crate) async fn serve(state: &AppState, webhook: &Webhook, request: Request) -> Response {
    let limit = Duration::from_millis(webhook.spec.ack_ms * ANSWER_PERCENT / 100);
    let answered = tokio::time::timeout(limit, respond(state, webhook, request)).await;
    let answer = answered.unwrap_or_else(|_| {
        state.app.inbox.count_refused(webhook, "too-slow");
        let message = "The request could not be kept in time. Send it again";
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        Err(error.retry_after(Some(RETRY_AFTER)))
    });
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    let (webhook, revision) = (webhook.name(), webhook.digest.short());
    let status = response.status().as_u16();
    tracing::debug!(webhook, revision, status, "a webhook was called");
    response
}

async fn respond(
    state: &AppState,
    webhook: &Webhook,
    request: Request,
) -> Result<Response, ApiError> {
    let inbox = &state.app.inbox;
    let refuse = |refusal: Refusal| {
        let (reason, error) = *refusal;
        inbox.count_refused(webhook, reason);
        error
    };
    let at = Utc::now();
    let spec = &webhook.spec;
    let is_handshake = spec.is_handshake(request.method().as_str());
    check_head(spec, request.headers(), is_handshake).map_err(refuse)?;
    let address = request
        .extensions()
        .get()
        .map(|ClientAddress(address)| *address);
    // The body's bytes count until the answer.
    let mut room = inbox.reservation(address);
    let (head, body) = request.into_parts();
    let reading = tokio::time::timeout(BODY_LIMIT, read(body, spec.max_body_bytes, &mut room));
    let body = reading
        .await
        .unwrap_or_else(|_| Err(too_slow()))
        .map_err(refuse)?;
    let headers = head.headers.iter();
    let received = Received {
        method: head.method.as_str().to_owned(),
        path: spec.path.as_str().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect(),
        body,
        address,
        at,
        trace: head.extensions.get().cloned().unwrap_or_default(),
    };
    match inbox.receive(webhook, received).await? {
        WebhookAnswer::Kept => kept(spec),
        WebhookAnswer::Reply(reply) => write(reply),
        WebhookAnswer::Rejected(status) => {
            let status = StatusCode::from_u16(status).map_err(|_| ApiError::internal())?;
            let message = "The request was rejected";
            Ok(ApiError::new(status, "webhook-rejected", message).into_response())
        }
    }
}

/// What is counted, and what the sender is told.
type Refusal = Box<(&'static str, ApiError)>;

/// What the head says already. A handshake has no body whose type counts.
fn check_head(spec: &WebhookSpec, headers: &HeaderMap, is_handshake: bool) -> Result<(), Refusal> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        let message =
            format!("At most {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes are taken");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Box::new((
            "too-large",
            ApiError::new(status, "too-large", message),
        )));
    }
    // Signatures cover the bytes that were sent, and nothing is ever inflated.
    if is_coded(headers) {
        return Err(unsupported(
            "The body must not be compressed: send it without Content-Encoding",
        ));
    }
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .map(str::trim);
    let is_taken = spec.content_types.is_empty()
        || is_handshake
        || kind.is_some_and(|kind| {
            let mut taken = spec.content_types.iter();
            taken.any(|taken| taken.eq_ignore_ascii_case(kind))
        });
    if !is_taken {
        let message = format!(
            "This webhook takes bodies of these types: {}",
            spec.content_types.join(", ")
        );
        return Err(unsupported(&message));
    }
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match announced.is_some_and(|length| length > spec.max_body_bytes) {
        true => Err(too_large(spec.max_body_bytes)),
        false => Ok(()),
    }
}

/// The body, cut at its limit also where its length was not announced.
async fn read(
    mut body: axum::body::Body,
    most: u64,
    room: &mut Reservation,
) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            Box::new(("broken", ApiError::of_body(&error, most)))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (bytes.len() + data.len()) as u64 > most {
            return Err(too_large(most));
        }
        if !room.take(data.len()) {
            let message = "This host is receiving too much at once. Send it again later";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let error =
                ApiError::new(status, "unavailable", message).retry_after(Some(RETRY_AFTER));
            return Err(Box::new(("no-room", error)));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn unsupported(message: &str) -> Refusal {
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Box::new((
        "unsupported",
        ApiError::new(status, "invalid-input", message),
    ))
}

fn too_large(most: u64) -> Refusal {
    let message = format!("The body is larger than {most} bytes");
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    Box::new(("too-large", ApiError::new(status, "too-large", message)))
}

fn too_slow() -> Refusal {
    let message = format!("The body did not arrive within {} s", BODY_LIMIT.as_secs());
    let status = StatusCode::REQUEST_TIMEOUT;
    Box::new((
        "too-slow",
        ApiError::new(status, "request-timeout", message),
    ))
}

fn kept(spec: &WebhookSpec) -> Result<Response, ApiError> {
    let status = StatusCode::from_u16(spec.success_status).map_err(|_| ApiError::internal())?;
    Ok(match status {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT => status.into_response(),
        _ => (status, axum::Json(json!({ "success": true }))).into_response(),
    })
}

/// No browser runs anything of it.
fn write(reply: EventReply) -> Result<Response, ApiError> {
    let status = StatusCode::from_u16(reply.status).map_err(|_| ApiError::internal())?;
    let kind = HeaderValue::from_str(&reply.content_type).map_err(|_| ApiError::internal())?;
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((status, headers, reply.body).into_response())
}
