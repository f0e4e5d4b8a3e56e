//! BullMQ queues on Redis, wire-compatible with Node's producers, workers and Bull Board.
//!
//! This crate owns redis and bullmq-official; it knows nothing of wasm or Postgres. BullMQ's Lua
//! scripts make every transition. When Redis is away or cannot serve, calls fail with
//! [`QueueError::Unavailable`] or [`QueueError::CannotServe`], and workers continue as soon as it
//! can.

mod access;
mod add;
mod addition;
mod attempt_stream;
mod audit_anchors;
mod batch;
mod broker;
mod bulk;
mod cancellation;
mod clock;
mod connection;
mod current_states;
mod damage;
mod ended_elsewhere;
mod erase;
mod error;
mod flow;
mod idempotency;
mod inbox_spill;
mod job_fields;
mod job_operations;
mod job_pages;
mod job_rules;
mod jobs;
mod js;
mod keyspace;
mod kv;
mod marked;
mod memory;
mod opts;
mod orders;
mod queue_operations;
mod queue_stats;
mod rate_limits;
mod relatives;
mod removal;
mod repeat;
mod repeatables;
mod retention;
mod rights;
mod route_audit;
mod scan;
mod schedulers;
mod scripts;
mod server_stats;
mod stack_traces;
mod stalled_jobs;
mod streams;
mod transaction;
mod trouble;
mod view;
mod worker;

pub use access::{RedisConfig, SentinelConfig, TlsFiles};
pub use attempt_stream::{AttemptReader, Entry};
pub use broker::{Broker, ServerFacts, Unsettled};
pub use bulk::{
    Chosen, Edit, JobResult, NO_LONGER_THERE, NOTHING_TO_PUT_BACK, PriorIdentity, ReAddition,
    Removed,
};
pub use connection::{MAX_CLOCK_SKEW_MS, Standing};
pub use current_states::CurrentState;
pub use damage::TakenKey;
pub use ended_elsewhere::{EndedElsewhere, MirrorScan, RemovedAtEnd, SeenJobs};
pub use erase::{Copy, Deduplicated, EraseOutcome, Located};
pub use error::QueueError;
pub use idempotency::{Claimed, Keeping, KeptAnswers, KeptBytes, RecordName, Unkept};
pub use inbox_spill::{SpillStanding, SpilledEntry};
pub use job_pages::{Cursor, MAX_LISTED, Page, Start};
pub use job_rules::{MAX_DATA_BYTES, check as check_job};
pub use keyspace::{KeyOwner, KeyPage, KeyPlace, KeyQuery, StoredFields, StoredKey, StoredValue};
pub use kv::Kv;
pub use marked::Cleared;
pub use patchbay_model::job_view::{JobView, ScannedJob};
pub use patchbay_model::queue::{LegacyRepeatable, QueueCounts, QueueOverview, SchedulerView};
pub use rate_limits::{FailureRule, RateLimits, Taken};
pub use relatives::{ChildData, Family};
pub use rights::Right;
pub use route_audit::{RouteAuditStream, RouteEntry};
pub use scan::{MAX_SCANNED, Scanned};
pub use schedulers::SchedulerSpec;
pub use server_stats::ServerStats;
pub use stalled_jobs::Stalls;
pub use trouble::Trouble;
pub use view::{retry_of, trace_of};
pub use worker::{
    Delivery, Disposition, End, Gate, Handler, JobHandle, Keep, Pass, Refusal, Settlement,
    Unlimited, WorkerConfig, WorkerHandle,
};
