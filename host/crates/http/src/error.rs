//! One error envelope: `{"success":false,"code","message","details"?}`.
//!
//! `message` is for the client; the cause is logged once, here, and never sent.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;
use patchbay_app::bulk::BulkError;
use patchbay_app::history::{EraseError, NotShown};
use patchbay_app::plugins::PluginError;
use patchbay_app::selected::SelectError;
use patchbay_app::vault::VaultError;
use patchbay_model::filter::FilterError;
use patchbay_model::grant::Ask;
use patchbay_model::{InvalidId, misfit};
use patchbay_queue::QueueError;
use patchbay_store::{RoleError, StoreError};
use serde::Serialize;
use serde_json::Value;

use super::MAX_BODY_BYTES;
use super::unread::BodyTooSlow;

/// What a failed request answers.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<Duration>,
    is_private: bool,
}

/// The envelope of every error.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    /// Always false.
    success: bool,
    /// Stable, kebab-case.
    code: Cow<'static, str>,
    /// For people; says what to do next where that is known.
    message: String,
    /// Machine-readable detail.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
}

/// The envelope of every success.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Success<T> {
    /// Always true.
    success: bool,
    /// The answer.
    data: T,
    /// Of a list that goes on: `cursor` of the request for its next page.
    #[serde(rename = "nextCursor", skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// A search ended before its page was full because it takes only so long: there may be more behind `nextCursor`, or nothing at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

impl<T> Success<T> {
    pub(crate) fn into_parts(self) -> (T, Option<String>, bool) {
        (self.data, self.next_cursor, self.partial)
    }
}

pub(crate) type ApiResult<T> = Result<Json<Success<T>>, ApiError>;

pub(crate) fn ok<T>(data: T) -> ApiResult<T> {
    page(data, None)
}

/// A part of a list, and where the next part begins.
pub(crate) fn page<T>(data: T, next_cursor: Option<String>) -> ApiResult<T> {
    part(data, next_cursor, false)
}

/// The same of a search, which may have ended early.
pub(crate) fn part<T>(data: T, next_cursor: Option<String>, partial: bool) -> ApiResult<T> {
    Ok(Json(Success { success: true, data, next_cursor, partial }))
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let body = ErrorBody { success: false, code: code.into(), message: message.into(), details: None };
        Self { status, body, retry_after: None, is_private: false }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-input", message)
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal Server Error")
    }

    fn unavailable(what: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{what} does not answer; try again"))
    }

    /// Of a body that could not be read; `most`: bytes that it may have.
    pub(crate) fn of_body(error: &(dyn std::error::Error + 'static), most: usize) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        for error in chain {
            if let Some(slow) = error.downcast_ref::<BodyTooSlow>() {
                return Self::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", slow.to_string());
            }
            if error.is::<LengthLimitError>() {
                return Self::too_large(most);
            }
        }
        Self::invalid("the body broke off")
    }

    fn too_large(most: usize) -> Self {
        let message = format!("the body is larger than {} MiB", most >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    }

    pub(crate) fn with_details(mut self, details: Value) -> Self {
        self.body.details = Some(details);
        self
    }

    /// When it may work, rounded up to seconds.
    pub(crate) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Its message is a plugin's: for whoever asked, and not to be kept, since it may be personal.
    pub(crate) fn private(mut self) -> Self {
        self.is_private = true;
        self
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Safe for clients.
    pub(crate) fn message(&self) -> &str {
        &self.body.message
    }

    /// For the record of operators' actions: the client-safe message, or the code where that may be personal.
    pub(crate) fn to_record(&self) -> &str {
        if self.is_private { &self.body.code } else { &self.body.message }
    }
}

/// For clients that get `unavailable`, in seconds: connections are back a second or two after their server.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let retry_after = match self.retry_after {
            Some(wait) => Some(HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))),
            None => (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
        };
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

fn log_chain(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    tracing::error!(error = %text, "request failed");
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NotFound(message) => Self::not_found(message.clone()),
            StoreError::Conflict(message) => Self::new(StatusCode::CONFLICT, "conflict", message.clone()),
            StoreError::Unavailable(_) | StoreError::ReadOnly(_) => {
                log_chain(&error);
                let message = format!("{error}; try again");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            }
            StoreError::Unstorable(_) => Self::invalid(error.to_string()),
            _ => {
                log_chain(&error);
                Self::internal()
            }
        }
    }
}

impl From<BulkError> for ApiError {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Queue(error) => error.into(),
            BulkError::Store(error) => error.into(),
            BulkError::Stuck(message) => Self::invalid(message),
        }
    }
}

impl From<EraseError> for ApiError {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::Queue(error) => error.into(),
            EraseError::Store(error) => error.into(),
        }
    }
}

impl From<NotShown> for ApiError {
    fn from(error: NotShown) -> Self {
        match error {
            NotShown::Queue(error) => error.into(),
            NotShown::Store(error) => error.into(),
        }
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        match &error {
            QueueError::NotFound { .. } => Self::not_found(error.to_string()),
            QueueError::WrongState { .. }
            | QueueError::Running { .. }
            | QueueError::Scheduled { .. }
            | QueueError::NotKilled { .. }
            | QueueError::Busy { .. } => Self::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            QueueError::Invalid(message) => Self::invalid(message.clone()),
            QueueError::MemoryFull(message) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "redis-full", message.clone())
            }
            QueueError::Unavailable(_) => {
                log_chain(&error);
                Self::unavailable("Redis")
            }
            QueueError::CannotServe { .. } => {
                log_chain(&error);
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string())
            }
            QueueError::Damaged { .. } => {
                log_chain(&error);
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged-data", error.to_string())
            }
            _ => {
                log_chain(&error);
                Self::internal()
            }
        }
    }
}

impl From<PluginError> for ApiError {
    fn from(error: PluginError) -> Self {
        match error {
            PluginError::Rejected(rejection) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rejected", rejection.to_string())
            }
            PluginError::Untrusted(reason) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "untrusted", reason.to_string())
            }
            PluginError::Damaged(message) => Self::new(StatusCode::CONFLICT, "damaged", message),
            PluginError::NotFound(message) => Self::not_found(message),
            PluginError::Conflict(message) => Self::new(StatusCode::CONFLICT, "conflict", message),
            PluginError::NotGranted { ref plugin, ref missing } => {
                let message = format!(
                    "{error}; look at it, then activate with --grant, or: patchbay plugin grant {plugin} ASK; patchbay plugin grants {plugin}"
                );
                let missing: Vec<&str> = missing.iter().map(Ask::as_str).collect();
                Self::new(StatusCode::CONFLICT, "not-granted", message)
                    .with_details(serde_json::json!({ "missing": missing }))
            }
            PluginError::Settings(violations) => {
                let message = format!("settings do not fit the plugin's schema: {}", violations.join("; "));
                Self::invalid(message).with_details(violations.into())
            }
            PluginError::Runtime(error) => {
                log_chain(&error);
                Self::internal()
            }
            PluginError::Sql(RoleError::NeedsAdministrator { ref statements, .. }) => {
                let details = serde_json::json!({ "statements": statements });
                Self::new(StatusCode::CONFLICT, "database-rights", error.to_string()).with_details(details)
            }
            PluginError::Sql(RoleError::Refused(message)) => {
                Self::new(StatusCode::CONFLICT, "database-rights", message)
            }
            PluginError::Sql(RoleError::Store(error)) => error.into(),
            PluginError::NotInEffectYet(_) => {
                log_chain(&error);
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string())
            }
            PluginError::Store(error) => error.into(),
        }
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<SelectError> for ApiError {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Undeclared { .. } => Self::invalid(error.to_string()),
            SelectError::Store(error) => error.into(),
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoKey => Self::new(StatusCode::CONFLICT, "no-vault-key", error.to_string()),
            VaultError::Store(error) => error.into(),
        }
    }
}

impl From<InvalidId> for ApiError {
    fn from(error: InvalidId) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        if let JsonRejection::BytesRejection(unread) = &rejection {
            // What axum has found out itself it does not tell by its sources.
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
                    "the body is not JSON: {}",
                    text.split_once("as JSON: ").map_or(text.as_str(), |(_, reason)| reason)
                )
            }
            other => other.body_text(),
        };
        Self::new(rejection.status(), "invalid-input", message)
    }
}

/// What axum puts before serde's reason says nothing to a client.
fn words(text: &str) -> String {
    let heads = ["Failed to deserialize the JSON body into the target type: ", "Failed to deserialize query string: "];
    misfit::plainly(heads.iter().find_map(|head| text.strip_prefix(head)).unwrap_or(text))
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(words(&rejection.body_text()))
    }
}
