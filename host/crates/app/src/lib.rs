//! What a host does for operators and by itself: use cases by domain, and what runs in the background.

pub mod alert;
pub mod audit;
pub mod breakers;
pub mod bulk;
pub mod diagnosis;
pub mod difference;
pub mod exposition;
pub mod health;
pub mod history;
pub mod incident;
pub mod local_copy;
pub mod outbox;
pub mod plugins;
pub mod redacted;
pub mod schedule;
pub mod selected;
pub mod timeline;
pub mod vault;
