//! `[metrics]`

use std::time::Duration;

use super::key::{key, section};
use super::kind::{boolean, seconds};

section! {
    /// The page that Prometheus reads.
    pub struct Metrics {
        /// Whether /metrics asks for the operator's credentials; false only where nobody else
        /// reaches the listener
        require_operator: bool = key("metrics.require_operator", boolean()).default("true");
        /// How long the series of a retired, idle revision are still shown; longer than two scrapes
        keep_retired: Duration = key("metrics.keep_retired_s", seconds(0..=86_400)).default("300");
    }
}
