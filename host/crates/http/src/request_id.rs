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

/// The platforms that a request may name.
#[derive(Clone)]
pub(super) struct Platforms {
    /// Of requests that name none, or an unknown one.
    pub(super) default: Arc<str>,
    /// Empty: any.
    pub(super) known: Arc<[String]>,
}

impl Platforms {
    fn of(&self, headers: &HeaderMap) -> String {
        acceptable(headers, &PLATFORM)
            .filter(|name| self.known.is_empty() || self.known.contains(name))
            .unwrap_or_else(|| self.default.as_ref().to_owned())
    }
}

/// Opens the span of the request, returns its id in the answer, and sets a [`Trace`] for handlers
/// that enqueue.
pub(super) async fn trace(
    State(platforms): State<Platforms>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = Uuid::now_v7().to_string();
    let correlation_id =
        acceptable(request.headers(), &CORRELATION_ID).unwrap_or_else(|| request_id.clone());
    let platform = platforms.of(request.headers());
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
