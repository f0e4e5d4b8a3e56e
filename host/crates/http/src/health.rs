//! Routes `/api/health` (format of the previous backend, but with real checks), `/livez` and
//! `/readyz`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use patchbay_api::health::{HealthLive, HealthReady, HealthShow};
use patchbay_app::health::HealthCheck;

use crate::routes::Routes;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add_raw::<HealthShow, _>(show)
        .add_raw::<HealthLive, _>(live)
        .add_raw::<HealthReady, _>(ready)
}

async fn show(State(health): State<HealthCheck>) -> Response {
    let report = health.report().await;
    (status(report.success), Json(report)).into_response()
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(health): State<HealthCheck>) -> Response {
    let readiness = health.readiness().await;
    (status(readiness.ready), Json(readiness)).into_response()
}

fn status(is_well: bool) -> StatusCode {
    if is_well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
