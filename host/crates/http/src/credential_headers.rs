//! Refuses requests with a credential that is there twice: a proxy may have looked at one of them, and
//! the host would act on the other.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;

use crate::error::ApiError;
use crate::plugin_routes::Lookup;
use crate::security_headers::API_KEY;

/// Webhooks have rules of their own, and keep what they refuse so that operators see it.
pub(super) async fn refuse_repeated(request: Request, next: Next) -> Response {
    let repeated = [(AUTHORIZATION, "Authorization"), (API_KEY, "X-API-Key")]
        .into_iter()
        .find(|(name, _)| request.headers().get_all(name).iter().nth(1).is_some());
    let lookup = request.extensions().get::<Lookup>();
    let is_of_webhook = lookup.is_some_and(|found| found.is_webhook(request.method()));
    match repeated {
        Some((_, name)) if !is_of_webhook => {
            ApiError::invalid(format!("The request must have at most one {name} header"))
                .into_response()
        }
        _ => next.run(request).await,
    }
}
