//! GET /api/admin/incident: the bundle for somebody who looks into an incident elsewhere.

use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use futures::future::{BoxFuture, join_all};
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use patchbay_app::incident::{Part, Title, archive};
use patchbay_model::QueueName;
use patchbay_telemetry::{RecentLines, normalised, plain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ErrorBody};

/// Of one part: Postgres and Redis may hang, and the rest must still come.
const PART_LIMIT: Duration = Duration::from_secs(5);
const DEFAULT_SINCE_S: u64 = 3_600;
const MAX_SINCE_S: u64 = 30 * 24 * 3_600;
/// Failures and actions, each.
const MAX_ROWS: i64 = 500;
/// Queues whose diagnosis is asked for.
const MAX_QUEUES: usize = 200;

/// What a bundle needs beside the state of the host.
pub struct IncidentSources {
    /// Every key that is set, with its source; secrets as `(set)`.
    pub configuration: Value,
    /// Asks for what `patchbay doctor` finds, as JSON.
    pub findings: Box<dyn Fn() -> BoxFuture<'static, Value> + Send + Sync>,
    /// The log.
    pub lines: RecentLines,
}

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(bundle))
}

/// How far back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    since_s: Option<u64>,
}

/// Everything that helps to understand an incident, as one `.tar.gz`; what cannot be had just now is named in it with the reason.
#[utoipa::path(get, path = "/incident", tag = "health", security(("operator" = [])),
    params(("since_s" = Option<u64>, Query, description = "how far back failures and actions go, in seconds; 3600")),
    responses((status = 200, description = "the archive", content_type = "application/gzip", body = Vec<u8>),
    (status = 400, body = ErrorBody)))]
async fn bundle(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    since: Result<Query<Since>, QueryRejection>,
) -> Result<Response, ApiError> {
    let since_s = since?.0.since_s.unwrap_or(DEFAULT_SINCE_S);
    if !(1..=MAX_SINCE_S).contains(&since_s) {
        return Err(ApiError::invalid(format!("since_s: 1 to {MAX_SINCE_S}")));
    }
    let audited = audit(&state, &actor, since_s).await;
    let mut parts = collect(&state, Duration::from_secs(since_s)).await;
    parts.push(Part::json("audited.json", "whether this bundle is in the operators' trail", audited));
    let title = Title { by: format!("host {}", state.plugins.host()), at: Utc::now(), since: format!("{since_s} s") };
    let name = format!("patchbay-incident-{}.tar.gz", title.at.format("%Y%m%dT%H%M%SZ"));
    let packed = tokio::task::spawn_blocking(move || archive(&title, &parts)).await;
    let packed = packed.map_err(|_| ApiError::internal())?.map_err(|_| ApiError::internal())?;
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [
        (CONTENT_TYPE, "application/gzip".to_owned()),
        (CONTENT_DISPOSITION, disposition),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, packed).into_response())
}

/// In the trail where there is one to write to; while Postgres is away a bundle is needed most.
async fn audit(state: &AppState, actor: &Actor, since_s: u64) -> Result<Value, String> {
    let details = json!({ "sinceS": since_s });
    let begin = state.store.begin_action(&actor.0, "incident.bundle", "host", &details);
    let noted = within(async {
        let id = begin.await?;
        state.store.finish_action(id, &Ok(Value::Null)).await
    });
    match noted.await {
        Ok(()) => Ok(json!({ "action": "incident.bundle", "actor": actor.0 })),
        Err(reason) => {
            tracing::warn!(actor = actor.0, reason, "an incident bundle was made, and the trail does not say so");
            Err(reason)
        }
    }
}

async fn within<T, E: Into<ApiError>>(part: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(PART_LIMIT, part).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into().message().to_owned()),
        Err(_) => Err(format!("no answer within {} s", PART_LIMIT.as_secs())),
    }
}

async fn json<T: Serialize, E: Into<ApiError>>(part: impl Future<Output = Result<T, E>>) -> Result<Value, String> {
    serde_json::to_value(within(part).await?).map_err(|error| error.to_string())
}

async fn collect(state: &AppState, since: Duration) -> Vec<Part> {
    let IncidentSources { configuration, findings, lines } = &*state.incident;
    let metrics = async { state.metrics.exposition.text().await.map_err(|_| ApiError::internal()) };
    let (versions, health, metrics, queues, plugins, actions, failures, schedules, doctor) = tokio::join!(
        versions(state),
        health(state),
        within(metrics),
        queues(state),
        plugins(state),
        json(actions(state, since)),
        json(failures(state, since)),
        json(schedules(state)),
        tokio::time::timeout(2 * PART_LIMIT, findings()),
    );
    let doctor = doctor.map_err(|_| "no answer in time".to_owned());
    let outside = state.outside.list();
    let log = lines.text().into_bytes();
    vec![
        Part::json("versions.json", "this host, the others, and what they run", versions),
        Part::json("config.json", "every key that is set, secrets as (set)", Ok(scrubbed(configuration.clone()))),
        Part::json("health.json", "whether Postgres and Redis answer, and why the host is not ready", Ok(health)),
        Part { name: "metrics.txt", about: "the page that Prometheus reads", content: metrics.map(String::into_bytes) },
        Part::json("queues.json", "counts, ages, limits, and why each queue does not move", queues),
        Part::json("plugins.json", "revisions and their states, quarantines", plugins),
        Part::json("actions.json", "what operators did, without details", actions),
        Part::json("failures.json", "attempts that did not complete, without their jobs", failures),
        Part::json("schedules.json", "schedules, without their data", schedules),
        Part::json(
            "breakers.json",
            "outside hosts and their breakers, of this host",
            serde_json::to_value(outside).map(scrubbed).map_err(|error| error.to_string()),
        ),
        Part::json("doctor.json", "what `patchbay doctor` finds, asked by this host", doctor.map(scrubbed)),
        Part { name: "log.jsonl", about: "the last lines of this host's log, info and above", content: Ok(log) },
    ]
}

/// Every text of a document as [`plain`] leaves it.
fn scrubbed(value: Value) -> Value {
    match value {
        Value::String(text) => plain(&text).into(),
        Value::Array(items) => items.into_iter().map(scrubbed).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, scrubbed(value))).collect(),
        other => other,
    }
}

async fn versions(state: &AppState) -> Result<Value, String> {
    let hosts = within(state.store.hosts()).await.map(|rows| {
        let row = |row: patchbay_store::HostRow| {
            let silent_s = row.silent_for.map(|silent| silent.as_secs());
            json!({ "host": row.host, "version": row.version, "plugins": scrubbed(json!(row.plugins)), "silentS": silent_s })
        };
        rows.into_iter().map(row).collect::<Vec<_>>()
    });
    let version = env!("CARGO_PKG_VERSION");
    let (hosts, unknown) = (hosts.clone().ok(), hosts.err());
    Ok(json!({ "host": state.plugins.host(), "version": version, "hosts": hosts, "hostsUnknown": unknown }))
}

async fn health(state: &AppState) -> Value {
    let (probe, not_ready) = tokio::join!(state.health.probe(), state.health.not_ready());
    let ms = |trip: Option<Duration>| trip.map(|trip| trip.as_secs_f64() * 1e3);
    json!({
        "uptimeS": state.health.uptime().as_secs(),
        "postgresMs": ms(probe.database),
        "postgresPoolWaitMs": ms(probe.pool_wait),
        "postgresWritable": probe.database.map(|_| probe.read_only.is_none()),
        "redisMs": ms(probe.redis),
        "clockSkewMs": probe.skew_ms,
        "notReady": not_ready.iter().map(|reason| reason.code).collect::<Vec<_>>(),
        "notReadyBecause": not_ready,
    })
}

async fn queues(state: &AppState) -> Result<Value, String> {
    // Those that Postgres and a look through Redis know, else those of the plugins that run.
    let names = within(state.app.queues.catalog().names()).await;
    let names: Vec<QueueName> = names.map_or_else(|_| state.plugins.queues(), |names| names.into_iter().collect());
    let overviews = within(state.queues.overview(&names)).await?;
    let diagnosed = overviews.into_iter().enumerate().map(async |(place, overview)| {
        let asked = place < MAX_QUEUES;
        let why = if asked { json(state.app.queues.reasons(&overview.name)).await } else { Ok(Value::Null) };
        let (why, unknown) = (why.clone().ok(), why.err());
        json!({ "queue": overview, "why": why.map(scrubbed), "whyUnknown": unknown })
    });
    Ok(join_all(diagnosed).await.into())
}

async fn plugins(state: &AppState) -> Result<Value, String> {
    let rows = within(state.store.revisions(None)).await?;
    let row = |row: patchbay_store::RevisionRow| {
        json!({
            "plugin": row.plugin,
            "digest": row.digest,
            "version": row.version,
            "state": row.state,
            "isCurrent": row.is_current,
            "runsHere": state.plugins.running(&row.plugin) == Some(row.digest),
            "failureHere": state.plugins.failure(&row.plugin).map(|reason| plain(&reason)),
            "quarantine": state.plugins.quarantined(&row.plugin).map(|quarantined| plain(&quarantined.reason)),
            "pushedAt": row.created_at,
            "pushedBy": row.created_by,
            "activatedAt": row.activated_at,
        })
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn actions(state: &AppState, since: Duration) -> Result<Value, ApiError> {
    let mut rows = state.store.recent_actions(since, MAX_ROWS).await?;
    for row in &mut rows {
        // Of one job: the queue stays, its id goes.
        let names_jobs = ["job.", "history."].iter().any(|kind| row.action.starts_with(kind));
        if let Some((queue, _)) = row.target.split_once('/').filter(|_| names_jobs) {
            row.target = queue.to_owned();
        }
        row.error = row.error.take().map(|error| normalised(&error));
    }
    Ok(scrubbed(serde_json::to_value(rows).unwrap_or_default()))
}

async fn failures(state: &AppState, since: Duration) -> Result<Value, ApiError> {
    let mut rows = state.store.recent_failures(state.queues.prefix(), since, MAX_ROWS).await?;
    for row in &mut rows {
        row.message = row.message.take().map(|message| normalised(&message));
        row.code = row.code.take().map(|code| normalised(&code));
    }
    Ok(serde_json::to_value(rows).unwrap_or_default())
}

async fn schedules(state: &AppState) -> Result<Value, ApiError> {
    let mut shown = serde_json::to_value(state.app.schedules.list().await?).unwrap_or_default();
    for schedule in shown.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        schedule.remove("data");
    }
    Ok(scrubbed(shown))
}
