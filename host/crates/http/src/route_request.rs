//! What a route of a plugin takes of a request: its query, its body within its bounds, the headers that
//! it names, and nothing else.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    RANGE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::BodyExt;
use patchbay_app::inbox::Reservation;
use patchbay_app::routes::Received;
use patchbay_model::job::Trace;
use patchbay_model::manifest::{BodyType, RouteSpec};

use crate::anonymous;
use crate::error::ApiError;
use crate::plugin_calls::idempotency_key;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// What a client says of content that it has already; for relayed responses.
const CONDITIONS: [HeaderName; 4] = [RANGE, IF_RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE];
/// Until a client that found no room for its body tries again.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// Reads what the route takes of a request, and nothing else.
pub(crate) async fn receive(
    spec: &RouteSpec,
    request: Request,
    room: impl FnOnce(Option<&str>) -> Reservation,
) -> Result<Received, ApiError> {
    let headers = request.headers();
    let named = spec.request_headers.iter().flat_map(|name| {
        let values = headers.get_all(name.as_str()).iter();
        values.map(move |value| (name.clone(), value.as_bytes().to_vec()))
    });
    let received = Received {
        query: request.uri().query().unwrap_or_default().to_owned(),
        body: None,
        room: None,
        headers: named.collect(),
        idempotency_key: idempotency_key(headers)?,
        conditions: conditions(headers),
        network: anonymous::network_of(&request),
        trace: Trace::default(),
    };
    if !spec.takes_body() {
        return Ok(received);
    }
    let most = usize::try_from(spec.max_body_bytes).unwrap_or(usize::MAX);
    let too_large = || {
        let message = format!("The body is larger than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    };
    let kind = match spec.body_type {
        BodyType::Json => JSON,
        BodyType::Form => FORM,
    };
    let is_of_kind = is_of_kind(headers, kind);
    let announced = headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if is_coded(headers) {
        return Err(unsupported(
            "The body must not be compressed: send it without Content-Encoding",
        ));
    }
    if headers.get_all(CONTENT_TYPE).iter().count() > 1 {
        return Err(unsupported("Send the header Content-Type once"));
    }
    if announced.is_some_and(|length| length > spec.max_body_bytes) {
        return Err(too_large());
    }
    let mut room = room(received.network.as_deref());
    let bytes = read(request.into_body(), spec.max_body_bytes, &mut room).await?;
    let Some(bytes) = bytes else {
        return Err(too_large());
    };
    if !bytes.is_empty() && !is_of_kind {
        let what = match spec.body_type {
            BodyType::Json => "JSON",
            BodyType::Form => "a form",
        };
        return Err(unsupported(&format!(
            "The body must be {what}: send it with Content-Type: {kind}"
        )));
    }
    Ok(Received {
        body: (!bytes.is_empty()).then_some(bytes),
        room: Some(room),
        ..received
    })
}

/// Several ranges at once are not asked for: a server may ignore a range (RFC 9110, 14.2), and an
/// answer in several parts is not relayed.
fn conditions(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut ranges = headers.get_all(RANGE).iter();
    let is_one = ranges
        .next()
        .is_none_or(|range| !range.as_bytes().contains(&b','))
        && ranges.next().is_none();
    let is_kept = |name: &&HeaderName| is_one || ![RANGE, IF_RANGE].contains(name);
    let named = CONDITIONS.iter().filter(is_kept).filter_map(|name| {
        let value = headers.get(name)?;
        Some((name.as_str().to_owned(), value.as_bytes().to_vec()))
    });
    named.collect()
}

/// The whole body; nothing where it is too large. Its bytes are counted as they come: many large ones
/// at once must not fill the memory.
async fn read(
    mut body: Body,
    most: u64,
    room: &mut Reservation,
) -> Result<Option<Vec<u8>>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::of_body(&error, usize::MAX))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (bytes.len() + data.len()) as u64 > most {
            return Ok(None);
        }
        if !room.take(data.len()) {
            let message = "This host is receiving too much at once. Send it again";
            let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
            return Err(error.retry_after(Some(BUSY_FOR)));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}

/// Whether a body was sent in another form than as it is, in chunks or whole: nothing is ever
/// inflated.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let other_than = |name, plain: &[u8]| {
        let mut all = headers.get_all(name).iter();
        all.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(plain))
    };
    other_than(CONTENT_ENCODING, b"identity") || other_than(TRANSFER_ENCODING, b"chunked")
}

fn unsupported(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid-input", message)
}

fn is_of_kind(headers: &HeaderMap, wanted: &str) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
}
