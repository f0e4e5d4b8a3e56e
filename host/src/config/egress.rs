//! `[egress]`: plugins' outside calls.

use std::path::PathBuf;

use patchbay_capability::{EgressConfig, RelayPace};

use super::key::{key, section};
use super::kind::{list, text};

section! {
    /// The operator's exceptions and trust roots.
    pub struct Egress {
        /// Private addresses or networks that plugins may call
        allow_addresses: Vec<String> = key("egress.allow_addresses", list()).or_empty();
        /// PEM file of certificates that plugins' outside calls trust in addition to the system's
        ca_file: Option<PathBuf> = key("egress.ca_file", text());
    }
}

impl Egress {
    pub fn calls(&self, pace: RelayPace) -> EgressConfig {
        EgressConfig {
            allow_addresses: self.allow_addresses.clone(),
            ca_file: self.ca_file.clone(),
            pace,
        }
    }
}
