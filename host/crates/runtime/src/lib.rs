//! The sandbox: loads component files and runs calls with a deadline.
//!
//! This crate owns wasmtime: engine, limits, one call, the registry (atomic swap) and the bindings
//! per WIT version. It knows no Redis, SQL or HTTP client: what a guest may do outside is linked by
//! [`HostInterfaces`], with the bindings in [`wit`]. A guest can never block a thread of the host,
//! outlive its deadline or exceed its memory limit; each way of failing is an outcome of its own.

mod cache;
mod call;
mod call_log;
mod compile;
mod context;
mod encode;
mod engine;
mod error;
mod fault;
mod inspect;
mod last_words;
mod memory;
mod output;
mod registry;
mod report;
mod revision;
mod runtime;
mod sandbox;
mod state;
mod symbols;
mod wasi_http;
pub mod wit;

pub use compile::{CompilerCommand, compile_child};
pub use context::{CallContext, LogLevel, MAX_LOG_LINE_BYTES};
pub use encode::encode;
pub use error::{LoadError, Rejection, RuntimeError};
pub use inspect::{Inspected, inspect, pack, repack};
pub use registry::Registry;
pub use report::{CallReport, JobCall, Occupancy, OperationCall, VerifyCall};
pub use revision::Revision;
pub use runtime::{Runtime, RuntimeConfig};
pub use sandbox::{HostLimits, Pool};
pub use state::State;
pub use symbols::Symbols;
pub use wit::{HostInterfaces, Wit};
