//! Telling what is to be told, until it is told: rows of Postgres, which any process with the channel tries, and while Postgres is away
//! what this process remembers.
//!
//! Each channel has a line of its own, so that one that hangs holds no other up. A newer state of an alert takes the place of an older one
//! that was not told yet, so a channel that is away for hours is told what holds then.

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

/// Tried at the same time by one channel of one process.
const AT_ONCE: usize = 4;
/// Taken at once; each must be tried before its claim ends, which is three times as long as a try.
const BATCH: i64 = AT_ONCE as i64;
/// Doubled with each try up to the last: a restart of a receiver takes seconds, a day of it must not cost thousands of tries.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(300);
/// Alerts remembered without Postgres.
const MOST_REMEMBERED: usize = 200;

/// What became of deliveries; the words of the metric.
pub(super) const RESULTS: [&str; 3] = ["delivered", "failed", "given-up"];

/// What Postgres could not take.
struct Remembered {
    channel: &'static str,
    key: (String, String),
    body: Value,
    tries: u32,
    next: Instant,
}

/// Everything that is to be told.
pub(super) struct Deliveries {
    store: Store,
    pub channels: Vec<Channel>,
    remembered: Mutex<Vec<Remembered>>,
    wake: watch::Sender<()>,
    counts: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Deliveries {
    pub(super) fn new(store: Store, channels: Vec<Channel>) -> Self {
        let counts = NAMES.into_iter().flat_map(|channel| RESULTS.map(|result| ((channel, result), 0)));
        let counts = Mutex::new(counts.collect());
        Self { store, channels, remembered: Mutex::default(), wake: watch::Sender::default(), counts }
    }

    /// Something is due now.
    pub(super) fn wake(&self) {
        self.wake.send_replace(());
    }

    /// Tells by every channel of this process, without Postgres.
    pub(super) fn remember(&self, rule: &str, subject: &str, body: &Value) {
        let mut remembered = self.remembered.lock();
        for channel in &self.channels {
            let key = (rule.to_owned(), subject.to_owned());
            remembered.retain(|other| other.channel != channel.name || other.key != key);
            if remembered.len() >= MOST_REMEMBERED {
                remembered.remove(0);
            }
            let (channel, body) = (channel.name, body.clone());
            remembered.push(Remembered { channel, key, body, tries: 0, next: Instant::now() });
        }
        drop(remembered);
        self.wake();
    }

    /// Gives to Postgres what is still to be told, now that it is back.
    pub(super) async fn store_remembered(&self) -> Result<(), StoreError> {
        let waiting: Vec<_> =
            self.remembered.lock().iter().map(|one| (one.channel, one.key.clone(), one.body.clone())).collect();
        for (channel, (rule, subject), body) in waiting {
            answered(self.store.enqueue_delivery(&rule, &subject, channel, &body)).await?;
            self.remembered
                .lock()
                .retain(|one| one.channel != channel || one.key.0 != rule || one.key.1 != subject || one.body != body);
        }
        Ok(())
    }

    /// Of this process, by channel and result.
    pub(super) fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.counts.lock().clone()
    }

    fn count(&self, channel: &'static str, result: &'static str) {
        *self.counts.lock().entry((channel, result)).or_default() += 1;
    }

    /// Tells until cancelled.
    pub(super) async fn run(self: Arc<Self>, poll: Duration, stop: CancellationToken) {
        let lines = self.channels.iter().map(|channel| self.line(channel, poll));
        stop.run_until_cancelled(futures::future::join_all(lines)).await;
        // Without a channel there is nothing to do until then.
        stop.cancelled().await;
    }

    async fn line(&self, channel: &Channel, poll: Duration) {
        let mut woken = self.wake.subscribe();
        loop {
            woken.mark_unchanged();
            let next_remembered = self.tell_remembered(channel).await;
            // While Postgres is away, what is due there waits.
            let next = self.tell_due(channel).await.unwrap_or(poll);
            let wait = next.min(next_remembered.unwrap_or(poll)).min(poll);
            tokio::select! { _ = woken.changed() => {}, () = tokio::time::sleep(wait) => {} }
        }
    }

    /// Tries what is due in Postgres; gives when the next is.
    async fn tell_due(&self, channel: &Channel) -> Result<Duration, StoreError> {
        let due = answered(self.store.claim_deliveries(channel.name, BATCH)).await?;
        let tried = due.len();
        // Each to its end, whatever Postgres does meanwhile.
        let ends: Vec<Result<(), StoreError>> = futures::stream::iter(due)
            .map(|delivery| async move { self.tell(channel, delivery).await })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        ends.into_iter().collect::<Result<(), _>>()?;
        if tried == AT_ONCE {
            return Ok(Duration::ZERO);
        }
        Ok(answered(self.store.next_delivery_in(channel.name)).await?.unwrap_or(Duration::MAX))
    }

    async fn tell(&self, channel: &Channel, delivery: DueDelivery) -> Result<(), StoreError> {
        match channel.send(&delivery.body).await {
            Ok(()) => {
                self.count(channel.name, "delivered");
                debug!(channel = channel.name, alert = delivery.body["alert"].as_str(), "alert delivered");
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

    /// The same for what is remembered; gives when the next is due.
    async fn tell_remembered(&self, channel: &Channel) -> Option<Duration> {
        let next = || {
            let mut remembered = self.remembered.lock();
            let place = remembered.iter().position(|one| one.channel == channel.name && one.next <= Instant::now())?;
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
                        "alert not delivered; Postgres is away, too"
                    );
                    one.tries += 1;
                    one.next = Instant::now() + wait(one.tries);
                    let mut remembered = self.remembered.lock();
                    // Unless a newer state has come meanwhile.
                    if !remembered.iter().any(|other| other.channel == one.channel && other.key == one.key) {
                        remembered.push(one);
                    }
                }
            }
        }
        let remembered = self.remembered.lock();
        let next = remembered.iter().filter(|one| one.channel == channel.name).map(|one| one.next).min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }
}

/// Before the try after this one.
fn wait(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LAST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes() {
        assert_eq!([1, 2, 3, 9, 10, 40].map(|tries| wait(tries).as_secs()), [1, 2, 4, 256, 300, 300]);
    }
}
