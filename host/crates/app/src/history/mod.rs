//! The history: what is recorded of attempts, sealed how, kept how long, and erased how.
//!
//! | Module | Owns |
//! |---|---|
//! | `sealed_bodies` | sealing and opening data and results |
//! | `recorder` | the way of attempts from Redis to Postgres |
//! | `maintenance` | what the leader does for all: partitions, gaps, forgetting |
//! | `mirror` | what workers that are no hosts have ended |
//! | `redacted_body` | what of a body people may see |
//! | `erasing` | forgetting a person, or a job, everywhere |
//! | `operations` | what operators ask for: state, retention, forgetting, reading |
//! | `erase` | checking and recording what operators want to be erased |
//! | `export` | the history as a file |
//! | `paged_filter` | the query of a search |
//! | `views` | rows as answers show them |

mod erase;
mod erasing;
mod export;
mod maintenance;
mod mirror;
mod operations;
mod paged_filter;
pub mod recorder;
mod redacted_body;
mod sealed_bodies;
pub(crate) mod views;

use std::sync::Arc;
use std::time::Duration;

use patchbay_store::KeepAttempts;
use patchbay_work::body_budget::BodyBudget;

use crate::Parts;
use crate::service::{Service, task};

pub use erasing::EraseError;
pub(crate) use erasing::{Asker, Erasing, Wanted};
pub use export::Export;
pub use maintenance::maintenance;
pub use mirror::mirror;
pub use operations::History;
pub(crate) use paged_filter::PagedFilter;
pub use recorder::recorder;
pub use redacted_body::BodyError;
pub(crate) use redacted_body::{Reader, RedactedBody};
pub use sealed_bodies::{SealedBodies, Unopened};

/// Looks at how much of Redis's memory the records of attempts take.
pub fn body_budget(parts: &Parts) -> Arc<dyn Service> {
    let (budget, queues) = (Arc::clone(&parts.history.budget), parts.broker.clone());
    task("body-budget", move |stop| Arc::clone(&budget).watch(queues.clone(), stop))
}

/// What the use cases of the history need beside the rest.
pub struct HistoryParts {
    /// Opens data and results.
    pub bodies: Arc<SealedBodies>,
    /// Tells what is recorded.
    pub budget: Arc<BodyBudget>,
    /// Where nothing else is said.
    pub keep: KeepAttempts,
    /// Between two looks at what other workers have ended; nothing when nobody is to look.
    pub mirror_every: Option<Duration>,
}
