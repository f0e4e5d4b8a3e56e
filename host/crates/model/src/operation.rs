//! Input and answer of a plugin's operation.

use crate::capability::Fields;

/// Largest content of an answer. Guest and host both hold it whole; larger content must be relayed.
pub const MAX_CONTENT_BYTES: usize = 16 << 20;
/// Longest name, in characters.
pub const MAX_NAME: usize = 64;
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// Whether an operation may have this name: 1 to [`MAX_NAME`] letters, digits and `- _ . :`.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(plain)
}

/// The person or system for which an operation runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Absent for operators and for the host itself.
    pub user_id: Option<String>,
    pub email: Option<String>,
    /// `operator` for an operator.
    pub role: Option<String>,
    pub platform: String,
    /// IP address of the request's sender.
    pub ip: Option<String>,
    /// One id from the request to its outside calls.
    pub correlation_id: String,
    /// Stays the same over retries of one request.
    pub idempotency_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; absent means the usual one.
    pub status: Option<u16>,
    pub headers: Fields,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Empty,
    Json(String),
    /// Sent unchanged.
    Bytes {
        content_type: String,
        content: Vec<u8>,
    },
    /// The host fetches this URL under the plugin's egress rules and passes on the response.
    Relay(String),
}

impl Body {
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
    /// Why the answer cannot be passed on: too large, not JSON, or not valid in HTTP.
    pub fn check(&self, max_json_bytes: usize) -> Result<(), String> {
        if let Some(status) = self.status.filter(|status| !(200..=599).contains(status)) {
            return Err(format!("the status must be from 200 to 599, not {status}"));
        }
        match &self.body {
            Body::Empty | Body::Relay(_) => Ok(()),
            Body::Json(text) => check_json(text, max_json_bytes),
            Body::Bytes {
                content_type,
                content,
            } => {
                let printable = content_type
                    .bytes()
                    .all(|byte| (0x20..0x7f).contains(&byte));
                if !printable
                    || !content_type.contains('/')
                    || content_type.len() > MAX_CONTENT_TYPE_BYTES
                {
                    return Err("the content type is not valid".into());
                }
                check_length(content.len(), MAX_CONTENT_BYTES)
            }
        }
    }
}

/// Checks that a text is one JSON document of at most `max_bytes` bytes.
pub fn check_json(text: &str, max_bytes: usize) -> Result<(), String> {
    check_length(text.len(), max_bytes)?;
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

fn check_length(bytes: usize, most: usize) -> Result<(), String> {
    if bytes > most {
        Err(format!("{bytes} bytes; the limit is {most}"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(status: Option<u16>, body: Body) -> Result<(), String> {
        Answer {
            status,
            headers: Vec::new(),
            body,
        }
        .check(8)
    }

    fn bytes(content_type: &str, length: usize) -> Body {
        Body::Bytes {
            content_type: content_type.into(),
            content: vec![0; length],
        }
    }

    #[test]
    fn what_cannot_be_passed_on_is_refused_with_the_reason() {
        assert_eq!(checked(Some(201), Body::Json("[1]".into())), Ok(()));
        assert_eq!(
            checked(None, bytes("audio/mpeg", MAX_CONTENT_BYTES)),
            Ok(())
        );
        let refused = |status, body| checked(status, body).expect_err("refused");
        assert_eq!(
            refused(None, Body::Json("[1,2,3,4]".into())),
            "9 bytes; the limit is 8"
        );
        assert!(refused(None, Body::Json("[1".into())).starts_with("not JSON"));
        assert!(refused(Some(101), Body::Empty).contains("from 200 to 599, not 101"));
        assert_eq!(
            refused(None, bytes("audio/mpeg\r\nset-cookie: x", 1)),
            "the content type is not valid"
        );
        assert_eq!(refused(None, bytes("", 1)), "the content type is not valid");
        assert_eq!(
            refused(None, bytes("a/b", MAX_CONTENT_BYTES + 1)),
            "16777217 bytes; the limit is 16777216"
        );
    }
}
