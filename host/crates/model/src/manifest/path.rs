//! Paths of routes and webhooks. Their syntax makes it possible to decide, and to see, whether two
//! of them overlap.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const ROOT: &str = "/api/";
const MAX_BYTES: usize = 256;
const MAX_SEGMENTS: usize = 16;
const MAX_PARAMETERS: usize = 8;
const MAX_PARAMETER_BYTES: usize = 32;

/// First segments under `/api/` that the host serves or reserves, each with everything below it.
const OF_HOST: [&str; 9] = [
    "admin",
    "audit",
    "auth",
    "docs",
    "health",
    "openapi.json",
    "redis",
    "users",
    "vendor",
];

/// A path such as `/api/leads/{leadId}/call`: `/api/`, then segments, each a literal or a whole
/// parameter. A literal matches only its plain spelling, and is case-sensitive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoutePath(String);

/// Why a text is not a route's path, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error(
        "must be longer than /api/ and begin with it, as in /api/leads/{{leadId}}: all other paths belong to the host"
    )]
    NotUnderApi,
    #[error("{0} bytes; the limit is {MAX_BYTES}")]
    TooLong(usize),
    #[error("{0} segments; the limit is {MAX_SEGMENTS}")]
    TooManySegments(usize),
    #[error("{0} parameters; the limit is {MAX_PARAMETERS}")]
    TooManyParameters(usize),
    #[error("ends with '/': leave it out")]
    TrailingSlash,
    #[error("has '//': write one '/' between two segments")]
    EmptySegment,
    #[error("has the segment {0:?}: write the path that it leads to")]
    DotSegment(String),
    #[error("has '%': a path is written without percent-encoding, in A-Z a-z 0-9 - . _ ~")]
    PercentEncoded,
    #[error("has {0:?}: a segment is written in A-Z a-z 0-9 - . _ ~, or is a {{parameter}}")]
    Character(char),
    #[error(
        "has {0:?}: a parameter is a whole segment, {{name}}, whose name is 1 to {MAX_PARAMETER_BYTES} letters, digits and '_' and begins with a lower-case letter"
    )]
    Parameter(String),
    #[error("names the parameter {{{0}}} twice: each needs a name of its own")]
    ParameterTwice(String),
}

impl RoutePath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names of its parameters, from left to right.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments().filter_map(parameter)
    }

    /// Whether the path of some request would match both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.segments().count() == other.segments().count()
            && self
                .segments()
                .zip(other.segments())
                .all(|(a, b)| meets(a, b))
    }

    /// Whether both match the same requests: at most the names of parameters differ.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let shape = |path: &Self| -> Vec<Option<String>> {
            path.segments()
                .map(|segment| parameter(segment).is_none().then(|| segment.to_owned()))
                .collect()
        };
        shape(self) == shape(other)
    }

    /// The path of the host, or a reserved one, that some request of this path would match, too.
    pub fn overlap_with_host(&self) -> Option<String> {
        let first = self.segments().next()?;
        let found = OF_HOST
            .iter()
            .find(|kept| parameter(first).is_some() || kept.eq_ignore_ascii_case(first));
        found.map(|kept| format!("{ROOT}{kept}"))
    }

    /// Whether a first segment under `/api/`, as it was sent, is one of the host's.
    pub fn is_of_host(segment: &str) -> bool {
        OF_HOST.contains(&segment)
    }

    /// Whether a segment of a route's path is a parameter.
    pub fn is_parameter(segment: &str) -> bool {
        parameter(segment).is_some()
    }

    /// What is between the slashes after `/api/`.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.strip_prefix(ROOT).unwrap_or_default().split('/')
    }
}

fn meets(a: &str, b: &str) -> bool {
    a == b || parameter(a).is_some() || parameter(b).is_some()
}

fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

fn check_segment(segment: &str) -> Result<(), PathError> {
    if segment.contains(['{', '}']) {
        let is_name = |name: &str| {
            name.len() <= MAX_PARAMETER_BYTES
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        return match parameter(segment).filter(|name| is_name(name)) {
            Some(_) => Ok(()),
            None => Err(PathError::Parameter(segment.to_owned())),
        };
    }
    match segment {
        "" => Err(PathError::EmptySegment),
        "." | ".." => Err(PathError::DotSegment(segment.to_owned())),
        _ if segment.contains('%') => Err(PathError::PercentEncoded),
        _ => match segment
            .chars()
            .find(|&c| !(c.is_ascii_alphanumeric() || "-._~".contains(c)))
        {
            Some(c) => Err(PathError::Character(c)),
            None => Ok(()),
        },
    }
}

impl FromStr for RoutePath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        let rest = text
            .strip_prefix(ROOT)
            .filter(|rest| !rest.is_empty())
            .ok_or(PathError::NotUnderApi)?;
        if text.len() > MAX_BYTES {
            return Err(PathError::TooLong(text.len()));
        }
        if rest.ends_with('/') {
            return Err(PathError::TrailingSlash);
        }
        let segments: Vec<&str> = rest.split('/').collect();
        if segments.len() > MAX_SEGMENTS {
            return Err(PathError::TooManySegments(segments.len()));
        }
        segments
            .iter()
            .try_for_each(|segment| check_segment(segment))?;
        let parameters: Vec<&str> = segments.iter().copied().filter_map(parameter).collect();
        if parameters.len() > MAX_PARAMETERS {
            return Err(PathError::TooManyParameters(parameters.len()));
        }
        if let Some(twice) = parameters
            .iter()
            .enumerate()
            .find(|(i, name)| parameters[..*i].contains(name))
        {
            return Err(PathError::ParameterTwice((*twice.1).to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

text_form!(RoutePath);

impl fmt::Display for RoutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RoutePath {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn odd_paths_are_refused_with_what_to_write_instead() {
        let long = format!("/api/{}", "x".repeat(MAX_BYTES));
        let deep = format!("/api{}", "/x".repeat(MAX_SEGMENTS + 1));
        let many: String = (0..=MAX_PARAMETERS).map(|n| format!("/{{p{n}}}")).collect();
        for (text, error) in [
            ("", PathError::NotUnderApi),
            ("/", PathError::NotUnderApi),
            ("/api", PathError::NotUnderApi),
            ("/api/", PathError::NotUnderApi),
            ("/metrics", PathError::NotUnderApi),
            ("/healthz", PathError::NotUnderApi),
            ("/readyz", PathError::NotUnderApi),
            ("api/leads", PathError::NotUnderApi),
            ("/API/leads", PathError::NotUnderApi),
            ("https://a.example/api/leads", PathError::NotUnderApi),
            (&long, PathError::TooLong(MAX_BYTES + 5)),
            (&deep, PathError::TooManySegments(MAX_SEGMENTS + 1)),
            (
                &format!("/api{many}"),
                PathError::TooManyParameters(MAX_PARAMETERS + 1),
            ),
            ("/api/leads/", PathError::TrailingSlash),
            ("/api//leads", PathError::EmptySegment),
            ("/api/leads//x", PathError::EmptySegment),
            ("/api/leads/../admin", PathError::DotSegment("..".into())),
            ("/api/./leads", PathError::DotSegment(".".into())),
            ("/api/leads/%2e%2e", PathError::PercentEncoded),
            ("/api/a%2Fb", PathError::PercentEncoded),
            ("/api/müller", PathError::Character('ü')),
            ("/api/अ", PathError::Character('अ')),
            ("/api/a b", PathError::Character(' ')),
            ("/api/a\\b", PathError::Character('\\')),
            ("/api/a\0", PathError::Character('\0')),
            ("/api/a?b=c", PathError::Character('?')),
            ("/api/a#b", PathError::Character('#')),
            ("/api/*", PathError::Character('*')),
            ("/api/:id", PathError::Character(':')),
            ("/api/{}", PathError::Parameter("{}".into())),
            ("/api/{*rest}", PathError::Parameter("{*rest}".into())),
            ("/api/{Id}", PathError::Parameter("{Id}".into())),
            ("/api/{a-b}", PathError::Parameter("{a-b}".into())),
            ("/api/{ä}", PathError::Parameter("{ä}".into())),
            ("/api/x{id}", PathError::Parameter("x{id}".into())),
            ("/api/{id}.pdf", PathError::Parameter("{id}.pdf".into())),
            ("/api/{id", PathError::Parameter("{id".into())),
            ("/api/{{id}}", PathError::Parameter("{{id}}".into())),
            ("/api/a/{id}/b/{id}", PathError::ParameterTwice("id".into())),
        ] {
            assert_eq!(text.parse::<RoutePath>(), Err(error), "{text}");
        }
        let name = "n".repeat(MAX_PARAMETER_BYTES + 1);
        assert!(matches!(
            format!("/api/a/{{{name}}}").parse::<RoutePath>(),
            Err(PathError::Parameter(_))
        ));
    }

    #[test]
    fn paths_at_the_limits_are_taken() {
        path(&format!("/api/{}", "x".repeat(MAX_BYTES - ROOT.len())));
        path(&format!("/api{}", "/x".repeat(MAX_SEGMENTS)));
        let most: String = (0..MAX_PARAMETERS).map(|n| format!("/{{p{n}}}")).collect();
        assert_eq!(
            path(&format!("/api{most}")).parameters().count(),
            MAX_PARAMETERS
        );
        path("/api/v1.2/~a/...");
    }

    #[test]
    fn paths_overlap_where_each_pair_of_segments_can_be_the_same() {
        for (a, b, overlaps, is_same) in [
            ("/api/a", "/api/a", true, true),
            ("/api/a", "/api/A", false, false),
            ("/api/a/{x}", "/api/a/{y}", true, true),
            ("/api/a/{x}", "/api/a/b", true, false),
            ("/api/a/{x}/c", "/api/a/b/{y}", true, false),
            ("/api/a/{x}/c", "/api/a/b/d", false, false),
            ("/api/a/{x}", "/api/a", false, false),
            ("/api/a/{x}", "/api/a/{x}/{y}", false, false),
            ("/api/{x}/b", "/api/a/{y}", true, false),
        ] {
            let (a, b) = (path(a), path(b));
            assert_eq!(
                (a.overlaps(&b), b.overlaps(&a)),
                (overlaps, overlaps),
                "{a} {b}"
            );
            assert_eq!(
                (a.is_same_as(&b), b.is_same_as(&a)),
                (is_same, is_same),
                "{a} {b}"
            );
        }
    }

    #[test]
    fn what_the_host_has_or_keeps_is_nobody_elses_also_in_another_case_or_as_a_parameter() {
        for (text, kept) in [
            ("/api/admin", "/api/admin"),
            ("/api/admin/queues/{queue}", "/api/admin"),
            ("/api/admin/anything", "/api/admin"),
            ("/api/Admin/x", "/api/admin"),
            ("/api/health", "/api/health"),
            ("/api/openapi.json", "/api/openapi.json"),
            ("/api/auth/login", "/api/auth"),
            ("/api/{any}", "/api/admin"),
            ("/api/{any}/x", "/api/admin"),
        ] {
            assert_eq!(
                path(text).overlap_with_host().as_deref(),
                Some(kept),
                "{text}"
            );
        }
        for text in [
            "/api/administrators",
            "/api/leads/admin",
            "/api/healthy",
            "/api/leads/{id}",
        ] {
            assert_eq!(path(text).overlap_with_host(), None, "{text}");
        }
    }

    #[test]
    fn every_path_of_the_api_that_the_host_describes_is_kept_for_it() {
        let document: serde_json::Value =
            serde_json::from_str(include_str!("../../../../../docs/openapi.json")).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        assert!(paths.len() > 50);
        for described in paths.keys() {
            let Some(rest) = described.strip_prefix(ROOT) else {
                continue;
            };
            let first = rest.split('/').next().unwrap_or_default();
            assert!(
                OF_HOST.contains(&first),
                "{described}: OF_HOST lacks {first:?}"
            );
        }
    }
}
