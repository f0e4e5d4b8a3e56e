//! Rows of the history as answers show them.

use patchbay_api::attempts::Attempt;
use patchbay_model::attempt::OutsideCall;
use patchbay_store::AttemptRow;
use serde_json::Value;

/// An attempt.
pub(crate) fn attempt_view(row: AttemptRow) -> Attempt {
    Attempt {
        calls: row.calls.map(calls),
        started: row.started,
        attempt: row.attempt,
        name: row.name,
        plugin: row.plugin,
        revision: row.revision,
        host: row.host,
        started_at: row.started_at,
        finished_at: row.finished_at,
        outcome: row.outcome,
        verdict: row.verdict,
        code: row.code,
        message: row.message,
        stack: row.stack,
        correlation_id: row.correlation_id,
        source: row.source,
        platform: row.platform,
        parent: row.parent,
        erased_at: row.erased_at,
    }
}

/// Calls to the outside, as they are stored.
pub(crate) fn calls(stored: Value) -> Vec<OutsideCall> {
    serde_json::from_value(stored).unwrap_or_else(|error| {
        tracing::error!(%error, "outside calls of an attempt cannot be read");
        Vec::new()
    })
}
