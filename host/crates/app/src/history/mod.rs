//! The history: what is recorded of attempts, how it is sealed, how long it is kept, and how it is
//! erased.
//!
//! | Module | Owns |
//! |---|---|
//! | `sealed_bodies` | sealing and opening data and results |
//! | `recorder` | copying attempts from Redis to Postgres |
//! | `maintenance` | tasks of the leader: partitions, attempts of lost workers, retention |
//! | `mirror` | copying the jobs that other workers ended |
//! | `redacted_body` | redacting bodies for readers |
//! | `erasing` | erasing a person, or a job, everywhere |
//! | `operations` | use cases: state, retention, pruning, reading |
//! | `erase` | checking and recording requests to erase |
//! | `export` | the history as a file |
//! | `paged_filter` | the query of a search |
//! | `views` | rows as views |

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
pub(crate) use erasing::{EraseTarget, Erasing, Requester};
pub use export::Export;
pub use maintenance::maintenance;
pub use mirror::mirror;
pub use operations::History;
pub(crate) use paged_filter::PagedFilter;
pub use recorder::recorder;
pub use redacted_body::BodyError;
pub(crate) use redacted_body::{Reader, RedactedBody};
pub use sealed_bodies::{SealedBodies, Unopened};

/// Checks how much of Redis's memory the records of attempts take.
pub fn body_budget(parts: &Parts) -> Arc<dyn Service> {
    let (budget, queues) = (Arc::clone(&parts.history.budget), parts.broker.clone());
    task("body-budget", move |stop| {
        Arc::clone(&budget).watch(queues.clone(), stop)
    })
}

pub struct HistoryParts {
    pub bodies: Arc<SealedBodies>,
    /// Says what is recorded.
    pub budget: Arc<BodyBudget>,
    /// The retention where an operator has set none.
    pub keep: KeepAttempts,
    /// Between two looks at what other workers have ended; nothing when nobody is to look.
    pub mirror_every: Option<Duration>,
}
