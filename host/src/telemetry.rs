//! Log lines: JSON for machines, text for a terminal; the last ones also in memory.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::incident::RecentLines;

/// Starts logging to standard output. `as_json` absent: text on a terminal, JSON elsewhere. Gives the last lines, which do not depend on
/// the filter: what an incident needs must not be missing because somebody wanted less output.
pub fn start(as_json: Option<bool>, filter: &str) -> anyhow::Result<RecentLines> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| anyhow::anyhow!("log.filter: {error}"))?;
    let as_json = as_json.unwrap_or_else(|| !std::io::stdout().is_terminal());
    let lines = RecentLines::default();
    let output = if as_json {
        fmt::layer().json().flatten_event(true).with_current_span(false).with_filter(filter).boxed()
    } else {
        fmt::layer().with_ansi(std::io::stdout().is_terminal()).with_filter(filter).boxed()
    };
    tracing_subscriber::registry()
        .with(output)
        .with(lines.clone().with_filter(tracing::level_filters::LevelFilter::INFO))
        .try_init()?;
    Ok(lines)
}
