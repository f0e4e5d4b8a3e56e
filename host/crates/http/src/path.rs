//! What stands in a path's places, for handlers. How names are written there is [`patchbay_api::path`]'s.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use patchbay_api::path::unescaped;

use super::error::ApiError;

/// What stands in a path's places, or a refusal in our error shape.
pub(super) struct Path<T>(pub(super) T);

/// What a handler takes from a path's places.
pub(super) trait FromSegments: Sized {
    /// Nothing when the places are not of that form.
    fn from_segments(segments: Vec<String>) -> Option<Self>;
}

impl FromSegments for String {
    fn from_segments(segments: Vec<String>) -> Option<Self> {
        segments.into_iter().next()
    }
}

impl FromSegments for (String, String) {
    fn from_segments(segments: Vec<String>) -> Option<Self> {
        let mut segments = segments.into_iter();
        Some((segments.next()?, segments.next()?))
    }
}

impl FromSegments for i64 {
    fn from_segments(segments: Vec<String>) -> Option<Self> {
        segments.first()?.parse().ok()
    }
}

impl<S: Send + Sync, T: FromSegments> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::invalid("a part of the path is not UTF-8"))?;
        let segments = params.iter().map(|(_, segment)| unescaped(segment).to_owned()).collect();
        let value =
            T::from_segments(segments).ok_or_else(|| ApiError::invalid("a part of the path is not a number"))?;
        Ok(Self(value))
    }
}
