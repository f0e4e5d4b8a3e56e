//! Requires exactly one `Host` header (RFC 9112 §3.2): otherwise two readers in a row could take
//! the request for different hosts.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Version;
use http::header::HOST;

use super::error::ApiError;

pub(super) async fn require_one(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return ApiError::invalid("The request must have exactly one Host header").into_response();
    }
    next.run(request).await
}
