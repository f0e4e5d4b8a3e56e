//! Medians and spreads.

use std::fmt;

/// Median and quartiles.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            median: quantile(&values, 0.5),
            low: quantile(&values, 0.25),
            high: quantile(&values, 0.75),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median >= 100.0 { 0 } else { 2 };
        write!(
            f,
            "{:.digits$} [{:.digits$}–{:.digits$}]",
            self.median, self.low, self.high
        )
    }
}

/// Of sorted values, by linear interpolation.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] * (1.0 - share) + sorted[above] * share
}

/// Of an unsorted sample.
pub fn percentile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, q)
}

/// Whether a target was reached, for the report.
pub fn verdict(ratio: f64, target: f64, at_least: bool) -> String {
    let reached = if at_least {
        ratio >= target
    } else {
        ratio <= target
    };
    let sign = if at_least { '≥' } else { '≤' };
    format!(
        "target {sign} {target}: {}",
        if reached { "reached" } else { "MISSED" }
    )
}
