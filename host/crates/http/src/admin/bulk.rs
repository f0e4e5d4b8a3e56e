//! /api/admin/bulk: one operation on all jobs that a filter means.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use patchbay_app::bulk::{Identity, Plan, Preview, Request, Show, Source};
use patchbay_app::redacted;
use patchbay_model::filter::Filter;
use patchbay_store::{BulkItem, BulkReason, BulkRow, NewBulk};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::recorded;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, ok, page};
use crate::path::Path;

/// Operations or items of a page unless it says otherwise.
const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;
const ITEM_STATES: [&str; 6] = ["pending", "done", "skipped", "failed", "restored", "lost"];

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(begin, list))
        .routes(routes!(show))
        .routes(routes!(items))
        .routes(routes!(cancel))
        .routes(routes!(resume))
        .routes(routes!(undo))
}

/// An operation that was made, or what it would do.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Begun {
    Preview(Preview),
    Bulk(Box<BulkRow>),
}

/// Begin an operation on all jobs that a filter means, or see with `dryRun` what it would do. It goes on in the background; see its progress by
/// its `id`.
#[utoipa::path(post, path = "/bulk", tag = "bulk", security(("operator" = [])), request_body = Request, responses(
    (status = 200, description = "the operation, or with dryRun: matched, complete, sample", body = Success<Object>),
    (status = 400, body = ErrorBody), (status = 404, description = "nobody knows the queue or the dead letter", body = ErrorBody),
))]
async fn begin(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Request>, JsonRejection>,
) -> ApiResult<Begun> {
    let Json(request) = body?;
    let plan = request.plan().map_err(ApiError::invalid)?;
    if let Some(queue) = &plan.filter.queue {
        state.app.queues.catalog().refuse_unknown(queue).await?;
    }
    if let Some(id) = plan.filter.dead_letter {
        state.store.dead_letter(state.queues.prefix(), id).await?;
    }
    if request.dry_run {
        let show = match (request.with_data, request.reveal) {
            (false, _) => Show::NoData,
            (true, false) => Show::Data,
            (true, true) => Show::Everything,
        };
        let preview = async { Ok::<_, ApiError>(state.bulks.preview(&plan, show).await?) };
        if show != Show::Everything {
            return ok(Begun::Preview(preview.await?));
        }
        let which = |preview: &Preview| {
            let jobs = preview.sample.iter().map(|job| format!("{}/{}", job.queue, job.id)).collect::<Vec<_>>();
            json!({ "jobs": jobs })
        };
        let details = json!({ "reason": request.reason });
        let preview = recorded(&state, &actor, "bulk.reveal", "preview", details, preview, which).await?;
        return ok(Begun::Preview(preview));
    }
    let id = state.store.next_bulk_id().await?;
    let details = details(&plan, &request);
    let act = async {
        let row = state.store.begin_bulk(&new_bulk(&state, &actor, id, &plan, &request)?).await?;
        state.bulks.changed();
        Ok::<_, ApiError>(Begun::Bulk(Box::new(shown(&state, row))))
    };
    let (action, target) = (format!("bulk.{}", plan.kind.as_str()), format!("bulk/{id}"));
    // The row has the filter, whose values may be personal.
    ok(recorded(&state, &actor, &action, &target, details, act, |_| json!({ "bulk": id })).await?)
}

/// What is meant, without what may be personal.
fn details(plan: &Plan, request: &Request) -> Value {
    let (set, unset) = plan.edits.as_ref().map(|edits| edits.paths()).unwrap_or_default();
    json!({
        "filter": plan.filter.without_data(), "state": plan.state, "source": plan.source, "key": plan.key, "set": set, "unset": unset,
        "first": request.first, "reason": request.reason,
    })
}

fn new_bulk<'a>(
    state: &'a AppState,
    actor: &'a Actor,
    id: i64,
    plan: &Plan,
    request: &'a Request,
) -> Result<NewBulk<'a>, ApiError> {
    let edits = plan.edits.as_ref().map(serde_json::to_string).transpose().map_err(|_| ApiError::internal())?;
    Ok(NewBulk {
        id,
        prefix: state.queues.prefix(),
        kind: plan.kind.as_str(),
        source: match plan.source {
            Source::Live => "live",
            Source::History => "history",
        },
        job_state: plan.state.to_string(),
        filter: json!(plan.filter),
        identity: plan.key.map(|key| match key {
            Identity::Keep => "keep",
            Identity::New => "new",
        }),
        edits,
        actor: &actor.0,
        reason: request.reason.as_deref(),
        stop_after: request.first.map(i64::from),
    })
}

/// Without values of job data that are hidden.
fn shown(state: &AppState, mut row: BulkRow) -> BulkRow {
    if let Ok(filter) = serde_json::from_value::<Filter>(row.filter.clone()) {
        let redaction = state.plugins.redaction_of(filter.queue.as_ref());
        row.filter = json!(redacted::filter(filter, &redaction));
    }
    row
}

/// Which part of a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Part {
    /// Behind the page whose `nextCursor` this is.
    cursor: Option<String>,
    /// 1 to 200; default 50.
    limit: Option<u16>,
}

impl Part {
    /// One more tells whether there is another page.
    fn read(&self) -> Result<(Option<i64>, usize), ApiError> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ApiError::invalid(format!("limit: 1 to {MAX_LIMIT}")));
        }
        let unknown = |_| ApiError::invalid("unknown cursor: take `nextCursor` of the page before, or none");
        Ok((self.cursor.as_ref().map(|cursor| cursor.parse()).transpose().map_err(unknown)?, limit.into()))
    }
}

/// Bulk operations, the newest first.
#[utoipa::path(get, path = "/bulk", tag = "bulk", security(("operator" = [])), params(Part),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody)))]
async fn list(State(state): State<AppState>, part: Result<Query<Part>, QueryRejection>) -> ApiResult<Vec<BulkRow>> {
    let Query(part) = part?;
    let (before, limit) = part.read()?;
    let mut rows = state.store.bulks(state.queues.prefix(), before, limit as i64 + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.id.to_string());
    page(rows.into_iter().map(|row| shown(&state, row)).collect(), next)
}

/// An operation and why jobs were left.
#[derive(Debug, Serialize)]
struct BulkStory {
    #[serde(flatten)]
    bulk: BulkRow,
    /// The most frequent first.
    reasons: Vec<BulkReason>,
}

/// Show a bulk operation: its state, its counts, and why jobs were left as they are.
#[utoipa::path(get, path = "/bulk/{id}", tag = "bulk", security(("operator" = [])), params(("id" = i64, Path)),
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody)))]
async fn show(State(state): State<AppState>, Path(id): Path<i64>) -> ApiResult<BulkStory> {
    let bulk = shown(&state, state.store.bulk(state.queues.prefix(), id).await?);
    ok(BulkStory { bulk, reasons: state.store.bulk_reasons(id).await? })
}

/// Which jobs of an operation.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Items {
    /// `pending`, `done`, `skipped`, `failed`, `restored` or `lost`.
    state: Option<String>,
    /// Behind the page whose `nextCursor` this is.
    cursor: Option<String>,
    /// 1 to 200; default 50.
    limit: Option<u16>,
}

/// The jobs of a bulk operation, and what became of each.
#[utoipa::path(get, path = "/bulk/{id}/items", tag = "bulk", security(("operator" = [])), params(("id" = i64, Path), Items),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn items(
    State(state): State<AppState>,
    Path(id): Path<i64>,
    which: Result<Query<Items>, QueryRejection>,
) -> ApiResult<Vec<BulkItem>> {
    let Query(Items { state: of, cursor, limit }) = which?;
    let (behind, limit) = Part { cursor, limit }.read()?;
    if of.as_ref().is_some_and(|state| !ITEM_STATES.contains(&state.as_str())) {
        return Err(ApiError::invalid(format!("state: one of {}", ITEM_STATES.join(", "))));
    }
    state.store.bulk(state.queues.prefix(), id).await?;
    let mut items = state.store.bulk_items(id, of.as_deref(), behind.unwrap_or(0), limit as i64 + 1).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|item| item.n.to_string());
    page(items, next)
}

/// Stop a bulk operation where it is; what is done stays done.
#[utoipa::path(post, path = "/bulk/{id}/cancel", tag = "bulk", security(("operator" = [])), params(("id" = i64, Path)),
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn cancel(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<i64>,
) -> ApiResult<BulkRow> {
    let act = async { Ok::<_, ApiError>(shown(&state, state.store.cancel_bulk(state.queues.prefix(), id).await?)) };
    ok(recorded(&state, &actor, "bulk.cancel", &format!("bulk/{id}"), json!({}), act, |_| json!({ "bulk": id }))
        .await?)
}

/// How far to go on.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct GoOn {
    /// So many, then pause again; absent: to the end.
    first: Option<u32>,
}

/// Let a bulk operation go on that has paused after its first jobs.
#[utoipa::path(post, path = "/bulk/{id}/resume", tag = "bulk", security(("operator" = [])), params(("id" = i64, Path)), request_body = GoOn,
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn resume(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<i64>,
    body: Result<Json<GoOn>, JsonRejection>,
) -> ApiResult<BulkRow> {
    let Json(GoOn { first }) = body?;
    if first == Some(0) {
        return Err(ApiError::invalid("first: at least one"));
    }
    let act = async {
        let row = state.store.resume_bulk(state.queues.prefix(), id, first.map(i64::from)).await?;
        state.bulks.changed();
        Ok::<_, ApiError>(shown(&state, row))
    };
    ok(recorded(
        &state,
        &actor,
        "bulk.resume",
        &format!("bulk/{id}"),
        json!({ "first": first }),
        act,
        |_| json!({ "bulk": id }),
    )
    .await?)
}

/// Put back what a removal has removed, within an hour of its end.
#[utoipa::path(post, path = "/bulk/{id}/undo", tag = "bulk", security(("operator" = [])), params(("id" = i64, Path)),
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn undo(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<i64>,
) -> ApiResult<BulkRow> {
    let act = async {
        let row = state.store.undo_bulk(state.queues.prefix(), id).await?;
        state.bulks.changed();
        Ok::<_, ApiError>(shown(&state, row))
    };
    ok(recorded(&state, &actor, "bulk.undo", &format!("bulk/{id}"), json!({}), act, |_| json!({ "bulk": id })).await?)
}
