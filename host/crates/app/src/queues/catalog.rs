//! Which queues there are: a typo must not look like an empty queue.

use std::collections::BTreeSet;
use std::sync::Arc;

use patchbay_model::QueueName;
use patchbay_model::shell::word;
use patchbay_queue::Broker;
use patchbay_store::Store;

use crate::error::{Error, Kind};
use crate::plugins::Plugins;

/// Knows queues by Redis, by active manifests and by the history.
#[derive(Clone)]
pub struct Catalog {
    broker: Broker,
    store: Store,
    plugins: Arc<Plugins>,
}

impl Catalog {
    pub fn new(broker: Broker, store: Store, plugins: Arc<Plugins>) -> Self {
        Self { broker, store, plugins }
    }

    /// Every one.
    pub async fn names(&self) -> Result<BTreeSet<QueueName>, Error> {
        let mut names: BTreeSet<QueueName> = self.broker.list().await?.into_iter().collect();
        names.extend(self.plugins.queues());
        names.extend(self.store.queues_with_history(self.broker.prefix()).await?);
        Ok(names)
    }

    /// Reads a name, and refuses one that nobody knows.
    pub async fn known(&self, queue: &str) -> Result<QueueName, Error> {
        let queue: QueueName = queue.parse()?;
        self.refuse_unknown(&queue).await?;
        Ok(queue)
    }

    /// Fails for a queue that nobody knows and that must not be made under this name.
    pub async fn refuse_odd_new(&self, queue: &QueueName) -> Result<(), Error> {
        let Err(odd) = queue.check_new() else { return Ok(()) };
        // Somebody else has made it.
        self.refuse_unknown(queue).await.map_err(|error| match error.kind {
            Kind::NotFound => odd.into(),
            _ => error,
        })
    }

    /// Fails for one that neither an active manifest names nor Redis nor the history knows.
    pub async fn refuse_unknown(&self, queue: &QueueName) -> Result<(), Error> {
        let known = self.plugins.handler_of(queue).is_some()
            || self.plugins.quarantined_handler_of(queue).is_some()
            || self.broker.exists(queue).await?
            || self.store.has_history(self.broker.prefix(), queue).await?;
        if known {
            return Ok(());
        }
        let message = format!(
            "there is no queue {}; see: patchbay queue list. A new one begins with: patchbay job add --new-queue",
            word(queue.as_str())
        );
        Err(Error::new(Kind::NotFound, "unknown-queue", message))
    }
}
