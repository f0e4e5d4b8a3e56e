//! What commands say of bulk operations.

use patchbay_api::bulk::{
    Bulk, BulkChange, BulkDetails, BulkEditCounts, BulkItem, BulkPreview, BulkReason,
};
use patchbay_model::words::counted;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::output::{shortened, time};

/// What the edit leaves alone, on lines of its own; empty if it changes every job.
pub(super) fn spared(edit: &BulkEditCounts, matched: u64, request: &Value) -> String {
    let is_retried = request["state"]
        .as_str()
        .is_none_or(|state| state == "failed");
    let of = match edit.examined < matched {
        true => format!("Of the first {}", counted(edit.examined, "job")),
        false => "Of these".to_owned(),
    };
    let jobs = |n: u64, one: &str, more: &str| {
        let does = if n == 1 { one } else { more };
        (n > 0).then(|| format!("{n} {does}"))
    };
    let parts = match is_retried {
        true => [
            jobs(
                edit.unchanged,
                "is retried with the data that it has: the edit changes nothing in it",
                "are retried with the data that they have: the edit changes nothing in them",
            ),
            jobs(
                edit.refused,
                "is left as it is and not retried",
                "are left as they are and not retried",
            ),
        ],
        false => [
            jobs(
                edit.unchanged,
                "has the data already: the edit changes nothing in it",
                "have the data already: the edit changes nothing in them",
            ),
            jobs(edit.refused, "is left as it is", "are left as they are"),
        ],
    };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("\n{of}, {}", parts.join("; ")),
    }
}

pub(super) fn example(count: &str, preview: &BulkPreview) -> String {
    let mut lines = vec![format!("{count}, for example:")];
    for job in &preview.sample {
        let why = job
            .failure
            .as_ref()
            .map(|why| format!("  {}", shortened(why, 80)));
        let refused = job
            .refused
            .as_ref()
            .map(|why| format!("\n    would be left as it is: {why}"));
        let changes = job
            .changes
            .iter()
            .map(|change| format!("\n    {}", of_change(change)));
        let data = job.data.as_ref().map(|data| format!("\n    {data}"));
        let withheld = job
            .data_withheld
            .as_ref()
            .map(|why| format!("\n    data is not shown: {why}"));
        let name = format!("  {} {}  {}", job.queue, job.id, job.name);
        lines.push(
            [Some(name), why, refused]
                .into_iter()
                .flatten()
                .chain(changes)
                .chain(data)
                .chain(withheld)
                .collect(),
        );
    }
    lines.join("\n")
}

/// For example `to: "x at example.com" -> "x@example.com"`.
pub(super) fn of_change(change: &BulkChange) -> String {
    let shown = |value: &Option<Box<RawValue>>| {
        value
            .as_ref()
            .map_or_else(|| "(none)".to_owned(), |value| value.get().to_owned())
    };
    let (before, after) = (shown(&change.before), shown(&change.after));
    match before == after {
        true => format!(
            "{}: changes, hidden by the plugin's redaction (--dry-run --reveal shows it)",
            change.path
        ),
        false => format!("{}: {before} -> {after}", change.path),
    }
}

pub(super) fn has_failed(bulk: &Bulk) -> bool {
    bulk.state == "failed" || bulk.failed > 0 || is_undone_in_vain(bulk)
}

/// What becomes of jobs that got the data from before an edit back.
pub(super) const OLD_DATA_WAITS: &str = "Its jobs wait with the data from before the edit, and workers run them with it. To keep them from that: \
     patchbay queue pause QUEUE; then change them again: patchbay bulk edit-and-retry queue=QUEUE --state waiting";

/// Whether the undo has put nothing back.
pub(super) fn is_undone_in_vain(bulk: &Bulk) -> bool {
    bulk.state == "undone" && bulk.restored == 0
}

pub(super) fn progress(bulk: &Bulk) -> String {
    let counts = [
        ("matched", bulk.matched),
        ("done", bulk.done),
        ("skipped", bulk.skipped),
        ("failed", bulk.failed),
        ("restored", bulk.restored),
    ];
    let counts = counts
        .iter()
        .filter(|(name, count)| *name != "restored" || *count != 0 || bulk.state == "undone");
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    format!(
        "bulk {}  {}  {}  {}",
        bulk.id,
        bulk.kind,
        bulk.state,
        counts.join(", ")
    )
}

/// For example `failed of the history, queue=emailQueue`.
pub(super) fn meant(bulk: &Bulk) -> String {
    let pairs: Vec<String> = bulk
        .filter
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let pairs = if pairs.is_empty() {
        "everything".into()
    } else {
        pairs.join(" ")
    };
    let from = if bulk.source == "history" {
        " of the history"
    } else {
        ""
    };
    format!("{}{from}, {pairs}", bulk.job_state)
}

pub(super) fn describe(details: &BulkDetails) -> String {
    let mut text = describe_bulk(&details.bulk, &details.reasons);
    if let Some(why) = &details.nothing_to_undo {
        text.push_str(&format!("\ncannot be undone: {why}"));
    }
    text
}

pub(super) fn describe_bulk(bulk: &Bulk, reasons: &[BulkReason]) -> String {
    let mut lines = vec![progress(bulk), format!("jobs: {}", meant(bulk))];
    let by = format!("by {} at {}", bulk.actor, time(bulk.created_at));
    lines.push(
        bulk.reason
            .as_ref()
            .map_or(by.clone(), |reason| format!("{by}: {reason}")),
    );
    lines.extend(bulk.error.as_ref().map(|error| format!("error: {error}")));
    lines.extend(reasons.iter().map(|reason| {
        format!(
            "{} {}: {}",
            reason.jobs,
            in_words(&reason.state),
            reason.reason
        )
    }));
    if is_undone_in_vain(bulk) {
        lines.push("Nothing was undone: no job was put back, for the reasons above".to_owned());
    }
    if bulk.state == "undone" && bulk.kind == "edit-and-retry" && bulk.restored > 0 {
        lines.push(OLD_DATA_WAITS.to_owned());
    }
    if bulk.state == "done" && bulk.done == 0 && bulk.skipped > 0 {
        lines.push("Nothing was done: every job was skipped, for the reasons above".to_owned());
    }
    match (bulk.state.as_str(), bulk.undo_until) {
        ("paused", _) => lines.push(format!(
            "Next: patchbay bulk resume {0}\nOr: patchbay bulk cancel {0}",
            bulk.id
        )),
        ("done" | "cancelled" | "failed", Some(until)) => {
            let which = match bulk.kind.as_str() {
                "edit-and-retry" => ", for jobs that have not run since",
                _ => "",
            };
            lines.push(format!(
                "can be undone until {}{which}: patchbay bulk undo {}",
                time(until),
                bulk.id
            ));
        }
        _ => {}
    }
    lines.join("\n")
}

/// The state of an item.
pub(super) fn in_words(state: &str) -> &str {
    match state {
        "not-undone" => "not undone",
        state => state,
    }
}

pub(super) fn of_item(item: &BulkItem) -> String {
    let notes = [
        item.new_id.as_ref().map(|id| format!("now {id}")),
        item.reason.clone(),
    ];
    let notes = notes.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let state = in_words(&item.state);
    format!("  {} {}  {state}  {notes}", item.queue, item.job_id)
        .trim_end()
        .to_owned()
}
