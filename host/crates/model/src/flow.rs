//! A tree of jobs: a parent waits for its children, and reads their results when it runs.
//!
//! Owns the shape and its limits; the queue crate writes the tree to Redis. The type cannot express
//! a cycle; what can be wrong is size, depth, and one id used twice.

use std::collections::HashSet;

use crate::job::NewJob;

/// Most jobs of one tree. They are added in one transaction, during which Redis does nothing else.
pub const MAX_NODES: usize = 1_000;
/// Most levels of one tree.
pub const MAX_DEPTH: usize = 20;

/// One job of a tree, with the children that it waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    pub job: NewJob,
    /// What a failure of this job means for its parent.
    pub on_failure: ChildFailure,
    pub children: Vec<Flow>,
}

/// What a child that failed for good means for its parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildFailure {
    /// The parent keeps waiting until the child is retried or removed. BullMQ's default.
    #[default]
    Wait,
    /// The parent fails as `failed-by-flow`.
    FailParent,
    /// The parent runs at once, without waiting for the other children.
    ContinueParent,
    /// The parent runs when the other children are done, and sees the failure.
    Ignore,
    /// The parent runs when the other children are done, and does not see the failure.
    Remove,
}

impl ChildFailure {
    /// Parses the name that HTTP, the command line and guests use.
    pub fn parse(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }
}

/// How one child ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildResult {
    pub queue: String,
    pub id: String,
    /// Its result as JSON, or why it failed.
    pub outcome: Result<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFlow {
    #[error("a flow can have at most {MAX_NODES} jobs")]
    TooMany,
    #[error("a flow can be at most {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Two jobs of the tree have the same queue and id.
    #[error("the flow has job {id} of queue {queue} twice")]
    SameId { queue: String, id: String },
    /// A job of the list names a parent that does not come before it.
    #[error("job {place} of the flow: {reason}")]
    Order {
        /// Index in the list, from 0.
        place: usize,
        reason: &'static str,
    },
}

impl Flow {
    pub fn leaf(job: NewJob) -> Self {
        Self {
            job,
            on_failure: ChildFailure::default(),
            children: Vec::new(),
        }
    }

    /// Builds a tree from a list in which every job but the first names its parent by index. The
    /// parent must come first. Guests use this form, since WIT has no recursive types.
    pub fn from_list(
        list: Vec<(NewJob, ChildFailure, Option<usize>)>,
    ) -> Result<Self, InvalidFlow> {
        if list.len() > MAX_NODES {
            return Err(InvalidFlow::TooMany);
        }
        let mut nodes: Vec<(Self, Option<usize>)> = Vec::with_capacity(list.len());
        for (place, (job, on_failure, parent)) in list.into_iter().enumerate() {
            let reason = match parent {
                None if place > 0 => Some("only the first job can be without a parent"),
                Some(parent) if parent >= place => {
                    Some("its parent must come before it in the list")
                }
                _ => None,
            };
            if let Some(reason) = reason {
                return Err(InvalidFlow::Order { place, reason });
            }
            nodes.push((
                Self {
                    job,
                    on_failure,
                    children: Vec::new(),
                },
                parent,
            ));
        }
        // From the end, so that each job has all its children before it moves into its parent.
        while let Some((mut node, parent)) = nodes.pop() {
            node.children.reverse();
            match parent.and_then(|parent| nodes.get_mut(parent)) {
                Some((parent, _)) => parent.children.push(node),
                None => return Ok(node),
            }
        }
        Err(InvalidFlow::Order {
            place: 0,
            reason: "a flow must have at least one job",
        })
    }

    /// All jobs, each parent before its children.
    pub fn jobs_mut(&mut self) -> Vec<&mut NewJob> {
        let mut jobs = Vec::new();
        let mut rest = vec![self];
        while let Some(node) = rest.pop() {
            jobs.push(&mut node.job);
            rest.extend(node.children.iter_mut().rev());
        }
        jobs
    }

    /// Checks size, depth and ids.
    pub fn check(&self) -> Result<(), InvalidFlow> {
        let (mut nodes, mut ids, mut rest) = (0, HashSet::new(), vec![(self, 1)]);
        while let Some((node, depth)) = rest.pop() {
            nodes += 1;
            if nodes > MAX_NODES {
                return Err(InvalidFlow::TooMany);
            }
            if depth > MAX_DEPTH {
                return Err(InvalidFlow::TooDeep);
            }
            if let Some(id) = &node.job.id
                && !ids.insert((&node.job.queue, id))
            {
                return Err(InvalidFlow::SameId {
                    queue: node.job.queue.to_string(),
                    id: id.to_string(),
                });
            }
            rest.extend(node.children.iter().map(|child| (child, depth + 1)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> NewJob {
        NewJob::new("q".parse().expect("a name"), name, "{}")
    }

    #[test]
    fn a_list_becomes_the_tree_it_describes() {
        let list = [
            ("root", None),
            ("a", Some(0)),
            ("b", Some(0)),
            ("a1", Some(1)),
        ];
        let list = list
            .into_iter()
            .map(|(name, parent)| (job(name), ChildFailure::Wait, parent))
            .collect();
        let mut flow = Flow::from_list(list).expect("a tree");
        let names: Vec<String> = flow
            .jobs_mut()
            .into_iter()
            .map(|job| job.name.clone())
            .collect();
        assert_eq!(names, ["root", "a", "a1", "b"]);
    }

    #[test]
    fn a_list_that_is_no_tree_is_refused() {
        let list = |parents: &[Option<usize>]| {
            Flow::from_list(
                parents
                    .iter()
                    .map(|&parent| (job("n"), ChildFailure::Wait, parent))
                    .collect(),
            )
        };
        assert!(list(&[]).is_err());
        assert!(list(&[None, None]).is_err());
        assert!(list(&[Some(0)]).is_err());
        assert!(list(&[None, Some(1)]).is_err());
    }

    #[test]
    fn size_depth_and_ids_are_limited() {
        let mut wide = Flow::leaf(job("root"));
        wide.children = (0..MAX_NODES).map(|_| Flow::leaf(job("child"))).collect();
        assert_eq!(wide.check(), Err(InvalidFlow::TooMany));
        let deep = (0..MAX_DEPTH).fold(Flow::leaf(job("end")), |child, _| Flow {
            children: vec![child],
            ..Flow::leaf(job("level"))
        });
        assert_eq!(deep.check(), Err(InvalidFlow::TooDeep));
        let twin = Flow::leaf(NewJob {
            id: Some("x".parse().expect("an id")),
            ..job("twin")
        });
        let twins = Flow {
            children: vec![twin.clone(), twin],
            ..Flow::leaf(job("root"))
        };
        assert!(matches!(twins.check(), Err(InvalidFlow::SameId { .. })));
    }
}
