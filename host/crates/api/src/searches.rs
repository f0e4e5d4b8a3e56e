//! Searching, counting and exporting the history, and saved searches.

pub use patchbay_model::saved_search::SavedSearch;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use patchbay_model::job::JobState;
use serde::{Deserialize, Serialize};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, File, List, Media, Nothing};
use crate::attempts::Attempt;
use crate::body::{Json, NoBody};
use crate::jobs::ScannedJob;
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// A saved search.
    SearchPath {
        /// Name of the search
        name: String,
    }
}

operations! {
    /// Search the history for finished attempts, the newest first. All parameters must match;
    /// without any, everything matches.
    HistoryAttempts = "history.attempts": GET "/api/admin/history/search" ((), SearchHistory, NoBody) -> List<FoundAttempt>,
        Viewer, Reads, data Shown(&["message", "stack"]), errors [404 "It does not exist"];
    /// Count what a search of the history would find. It takes at most a second; if that is too
    /// short, the result is a minimum.
    HistoryCount = "history.count": GET "/api/admin/history/count" ((), CountHistory, NoBody) -> Data<Count>,
        Viewer, Reads, data Shown(&[]), errors [404 "It does not exist"];
    /// Export the history. `format` is `jsonl` or `csv`; `bodies=true` adds data and results, with
    /// values that manifests redact hidden; all other parameters are those of a search. Each export
    /// is recorded.
    HistoryExport = "history.export": GET "/api/admin/history/export" ((), ExportHistory, NoBody) -> File<JsonLines>,
        Viewer, Reads, audit "history.export", data Shown(&[]), errors [404 "There is no dead letter of that number"];
    /// List every saved search, by name.
    SearchesList = "searches.list": GET "/api/admin/history/searches" ((), NoQuery, NoBody) -> List<NamedSearch>,
        Viewer, Reads, data Shown(&["text"]), errors [];
    /// Save a search: `filter` as in a search, `state` to search jobs in Redis (this needs a
    /// queue), `sinceMs` for how far back it looks at each run. A search with the same name is
    /// replaced, which can be undone.
    SearchesSave = "searches.save": PUT "/api/admin/history/searches/{name}" (SearchPath, NoQuery, Json<SavedSearch>) -> Data<NamedSearch>,
        Operator, Changes, audit "search.save", data Shown(&["text"]), errors [409 "It conflicts with the present state"];
    /// Delete a saved search, which can be undone.
    SearchesForget = "searches.forget": DELETE "/api/admin/history/searches/{name}" (SearchPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "search.forget", errors [];
    /// Undo the last change or deletion of a saved search. `data` is the restored search; null if
    /// there is none.
    SearchesUndo = "searches.undo": POST "/api/admin/history/searches/{name}/undo" (SearchPath, NoQuery, NoBody) -> Data<UndoneSearch>,
        Operator, Changes, audit "search.undo", data Shown(&["text"]), errors [];
    /// Run a saved search: attempts of the history, or jobs in Redis if it names a state.
    SearchesRun = "searches.run": GET "/api/admin/history/searches/{name}/run" (SearchPath, RunSearch, NoBody) -> List<Found>,
        Viewer, Reads, data Shown(&["failedReason", "message", "stack"]), errors [];
}

/// Filter for attempts, as names and values, because any path of the jobs' data can be a name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SearchHistory(pub Vec<(String, String)>);

impl IntoParams for SearchHistory {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = FilterParameters::into_params(&parameter_in_provider);
        parameters.extend(PageParameters::into_params(parameter_in_provider));
        parameters
    }
}

/// The parameters of [`SearchHistory`].
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct FilterParameters {
    queue: Option<String>,
    /// id of the job
    job: Option<String>,
    /// name of the job
    name: Option<String>,
    /// finished at this time or later (RFC 3339)
    from: Option<String>,
    /// finished before this time
    to: Option<String>,
    /// completed, failed, trapped, deadline, memory-limit, invalid-result or host-fault
    outcome: Option<String>,
    /// `complete`, `retry`, `defer` or `fail`
    verdict: Option<String>,
    /// error code of the failure
    code: Option<String>,
    /// part of the message of the failure; not a pattern
    text: Option<String>,
    /// value in the job's data, at a path that a manifest declares searchable
    #[param(rename = "data.<path>")]
    data: Option<String>,
    plugin: Option<String>,
    /// digest of the revision, or its first digits, at least four
    revision: Option<String>,
    #[param(rename = "correlation-id")]
    correlation_id: Option<String>,
    platform: Option<String>,
    /// number of a group of dead letters
    #[param(rename = "dead-letter")]
    dead_letter: Option<i64>,
}

/// A page.
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct PageParameters {
    /// `nextCursor` of the page before
    cursor: Option<String>,
    /// results per page, 1 to 200; default 50
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u16>,
}

/// Filter for a count, as names and values.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CountHistory(pub Vec<(String, String)>);

impl IntoParams for CountHistory {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        FilterParameters::into_params(parameter_in_provider)
    }
}

/// Filter and format of an export, as names and values.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExportHistory(pub Vec<(String, String)>);

impl IntoParams for ExportHistory {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = ExportParameters::into_params(&parameter_in_provider);
        parameters.extend(FilterParameters::into_params(parameter_in_provider));
        parameters
    }
}

/// The parameters of [`ExportHistory`].
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct ExportParameters {
    /// `jsonl` (default) or `csv`
    format: Option<String>,
    /// Include data and results
    bodies: Option<bool>,
    /// Include values that manifests redact, and secrets; recorded
    reveal: Option<bool>,
}

/// Page of a saved search to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunSearch(pub Vec<(String, String)>);

impl IntoParams for RunSearch {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        PageParameters::into_params(parameter_in_provider)
    }
}

/// An attempt found by a search.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FoundAttempt {
    /// Queue of the job.
    pub queue: String,
    /// Id of the job.
    pub job_id: String,
    /// When the job was created, Unix milliseconds. Together with queue and id it identifies the
    /// job, even if the id was used again.
    pub job_created_ms: i64,
    /// Number of its group of dead letters.
    pub dead_letter: Option<i64>,
    /// The attempt itself.
    #[serde(flatten)]
    pub attempt: Attempt,
}

/// A result of a saved search: an attempt of the history, or a job in Redis.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Found {
    Attempt(Box<FoundAttempt>),
    Job(ScannedJob),
}

/// Number of jobs and attempts that match.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Number of jobs, each counted once.
    pub jobs: u64,
    /// Number of attempts.
    pub attempts: u64,
    /// True if everything was counted; false if the numbers are minimums.
    pub exact: bool,
    /// Number of attempts as estimated by Postgres, if they were not all counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<u64>,
}

/// Attempts as JSON documents, one per line; with `format=csv` as comma-separated values.
#[derive(Debug)]
pub enum JsonLines {}

impl Media for JsonLines {
    const TYPE: &'static str = "application/x-ndjson";
    const ABOUT: &'static str = "Done";
    const OTHERS: &'static [&'static str] = &["text/csv"];
}

/// A saved search.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct NamedSearch {
    pub name: String,
    /// Filter that must match, as names and values.
    pub filter: BTreeMap<String, String>,
    /// Search jobs in Redis in this state; absent: search the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// How far back it looks from the time of the run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// How long before the time of the run its matches end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

/// A saved search after an undo; null if there is none.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct UndoneSearch(pub Option<SavedSearch>);
