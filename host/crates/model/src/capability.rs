//! Answers of host calls, as far as several crates need them. Whatever a guest may not do gets an
//! ordinary error value.

/// Header or form fields, with order and repetition kept.
pub type Fields = Vec<(String, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct CapabilityError {
    /// `denied`, `invalid`, `timeout`, `too-large`, `unavailable`, `conflict`, or its own code.
    pub code: &'static str,
    /// Safe for the guest to see: no secrets.
    pub message: String,
    /// Whether the same call may work later.
    pub retryable: bool,
}

impl CapabilityError {
    /// Not in the manifest, not granted, or not available here.
    pub fn denied(message: impl Into<String>) -> Self {
        Self {
            code: "denied",
            message: message.into(),
            retryable: false,
        }
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: "invalid",
            message: message.into(),
            retryable: false,
        }
    }
    pub fn too_large(message: impl Into<String>) -> Self {
        Self {
            code: "too-large",
            message: message.into(),
            retryable: false,
        }
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            code: "unavailable",
            message: message.into(),
            retryable: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    pub method: String,
    pub url: String,
    /// Unchecked, as the guest gave them.
    pub headers: Fields,
    /// Absent means no body at all.
    pub body: Option<Vec<u8>>,
    /// Lowers the limit of the rule, never raises it.
    pub timeout: Option<std::time::Duration>,
}

/// An HTTP response. A 4xx or 5xx status is a response, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    /// Lower-case names.
    pub headers: Fields,
    /// Decompressed; the size limit applies after decompression.
    pub body: Vec<u8>,
}

/// Why there is no response. Mirrors the WIT variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No rule, no grant, or a blocked address.
    #[error("denied: {0}")]
    Denied(String),
    #[error("timeout while {0:?}")]
    Timeout(TimeoutPhase),
    #[error("dns: {0}")]
    Dns(String),
    #[error("connect: {0}")]
    Connect(String),
    #[error("tls: {0}")]
    Tls(String),
    #[error("the response is larger than {0} bytes")]
    TooLarge(u64),
    #[error("breaker open for {0} ms")]
    BreakerOpen(u64),
    /// A request that cannot be sent: bad URL, bad header, a field that the host fills in.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The connection broke; true when the request may have reached the server.
    #[error("interrupted (request may have been sent: {0})")]
    Interrupted(bool),
    #[error("{0}")]
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutPhase {
    /// Nothing was sent, so a repeat is safe.
    Connecting,
    /// The outcome is unknown.
    AwaitingResponse,
    /// The server has already acted.
    ReadingBody,
}
