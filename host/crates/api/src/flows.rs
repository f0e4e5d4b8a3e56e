//! Trees of jobs.

use patchbay_model::flow::ChildFailure;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::Data;
use crate::body::{Json, object, objects};
use crate::jobs::{AddJob, Added};
use crate::operation::NoQuery;
use crate::operations;

operations! {
    /// Add a tree of jobs, all or nothing.
    FlowsAdd = "flows.add": POST "/api/admin/flows" ((), NoQuery, Json<FlowNode>) -> Data<AddedFlow>,
        Operator, Changes, audit "flow.add", errors [404 "nobody knows one of the queues"];
}

/// A job and those that it waits for: at most 1,000 jobs on at most 20 levels.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowNode {
    /// Where to.
    pub queue: String,
    /// The job.
    #[serde(deserialize_with = "object")]
    pub job: AddJob,
    /// What its failure for good means for its parent: `wait` (default), `fail-parent`, `continue-parent`, `ignore` or `remove`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub on_failure: ChildFailure,
    /// It runs when these are done, and sees their results.
    #[serde(default, deserialize_with = "objects")]
    #[schema(no_recursion)]
    pub children: Vec<FlowNode>,
}

/// Where a flow's jobs went.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AddedFlow {
    /// Parents before their children, the root first.
    pub jobs: Vec<Added>,
}
