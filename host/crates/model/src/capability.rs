//! What the host does for a guest, as one trait: each WIT version is adapted to it once (in `runtime`), and `capability` implements it once.
//!
//! It lives here, between the two, so that neither the sandbox nor the outside world compiles the other.
//! Everything a guest may not do answers an ordinary error value; the trait has no way to trap.

use std::sync::Arc;

use async_trait::async_trait;

use crate::flow::{ChildResult, Flow};
use crate::job::NewJob;
use crate::sql::{SqlAnswer, SqlError, SqlStatement, SqlTransaction};

/// Longest log line of a guest.
pub const MAX_LOG_LINE_BYTES: usize = 8 * 1024;

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

/// Severity of a guest's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Hash functions for MACs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HashKind {
    Sha1,
    Sha256,
    Sha512,
}

/// An outbound request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET`, `POST`, …
    pub method: String,
    /// Absolute.
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
    /// Status code.
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
    /// Anything else.
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

/// SMTP envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// `MAIL FROM`; must be one that the account may send as.
    pub sender: String,
    /// One `RCPT TO` each.
    pub recipients: Vec<String>,
}

/// The server took the message for at least one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpReceipt {
    /// The server's final reply text.
    pub reply: String,
    /// Recipients refused while others were taken.
    pub refused: Vec<SmtpRefusal>,
}

/// A recipient that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpRefusal {
    /// The address.
    pub recipient: String,
    /// For example 550.
    pub reply_code: u16,
    /// For example `5.1.1`.
    pub enhanced_code: Option<String>,
    /// The server's text.
    pub text: String,
}

/// The message was not taken, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpFailure {
    /// `denied`, `not-configured`, `breaker-open`, `connect`, `tls`, `auth`, `mail`, `rcpt`, `data`, `timeout`, `too-large`.
    pub phase: &'static str,
    /// Absent when no reply came.
    pub reply_code: Option<u16>,
    /// For example `5.7.8`.
    pub enhanced_code: Option<String>,
    /// The server's text, or ours.
    pub text: String,
    /// The message may have been taken although no reply came.
    pub ambiguous: bool,
    /// Verdicts on recipients so far.
    pub refused: Vec<SmtpRefusal>,
}

/// Everything that one call of one plugin may do outside its sandbox. One value per call: it carries the call's grants, limits and ids.
#[async_trait]
pub trait Capabilities: Send + Sync + 'static {
    /// One log line, cut to [`MAX_LOG_LINE_BYTES`] where it is longer. Never fails; the limit per call is the caller's (`runtime`) business, since it also covers stdout and stderr.
    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]);

    /// Progress as JSON: a number from 0 to 100 or an object.
    fn report_progress(&self, value: String);

    /// One setting as JSON.
    fn setting(&self, name: &str) -> Option<String>;
    /// All settings as one JSON object.
    fn settings(&self) -> String;

    /// Whether the secret has a value.
    fn secret_is_configured(&self, name: &str) -> bool;
    /// Constant time; true when any current version gives this MAC.
    fn verify_hmac(&self, name: &str, hash: HashKind, data: &[u8], mac: &[u8]) -> Result<bool, CapabilityError>;
    /// By the newest version.
    fn sign_hmac(&self, name: &str, hash: HashKind, data: &[u8]) -> Result<Vec<u8>, CapabilityError>;
    /// Constant time; at most 8 tries per call of the plugin.
    fn secret_matches(&self, name: &str, candidate: &[u8]) -> Result<bool, CapabilityError>;

    /// An outbound HTTP request under the manifest's egress rules. Serves both `patchbay:plugin/http` and `wasi:http`.
    async fn http(&self, request: HttpRequest) -> Result<HttpResponse, HttpError>;

    /// The value, if any.
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, CapabilityError>;
    /// Writes. Absent ttl: the manifest's default.
    async fn kv_set(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<(), CapabilityError>;
    /// Writes only when absent; false when there was a value.
    async fn kv_set_if_absent(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<bool, CapabilityError>;
    /// Whether there was one.
    async fn kv_delete(&self, key: &str) -> Result<bool, CapabilityError>;
    /// The new value; the ttl applies only when the key is made.
    async fn kv_increment(&self, key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, CapabilityError>;

    /// The ids, in order. Each queue's jobs are added all or none.
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<String>, CapabilityError>;
    /// Adds a tree, all or nothing; the ids, parents before their children.
    async fn enqueue_flow(&self, flow: Flow) -> Result<Vec<String>, CapabilityError>;
    /// What became of the children of the job that runs.
    async fn children(&self) -> Result<Vec<ChildResult>, CapabilityError>;

    /// All statements and all jobs in one transaction, or nothing.
    async fn sql_run(&self, statements: Vec<SqlStatement>, jobs: Vec<NewJob>) -> Result<Vec<SqlAnswer>, SqlError>;
    /// A transaction that stays open between statements. One per call; other outside calls are denied while it is open.
    async fn sql_begin(&self) -> Result<Arc<dyn SqlTransaction>, SqlError>;
    /// Jobs that become real with its commit.
    async fn sql_enqueue(&self, transaction: Arc<dyn SqlTransaction>, jobs: Vec<NewJob>) -> Result<(), SqlError>;

    /// Hands a finished MIME message to the mail server.
    async fn send_mail(&self, envelope: Envelope, mime: Vec<u8>) -> Result<SmtpReceipt, SmtpFailure>;

    /// Writes an entry (one JSON document) into an audit trail; within a job once per key.
    async fn append_audit(&self, trail: &str, entry_key: String, entry: String) -> Result<(), CapabilityError>;
}
