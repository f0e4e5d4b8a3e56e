//! What an operation of a plugin is asked, and what it answers.

use crate::capability::Fields;

/// Largest content of an answer. It is held whole, by the guest and by the host; what is larger is relayed.
pub const MAX_CONTENT_BYTES: usize = 16 << 20;
/// Longest name, in characters.
pub const MAX_NAME: usize = 64;
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// Whether an operation may be called so: 1 to [`MAX_NAME`] letters, digits and `- _ . :`.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(plain)
}

/// On whose behalf an operation runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Absent for operators and for the host itself.
    pub user_id: Option<String>,
    pub email: Option<String>,
    /// `operator` for an operator.
    pub role: Option<String>,
    /// The value of `x-platform`.
    pub platform: String,
    /// Where the request came from.
    pub ip: Option<String>,
    /// One id from the request through to outside calls.
    pub correlation_id: String,
    /// Stable over retries of one request.
    pub idempotency_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For an HTTP client; absent means the usual one.
    pub status: Option<u16>,
    /// For an HTTP client.
    pub headers: Fields,
    pub body: Body,
}

/// The content of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// None.
    Empty,
    Json(String),
    /// To be sent as it is.
    Bytes {
        content_type: String,
        /// As the guest made it.
        content: Vec<u8>,
    },
    /// The host fetches this URL under the plugin's egress rules and passes on what comes.
    Relay(String),
}

impl Body {
    /// `empty`, `json`, `bytes` or `relay`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Json(_) => "json",
            Self::Bytes { .. } => "bytes",
            Self::Relay(_) => "relay",
        }
    }
}

impl Answer {
    /// Why it cannot be passed on: too large, not JSON, or not to be written as HTTP.
    pub fn check(&self, max_json_bytes: usize) -> Result<(), String> {
        if let Some(status) = self.status.filter(|status| !(200..=599).contains(status)) {
            return Err(format!("status {status}; an answer has one from 200 to 599"));
        }
        match &self.body {
            Body::Empty | Body::Relay(_) => Ok(()),
            Body::Json(text) => check_json(text, max_json_bytes),
            Body::Bytes { content_type, content } => {
                let printable = content_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
                if !printable || !content_type.contains('/') || content_type.len() > MAX_CONTENT_TYPE_BYTES {
                    return Err("not a content type".into());
                }
                check_length(content.len(), MAX_CONTENT_BYTES)
            }
        }
    }
}

/// Why this is not one JSON document of at most so many bytes.
pub fn check_json(text: &str, max_bytes: usize) -> Result<(), String> {
    check_length(text.len(), max_bytes)?;
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

fn check_length(bytes: usize, most: usize) -> Result<(), String> {
    if bytes > most { Err(format!("{bytes} bytes; the limit is {most}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(status: Option<u16>, body: Body) -> Result<(), String> {
        Answer { status, headers: Vec::new(), body }.check(8)
    }

    fn bytes(content_type: &str, length: usize) -> Body {
        Body::Bytes { content_type: content_type.into(), content: vec![0; length] }
    }

    #[test]
    fn what_cannot_be_passed_on_is_refused_with_the_reason() {
        assert_eq!(checked(Some(201), Body::Json("[1]".into())), Ok(()));
        assert_eq!(checked(None, bytes("audio/mpeg", MAX_CONTENT_BYTES)), Ok(()));
        let refused = |status, body| checked(status, body).expect_err("refused");
        assert_eq!(refused(None, Body::Json("[1,2,3,4]".into())), "9 bytes; the limit is 8");
        assert!(refused(None, Body::Json("[1".into())).starts_with("not JSON"));
        assert!(refused(Some(101), Body::Empty).starts_with("status 101"));
        assert_eq!(refused(None, bytes("audio/mpeg\r\nset-cookie: x", 1)), "not a content type");
        assert_eq!(refused(None, bytes("", 1)), "not a content type");
        assert_eq!(refused(None, bytes("a/b", MAX_CONTENT_BYTES + 1)), "16777217 bytes; the limit is 16777216");
    }
}
