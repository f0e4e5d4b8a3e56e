//! A plugin against the draft of WIT 0.2: it uses what 0.1 does not have, and what both have.

#[allow(clippy::all)]
mod bindings {
    wit_bindgen::generate!({ path: "../../../wit/v0.2", world: "integration" });
}

use bindings::exports::patchbay::plugin::{jobs, lifecycle, operations, webhooks};
use bindings::patchbay::plugin::types::{CapabilityError, Failure, Retry};
use bindings::patchbay::plugin::{kv, log};

struct Draft;

fn failure(code: &str, retry: Retry) -> Failure {
    Failure {
        code: code.into(),
        message: "on request".into(),
        retry,
        details: None,
    }
}

impl jobs::Guest for Draft {
    fn run(job: jobs::Job) -> Result<String, Failure> {
        log::write(log::Level::Info, "under the draft", &[]);
        match (job.name.as_str(), job.first_deferred_at) {
            // Once deferred, it has another way.
            ("defer", None) => Err(failure("not-yet", Retry::DeferMs(10))),
            ("defer", Some(since)) => Ok(format!(r#"{{"wit":"0.2","deferredSince":{since}}}"#)),
            _ => {
                let count = kv::increment("count", 1, None)
                    .map_err(|error| failure(&error.code, Retry::Never))?;
                Ok(format!(r#"{{"wit":"0.2","count":{count}}}"#))
            }
        }
    }
}

impl operations::Guest for Draft {
    fn call(request: operations::Request) -> Result<operations::Answer, Failure> {
        let body = operations::Body::Json(format!(r#"{{"wit":"0.2","input":{}}}"#, request.input));
        Ok(operations::Answer {
            status: None,
            headers: vec![],
            body,
        })
    }
}

impl webhooks::Guest for Draft {
    fn verify(_: webhooks::Request) -> Result<webhooks::Accepted, webhooks::Rejected> {
        Err(webhooks::Rejected {
            status: 404,
            code: "none".into(),
            message: "it has none".into(),
        })
    }
}

impl lifecycle::Guest for Draft {
    /// Passes only where nothing outside is reachable, and says so.
    fn self_test() -> Result<(), String> {
        let denied = |error: &CapabilityError| {
            error.code == "denied"
                && error.message == "this call has no access to outside capabilities"
                && !error.retryable
        };
        match kv::get("count") {
            Err(error) if denied(&error) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

bindings::export!(Draft with_types_in bindings);
