//! POST /api/admin/flows: add a tree of jobs.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use patchbay_model::QueueName;
use patchbay_model::flow::{ChildFailure, Flow, InvalidFlow, MAX_DEPTH};
use patchbay_model::job::Trace;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::new_job::AddJob;
use super::{audited, traced};
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(add))
}

/// A job and those that it waits for: at most 1,000 jobs on at most 20 levels.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FlowNode {
    /// Where to.
    queue: String,
    /// The job.
    job: AddJob,
    /// What its failure for good means for its parent: `wait` (default), `fail-parent`, `continue-parent`, `ignore` or `remove`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    on_failure: ChildFailure,
    /// It runs when these are done, and sees their results.
    #[serde(default)]
    #[schema(no_recursion)]
    children: Vec<FlowNode>,
}

impl FlowNode {
    /// Its queues, each with whether it may be new.
    fn places(&self) -> Result<BTreeSet<(QueueName, bool)>, ApiError> {
        let mut places = BTreeSet::new();
        let mut nodes = vec![self];
        while let Some(node) = nodes.pop() {
            places.insert((node.queue.parse()?, node.job.new_queue));
            nodes.extend(&node.children);
        }
        Ok(places)
    }

    fn into_flow(self, trace: &Trace, depth: usize) -> Result<Flow, ApiError> {
        if depth > MAX_DEPTH {
            return Err(ApiError::invalid(InvalidFlow::TooDeep.to_string()));
        }
        let queue: QueueName = self.queue.parse()?;
        let children = self.children.into_iter().map(|child| child.into_flow(trace, depth + 1));
        Ok(Flow {
            job: self.job.into_job(queue, trace.clone())?,
            on_failure: self.on_failure,
            children: children.collect::<Result<_, _>>()?,
        })
    }
}

/// Where its jobs went.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct AddedFlow {
    /// Parents before their children, the root first.
    jobs: Vec<AddedNode>,
}

/// Where one job went.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct AddedNode {
    queue: String,
    id: String,
}

/// Add a tree of jobs, all or nothing.
#[utoipa::path(post, path = "/flows", tag = "queues", security(("operator" = [])), request_body = FlowNode, responses(
    (status = 200, body = Success<AddedFlow>), (status = 400, body = ErrorBody),
    (status = 404, description = "nobody knows one of the queues", body = ErrorBody), (status = 413, body = ErrorBody),
))]
async fn add(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Extension(trace): Extension<Trace>,
    body: Result<Json<FlowNode>, JsonRejection>,
) -> ApiResult<AddedFlow> {
    let Json(body) = body?;
    let (target, details) = (body.queue.clone(), json!({ "name": body.job.name }));
    let places = body.places()?;
    for (queue, may_be_new) in &places {
        match may_be_new {
            true => state.app.queues.catalog().refuse_odd_new(queue).await?,
            false => state.app.queues.catalog().refuse_unknown(queue).await?,
        }
    }
    let (enqueue, trace) = traced::enqueue(&state.traces, &target.parse()?, trace);
    let flow = body.into_flow(&trace, 1)?;
    let act = async {
        let added = traced::end(enqueue, state.queues.add_flow(flow).await)?;
        let node = |(queue, id): (QueueName, patchbay_model::JobId)| AddedNode {
            queue: queue.to_string(),
            id: id.to_string(),
        };
        Ok::<_, ApiError>(AddedFlow { jobs: added.into_iter().map(node).collect() })
    };
    audited(&state, &actor, "flow.add", &target, details, act).await
}
