//! Reads JSON bodies, and refuses those that are nested too deeply: readers further on, such as
//! plugins, may use their stack for each level.

use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::AppState;
use crate::error::ApiError;

/// Most levels of arrays and objects. What is read into values has at most 128, which serde_json
/// sees to; job data is passed on as text, and BullMQ's producers nest it as they like.
const MAX_DEPTH: usize = 20_000;

/// Why a body was not read.
pub(crate) enum Unread {
    TooDeep,
    Rejected(JsonRejection),
}

impl Unread {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TooDeep => StatusCode::BAD_REQUEST,
            Self::Rejected(rejection) => rejection.status(),
        }
    }
}

impl From<Unread> for ApiError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooDeep => Self::invalid(format!(
                "The body is nested too deeply: at most {MAX_DEPTH} levels of arrays and objects"
            )),
            Unread::Rejected(rejection) => rejection.into(),
        }
    }
}

pub(crate) async fn read<T: DeserializeOwned>(
    request: Request,
    state: &AppState,
) -> Result<T, Unread> {
    let (parts, body) = request.into_parts();
    let bytes = Bytes::from_request(Request::from_parts(parts.clone(), body), state)
        .await
        .map_err(|unread| Unread::Rejected(unread.into()))?;
    if is_too_deep(&bytes) {
        return Err(Unread::TooDeep);
    }
    let request = Request::from_parts(parts, Body::from(bytes));
    let axum::Json(document) = axum::Json::from_request(request, state)
        .await
        .map_err(Unread::Rejected)?;
    Ok(document)
}

/// Of a text that may be no JSON: then another check refuses it.
fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_and_brackets_in_texts_do_not() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(!is_too_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(is_too_deep(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(is_too_deep("{\"a\":".repeat(MAX_DEPTH + 1).as_bytes()));
        assert!(!is_too_deep("[]".repeat(1_000).as_bytes()));
        let texts = format!(r#"["{}", "\"{}", "\\"]"#, "[".repeat(99), "{".repeat(99));
        assert!(!is_too_deep(texts.as_bytes()));
        assert!(is_too_deep(
            format!(r#"["\\", {}"#, "[".repeat(MAX_DEPTH)).as_bytes()
        ));
    }
}
