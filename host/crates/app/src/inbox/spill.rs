//! While Postgres is slow or away: requests wait in Redis, sealed as in their row, and one process
//! brings them to Postgres when it is back. No job runs before its row is in Postgres, since there
//! alone is the memory of events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use patchbay_model::webhook::InboxState;
use patchbay_queue::{Broker, SpilledEntry};
use patchbay_store::{LeaderTask, Leadership, NewInboxRow, Store};
use serde::{Deserialize, Serialize};
use tracing::{error, info};
use uuid::Uuid;

use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::service::Service;

/// Entries of one transaction.
const BATCH: usize = 256;
/// Transactions of one round.
const BATCHES: usize = 20;
/// When an entry that Postgres refuses is tried again.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// A row, as it waits in Redis.
#[derive(Serialize, Deserialize)]
struct Entry {
    id: Uuid,
    received_at: DateTime<Utc>,
    plugin: patchbay_model::PluginName,
    webhook: String,
    state: InboxState,
    code: Option<String>,
    message: Option<String>,
    kind: String,
    event_key: Option<String>,
    /// Absent in those of versions before.
    #[serde(default)]
    terms: Vec<String>,
    revision: Option<String>,
    next_try_at: Option<DateTime<Utc>>,
    method: String,
    content_type: Option<String>,
    size: i32,
    source: Option<String>,
    host: String,
    correlation_id: String,
    jobs: i32,
    sealed: String,
    jobs_sealed: Option<String>,
    sealed_key: String,
    keep_until: DateTime<Utc>,
    remember_until: DateTime<Utc>,
}

pub(super) fn to_bytes(row: &NewInboxRow) -> Vec<u8> {
    let entry = Entry {
        id: row.id,
        received_at: row.received_at,
        plugin: row.plugin.clone(),
        webhook: row.webhook.clone(),
        state: row.state,
        code: row.code.clone(),
        message: row.message.clone(),
        kind: row.kind.clone(),
        event_key: row.event_key.map(hex::encode),
        terms: row.terms.iter().map(hex::encode).collect(),
        revision: row.revision.clone(),
        next_try_at: row.next_try_at,
        method: row.method.clone(),
        content_type: row.content_type.clone(),
        size: row.size,
        source: row.source.clone(),
        host: row.host.clone(),
        correlation_id: row.correlation_id.clone(),
        jobs: row.jobs,
        sealed: STANDARD.encode(&row.sealed),
        jobs_sealed: row
            .jobs_sealed
            .as_ref()
            .map(|sealed| STANDARD.encode(sealed)),
        sealed_key: row.sealed_key.clone(),
        keep_until: row.keep_until,
        remember_until: row.remember_until,
    };
    serde_json::to_vec(&entry).unwrap_or_default()
}

fn from_bytes(bytes: &[u8]) -> Option<NewInboxRow> {
    let entry: Entry = serde_json::from_slice(bytes).ok()?;
    let key = |text: String| -> Option<[u8; 16]> { hex::decode(text).ok()?.try_into().ok() };
    let event_key = match entry.event_key {
        Some(text) => Some(key(text)?),
        None => None,
    };
    let terms: Option<Vec<[u8; 16]>> = entry.terms.into_iter().map(key).collect();
    let jobs_sealed = match entry.jobs_sealed {
        Some(text) => Some(STANDARD.decode(text).ok()?),
        None => None,
    };
    Some(NewInboxRow {
        id: entry.id,
        received_at: entry.received_at,
        plugin: entry.plugin,
        webhook: entry.webhook,
        state: entry.state,
        code: entry.code,
        message: entry.message,
        kind: entry.kind,
        event_key,
        terms: terms?,
        revision: entry.revision,
        next_try_at: entry.next_try_at,
        method: entry.method,
        content_type: entry.content_type,
        size: entry.size,
        source: entry.source,
        host: entry.host,
        correlation_id: entry.correlation_id,
        is_from_redis: true,
        jobs: entry.jobs,
        sealed: STANDARD.decode(entry.sealed).ok()?,
        jobs_sealed,
        sealed_key: entry.sealed_key,
        keep_until: entry.keep_until,
        remember_until: entry.remember_until,
    })
}

/// One process brings to Postgres what waits.
pub fn drain(parts: &Parts) -> Arc<dyn Service> {
    let drain = Drain {
        store: parts.store.clone(),
        broker: parts.broker.clone(),
        refused: HashMap::new(),
    };
    Arc::new(Led::new(parts.store.clone(), drain))
}

struct Drain {
    store: Store,
    broker: Broker,
    /// Entries that cannot become rows, and when that was tried last. They stay where they are, so
    /// that the alert tells of them, and hold up no others.
    refused: HashMap<String, Instant>,
}

#[async_trait]
impl LedTask for Drain {
    const TASK: LeaderTask = LeaderTask::InboxSpill;
    const NAME: &'static str = "inbox-spill";
    const FAILING: &'static str =
        "requests to webhooks that wait in Redis cannot be brought to Postgres";

    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        let (entries, _) = self.broker.spill_size().await?;
        Ok(entries > 0)
    }

    /// Killed in between, the same ids again change nothing.
    async fn round(&mut self, _lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        let mut after: Option<String> = None;
        let mut found = HashSet::new();
        for _ in 0..BATCHES {
            let entries = self.broker.spilled(after.as_deref(), BATCH).await?;
            let is_end = entries.len() < BATCH;
            after = entries.last().map(|entry| entry.id.clone());
            found.extend(entries.iter().map(|entry| entry.id.clone()));
            self.bring(entries).await?;
            if is_end {
                self.refused.retain(|id, _| found.contains(id));
                return Ok(Next::Later);
            }
        }
        Ok(Next::AtOnce)
    }
}

impl Drain {
    /// Brings entries to Postgres: all in one transaction, or where Postgres refuses that, each by
    /// itself.
    async fn bring(&mut self, entries: Vec<SpilledEntry>) -> anyhow::Result<()> {
        let (mut rows, mut readable): (Vec<NewInboxRow>, Vec<SpilledEntry>) = <_>::default();
        for entry in entries {
            let tried = self.refused.get(&entry.id);
            if tried.is_some_and(|tried| tried.elapsed() < REFUSED_WAIT) {
                continue;
            }
            match from_bytes(&entry.content) {
                Some(row) => {
                    rows.push(row);
                    readable.push(entry);
                }
                None => {
                    error!(
                        entry = entry.id,
                        "a request that waits in Redis cannot be read: it was written by another version"
                    );
                    self.refused.insert(entry.id, Instant::now());
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let brought = match self.store.add_to_inbox(&rows).await {
            Ok(_) => readable,
            Err(error) if error.is_passing() => return Err(error.into()),
            Err(_) => {
                let mut brought = Vec::new();
                for (row, entry) in rows.iter().zip(readable) {
                    match self.store.add_to_inbox(std::slice::from_ref(row)).await {
                        Ok(_) => brought.push(entry),
                        Err(error) if error.is_passing() => {
                            self.broker.remove_spilled(&brought).await?;
                            return Err(error.into());
                        }
                        Err(error) => {
                            error!(entry = entry.id, id = %row.id, %error, cause = ?std::error::Error::source(&error), "Postgres refuses a request that waits in Redis; it stays there");
                            self.refused.insert(entry.id, Instant::now());
                        }
                    }
                }
                brought
            }
        };
        self.broker.remove_spilled(&brought).await?;
        if !brought.is_empty() {
            info!(
                requests = brought.len(),
                "requests to webhooks that had waited in Redis are in Postgres"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_waited_is_the_same_afterwards() {
        let now = DateTime::from_timestamp_millis(1_700_000_000_000).expect("a time");
        let row = NewInboxRow {
            id: Uuid::from_u128(7),
            received_at: now,
            plugin: "vendor".parse().expect("a name"),
            webhook: "w".into(),
            state: InboxState::Accepted,
            code: None,
            message: None,
            kind: "k".into(),
            event_key: Some([7; 16]),
            terms: vec![[8; 16], [9; 16]],
            revision: Some("r".into()),
            next_try_at: Some(now),
            method: "POST".into(),
            content_type: None,
            size: 3,
            source: Some("203.0.113.0/24".into()),
            host: "h".into(),
            correlation_id: "c".into(),
            is_from_redis: true,
            jobs: 1,
            sealed: (0..=255).collect(),
            jobs_sealed: Some(vec![0, 159]),
            sealed_key: "key".into(),
            keep_until: now,
            remember_until: now,
        };
        let again = from_bytes(&to_bytes(&row)).expect("readable");
        assert_eq!(format!("{again:?}"), format!("{row:?}"));
        assert!(from_bytes(b"{}").is_none());
        let mut older: serde_json::Value = serde_json::from_slice(&to_bytes(&row)).expect("JSON");
        older.as_object_mut().expect("an object").remove("terms");
        let older = from_bytes(older.to_string().as_bytes()).expect("readable");
        assert!(older.terms.is_empty());
    }
}
