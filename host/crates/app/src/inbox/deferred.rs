//! How many deferred requests wait, so that a plugin that is away for days fills no disk.

use std::collections::HashMap;

use parking_lot::Mutex;
use patchbay_store::DeferredCount;

use crate::plugins::Webhook;

/// Of one webhook, in all processes.
const MAX_ROWS: i64 = 10_000;
const MAX_BYTES: i64 = 256 << 20;
/// One source may have this part of it.
const SOURCES: i64 = 10;

/// As Postgres had it a few seconds ago, and what this process has added since.
#[derive(Default)]
pub(super) struct Deferred(Mutex<HashMap<(String, String), OfWebhook>>);

#[derive(Default)]
struct OfWebhook {
    rows: i64,
    bytes: i64,
    by_source: HashMap<String, i64>,
}

impl Deferred {
    pub(super) fn has_room(&self, webhook: &Webhook, source: Option<&str>) -> bool {
        let waiting = self.0.lock();
        let Some(of_webhook) = waiting.get(&key(webhook)) else {
            return true;
        };
        let of_source = of_webhook.by_source.get(source.unwrap_or_default());
        of_webhook.rows < MAX_ROWS
            && of_webhook.bytes < MAX_BYTES
            && of_source.is_none_or(|rows| *rows < MAX_ROWS / SOURCES)
    }

    pub(super) fn note(&self, webhook: &Webhook, source: Option<&str>, bytes: usize) {
        let mut waiting = self.0.lock();
        let of_webhook = waiting.entry(key(webhook)).or_default();
        of_webhook.rows += 1;
        of_webhook.bytes += i64::try_from(bytes).unwrap_or(i64::MAX);
        *of_webhook
            .by_source
            .entry(source.unwrap_or_default().to_owned())
            .or_default() += 1;
    }

    /// Replaces everything by what Postgres has.
    pub(super) fn set(&self, counts: Vec<DeferredCount>) {
        let mut next: HashMap<(String, String), OfWebhook> = HashMap::new();
        for count in counts {
            let of_webhook = next.entry((count.plugin, count.webhook)).or_default();
            of_webhook.rows += count.rows;
            of_webhook.bytes += count.bytes;
            of_webhook
                .by_source
                .insert(count.source.unwrap_or_default(), count.rows);
        }
        *self.0.lock() = next;
    }
}

fn key(webhook: &Webhook) -> (String, String) {
    (webhook.plugin.to_string(), webhook.spec.name.clone())
}
