//! BullMQ queues on Redis, wire-compatible with Node's producers, workers and Bull Board.
//!
//! Owns redis and bullmq-official; knows nothing of wasm or Postgres. Upstream's Lua scripts do every transition. When Redis is away,
//! calls fail with [`QueueError::Unavailable`] and workers go on as soon as it is back.

mod add;
mod attempts;
mod batch;
mod bulk;
mod census;
mod connection;
mod damage;
mod erase;
mod error;
mod family;
mod flow;
mod jobs;
mod js;
mod kill;
mod kv;
mod legacy;
mod listing;
mod maintain;
mod memory;
mod mirror;
mod operate;
mod opts;
mod overview;
mod queues;
mod repeat;
mod retention;
mod scan;
mod schedulers;
mod scripts;
mod stalls;
mod streams;
mod traces;
mod view;
mod worker;

pub use add::check as check_job;
pub use attempts::{AttemptReader, Entry};
pub use bulk::{Again, Chosen, Edit, Fate, Kept, Removed};
pub use census::Census;
pub use damage::TakenKey;
pub use erase::{Copy, Erasing, Located};
pub use error::QueueError;
pub use family::Family;
pub use kv::Kv;
pub use legacy::LegacyRepeatable;
pub use listing::{Cursor, MAX_LISTED, Page, Start};
pub use mirror::{EndedElsewhere, Gone, Mirrored, Sighted};
pub use overview::QueueOverview;
pub use queues::{Queues, RedisConfig, ServerFacts, Unsettled};
pub use scan::{MAX_SCANNED, Scanned, ScannedJob};
pub use schedulers::{SchedulerSpec, SchedulerView};
pub use stalls::Stalls;
pub use view::{JobView, QueueCounts};
pub use worker::{
    Delivery, Disposition, End, Gate, Handler, JobHandle, Keep, Pass, Refusal, Settlement, Unlimited, WorkerConfig,
    WorkerHandle,
};

/// Of this machine; compared with Redis's own by [`Queues::clock_skew_ms`].
fn now_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
