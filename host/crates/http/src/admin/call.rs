//! /api/admin/plugins/{name}/call: an operation of a plugin, answered at once.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use patchbay_api::headers::{ANSWER, STATUS};
use patchbay_app::plugins::{Answer, AnswerBody, CallError, CallRefusalKind, Operation};
use patchbay_model::PluginName;
use patchbay_model::capability::HttpResponse;
use patchbay_model::job::Trace;
use patchbay_model::operation::{Caller, MAX_NAME, is_name};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::recorded;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ErrorBody, ok};
use crate::path::Path;

/// As job data.
const MAX_INPUT_BYTES: usize = 1 << 20;
const MAX_KEY: usize = 255;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What of a relayed response belongs to its content.
const RELAYED: [HeaderName; 5] =
    [header::CONTENT_TYPE, header::CONTENT_RANGE, header::ACCEPT_RANGES, header::ETAG, header::LAST_MODIFIED];

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(call))
}

/// What to ask.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Call {
    /// One of those that the plugin knows.
    operation: String,
    /// Any JSON, given to the plugin as it is; `{}` when absent.
    #[schema(value_type = Option<Value>)]
    input: Option<Box<RawValue>>,
}

/// Ask the active revision of a plugin for one of its operations. `x-patchbay-answer` says what came: `json` in the usual envelope, `bytes`
/// with their content type, `relay` what another server answered (with its status; `range` is passed on), `empty` nothing. Nothing is
/// tried again.
#[utoipa::path(post, path = "/plugins/{name}/call", tag = "plugins", security(("operator" = [])),
    params(("name" = String, Path),
        ("idempotency-key" = Option<String>, Header, description = "given to the plugin; otherwise a new one is made")),
    request_body = Call, responses(
    (status = 200, description = "the answer; `x-patchbay-status` is the status that the plugin chose, if it did", body = Value),
    (status = 204, description = "an empty answer"),
    (status = 400, description = "not JSON, or `invalid-input` says the plugin", body = ErrorBody),
    (status = 403, description = "`forbidden` says the plugin", body = ErrorBody),
    (status = 404, description = "no such plugin, or `not-found` says the plugin: the operation, for one", body = ErrorBody),
    (status = 409, description = "`inactive`; `no-operations`: the active revision has none; or `conflict` says the plugin", body = ErrorBody),
    (status = 413, description = "the input is larger than 1 MiB", body = ErrorBody),
    (status = 429, description = "`rate-limited` says the plugin", body = ErrorBody),
    (status = 500, description = "`trapped`, `memory-limit`, `invalid-result`, `relay-denied`, or another code of the plugin", body = ErrorBody),
    (status = 502, description = "`bad-credentials` or `upstream`: the plugin's or the relayed server's trouble", body = ErrorBody),
    (status = 503, description = "`quarantined`, `breaker-open`, `unavailable`, `host-fault`; `retry-after` says when", body = ErrorBody),
    (status = 504, description = "`deadline`", body = ErrorBody),
))]
async fn call(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Extension(trace): Extension<Trace>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Json<Call>, JsonRejection>,
) -> Result<Response, ApiError> {
    let plugin: PluginName = name.parse()?;
    let Json(Call { operation, input }) = body?;
    let operation = Operation {
        name: operation_name(operation)?,
        input: input.map_or_else(|| "{}".into(), |input| String::from(Box::<str>::from(input))),
        caller: Caller {
            role: Some("operator".into()),
            // Every request has one.
            platform: trace.platform.unwrap_or_default(),
            correlation_id: trace.correlation_id.unwrap_or_default(),
            idempotency_key: idempotency_key(&headers)?,
            ..Caller::default()
        },
        range: headers.get(header::RANGE).map(|range| range.as_bytes().to_vec()),
    };
    if operation.input.len() > MAX_INPUT_BYTES {
        let message = format!("input: {} bytes; the limit is {MAX_INPUT_BYTES}", operation.input.len());
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
    }
    // Neither the input nor the answer: both may be personal.
    let details = json!({ "operation": operation.name });
    let act = async { state.plugins.call(&plugin, operation, trace.traceparent).await.map_err(refused) };
    let summary = |answer: &Answer| json!({ "answer": answer.body.kind() });
    respond(recorded(&state, &actor, "plugin.call", &name, details, act, summary).await?)
}

fn operation_name(name: String) -> Result<String, ApiError> {
    if is_name(&name) {
        return Ok(name);
    }
    Err(ApiError::invalid(format!("operation: 1 to {MAX_NAME} letters, digits and - _ . :")))
}

fn idempotency_key(headers: &HeaderMap) -> Result<String, ApiError> {
    let Some(given) = headers.get(IDEMPOTENCY_KEY) else { return Ok(Uuid::now_v7().simple().to_string()) };
    let key = given.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
    key.map(str::to_owned)
        .ok_or_else(|| ApiError::invalid(format!("idempotency-key: 1 to {MAX_KEY} characters of ASCII")))
}

fn refused(error: CallError) -> ApiError {
    let refusal = match error {
        CallError::Refused(refusal) => refusal,
        CallError::Store(error) => return error.into(),
    };
    let mut error = ApiError::new(status(refusal.kind), refusal.code, refusal.message).retry_after(refusal.retry_after);
    if let Some(details) = refusal.details {
        error = error.with_details(details);
    }
    if refusal.is_private { error.private() } else { error }
}

fn status(kind: CallRefusalKind) -> StatusCode {
    match kind {
        CallRefusalKind::Invalid => StatusCode::BAD_REQUEST,
        CallRefusalKind::Forbidden => StatusCode::FORBIDDEN,
        CallRefusalKind::NotFound => StatusCode::NOT_FOUND,
        CallRefusalKind::Conflict => StatusCode::CONFLICT,
        CallRefusalKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        CallRefusalKind::Upstream => StatusCode::BAD_GATEWAY,
        CallRefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        CallRefusalKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        CallRefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn respond(answer: Answer) -> Result<Response, ApiError> {
    let kind = answer.body.kind();
    let mut response = match answer.body {
        AnswerBody::Empty => StatusCode::NO_CONTENT.into_response(),
        // Checked already.
        AnswerBody::Json(text) => ok(RawValue::from_string(text).map_err(|_| ApiError::internal())?)?.into_response(),
        AnswerBody::Bytes { content_type, content } => {
            let content_type = HeaderValue::from_str(&content_type).map_err(|_| ApiError::internal())?;
            ([(header::CONTENT_TYPE, content_type)], content).into_response()
        }
        AnswerBody::Relayed(relayed) => relay(relayed),
    };
    let headers = response.headers_mut();
    if kind == "bytes" || kind == "relay" {
        // It is foreign content under the address of operators: to be stored and not to be shown.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    headers.insert(ANSWER, HeaderValue::from_static(kind));
    headers.extend(answer.status.map(|status| (STATUS, HeaderValue::from(status))));
    Ok(response)
}

/// Its status and content; nothing else of it, cookies above all, belongs to the client.
fn relay(relayed: HttpResponse) -> Response {
    let mut response = relayed.body.into_response();
    *response.status_mut() = StatusCode::from_u16(relayed.status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in relayed.headers {
        if let Some(name) = RELAYED.iter().find(|known| known.as_str() == name)
            && let Ok(value) = HeaderValue::from_bytes(&value)
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_has_a_status() {
        for (kind, expected) in [
            (CallRefusalKind::Invalid, 400),
            (CallRefusalKind::Forbidden, 403),
            (CallRefusalKind::NotFound, 404),
            (CallRefusalKind::Conflict, 409),
            (CallRefusalKind::RateLimited, 429),
            (CallRefusalKind::Internal, 500),
            (CallRefusalKind::Upstream, 502),
            (CallRefusalKind::Unavailable, 503),
            (CallRefusalKind::Deadline, 504),
        ] {
            assert_eq!(status(kind).as_u16(), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_relayed_response_keeps_its_status_and_loses_what_is_not_its_content() {
        let headers = [("content-type", "audio/mpeg"), ("set-cookie", "a=b"), ("content-range", "bytes 0-1/9")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
        let response = relay(HttpResponse { status: 206, headers, body: b"ab".to_vec() });
        assert_eq!(response.status(), 206);
        let mut names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-range", "content-type"]);
    }
}
