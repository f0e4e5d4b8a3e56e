//! A request names the host that it is for once (RFC 9112 §3.2): two readers in a row may otherwise take it for two different ones.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Version;
use http::header::HOST;

use super::error::ApiError;

pub(super) async fn require_one(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return ApiError::invalid("the request needs exactly one Host header").into_response();
    }
    next.run(request).await
}
