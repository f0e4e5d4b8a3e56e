//! Building blocks of metrics: histograms, families of Prometheus's text format, and the metrics of
//! every process and every HTTP server.

pub mod family;
pub mod histogram;
pub mod process;
pub mod requests;

pub use requests::{RequestMeters, UNMATCHED, known_method};
