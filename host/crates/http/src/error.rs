//! The error envelope `{"success":false,"code","message","details"?}`.
//!
//! `message` is for the client; the cause is logged once, here, and never sent.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;
use patchbay_api::answer::ErrorBody;
use patchbay_app::error::{Error, Kind};
use patchbay_app::quota::{Quota, whole_seconds};
use patchbay_model::serde_errors;

use super::MAX_BODY_BYTES;
use super::body_timeout::BodyTooSlow;
use super::quotas;

/// The answer of a failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<Duration>,
    quota: Option<Box<Quota>>,
    /// Whether it answers an earlier request with the same idempotency key.
    is_replayed: bool,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        let body = ErrorBody {
            success: false,
            code: code.into(),
            message: message.into(),
            details: None,
        };
        Self {
            status,
            body,
            retry_after: None,
            quota: None,
            is_replayed: false,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-input", message)
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal Server Error",
        )
    }

    /// Error for a body that could not be read; `most` is the size limit in bytes.
    pub(crate) fn of_body(error: &(dyn std::error::Error + 'static), most: usize) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        for error in chain {
            if let Some(slow) = error.downcast_ref::<BodyTooSlow>() {
                return Self::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "request-timeout",
                    slow.to_string(),
                );
            }
            if error.is::<LengthLimitError>() {
                return Self::too_large(most);
            }
        }
        Self::invalid("The body was not received completely")
    }

    fn too_large(most: usize) -> Self {
        let message = format!("The body is larger than {} MiB", most >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    }

    /// Time until a retry may work; rounded up to seconds in the header.
    pub(crate) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
}

/// Seconds, sent with `unavailable`: connections recover a second or two after their server.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let retry_after = match self.retry_after {
            Some(wait) => Some(HeaderValue::from(whole_seconds(wait))),
            None => (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
        };
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.is_replayed {
            let replayed = HeaderValue::from_static("true");
            response
                .headers_mut()
                .insert("idempotent-replayed", replayed);
        }
        quotas::write(response.headers_mut(), self.quota.as_deref());
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = match error.kind {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Gone => StatusCode::GONE,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Unconfirmed => StatusCode::PRECONDITION_REQUIRED,
            Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::RedisFull => StatusCode::INSUFFICIENT_STORAGE,
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Kind::Upstream => StatusCode::BAD_GATEWAY,
            Kind::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        };
        let body = ErrorBody {
            success: false,
            code: error.code,
            message: error.message,
            details: error.details,
        };
        Self {
            status,
            body,
            retry_after: error.retry_after,
            quota: error.quota,
            is_replayed: error.is_replayed,
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        if let JsonRejection::BytesRejection(unread) = &rejection {
            // axum does not include errors of its own in the source chain.
            return match unread.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(MAX_BODY_BYTES),
                _ => Self::of_body(unread, MAX_BODY_BYTES),
            };
        }
        let message = match &rejection {
            JsonRejection::JsonDataError(error) => words(&error.body_text()),
            JsonRejection::JsonSyntaxError(error) => {
                let text = error.body_text();
                format!(
                    "The body is not JSON: {}",
                    text.split_once("as JSON: ")
                        .map_or(text.as_str(), |(_, reason)| reason)
                )
            }
            other => other.body_text(),
        };
        Self::new(rejection.status(), "invalid-input", message)
    }
}

/// Removes the prefix of axum, which means nothing to a client, from the reason of serde.
fn words(text: &str) -> String {
    let heads = [
        "Failed to deserialize the JSON body into the target type: ",
        "Failed to deserialize query string: ",
    ];
    serde_errors::plain_reason(
        heads
            .iter()
            .find_map(|head| text.strip_prefix(head))
            .unwrap_or(text),
    )
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(words(&rejection.body_text()))
    }
}
