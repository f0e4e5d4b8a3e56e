//! What the sandbox needs from the code that serves a call.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use patchbay_model::capability::{HttpError, HttpRequest, HttpResponse};

/// Longest log line of a guest.
pub const MAX_LOG_LINE_BYTES: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Serves one call, with its grants, limits and ids. Host functions, which
/// [`crate::HostInterfaces`] links, downcast it to their own type ([`crate::State::context`]). A
/// call without a context, such as a self-test, reaches nothing outside.
#[async_trait]
pub trait CallContext: Any + Send + Sync {
    /// Writes one line of the guest's log, stdout or stderr, within the limit per call. The line
    /// may be longer than [`MAX_LOG_LINE_BYTES`]; it is cut after redaction.
    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]);

    /// Sends a request of `wasi:http`. Runs on the host's threads.
    async fn http(self: Arc<Self>, request: HttpRequest) -> Result<HttpResponse, HttpError>;
}
