//! The outbox: turns rows that plugins write within a transaction into jobs, after the commit.
//!
//! At least once: a row is deleted after its jobs are in their queue. Adding them again changes
//! nothing, since their ids are the same. Every process does this; they take different rows.

use std::sync::Arc;
use std::time::Duration;

use patchbay_queue::{Broker, QueueError};
use patchbay_store::{OutboxEntry, PluginSql, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::Parts;
use crate::service::{Service, task};

/// How long a row waits when its process died between the commit and adding the jobs.
const POLL: Duration = Duration::from_secs(1);

/// Relays until the end.
pub fn relay(parts: &Parts) -> Arc<dyn Service> {
    let (sql, queues) = (parts.sql.clone(), parts.broker.clone());
    task("outbox", move |stop| {
        keep_relaying(sql.clone(), queues.clone(), stop)
    })
}

async fn keep_relaying(sql: PluginSql, queues: Broker, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sql.wait_for_jobs(POLL) => {}
        }
        // `stop` does not interrupt this, although that would do no harm.
        if let Err(error) = relay_all(&sql, &queues).await {
            warn!(%error, "jobs in the outbox could not be added to their queues; trying again");
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn relay_all(sql: &PluginSql, queues: &Broker) -> Result<(), StoreError> {
    while let Some(mut batch) = sql.take_outbox().await? {
        let mut added: Vec<OutboxEntry> = Vec::new();
        let mut waits = false;
        for entry in std::mem::take(&mut batch.entries) {
            match queues.add(entry.jobs.clone()).await {
                Ok(_) => added.push(entry),
                // The job was checked before the commit, but another version of the host may check
                // differently. Keeping the row would block the others for ever.
                Err(QueueError::Invalid(reason)) => {
                    error!(plugin = %entry.plugin, reason, "jobs of the outbox were dropped: the queue refuses them");
                    added.push(entry);
                }
                Err(error) => {
                    warn!(plugin = %entry.plugin, %error, "jobs in the outbox could not be added to their queues; trying again");
                    waits = true;
                }
            }
        }
        batch.done(&added).await?;
        if waits {
            return Ok(());
        }
    }
    Ok(())
}
