//! Searching the history, counting in it, writing it into a file, and searches that operators come back to.

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
    /// Search the history: finished attempts, the newest first. Each parameter must hold; none means everything.
    HistoryAttempts = "history.attempts": GET "/api/admin/history/search" ((), SearchHistory, NoBody) -> List<FoundAttempt>,
        Operator, Reads, errors [404 "There is no such thing"];
    /// Count what a search of the history would find, within a second: where that does not suffice, at least so many.
    HistoryCount = "history.count": GET "/api/admin/history/count" ((), CountHistory, NoBody) -> Data<Count>,
        Operator, Reads, errors [404 "There is no such thing"];
    /// Export the history: `format` is `jsonl` or `csv`; `bodies=true` adds data and results, without what manifests redact; all other parameters
    /// are those of a search. Who exports is recorded.
    HistoryExport = "history.export": GET "/api/admin/history/export" ((), ExportHistory, NoBody) -> File<JsonLines>,
        Operator, Reads, audit "history.export", errors [404 "There is no such dead letter"];
    /// Every saved search, by name.
    SearchesList = "searches.list": GET "/api/admin/history/searches" ((), NoQuery, NoBody) -> List<NamedSearch>,
        Operator, Reads, errors [];
    /// Save a search: `filter` as in a search, `state` for jobs in Redis (then with a queue), `sinceMs` for how far back it looks whenever it is
    /// run. One of that name is replaced, which can be undone.
    SearchesSave = "searches.save": PUT "/api/admin/history/searches/{name}" (SearchPath, NoQuery, Json<SavedSearch>) -> Data<NamedSearch>,
        Operator, Changes, audit "search.save", errors [409 "It clashes with the present state"];
    /// Forget a saved search, which can be undone.
    SearchesForget = "searches.forget": DELETE "/api/admin/history/searches/{name}" (SearchPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "search.forget", errors [];
    /// Undo the last change of a saved search, also that it was forgotten. `data` is the search that it is now; null: there is none.
    SearchesUndo = "searches.undo": POST "/api/admin/history/searches/{name}/undo" (SearchPath, NoQuery, NoBody) -> Data<UndoneSearch>,
        Operator, Changes, audit "search.undo", errors [];
    /// Run a saved search: attempts of the history, or jobs in Redis where it names a state.
    SearchesRun = "searches.run": GET "/api/admin/history/searches/{name}/run" (SearchPath, RunSearch, NoBody) -> List<Found>,
        Operator, Reads, errors [];
}

/// Which attempts to look for: names and values, since any path of their jobs' data may be among the names.
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

/// A filter of the history.
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct FilterParameters {
    queue: Option<String>,
    /// its id
    job: Option<String>,
    /// of the job
    name: Option<String>,
    /// finished at this time or later (RFC 3339)
    from: Option<String>,
    /// finished before this time
    to: Option<String>,
    /// completed, failed, trapped, deadline, memory-limit, invalid-result or host-fault
    outcome: Option<String>,
    /// complete, retry, defer or fail
    verdict: Option<String>,
    /// of the failure
    code: Option<String>,
    /// a part of the failure's message; no pattern
    text: Option<String>,
    /// a value in the job's data, at a path that a manifest declares searchable
    #[param(rename = "data.<path>")]
    data: Option<String>,
    plugin: Option<String>,
    /// its digest, or the first digits, four at least
    revision: Option<String>,
    #[param(rename = "correlation-id")]
    correlation_id: Option<String>,
    platform: Option<String>,
    /// the id of a group of dead letters
    #[param(rename = "dead-letter")]
    dead_letter: Option<i64>,
}

/// Which page.
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct PageParameters {
    /// behind the page whose `nextCursor` this is
    cursor: Option<String>,
    /// 1 to 200; default 50
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u16>,
}

/// What to count: a filter's names and values.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CountHistory(pub Vec<(String, String)>);

impl IntoParams for CountHistory {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        FilterParameters::into_params(parameter_in_provider)
    }
}

/// What to export, and how: names and values.
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

/// What [`ExportHistory`] may hold beside a filter.
#[allow(dead_code, reason = "for the document only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct ExportParameters {
    /// `jsonl` (default) or `csv`
    format: Option<String>,
    /// With data and results
    bodies: Option<bool>,
    /// With what manifests redact and with secrets, too; recorded
    reveal: Option<bool>,
}

/// Which page of a saved search.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunSearch(pub Vec<(String, String)>);

impl IntoParams for RunSearch {
    fn into_params(parameter_in_provider: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        PageParameters::into_params(parameter_in_provider)
    }
}

/// An attempt that was looked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FoundAttempt {
    /// Of the job.
    pub queue: String,
    /// Its id.
    pub job_id: String,
    /// When it was made, Unix milliseconds: with queue and id it names the job, also when the id was used again.
    pub job_created_ms: i64,
    /// The group of dead letters that it belongs to.
    pub dead_letter: Option<i64>,
    /// How it went.
    #[serde(flatten)]
    pub attempt: Attempt,
}

/// What a saved search has found: attempts of the history, or jobs in Redis.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Found {
    Attempt(Box<FoundAttempt>),
    Job(ScannedJob),
}

/// How many jobs and attempts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Each once.
    pub jobs: u64,
    /// All that the filter means.
    pub attempts: u64,
    /// Counted to the end; else there are at least so many.
    pub exact: bool,
    /// What Postgres takes the number of attempts for, where they were not counted to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<u64>,
}

/// Attempts as lines, each a JSON document; with `format=csv` as comma-separated values.
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
    /// What must hold, by the names of a filter.
    pub filter: BTreeMap<String, String>,
    /// Jobs in Redis in this state; absent: the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// No further back than this from the time when it is run, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

/// What a saved search is after an undoing; null: there is none.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct UndoneSearch(pub Option<SavedSearch>);
