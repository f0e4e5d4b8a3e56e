//! Adds a tree of jobs as BullMQ's own flow producer does: in one transaction, parents before their
//! children, so that either the whole tree exists or none of it.
//!
//! Every job of a tree gets an id before it is written (a UUID if its producer gave none), because
//! its children refer to it.

use patchbay_model::flow::{ChildFailure, Flow};
use patchbay_model::{JobId, QueueName};
use uuid::Uuid;

use crate::addition::{Addition, Parent, addition, script_for};
use crate::job_rules;
use crate::scripts::{self, Call};
use crate::{Broker, QueueError};

/// Limit for all data of one tree, because it is written in one transaction.
const MAX_FLOW_BYTES: usize = 16 << 20;

impl Broker {
    /// Adds all jobs of a tree, or none. Returns queue and id of each, parents before their
    /// children. Refused while Redis is nearly full.
    pub async fn add_flow(&self, mut flow: Flow) -> Result<Vec<(QueueName, JobId)>, QueueError> {
        self.memory.refuse_when_full().await?;
        flow.check()
            .map_err(|error| QueueError::Invalid(error.to_string()))?;
        let mut bytes = 0;
        for job in flow.jobs_mut() {
            self.fill(job);
            job_rules::check(job, self.now_ms())?;
            bytes += job.data.len();
        }
        if bytes > MAX_FLOW_BYTES {
            return Err(QueueError::Invalid(format!(
                "The data of a flow's jobs can have at most {MAX_FLOW_BYTES} bytes in total"
            )));
        }
        let mut tree = Tree {
            queues: self,
            additions: Vec::new(),
            releases: Vec::new(),
            places: Vec::new(),
        };
        tree.add(&flow, None)?;
        let Tree {
            additions,
            releases,
            places,
            ..
        } = tree;
        self.add_all(&additions, &releases).await?;
        Ok(places)
    }
}

struct Tree<'a> {
    queues: &'a Broker,
    additions: Vec<Addition>,
    /// Calls that release parents whose children exist already and are done: no event of those
    /// children will come.
    releases: Vec<Call>,
    places: Vec<(QueueName, JobId)>,
}

impl Tree<'_> {
    /// The recursion is as deep as the tree, whose depth is checked.
    fn add(&mut self, node: &Flow, parent: Option<&Parent>) -> Result<(), QueueError> {
        let job = &node.job;
        let is_parent = !node.children.is_empty();
        refuse_deduplication(node, parent.is_some())?;
        let id =
            match &job.id {
                Some(id) => id.clone(),
                None => Uuid::new_v4().to_string().parse().map_err(
                    |error: patchbay_model::InvalidId| QueueError::Invalid(error.to_string()),
                )?,
            };
        let keys = self.queues.keys(&job.queue);
        let (script, names) = if is_parent {
            let names = vec![
                keys.meta(),
                keys.id(),
                keys.delayed(),
                keys.waiting_children(),
                keys.completed(),
                keys.events(),
            ];
            (&*scripts::ADD_PARENT, names)
        } else {
            script_for(job, &keys)
        };
        self.additions.push(addition(
            script,
            &names,
            &keys,
            job,
            Some(id.clone()),
            self.queues.now_ms(),
            parent,
        )?);
        self.places.push((job.queue.clone(), id.clone()));
        if is_parent {
            let key = keys.job_key(id.as_str());
            let names = [key.clone(), format!("{key}:dependencies")];
            let release = Call::new(&scripts::RELEASE_PARENT, &names);
            self.releases.push(
                release
                    .arg(keys.base())
                    .arg(id.as_str())
                    .arg(self.queues.now_ms()),
            );
        }
        for child in &node.children {
            let parent = Parent {
                queue_key: keys.base(),
                id: id.clone(),
                on_failure: option(child.on_failure),
            };
            self.add(child, Some(&parent))?;
        }
        Ok(())
    }
}

/// Refuses two uses of de-duplication. If a parent were a duplicate, its children would belong to a
/// job that does not know them. A child that is kept for later loses its parent. BullMQ refuses
/// only the second.
fn refuse_deduplication(node: &Flow, has_parent: bool) -> Result<(), QueueError> {
    let Some(once) = &node.job.deduplication else {
        return Ok(());
    };
    if !node.children.is_empty() {
        return Err(QueueError::Invalid(
            "A job with children cannot be de-duplicated".into(),
        ));
    }
    if has_parent && once.keep_last_if_active {
        return Err(QueueError::Invalid(
            "A child in a flow cannot be kept for later (keepLastIfActive)".into(),
        ));
    }
    Ok(())
}

fn option(on_failure: ChildFailure) -> Option<&'static str> {
    match on_failure {
        ChildFailure::Wait => None,
        ChildFailure::FailParent => Some("fpof"),
        ChildFailure::ContinueParent => Some("cpof"),
        ChildFailure::Ignore => Some("idof"),
        ChildFailure::Remove => Some("rdof"),
    }
}
