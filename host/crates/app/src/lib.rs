//! What a host does for operators and by itself: use cases by domain, and what runs in the background.

pub mod actions;
pub mod alert;
pub mod audit;
pub mod breakers;
pub mod bulk;
pub mod difference;
pub mod error;
pub mod exposition;
pub mod health;
pub mod history;
pub mod incident;
pub mod local_copy;
pub mod outbox;
pub mod plugins;
pub mod queues;
pub mod redacted;
pub mod schedule;
pub mod selected;
pub mod timeline;
pub mod vault;

pub use actions::Caller;
pub use error::Error;
