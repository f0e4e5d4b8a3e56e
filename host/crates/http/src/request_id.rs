//! Assigns a request id to every request, and the correlation id that is passed on to jobs, guests
//! and outside calls.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use patchbay_model::job::Trace;
use tracing::Instrument;
use uuid::Uuid;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
pub(super) const PLATFORM: HeaderName = HeaderName::from_static("x-platform");

/// Opens the span of the request, returns its id in the answer, and sets a [`Trace`] for handlers
/// that enqueue.
pub(super) async fn trace(
    State(default_platform): State<Arc<str>>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = Uuid::now_v7().to_string();
    let correlation_id =
        acceptable(request.headers(), &CORRELATION_ID).unwrap_or_else(|| request_id.clone());
    let platform = acceptable(request.headers(), &PLATFORM)
        .unwrap_or_else(|| default_platform.as_ref().to_owned());
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        // Only the path, because query strings may contain tokens.
        path = %request.uri().path(),
        request_id,
        correlation_id,
        platform,
        trace_id = tracing::field::Empty,
    );
    request.extensions_mut().insert(Trace {
        correlation_id: Some(correlation_id),
        platform: Some(platform),
        traceparent: None,
    });
    let started = std::time::Instant::now();
    async move {
        let mut response = next.run(request).await;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(status = response.status().as_u16(), elapsed_ms, "answered");
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }
    .instrument(span)
    .await
}

/// The header's value if it is short and plain; others are ignored, because the value ends up in
/// logs and in Redis.
fn acceptable(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    ((1..=64).contains(&text.len()) && text.chars().all(plain)).then(|| text.to_owned())
}
