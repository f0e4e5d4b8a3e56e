//! /api/admin/dead-letters: jobs that failed for good, by what their failure looks like.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use patchbay_model::redaction::Mask;
use patchbay_store::{DeadLetterRow, DeadLetters, Ended};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::recorded;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, ok};
use crate::path::Path;

/// Jobs shown with a group.
const SAMPLE: i64 = 10;
const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 1_000;
/// In characters.
const MAX_NOTE: usize = 2_000;
const MAX_ASSIGNEE: usize = 100;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(acknowledge))
        .routes(routes!(unacknowledge))
        .routes(routes!(note))
        .routes(routes!(assign))
}

/// Which groups.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Of jobs of this queue.
    queue: Option<String>,
    /// That happened in this plugin.
    plugin: Option<String>,
    /// Whether somebody has taken note.
    acknowledged: Option<bool>,
    /// 1 to 1000; default 50.
    limit: Option<u16>,
}

/// Groups of jobs that failed for good: open ones first, then by when they were seen last.
#[utoipa::path(get, path = "/dead-letters", tag = "dead letters", security(("operator" = [])), params(Which),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody)))]
async fn list(
    State(state): State<AppState>,
    which: Result<Query<Which>, QueryRejection>,
) -> ApiResult<Vec<DeadLetterRow>> {
    let Query(Which { queue, plugin, acknowledged, limit }) = which?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(format!("limit: 1 to {MAX_LIMIT}")));
    }
    let plugin: Option<patchbay_model::PluginName> = plugin.map(|name| name.parse()).transpose()?;
    let which = DeadLetters {
        queue: queue.map(|name| name.parse()).transpose()?,
        plugin: plugin.map(|name| name.to_string()),
        acknowledged,
    };
    ok(state.store.dead_letters(state.queues.prefix(), &which, limit.into()).await?)
}

/// A group with its newest jobs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetterStory {
    #[serde(flatten)]
    group: DeadLetterRow,
    /// Of the ten thousand jobs that failed last: how many have completed since.
    repaired: i64,
    /// Of the newest failure.
    stack: Option<String>,
    sample: Vec<Ended>,
    /// The same failure in other revisions.
    elsewhere: Vec<DeadLetterRow>,
}

/// Show a group: its newest jobs, the stack of the newest, and the same failure in other revisions.
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "dead letters", security(("operator" = [])), params(("id" = i64, Path)),
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody)))]
async fn show(State(state): State<AppState>, Path(id): Path<i64>) -> ApiResult<DeadLetterStory> {
    let (store, prefix) = (&state.store, state.queues.prefix());
    let group = store.dead_letter(prefix, id).await?;
    let mut sample = store.dead_letter_jobs(prefix, id, SAMPLE).await?;
    let mask = Mask::default();
    for job in &mut sample {
        mask.hide(job.message.iter_mut().chain(&mut job.stack));
    }
    let stack = sample.first().and_then(|job| job.stack.clone());
    for job in &mut sample {
        // One tells what all have; and it is long.
        job.stack = None;
    }
    let repaired = store.dead_letter_repaired(prefix, id).await?;
    ok(DeadLetterStory { group, repaired, stack, sample, elsewhere: store.dead_letter_siblings(prefix, id).await? })
}

/// Take note of a group. It stays so when more jobs fail in the same revision; in another revision they are another group.
#[utoipa::path(post, path = "/dead-letters/{id}/acknowledge", tag = "dead letters", security(("operator" = [])), params(("id" = i64, Path)),
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody)))]
async fn acknowledge(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<i64>,
) -> ApiResult<DeadLetterRow> {
    let act = state.store.acknowledge_dead_letter(state.queues.prefix(), id, Some(&actor.0));
    ok(recorded(&state, &actor, "dead-letter.acknowledge", &format!("dead-letter/{id}"), json!({}), act, named).await?)
}

/// Open a group again.
#[utoipa::path(post, path = "/dead-letters/{id}/unacknowledge", tag = "dead letters", security(("operator" = [])),
    params(("id" = i64, Path)), responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody)))]
async fn unacknowledge(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<i64>,
) -> ApiResult<DeadLetterRow> {
    let act = state.store.acknowledge_dead_letter(state.queues.prefix(), id, None);
    ok(recorded(&state, &actor, "dead-letter.unacknowledge", &format!("dead-letter/{id}"), json!({}), act, named)
        .await?)
}

/// What is known of a group.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Note {
    /// At most 2000 characters; null takes it away.
    note: Option<String>,
}

/// Replace the note of a group.
#[utoipa::path(put, path = "/dead-letters/{id}/note", tag = "dead letters", security(("operator" = [])), params(("id" = i64, Path)),
    request_body = Note, responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
async fn note(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<i64>,
    body: Result<Json<Note>, JsonRejection>,
) -> ApiResult<DeadLetterRow> {
    let Json(Note { note }) = body?;
    let note = text("note", note, MAX_NOTE)?;
    let act = state.store.note_dead_letter(state.queues.prefix(), id, note.as_deref());
    // The words stand in the group, where erasing finds them.
    let details = json!({ "characters": note.as_ref().map(|note| note.chars().count()) });
    ok(recorded(&state, &actor, "dead-letter.note", &format!("dead-letter/{id}"), details, act, named).await?)
}

/// Whose a group is.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Assignee {
    /// At most 100 characters; null: nobody's.
    assignee: Option<String>,
}

/// Say whose a group is.
#[utoipa::path(put, path = "/dead-letters/{id}/assignee", tag = "dead letters", security(("operator" = [])), params(("id" = i64, Path)),
    request_body = Assignee, responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
async fn assign(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<i64>,
    body: Result<Json<Assignee>, JsonRejection>,
) -> ApiResult<DeadLetterRow> {
    let Json(Assignee { assignee }) = body?;
    let assignee = text("assignee", assignee, MAX_ASSIGNEE)?;
    let act = state.store.assign_dead_letter(state.queues.prefix(), id, assignee.as_deref());
    ok(recorded(
        &state,
        &actor,
        "dead-letter.assign",
        &format!("dead-letter/{id}"),
        json!({ "assignee": assignee }),
        act,
        named,
    )
    .await?)
}

/// For the record: not its words, which erasing takes away elsewhere.
fn named(row: &DeadLetterRow) -> Value {
    json!({ "id": row.id })
}

/// Blank is none.
fn text(name: &str, value: Option<String>, most: usize) -> Result<Option<String>, ApiError> {
    let value = value.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    if value.as_ref().is_some_and(|text| text.chars().count() > most || text.contains('\0')) {
        return Err(ApiError::invalid(format!("{name}: at most {most} characters, without NUL")));
    }
    Ok(value)
}
