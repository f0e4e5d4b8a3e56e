//! Knows which queues exist, so that a typo does not look like an empty queue.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::SecondsFormat;
use patchbay_model::shell::word;
use patchbay_model::words::counted;
use patchbay_model::{PluginName, QueueName};
use patchbay_queue::Broker;
use patchbay_store::{Store, StoreError};
use serde_json::Value;

use crate::error::{Error, Kind};
use crate::nearest::{meant, unknown_plugin};
use crate::plugins::Plugins;

/// What a command that acts on an unknown queue says at the end.
const TO_CREATE: &str = " To create one with its first job: patchbay job add --new-queue";

/// Finds queues in Redis, in active manifests and in the history.
#[derive(Clone)]
pub struct Catalog {
    broker: Broker,
    store: Store,
    plugins: Arc<Plugins>,
}

impl Catalog {
    pub fn new(broker: Broker, store: Store, plugins: Arc<Plugins>) -> Self {
        Self {
            broker,
            store,
            plugins,
        }
    }

    pub async fn names(&self) -> Result<BTreeSet<QueueName>, Error> {
        let (names, missing) = self.names_now().await?;
        missing.map_or(Ok(names), |error| Err(error.into()))
    }

    /// As [`Self::names`]. While Postgres is away, without queues that are only in the history, and
    /// with its error.
    pub(super) async fn names_now(
        &self,
    ) -> Result<(BTreeSet<QueueName>, Option<StoreError>), Error> {
        let mut names: BTreeSet<QueueName> = self.broker.list().await?.into_iter().collect();
        names.extend(self.plugins.queues());
        match self.store.queues_with_history(self.broker.prefix()).await {
            Ok(more) => names.extend(more),
            Err(error) if error.is_passing() => return Ok((names, Some(error))),
            Err(error) => return Err(error.into()),
        }
        Ok((names, None))
    }

    /// Parses a name, and refuses a queue that does not exist.
    pub async fn known(&self, queue: &str) -> Result<QueueName, Error> {
        let queue: QueueName = queue.parse()?;
        // What is done to a queue creates none.
        let known = self.refuse_unknown(&queue).await;
        known.map_err(|error| match error.message.split_once(TO_CREATE) {
            Some((message, _)) => Error {
                message: message.to_owned(),
                ..error
            },
            None => error,
        })?;
        Ok(queue)
    }

    /// Fails for a queue that does not exist and must not be made under this name.
    pub async fn check_new_name(&self, queue: &QueueName) -> Result<(), Error> {
        let Err(odd) = queue.check_new() else {
            return Ok(());
        };
        // A queue with an odd name is accepted if another client has made it.
        self.refuse_unknown(queue)
            .await
            .map_err(|error| match error.kind {
                Kind::NotFound => odd.into(),
                _ => error,
            })
    }

    /// Fails when a filter that has matched nothing names a queue or plugin that does not exist: an
    /// empty list would hide the mistake.
    pub async fn check_filter(
        &self,
        queue: Option<&QueueName>,
        plugin: Option<&PluginName>,
    ) -> Result<(), Error> {
        if let Some(queue) = queue {
            let named = self.refuse_unknown(queue).await;
            named.map_err(|error| match error.kind {
                // A filter creates no queue. The kind is that of every other unknown queue.
                Kind::NotFound => {
                    let message = error.message.split(TO_CREATE).next();
                    Error {
                        message: format!("queue: {}", message.unwrap_or_default()),
                        ..error
                    }
                }
                _ => error,
            })?;
        }
        let Some(plugin) = plugin else {
            return Ok(());
        };
        let names = self.store.plugin_names().await?;
        if names.iter().any(|name| name == plugin.as_str()) {
            return Ok(());
        }
        let unknown = unknown_plugin(&self.store, plugin).await;
        Err(Error::invalid(format!("plugin: {unknown}")))
    }

    /// Fails for a queue that is in no active manifest, not in Redis, and not in the history.
    pub async fn refuse_unknown(&self, queue: &QueueName) -> Result<(), Error> {
        let known = self.plugins.handler_of(queue).is_some()
            || self.plugins.quarantined_handler_of(queue).is_some()
            || self.broker.exists(queue).await?
            || self.store.has_history(self.broker.prefix(), queue).await?;
        if known {
            return Ok(());
        }
        // Both may fail; the answer is the same.
        let name = word(queue.as_str());
        let last = self
            .store
            .last_actions(&["queue.obliterate"], &[queue.as_str()])
            .await;
        if let Some(removal) = last.unwrap_or_default().first() {
            let jobs = removal.result.as_ref().map(|result| &result["count"]);
            let jobs = counted(jobs.and_then(Value::as_u64).unwrap_or(0), "job");
            let message = format!(
                "There is no queue {name} any more: {} removed it with {jobs} at {}{}.{TO_CREATE}",
                removal.actor,
                removal.began_at.to_rfc3339_opts(SecondsFormat::Secs, true),
                removal.because()
            );
            return Err(Error::new(Kind::NotFound, "unknown-queue", message));
        }
        let names = self.names().await.unwrap_or_default();
        let suggestion = meant(queue.as_str(), names.iter().map(QueueName::as_str));
        let message = format!(
            "No queue is called {name}.{} To list queues: patchbay queue list.{TO_CREATE}",
            suggestion
        );
        Err(Error::new(Kind::NotFound, "unknown-queue", message))
    }
}
