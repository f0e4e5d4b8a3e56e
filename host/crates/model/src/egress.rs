//! Which outbound requests a manifest allows: pure matching, no network.
//!
//! A rule names scheme, host, port, methods and a path pattern (`*` is one segment, `**` any number, only at the end).
//! Among matching rules the one with the longest literal prefix wins; the manifest check refuses ties.

use url::Url;

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

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a URL at all.
    #[error("not a URL: {0}")]
    NotAUrl(String),
    /// Only http and https go out.
    #[error("the scheme must be https or http")]
    Scheme,
    /// No wildcards in hosts, no user info, query or fragment.
    #[error("a rule has a fixed host and no user, password, query or fragment")]
    Extra,
    /// `**` anywhere but at the end, or a `*` that is part of a segment.
    #[error("'*' stands for one whole path segment and '**' only for the end of the path")]
    Wildcard,
}

impl UrlPattern {
    /// Parses, for example, `https://api.example.com/v1/**`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let url = Url::parse(text).map_err(|error| PatternError::NotAUrl(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(PatternError::Scheme);
        }
        let host = url.host_str().filter(|h| !h.contains('*')).ok_or(PatternError::Extra)?.to_owned();
        let extra =
            !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some();
        if extra {
            return Err(PatternError::Extra);
        }
        let mut parts: Vec<&str> = path_segments(&url);
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
        Ok(Self { scheme: url.scheme().to_owned(), host, port, segments, any_rest })
    }

    /// Whether the pattern covers this URL. The URL is already normalised by its parser (`..` resolved, host lower-cased);
    /// encoded slashes and dots stay encoded and therefore never match a literal.
    pub fn matches(&self, url: &Url) -> bool {
        if url.scheme() != self.scheme
            || url.host_str() != Some(self.host.as_str())
            || url.port_or_known_default() != Some(self.port)
        {
            return false;
        }
        let parts = path_segments(url);
        // Servers disagree on what an encoded slash, backslash or dot means: a path that uses one to climb matches nothing.
        if parts.iter().any(|part| hides_a_separator(part)) {
            return false;
        }
        let long_enough =
            if self.any_rest { parts.len() >= self.segments.len() } else { parts.len() == self.segments.len() };
        long_enough
            && self.segments.iter().zip(&parts).all(|(segment, part)| match segment {
                Segment::Any => !part.is_empty(),
                Segment::Literal(literal) => literal == part,
            })
    }

    /// How specific the pattern is: bytes of literal path before the first wildcard.
    pub fn literal_prefix_len(&self) -> usize {
        self.segments
            .iter()
            .map_while(|segment| match segment {
                Segment::Literal(literal) => Some(literal.len() + 1),
                Segment::Any => None,
            })
            .sum()
    }

    /// Scheme, host and port, for example `https://api.example.com:443`: what breakers and metrics group by.
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }
}

fn path_segments(url: &Url) -> Vec<&str> {
    url.path_segments().map(Iterator::collect).unwrap_or_default()
}

fn hides_a_separator(segment: &str) -> bool {
    let lower = segment.to_ascii_lowercase();
    ["%2f", "%5c", "%2e", "%00"].iter().any(|encoded| lower.contains(encoded)) || segment.contains('\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, url: &str) -> bool {
        UrlPattern::parse(pattern).expect("pattern").matches(&Url::parse(url).expect("url"))
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_the_rest() {
        assert!(matches("https://a.example/v1/*/calls", "https://a.example/v1/x/calls"));
        assert!(!matches("https://a.example/v1/*/calls", "https://a.example/v1/x/y/calls"));
        assert!(matches("https://a.example/v1/**", "https://a.example/v1/x/y?q=1"));
        assert!(!matches("https://a.example/v1/**", "https://a.example/v2/x"));
        assert!(!matches("https://a.example/v1/**", "https://a.example/v11/x"));
    }

    #[test]
    fn scheme_host_and_port_are_exact() {
        assert!(matches("https://a.example/**", "https://A.example:443/x"));
        for url in
            ["http://a.example/x", "https://a.example:444/x", "https://b.a.example/x", "https://a.example.evil/x"]
        {
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
            "https://a.example/**/x",
            "https://a.example/v*",
            "nonsense",
        ] {
            assert!(UrlPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
