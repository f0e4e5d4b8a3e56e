//! The history: what is recorded of attempts, sealed how, kept how long, and erased how.
//!
//! | Module | Owns |
//! |---|---|
//! | `bodies` | sealing and opening data and results |
//! | `recorder` | the way of attempts from Redis to Postgres |
//! | `rounds` | doing a duty of the fleet, a round at a time |
//! | `duty` | what one process of the fleet does for all: partitions, gaps, forgetting |
//! | `mirror` | what workers that are no hosts have ended |
//! | `shown` | what of a body people may see |
//! | `erasing` | forgetting a person, or a job, everywhere |
//! | `paged_filter` | the query of a search |
//! | `views` | rows as answers show them |

mod bodies;
mod duty;
mod erasing;
pub mod mirror;
mod paged_filter;
pub mod recorder;
mod rounds;
mod shown;
pub(crate) mod views;

use std::sync::Arc;

use patchbay_store::KeepAttempts;
use patchbay_work::body_budget::BodyBudget;

pub use bodies::{Bodies, Unopened};
pub use duty::run;
pub use erasing::{Asker, EraseError, Erasing, Erasure, Wanted};
pub(crate) use paged_filter::PagedFilter;
pub use shown::{NotShown, Reader, Shown};

/// What operators ask the history for.
pub struct History {
    /// Opens data and results.
    pub bodies: Arc<Bodies>,
    /// Tells what is recorded.
    pub budget: Arc<BodyBudget>,
    /// Where nothing else is said.
    pub keep: KeepAttempts,
}
