//! Log lines: JSON for machines, text for a terminal.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging to standard output. `as_json` absent: text on a terminal, JSON elsewhere.
pub fn start(as_json: Option<bool>, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| anyhow::anyhow!("log.filter: {error}"))?;
    let as_json = as_json.unwrap_or_else(|| !std::io::stdout().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    if as_json {
        registry.with(fmt::layer().json().flatten_event(true).with_current_span(false)).try_init()?;
    } else {
        registry.with(fmt::layer().with_ansi(std::io::stdout().is_terminal())).try_init()?;
    }
    Ok(())
}
