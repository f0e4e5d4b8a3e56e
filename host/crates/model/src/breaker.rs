//! Breaker limits that a manifest asks for: after so many failures within a time, calls to an
//! outside host are refused for a while.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Allowed range of `failures`.
pub const FAILURES: RangeInclusive<u32> = 1..=1_000;
/// Allowed range of `within_ms`, the time within which failures count.
pub const WITHIN_MS: RangeInclusive<u64> = 1_000..=600_000;
/// Allowed range of `open_ms`, the time for which calls are refused. The upper end is also the
/// longest time for which a host's recovery can go unnoticed.
pub const OPEN_MS: RangeInclusive<u64> = 500..=600_000;

const DEFAULT: BreakerLimits = BreakerLimits {
    failures: 5,
    within: Duration::from_secs(30),
    open: Duration::from_secs(15),
};

/// `breaker = { failures = 5, within_ms = 30_000, open_ms = 15_000 }`, which are the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerSpec {
    /// Failures that open the breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
    /// How long calls are refused before one may try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_ms: Option<u64>,
}

/// [`BreakerSpec`] with the defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    pub failures: u32,
    pub within: Duration,
    pub open: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        DEFAULT
    }
}

impl BreakerSpec {
    pub fn limits(&self) -> BreakerLimits {
        BreakerLimits {
            failures: self.failures.unwrap_or(DEFAULT.failures),
            within: self.within_ms.map_or(DEFAULT.within, Duration::from_millis),
            open: self.open_ms.map_or(DEFAULT.open, Duration::from_millis),
        }
    }

    /// The error names the field that is out of range, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        fn within<T: PartialOrd + std::fmt::Display>(
            value: Option<T>,
            range: RangeInclusive<T>,
        ) -> Result<(), String> {
            match value {
                Some(value) if !range.contains(&value) => Err(format!(
                    "must be from {} to {}, not {value}",
                    range.start(),
                    range.end()
                )),
                _ => Ok(()),
            }
        }
        within(self.failures, FAILURES).map_err(|reason| ("failures", reason))?;
        within(self.within_ms, WITHIN_MS).map_err(|reason| ("within_ms", reason))?;
        within(self.open_ms, OPEN_MS).map_err(|reason| ("open_ms", reason))
    }
}
