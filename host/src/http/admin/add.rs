//! POST /api/admin/queues/{queue}/jobs: add a job.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use patchbay_model::QueueName;
use patchbay_model::job::{NewJob, Trace};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use crate::http::AppState;
use crate::http::auth::Actor;
use crate::http::error::{ApiError, ApiResult, ErrorBody, Success};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(add))
}

/// A job to be added.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddJob {
    /// The kind of work.
    name: String,
    /// Its input.
    #[schema(value_type = Object)]
    data: Option<Box<RawValue>>,
    /// Not a whole number, no `:`.
    id: Option<String>,
    /// Start no earlier than this from now, milliseconds.
    delay_ms: Option<u64>,
    /// 1 (first) to 2097152.
    priority: Option<u32>,
    /// In all.
    attempts: Option<u32>,
}

/// Where it went.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Added {
    queue: String,
    id: String,
}

/// Add a job.
#[utoipa::path(post, path = "/queues/{queue}/jobs", tag = "queues", security(("operator" = [])),
    params(("queue" = String, Path)), request_body = AddJob, responses(
    (status = 200, body = Success<Added>), (status = 400, body = ErrorBody), (status = 413, body = ErrorBody),
))]
async fn add(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Extension(trace): Extension<Trace>,
    Path(queue): Path<String>,
    body: Result<Json<AddJob>, JsonRejection>,
) -> ApiResult<Added> {
    let queue: QueueName = queue.parse()?;
    let Json(body) = body?;
    let details = json!({ "name": body.name });
    let job = NewJob {
        queue: queue.clone(),
        name: body.name,
        // As it was written: a number that we could not represent must not be rounded on its way.
        data: body.data.map_or_else(|| "{}".to_owned(), |data| data.get().to_owned()),
        id: body.id.map(|id| id.parse()).transpose()?,
        delay: body.delay_ms.map(Duration::from_millis),
        priority: body.priority,
        attempts: body.attempts,
        backoff: None,
        deduplication: None,
        trace,
    };
    let act = async {
        let ids = state.queues.add(vec![job]).await?;
        let id = ids.into_iter().next().ok_or_else(ApiError::internal)?;
        Ok::<_, ApiError>(Added { queue: queue.to_string(), id: id.to_string() })
    };
    audited(&state, &actor, "job.add", queue.as_str(), details, act).await
}
