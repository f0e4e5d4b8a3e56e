//! /api/admin/history/searches: searches that operators come back to.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use chrono::{TimeDelta, Utc};
use patchbay_app::redacted;
use patchbay_app::selected::Selected;
use patchbay_model::filter::Filter;
use patchbay_model::redaction::REDACTED;
use patchbay_store::{SavedSearch, SavedSearchRow};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use super::search::{Asked, search_history};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok, part};
use crate::path::Path;

/// Of a name, in characters.
const MAX_NAME: usize = 64;
/// A hundred years, milliseconds: no history is older.
const MAX_SINCE_MS: u64 = 100 * 366 * 86_400_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(save, forget)).routes(routes!(undo)).routes(routes!(run))
}

/// Every saved search, by name.
#[utoipa::path(get, path = "/history/searches", tag = "history", security(("operator" = [])),
    responses((status = 200, body = Success<Vec<Object>>)))]
async fn list(State(state): State<AppState>) -> ApiResult<Vec<SavedSearchRow>> {
    let rows = state.store.saved_searches(state.queues.prefix()).await?;
    ok(rows.into_iter().map(|row| shown(&state, row)).collect())
}

/// Without values of job data that are hidden.
fn shown(state: &AppState, mut row: SavedSearchRow) -> SavedSearchRow {
    row.search.filter = hidden(state, std::mem::take(&mut row.search.filter));
    row
}

fn hidden(state: &AppState, filter: Filter) -> Filter {
    let redaction = state.plugins.redaction_of(filter.queue.as_ref());
    redacted::filter(filter, &redaction)
}

fn named(name: &str) -> Result<&str, ApiError> {
    let fits = (1..=MAX_NAME).contains(&name.chars().count())
        && name.trim() == name
        && name.chars().all(|c| c.is_alphanumeric() || " -_.".contains(c));
    let rule = format!("a saved search is called by 1 to {MAX_NAME} letters, digits, spaces, '-', '_' and '.'");
    if fits { Ok(name) } else { Err(ApiError::invalid(rule)) }
}

/// Save a search: `filter` as in a search, `state` for jobs in Redis (then with a queue), `sinceMs` for how far back it looks whenever it is
/// run. One of that name is replaced, which can be undone.
#[utoipa::path(put, path = "/history/searches/{name}", tag = "history", security(("operator" = [])), params(("name" = String, Path)),
    request_body = Object, responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn save(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    body: Result<Json<SavedSearch>, JsonRejection>,
) -> ApiResult<SavedSearchRow> {
    let (name, Json(search)) = (named(&name)?, body?);
    if let Some((path, _)) = search.filter.data.iter().find(|(_, value)| value == REDACTED) {
        return Err(ApiError::invalid(format!(
            "data.{path}: {REDACTED} stands for a value that was hidden; name the value"
        )));
    }
    if search.since_ms.is_some() && search.filter.from.is_some() {
        return Err(ApiError::invalid("sinceMs and from both say where it begins: give one of them"));
    }
    if search.since_ms.is_some_and(|ms| ms > MAX_SINCE_MS) {
        return Err(ApiError::invalid("sinceMs: at most a hundred years"));
    }
    match search.state {
        Some(_) if search.filter.queue.is_none() => {
            return Err(ApiError::invalid("queue: jobs in a state are those of one queue"));
        }
        Some(_) => {}
        // Nobody shall save what cannot be run.
        None => drop(Selected::new(&state.store, &state.plugins, search.filter.clone()).await?),
    }
    // Values of job data may be personal: the trail says which paths were asked for.
    let mut details = serde_json::to_value(&search).unwrap_or_default();
    for (path, _) in &search.filter.data {
        details["filter"][format!("data.{path}")] = "…".into();
    }
    let act = state.store.save_search(state.queues.prefix(), name, &search, &actor.0);
    let recorded = |_: &SavedSearchRow| Value::Null;
    let row = super::recorded(&state, &actor, "search.save", name, details, act, recorded).await?;
    ok(shown(&state, row))
}

/// Forget a saved search, which can be undone.
#[utoipa::path(delete, path = "/history/searches/{name}", tag = "history", security(("operator" = [])), params(("name" = String, Path)),
    responses((status = 200), (status = 404, body = ErrorBody)))]
async fn forget(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> ApiResult<()> {
    let name = named(&name)?;
    let act = state.store.forget_search(state.queues.prefix(), name, &actor.0);
    audited(&state, &actor, "search.forget", name, json!({}), act).await
}

/// Undo the last change of a saved search, also that it was forgotten. `data` is the search that it is now; null: there is none.
#[utoipa::path(post, path = "/history/searches/{name}/undo", tag = "history", security(("operator" = [])), params(("name" = String, Path)),
    responses((status = 200, body = Success<Option<Object>>), (status = 404, body = ErrorBody)))]
async fn undo(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> ApiResult<Option<SavedSearch>> {
    let name = named(&name)?;
    let act = state.store.undo_search(state.queues.prefix(), name, &actor.0);
    let recorded = |_: &_| Value::Null;
    let search = super::recorded(&state, &actor, "search.undo", name, json!({}), act, recorded).await?;
    ok(search.map(|search| SavedSearch { filter: hidden(&state, search.0.filter), ..search.0 }))
}

/// Run a saved search: attempts of the history, or jobs in Redis where it names a state.
#[utoipa::path(get, path = "/history/searches/{name}/run", tag = "history", security(("operator" = [])),
    params(("name" = String, Path), ("cursor" = Option<String>, Query), ("limit" = Option<u16>, Query, description = "1 to 200; default 50")),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn run(
    State(state): State<AppState>,
    Path(name): Path<String>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> ApiResult<Value> {
    let asked = Asked::new(query)?;
    if let Some((key, _)) = asked.filter.first() {
        return Err(ApiError::invalid(format!("{key}: a saved search has its own filter")));
    }
    let SavedSearch { mut filter, state: wanted, since_ms } =
        state.store.saved_search(state.queues.prefix(), named(&name)?).await?.search.0;
    if let Some(ms) = since_ms {
        let ago = TimeDelta::milliseconds(i64::try_from(ms.min(MAX_SINCE_MS)).unwrap_or(0));
        filter.from = Utc::now().checked_sub_signed(ago);
    }
    match (wanted, filter.queue.clone()) {
        (Some(wanted), Some(queue)) => {
            let jobs = &state.app.jobs;
            let page = jobs.search_state(queue.as_str(), wanted, &filter, asked.cursor, asked.limit).await?;
            whole(Json(page.into()))
        }
        _ => whole(search_history(&state, filter, asked.cursor, asked.limit).await?),
    }
}

fn whole<T: serde::Serialize>(Json(page): Json<Success<Vec<T>>>) -> ApiResult<Value> {
    let Success { data: rows, next_cursor: next, partial, .. } = page;
    part(serde_json::to_value(rows).unwrap_or_default(), next, partial)
}
