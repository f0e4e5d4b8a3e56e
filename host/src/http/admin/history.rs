//! /api/admin/history: its state, how long it keeps what, forgetting and erasing, and the data of jobs. Searching is elsewhere.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use patchbay_model::job::trail_name;
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::shell::word;
use patchbay_model::{DataPath, JobId, QueueName};
use patchbay_store::{Erased, HistoryTables, Pruned, Retention};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queues::known;
use super::{audited, recorded};
use crate::history::{Live, Reader, Recording, Shown, live};
use crate::http::AppState;
use crate::http::auth::Actor;
use crate::http::error::{ApiError, ApiResult, ErrorBody, ok};
use crate::http::path::Path;

/// A hundred years.
const MOST_DAYS: i32 = 36_500;
/// Of one job; it ends once, and once more for each retry after that.
const MOST_BODIES: i64 = 20;
/// In characters.
const MAX_REASON: usize = 500;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(retention))
        .routes(routes!(set_retention, reset_retention))
        .routes(routes!(prune))
        .routes(routes!(erase))
        .routes(routes!(bodies))
}

/// What the history is like.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    /// Whether this host records attempts.
    enabled: bool,
    stream: Stream,
    bodies: BodiesKept,
    #[serde(flatten)]
    tables: HistoryTables,
    retention: Retention,
}

/// What Postgres does not have yet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stream {
    attempts: u64,
    bytes: u64,
    /// How old the oldest is.
    lag_ms: Option<u64>,
    /// Entries that nobody can read or keep.
    set_aside: u64,
}

/// Whether data and results are kept by this host.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BodiesKept {
    kept: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// How the history does: what waits, what it holds, since when, and for how long.
#[utoipa::path(get, path = "/history/status", tag = "history", security(("operator" = [])), responses((status = 200, body = Success<Object>)))]
async fn status(State(state): State<AppState>) -> ApiResult<Status> {
    let history = &state.history;
    let Recording { attempts: enabled, .. } = history.room.recording();
    let no_bodies = history.room.no_bodies();
    let lag = state.queues.attempts_waiting_for().await?;
    ok(Status {
        enabled,
        stream: Stream {
            attempts: state.queues.attempts_waiting().await?,
            bytes: state.queues.attempts_bytes().await?,
            lag_ms: lag.map(|lag| lag.as_millis() as u64),
            set_aside: state.queues.attempts_set_aside().await?,
        },
        bodies: BodiesKept { kept: no_bodies.is_none(), reason: no_bodies.map(|why| why.reason()) },
        tables: state.store.history_tables().await?,
        retention: state.store.retention(history.keep).await?,
    })
}

/// How long attempts are kept.
#[utoipa::path(get, path = "/history/retention", tag = "history", security(("operator" = [])), responses((status = 200, body = Success<Object>)))]
async fn retention(State(state): State<AppState>) -> ApiResult<Retention> {
    ok(state.store.retention(state.history.keep).await?)
}

/// For how long.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Keep {
    /// Attempts that ended so; absent: each outcome that nothing else is said of.
    #[schema(value_type = Option<String>)]
    outcome: Option<OutcomeKind>,
    /// 1 to 36500.
    days: i32,
}

/// Keep a queue's attempts for so many days.
#[utoipa::path(put, path = "/history/retention/{queue}", tag = "history", security(("operator" = [])), params(("queue" = String, Path)),
    request_body = Keep, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn set_retention(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<Keep>, JsonRejection>,
) -> ApiResult<Retention> {
    let Json(Keep { outcome, days }) = body?;
    let queue = known(&state, &queue).await?;
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(ApiError::invalid(format!("days: 1 to {MOST_DAYS}")));
    }
    let act = async {
        state.store.set_retention(&queue, outcome, days, &actor.0).await?;
        state.store.retention(state.history.keep).await
    };
    let details = json!({ "outcome": outcome, "days": days });
    audited(&state, &actor, "history.set-retention", queue.as_str(), details, act).await
}

/// Which.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Reset {
    /// Only what was said of this outcome.
    #[param(value_type = Option<String>)]
    outcome: Option<OutcomeKind>,
}

/// Keep a queue's attempts as long as the configuration says.
#[utoipa::path(delete, path = "/history/retention/{queue}", tag = "history", security(("operator" = [])), params(("queue" = String, Path), Reset),
    responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn reset_retention(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    reset: Result<Query<Reset>, QueryRejection>,
) -> ApiResult<Retention> {
    let Query(Reset { outcome }) = reset?;
    let queue: QueueName = queue.parse()?;
    let act = async {
        state.store.reset_retention(&queue, outcome).await?;
        state.store.retention(state.history.keep).await
    };
    audited(&state, &actor, "history.reset-retention", queue.as_str(), json!({ "outcome": outcome }), act).await
}

/// Whether to do it.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Prune {
    /// Only tell what would be forgotten.
    #[serde(default)]
    dry_run: bool,
}

/// Forget now what is older than it is to be kept; otherwise that happens once an hour.
#[utoipa::path(post, path = "/history/prune", tag = "history", security(("operator" = [])), request_body = Prune,
    responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody)))]
async fn prune(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Prune>, JsonRejection>,
) -> ApiResult<Pruned> {
    let Json(Prune { dry_run }) = body?;
    let retention = state.store.retention(state.history.keep).await?;
    if dry_run {
        return ok(state.store.prunable_history(&retention).await?);
    }
    let act = state.store.prune_history(&retention);
    audited(&state, &actor, "history.prune", "history", json!({ "retention": retention }), act).await
}

/// Whose data.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Erase {
    /// Where it stands in the data of jobs: a path that a manifest declares searchable.
    #[schema(value_type = String)]
    path: DataPath,
    /// What stands there; never recorded.
    value: String,
    /// Only jobs of this queue.
    #[schema(value_type = Option<String>)]
    queue: Option<QueueName>,
    /// For the record, up to 500 characters: a request's number, for example, and no personal data.
    reason: String,
    /// Only tell what would be erased.
    #[serde(default)]
    dry_run: bool,
}

/// What was erased, and what is left.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Erasure {
    jobs: usize,
    #[serde(flatten)]
    erased: Erased,
    /// There are more such jobs than one request erases: ask again.
    and_more: bool,
    /// No active plugin declares the path searchable: attempts that were recorded without that are not found by it.
    undeclared: bool,
    /// Attempts that Postgres does not have yet: ask again once they are there.
    waiting: u64,
    /// Jobs in Redis with the value, which this does not reach.
    live: Live,
}

/// Erase a person's data: of every attempt of a job with this value in its data go data, result, message, backtrace and outside calls; that it
/// happened stays.
#[utoipa::path(post, path = "/history/erase", tag = "history", security(("operator" = [])), request_body = Erase,
    responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody)))]
async fn erase(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Erase>, JsonRejection>,
) -> ApiResult<Erasure> {
    let Json(Erase { path, value, queue, reason, dry_run }) = body?;
    if !(1..=patchbay_model::data_path::MAX_VALUE_BYTES).contains(&value.len()) {
        let most = patchbay_model::data_path::MAX_VALUE_BYTES;
        return Err(ApiError::invalid(format!("value: 1 to {most} bytes; jobs are found by no longer ones")));
    }
    if reason.trim().is_empty() || reason.chars().count() > MAX_REASON || reason.contains('\0') {
        return Err(ApiError::invalid(format!("reason: 1 to {MAX_REASON} characters, for the record")));
    }
    if let Some(queue) = &queue {
        known(&state, queue.as_str()).await?;
    }
    let undeclared = !state.plugins.searchable(queue.as_ref()).contains(&path);
    let term = state.store.term_key().await?.term(&path, &value);
    let act = async {
        let (jobs, and_more) = state.store.jobs_with(&term, queue.as_ref().map(QueueName::as_str)).await?;
        let erased = if dry_run { state.store.erasable(&jobs).await? } else { state.store.erase(&jobs).await? };
        let waiting = state.queues.attempts_waiting().await?;
        let queues = match &queue {
            Some(queue) => vec![queue.clone()],
            None => state.queues.list().await?,
        };
        let live = live(&state.queues, &queues, &path, &value).await?;
        Ok::<_, ApiError>(Erasure { jobs: jobs.len(), erased, and_more, undeclared, waiting, live })
    };
    if dry_run {
        return ok(act.await?);
    }
    // The value is what is to be forgotten: the record names it by a keyed hash only.
    let details = json!({ "path": path, "valueHash": hex::encode(term), "queue": queue, "reason": reason });
    let counts =
        |done: &Erasure| json!({ "jobs": done.jobs, "attempts": done.erased.attempts, "andMore": done.and_more });
    ok(recorded(&state, &actor, "history.erase", path.as_str(), details, act, counts).await?)
}

/// Data and result that an attempt ended with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptBody {
    job_created_ms: i64,
    started: i32,
    finished_at: DateTime<Utc>,
    #[serde(flatten)]
    shown: Shown,
}

/// Data and results of a job, without what its queue's manifest redacts; the newest first. Who reads them is recorded.
#[utoipa::path(get, path = "/history/bodies/{queue}/{id}", tag = "history", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Success<Vec<Object>>), (status = 404, body = ErrorBody)))]
async fn bodies(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
) -> ApiResult<Vec<AttemptBody>> {
    let (queue, id): (QueueName, JobId) = (known(&state, &queue).await?, id.parse()?);
    let act = async {
        let prefix = state.queues.prefix();
        let mut reader = Reader::new(&state.history.bodies, &state.plugins, prefix);
        let mut shown = Vec::new();
        for row in state.store.bodies(prefix, &queue, &id, MOST_BODIES).await? {
            let (job_created_ms, started, finished_at) = (row.job_created_ms, row.started, row.finished_at);
            shown.push(AttemptBody { job_created_ms, started, finished_at, shown: reader.show(row).await? });
        }
        if shown.is_empty() {
            return Err(ApiError::not_found(format!(
                "the history holds no data of the job {} of {}",
                word(id.as_str()),
                word(queue.as_str())
            )));
        }
        Ok(shown)
    };
    let count = |shown: &Vec<AttemptBody>| json!({ "bodies": shown.len() });
    ok(recorded(&state, &actor, "history.read-body", &trail_name(&queue, &id), json!({}), act, count).await?)
}
