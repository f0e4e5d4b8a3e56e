//! The path from a delivered job, or a call, to a plugin and back to its outcome.
//!
//! This crate never touches Postgres: a job waits for nothing but Redis. The record of an attempt
//! goes to a Redis stream, in one transaction with the job's settlement.

mod attempt;
pub mod body_budget;
mod breaker_gate;
mod executor;
pub mod grants;
mod invoke;
pub mod meters;
pub mod quarantine;
pub mod redactions;
pub mod settings;
mod slots;
mod work;
mod workers;

pub use attempt::AttemptHandler;
pub use executor::{Execution, Executor, correlation_id};
pub use invoke::{
    Answer, AnswerBody, CallFailure, Entry, Invocation, Invoked, Invoker, Operation, RelayAs,
    RunningJob, Unjudged, Verification,
};
pub use work::{Work, WorkConfig};
pub use workers::{LocalWorker, WorkerDefaults, Workers};
