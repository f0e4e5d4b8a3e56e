//! Flows: trees of jobs.

use patchbay_model::flow::ChildFailure;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::Data;
use crate::body::{Json, object, objects};
use crate::jobs::{AddJob, Added, Force};
use crate::operations;

operations! {
    /// Add a flow (a tree of jobs), all or nothing. Each job must fit the job names and JSON
    /// Schemas that its queue's active plugin declares, unless `force` is true for it or for all.
    FlowsAdd = "flows.add": POST "/api/admin/flows" ((), Force, Json<FlowNode>) -> Data<AddedFlow>,
        Operator, Changes, audit "flow.add", errors [
            404 "one of the queues is unknown",
            422 "`does-not-fit`: the plugin of a queue declares no such job, or other data; or the body does not have the expected form",
        ];
}

/// A job and its children. A flow has at most 1,000 jobs on at most 20 levels.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowNode {
    /// Queue of the job.
    pub queue: String,
    /// The job.
    #[serde(deserialize_with = "object")]
    pub job: AddJob,
    /// What happens to the parent if this job fails for good: `wait` (default), `fail-parent`,
    /// `continue-parent`, `ignore` or `remove`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub on_failure: ChildFailure,
    /// The job runs when its children are done, and can read their results.
    #[serde(default, deserialize_with = "objects")]
    #[schema(no_recursion)]
    pub children: Vec<FlowNode>,
}

/// The jobs of an added flow.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AddedFlow {
    /// Parents before their children, the root first.
    pub jobs: Vec<Added>,
}
