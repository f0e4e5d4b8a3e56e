//! BullMQ queues on Redis, wire-compatible with Node's producers, workers and Bull Board.
//!
//! Owns redis and bullmq-official; knows nothing of wasm or Postgres. Upstream's Lua scripts do every transition. When Redis is away
//! or cannot serve, calls fail with [`QueueError::Unavailable`] or [`QueueError::CannotServe`], and workers go on as soon as it can.

mod access;
mod add;
mod addition;
mod attempts;
mod batch;
mod bulk;
mod census;
mod clock;
mod connection;
mod damage;
mod erase;
mod error;
mod family;
mod flow;
mod job_fields;
mod job_rules;
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
mod orders;
mod overview;
mod queues;
mod removal;
mod repeat;
mod retention;
mod rights;
mod scan;
mod schedulers;
mod scripts;
mod stalls;
mod streams;
mod traces;
mod transaction;
mod trouble;
mod view;
mod worker;

pub use access::{RedisConfig, SentinelConfig, TlsFiles};
pub use attempts::{AttemptReader, Entry};
pub use bulk::{Again, Chosen, Edit, Fate, Kept, Removed};
pub use census::Census;
pub use connection::{MAX_CLOCK_SKEW_MS, Standing};
pub use damage::TakenKey;
pub use erase::{Copy, Deduplicated, Erasing, Located};
pub use error::QueueError;
pub use family::{ChildData, Family};
pub use job_rules::check as check_job;
pub use kv::Kv;
pub use listing::{Cursor, MAX_LISTED, Page, Start};
pub use mirror::{EndedElsewhere, Gone, Mirrored, Sighted};
pub use patchbay_model::job_view::{JobView, ScannedJob};
pub use patchbay_model::queue::{LegacyRepeatable, QueueCounts, QueueOverview, SchedulerView};
pub use queues::{Queues, ServerFacts, Unsettled};
pub use rights::Right;
pub use scan::{MAX_SCANNED, Scanned};
pub use schedulers::SchedulerSpec;
pub use stalls::Stalls;
pub use trouble::Trouble;
pub use view::trace_of;
pub use worker::{
    Delivery, Disposition, End, Gate, Handler, JobHandle, Keep, Pass, Refusal, Settlement, Unlimited, WorkerConfig,
    WorkerHandle,
};
