//! Patchbay: a WebAssembly plugin host for integrations and jobs. See docs/ARCHITECTURE.md.
//!
//! It is a library only to share code between the binary, the tests and the benchmark; it promises
//! no interface to others.

pub mod boot;
mod cache_key;
pub mod command;
pub mod config;
pub mod dev;
mod dev_state;
mod doctor;
mod incident;
mod ledger;
pub mod limits;
mod process;
mod recover;
