//! How many requests came, and what became of them: for metrics, and by hour in Postgres. Written
//! down every 10 s, so a killed process loses at most that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use parking_lot::Mutex;
use patchbay_store::{EventKey, InboxCount, InboxSource, RepeatCount, Store, StoreError};

use super::lately::{Lately, RejectedLately};
use crate::plugins::Webhook;

/// Codes of plugins that are told apart, per webhook; the rest is `other`.
const MAX_CODES: usize = 20;
/// Networks and events that wait to be written; the rest is not noted.
const MAX_WAITING: usize = 10_000;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Outcome {
    Accepted,
    Repeat,
    Rejected,
    Deferred,
    /// Nothing was kept: too many requests, no room, or no time.
    Refused,
    /// Of no request: a host ran in that hour.
    Running,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Repeat => "repeat",
            Self::Rejected => "rejected",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Running => "running",
        }
    }
}

fn this_hour() -> DateTime<Utc> {
    let now = Utc::now();
    now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now)
}

/// Plugin, webhook, outcome, code.
type Key = (String, String, Outcome, String);

#[derive(Default)]
pub(crate) struct Counts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Since the start of this process.
    totals: BTreeMap<Key, u64>,
    codes: HashMap<(String, String), BTreeSet<String>>,
    waiting: BTreeMap<(DateTime<Utc>, Key), i64>,
    repeats: HashMap<EventKey, (i64, DateTime<Utc>)>,
    sources: HashMap<(String, String, String), DateTime<Utc>>,
    /// From these, requests were accepted within 30 days.
    known: HashSet<(String, String, String)>,
    lately: Lately,
    /// The last hour of which it is noted that this host ran.
    ran: Option<DateTime<Utc>>,
}

impl Counts {
    /// Notes that a host runs, once an hour: that nothing came then means something.
    pub(super) fn note_running(&self) {
        let mut inner = self.0.lock();
        let hour = this_hour();
        if inner.ran != Some(hour) {
            inner.ran = Some(hour);
            let key = (
                String::new(),
                String::new(),
                Outcome::Running,
                String::new(),
            );
            *inner.waiting.entry((hour, key)).or_default() += 1;
        }
    }

    pub(super) fn count(&self, webhook: &Webhook, outcome: Outcome, code: &str) {
        self.count_of(webhook.plugin.as_str(), &webhook.spec.name, outcome, code);
    }

    pub(super) fn count_of(&self, plugin: &str, webhook: &str, outcome: Outcome, code: &str) {
        let mut inner = self.0.lock();
        // What is refused is not judged.
        if outcome != Outcome::Refused {
            let is_rejected = outcome == Outcome::Rejected;
            inner
                .lately
                .count(plugin, webhook, is_rejected, Instant::now());
        }
        let codes = inner
            .codes
            .entry((plugin.to_owned(), webhook.to_owned()))
            .or_default();
        let code = if codes.contains(code) || codes.len() < MAX_CODES {
            codes.insert(code.to_owned());
            code
        } else {
            "other"
        };
        let key = (
            plugin.to_owned(),
            webhook.to_owned(),
            outcome,
            code.to_owned(),
        );
        let hour = this_hour();
        *inner.totals.entry(key.clone()).or_default() += 1;
        *inner.waiting.entry((hour, key)).or_default() += 1;
    }

    pub(super) fn note_repeat(&self, event: EventKey) {
        let mut inner = self.0.lock();
        if inner.repeats.len() < MAX_WAITING || inner.repeats.contains_key(&event) {
            let (count, last) = inner.repeats.entry(event).or_insert((0, Utc::now()));
            *count += 1;
            *last = Utc::now();
        }
    }

    pub(super) fn rejected_lately(&self) -> Vec<RejectedLately> {
        self.0.lock().lately.rejected(Instant::now())
    }

    /// A request from this network was accepted. Where the network is not known, only the time is
    /// noted.
    pub(super) fn note_source(&self, webhook: &Webhook, network: Option<&str>) {
        let network = network.unwrap_or_default();
        let mut inner = self.0.lock();
        if inner.sources.len() < MAX_WAITING || network.is_empty() {
            let key = (
                webhook.plugin.to_string(),
                webhook.spec.name.clone(),
                network.to_owned(),
            );
            if inner.known.len() < MAX_WAITING && !network.is_empty() {
                inner.known.insert(key.clone());
            }
            inner.sources.insert(key, Utc::now());
        }
    }

    /// Plugin, webhook and network.
    pub(super) fn set_known(&self, known: Vec<(String, String, String)>) {
        self.0.lock().known = known.into_iter().collect();
    }

    /// Whether a request from this network was accepted lately, as far as this process knows.
    pub(super) fn is_known(&self, webhook: &Webhook, network: &str) -> bool {
        let key = (
            webhook.plugin.to_string(),
            webhook.spec.name.clone(),
            network.to_owned(),
        );
        self.0.lock().known.contains(&key)
    }

    /// Plugin, webhook, outcome and code, since the start of this process.
    pub(crate) fn totals(&self) -> Vec<(String, String, Outcome, String, u64)> {
        let inner = self.0.lock();
        let each = inner
            .totals
            .iter()
            .map(|((plugin, webhook, outcome, code), count)| {
                (
                    plugin.clone(),
                    webhook.clone(),
                    *outcome,
                    code.clone(),
                    *count,
                )
            });
        each.collect()
    }

    /// Writes down what has been counted since the last time. What cannot be written waits.
    pub(super) async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let (waiting, repeats, sources) = {
            let mut inner = self.0.lock();
            (
                std::mem::take(&mut inner.waiting),
                std::mem::take(&mut inner.repeats),
                std::mem::take(&mut inner.sources),
            )
        };
        if waiting.is_empty() && repeats.is_empty() && sources.is_empty() {
            return Ok(());
        }
        let counts: Vec<InboxCount> = waiting
            .iter()
            .map(
                |((hour, (plugin, webhook, outcome, code)), count)| InboxCount {
                    plugin: plugin.clone(),
                    webhook: webhook.clone(),
                    hour: *hour,
                    outcome: outcome.as_str().to_owned(),
                    code: code.clone(),
                    count: *count,
                },
            )
            .collect();
        let repeated: Vec<RepeatCount> = repeats
            .iter()
            .map(|(event, (count, last))| RepeatCount {
                event: *event,
                count: *count,
                last: *last,
            })
            .collect();
        let networks: Vec<InboxSource> = sources
            .iter()
            .map(|((plugin, webhook, network), at)| InboxSource {
                plugin: plugin.clone(),
                webhook: webhook.clone(),
                network: network.clone(),
                at: *at,
            })
            .collect();
        let written = store.count_inbox(&counts, &repeated, &networks).await;
        if written.is_err() {
            let mut inner = self.0.lock();
            for (key, count) in waiting {
                *inner.waiting.entry(key).or_default() += count;
            }
            for (key, at) in sources {
                if inner.sources.len() < MAX_WAITING {
                    inner.sources.entry(key).or_insert(at);
                }
            }
        }
        written
    }
}
