//! Turns a request for a bulk operation into a plan, and refuses requests that make no sense.

use patchbay_api::bulk::{BulkIdentity, BulkKind, BulkReplacement, BulkRequest, BulkSource};
use patchbay_model::DataPath;
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use patchbay_model::redaction::{REDACTED, mark_in};
use patchbay_store::BulkRow;

use super::edit::{Edits, Path, Replacement};

/// Most paths that one operation changes: each needs another parse of every job's data.
const MAX_EDITS: usize = 32;
/// Of one value that is set.
const MAX_VALUE_BYTES: usize = 64 << 10;
/// In characters. It goes to the record of actions, and is read there a year later.
const MAX_REASON: usize = 500;

#[derive(Debug)]
pub struct Plan {
    pub kind: BulkKind,
    pub filter: Filter,
    pub state: JobState,
    pub source: BulkSource,
    pub key: Option<BulkIdentity>,
    pub edits: Option<Edits>,
}

/// The error text is for the author of the request.
pub fn plan_of(request: &BulkRequest) -> Result<Plan, String> {
    match (request.filter.is_everything(), request.everything) {
        (true, false) => {
            return Err("The filter is empty, so every job of every queue would match. Name a queue, an error code or a \
                 dead letter, or confirm it with --everything (in the API: \"everything\": true)"
                .into());
        }
        (false, true) => return Err("Give either a filter or everything, not both".into()),
        _ => {}
    }
    let shows_values = request.with_data || request.kind == BulkKind::EditAndRetry;
    if request.reveal && !(request.dry_run && shows_values) {
        return Err(
            "reveal: only in a preview that shows values, so with dryRun and withData (--dry-run --with-data), \
             or with dryRun of an edit"
                .into(),
        );
    }
    for (path, _) in &request.filter.data {
        path.parse::<DataPath>()
            .map_err(|error| format!("data.{path}: {error}"))?;
    }
    let state = request.state.unwrap_or(JobState::Failed);
    let edits = edits_of(request)?;
    let plan = Plan {
        kind: request.kind,
        filter: request.filter.clone(),
        state,
        source: request.source,
        key: request.key,
        edits,
    };
    plan.check()?;
    if request.first == Some(0) {
        return Err("first: must be 1 or more".into());
    }
    if request
        .reason
        .as_ref()
        .is_some_and(|reason| reason.chars().count() > MAX_REASON || reason.contains('\0'))
    {
        return Err(format!(
            "reason: must have at most {MAX_REASON} characters, and no NUL character"
        ));
    }
    Ok(plan)
}

fn edits_of(request: &BulkRequest) -> Result<Option<Edits>, String> {
    let is_edit = request.kind == BulkKind::EditAndRetry;
    let count = request.set.len() + request.replace.len() + request.unset.len();
    match (is_edit, count) {
        (false, 0) => return Ok(None),
        (false, _) => {
            return Err("set, replace and unset are only for edit-and-retry".into());
        }
        (true, 0) => {
            return Err(
                "Nothing to edit. Set a value (--set), replace a part of a text (--replace) or remove a value (--unset)"
                    .into(),
            );
        }
        (true, 1..=MAX_EDITS) => {}
        (true, _) => {
            return Err(format!(
                "{count} edits are too many: at most {MAX_EDITS} paths can be set, replaced or removed at once"
            ));
        }
    }
    let mut edits = Edits::default();
    for (path, value) in &request.set {
        // Parsing also checks the depth: a value that is too deep for JSON readers must not get
        // into a job.
        if value.get().len() > MAX_VALUE_BYTES
            || serde_json::from_str::<serde_json::Value>(value.get()).is_err()
        {
            return Err(format!(
                "{path}: a value must have at most {MAX_VALUE_BYTES} bytes and fewer than 128 levels"
            ));
        }
        if let Some(place) = mark_in(value.get()) {
            return Err(hidden(&format!("{path}{place}")));
        }
        edits.set.push((path.parse::<Path>()?, value.clone()));
    }
    for replacement in &request.replace {
        edits.replace.push(replacement_of(replacement)?);
    }
    for path in &request.unset {
        edits.unset.push(path.parse()?);
    }
    Ok(Some(edits))
}

fn replacement_of(request: &BulkReplacement) -> Result<Replacement, String> {
    let BulkReplacement { path, find, with } = request;
    if find.is_empty() {
        return Err(format!(
            "{path}: the text to find must not be empty. To set the whole value, use --set"
        ));
    }
    for text in [find, with] {
        if text.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "{path}: a text to find or to put in must have at most {MAX_VALUE_BYTES} bytes"
            ));
        }
        if text.contains(REDACTED) {
            return Err(hidden(path));
        }
    }
    Ok(Replacement {
        path: path.parse()?,
        find: find.clone(),
        with: with.clone(),
    })
}

fn hidden(place: &str) -> String {
    format!(
        "{place}: {REDACTED} stands for a value that was hidden from you. Write the value itself"
    )
}

impl Plan {
    fn check(&self) -> Result<(), String> {
        use JobState::{Completed, Delayed, Failed, Prioritized, Waiting};
        let states: &[JobState] = match self.kind {
            BulkKind::Retry | BulkKind::EnqueueAgain => &[Failed, Completed],
            BulkKind::EditAndRetry => &[Failed, Waiting, Prioritized, Delayed],
            BulkKind::Remove => &[Failed, Completed, Delayed, Prioritized, Waiting],
        };
        let (kind, state) = (self.kind.as_str(), self.state);
        if !states.contains(&state) {
            let names: Vec<String> = states.iter().map(ToString::to_string).collect();
            return Err(format!(
                "state: {kind} works on jobs that are {}, not {state}",
                names.join(", ")
            ));
        }
        if state == Waiting && self.filter.only_of_attempts().is_some() {
            return Err(
                "Waiting jobs can be filtered by queue, job, name, text, data, platform, correlation-id, from and to only. \
                 The other keys are known only after a job has run"
                    .into(),
            );
        }
        let adds = match (self.kind, self.source) {
            (BulkKind::Retry, BulkSource::History) | (BulkKind::EnqueueAgain, _) => true,
            (BulkKind::Retry | BulkKind::Remove | BulkKind::EditAndRetry, BulkSource::Live) => {
                false
            }
            (BulkKind::Remove | BulkKind::EditAndRetry, BulkSource::History) => {
                return Err(format!(
                    "source: {kind} works only on jobs that are in Redis (source live), not on the history"
                ));
            }
        };
        match (adds, self.key) {
            (true, None) => Err(format!(
                "key: {kind} adds new jobs, so choose their idempotency key. --keep-key (\"keep\"): the key of the old job, so that \
                 outside effects which it already had (a mail, a message) are not repeated. --new-key (\"new\"): another key, so that \
                 everything is done again"
            )),
            (false, Some(_)) => Err(format!(
                "key: leave it out. Jobs that are in Redis keep their id and idempotency key in {kind}"
            )),
            (true, Some(BulkIdentity::Keep)) if self.source == BulkSource::Live => {
                Err("key: jobs that are in Redis can be enqueued again only with a new key (--new-key). To run the same jobs again, \
                     use patchbay bulk retry"
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Reads a plan from its row.
    pub(super) fn of(row: &BulkRow) -> Result<Self, String> {
        let unreadable =
            |error: serde_json::Error| format!("the stored operation cannot be read: {error}");
        let word = |text: &str| serde_json::Value::from(text);
        Ok(Self {
            kind: serde_json::from_value(word(&row.kind)).map_err(unreadable)?,
            filter: serde_json::from_value(row.filter.clone()).map_err(unreadable)?,
            state: serde_json::from_value(word(&row.job_state)).map_err(unreadable)?,
            source: serde_json::from_value(word(&row.source)).map_err(unreadable)?,
            key: row
                .identity
                .as_deref()
                .map(|key| serde_json::from_value(word(key)))
                .transpose()
                .map_err(unreadable)?,
            edits: row
                .edits
                .as_deref()
                .map(Edits::of_row)
                .transpose()
                .map_err(unreadable)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: serde_json::Value) -> String {
        let request: BulkRequest = serde_json::from_str(&request.to_string()).expect("a request");
        plan_of(&request).expect_err("refused")
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_say_instead() {
        let some = serde_json::json!({ "queue": "q" });
        for (request, reason) in [
            (serde_json::json!({ "kind": "retry" }), "--everything"),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "everything": true }),
                "not both",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "state": "waiting" }),
                "failed, completed",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "source": "history" }),
                "--keep-key",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "key": "new" }),
                "keep their id",
            ),
            (
                serde_json::json!({ "kind": "enqueue-again", "filter": some }),
                "--new-key",
            ),
            (
                serde_json::json!({ "kind": "enqueue-again", "filter": some, "key": "keep" }),
                "retry",
            ),
            (
                serde_json::json!({ "kind": "remove", "filter": some, "source": "history" }),
                "in Redis",
            ),
            (
                serde_json::json!({ "kind": "edit-and-retry", "filter": some }),
                "--set",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "set": { "a": 1 } }),
                "edit-and-retry",
            ),
            (
                serde_json::json!({ "kind": "edit-and-retry", "filter": some, "set": { "": 1 } }),
                "path",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "replace": [{ "path": "to", "find": "a", "with": "" }] }),
                "edit-and-retry",
            ),
            (
                serde_json::json!({ "kind": "edit-and-retry", "filter": some, "replace": [{ "path": "to", "find": "", "with": "a" }] }),
                "must not be empty",
            ),
            (
                serde_json::json!({ "kind": "edit-and-retry", "filter": some, "replace": [{ "path": "..", "find": "a", "with": "" }] }),
                "is not a path",
            ),
            (
                serde_json::json!({ "kind": "edit-and-retry", "filter": some,
                    "replace": [{ "path": "to", "find": "a", "with": "x".repeat(MAX_VALUE_BYTES + 1) }] }),
                "at most 65536 bytes",
            ),
            (
                serde_json::json!({ "kind": "edit-and-retry", "filter": some, "replace": [{ "path": "to", "find": "[redacted]", "with": "" }] }),
                "hidden from you",
            ),
            (
                serde_json::json!({ "kind": "edit-and-retry", "filter": some,
                    "replace": vec![serde_json::json!({ "path": "to", "find": "a", "with": "" }); 33] }),
                "33 edits are too many",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "dryRun": true, "reveal": true }),
                "withData",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": some, "first": 0 }),
                "first",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": { "data.a..b": "1" } }),
                "data.a..b",
            ),
            (
                serde_json::json!({ "kind": "remove", "filter": { "dead-letter": "1" }, "state": "waiting" }),
                "after a job has run",
            ),
        ] {
            let why = refused(request.clone());
            assert!(why.contains(reason), "{request}: {why}");
        }
    }
}
