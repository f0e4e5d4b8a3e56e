//! From a delivered job or a call to a plugin, and to what came of it.
//!
//! Never touches Postgres: a job waits for nothing but Redis. What is recorded of an attempt goes to a Redis stream, in one transaction with
//! the job's settlement.

mod attempt;
pub mod body_budget;
pub mod grants;
mod hold;
pub mod meters;
mod operation;
pub mod quarantine;
pub mod redactions;
pub mod settings;
mod slots;
mod supervisor;
mod wasm;

pub use attempt::*;
pub use operation::{Content, Operation, Reply, Unanswered};
pub use supervisor::{Supervisor, WorkerDefaults};
pub use wasm::WasmExecutor;
