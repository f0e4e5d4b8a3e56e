//! Opens spans for requests of operators.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use patchbay_model::job::Trace;
use patchbay_telemetry::traces::SpanKind;

use crate::AppState;

/// Continues the trace of the request, and sets its position in the [`Trace`] for handlers that
/// enqueue.
pub(crate) async fn open(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let header = request
        .headers()
        .get("traceparent")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let trace = request
        .extensions()
        .get::<Trace>()
        .cloned()
        .unwrap_or_default();
    let trace = Trace {
        traceparent: header,
        ..trace
    };
    // The template and not the path, because paths contain job ids.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str)
        .to_owned();
    let method = patchbay_telemetry::metrics::known_method(request.method());
    let mut step = state
        .traces
        .span(SpanKind::Request, || format!("{method} {route}"), &trace);
    step.set("http.request.method", method);
    step.set("http.route", route);
    step.name_in(&tracing::Span::current());
    request.extensions_mut().insert(step.causes(trace));
    let response = next.run(request).await;
    step.set(
        "http.response.status_code",
        i64::from(response.status().as_u16()),
    );
    if response.status().is_server_error() {
        step.failed("5xx");
    }
    response
}
