//! Counts every request, including those whose client disconnects before the answer.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, StatusCode};
use patchbay_telemetry::metrics::{RequestMeters, UNMATCHED};

struct Counted {
    meters: Arc<RequestMeters>,
    method: Method,
    route: Option<MatchedPath>,
    started: Instant,
    status: Option<StatusCode>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let route = self.route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
        self.meters
            .count(&self.method, route, self.status, self.started.elapsed());
    }
}

pub(super) async fn count(
    State(meters): State<Arc<RequestMeters>>,
    request: Request,
    next: Next,
) -> Response {
    let mut counted = Counted {
        meters,
        method: request.method().clone(),
        route: request.extensions().get().cloned(),
        started: Instant::now(),
        status: None,
    };
    let response = next.run(request).await;
    counted.status = Some(response.status());
    response
}
