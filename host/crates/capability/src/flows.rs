//! Flows that a guest adds, and the results of the running job's children.

use patchbay_model::capability::CapabilityError;
use patchbay_model::flow::{ChildFailure, ChildResult, Flow};
use patchbay_model::job::NewJob;
use patchbay_model::manifest::Manifest;
use patchbay_runtime::wit::{v0_1, v0_2};

use crate::HostCall;
use crate::call::{Gate, redis_error};
use crate::enqueue::{new_job, prepare};
use crate::guest::{Answer, Guest, error};

pub(crate) fn is_asked_for_by(_: &Manifest) -> bool {
    false
}

async fn enqueue(gate: Gate, mut flow: Flow) -> Result<Vec<String>, CapabilityError> {
    gate.not_in_transaction()?;
    prepare(&gate, gate.place(), flow.jobs_mut().into_iter())?;
    let added = gate
        .services()
        .queues
        .add_flow(flow)
        .await
        .map_err(redis_error)?;
    Ok(added.into_iter().map(|(_, id)| id.to_string()).collect())
}

async fn children(gate: Gate) -> Result<Vec<ChildResult>, CapabilityError> {
    gate.not_in_transaction()?;
    let Some(job) = &gate.call().job else {
        return Ok(Vec::new());
    };
    job.children().await.map_err(redis_error)
}

/// A node of the list: its job, what its failure means, and the index of its parent.
type Node = (NewJob, ChildFailure, Option<usize>);

fn node(
    job: Result<NewJob, CapabilityError>,
    on_failure: Option<String>,
    parent: Option<u32>,
) -> Result<Node, CapabilityError> {
    let on_failure = match on_failure {
        None => ChildFailure::default(),
        Some(name) => ChildFailure::parse(&name)
            .ok_or_else(|| CapabilityError::invalid(format!("unknown on-failure {name:?}")))?,
    };
    Ok((job?, on_failure, parent.map(|place| place as usize)))
}

fn flow(
    nodes: impl Iterator<Item = Result<Node, CapabilityError>>,
) -> Result<Flow, CapabilityError> {
    Flow::from_list(nodes.collect::<Result<_, _>>()?)
        .map_err(|error| CapabilityError::invalid(error.to_string()))
}

macro_rules! bind {
    ($version:ident) => {
        impl $version::flows::Host for Guest<'_> {
            async fn enqueue(&mut self, nodes: Vec<$version::flows::Node>) -> Answer<Vec<String>> {
                let nodes = nodes
                    .into_iter()
                    .map(|one| node(new_job(one.job), one.on_failure, one.parent));
                let flow = match flow(nodes) {
                    Ok(flow) => flow,
                    Err(invalid) => return Ok(Err(error(invalid))),
                };
                // Counts as adding jobs.
                Ok(self
                    .through(HostCall::Enqueue, |gate| enqueue(gate, flow))
                    .await?
                    .map_err(error))
            }

            async fn children(&mut self) -> Answer<Vec<$version::flows::Child>> {
                let children = self.through(HostCall::Children, children).await?;
                let child = |child: ChildResult| $version::flows::Child {
                    id: child.id,
                    queue: child.queue,
                    outcome: child.outcome,
                };
                Ok(children
                    .map(|all| all.into_iter().map(child).collect())
                    .map_err(error))
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
