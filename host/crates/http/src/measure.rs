//! Counts every request, including those whose client disconnects before the answer.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, StatusCode};
use patchbay_telemetry::metrics::{RequestMeters, UNMATCHED};

use crate::plugin_routes::Lookup;

struct Counted {
    meters: Arc<RequestMeters>,
    method: Method,
    route: Option<MatchedPath>,
    lookup: Option<Lookup>,
    started: Instant,
    status: Option<StatusCode>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let of_plugin = || self.lookup.as_ref().and_then(Lookup::template);
        let route = self.route.as_ref().map(MatchedPath::as_str);
        let route = route.or_else(of_plugin).unwrap_or(UNMATCHED);
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
        lookup: request.extensions().get().cloned(),
        started: Instant::now(),
        status: None,
    };
    let response = next.run(request).await;
    counted.status = Some(response.status());
    response
}
