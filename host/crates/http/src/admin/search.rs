//! /api/admin/history/search and …/queues/{queue}/search: finished attempts by their history, and jobs by what Redis holds of them.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use patchbay_app::redacted;
use patchbay_app::selected::Selected;
use patchbay_model::QueueName;
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use patchbay_queue::ScannedJob;
use patchbay_store::{Count, FoundRow, MAX_FOUND, Place};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::{ApiError, ApiResult, ErrorBody, ok, part};
use crate::path::Path;

/// Rows of a page unless it says otherwise.
const DEFAULT_LIMIT: usize = 50;
/// Somebody waits for it.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);
/// The rest of a second is for the way.
const COUNT_LIMIT: Duration = Duration::from_millis(800);
/// Redis serves jobs, too.
const SCAN_LIMIT: Duration = Duration::from_secs(1);

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(attempts)).routes(routes!(count)).routes(routes!(live))
}

type Pairs = Vec<(String, String)>;

/// What a query says beside its filter.
pub(super) struct Asked {
    pub(super) filter: Pairs,
    pub(super) cursor: Option<String>,
    pub(super) limit: usize,
}

impl Asked {
    pub(super) fn new(query: Result<Query<Pairs>, QueryRejection>) -> Result<Self, ApiError> {
        let mut asked = Self { filter: Vec::new(), cursor: None, limit: DEFAULT_LIMIT };
        for (key, value) in query?.0 {
            match key.as_str() {
                "cursor" => asked.cursor = Some(value),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_FOUND).contains(limit));
                    asked.limit = limit.ok_or_else(|| ApiError::invalid(format!("limit: 1 to {MAX_FOUND}")))?;
                }
                _ => asked.filter.push((key, value)),
            }
        }
        Ok(asked)
    }

    /// Takes out what is no part of a filter.
    fn take(&mut self, key: &str) -> Option<String> {
        let place = self.filter.iter().position(|(known, _)| known == key)?;
        Some(self.filter.remove(place).1)
    }
}

/// Search the history: finished attempts, the newest first. Each parameter must hold; none means everything.
#[utoipa::path(get, path = "/history/search", tag = "history", security(("operator" = [])),
    params(
        ("queue" = Option<String>, Query), ("job" = Option<String>, Query, description = "its id"),
        ("name" = Option<String>, Query, description = "of the job"),
        ("from" = Option<String>, Query, description = "finished at this time or later (RFC 3339)"),
        ("to" = Option<String>, Query, description = "finished before this time"),
        ("outcome" = Option<String>, Query), ("verdict" = Option<String>, Query, description = "complete, retry, defer or fail"),
        ("code" = Option<String>, Query, description = "of the failure"),
        ("text" = Option<String>, Query, description = "a part of the failure's message; no pattern"),
        ("data.<path>" = Option<String>, Query, description = "a value in the job's data, at a path that a manifest declares searchable"),
        ("plugin" = Option<String>, Query), ("revision" = Option<String>, Query, description = "its digest, or the first digits, four at least"),
        ("correlation-id" = Option<String>, Query), ("platform" = Option<String>, Query),
        ("dead-letter" = Option<i64>, Query, description = "the id of a group of dead letters"),
        ("cursor" = Option<String>, Query, description = "behind the page whose `nextCursor` this is"),
        ("limit" = Option<u16>, Query, description = "1 to 200; default 50"),
    ),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn attempts(
    State(state): State<AppState>,
    query: Result<Query<Pairs>, QueryRejection>,
) -> ApiResult<Vec<FoundRow>> {
    let asked = Asked::new(query)?;
    let filter = Filter::from_pairs(asked.filter)?;
    search_history(&state, filter, asked.cursor, asked.limit).await
}

pub(super) async fn search_history(
    state: &AppState,
    filter: Filter,
    cursor: Option<String>,
    limit: usize,
) -> ApiResult<Vec<FoundRow>> {
    let after: Option<Place> = cursor
        .map(|cursor| cursor.parse())
        .transpose()
        .map_err(|error: patchbay_store::UnknownPlace| ApiError::invalid(error.to_string()))?;
    let selected = Selected::new(&state.store, &state.plugins, filter).await?;
    let selection = selected.selection(state.queues.prefix());
    let found = state.store.search(selection, after.as_ref(), limit, SEARCH_LIMIT).await?;
    part(redacted::found(found.rows), found.next.map(|place| place.to_string()), found.partial)
}

/// Count what a search of the history would find, within a second: where that does not suffice, at least so many.
#[utoipa::path(get, path = "/history/count", tag = "history", security(("operator" = [])),
    params(("queue" = Option<String>, Query, description = "and every other part of a filter, as in the search")),
    responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn count(State(state): State<AppState>, query: Result<Query<Pairs>, QueryRejection>) -> ApiResult<Count> {
    let filter = Filter::from_pairs(query?.0)?;
    let selected = Selected::new(&state.store, &state.plugins, filter).await?;
    ok(state.store.count(selected.selection(state.queues.prefix()), COUNT_LIMIT).await?)
}

/// Search the jobs of one state in Redis, one by one: at most 20,000 of them, or for a second, per request. `partial` says that there are more.
#[utoipa::path(get, path = "/queues/{queue}/search", tag = "queues", security(("operator" = [])),
    params(
        ("queue" = String, Path),
        ("state" = String, Query, description = "`waiting`, `prioritized`, `delayed`, `waiting-children`, `active`, `completed` or `failed`"),
        ("job" = Option<String>, Query, description = "its id"), ("name" = Option<String>, Query),
        ("from" = Option<String>, Query, description = "ended, or made while it has not ended, at this time or later (RFC 3339)"),
        ("to" = Option<String>, Query, description = "before this time"),
        ("code" = Option<String>, Query, description = "of its last failure"),
        ("text" = Option<String>, Query, description = "a part of its last failure's text; no pattern"),
        ("data.<path>" = Option<String>, Query, description = "a value in its data, at any path"),
        ("correlation-id" = Option<String>, Query), ("platform" = Option<String>, Query),
        ("cursor" = Option<String>, Query, description = "behind the page whose `nextCursor` this is"),
        ("limit" = Option<u16>, Query, description = "1 to 200; default 50"),
    ),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn live(
    State(state): State<AppState>,
    Path(queue): Path<String>,
    query: Result<Query<Pairs>, QueryRejection>,
) -> ApiResult<Vec<ScannedJob>> {
    let mut asked = Asked::new(query)?;
    let wanted = asked.take("state").unwrap_or_default();
    let filter = Filter::from_pairs(asked.filter)?;
    search_live(&state, &queue, job_state(&wanted)?, filter, asked.cursor, asked.limit).await
}

pub(super) fn job_state(text: &str) -> Result<JobState, ApiError> {
    let state = serde_json::from_value(text.into()).ok().filter(|state| *state != JobState::Unknown);
    state.ok_or_else(|| {
        ApiError::invalid("state: waiting, prioritized, delayed, waiting-children, active, completed or failed")
    })
}

pub(super) async fn search_live(
    state: &AppState,
    queue: &str,
    wanted: JobState,
    filter: Filter,
    cursor: Option<String>,
    limit: usize,
) -> ApiResult<Vec<ScannedJob>> {
    let queue: QueueName = state.app.queues.catalog().known(queue).await?;
    let after = cursor.map(|cursor| cursor.parse()).transpose()?;
    let mut scanned = state.queues.scan(&queue, wanted, &filter, after, limit, SCAN_LIMIT).await?;
    let failed: Vec<&mut ScannedJob> = scanned.jobs.iter_mut().filter(|job| job.failed_reason.is_some()).collect();
    let redaction = state.plugins.redaction(&queue);
    let ids: Vec<&str> = failed.iter().map(|job| job.id.as_str()).collect();
    let data = state.queues.data_of(&queue, &ids).await?;
    let children = state.queues.children_data(&queue, &ids).await?;
    for ((job, data), children) in failed.into_iter().zip(data).zip(children) {
        let (_, mask) = redaction.data_beside(&data, state.plugins.hidden_values(&children));
        mask.hide(&mut job.failed_reason);
    }
    part(scanned.jobs, scanned.next.map(|cursor| cursor.to_string()), scanned.partial)
}
