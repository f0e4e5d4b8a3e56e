//! The sandbox: component files in, calls with a deadline out.
//!
//! Owns wasmtime: engine, limits, one call, the registry (atomic swap) and the bindings per WIT version. Knows no Redis, SQL or HTTP
//! client: what a guest may do outside is behind [`patchbay_model::capability::Capabilities`]. Nothing a guest does can block a thread of
//! the host, outlive its deadline or grow past its memory limit; each way of failing is an outcome of its own.

mod cache;
mod call;
mod compile;
mod encode;
mod engine;
mod error;
mod exports;
mod fault;
mod inspect;
mod last_words;
mod memory;
mod output;
mod registry;
mod revision;
mod runtime;
mod symbols;
mod transactions;
mod v0_1;
mod v0_2;
mod wasi_http;
mod wit;

pub use call::{CallReport, JobCall, Occupancy, OperationCall};
pub use compile::compile_child;
pub use encode::encode;
pub use error::{LoadError, Rejection, RuntimeError};
pub use inspect::{Inspected, inspect, pack};
pub use registry::Registry;
pub use revision::Revision;
pub use runtime::{CompilerCommand, HostLimits, Pool, Runtime, RuntimeConfig};
pub use symbols::Symbols;
pub use wit::Wit;
