//! What the sandbox itself needs of whoever serves a call.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use patchbay_model::capability::{HttpError, HttpRequest, HttpResponse};

/// Longest log line of a guest.
pub const MAX_LOG_LINE_BYTES: usize = 8 * 1024;

/// Severity of a guest's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Serves one call: it carries the call's grants, limits and ids. Host functions, which [`crate::HostInterfaces`] links, find their own type
/// behind it ([`crate::State::context`]). A call without one, such as a self-test, reaches nothing outside.
#[async_trait]
pub trait CallContext: Any + Send + Sync {
    /// One line of the guest's log, stdout or stderr, within the limit per call. It may be longer than [`MAX_LOG_LINE_BYTES`], and is cut after
    /// what must not be shown is hidden in it.
    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]);

    /// A request through `wasi:http`. Runs on the host's threads.
    async fn http(self: Arc<Self>, request: HttpRequest) -> Result<HttpResponse, HttpError>;
}
