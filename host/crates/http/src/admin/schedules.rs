//! /api/admin/schedules: jobs that come by themselves.

use std::collections::HashMap;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_api::jobs::given;
use patchbay_app::schedule::{rhythm, spec, word};
use patchbay_model::QueueName;
use patchbay_model::job::{NewJob, Trace};
use patchbay_model::schedule::{Missed, Rhythm, ScheduleId};
use patchbay_queue::{QueueError, Queues, SchedulerView, check_job};
use patchbay_store::{ScheduleFields, ScheduleRow};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reveal::{Reveal, refuse_mark};
use super::{audited, recorded, traced};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};
use crate::path::Path;

/// Ticks that are shown ahead.
const PREVIEW: usize = 5;
/// A tick that is due for so long, and has not started, is shown as overdue.
const OVERDUE_AFTER_MS: u64 = 60_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(run))
        .routes(routes!(preview))
        .routes(routes!(list_of_clients))
}

/// A schedule, and how it stands in Redis.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScheduleStory {
    #[serde(flatten)]
    row: ScheduleRow,
    /// The next tick; absent while paused, or not yet in place.
    next_at: Option<String>,
    /// How long its tick has been due without starting, milliseconds.
    overdue_ms: Option<u64>,
    /// The time zone of its cron expression: its own, or the default.
    zone: Option<String>,
    /// Why it has no ticks, though it is not paused.
    trouble: Option<String>,
    /// The ticks after now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<String>,
}

fn time(ms: u64) -> Option<String> {
    let at: DateTime<Utc> = DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)?;
    Some(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// With its data as it is; [`redacted`] hides. Times are by Redis's clock, as the ticks are.
fn story(row: ScheduleRow, there: &[SchedulerView], queues: &Queues) -> ScheduleStory {
    let (now_ms, default_zone) = (queues.now_ms(), queues.default_zone());
    let view = there.iter().find(|view| view.id == row.id && view.alive);
    let zone = row.cron.as_ref().map(|_| row.tz.clone().unwrap_or_else(|| default_zone.to_string()));
    let trouble = spec(&row, default_zone)
        .and_then(|(_, spec)| spec.rhythm.preview(&spec.id, now_ms, 1).map_err(|error| error.to_string()))
        .err()
        .filter(|_| row.paused_by.is_none());
    let late = view.map(|view| now_ms.saturating_sub(view.next_at));
    ScheduleStory {
        next_at: view.and_then(|view| time(view.next_at)),
        overdue_ms: late.filter(|&ms| ms > OVERDUE_AFTER_MS),
        zone,
        trouble,
        next: Vec::new(),
        row,
    }
}

/// Every schedule.
#[utoipa::path(get, path = "/schedules", tag = "schedules", security(("operator" = [])),
    responses((status = 200, body = Success<Vec<Object>>)))]
async fn list(State(state): State<AppState>) -> ApiResult<Vec<ScheduleStory>> {
    ok(stories(&state).await?)
}

pub(super) async fn stories(state: &AppState) -> Result<Vec<ScheduleStory>, ApiError> {
    let rows = state.store.schedules().await?;
    let mut there: HashMap<String, Vec<SchedulerView>> = HashMap::new();
    for row in &rows {
        if let (false, Ok(queue)) = (there.contains_key(&row.queue), row.queue.parse::<QueueName>()) {
            let schedulers = match state.queues.schedulers(&queue).await {
                // None of them is in place there; the list of queues says why.
                Err(QueueError::Damaged { .. }) => Vec::new(),
                schedulers => schedulers?,
            };
            there.insert(row.queue.clone(), schedulers);
        }
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let there = there.get(&row.queue).map_or(&[][..], Vec::as_slice);
            redacted(state, story(row, there, &state.queues))
        })
        .collect())
}

/// Without what is hidden of the jobs of its queue.
fn redacted(state: &AppState, mut story: ScheduleStory) -> ScheduleStory {
    if let Ok(queue) = story.row.queue.parse::<QueueName>() {
        story.row.data = state.plugins.redaction(&queue).data(&story.row.data).0.text.into_owned();
    }
    story
}

/// For the record: which, and when it ticks. Its data may be personal.
fn named(story: &ScheduleStory) -> Value {
    json!({ "id": story.row.id, "queue": story.row.queue, "nextAt": story.next_at })
}

/// A job scheduler or repeatable that a BullMQ client made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientScheduler {
    queue: QueueName,
    #[serde(flatten)]
    view: SchedulerView,
    /// The next tick, as a time.
    next_time: Option<String>,
    /// The time zone of its cron expression: its own, or the default.
    zone_in_force: Option<String>,
}

/// Job schedulers and repeatables that BullMQ's clients made, in every queue. `trouble` says why one has no ticks.
#[utoipa::path(get, path = "/job-schedulers", tag = "schedules", security(("operator" = [])),
    responses((status = 200, body = Success<Vec<Object>>)))]
async fn list_of_clients(State(state): State<AppState>) -> ApiResult<Vec<ClientScheduler>> {
    let ours = state.queues.known_schedules().await?;
    let mut found = Vec::new();
    for queue in state.queues.list().await? {
        let schedulers = match state.queues.schedulers(&queue).await {
            // The list of queues says so.
            Err(QueueError::Damaged { .. }) => continue,
            schedulers => schedulers?,
        };
        for mut view in schedulers.into_iter().filter(|view| !ours.contains(&(queue.clone(), view.id.clone()))) {
            // Lists show no job's data.
            view.data = None;
            let default_zone = || state.queues.default_zone().to_string();
            let zone_in_force = view.pattern.as_ref().map(|_| view.zone.clone().unwrap_or_else(default_zone));
            found.push(ClientScheduler { next_time: time(view.next_at), zone_in_force, queue: queue.clone(), view });
        }
    }
    ok(found)
}

/// Show a schedule with its next five ticks.
#[utoipa::path(get, path = "/schedules/{id}", tag = "schedules", security(("operator" = [])), params(("id" = String, Path), Reveal),
    responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    reveal: Result<Query<Reveal>, QueryRejection>,
) -> ApiResult<ScheduleStory> {
    let reveal = reveal?.0.checked()?;
    if !reveal.reveal {
        return ok(redacted(&state, with_ticks(&state, &id).await?));
    }
    let (act, seen) = (with_ticks(&state, &id), |_: &ScheduleStory| Value::Null);
    ok(recorded(&state, &actor, "schedule.reveal", &id, reveal.details(), act, seen).await?)
}

async fn with_ticks(state: &AppState, id: &str) -> Result<ScheduleStory, ApiError> {
    let row = state.store.schedule(&id.parse()?).await?;
    let queues = &state.queues;
    let Ok((queue, spec)) = spec(&row, queues.default_zone()) else { return Ok(story(row, &[], queues)) };
    let ticks = spec.rhythm.preview(&spec.id, queues.now_ms(), PREVIEW).unwrap_or_default();
    let mut story = story(row, &queues.schedulers(&queue).await?, queues);
    story.next = ticks.into_iter().filter_map(time).collect();
    Ok(story)
}

/// A schedule. For a change, what is absent stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    /// Its id; only for a new one.
    id: Option<String>,
    /// Where its jobs go.
    queue: Option<String>,
    /// What they are called.
    name: Option<String>,
    /// Their data.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Object)]
    data: Option<Box<RawValue>>,
    /// Milliseconds between ticks, 1000 to 315360000000 (ten years); this or `cron`.
    every_ms: Option<u64>,
    /// Five fields, or six with seconds first.
    cron: Option<String>,
    /// IANA time zone, or an offset such as UTC+5:30; the default is `schedule.default_zone`.
    tz: Option<String>,
    /// `skip` (default) or `once`: what becomes of a tick that nobody could run within a minute.
    #[schema(value_type = Option<String>)]
    missed: Option<Missed>,
    /// One line.
    description: Option<String>,
}

/// Checked: it ticks at least once more, its queue is known, and its jobs could be added.
async fn checked(state: &AppState, fields: ScheduleFields) -> Result<ScheduleFields, ApiError> {
    refuse_mark("data", &fields.data)?;
    let queue = state.app.queues.catalog().known(&fields.queue).await?;
    // Each tick is such a job.
    let now_ms = state.queues.now_ms();
    check_job(&NewJob::new(queue, fields.name.as_str(), fields.data.as_str()), now_ms)?;
    let every = fields.every_ms.and_then(|ms| u64::try_from(ms).ok());
    rhythm(every, fields.cron.as_deref(), fields.tz.as_deref(), state.queues.default_zone())
        .and_then(|rhythm| rhythm.preview(&fields.id, now_ms, 1))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(fields)
}

fn required(value: Option<String>, name: &str) -> Result<String, ApiError> {
    value.ok_or_else(|| ApiError::invalid(format!("{name} is missing")))
}

fn milliseconds(ms: u64) -> Result<i64, ApiError> {
    i64::try_from(ms).map_err(|_| ApiError::invalid("everyMs is too large"))
}

/// Make a schedule.
#[utoipa::path(post, path = "/schedules", tag = "schedules", security(("operator" = [])), request_body = Wanted,
    responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
async fn create(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Wanted>, JsonRejection>,
) -> ApiResult<ScheduleStory> {
    let Json(body) = body?;
    let fields = ScheduleFields {
        id: required(body.id, "id")?.parse()?,
        queue: required(body.queue, "queue")?,
        name: required(body.name, "name")?,
        data: body.data.map_or_else(|| "{}".to_owned(), |data| data.get().to_owned()),
        every_ms: body.every_ms.map(milliseconds).transpose()?,
        cron: body.cron,
        tz: body.tz,
        missed: word(body.missed.unwrap_or_default()).to_owned(),
        description: body.description.unwrap_or_default(),
    };
    let fields = checked(&state, fields).await?;
    let id = fields.id.clone();
    let act = async {
        state.store.create_schedule(&fields, &actor.0).await?;
        in_place(&state, &id).await
    };
    let details = json!({ "queue": fields.queue });
    ok(recorded(&state, &actor, "schedule.create", id.as_str(), details, act, named).await?)
}

/// Change a schedule. A plugin's stays changed when the plugin is updated.
#[utoipa::path(patch, path = "/schedules/{id}", tag = "schedules", security(("operator" = [])), params(("id" = String, Path)),
    request_body = Wanted, responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn change(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    body: Result<Json<Wanted>, JsonRejection>,
) -> ApiResult<ScheduleStory> {
    let (id, Json(body)): (ScheduleId, _) = (id.parse()?, body?);
    if body.id.is_some() {
        return Err(ApiError::invalid("id: a schedule keeps its id; make another one"));
    }
    let row = state.store.schedule(&id).await?;
    // An interval and a cron expression replace each other.
    let (every_ms, cron, tz) = match (body.every_ms, body.cron) {
        (None, None) => (row.every_ms, row.cron, body.tz.or(row.tz)),
        (Some(ms), cron) => (Some(milliseconds(ms)?), cron, body.tz),
        (None, Some(cron)) => (None, Some(cron), body.tz.or(row.tz)),
    };
    let fields = ScheduleFields {
        id: id.clone(),
        queue: body.queue.unwrap_or(row.queue),
        name: body.name.unwrap_or(row.name),
        data: body.data.map_or(row.data, |data| data.get().to_owned()),
        every_ms,
        cron,
        tz,
        missed: body.missed.map_or(row.missed, |missed| word(missed).to_owned()),
        description: body.description.unwrap_or(row.description),
    };
    let fields = checked(&state, fields).await?;
    let act = async {
        state.store.change_schedule(&fields, &actor.0).await?;
        in_place(&state, &id).await
    };
    ok(recorded(&state, &actor, "schedule.change", id.as_str(), json!({}), act, named).await?)
}

/// Remove an operator's schedule. A plugin's is paused instead, or taken out of its manifest.
#[utoipa::path(delete, path = "/schedules/{id}", tag = "schedules", security(("operator" = [])), params(("id" = String, Path)),
    responses((status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn remove(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> ApiResult<()> {
    let id: ScheduleId = id.parse()?;
    let act = async {
        state.store.delete_schedule(&id).await?;
        reconciled(&state).await
    };
    audited(&state, &actor, "schedule.remove", id.as_str(), json!({}), act).await
}

/// Stop a schedule's ticks; one that runs goes on.
#[utoipa::path(post, path = "/schedules/{id}/pause", tag = "schedules", security(("operator" = [])), params(("id" = String, Path)),
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody)))]
async fn pause(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> ApiResult<ScheduleStory> {
    let id: ScheduleId = id.parse()?;
    let act = async {
        state.store.pause_schedule(&id, true, &actor.0).await?;
        in_place(&state, &id).await
    };
    ok(recorded(&state, &actor, "schedule.pause", id.as_str(), json!({}), act, named).await?)
}

/// Let a schedule tick again.
#[utoipa::path(post, path = "/schedules/{id}/resume", tag = "schedules", security(("operator" = [])), params(("id" = String, Path)),
    responses((status = 200, body = Success<Object>), (status = 404, body = ErrorBody)))]
async fn resume(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> ApiResult<ScheduleStory> {
    let id: ScheduleId = id.parse()?;
    let act = async {
        state.store.pause_schedule(&id, false, &actor.0).await?;
        in_place(&state, &id).await
    };
    ok(recorded(&state, &actor, "schedule.resume", id.as_str(), json!({}), act, named).await?)
}

/// A job of a schedule.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Ran {
    queue: String,
    id: String,
}

/// Run a schedule's job now, besides its ticks.
#[utoipa::path(post, path = "/schedules/{id}/run", tag = "schedules", security(("operator" = [])), params(("id" = String, Path)),
    responses((status = 200, body = Success<Ran>), (status = 404, body = ErrorBody)))]
async fn run(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Extension(trace): Extension<Trace>,
    Path(id): Path<String>,
) -> ApiResult<Ran> {
    let id: ScheduleId = id.parse()?;
    let row = state.store.schedule(&id).await?;
    let (queue, spec) = spec(&row, state.queues.default_zone()).map_err(ApiError::invalid)?;
    let (enqueue, trace) = traced::enqueue(&state.traces, &queue, trace);
    let job = NewJob { trace, ..NewJob::new(queue.clone(), spec.name, spec.data) };
    let act = async {
        let ids = traced::end(enqueue, state.queues.add(vec![job]).await)?;
        let id = ids.into_iter().next().ok_or_else(ApiError::internal)?;
        Ok::<_, ApiError>(Ran { queue: queue.to_string(), id: id.to_string() })
    };
    audited(&state, &actor, "schedule.run", id.as_str(), json!({}), act).await
}

/// What might be scheduled.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Preview {
    /// The id that it would have: intervals are spread by it.
    id: Option<String>,
    every_ms: Option<u64>,
    cron: Option<String>,
    tz: Option<String>,
}

/// The next five ticks of what might be scheduled; changes nothing.
#[utoipa::path(post, path = "/schedules/preview", tag = "schedules", security(("operator" = [])), request_body = Preview,
    responses((status = 200, body = Success<Vec<String>>), (status = 400, body = ErrorBody)))]
async fn preview(State(state): State<AppState>, body: Result<Json<Preview>, JsonRejection>) -> ApiResult<Vec<String>> {
    let Json(body) = body?;
    let id: ScheduleId = body.id.as_deref().unwrap_or("preview").parse()?;
    let ticks = rhythm(body.every_ms, body.cron.as_deref(), body.tz.as_deref(), state.queues.default_zone())
        .and_then(|rhythm: Rhythm| rhythm.preview(&id, state.queues.now_ms(), PREVIEW))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    ok(ticks.into_iter().filter_map(time).collect())
}

/// Whoever changed something sees it done; the others are done within seconds.
async fn reconciled(state: &AppState) -> Result<(), ApiError> {
    state.schedules.reconcile().await.map_err(|error| {
        tracing::error!(error = format!("{error:#}"), "a changed schedule is not in place yet");
        ApiError::new(
            http::StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the change is stored, and takes effect as soon as Postgres and Redis answer",
        )
    })
}

async fn in_place(state: &AppState, id: &ScheduleId) -> Result<ScheduleStory, ApiError> {
    reconciled(state).await?;
    let row = state.store.schedule(id).await?;
    let queue: QueueName = row.queue.parse()?;
    Ok(redacted(state, story(row, &state.queues.schedulers(&queue).await?, &state.queues)))
}
