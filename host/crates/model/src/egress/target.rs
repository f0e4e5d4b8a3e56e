//! The URL of an outbound request in normal form, which is what is matched and sent.
//!
//! Servers, proxies and clients disagree about encoded slashes, dots, backslashes, empty segments
//! and path parameters. A spelling with one harmless reading is normalised; one with several
//! readings is refused, so that no spelling reaches a place that its rule does not name.

use url::Url;

/// Longer URLs are refused: servers take about 8 KiB.
const MAX_URL_BYTES: usize = 16 << 10;
/// Most percent-encodings of one text (`%25252f`): nobody encodes more often for a good reason.
const MAX_ENCODINGS: usize = 4;

/// A normalised http or https URL without user info and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Url);

/// Why a URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("not a URL: {0}")]
    NotAUrl(url::ParseError),
    /// Not http or https, or not written in full.
    #[error("must begin with https:// or http:// and a host")]
    Scheme,
    #[error("longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Spaces and control characters: parsers drop them silently, each in its own way.
    #[error("has spaces or control characters")]
    Blank,
    /// User or password in the URL. The host process fills credentials in.
    #[error("credentials do not belong in a URL; the host fills them in")]
    UserInfo,
    /// `example.com.` is the same host as `example.com`, under a name that no rule has.
    #[error("the host name ends with a dot")]
    TrailingDot,
    /// `\`, `;`, `%2f`, `%5c`, `%00`, `%252e%252e` and the like.
    #[error("servers read the path segment {0:?} in different ways")]
    Ambiguous(String),
    /// `//` within the path.
    #[error("the path has an empty segment")]
    EmptySegment,
}

impl Target {
    /// Makes the host lower-case Punycode, writes IP addresses in standard notation, resolves `.`
    /// and `..`, undoes needless percent-encoding, and drops the fragment.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > MAX_URL_BYTES {
            return Err(TargetError::TooLong);
        }
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(TargetError::Blank);
        }
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::Scheme)?;
        let web = ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known));
        if !web || rest.starts_with(['/', '\\', '?', '#']) || rest.is_empty() {
            return Err(TargetError::Scheme);
        }
        let before_query = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
        if before_query.contains('\\') {
            return Err(TargetError::Ambiguous("\\".into()));
        }
        let authority = before_query.split('/').next().unwrap_or_default();
        let mut url = Url::parse(text).map_err(TargetError::NotAUrl)?;
        if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::UserInfo);
        }
        if url.host_str().is_none_or(|host| host.ends_with('.')) {
            return Err(TargetError::TrailingDot);
        }
        // Checks the original text: the parser resolves `..`, which would hide an empty segment or
        // a parameter that a server resolves differently.
        check_as_written(before_query.strip_prefix(authority).unwrap_or_default())?;
        let path = normalised_path(url.path())?;
        url.set_path(&path);
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// The URL as it is sent.
    pub fn url(&self) -> &Url {
        &self.0
    }

    pub fn into_url(self) -> Url {
        self.0
    }
}

fn check_as_written(path: &str) -> Result<(), TargetError> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let Some((_, inner)) = segments.split_last() else {
        return Ok(());
    };
    if inner.iter().any(|segment| segment.is_empty()) {
        return Err(TargetError::EmptySegment);
    }
    segments.iter().try_for_each(|segment| unambiguous(segment))
}

fn normalised_path(path: &str) -> Result<String, TargetError> {
    let mut normalised = String::with_capacity(path.len());
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        normalised.push('/');
        normalise(segment, &mut normalised);
    }
    Ok(normalised)
}

/// Refuses a segment whose meaning changes when it is decoded, however often.
fn unambiguous(segment: &str) -> Result<(), TargetError> {
    let ambiguous = || TargetError::Ambiguous(segment.chars().take(64).collect());
    let mut decoded = segment.as_bytes().to_vec();
    for round in 0..=MAX_ENCODINGS {
        if decoded
            .iter()
            .any(|&byte| b"/\\;".contains(&byte) || byte < b' ' || byte == 0x7f)
        {
            return Err(ambiguous());
        }
        let dots = decoded == b"." || decoded == b"..";
        // The URL parser resolves dots that are encoded once like plain ones.
        if dots && round > 1 {
            return Err(ambiguous());
        }
        let next: Vec<u8> = percent_encoding::percent_decode(&decoded).collect();
        if next == decoded {
            return if round == 0 && decoded.contains(&b'%') {
                Err(ambiguous())
            } else {
                Ok(())
            };
        }
        decoded = next;
    }
    Err(ambiguous())
}

/// RFC 3986, 6.2.2: unreserved characters are decoded, hexadecimal digits become upper case.
/// Libraries decode all or nothing.
fn normalise(segment: &str, out: &mut String) {
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).unwrap_or(&rest[at..]);
        match escape
            .get(1..)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(byte as char)
            }
            _ => out.push_str(&escape.to_ascii_uppercase()),
        }
        rest = &rest[at + escape.len()..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(text: &str) -> String {
        Target::parse(text)
            .expect("a target")
            .into_url()
            .to_string()
    }

    #[test]
    fn what_has_one_harmless_reading_is_normalised() {
        for (written, expected) in [
            ("HTTPS://A.Example:443/v1", "https://a.example/v1"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
            (
                "https://a.example/v1/%61dmin%2dx?q=%41",
                "https://a.example/v1/admin-x?q=%41",
            ),
            ("https://a.example/%e2%82%ac", "https://a.example/%E2%82%AC"),
            ("https://a.example/v1/../v2/./x", "https://a.example/v2/x"),
            ("https://a.example/v1/%2e%2E/v2", "https://a.example/v2"),
            ("https://a.example/v1/x#/../../y", "https://a.example/v1/x"),
            ("https://a.example/v1/", "https://a.example/v1/"),
            ("https://a.example", "https://a.example/"),
            ("https://a.example/a%20b", "https://a.example/a%20b"),
            ("https://a.example/100%25", "https://a.example/100%25"),
            (
                "https://a.example/x?next=https://b.example//y;z\\",
                "https://a.example/x?next=https://b.example//y;z\\",
            ),
            ("http://2130706433/", "http://127.0.0.1/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://0177.0.0.1/", "http://127.0.0.1/"),
            ("http://１２７.0.0.1/", "http://127.0.0.1/"),
        ] {
            assert_eq!(sent(written), expected, "{written}");
        }
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for text in [
            "https://a.example/v1/%61%2d/%c3?x#y",
            "https://a.example/v1/../%2e%2e/x",
            "https://Ä.example/a|b",
        ] {
            assert_eq!(sent(&sent(text)), sent(text));
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for text in [
            "https://a.example/v1/..%2fv2",
            "https://a.example/v1/..%2Fv2",
            "https://a.example/v1/..%252fv2",
            "https://a.example/v1/%252e%252e/v2",
            "https://a.example/v1/%25252e%25252e/v2",
            "https://a.example/v1/..%5cv2",
            "https://a.example/v1\\..\\v2",
            "https://a.example\\@b.example/",
            "https://a.example/v1/x%00.png",
            "https://a.example/v1/..;/v2",
            "https://a.example/v1/x;a=1/y",
            "https://a.example/v1/x%3ba=1/y",
            "https://a.example/v1/x%0d%0aHost:%20b",
            "https://a.example/v1//v2",
            "https://a.example//v1",
            "https://a.example/v1//../v2",
            "https://a.example/v1/%zz",
            "https://a.example/v1/%",
            "https://u:p@a.example/",
            "https://u@a.example/",
            "https://@a.example/",
            "https://a.example./v1",
            "https://a.example/v1\n",
            "https://a.exa\tmple/v1",
            " https://a.example/v1",
            "https:a.example/v1",
            "https:///a.example/v1",
            "//a.example/v1",
            "file:///etc/passwd",
            "ftp://a.example/",
            "gopher://a.example/",
            "data://a.example/",
            "https://",
            "nonsense",
            "",
        ] {
            assert!(
                Target::parse(text).is_err(),
                "{text:?}: {:?}",
                Target::parse(text)
            );
        }
        let long = format!("https://a.example/{}", "x".repeat(MAX_URL_BYTES));
        assert_eq!(Target::parse(&long), Err(TargetError::TooLong));
    }
}
