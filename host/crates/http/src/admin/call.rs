//! /api/admin/plugins/{name}/call: an operation of a plugin, answered at once.

use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use patchbay_api::headers::{ANSWER, STATUS};
use patchbay_model::PluginName;
use patchbay_model::capability::{HttpError, HttpResponse};
use patchbay_model::job::Trace;
use patchbay_model::operation::Caller;
use patchbay_model::outcome::{Failure, Outcome, Retry};
use patchbay_model::retry::MAX_AFTER;
use patchbay_work::{Content, Operation, Reply, Unanswered};
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
/// Somebody has to look first.
const QUARANTINE_WAIT: Duration = Duration::from_secs(60);
const MAX_NAME: usize = 64;
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
    let act = async {
        if let Some(quarantined) = state.plugins.quarantined(&plugin) {
            let message = format!("{plugin} is quarantined since {}: {}", quarantined.since, quarantined.reason);
            let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "quarantined", message);
            return Err(error.retry_after(Some(QUARANTINE_WAIT)));
        }
        match state.executor.operate(&plugin, operation, trace.traceparent).await {
            Ok(reply) => Ok(reply),
            Err(Unanswered::NotRunning) => Err(not_running(&state, &plugin).await),
            Err(unanswered) => Err(refusal(&plugin, unanswered)),
        }
    };
    let summary = |reply: &Reply| json!({ "answer": kind(&reply.content) });
    respond(recorded(&state, &actor, "plugin.call", &name, details, act, summary).await?)
}

fn operation_name(name: String) -> Result<String, ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) {
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

/// Why no revision of the plugin takes calls here.
async fn not_running(state: &AppState, plugin: &PluginName) -> ApiError {
    if let Some(reason) = state.plugins.failure(plugin) {
        let message = format!("{plugin} does not run on this host: {reason}");
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
    }
    match state.store.revisions(Some(plugin)).await {
        Ok(rows) if rows.is_empty() => ApiError::not_found(format!("no plugin is called {plugin}")),
        Ok(_) => {
            let message = format!("{plugin} has no active revision: patchbay plugin activate {plugin} DIGEST");
            ApiError::new(StatusCode::CONFLICT, "inactive", message)
        }
        Err(error) => error.into(),
    }
}

fn refusal(plugin: &PluginName, unanswered: Unanswered) -> ApiError {
    match unanswered {
        Unanswered::NotRunning | Unanswered::NoOperations => {
            let message =
                format!("the active revision of {plugin} exports no operations; see: patchbay plugin status {plugin}");
            ApiError::new(StatusCode::CONFLICT, "no-operations", message)
        }
        Unanswered::BreakerOpen(refused) => {
            let message = format!("calls to {} are refused for now", refused.breaker.host());
            let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "breaker-open", message);
            error.retry_after(Some(refused.retry_in))
        }
        Unanswered::Ended(Outcome::Failed(failure)) => declared(failure).private(),
        Unanswered::Ended(outcome) => {
            let status = match outcome {
                Outcome::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
                Outcome::HostFault(_) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            // A panic's text is the plugin's, too.
            ApiError::new(status, outcome.kind().as_str(), outcome.reason().unwrap_or_default()).private()
        }
        Unanswered::Relay(error) => relay_error(&error).private(),
    }
}

/// What a plugin declares, by the contract's table.
fn declared(failure: Failure) -> ApiError {
    let status = match failure.code.as_str() {
        "invalid-input" => StatusCode::BAD_REQUEST,
        "forbidden" => StatusCode::FORBIDDEN,
        "not-found" => StatusCode::NOT_FOUND,
        "conflict" => StatusCode::CONFLICT,
        "rate-limited" => StatusCode::TOO_MANY_REQUESTS,
        "bad-credentials" | "upstream" => StatusCode::BAD_GATEWAY,
        "unavailable" | "breaker-open" | "quarantined" => StatusCode::SERVICE_UNAVAILABLE,
        "deadline" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let wait = match failure.retry {
        Retry::After(wait) | Retry::Defer(wait) => Some(wait.min(MAX_AFTER)),
        Retry::Backoff | Retry::Never => None,
    };
    let error = ApiError::new(status, failure.code, failure.message).retry_after(wait);
    match failure.details.and_then(|details| serde_json::from_str(&details).ok()) {
        Some(details) => error.with_details(details),
        None => error,
    }
}

fn relay_error(error: &HttpError) -> ApiError {
    let (status, code) = match error {
        HttpError::Denied(_) | HttpError::Invalid(_) => (StatusCode::INTERNAL_SERVER_ERROR, "relay-denied"),
        HttpError::BreakerOpen(_) => (StatusCode::SERVICE_UNAVAILABLE, "breaker-open"),
        HttpError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "deadline"),
        _ => (StatusCode::BAD_GATEWAY, "upstream"),
    };
    let wait = match error {
        HttpError::BreakerOpen(ms) => Some(Duration::from_millis(*ms)),
        _ => None,
    };
    ApiError::new(status, code, format!("what the plugin relays cannot be fetched: {error}")).retry_after(wait)
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Empty => "empty",
        Content::Json(_) => "json",
        Content::Bytes { .. } => "bytes",
        Content::Relayed(_) => "relay",
    }
}

fn respond(reply: Reply) -> Result<Response, ApiError> {
    let kind = kind(&reply.content);
    let mut response = match reply.content {
        Content::Empty => StatusCode::NO_CONTENT.into_response(),
        // Checked already.
        Content::Json(text) => ok(RawValue::from_string(text).map_err(|_| ApiError::internal())?)?.into_response(),
        Content::Bytes { content_type, content } => {
            let content_type = HeaderValue::from_str(&content_type).map_err(|_| ApiError::internal())?;
            ([(header::CONTENT_TYPE, content_type)], content).into_response()
        }
        Content::Relayed(relayed) => relay(relayed),
    };
    let headers = response.headers_mut();
    if kind == "bytes" || kind == "relay" {
        // It is foreign content under the address of operators: to be stored and not to be shown.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    headers.insert(ANSWER, HeaderValue::from_static(kind));
    headers.extend(reply.status.map(|status| (STATUS, HeaderValue::from(status))));
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
    fn what_a_plugin_declares_has_the_status_of_the_contract_and_any_other_code_is_500() {
        for (code, status) in [
            ("invalid-input", 400),
            ("forbidden", 403),
            ("not-found", 404),
            ("conflict", 409),
            ("rate-limited", 429),
            ("bad-credentials", 502),
            ("upstream", 502),
            ("unavailable", 503),
            ("breaker-open", 503),
            ("quarantined", 503),
            ("deadline", 504),
            ("anything-else", 500),
        ] {
            let failure = Failure { code: code.into(), message: "m".into(), retry: Retry::Never, details: None };
            assert_eq!(declared(failure).into_response().status().as_u16(), status, "{code}");
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
