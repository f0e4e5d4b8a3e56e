//! Use cases of flows.

use std::collections::BTreeSet;
use std::sync::Arc;

use patchbay_api::flows::{AddedFlow, FlowNode, FlowsAdd};
use patchbay_api::jobs::Added;
use patchbay_model::flow::{Flow, InvalidFlow, MAX_DEPTH};
use patchbay_model::job::{NewJob, Trace};
use patchbay_model::{JobId, QueueName};
use patchbay_queue::Broker;
use patchbay_telemetry::traces::Traces;
use serde_json::json;

use crate::Parts;
use crate::actions::{Actions, Caller};
use crate::declared_jobs::{DeclaredJobs, Forcing, is_forced, with_forced};
use crate::enqueue_span;
use crate::error::Error;
use crate::jobs::new_job;
use crate::queues::Catalog;

#[derive(Clone)]
pub struct Flows {
    broker: Broker,
    actions: Actions,
    catalog: Catalog,
    traces: Traces,
    declared: Arc<DeclaredJobs>,
}

impl Flows {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            actions: parts.actions.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
            traces: parts.traces.clone(),
            declared: Arc::clone(&parts.declared_jobs),
        }
    }

    /// With `force`, also jobs are added that do not fit what plugins declare.
    pub async fn add(&self, who: &Caller, root: FlowNode, force: bool) -> Result<AddedFlow, Error> {
        let (target, details) = (root.queue.clone(), json!({ "name": root.job.name }));
        for (queue, may_be_new) in &queues_of(&root)? {
            match may_be_new {
                true => self.catalog.check_new_name(queue).await?,
                false => self.catalog.refuse_unknown(queue).await?,
            }
        }
        let (span, trace) = enqueue_span::begin(&self.traces, &target.parse()?, who.trace.clone());
        let forced_nodes = forced_nodes(&root, force);
        let flow = flow_of(root, &trace, 1)?;
        let details = with_forced(details, self.check(&flow, &forced_nodes)?);
        let act = async {
            let added = enqueue_span::end(span, self.broker.add_flow(flow).await)?;
            let node = |(queue, id): (QueueName, JobId)| Added {
                queue: queue.to_string(),
                id: id.to_string(),
                known: false,
            };
            Ok(AddedFlow {
                jobs: added.into_iter().map(node).collect(),
            })
        };
        self.actions
            .record::<FlowsAdd, _>(who, &target, details, act)
            .await
    }

    /// Whether a job was let through although it does not fit.
    fn check(&self, flow: &Flow, may_be_forced: &[bool]) -> Result<bool, Error> {
        let mut has_forced = false;
        for ((place, job), force) in nodes_of(flow).into_iter().zip(may_be_forced) {
            let checked = self.declared.check(&job.queue, &job.name, &job.data);
            has_forced |= is_forced(checked, *force, Forcing::AddToFlow)
                .map_err(|error| at_node(error, &place))?;
        }
        Ok(has_forced)
    }
}

/// For each node, in the order of [`nodes_of`], whether it may not fit.
fn forced_nodes(root: &FlowNode, force: bool) -> Vec<bool> {
    let (mut forced, mut nodes) = (Vec::new(), vec![root]);
    while let Some(node) = nodes.pop() {
        forced.push(force || node.job.force);
        nodes.extend(&node.children);
    }
    forced
}

/// Each job with its place in the request, as a JSON Pointer.
fn nodes_of(root: &Flow) -> Vec<(String, &NewJob)> {
    let (mut found, mut nodes) = (Vec::new(), vec![(String::new(), root)]);
    while let Some((place, node)) = nodes.pop() {
        let children = node.children.iter().enumerate();
        nodes.extend(children.map(|(n, child)| (format!("{place}/children/{n}"), child)));
        found.push((place, &node.job));
    }
    found
}

/// Names the node that an error is about; the root needs no name.
fn at_node(mut error: Error, place: &str) -> Error {
    if !place.is_empty() {
        error.message = format!("{place} of the flow: {}", error.message);
    }
    if let Some(details) = &mut error.details {
        details["node"] = place.into();
    }
    error
}

/// The queues of a flow, each with whether it may be new.
fn queues_of(root: &FlowNode) -> Result<BTreeSet<(QueueName, bool)>, Error> {
    let mut queues = BTreeSet::new();
    let mut nodes = vec![root];
    while let Some(node) = nodes.pop() {
        queues.insert((node.queue.parse()?, node.job.new_queue));
        nodes.extend(&node.children);
    }
    Ok(queues)
}

fn flow_of(node: FlowNode, trace: &Trace, depth: usize) -> Result<Flow, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(InvalidFlow::TooDeep.to_string()));
    }
    let queue: QueueName = node.queue.parse()?;
    let children = node
        .children
        .into_iter()
        .map(|child| flow_of(child, trace, depth + 1));
    Ok(Flow {
        job: new_job(node.job, queue, trace.clone())?,
        on_failure: node.on_failure,
        children: children.collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_their_place_and_forced_each_or_all() {
        let tree = json!({ "queue": "a", "job": { "name": "a" }, "children": [
            { "queue": "b", "job": { "name": "b", "force": true } },
            { "queue": "c", "job": { "name": "c" }, "children": [{ "queue": "d", "job": { "name": "d" } }] },
        ] });
        let root = || serde_json::from_str::<FlowNode>(&tree.to_string()).expect("a flow");
        let (each, all) = (forced_nodes(&root(), false), forced_nodes(&root(), true));
        let flow = flow_of(root(), &Trace::default(), 1).expect("a flow");
        let nodes = nodes_of(&flow);
        let named: Vec<(&str, &str, bool)> = nodes
            .iter()
            .zip(each)
            .map(|((place, job), forced)| (job.name.as_str(), place.as_str(), forced))
            .collect();
        assert_eq!(
            named,
            [
                ("a", "", false),
                ("c", "/children/1", false),
                ("d", "/children/1/children/0", false),
                ("b", "/children/0", true),
            ]
        );
        assert_eq!(all, [true; 4]);
    }
}
