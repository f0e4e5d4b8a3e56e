//! Delivers alert messages, and retries until they arrive. They are rows of Postgres, which any
//! process with the channel tries. While Postgres is away, this process delivers those that it
//! holds in memory.
//!
//! Each channel has its own loop, so that one that hangs does not delay the others. A newer state
//! of an alert replaces an older one that is not delivered yet, so a channel that was away for
//! hours gets only the state that holds then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use patchbay_store::{DueDelivery, Store, StoreError};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::answered;
use super::channel::{Channel, NAMES};

/// Deliveries that one channel of one process tries at the same time.
const AT_ONCE: usize = 4;
/// Deliveries claimed at once. Each must be tried before its claim ends, which lasts three times as
/// long as a try.
const BATCH: i64 = AT_ONCE as i64;
/// Backoff after the first failed try. It doubles with each try up to [`LAST_WAIT`]: a receiver
/// restarts within seconds, and one that is away for a day must not cost thousands of tries.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(300);
/// Most messages held in memory without Postgres.
const MOST_REMEMBERED: usize = 200;

/// Results of a delivery, as the metric names them.
pub(super) const RESULTS: [&str; 3] = ["delivered", "failed", "given-up"];

/// A message that Postgres could not take.
struct MemoryDelivery {
    channel: &'static str,
    key: (String, String),
    body: Value,
    tries: u32,
    next: Instant,
}

pub(super) struct Deliveries {
    store: Store,
    pub channels: Vec<Channel>,
    remembered: Mutex<Vec<MemoryDelivery>>,
    wake: watch::Sender<()>,
    counts: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Deliveries {
    pub(super) fn new(store: Store, channels: Vec<Channel>) -> Self {
        let counts = NAMES
            .into_iter()
            .flat_map(|channel| RESULTS.map(|result| ((channel, result), 0)));
        let counts = Mutex::new(counts.collect());
        Self {
            store,
            channels,
            remembered: Mutex::default(),
            wake: watch::Sender::default(),
            counts,
        }
    }

    /// Tells the loops that a delivery is due now.
    pub(super) fn wake(&self) {
        self.wake.send_replace(());
    }

    /// Holds the message in memory for every channel of this process, without Postgres.
    pub(super) fn remember(&self, rule: &str, subject: &str, body: &Value) {
        let mut remembered = self.remembered.lock();
        for channel in &self.channels {
            let key = (rule.to_owned(), subject.to_owned());
            remembered.retain(|other| other.channel != channel.name || other.key != key);
            if remembered.len() >= MOST_REMEMBERED {
                remembered.remove(0);
            }
            let (channel, body) = (channel.name, body.clone());
            remembered.push(MemoryDelivery {
                channel,
                key,
                body,
                tries: 0,
                next: Instant::now(),
            });
        }
        drop(remembered);
        self.wake();
    }

    /// Writes the messages in memory to Postgres, which is back.
    pub(super) async fn store_remembered(&self) -> Result<(), StoreError> {
        let waiting: Vec<_> = self
            .remembered
            .lock()
            .iter()
            .map(|one| (one.channel, one.key.clone(), one.body.clone()))
            .collect();
        for (channel, (rule, subject), body) in waiting {
            answered(self.store.enqueue_delivery(&rule, &subject, channel, &body)).await?;
            self.remembered.lock().retain(|one| {
                one.channel != channel
                    || one.key.0 != rule
                    || one.key.1 != subject
                    || one.body != body
            });
        }
        Ok(())
    }

    /// Deliveries of this process, by channel and result.
    pub(super) fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.counts.lock().clone()
    }

    fn count(&self, channel: &'static str, result: &'static str) {
        *self.counts.lock().entry((channel, result)).or_default() += 1;
    }

    /// Delivers until cancelled.
    pub(super) async fn run(self: Arc<Self>, poll: Duration, stop: CancellationToken) {
        let lines = self.channels.iter().map(|channel| self.line(channel, poll));
        stop.run_until_cancelled(futures::future::join_all(lines))
            .await;
        // Without a channel, this waits for `stop`.
        stop.cancelled().await;
    }

    async fn line(&self, channel: &Channel, poll: Duration) {
        let mut woken = self.wake.subscribe();
        loop {
            woken.mark_unchanged();
            let next_remembered = self.tell_remembered(channel).await;
            // While Postgres is away, its due deliveries wait.
            let next = self.tell_due(channel).await.unwrap_or(poll);
            let wait = next.min(next_remembered.unwrap_or(poll)).min(poll);
            tokio::select! { _ = woken.changed() => {}, () = tokio::time::sleep(wait) => {} }
        }
    }

    /// Tries the deliveries that are due in Postgres. Returns how long until the next one is due.
    async fn tell_due(&self, channel: &Channel) -> Result<Duration, StoreError> {
        let due = answered(self.store.claim_deliveries(channel.name, BATCH)).await?;
        let tried = due.len();
        // Each try runs to its end, even when Postgres fails meanwhile.
        let ends: Vec<Result<(), StoreError>> = futures::stream::iter(due)
            .map(|delivery| async move { self.tell(channel, delivery).await })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        ends.into_iter().collect::<Result<(), _>>()?;
        if tried == AT_ONCE {
            return Ok(Duration::ZERO);
        }
        Ok(answered(self.store.next_delivery_in(channel.name))
            .await?
            .unwrap_or(Duration::MAX))
    }

    async fn tell(&self, channel: &Channel, delivery: DueDelivery) -> Result<(), StoreError> {
        match channel.send(&delivery.body).await {
            Ok(()) => {
                self.count(channel.name, "delivered");
                debug!(
                    channel = channel.name,
                    alert = delivery.body["alert"].as_str(),
                    "alert delivered"
                );
                answered(self.store.delivered(&delivery)).await
            }
            Err(error) => {
                self.count(channel.name, "failed");
                warn!(
                    channel = channel.name,
                    alert = delivery.body["alert"].as_str(),
                    tries = delivery.tries,
                    error,
                    "alert not delivered"
                );
                let wait = wait(delivery.tries.unsigned_abs());
                if answered(self.store.not_delivered(&delivery, wait, &error)).await? {
                    self.count(channel.name, "given-up");
                }
                Ok(())
            }
        }
    }

    /// Tries the messages in memory that are due. Returns how long until the next one is due.
    async fn tell_remembered(&self, channel: &Channel) -> Option<Duration> {
        let next = || {
            let mut remembered = self.remembered.lock();
            let place = remembered
                .iter()
                .position(|one| one.channel == channel.name && one.next <= Instant::now())?;
            Some(remembered.remove(place))
        };
        while let Some(mut one) = next() {
            match channel.send(&one.body).await {
                Ok(()) => self.count(channel.name, "delivered"),
                Err(error) => {
                    self.count(channel.name, "failed");
                    warn!(
                        channel = channel.name,
                        alert = one.key.0,
                        error,
                        "alert not delivered; Postgres does not answer either"
                    );
                    one.tries += 1;
                    one.next = Instant::now() + wait(one.tries);
                    let mut remembered = self.remembered.lock();
                    // Not when a newer state has come meanwhile.
                    if !remembered
                        .iter()
                        .any(|other| other.channel == one.channel && other.key == one.key)
                    {
                        remembered.push(one);
                    }
                }
            }
        }
        let remembered = self.remembered.lock();
        let next = remembered
            .iter()
            .filter(|one| one.channel == channel.name)
            .map(|one| one.next)
            .min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }
}

/// The backoff before the next try.
fn wait(tries: u32) -> Duration {
    FIRST_WAIT
        .saturating_mul(1 << tries.saturating_sub(1).min(16))
        .min(LAST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes() {
        assert_eq!(
            [1, 2, 3, 9, 10, 40].map(|tries| wait(tries).as_secs()),
            [1, 2, 4, 256, 300, 300]
        );
    }
}
