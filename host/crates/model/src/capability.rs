//! What host calls answer, as far as more than one crate speaks of it. Everything that a guest may not do answers an ordinary error value.

/// Header or form fields: order and repetition are kept.
pub type Fields = Vec<(String, Vec<u8>)>;

/// What a capability answers when it does not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct CapabilityError {
    /// `denied`, `invalid`, `timeout`, `too-large`, `unavailable`, `conflict`, or a code of that capability.
    pub code: &'static str,
    /// Safe for the guest to see: no secrets.
    pub message: String,
    /// Whether the same call may work later.
    pub retryable: bool,
}

impl CapabilityError {
    /// Not asked for, not granted, or not served here.
    pub fn denied(message: impl Into<String>) -> Self {
        Self { code: "denied", message: message.into(), retryable: false }
    }
    /// The arguments make no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: "invalid", message: message.into(), retryable: false }
    }
    /// More than the limit allows.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self { code: "too-large", message: message.into(), retryable: false }
    }
    /// Down for the moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: "unavailable", message: message.into(), retryable: true }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET`, `POST`, …
    pub method: String,
    pub url: String,
    /// As the guest gave them.
    pub headers: Fields,
    /// Absent: no body at all.
    pub body: Option<Vec<u8>>,
    /// Lowers, never raises, the rule's limit.
    pub timeout: Option<std::time::Duration>,
}

/// Its response. A 4xx or 5xx is a response, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    /// Lower-case names.
    pub headers: Fields,
    /// Decompressed, and checked against the limit after that.
    pub body: Vec<u8>,
}

/// What did not happen. Mirrors the WIT variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No rule, no grant, or a blocked address.
    #[error("denied: {0}")]
    Denied(String),
    /// The clock ran out in this phase.
    #[error("timeout while {0:?}")]
    Timeout(TimeoutPhase),
    /// The name has no address.
    #[error("dns: {0}")]
    Dns(String),
    /// No connection.
    #[error("connect: {0}")]
    Connect(String),
    /// No secure connection.
    #[error("tls: {0}")]
    Tls(String),
    /// The response is larger than this many bytes.
    #[error("the response is larger than {0} bytes")]
    TooLarge(u64),
    /// Milliseconds until the next probe.
    #[error("breaker open for {0} ms")]
    BreakerOpen(u64),
    /// A request that cannot be sent: bad URL, bad header, a field that the host fills in.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The connection broke; true when the request may have reached the other side.
    #[error("interrupted (request may have been sent: {0})")]
    Interrupted(bool),
    #[error("{0}")]
    Other(String),
}

/// Where a request was when its time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutPhase {
    /// Nothing was sent: safe to repeat.
    Connecting,
    /// The outcome is unknown.
    AwaitingResponse,
    /// The other side has acted.
    ReadingBody,
}
