//! /api/admin/history: its state, how long it keeps what, forgetting and erasing, and the data of jobs. Searching is elsewhere.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use patchbay_app::history::{Asker, Erasing, Erasure, Reader, Shown, Wanted};
use patchbay_model::job::trail_name;
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::redaction::Mask;
use patchbay_model::shell::word;
use patchbay_model::{DataPath, JobId, QueueName};
use patchbay_store::{ErasureRow, HistoryTables, Pruned, Retention};
use patchbay_work::body_budget::Recording;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reveal::Reveal;
use super::{audited, recorded};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, ok, page};
use crate::path::Path;

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
        .routes(routes!(erasures))
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
    let Recording { attempts: enabled, .. } = history.budget.recording();
    let no_bodies = history.budget.no_bodies();
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
    let queue = state.app.queues.catalog().known(&queue).await?;
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

/// Whose data, or which job.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Erase {
    /// Of a person: where the value stands in the data of jobs, a path that a manifest declares searchable.
    #[schema(value_type = Option<String>)]
    path: Option<DataPath>,
    /// What stands there; never recorded.
    value: Option<String>,
    /// Only jobs of this queue.
    #[schema(value_type = Option<String>)]
    queue: Option<QueueName>,
    /// Only the job with this id; with a queue.
    #[schema(value_type = Option<String>)]
    job: Option<JobId>,
    /// For the record, up to 500 characters: a request's number, for example, and no personal data.
    reason: String,
    /// Also jobs that are still to run: they are removed and never run.
    #[serde(default)]
    unfinished: bool,
    /// Only tell what would be erased.
    #[serde(default)]
    dry_run: bool,
}

impl Erase {
    fn wanted(&self) -> Result<Wanted, ApiError> {
        let most = patchbay_model::data_path::MAX_VALUE_BYTES;
        let person = match (&self.path, &self.value) {
            (Some(path), Some(value)) if (1..=most).contains(&value.len()) && !value.contains('\0') => {
                Some((path.clone(), value.clone()))
            }
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid(format!(
                    "value: 1 to {most} bytes without NUL; jobs are found by no longer ones"
                )));
            }
            (None, None) if self.queue.is_some() && self.job.is_some() => None,
            (None, None) => {
                return Err(ApiError::invalid(
                    "name a person by path and value, as in \"path\": \"customer.phone\", or one job by queue and job",
                ));
            }
            _ => return Err(ApiError::invalid("path and value belong together: give both, or neither and name a job")),
        };
        if self.job.is_some() && self.queue.is_none() {
            return Err(ApiError::invalid("job: name its queue, too"));
        }
        let reason = self.reason.trim();
        if reason.is_empty() || self.reason.chars().count() > MAX_REASON || reason.contains('\0') {
            return Err(ApiError::invalid(format!("reason: 1 to {MAX_REASON} characters, for the record")));
        }
        let names = |value: &String| {
            reason.to_lowercase().contains(&value.to_lowercase()) || Mask::new([value.clone()]).finds(reason)
        };
        if self.value.as_ref().is_some_and(names) {
            return Err(ApiError::invalid(
                "reason: it stays in the record, so it must not hold the value that is erased",
            ));
        }
        Ok(Wanted { person, queue: self.queue.clone(), job: self.job.clone(), unfinished: self.unfinished })
    }
}

/// Erase a person's data, or a job: jobs that have ended leave Redis, and of every attempt go data, result, message, backtrace and outside
/// calls; that it happened stays. Jobs that are still to run are left unless `unfinished` is true; jobs that run are erased once they have
/// ended. Doing it again changes nothing.
#[utoipa::path(post, path = "/history/erase", tag = "history", security(("operator" = [])), request_body = Erase,
    responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn erase(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Erase>, JsonRejection>,
) -> ApiResult<Erasure> {
    let Json(request) = body?;
    let wanted = request.wanted()?;
    if let Some(queue) = &wanted.queue {
        state.app.queues.catalog().known(queue.as_str()).await?;
    }
    let searchable = state.plugins.searchable(wanted.queue.as_ref());
    let undeclared = wanted.person.as_ref().is_some_and(|(path, _)| !searchable.contains(path));
    let erasing = Erasing { store: &state.store, queues: &state.queues, bodies: Some(&state.history.bodies) };
    if request.dry_run {
        return ok(Erasure { undeclared, ..erasing.preview(&wanted).await? });
    }
    // The value is what is to be forgotten: the record names it by a keyed hash only.
    let term = match &wanted.person {
        Some((path, value)) => Some(hex::encode(state.store.term_key().await?.term(path, value))),
        None => None,
    };
    let details = json!({
        "path": request.path, "valueHash": term, "queue": wanted.queue, "job": wanted.job, "unfinished": wanted.unfinished,
        "reason": request.reason,
    });
    let counts = |done: &Erasure| {
        json!({
            "erasure": done.erasure, "jobs": done.jobs, "attempts": done.erased.attempts, "left": done.live.found,
            "places": done.places, "andMore": done.and_more,
        })
    };
    let target = match (&request.path, &wanted.queue, &wanted.job) {
        (Some(path), ..) => path.to_string(),
        (None, Some(queue), Some(job)) => format!("{queue}/{job}"),
        _ => "history".to_owned(),
    };
    let act = async {
        let asker = Asker { actor: &actor.0, reason: request.reason.trim() };
        Ok::<_, ApiError>(Erasure { undeclared, ..erasing.erase(&wanted, asker).await? })
    };
    ok(recorded(&state, &actor, "history.erase", &target, details, act, counts).await?)
}

/// Which part of the list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Part {
    /// Behind the page whose `nextCursor` this is.
    cursor: Option<i64>,
    /// 1 to 200; default 50.
    limit: Option<u16>,
}

/// Erasures, the newest first: who asked, why, how many jobs it was about, and whether it has ended.
#[utoipa::path(get, path = "/history/erasures", tag = "history", security(("operator" = [])), params(Part),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody)))]
async fn erasures(
    State(state): State<AppState>,
    part: Result<Query<Part>, QueryRejection>,
) -> ApiResult<Vec<ErasureRow>> {
    let Query(Part { cursor, limit }) = part?;
    let limit = limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(ApiError::invalid("limit: 1 to 200"));
    }
    let mut rows = state.store.erasures(state.queues.prefix(), cursor, i64::from(limit) + 1).await?;
    let more = rows.len() > usize::from(limit);
    rows.truncate(limit.into());
    let next = rows.last().filter(|_| more).map(|row| row.id.to_string());
    page(rows, next)
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

/// Data and results of a job, without what its queue's manifest redacts, and without secrets; the newest first. Who reads them is recorded,
/// and whether with `reveal`, which shows all of it.
#[utoipa::path(get, path = "/history/bodies/{queue}/{id}", tag = "history", security(("operator" = [])),
    params(("queue" = String, Path), ("id" = String, Path), Reveal),
    responses((status = 200, body = Success<Vec<Object>>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn bodies(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path((queue, id)): Path<(String, String)>,
    reveal: Result<Query<Reveal>, QueryRejection>,
) -> ApiResult<Vec<AttemptBody>> {
    let reveal = reveal?.0.checked()?;
    let (queue, id): (QueueName, JobId) = (state.app.queues.catalog().known(&queue).await?, id.parse()?);
    let act = async {
        let prefix = state.queues.prefix();
        let mut reader = Reader::new(&state.history.bodies, &state.plugins, &state.queues, reveal.reveal);
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
    let details = json!({ "reveal": reveal.reveal, "reason": reveal.reason });
    ok(recorded(&state, &actor, "history.read-body", &trail_name(&queue, &id), details, act, count).await?)
}
