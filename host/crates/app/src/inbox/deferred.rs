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
    all: Waiting,
    by_source: HashMap<String, Waiting>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    rows: i64,
    bytes: i64,
}

impl Waiting {
    fn add(&mut self, rows: i64, bytes: i64) {
        self.rows += rows;
        self.bytes += bytes;
    }

    /// Whether it is below this part of the limits.
    fn has_room(self, part: i64) -> bool {
        self.rows < MAX_ROWS / part && self.bytes < MAX_BYTES / part
    }
}

impl Deferred {
    pub(super) fn has_room(&self, webhook: &Webhook, source: Option<&str>) -> bool {
        self.has_room_for(&key(webhook), source)
    }

    fn has_room_for(&self, webhook: &(String, String), source: Option<&str>) -> bool {
        let waiting = self.0.lock();
        let Some(of_webhook) = waiting.get(webhook) else {
            return true;
        };
        let of_source = of_webhook.by_source.get(source.unwrap_or_default());
        of_webhook.all.has_room(1) && of_source.is_none_or(|waiting| waiting.has_room(SOURCES))
    }

    pub(super) fn note(&self, webhook: &Webhook, source: Option<&str>, bytes: usize) {
        let mut waiting = self.0.lock();
        let of_webhook = waiting.entry(key(webhook)).or_default();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        of_webhook.all.add(1, bytes);
        let source = source.unwrap_or_default().to_owned();
        let of_source = of_webhook.by_source.entry(source).or_default();
        of_source.add(1, bytes);
    }

    /// Replaces everything by what Postgres has.
    pub(super) fn set(&self, counts: Vec<DeferredCount>) {
        let mut next: HashMap<(String, String), OfWebhook> = HashMap::new();
        for count in counts {
            let of_webhook = next.entry((count.plugin, count.webhook)).or_default();
            of_webhook.all.add(count.rows, count.bytes);
            let source = count.source.unwrap_or_default();
            let of_source = of_webhook.by_source.entry(source).or_default();
            of_source.add(count.rows, count.bytes);
        }
        *self.0.lock() = next;
    }
}

fn key(webhook: &Webhook) -> (String, String) {
    (webhook.plugin.to_string(), webhook.spec.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_takes_a_tenth_of_the_rows_and_of_the_bytes() {
        let webhook = ("hooks".to_owned(), "open".to_owned());
        let of = |source: &str, rows, bytes| DeferredCount {
            plugin: webhook.0.clone(),
            webhook: webhook.1.clone(),
            source: Some(source.to_owned()),
            rows,
            bytes,
        };
        let deferred = Deferred::default();
        let has_room = |source| deferred.has_room_for(&webhook, Some(source));
        deferred.set(vec![
            of("large", 10, MAX_BYTES / SOURCES),
            of("many", MAX_ROWS / SOURCES, 10),
            of("few", 9, MAX_BYTES / SOURCES - 1),
        ]);
        assert!(!has_room("large") && !has_room("many"));
        assert!(has_room("few") && has_room("new"));
        let all = (0..SOURCES).map(|n| of(&n.to_string(), 1, MAX_BYTES / SOURCES + 1));
        deferred.set(all.collect());
        assert!(!has_room("new"), "all is taken");
    }
}
