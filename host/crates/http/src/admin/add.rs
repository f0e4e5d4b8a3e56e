//! POST /api/admin/queues/{queue}/jobs: add a job.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use patchbay_model::QueueName;
use patchbay_model::job::Trace;
use serde::Serialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::new_job::AddJob;
use super::{audited, traced};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success};
use crate::path::Path;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(add))
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
    (status = 200, body = Success<Added>), (status = 400, body = ErrorBody),
    (status = 404, description = "nobody knows the queue", body = ErrorBody), (status = 413, body = ErrorBody),
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
    match body.new_queue {
        true => state.app.queues.catalog().refuse_odd_new(&queue).await?,
        false => state.app.queues.catalog().refuse_unknown(&queue).await?,
    }
    let details = json!({ "name": body.name });
    let (enqueue, trace) = traced::enqueue(&state.traces, &queue, trace);
    let job = body.into_job(queue.clone(), trace)?;
    let act = async {
        let ids = traced::end(enqueue, state.queues.add(vec![job]).await)?;
        let id = ids.into_iter().next().ok_or_else(ApiError::internal)?;
        Ok::<_, ApiError>(Added { queue: queue.to_string(), id: id.to_string() })
    };
    audited(&state, &actor, "job.add", queue.as_str(), details, act).await
}
