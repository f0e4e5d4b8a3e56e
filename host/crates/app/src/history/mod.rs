//! The history: what is recorded of attempts, how it is sealed, how long it is kept, and how it is
//! erased.
//!
//! | Module | Owns |
//! |---|---|
//! | `sealed_bodies` | sealing and opening data and results |
//! | `recorder` | copying attempts from Redis to Postgres |
//! | `rounds` | doing a duty of the fleet, a round at a time |
//! | `duty` | duties of the leader: partitions, attempts of lost workers, retention |
//! | `mirror` | copying the jobs that other workers ended |
//! | `redacted_body` | redacting bodies for readers |
//! | `erasing` | erasing a person, or a job, everywhere |
//! | `operations` | use cases: state, retention, pruning, reading |
//! | `erase` | checking and recording requests to erase |
//! | `export` | the history as a file |
//! | `paged_filter` | the query of a search |
//! | `views` | rows as views |

mod duty;
mod erase;
mod erasing;
mod export;
pub mod mirror;
mod operations;
mod paged_filter;
pub mod recorder;
mod redacted_body;
mod rounds;
mod sealed_bodies;
pub(crate) mod views;

use std::sync::Arc;

use patchbay_store::KeepAttempts;
use patchbay_work::body_budget::BodyBudget;

pub use duty::run;
pub use erasing::EraseError;
pub(crate) use erasing::{EraseTarget, Erasing, Requester};
pub use export::Export;
pub use operations::History;
pub(crate) use paged_filter::PagedFilter;
pub use redacted_body::BodyError;
pub(crate) use redacted_body::{Reader, RedactedBody};
pub use sealed_bodies::{SealedBodies, Unopened};

pub struct HistoryParts {
    pub bodies: Arc<SealedBodies>,
    /// Says what is recorded.
    pub budget: Arc<BodyBudget>,
    /// The retention where an operator has set none.
    pub keep: KeepAttempts,
}
