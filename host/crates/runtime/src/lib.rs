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
mod fault;
mod inspect;
mod last_words;
mod log_budget;
mod memory;
mod output;
mod registry;
mod report;
mod revision;
mod runtime;
mod sandbox;
mod state;
mod symbols;
mod transactions;
mod wasi_http;
mod wit;

pub use compile::{CompilerCommand, compile_child};
pub use encode::encode;
pub use error::{LoadError, Rejection, RuntimeError};
pub use inspect::{Inspected, inspect, pack};
pub use registry::Registry;
pub use report::{CallReport, JobCall, Occupancy, OperationCall};
pub use revision::Revision;
pub use runtime::{Runtime, RuntimeConfig};
pub use sandbox::{HostLimits, Pool};
pub use symbols::Symbols;
pub use wit::Wit;
