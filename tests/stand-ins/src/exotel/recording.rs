//! Recordings, behind the account's credentials, whole or in part.

use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::Format;
use super::api::{fault, is_authentic, misdeed};
use super::state::{Operation, Shared};
use crate::breakable::Breaker;

/// The sound of a call, for whoever has the account's credentials; a range, if one is asked for.
pub(super) async fn recording(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    Path((account, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(fault) = fault(&shared, Operation::Recording)
        && let Some(response) = misdeed(&fault, Format::Xml, &breaker).await
    {
        return response;
    }
    if !is_authentic(&shared, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (size, is_there) = {
        let state = shared.lock();
        let sid = file.trim_end_matches(".mp3");
        let is_there = account == state.account.sid
            && state
                .calls
                .iter()
                .any(|call| call.sid == sid && call.recorded && call.answered.is_some());
        (state.behaviour.recording_bytes, is_there)
    };
    if !is_there {
        return StatusCode::NOT_FOUND.into_response();
    }
    let sound = sound(size);
    let kind = (header::CONTENT_TYPE, "audio/mpeg".to_owned());
    let ranges = (header::ACCEPT_RANGES, "bytes".to_owned());
    let asked = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    let Some(asked) = asked else {
        return (StatusCode::OK, [kind, ranges], sound).into_response();
    };
    let bounds = asked.split_once('-').and_then(|(first, last)| {
        let last_byte = size.checked_sub(1)?;
        match (first.parse::<usize>().ok(), last.parse::<usize>().ok()) {
            (Some(first), last) => Some((first, last.unwrap_or(last_byte).min(last_byte))),
            (None, Some(suffix)) => Some((size.saturating_sub(suffix), last_byte)),
            (None, None) => None,
        }
    });
    match bounds {
        Some((first, last)) if first <= last => {
            let content = format!("bytes {first}-{last}/{size}");
            let part = sound[first..=last].to_vec();
            let headers = [kind, ranges, (header::CONTENT_RANGE, content)];
            (StatusCode::PARTIAL_CONTENT, headers, part).into_response()
        }
        _ => {
            let content = (header::CONTENT_RANGE, format!("bytes */{size}"));
            (StatusCode::RANGE_NOT_SATISFIABLE, [content]).into_response()
        }
    }
}

/// Begins as an MP3 file; what follows differs at every place, so that a wrong range is seen.
fn sound(size: usize) -> Vec<u8> {
    let mut sound: Vec<u8> = (0..size)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let head = b"ID3\x04";
    let shown = head.len().min(size);
    sound[..shown].copy_from_slice(&head[..shown]);
    sound
}
