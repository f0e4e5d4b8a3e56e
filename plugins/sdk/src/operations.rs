//! Operations: synchronous answers for an operator's `patchbay plugin call`, and for HTTP routes.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Failure;

/// The generated bindings of the world `operation-plugin`; what it imports is that of
/// [`crate::bindings`].
#[allow(missing_docs, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        world: "operation-plugin",
        pub_export_macro: true,
        export_macro_name: "export_operation_bindings",
        default_bindings_module: "patchbay_plugin::operations::bindings",
        with: {
            "patchbay:plugin/types@0.1.1": crate::bindings::patchbay::plugin::types,
            "patchbay:plugin/log@0.1.1": crate::bindings::patchbay::plugin::log,
            "patchbay:plugin/progress@0.1.1": crate::bindings::patchbay::plugin::progress,
            "patchbay:plugin/settings@0.1.1": crate::bindings::patchbay::plugin::settings,
            "patchbay:plugin/secrets@0.1.1": crate::bindings::patchbay::plugin::secrets,
            "patchbay:plugin/http@0.1.1": crate::bindings::patchbay::plugin::http,
            "patchbay:plugin/sql@0.1.1": crate::bindings::patchbay::plugin::sql,
            "patchbay:plugin/kv@0.1.1": crate::bindings::patchbay::plugin::kv,
            "patchbay:plugin/queue@0.1.1": crate::bindings::patchbay::plugin::queue,
            "patchbay:plugin/flows@0.1.1": crate::bindings::patchbay::plugin::flows,
            "patchbay:plugin/smtp@0.1.1": crate::bindings::patchbay::plugin::smtp,
            "patchbay:plugin/audit@0.1.1": crate::bindings::patchbay::plugin::audit,
            "patchbay:plugin/schedules@0.1.1": crate::bindings::patchbay::plugin::schedules,
            "patchbay:plugin/credentials@0.1.1": crate::bindings::patchbay::plugin::credentials,
            "patchbay:plugin/accounts@0.1.1": crate::bindings::patchbay::plugin::accounts,
        },
    });
}

pub use bindings::exports::patchbay::plugin::operations::{Answer, Body, Caller, Request};

/// Answers operations. An operation that the plugin does not know is [`Request::unknown`].
pub trait Operations {
    /// Answers one. Nothing is tried again by the host; `request.caller.idempotency_key` is the
    /// same when the client repeats itself.
    fn call(request: Request) -> Result<Answer, Failure>;
}

/// Exports a type that implements [`Operations`].
#[macro_export]
macro_rules! export_operations {
    ($plugin:ty) => {
        // Elsewhere (unit tests) the exported names mean nothing to the linker.
        #[cfg(not(target_family = "wasm"))]
        const _: fn($crate::Request) -> Result<$crate::Answer, $crate::Failure> =
            <$plugin as $crate::Operations>::call;
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;
            impl $crate::operations::bindings::exports::patchbay::plugin::operations::Guest for Exported {
                fn call(request: $crate::Request) -> Result<$crate::Answer, $crate::Failure> {
                    <$plugin as $crate::Operations>::call(request)
                }
            }
            $crate::operations::bindings::export_operation_bindings!(Exported with_types_in $crate::operations::bindings);
        };
    };
}

impl Request {
    /// The whole input; what does not fit is `invalid-input` and names the field.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        crate::parse(&self.input)
    }

    /// The failure `not-found`, with the operation's name.
    pub fn unknown(&self) -> Failure {
        Failure::new(
            "not-found",
            format!("no operation is called {}", self.operation),
            crate::Retry::Never,
        )
    }
}

impl Answer {
    /// One JSON document, at most 1 MiB.
    pub fn json(value: &Value) -> Self {
        Self::of(Body::Json(value.to_string()))
    }

    /// Content as it is, at most 16 MiB.
    pub fn bytes(content_type: &str, content: Vec<u8>) -> Self {
        Self::of(Body::Bytes((content_type.to_owned(), content)))
    }

    /// What is at this URL: the host fetches it under the plugin's egress rules, and the plugin
    /// never holds it.
    pub fn relay(url: &str) -> Self {
        Self::of(Body::Relay(url.to_owned()))
    }

    /// Nothing but success.
    pub fn empty() -> Self {
        Self::of(Body::Empty)
    }

    /// Instead of the route's success status.
    pub fn with_status(self, status: u16) -> Self {
        Self {
            status: Some(status),
            ..self
        }
    }

    fn of(body: Body) -> Self {
        Self {
            status: None,
            headers: Vec::new(),
            body,
        }
    }
}
