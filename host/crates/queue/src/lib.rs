//! BullMQ queues on Redis, wire-compatible with Node's producers, workers and Bull Board.
//!
//! Owns redis and bullmq-official; knows nothing of wasm or Postgres. Upstream's Lua scripts do every transition. When Redis is away
//! or cannot serve, calls fail with [`QueueError::Unavailable`] or [`QueueError::CannotServe`], and workers go on as soon as it can.

mod access;
mod add;
mod addition;
mod attempt_stream;
mod batch;
mod bulk;
mod server_stats;
mod clock;
mod connection;
mod damage;
mod erase;
mod error;
mod relatives;
mod flow;
mod job_fields;
mod job_rules;
mod jobs;
mod js;
mod cancellation;
mod kv;
mod repeatables;
mod job_pages;
mod queue_operations;
mod memory;
mod ended_elsewhere;
mod job_operations;
mod opts;
mod orders;
mod queue_stats;
mod broker;
mod removal;
mod repeat;
mod retention;
mod rights;
mod scan;
mod schedulers;
mod scripts;
mod stalled_jobs;
mod streams;
mod stack_traces;
mod transaction;
mod trouble;
mod view;
mod worker;

pub use access::{RedisConfig, SentinelConfig, TlsFiles};
pub use attempt_stream::{AttemptReader, Entry};
pub use bulk::{Again, Chosen, Edit, Fate, PriorIdentity, Removed};
pub use server_stats::ServerStats;
pub use connection::{MAX_CLOCK_SKEW_MS, Standing};
pub use damage::TakenKey;
pub use erase::{Copy, Deduplicated, Erasing, Located};
pub use error::QueueError;
pub use relatives::{ChildData, Family};
pub use job_rules::check as check_job;
pub use kv::Kv;
pub use job_pages::{Cursor, MAX_LISTED, Page, Start};
pub use ended_elsewhere::{EndedElsewhere, Gone, Mirrored, Sighted};
pub use patchbay_model::job_view::{JobView, ScannedJob};
pub use patchbay_model::queue::{LegacyRepeatable, QueueCounts, QueueOverview, SchedulerView};
pub use broker::{Broker, ServerFacts, Unsettled};
pub use rights::Right;
pub use scan::{MAX_SCANNED, Scanned};
pub use schedulers::SchedulerSpec;
pub use stalled_jobs::Stalls;
pub use trouble::Trouble;
pub use view::trace_of;
pub use worker::{
    Delivery, Disposition, End, Gate, Handler, JobHandle, Keep, Pass, Refusal, Settlement, Unlimited, WorkerConfig,
    WorkerHandle,
};
