//! BullMQ queues on Redis, wire-compatible with Node's producers, workers and Bull Board.
//!
//! Owns redis and bullmq-official; knows nothing of wasm or Postgres. Upstream's Lua scripts do every transition. When Redis is away,
//! calls fail with [`QueueError::Unavailable`] and workers go on as soon as it is back.

mod add;
mod attempts;
mod connection;
mod error;
mod flow;
mod jobs;
mod kv;
mod memory;
mod opts;
mod queues;
mod scripts;
mod traces;
mod view;
mod worker;

pub use attempts::{AttemptReader, Entry};
pub use error::QueueError;
pub use kv::Kv;
pub use queues::{Queues, RedisConfig, ServerFacts};
pub use view::{JobView, QueueCounts};
pub use worker::{
    Delivery, Disposition, Gate, Handler, JobHandle, Keep, Pass, Refusal, Settlement, Unlimited, WorkerConfig,
    WorkerHandle,
};
