//! Scheduling: Postgres holds the schedules, Redis holds their next ticks.
//!
//! Owns the translation between the two, and the reconciler that makes Redis match. Never runs a
//! job: a tick is an ordinary job of its queue. While Postgres is away the known schedules go on
//! ticking, since each tick makes the next one.

mod at_run_time;
mod reconcile;
mod rhythm;

pub use self::reconcile::{Reconciler, reconciler};
pub use self::rhythm::{rhythm, spec, word};
