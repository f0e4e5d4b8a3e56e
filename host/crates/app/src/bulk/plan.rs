//! What an operator asks for, and whether it can be meant.

use std::collections::BTreeMap;

use patchbay_model::DataPath;
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use patchbay_model::redaction::{REDACTED, mark_in};
use patchbay_store::BulkRow;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::edit::{Edits, Path};

/// Paths that one operation changes: each costs a reading of every job's data.
const MAX_EDITS: usize = 32;
/// Of one value that is set.
const MAX_VALUE_BYTES: usize = 64 << 10;
/// For the audit trail, and for whoever reads it a year later.
const MAX_REASON: usize = 500;

/// What is done to each job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Back into its queue, with fresh attempts.
    Retry,
    /// Forgotten; can be undone for an hour.
    Remove,
    /// A new job like it.
    EnqueueAgain,
    /// Retried with other data.
    EditAndRetry,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Retry, Self::Remove, Self::EnqueueAgain, Self::EditAndRetry];

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Remove => "remove",
            Self::EnqueueAgain => "enqueue-again",
            Self::EditAndRetry => "edit-and-retry",
        }
    }
}

/// Where the jobs are looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Jobs that Redis has.
    #[default]
    Live,
    /// Jobs that the history remembers, whether Redis still has them or not.
    History,
}

/// Who a job is that is added anew. Its outside effects are de-duplicated by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// The job that it was: what it has done already is not done again.
    Keep,
    /// Another one: everything is done again.
    New,
}

/// An operation on many jobs, as it is asked for.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// What is done to each job.
    pub kind: Kind,
    /// Which jobs: names and values of a filter, for example `{"queue": "emailQueue", "dead-letter": "7"}`.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub filter: Filter,
    /// An empty filter means every job: only with this.
    #[serde(default)]
    pub everything: bool,
    /// `failed` (default), `completed`, `delayed`, `waiting` or `prioritized`.
    #[schema(value_type = Option<String>)]
    pub state: Option<JobState>,
    /// `live` (default) or `history`.
    #[serde(default)]
    pub source: Source,
    /// For jobs that are added anew: `keep` or `new`. There is no default.
    pub key: Option<Identity>,
    /// Of an edit: values by their path in the job's data (`lead.id`, or `/lead/id`).
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Object>)]
    pub set: BTreeMap<String, Box<RawValue>>,
    /// Of an edit: paths that are taken out.
    #[serde(default)]
    pub unset: Vec<String>,
    /// Do so many, then pause.
    pub first: Option<u32>,
    /// For the record.
    pub reason: Option<String>,
    /// Only count, and show some.
    #[serde(default)]
    pub dry_run: bool,
    /// Show the data of those, too, without what is hidden.
    #[serde(default)]
    pub with_data: bool,
    /// With `withData`: show what is hidden, too; that is recorded.
    #[serde(default)]
    pub reveal: bool,
}

/// An operation that can be carried out.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Plan {
    pub kind: Kind,
    pub filter: Filter,
    pub state: JobState,
    pub source: Source,
    pub key: Option<Identity>,
    pub edits: Option<Edits>,
}

impl Request {
    /// The error is for its author.
    pub fn plan(&self) -> Result<Plan, String> {
        match (self.filter.is_everything(), self.everything) {
            (true, false) => {
                return Err(
                    "an empty filter means every job of every queue: name a queue, a code, a dead letter …, or \
                     say that everything is meant (everything: true, --everything)"
                        .into(),
                );
            }
            (false, true) => return Err("either a filter or everything, not both".into()),
            _ => {}
        }
        if self.reveal && !(self.dry_run && self.with_data) {
            return Err("reveal: it is for dryRun with withData".into());
        }
        for (path, _) in &self.filter.data {
            path.parse::<DataPath>().map_err(|error| format!("data.{path}: {error}"))?;
        }
        let state = self.state.unwrap_or(JobState::Failed);
        let edits = self.edits()?;
        let plan =
            Plan { kind: self.kind, filter: self.filter.clone(), state, source: self.source, key: self.key, edits };
        plan.check()?;
        if self.first == Some(0) {
            return Err("first: at least one".into());
        }
        if self.reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON || reason.contains('\0')) {
            return Err(format!("reason: at most {MAX_REASON} characters, without NUL"));
        }
        Ok(plan)
    }

    fn edits(&self) -> Result<Option<Edits>, String> {
        let is_edit = self.kind == Kind::EditAndRetry;
        match (is_edit, self.set.is_empty() && self.unset.is_empty()) {
            (false, true) => return Ok(None),
            (false, false) => return Err("set and unset are for edit-and-retry".into()),
            (true, true) => {
                return Err("nothing to edit: set a value (set, --set) or take one out (unset, --unset)".into());
            }
            (true, false) => {}
        }
        if self.set.len() + self.unset.len() > MAX_EDITS {
            return Err(format!("at most {MAX_EDITS} paths are set or unset at once"));
        }
        let mut edits = Edits::default();
        for (path, value) in &self.set {
            // Its depth: what is too deep for a reader of JSON must not get into a job.
            if value.get().len() > MAX_VALUE_BYTES || serde_json::from_str::<serde_json::Value>(value.get()).is_err() {
                return Err(format!(
                    "{path}: a value has at most {MAX_VALUE_BYTES} bytes and nests less than 128 levels"
                ));
            }
            if let Some(place) = mark_in(value.get()) {
                return Err(format!("{path}{place}: {REDACTED} stands for a value that was hidden; name the value"));
            }
            edits.set.push((path.parse::<Path>()?, value.clone()));
        }
        for path in &self.unset {
            edits.unset.push(path.parse()?);
        }
        Ok(Some(edits))
    }
}

impl Plan {
    fn check(&self) -> Result<(), String> {
        use JobState::{Completed, Delayed, Failed, Prioritized, Waiting};
        let states: &[JobState] = match self.kind {
            Kind::Retry | Kind::EnqueueAgain => &[Failed, Completed],
            Kind::EditAndRetry => &[Failed],
            Kind::Remove => &[Failed, Completed, Delayed, Prioritized, Waiting],
        };
        let (kind, state) = (self.kind.as_str(), self.state);
        if !states.contains(&state) {
            let names: Vec<String> = states.iter().map(ToString::to_string).collect();
            return Err(format!("state: {kind} is for jobs that are {}, not {state}", names.join(", ")));
        }
        if state == Waiting && asks_history(&self.filter) {
            return Err(
                "waiting jobs are chosen by queue, job, name, text, data, platform, correlation-id and times: what \
                 tells more about a job is known once it has run"
                    .into(),
            );
        }
        let adds = match (self.kind, self.source) {
            (Kind::Retry, Source::History) | (Kind::EnqueueAgain, _) => true,
            (Kind::Retry | Kind::Remove | Kind::EditAndRetry, Source::Live) => false,
            (Kind::Remove | Kind::EditAndRetry, Source::History) => {
                return Err(format!("source: {kind} is for jobs that Redis has"));
            }
        };
        match (adds, self.key) {
            (true, None) => Err(format!(
                "key: {kind} adds jobs anew, so say who they are. keep (--keep-key): the same jobs as before, so that outside effects \
                 that they have had (a mail, a message) are not repeated; new (--new-key): other jobs, which do everything again"
            )),
            (false, Some(_)) => Err(format!("key: {kind} of jobs that Redis has leaves them who they are")),
            (true, Some(Identity::Keep)) if self.source == Source::Live => {
                Err("key: jobs that Redis has are enqueued again as new ones only; to run the same ones again: retry"
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// As it was stored.
    pub(super) fn of(row: &BulkRow) -> Result<Self, String> {
        let unreadable = |error: serde_json::Error| format!("the operation cannot be read: {error}");
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
            edits: row.edits.as_deref().map(serde_json::from_str).transpose().map_err(unreadable)?,
        })
    }
}

/// Whether only the history can tell which jobs are meant.
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
        serde_json::from_str::<Request>(&request.to_string()).expect("a request").plan().expect_err("refused")
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_say_instead() {
        let some = serde_json::json!({ "queue": "q" });
        for (request, reason) in [
            (serde_json::json!({ "kind": "retry" }), "--everything"),
            (serde_json::json!({ "kind": "retry", "filter": some, "everything": true }), "not both"),
            (serde_json::json!({ "kind": "retry", "filter": some, "state": "waiting" }), "failed, completed"),
            (serde_json::json!({ "kind": "retry", "filter": some, "source": "history" }), "--keep-key"),
            (serde_json::json!({ "kind": "retry", "filter": some, "key": "new" }), "leaves them who they are"),
            (serde_json::json!({ "kind": "enqueue-again", "filter": some }), "--new-key"),
            (serde_json::json!({ "kind": "enqueue-again", "filter": some, "key": "keep" }), "retry"),
            (serde_json::json!({ "kind": "remove", "filter": some, "source": "history" }), "Redis has"),
            (serde_json::json!({ "kind": "edit-and-retry", "filter": some }), "--set"),
            (serde_json::json!({ "kind": "retry", "filter": some, "set": { "a": 1 } }), "edit-and-retry"),
            (serde_json::json!({ "kind": "edit-and-retry", "filter": some, "set": { "": 1 } }), "path"),
            (serde_json::json!({ "kind": "retry", "filter": some, "first": 0 }), "first"),
            (serde_json::json!({ "kind": "retry", "filter": { "data.a..b": "1" } }), "data.a..b"),
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
