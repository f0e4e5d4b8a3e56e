//! /api/admin/history/search and …/queues/{queue}/search: finished attempts by their history, and jobs by what Redis holds of them.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use patchbay_app::redacted;
use patchbay_app::selected::Selected;
use patchbay_model::filter::Filter;
use patchbay_store::{Count, FoundRow, MAX_FOUND, Place};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::{ApiError, ApiResult, ErrorBody, ok, part};

/// Rows of a page unless it says otherwise.
const DEFAULT_LIMIT: usize = 50;
/// Somebody waits for it.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);
/// The rest of a second is for the way.
const COUNT_LIMIT: Duration = Duration::from_millis(800);

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(attempts)).routes(routes!(count))
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
