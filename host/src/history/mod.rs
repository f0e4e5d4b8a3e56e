//! The history: what is recorded of attempts, sealed how, kept how long, and erased how.
//!
//! | Module | Owns |
//! |---|---|
//! | `room` | whether an attempt is recorded, and whether its job's data goes along |
//! | `bodies` | sealing and opening data and results |
//! | `rounds` | doing a duty of the fleet, a round at a time |
//! | `duty` | what one process of the fleet does for all: partitions, gaps, forgetting |
//! | `mirror` | what workers that are no hosts have ended |
//! | `shown` | what of a body people may see |
//! | `erasing` | forgetting a person, or a job, everywhere |
//!
//! The way from Redis to Postgres is [`crate::recorder`]'s.

mod bodies;
mod duty;
mod erasing;
pub mod mirror;
mod room;
mod rounds;
mod shown;

use std::sync::Arc;

use patchbay_store::KeepAttempts;

pub use bodies::{Bodies, Unopened};
pub use duty::run;
pub use erasing::{Asker, EraseError, Erasing, Erasure, Wanted};
pub use room::{MAX_BODY_BYTES, NoBodies, Recording, Room};
pub use shown::{NotShown, Reader, Shown};

/// What operators ask the history for.
pub struct History {
    /// Opens data and results.
    pub bodies: Arc<Bodies>,
    /// Tells what is recorded.
    pub room: Arc<Room>,
    /// Where nothing else is said.
    pub keep: KeepAttempts,
}
