//! Types that all other crates use: ids, manifest, outcomes, retry rules and the guest's view of
//! the host.
//!
//! Owns types and pure rules. Never does I/O, never reads the clock, and knows nothing of Redis,
//! SQL, HTTP clients or wasm. Only parsing can fail here, and each failure names the field.

/// What serde's `try_from = "String", into = "String"` needs of a type that is read and shown as a
/// text.
macro_rules! text_form {
    ($name:ty) => {
        impl TryFrom<String> for $name {
            type Error = <Self as std::str::FromStr>::Err;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

pub mod address;
pub mod attempt;
pub mod audit;
pub mod audit_chain;
pub mod breaker;
pub mod build;
pub mod capability;
pub mod confidential;
pub mod data_path;
pub mod egress;
pub mod filter;
pub mod fingerprint;
pub mod flow;
pub mod grant;
pub mod id;
pub mod job;
pub mod job_defaults;
pub mod job_view;
pub mod json_members;
pub mod json_schema;
pub mod key_pattern;
mod lossy_text;
pub mod manifest;
pub mod mirror_cursor;
pub mod operation;
pub mod operator;
pub mod outcome;
pub mod quarantine;
pub mod queue;
pub mod redaction;
pub mod request_path;
pub mod retry;
pub mod role;
pub mod route_tree;
pub mod saved_search;
pub mod schedule;
pub mod serde_errors;
pub mod shell;
pub mod signature;
pub mod sql;
mod trace_parent;
pub mod trail_pack;
pub mod webhook;
pub mod words;

pub use data_path::DataPath;
pub use id::{
    CredentialName, InvalidId, InvalidNewId, JobId, PluginName, QueueName, RevisionDigest,
    SecretName, TrailName,
};
pub use redaction::Redaction;
pub use trace_parent::{InvalidTraceParent, TraceParent};
