//! The history: what is recorded of attempts, sealed how, kept how long, and erased how.
//!
//! | Module | Owns |
//! |---|---|
//! | `bodies` | sealing and opening data and results |
//! | `recorder` | the way of attempts from Redis to Postgres |
//! | `rounds` | doing a duty of the fleet, a round at a time |
//! | `duty` | what one process of the fleet does for all: partitions, gaps, forgetting |
//! | `mirror` | what workers that are no hosts have ended |
//! | `redacted_body` | what of a body people may see |
//! | `erasing` | forgetting a person, or a job, everywhere |
//! | `operations` | what operators ask for: state, retention, forgetting, reading |
//! | `erase` | checking and recording what operators want to be erased |
//! | `export` | the history as a file |
//! | `paged_filter` | the query of a search |
//! | `views` | rows as answers show them |

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
pub(crate) use erasing::{Asker, Erasing, Wanted};
pub use export::Export;
pub use operations::History;
pub(crate) use paged_filter::PagedFilter;
pub use redacted_body::BodyError;
pub(crate) use redacted_body::{Reader, RedactedBody};
pub use sealed_bodies::{SealedBodies, Unopened};

/// What the use cases of the history need beside the rest.
pub struct HistoryParts {
    /// Opens data and results.
    pub bodies: Arc<SealedBodies>,
    /// Tells what is recorded.
    pub budget: Arc<BodyBudget>,
    /// Where nothing else is said.
    pub keep: KeepAttempts,
}
