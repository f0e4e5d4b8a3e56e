//! What numbers are made of: histograms, families of Prometheus's text format, and those that every process and every HTTP server has.

pub mod family;
pub mod histogram;
pub mod process;
pub mod requests;

pub use requests::{RequestMeters, UNMATCHED, known_method};
