//! Route that calls operations of plugins; the plugin's answer is passed to the client unchanged.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use patchbay_api::answer::Success;
use patchbay_api::body::Object;
use patchbay_api::headers::{ANSWER, STATUS};
use patchbay_api::plugin_calls::{Call, CallRequest, PluginsCall};
use patchbay_app::plugin_administration::PluginAdministration;
use patchbay_app::plugins::{Answer, AnswerBody};
use patchbay_model::capability::HttpResponse;
use serde_json::value::RawValue;

use crate::AppState;
use crate::error::ApiError;
use crate::json_body;
use crate::routes::{Ask, CallerExtractor, ReadBody, Routes};

const MAX_KEY: usize = 255;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Headers of a relayed response that describe its content.
const RELAYED: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
];

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add_raw::<PluginsCall, _>(call)
}

async fn call(
    State(plugins): State<PluginAdministration>,
    CallerExtractor(who): CallerExtractor,
    ask: Ask<PluginsCall>,
) -> Result<Response, ApiError> {
    respond(plugins.call(&who, &ask.path.name, ask.body).await?)
}

impl ReadBody for CallRequest {
    async fn read(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let idempotency_key = idempotency_key(request.headers())?;
        let range = request
            .headers()
            .get(header::RANGE)
            .map(|range| range.as_bytes().to_vec());
        let Object(call) = json_body::read::<Object<Call>>(request, state).await?;
        Ok(Self {
            call,
            idempotency_key,
            range,
        })
    }
}

pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(given) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(ApiError::invalid("idempotency-key: must be there once"));
    }
    let key = given
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let wrong = || {
        ApiError::invalid(format!(
            "idempotency-key: must have 1 to {MAX_KEY} ASCII characters"
        ))
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(wrong)
}

fn respond(answer: Answer) -> Result<Response, ApiError> {
    let kind = answer.body.kind();
    let mut response = match answer.body {
        AnswerBody::Empty => StatusCode::NO_CONTENT.into_response(),
        // The JSON was validated before.
        AnswerBody::Json(text) => {
            let document = RawValue::from_string(text).map_err(|_| ApiError::internal())?;
            axum::Json(Success::from(document)).into_response()
        }
        AnswerBody::Bytes {
            content_type,
            content,
        } => {
            let content_type =
                HeaderValue::from_str(&content_type).map_err(|_| ApiError::internal())?;
            ([(header::CONTENT_TYPE, content_type)], content).into_response()
        }
        AnswerBody::Relayed(relayed) => relay(relayed),
        // Only clients of routes get responses in pieces.
        AnswerBody::Pieces(_) => return Err(ApiError::internal()),
    };
    let headers = response.headers_mut();
    if kind == "bytes" || kind == "relay" {
        // Foreign content on the operators' origin: browsers must download it and not show it.
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment"),
        );
    }
    headers.insert(ANSWER, HeaderValue::from_static(kind));
    headers.extend(
        answer
            .status
            .map(|status| (STATUS, HeaderValue::from(status))),
    );
    Ok(response)
}

/// Passes on only status and content; other headers, above all cookies, are not for the client.
fn relay(relayed: HttpResponse) -> Response {
    let mut response = relayed.body.into_response();
    *response.status_mut() =
        StatusCode::from_u16(relayed.status).unwrap_or(StatusCode::BAD_GATEWAY);
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
    fn a_relayed_response_keeps_its_status_and_loses_what_is_not_its_content() {
        let headers = [
            ("content-type", "audio/mpeg"),
            ("set-cookie", "a=b"),
            ("content-range", "bytes 0-1/9"),
        ];
        let headers = headers
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .to_vec();
        let response = relay(HttpResponse {
            status: 206,
            headers,
            body: b"ab".to_vec(),
        });
        assert_eq!(response.status(), 206);
        let mut names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-range", "content-type"]);
    }
}
