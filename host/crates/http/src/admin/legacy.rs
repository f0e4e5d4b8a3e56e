//! /api/admin/queues/{queue}/migrate-repeatables: legacy repeatables become schedules.

use std::collections::HashSet;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use patchbay_app::schedule::rhythm;
use patchbay_model::QueueName;
use patchbay_model::schedule::ScheduleId;
use patchbay_queue::LegacyRepeatable;
use patchbay_store::ScheduleFields;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queues::known;
use super::recorded;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, ok};
use crate::path::Path;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(migrate))
}

/// Look, or do it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Migrate {
    /// True changes nothing.
    dry_run: bool,
}

/// What becomes, or became, of one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Migrated {
    repeatable: LegacyRepeatable,
    /// The schedule that takes its place.
    schedule: Option<String>,
    /// Why none does; it stays as it is.
    reason: Option<String>,
}

/// Make legacy repeatables schedules with the same rhythm, name and data, and take them out.
#[utoipa::path(post, path = "/queues/{queue}/migrate-repeatables", tag = "schedules", security(("operator" = [])),
    params(("queue" = String, Path)), request_body = Migrate,
    responses((status = 200, body = Success<Vec<Object>>), (status = 404, body = ErrorBody)))]
async fn migrate(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(queue): Path<String>,
    body: Result<Json<Migrate>, JsonRejection>,
) -> ApiResult<Vec<Migrated>> {
    let (queue, Json(body)) = (known(&state, &queue).await?, body?);
    let redaction = state.plugins.redaction(&queue);
    let act = async {
        let mut migrated = Vec::new();
        let all = state.queues.schedulers(&queue).await?;
        let live: HashSet<String> = all.into_iter().filter(|view| !view.legacy).map(|view| view.id).collect();
        for repeatable in state.queues.legacy_repeatables(&queue).await? {
            let (schedule, reason) = match fields(&state, &queue, &repeatable, &live) {
                Err(reason) => (None, Some(reason)),
                Ok(fields) if body.dry_run => (Some(fields.id.to_string()), None),
                Ok(fields) => match state.store.create_schedule(&fields, &actor.0).await {
                    Ok(()) => {
                        // The schedule is stored first: a crash in between leaves both, and a second try says so.
                        state.queues.remove_legacy(&queue, &repeatable).await?;
                        (Some(fields.id.to_string()), None)
                    }
                    Err(error) => (None, Some(ApiError::from(error).message().to_owned())),
                },
            };
            let data = repeatable.data.as_ref().map(|data| redaction.data(data).0.text.into_owned());
            migrated.push(Migrated { repeatable: LegacyRepeatable { data, ..repeatable }, schedule, reason });
        }
        state.schedules.changed();
        Ok::<_, ApiError>(migrated)
    };
    // Their data may be personal.
    let named = |migrated: &Vec<Migrated>| {
        let one = |one: &Migrated| json!({ "key": one.repeatable.key, "schedule": one.schedule, "reason": one.reason });
        migrated.iter().map(one).collect()
    };
    let details = json!({ "dryRun": body.dry_run });
    ok(recorded(&state, &actor, "queue.migrate-repeatables", queue.as_str(), details, act, named).await?)
}

fn fields(
    state: &AppState,
    queue: &QueueName,
    repeatable: &LegacyRepeatable,
    live: &HashSet<String>,
) -> Result<ScheduleFields, String> {
    if repeatable.is_scheduler {
        return Err("it is a job scheduler, whose id only looks like a repeatable's key: it ticks here as it is".into());
    }
    if repeatable.ends_at.is_some() {
        return Err("it ends at a certain time, which schedules do not".into());
    }
    if let Some(limit) = repeatable.limit {
        return Err(format!("it ends after {limit} ticks, which schedules do not"));
    }
    let id = repeatable.id.clone().unwrap_or_else(|| format!("{queue}-{}", repeatable.name));
    let id: ScheduleId = id.parse().map_err(|error: patchbay_model::InvalidId| error.to_string())?;
    if live.contains(id.as_str()) {
        return Err(format!("there is a job scheduler {id} in this queue, which a schedule of that id would replace"));
    }
    let zone = state.queues.default_zone();
    rhythm(repeatable.every_ms, repeatable.pattern.as_deref(), repeatable.zone.as_deref(), zone)
        .and_then(|rhythm| rhythm.preview(&id, 0, 1))
        .map_err(|error| error.to_string())?;
    Ok(ScheduleFields {
        id,
        queue: queue.to_string(),
        name: repeatable.name.clone(),
        data: repeatable.data.clone().unwrap_or_else(|| "{}".into()),
        every_ms: repeatable.every_ms.and_then(|ms| i64::try_from(ms).ok()),
        cron: repeatable.pattern.clone(),
        tz: repeatable.zone.clone(),
        missed: "skip".into(),
        description: "was a repeatable of BullMQ".into(),
    })
}
