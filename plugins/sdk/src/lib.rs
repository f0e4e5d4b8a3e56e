//! The guest side of Patchbay's plugin contract (`patchbay:plugin@0.1.0`) for Rust.
//!
//! ```ignore
//! use patchbay_plugin::{Failure, Job, Jobs, json};
//!
//! struct Hello;
//!
//! impl Jobs for Hello {
//!     fn run(job: Job) -> Result<patchbay_plugin::Value, Failure> {
//!         let data: Greeting = job.parse()?;
//!         patchbay_plugin::info!("greeting {}", data.name);
//!         Ok(json!({ "greeted": true }))
//!     }
//! }
//! patchbay_plugin::export_jobs!(Hello);
//! ```
//!
//! The finished component imports only what the code uses, so a plugin needs to ask for no more in its plugin.toml.

use serde::de::DeserializeOwned;
pub use serde_json::{Value, json};

/// The generated bindings, for what this crate does not wrap.
#[allow(missing_docs, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        world: "job-plugin",
        pub_export_macro: true,
        export_macro_name: "export_bindings",
        default_bindings_module: "patchbay_plugin::bindings",
    });
}

pub mod operations;

pub use bindings::patchbay::plugin::types::{Failure, Retry};
pub use bindings::patchbay::plugin::{audit, flows, http, kv, log, progress, queue, secrets, smtp, sql};

pub use operations::{Answer, Operations, Request};

/// A job to run. The fields are those of the contract.
pub type Job = bindings::exports::patchbay::plugin::jobs::Job;

/// Handles the jobs of the queues that the manifest names.
pub trait Jobs {
    /// Runs one. It may run more than once (at-least-once): use `job.idempotency_key` to recognise a repeat.
    fn run(job: Job) -> Result<Value, Failure>;
}

/// Exports a type that implements [`Jobs`].
#[macro_export]
macro_rules! export_jobs {
    ($plugin:ty) => {
        // Elsewhere (unit tests) the exported names mean nothing to the linker.
        #[cfg(not(target_family = "wasm"))]
        const _: fn($crate::Job) -> Result<$crate::Value, $crate::Failure> = <$plugin as $crate::Jobs>::run;
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;
            impl $crate::bindings::exports::patchbay::plugin::jobs::Guest for Exported {
                fn run(job: $crate::Job) -> Result<String, $crate::Failure> {
                    <$plugin as $crate::Jobs>::run(job).map(|value| value.to_string())
                }
            }
    $crate::bindings::export_bindings!(Exported with_types_in $crate::bindings);
        };
    };
}

/// Reading a job's data.
impl Job {
    /// The whole data; what does not fit is `invalid-input` and names the field.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        parse(&self.data)
    }
}

/// Reads JSON; what does not fit is `invalid-input`, never retried, and names the field.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    let mut reader = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let message = error.inner().to_string();
        // Positions in the text mean nothing to whoever made the job.
        let reason = message.split(" at line ").next().unwrap_or_default().to_owned();
        let parent = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        let field = match reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            Some(missing) if parent.is_empty() => missing.to_owned(),
            Some(missing) => format!("{parent}.{missing}"),
            None => parent,
        };
        Failure::invalid_input(&field, &reason)
    })
}

impl Failure {
    /// With a kebab-case code, a message for operators (no secrets, no personal data) and what to do next.
    pub fn new(code: &str, message: impl Into<String>, retry: Retry) -> Self {
        Self { code: code.to_owned(), message: message.into(), retry, details: None }
    }

    /// The job's data is wrong; never retried.
    pub fn invalid_input(field: &str, reason: &str) -> Self {
        let message = if field.is_empty() { reason.to_owned() } else { format!("{field}: {reason}") };
        Self {
            details: Some(json!({ "field": field }).to_string()),
            ..Self::new("invalid-input", message, Retry::Never)
        }
    }
}

impl queue::NewJob {
    /// A job without options: absent ones take the queue's values from its owner's manifest.
    pub fn new(queue: &str, name: &str, data: &Value) -> Self {
        Self {
            queue: queue.to_owned(),
            name: name.to_owned(),
            data: data.to_string(),
            id: None,
            delay_ms: None,
            priority: None,
            attempts: None,
            backoff: None,
            deduplication: None,
            lifo: false,
            expires_at: None,
            keep_completed: None,
            keep_failed: None,
        }
    }
}

/// The plugin's settings.
pub mod settings {
    use serde::de::DeserializeOwned;

    use crate::{Failure, Retry, bindings, parse};

    /// All of them as one value. The host has checked them against the plugin's schema.
    pub fn all<T: DeserializeOwned>() -> Result<T, Failure> {
        parse(&bindings::patchbay::plugin::settings::all())
            .map_err(|failure| Failure::new("bad-settings", failure.message, Retry::Never))
    }
}

/// Writes a log line at level info; the others are alike.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, &format!($($arg)*), &[]) };
}

/// Writes a log line at level warn.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warn, &format!($($arg)*), &[]) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Payload {
        #[allow(dead_code)]
        to: Vec<To>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct To {
        #[allow(dead_code)]
        address: String,
    }

    #[test]
    fn what_does_not_fit_names_the_field() {
        let field = |json: &str| parse::<Payload>(json).expect_err("does not fit").message;
        assert_eq!(field("{}"), "to: missing field `to`");
        assert_eq!(field(r#"{"to":[{}]}"#), "to[0].address: missing field `address`");
        assert!(field(r#"{"to":[{"address":5}]}"#).starts_with("to[0].address: invalid type"));
    }
}
