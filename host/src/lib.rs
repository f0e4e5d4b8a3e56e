//! Patchbay: a WebAssembly plugin host for integrations and jobs. See docs/ARCHITECTURE.md.
//!
//! A library only so that the binary, the tests and the benchmark share it; it promises no interface to others.

pub mod alert;
pub mod audit;
pub mod body_budget;
pub mod boot;
pub mod breakers;
pub mod bulk;
pub mod cli;
pub mod command;
pub mod config;
pub mod dev;
mod dev_state;
pub mod diagnosis;
pub mod difference;
mod doctor;
pub mod exposition;
pub mod grants;
pub mod health;
pub mod history;
pub mod http;
pub mod incident;
pub mod limits;
pub mod local_copy;
pub mod metrics;
pub mod outbox;
pub mod plugins;
pub mod quarantine;
pub mod reach;
pub mod redacted;
pub mod redactions;
pub mod schedule;
pub mod selected;
pub mod settings;
pub mod signature;
pub mod telemetry;
pub mod timeline;
pub mod traces;
pub mod vault;
pub mod work;
