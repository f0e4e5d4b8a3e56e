//! Hears, on one connection, what changes in Postgres about who somebody is: accounts, sessions,
//! operators, keys. Whoever remembers something of it is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_store::{IdentityChange, Store};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Parts;
use crate::remembered::Asked;
use crate::service::{Service, task};

/// Between two looks at whether changes are still heard.
const PING_EVERY: Duration = Duration::from_millis(500);
const RETRY_AFTER: Duration = Duration::from_millis(500);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Remembers something that changes. See [`crate::remembered::Remembered`].
pub(crate) trait Follower: Send + Sync {
    /// Whether changes are heard from now on. Until then some may have been missed.
    fn set_hears(&self, hears: bool);
    fn changed(&self, change: &IdentityChange);
    /// How often it was asked for something that it may remember.
    fn asked(&self) -> Asked {
        Asked::default()
    }
}

/// Who is told of changes.
pub(crate) struct IdentityChanges {
    store: Store,
    followers: Vec<Arc<dyn Follower>>,
    /// Since when changes are not heard; absent while they are.
    deaf_since: Mutex<Option<Instant>>,
}

/// Hears of changes, and tells them.
pub fn service(parts: &Parts) -> Arc<dyn Service> {
    let changes = Arc::clone(&parts.identity_changes);
    task("identity", move |stop| {
        let changes = Arc::clone(&changes);
        async move { changes.hear(stop).await }
    })
}

impl IdentityChanges {
    pub(crate) fn new(store: Store, followers: Vec<Arc<dyn Follower>>) -> Self {
        Self {
            store,
            followers,
            deaf_since: Mutex::new(Some(Instant::now())),
        }
    }

    /// For how long changes have not been heard; absent while they are, and while nothing is
    /// remembered anyway.
    pub(crate) fn deaf_for(&self) -> Option<Duration> {
        let since = self
            .deaf_since
            .lock()
            .filter(|_| !self.followers.is_empty());
        since.map(|since| since.elapsed())
    }

    pub(crate) fn asked(&self) -> Asked {
        let each = self.followers.iter().map(|follower| follower.asked());
        each.fold(Asked::default(), |sum, one| sum + one)
    }

    fn set_hears(&self, hears: bool) {
        {
            let mut deaf_since = self.deaf_since.lock();
            match hears {
                true => *deaf_since = None,
                false => {
                    deaf_since.get_or_insert_with(Instant::now);
                }
            }
        }
        for follower in &self.followers {
            follower.set_hears(hears);
        }
    }

    fn tell(&self, change: &IdentityChange) {
        for follower in &self.followers {
            follower.changed(change);
        }
    }

    async fn hear(&self, stop: CancellationToken) {
        let listening = async {
            let mut changes = self.store.identity_changes();
            let mut was_up = true;
            loop {
                if let Ok(Ok(())) = tokio::time::timeout(CONNECT_WITHIN, changes.listen()).await {
                    self.set_hears(true);
                    if !was_up {
                        info!("changes of accounts and keys are heard again");
                    }
                    was_up = true;
                    while let Ok(heard) = changes.next(PING_EVERY, PING_EVERY).await {
                        if let Some(change) = heard {
                            self.tell(&change);
                        }
                    }
                }
                self.set_hears(false);
                if was_up {
                    warn!(
                        "changes of accounts and keys are not heard: every request asks Postgres until they are"
                    );
                }
                was_up = false;
                tokio::time::sleep(RETRY_AFTER).await;
            }
        };
        stop.run_until_cancelled(listening).await;
        self.set_hears(false);
    }
}
