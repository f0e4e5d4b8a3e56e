//! What a rule covers: scheme, host, port and a path pattern. `*` is one segment; `**` is any
//! number of segments, and is allowed only at the end.

use super::target::{Target, TargetError};

/// A parsed `url` of an egress rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPattern {
    scheme: String,
    host: String,
    port: u16,
    segments: Vec<Segment>,
    any_rest: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a URL that could be sent.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A wildcard in the host, or a user, password, query or fragment.
    #[error("must have a fixed host, and no user, password, query or fragment")]
    Extra,
    /// `**` anywhere but at the end, or a `*` that is part of a segment.
    #[error("'*' must be a whole path segment, and '**' must be at the end of the path")]
    Wildcard,
}

impl UrlPattern {
    /// Parses, for example, `https://api.example.com/v1/**`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.contains(['?', '#']) {
            return Err(PatternError::Extra);
        }
        let target = Target::parse(text)?;
        let url = target.url();
        let host = url
            .host_str()
            .filter(|h| !h.contains('*'))
            .ok_or(PatternError::Extra)?
            .to_owned();
        let mut parts: Vec<&str> = path_segments(&target);
        let any_rest = parts.last() == Some(&"**");
        if any_rest {
            parts.pop();
        }
        let segments = parts
            .into_iter()
            .map(|part| match part {
                "*" => Ok(Segment::Any),
                literal if literal.contains('*') => Err(PatternError::Wildcard),
                literal => Ok(Segment::Literal(literal.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        let port = url.port_or_known_default().unwrap_or(443);
        Ok(Self {
            scheme: url.scheme().to_owned(),
            host,
            port,
            segments,
            any_rest,
        })
    }

    pub fn matches(&self, target: &Target) -> bool {
        let url = target.url();
        if url.scheme() != self.scheme
            || url.host_str() != Some(self.host.as_str())
            || url.port_or_known_default() != Some(self.port)
        {
            return false;
        }
        let parts = path_segments(target);
        let long_enough = if self.any_rest {
            parts.len() >= self.segments.len()
        } else {
            parts.len() == self.segments.len()
        };
        long_enough
            && self
                .segments
                .iter()
                .zip(&parts)
                .all(|(segment, part)| match segment {
                    Segment::Any => !part.is_empty(),
                    Segment::Literal(literal) => literal == part,
                })
    }

    /// How specific the pattern is: bytes of literal path before the first wildcard. Without a
    /// wildcard the whole path is literal, including its end.
    pub fn literal_prefix_len(&self) -> usize {
        let literal = |segment: &Segment| match segment {
            Segment::Literal(literal) => Some(literal.len() + 1),
            Segment::Any => None,
        };
        let whole = !self.any_rest && !self.segments.contains(&Segment::Any);
        self.segments.iter().map_while(literal).sum::<usize>() + usize::from(whole)
    }

    /// Whether both cover some request equally specifically, so that neither would win.
    pub fn ties_with(&self, other: &Self) -> bool {
        let enough = |rest: &Self, exact: &Self| {
            rest.any_rest && exact.segments.len() >= rest.segments.len()
        };
        let lengths_meet = self.segments.len() == other.segments.len()
            || enough(self, other)
            || enough(other, self);
        let segments_meet = self
            .segments
            .iter()
            .zip(&other.segments)
            .all(|pair| match pair {
                (Segment::Literal(a), Segment::Literal(b)) => a == b,
                // `*` does not match the empty segment after a last slash.
                (Segment::Any, Segment::Literal(literal))
                | (Segment::Literal(literal), Segment::Any) => !literal.is_empty(),
                (Segment::Any, Segment::Any) => true,
            });
        self.origin() == other.origin()
            && self.literal_prefix_len() == other.literal_prefix_len()
            && lengths_meet
            && segments_meet
    }

    /// Key of breakers and metrics, for example `https://api.example.com:443`.
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }
}

fn path_segments(target: &Target) -> Vec<&str> {
    target
        .url()
        .path_segments()
        .map(Iterator::collect)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, url: &str) -> bool {
        let target = Target::parse(url);
        target.is_ok_and(|target| {
            UrlPattern::parse(pattern)
                .expect("a pattern")
                .matches(&target)
        })
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_the_rest() {
        assert!(matches(
            "https://a.example/v1/*/calls",
            "https://a.example/v1/x/calls"
        ));
        assert!(!matches(
            "https://a.example/v1/*/calls",
            "https://a.example/v1/x/y/calls"
        ));
        assert!(matches(
            "https://a.example/v1/**",
            "https://a.example/v1/x/y?q=1"
        ));
        assert!(!matches(
            "https://a.example/v1/**",
            "https://a.example/v2/x"
        ));
        assert!(!matches(
            "https://a.example/v1/**",
            "https://a.example/v11/x"
        ));
    }

    #[test]
    fn scheme_host_and_port_are_exact() {
        assert!(matches("https://a.example/**", "https://A.example:443/x"));
        for url in [
            "http://a.example/x",
            "https://a.example:444/x",
            "https://b.a.example/x",
            "https://a.example.evil/x",
        ] {
            assert!(!matches("https://a.example/**", url), "{url}");
        }
    }

    #[test]
    fn climbing_out_of_a_path_matches_nothing() {
        for url in [
            "https://a.example/v1/../v2/x",
            "https://a.example/v1/%2e%2e/v2",
            "https://a.example/v1/..%2fv2",
            "https://a.example/v1/x%5c..",
            "https://a.example/v1/..;/v2",
            "https://a.example/v1//../../v2",
        ] {
            assert!(!matches("https://a.example/v1/**", url), "{url}");
        }
    }

    #[test]
    fn patterns_that_promise_too_much_are_refused() {
        for bad in [
            "ftp://a/**",
            "https://*.a.example/**",
            "https://u:p@a.example/**",
            "https://a.example/x?y",
            "https://a.example/x#y",
            "https://a.example./**",
            "https://a.example//**",
            "https://a.example/v1/..%2f**",
            "https://a.example/**/x",
            "https://a.example/v*",
            "nonsense",
        ] {
            assert!(UrlPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_spelling_of_a_path_matches_the_same_pattern() {
        assert!(matches(
            "https://a.example/v1/admin",
            "https://a.example/v1/%61dmin"
        ));
        assert!(matches(
            "https://a.example/%76%31/**",
            "https://A.EXAMPLE/v1/x"
        ));
        assert!(matches(
            "https://bücher.example/**",
            "https://xn--bcher-kva.example/x"
        ));
        assert!(!matches("https://a.example/v1/*", "https://a.example/v1/"));
    }

    #[test]
    fn patterns_tie_when_one_request_fits_both_equally_well() {
        let ties = |a: &str, b: &str| {
            let parsed = |path: &str| {
                UrlPattern::parse(&format!("https://a.example{path}")).expect("a pattern")
            };
            assert_eq!(
                parsed(a).ties_with(&parsed(b)),
                parsed(b).ties_with(&parsed(a)),
                "{a} {b}"
            );
            parsed(a).ties_with(&parsed(b))
        };
        for (a, b) in [
            ("/v1/**", "/v1/**"),
            ("/v1/*/calls", "/v1/**"),
            ("/v1/*/calls", "/v1/*/*"),
            ("/v1/*/calls/**", "/v1/*/*/x"),
            ("/v1/*", "/v1/**"),
        ] {
            assert!(ties(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("/v1/**", "/v2/**"),
            ("/v1/x", "/v1/**"),
            ("/v1/x", "/v1/x/**"),
            ("/v1/*/calls", "/v1/*/sms"),
            ("/v1/*", "/v1/*/x"),
            ("/v1/*", "/v1/"),
        ] {
            assert!(!ties(a, b), "{a} {b}");
        }
    }
}
