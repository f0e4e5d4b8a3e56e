//! Turns a request for a bulk operation into a plan, and refuses requests that make no sense.

use patchbay_api::bulk::{BulkIdentity, BulkKind, BulkRequest, BulkSource};
use patchbay_model::DataPath;
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use patchbay_model::redaction::{REDACTED, mark_in};
use patchbay_store::BulkRow;

use super::edit::{Edits, Path};

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
            return Err("an empty filter means every job of every queue: name a queue, a code, a dead letter …, or \
                 say that everything is meant (everything: true, --everything)"
                .into());
        }
        (false, true) => return Err("either a filter or everything, not both".into()),
        _ => {}
    }
    if request.reveal && !(request.dry_run && request.with_data) {
        return Err("reveal: it is for dryRun with withData".into());
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
        return Err("first: at least one".into());
    }
    if request
        .reason
        .as_ref()
        .is_some_and(|reason| reason.chars().count() > MAX_REASON || reason.contains('\0'))
    {
        return Err(format!(
            "reason: at most {MAX_REASON} characters, without NUL"
        ));
    }
    Ok(plan)
}

fn edits_of(request: &BulkRequest) -> Result<Option<Edits>, String> {
    let is_edit = request.kind == BulkKind::EditAndRetry;
    match (is_edit, request.set.is_empty() && request.unset.is_empty()) {
        (false, true) => return Ok(None),
        (false, false) => return Err("set and unset are for edit-and-retry".into()),
        (true, true) => {
            return Err(
                "nothing to edit: set a value (set, --set) or take one out (unset, --unset)".into(),
            );
        }
        (true, false) => {}
    }
    if request.set.len() + request.unset.len() > MAX_EDITS {
        return Err(format!(
            "at most {MAX_EDITS} paths are set or unset at once"
        ));
    }
    let mut edits = Edits::default();
    for (path, value) in &request.set {
        // Parsing also checks the depth: a value that is too deep for JSON readers must not get
        // into a job.
        if value.get().len() > MAX_VALUE_BYTES
            || serde_json::from_str::<serde_json::Value>(value.get()).is_err()
        {
            return Err(format!(
                "{path}: a value has at most {MAX_VALUE_BYTES} bytes and nests less than 128 levels"
            ));
        }
        if let Some(place) = mark_in(value.get()) {
            return Err(format!(
                "{path}{place}: {REDACTED} stands for a value that was hidden; name the value"
            ));
        }
        edits.set.push((path.parse::<Path>()?, value.clone()));
    }
    for path in &request.unset {
        edits.unset.push(path.parse()?);
    }
    Ok(Some(edits))
}

impl Plan {
    fn check(&self) -> Result<(), String> {
        use JobState::{Completed, Delayed, Failed, Prioritized, Waiting};
        let states: &[JobState] = match self.kind {
            BulkKind::Retry | BulkKind::EnqueueAgain => &[Failed, Completed],
            BulkKind::EditAndRetry => &[Failed],
            BulkKind::Remove => &[Failed, Completed, Delayed, Prioritized, Waiting],
        };
        let (kind, state) = (self.kind.as_str(), self.state);
        if !states.contains(&state) {
            let names: Vec<String> = states.iter().map(ToString::to_string).collect();
            return Err(format!(
                "state: {kind} is for jobs that are {}, not {state}",
                names.join(", ")
            ));
        }
        if state == Waiting && asks_history(&self.filter) {
            return Err(
                "waiting jobs are chosen by queue, job, name, text, data, platform, correlation-id and times: what \
                 tells more about a job is known once it has run"
                    .into(),
            );
        }
        let adds = match (self.kind, self.source) {
            (BulkKind::Retry, BulkSource::History) | (BulkKind::EnqueueAgain, _) => true,
            (BulkKind::Retry | BulkKind::Remove | BulkKind::EditAndRetry, BulkSource::Live) => {
                false
            }
            (BulkKind::Remove | BulkKind::EditAndRetry, BulkSource::History) => {
                return Err(format!("source: {kind} is for jobs that Redis has"));
            }
        };
        match (adds, self.key) {
            (true, None) => Err(format!(
                "key: {kind} adds jobs anew, so say who they are. keep (--keep-key): the same jobs as before, so that outside effects \
                 that they have had (a mail, a message) are not repeated; new (--new-key): other jobs, which do everything again"
            )),
            (false, Some(_)) => Err(format!("key: {kind} of jobs that Redis has leaves them who they are")),
            (true, Some(BulkIdentity::Keep)) if self.source == BulkSource::Live => {
                Err("key: jobs that Redis has are enqueued again as new ones only; to run the same ones again: retry"
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Reads a plan from its row.
    pub(super) fn of(row: &BulkRow) -> Result<Self, String> {
        let unreadable =
            |error: serde_json::Error| format!("the operation cannot be read: {error}");
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
                .map(serde_json::from_str)
                .transpose()
                .map_err(unreadable)?,
        })
    }
}

/// Whether only the history can evaluate the filter.
pub(super) fn asks_history(filter: &Filter) -> bool {
    filter.outcome.is_some()
        || filter.verdict.is_some()
        || filter.plugin.is_some()
        || filter.revision.is_some()
        || filter.dead_letter.is_some()
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
                "leaves them who they are",
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
                "Redis has",
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
                serde_json::json!({ "kind": "retry", "filter": some, "first": 0 }),
                "first",
            ),
            (
                serde_json::json!({ "kind": "retry", "filter": { "data.a..b": "1" } }),
                "data.a..b",
            ),
            (
                serde_json::json!({ "kind": "remove", "filter": { "dead-letter": "1" }, "state": "waiting" }),
                "once it has run",
            ),
        ] {
            let why = refused(request.clone());
            assert!(why.contains(reason), "{request}: {why}");
        }
    }
}
