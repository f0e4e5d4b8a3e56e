//! What one process of the fleet does for the history of all: partitions ahead of time, rows for
//! attempts that nobody told the end of, ending erasures that were cut short, and forgetting what
//! is older than it is to be kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{Months, Utc};
use patchbay_queue::Broker;
use patchbay_store::{KeepAttempts, LeaderTask, Leadership, NewAction, Store};
use serde_json::json;
use tracing::info;

use super::erasing::Erasing;
use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::service::Service;

/// Between rounds; how soon a gap is filled, and how long nobody does it when the process that did
/// ends.
const ROUND: Duration = Duration::from_secs(5);
/// Between looks at partitions and at what is old.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
/// A gap is left alone for so long at least, beyond the age of the oldest entry that is still in
/// the stream: what happened before it may be that entry.
const GAP_AFTER: Duration = Duration::from_secs(5);
/// The month that runs, and so many more.
const MONTHS_AHEAD: u32 = 1;

/// Looks after the history of all.
pub fn maintenance(parts: &Parts) -> Arc<dyn Service> {
    let task = Maintenance {
        store: parts.store.clone(),
        queues: parts.broker.clone(),
        host: parts.plugins.host().to_owned(),
        keep: parts.history.keep,
        looked: None,
    };
    Arc::new(Led::new(parts.store.clone(), task))
}

struct Maintenance {
    store: Store,
    queues: Broker,
    host: String,
    keep: KeepAttempts,
    /// At partitions and at what is old.
    looked: Option<Instant>,
}

#[async_trait]
impl LedTask for Maintenance {
    const TASK: LeaderTask = LeaderTask::History;
    const NAME: &'static str = "history-maintenance";
    const FAILING: &'static str = "the history is not maintained: old attempts may not be deleted";

    fn every(&self) -> Duration {
        ROUND
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        fill_gaps(lead, &self.queues).await?;
        Erasing {
            store: &self.store,
            queues: &self.queues,
            bodies: None,
            inbox: None,
        }
        .go_on()
        .await?;
        if self.looked.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            self.prune(lead).await?;
            self.looked = Some(Instant::now());
        }
        Ok(Next::Later)
    }
}

async fn fill_gaps(lead: &mut Leadership<'_>, queues: &Broker) -> anyhow::Result<()> {
    let oldest = queues.attempts_waiting_for().await?.unwrap_or_default();
    loop {
        let (filled, more) = lead.fill_gaps(oldest + GAP_AFTER).await?;
        if filled > 0 {
            info!(
                attempts = filled,
                "attempts whose end no worker has reported are recorded as worker-lost"
            );
        }
        if !more {
            break;
        }
    }
    lead.give_way().await?;
    Ok(())
}

impl Maintenance {
    async fn prune(&self, lead: &mut Leadership<'_>) -> anyhow::Result<()> {
        let now = Utc::now();
        let months: Vec<_> = (0..=MONTHS_AHEAD)
            .filter_map(|ahead| now.checked_add_months(Months::new(ahead)))
            .collect();
        self.store.make_partitions(&months).await?;
        let is_due =
            |at: chrono::DateTime<Utc>| (now - at).to_std().unwrap_or(Duration::MAX) >= PRUNE_EVERY;
        if !lead.pruned_at().await?.is_none_or(is_due) {
            return Ok(());
        }
        let retention = self.store.retention(self.keep).await?;
        let pruned = lead.prune_history(&retention).await?;
        if pruned.attempts == 0 && pruned.partitions.is_empty() {
            return Ok(());
        }
        info!(attempts = pruned.attempts, partitions = ?pruned.partitions, "old attempts were deleted");
        let action = NewAction {
            actor: &format!("host {}", self.host),
            is_host: true,
            action: "history.prune",
            target: "history",
            details: &json!({}),
        };
        let id = self.store.begin_action(&action).await?;
        let result = json!({ "attempts": pruned.attempts, "partitions": pruned.partitions });
        Ok(self.store.finish_action(id, &Ok(result)).await?)
    }
}
