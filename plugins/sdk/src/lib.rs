//! The guest side of Patchbay's plugin contract (`patchbay:plugin@0.1.1`) for Rust.
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
//! The finished component imports only what the code uses, so a plugin needs to ask for no more in
//! its plugin.toml.

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

mod lenient;
pub mod operations;
pub mod webhooks;

pub use bindings::patchbay::plugin::types::{Failure, Retry};
pub use bindings::patchbay::plugin::{
    accounts, audit, credentials, flows, http, kv, log, progress, queue, schedules, secrets, smtp,
    sql,
};

pub use lenient::whole_pairs;
pub use operations::{Answer, Operations, Request};
pub use webhooks::Webhooks;

/// A job to run. The fields are those of the contract.
pub type Job = bindings::exports::patchbay::plugin::jobs::Job;

/// Handles the jobs of the queues that the manifest names.
pub trait Jobs {
    /// Runs one. It may run more than once (at-least-once): use `job.idempotency_key` to recognise
    /// a repeat.
    fn run(job: Job) -> Result<Value, Failure>;
}

/// Exports a type that implements [`Jobs`].
#[macro_export]
macro_rules! export_jobs {
    ($plugin:ty) => {
        // Elsewhere (unit tests) the exported names mean nothing to the linker.
        #[cfg(not(target_family = "wasm"))]
        const _: fn($crate::Job) -> Result<$crate::Value, $crate::Failure> =
            <$plugin as $crate::Jobs>::run;
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

/// Deepest nesting of data that [`parse`] reads: reading takes stack, and on a host's, which ends
/// between 800 and 1,000 levels, there must be room for whatever reads and writes it next.
pub const MAX_DEPTH: usize = 400;

/// Reads JSON; what does not fit is `invalid-input`, never retried, and names the field. It takes
/// what JavaScript's `JSON.parse` takes: half a surrogate pair (`"\ud800"`) becomes U+FFFD, since
/// no text in Rust can hold it, and data nests up to [`MAX_DEPTH`] levels.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    if lenient::depth(json) > MAX_DEPTH {
        return Err(Failure::invalid_input(
            "",
            &format!("the data nests deeper than {MAX_DEPTH} levels"),
        ));
    }
    let json = lenient::whole_pairs(json);
    let mut reader = serde_json::Deserializer::from_str(&json);
    // Bounded above.
    reader.disable_recursion_limit();
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let message = error.inner().to_string();
        // Positions in the text mean nothing to whoever made the job.
        let reason = message
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        let parent = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        let field = match reason
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next())
        {
            Some(missing) if parent.is_empty() => missing.to_owned(),
            Some(missing) => format!("{parent}.{missing}"),
            None => parent,
        };
        Failure::invalid_input(&field, &reason)
    })
}

impl Failure {
    /// With a kebab-case code, a message for operators (no secrets, no personal data) and what to
    /// do next.
    pub fn new(code: &str, message: impl Into<String>, retry: Retry) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            retry,
            details: None,
        }
    }

    /// The job's data is wrong; never retried.
    pub fn invalid_input(field: &str, reason: &str) -> Self {
        let message = if field.is_empty() {
            reason.to_owned()
        } else {
            format!("{field}: {reason}")
        };
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
    fn numbers_come_out_as_they_went_in() {
        // As JavaScript writes them; without care, a tenth of such numbers change in their last
        // digit.
        for text in [
            "0.8444218515250481",
            "0.13436424411240122",
            "0.8474337369372327",
            "1e-7",
            "5e-324",
        ] {
            let value: f64 = parse(text).expect("a number");
            assert_eq!(Ok(value), text.parse());
            assert_eq!(
                parse::<Value>(text).expect("a number").as_f64(),
                text.parse().ok()
            );
        }
    }

    #[test]
    fn what_json_parse_takes_is_read() {
        let half = parse::<Value>(r#"{"\ud800":"a\uDC00b\ud83d\ude00\\ud800"}"#).expect("JSON");
        assert_eq!(half, json!({ "\u{fffd}": "a\u{fffd}b\u{1F600}\\ud800" }));
        let nested = |levels: usize| format!("{}\"[[\"{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse::<Value>(&nested(130)).is_ok());
        assert!(parse::<Value>(&nested(MAX_DEPTH)).is_ok());
        let refused = parse::<Value>(&nested(10_000)).expect_err("too deep");
        assert_eq!(
            (
                refused.code.as_str(),
                refused.message.contains("400 levels")
            ),
            ("invalid-input", true)
        );
    }

    #[test]
    fn what_does_not_fit_names_the_field() {
        let field = |json: &str| parse::<Payload>(json).expect_err("does not fit").message;
        assert_eq!(field("{}"), "to: missing field `to`");
        assert_eq!(
            field(r#"{"to":[{}]}"#),
            "to[0].address: missing field `address`"
        );
        assert!(field(r#"{"to":[{"address":5}]}"#).starts_with("to[0].address: invalid type"));
    }
}
