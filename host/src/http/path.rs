//! The segments of a path: one place that writes them, for the command line, and reads them, for the API.
//!
//! Percent-encoding carries almost every name. But a client drops the segments `.` and `..`, and every URL library takes `%2e` for a dot, so
//! that a request about a queue called `.` would reach another route; an empty segment is none; and a queue called `pause` stands where a
//! route of ours does. These, and whatever would be taken for their escaped form, are written with a `~` in front: `~.`, `~..`, `~`,
//! `~pause`; `~~.` is the name `~.`.

use std::borrow::Borrow;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use super::error::ApiError;

/// Segments that a client loses.
const LOST: [&str; 3] = ["", ".", ".."];
/// Routes of ours at the place of a name, which is the second segment.
const TAKEN: [&str; 3] = ["pause", "resume", "preview"];

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

/// A path of these segments, whatever they contain, without a slash in front.
pub(crate) fn api_path(segments: &[&str]) -> String {
    let segments = segments.iter().enumerate().map(|(place, text)| {
        let needs_escape = LOST.contains(text) || (place == 1 && TAKEN.contains(text)) || looks_escaped(text);
        let bytes: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        format!("{}{}", if needs_escape { "~" } else { "" }, bytes.replace('+', "%20"))
    });
    segments.collect::<Vec<_>>().join("/")
}

/// A path with a query, each of whose values may contain anything.
pub(crate) fn with_query<I, K, V>(path: &str, pairs: I) -> String
where
    I: IntoIterator<Item: Borrow<(K, V)>>,
    K: AsRef<str>,
    V: AsRef<str>,
{
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn looks_escaped(text: &str) -> bool {
    let name = text.trim_start_matches('~');
    name.len() < text.len() && (LOST.contains(&name) || TAKEN.contains(&name))
}

/// After percent-decoding.
fn unescaped(segment: &str) -> &str {
    if looks_escaped(segment) { &segment[1..] } else { segment }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(text: &str) -> String {
        // As a client sends it.
        let url = url::Url::parse(&format!("http://host/api/{}", api_path(&["queues", text, "pause"]))).expect("a URL");
        let segments: Vec<&str> = url.path_segments().expect("a path").collect();
        assert_eq!((segments.len(), segments[1], segments[3]), (4, "queues", "pause"), "{url}");
        let decoded = percent_encoding::percent_decode_str(segments[2]).decode_utf8().expect("UTF-8");
        unescaped(&decoded).to_owned()
    }

    #[test]
    fn names_that_a_url_would_lose_come_back() {
        for name in [
            "", ".", "..", "pause", "~resume", "~", "~.", "~..", "~~", "~~.", "...", "~x", "a/../b", "/", "%2F", "%2e",
            "?", "#", "a b", "a+b", "\n", "😀", "\\",
        ] {
            assert_eq!(read_back(name), name);
        }
        assert_eq!(api_path(&["queues", "email queue/1", ".."]), "queues/email%20queue%2F1/~..");
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in "\\PC*|[~.]{0,5}|~{0,3}(pause|preview)|[.%~/?#2eEfF \\\\-]{0,8}") {
            prop_assert_eq!(read_back(&name), name);
        }
    }
}
