//! The path of a request, as far as routes of plugins are concerned: split before it is decoded,
//! and decoded once, so that no spelling of a path is taken for another one.

use percent_encoding::percent_decode_str;

const ROOT: &str = "/api/";
/// Longest value of a parameter, in bytes.
const MAX_VALUE_BYTES: usize = 256;

/// A path under `/api/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    raw: String,
    decoded: String,
}

/// Why a path cannot be used: another reader, such as a proxy, may take it for another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    #[error("The path has '//'. Write one '/' between two segments")]
    EmptySegment,
    #[error("The path has a dot segment. Write the path that it leads to")]
    DotSegment,
    #[error(
        "The path has an encoded slash, a backslash or a control character, which no path may have"
    )]
    Character,
    #[error(
        "The path has '%' without two hexadecimal digits after it. Write %25 for a percent sign"
    )]
    Escape,
    #[error("The path has characters that are not UTF-8. Percent-encode them as UTF-8")]
    NotUtf8,
}

impl RequestPath {
    /// Reads the path as it was sent, without the query. `None` if it is not under `/api/`. One
    /// slash at the end is ignored.
    pub fn parse(raw: &str) -> Result<Option<Self>, InvalidPath> {
        let Some(rest) = raw.strip_prefix(ROOT).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        rest.split('/')
            .map(Segment::parse)
            .collect::<Result<_, _>>()
            .map(|segments| Some(Self(segments)))
    }

    /// Its segments as they were sent.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|segment| segment.raw.as_str())
    }

    /// What a parameter in this place gets; `None` if no parameter takes it.
    pub fn value(&self, place: usize) -> Option<&str> {
        let decoded = self.0.get(place)?.decoded.as_str();
        (decoded.len() <= MAX_VALUE_BYTES).then_some(decoded)
    }
}

impl Segment {
    fn parse(raw: &str) -> Result<Self, InvalidPath> {
        if raw.is_empty() {
            return Err(InvalidPath::EmptySegment);
        }
        let mut escapes = raw.split('%');
        escapes.next();
        let is_escape = |rest: &str| {
            rest.as_bytes()
                .get(..2)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        };
        if !escapes.all(is_escape) {
            return Err(InvalidPath::Escape);
        }
        let decoded = percent_decode_str(raw)
            .decode_utf8()
            .map_err(|_| InvalidPath::NotUtf8)?;
        if decoded.contains(|c: char| c == '/' || c == '\\' || c.is_control()) {
            return Err(InvalidPath::Character);
        }
        if [".", ".."].contains(&&*decoded) {
            return Err(InvalidPath::DotSegment);
        }
        Ok(Self {
            raw: raw.to_owned(),
            decoded: decoded.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_reader_may_take_for_another_path_is_refused() {
        for (raw, error) in [
            ("/api//leads", InvalidPath::EmptySegment),
            ("/api/leads//", InvalidPath::EmptySegment),
            ("/api/./leads", InvalidPath::DotSegment),
            ("/api/x/../leads", InvalidPath::DotSegment),
            ("/api/x/%2e%2E/leads", InvalidPath::DotSegment),
            ("/api/x/.%2e", InvalidPath::DotSegment),
            ("/api/a%2Fb", InvalidPath::Character),
            ("/api/a%2fb", InvalidPath::Character),
            ("/api/a%5Cb", InvalidPath::Character),
            ("/api/a\\b", InvalidPath::Character),
            ("/api/a%00", InvalidPath::Character),
            ("/api/a%0d%0a", InvalidPath::Character),
            ("/api/a%7f", InvalidPath::Character),
            ("/api/a%C2%85", InvalidPath::Character),
            ("/api/a%", InvalidPath::Escape),
            ("/api/a%2", InvalidPath::Escape),
            ("/api/a%zz", InvalidPath::Escape),
            ("/api/%ff", InvalidPath::NotUtf8),
            ("/api/%c0%af", InvalidPath::NotUtf8),
            ("/api/%ed%a0%80", InvalidPath::NotUtf8),
        ] {
            assert_eq!(RequestPath::parse(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn segments_are_decoded_once_and_one_slash_at_the_end_is_ignored() {
        let path = |raw| {
            RequestPath::parse(raw)
                .expect("valid")
                .expect("under /api/")
        };
        let read = path("/api/leads/a%20b%252F%C3%BC/");
        assert_eq!(
            read.segments().collect::<Vec<_>>(),
            ["leads", "a%20b%252F%C3%BC"]
        );
        assert_eq!(read.value(1), Some("a b%2Fü"));
        assert_eq!(read.value(2), None);
        let long = path(&format!("/api/{}/{}", "x".repeat(256), "%78".repeat(257)));
        assert!(long.value(0).is_some() && long.value(1).is_none());
        for other in ["/", "/api", "/api/", "/healthz", "/API/x"] {
            assert_eq!(RequestPath::parse(other), Ok(None), "{other}");
        }
    }
}
