//! Use cases of flows.

use std::collections::BTreeSet;
use std::sync::Arc;

use patchbay_api::flows::{AddedFlow, FlowNode, FlowsAdd};
use patchbay_api::jobs::Added;
use patchbay_model::flow::{Flow, InvalidFlow, MAX_DEPTH};
use patchbay_model::job::Trace;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::Broker;
use patchbay_telemetry::traces::Traces;
use serde_json::json;

use crate::Parts;
use crate::actions::{Actions, Caller};
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
        }
    }

    pub async fn add(&self, who: &Caller, root: FlowNode) -> Result<AddedFlow, Error> {
        let (target, details) = (root.queue.clone(), json!({ "name": root.job.name }));
        for (queue, may_be_new) in &queues_of(&root)? {
            match may_be_new {
                true => self.catalog.check_new_name(queue).await?,
                false => self.catalog.refuse_unknown(queue).await?,
            }
        }
        let (span, trace) = enqueue_span::begin(&self.traces, &target.parse()?, who.trace.clone());
        let flow = flow_of(root, &trace, 1)?;
        let act = async {
            let added = enqueue_span::end(span, self.broker.add_flow(flow).await)?;
            let node = |(queue, id): (QueueName, JobId)| Added {
                queue: queue.to_string(),
                id: id.to_string(),
            };
            Ok(AddedFlow {
                jobs: added.into_iter().map(node).collect(),
            })
        };
        self.actions
            .record::<FlowsAdd, _>(who, &target, details, act)
            .await
    }
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
