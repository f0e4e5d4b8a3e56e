//! GET /api/health (the old backend's shape, made honest), /livez and /readyz.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{SecondsFormat, Utc};
use http::StatusCode;
use patchbay_app::health::NotReady;
use serde::Serialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(live)).routes(routes!(ready))
}

/// The body of the health check.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct HealthBody {
    /// Whether both dependencies answered.
    success: bool,
    /// Only when not.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    data: HealthData,
}

/// Old fields in their old places; `redis` and the latencies are new.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct HealthData {
    /// Always `OK`, as in the old backend: the signal is the HTTP status.
    status: &'static str,
    /// Now, ISO 8601.
    timestamp: String,
    /// Seconds since start.
    uptime: f64,
    /// `NODE_ENV`.
    environment: String,
    database: Dependency,
    redis: Dependency,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    /// A real round trip succeeded within its time limit.
    connected: bool,
    /// `postgresql` or `redis`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Of that round trip, milliseconds.
    latency_ms: Option<f64>,
    /// Of Postgres: false while it takes no change, as a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    writable: Option<bool>,
}

impl Dependency {
    fn new(kind: &'static str, round_trip: Option<std::time::Duration>) -> Self {
        Self {
            connected: round_trip.is_some(),
            kind,
            latency_ms: round_trip.map(|time| time.as_secs_f64() * 1e3),
            writable: None,
        }
    }
}

/// Health of the process and its dependencies.
#[utoipa::path(get, path = "/api/health", tag = "health", responses(
    (status = 200, description = "Postgres answered and takes changes, and Redis took a write", body = HealthBody),
    (status = 503, description = "one of them did not", body = HealthBody),
    (status = 500, description = "the check itself failed"),
))]
async fn health(State(state): State<AppState>) -> Response {
    // In a task, so that a panic in the check becomes the documented 500 body.
    let health = state.health.clone();
    let probe = match tokio::spawn(async move { health.probe().await }).await {
        Ok(probe) => probe,
        Err(_) => {
            let body =
                json!({ "success": false, "message": "Internal server error", "error": "the health check failed" });
            return (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response();
        }
    };
    let healthy = probe.healthy();
    let body = HealthBody {
        success: healthy,
        message: (!healthy).then_some("Service unavailable"),
        data: HealthData {
            status: "OK",
            timestamp: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            uptime: state.health.uptime().as_secs_f64(),
            environment: state.environment.to_string(),
            database: Dependency {
                writable: probe.database.map(|_| probe.read_only.is_none()),
                ..Dependency::new("postgresql", probe.database)
            },
            redis: Dependency::new("redis", probe.redis),
        },
    };
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// The process runs. Touches nothing else: a supervisor must not restart it because a database is away.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "alive")))]
async fn live() -> &'static str {
    "ok\n"
}

/// Whether to send work here.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "ready"),
    (status = 503, description = "not ready: draining, a dependency away or unfit, Postgres only readable, clock skewed, or stale plugins; `details` says what to do"),
))]
async fn ready(State(state): State<AppState>) -> Response {
    let details: Vec<NotReady> = state.health.not_ready().await;
    let status = if details.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reasons: Vec<&str> = details.iter().map(|reason| reason.code).collect();
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons, "details": details }))).into_response()
}
