//! Forgetting requests and events whose time is over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use patchbay_store::{LeaderTask, Leadership};

use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::service::Service;

/// A round that has deleted so many rows is followed by the next at once.
const MANY: u64 = 5_000;

/// One process forgets for all.
pub fn upkeep(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(Led::new(parts.store.clone(), Upkeep))
}

struct Upkeep;

#[async_trait]
impl LedTask for Upkeep {
    const TASK: LeaderTask = LeaderTask::Inbox;
    const NAME: &'static str = "inbox-upkeep";
    const FAILING: &'static str = "old requests to webhooks cannot be forgotten";

    fn every(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        Ok(match lead.forget_inbox().await? >= MANY {
            true => Next::AtOnce,
            false => Next::Later,
        })
    }
}
