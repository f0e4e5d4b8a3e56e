//! What the sandbox itself needs from a call: the guest's log, and requests through `wasi:http`.

use std::sync::Arc;

use async_trait::async_trait;
use patchbay_model::capability::{HttpError, HttpRequest, HttpResponse};
use patchbay_runtime::{CallContext, LogLevel};

use crate::call::Denied;
use crate::{GuestCall, http, log};

#[async_trait]
impl CallContext for GuestCall {
    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        log::write(self, level, message, fields);
    }

    async fn http(self: Arc<Self>, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if self.call.is_verification {
            return Err(Denied::verification().into());
        }
        http::whole(self, request).await
    }
}
