//! Reconciles the job schedulers in Redis with the schedules in Postgres.
//!
//! Takes no input and is idempotent: it compares, and corrects every difference, whatever its cause
//! (a new revision, an operator, a flushed Redis, a scheduler that has lost its tick). Several
//! hosts may do it at once: a scheduler's id and tick name its job, so the same tick cannot be made
//! twice. What is right is not touched, since adding it again would move its next tick.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use patchbay_model::manifest::Manifest;
use patchbay_model::{PluginName, QueueName};
use patchbay_queue::{Broker, QueueError, SchedulerSpec, SchedulerView};
use patchbay_store::{Store, StoreError};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::rhythm::{spec, wanted};
use crate::Parts;
use crate::service::{Service, task};

/// Interval without a notification. It bounds how long a lost schedule stays lost.
const EVERY: Duration = Duration::from_secs(30);

/// Makes Redis tick as Postgres wants, again and again.
pub fn reconciler(parts: &Parts) -> Arc<dyn Service> {
    let schedules = Arc::clone(&parts.schedules);
    task("schedules", move |stop| {
        Arc::clone(&schedules).keep_reconciling(stop)
    })
}

pub struct Reconciler {
    store: Store,
    queues: Broker,
    changed: Notify,
    /// One reconciliation at a time in this process.
    reconciling: Mutex<()>,
}

impl Reconciler {
    /// Does nothing yet; see [`reconciler`].
    pub fn new(store: Store, queues: Broker) -> Arc<Self> {
        Arc::new(Self {
            store,
            queues,
            changed: Notify::new(),
            reconciling: Mutex::default(),
        })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn queues(&self) -> &Broker {
        &self.queues
    }

    /// Requests a reconciliation at once. To be called after a change.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    async fn keep_reconciling(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.reconcile().await {
                error!(
                    error = format!("{error:#}"),
                    "schedules are not reconciled; those in Redis continue"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Reconciles once.
    pub async fn reconcile(&self) -> anyhow::Result<()> {
        let _one_at_a_time = self.reconciling.lock().await;
        self.take_over_manifests().await?;
        let mut by_queue: HashMap<QueueName, Vec<(SchedulerSpec, bool)>> = HashMap::new();
        let mut ours = HashSet::new();
        for row in self.store.schedules().await? {
            match spec(&row, self.queues.default_zone()) {
                Ok((queue, spec)) => {
                    ours.insert((queue.clone(), row.id.clone()));
                    by_queue
                        .entry(queue)
                        .or_default()
                        .push((spec, row.paused_by.is_some()));
                }
                Err(reason) => {
                    error!(
                        schedule = row.id,
                        reason, "A stored schedule cannot be used and has no ticks. Edit it"
                    )
                }
            }
        }
        // Also queues without any schedule now: schedulers that Patchbay once made there must be
        // removed.
        let known = self.queues.known_schedules().await?;
        for (queue, _) in &known {
            by_queue.entry(queue.clone()).or_default();
        }
        for (queue, wanted) in by_queue {
            match self.mend_queue(&queue, &wanted, &known).await {
                Ok(()) => {}
                // Other queues must not suffer. The schedulers of this queue stay known, so that
                // they can be removed later.
                Err(error @ QueueError::Damaged { .. }) => {
                    error!(%queue, %error, "the schedules of a queue are not reconciled");
                    ours.extend(known.iter().filter(|(other, _)| other == &queue).cloned());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.queues.set_known_schedules(&ours).await?;
        self.revive().await
    }

    /// Gives back a lost next tick to job schedulers of other clients, in queues that are handled
    /// here. No other program does that.
    async fn revive(&self) -> anyhow::Result<()> {
        for queue in self.queues.handled() {
            match self.queues.revive_schedulers(&queue).await {
                Ok(revived) => revived.iter().for_each(|schedule| {
                    warn!(%queue, schedule, "a job scheduler of another client had no next tick; it was restored");
                }),
                Err(error @ QueueError::Damaged { .. }) => {
                    error!(%queue, %error, "the job schedulers of other clients are not checked");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn mend_queue(
        &self,
        queue: &QueueName,
        wanted: &[(SchedulerSpec, bool)],
        known: &HashSet<(QueueName, String)>,
    ) -> Result<(), QueueError> {
        let there = self.queues.schedulers(queue).await?;
        self.mend(queue, wanted, &there).await?;
        let is_ours = |view: &SchedulerView| known.contains(&(queue.clone(), view.id.clone()));
        for stray in there
            .iter()
            .filter(|view| is_ours(view) && !is_wanted(wanted, view))
        {
            // Patchbay made it, but it is not wanted here any more: removed, paused, or moved to
            // another queue.
            self.queues.remove_scheduler(queue, &stray.id).await?;
            info!(%queue, schedule = stray.id, "schedule removed from Redis");
        }
        Ok(())
    }

    async fn mend(
        &self,
        queue: &QueueName,
        wanted: &[(SchedulerSpec, bool)],
        there: &[SchedulerView],
    ) -> Result<(), QueueError> {
        for (spec, paused) in wanted {
            let view = there.iter().find(|view| view.id == spec.id.as_str());
            match (paused, view) {
                (true, None) => {}
                (true, Some(_)) => {
                    self.queues
                        .remove_scheduler(queue, spec.id.as_str())
                        .await?;
                    info!(%queue, schedule = %spec.id, "schedule paused");
                }
                (false, Some(view)) if spec.stands_as(view) => {}
                (false, _) => match self.queues.put_scheduler(queue, spec).await {
                    Ok(()) => info!(%queue, schedule = %spec.id, "schedule put in place"),
                    // The other schedules must not suffer.
                    Err(error) => {
                        warn!(%queue, schedule = %spec.id, %error, "schedule not put in place")
                    }
                },
            }
        }
        Ok(())
    }

    /// Stores the schedules of active manifests as rows, including those of quarantined plugins.
    /// Removes those of plugins that are no longer active.
    async fn take_over_manifests(&self) -> Result<(), StoreError> {
        let mut gone: HashSet<PluginName> = self
            .store
            .plugins_with_schedules()
            .await?
            .into_iter()
            .collect();
        for row in self.store.revisions(None).await? {
            if !row.is_current {
                continue;
            }
            match Manifest::from_stored(row.manifest.clone()) {
                Ok(manifest) if manifest.schedules.is_empty() && !gone.contains(&row.plugin) => {}
                Ok(manifest) => {
                    gone.remove(&row.plugin);
                    self.store
                        .sync_schedules(&row.plugin, &wanted(&manifest))
                        .await?;
                }
                Err(error) => {
                    gone.remove(&row.plugin);
                    warn!(plugin = %row.plugin, %error, "its stored manifest cannot be read; its schedules stay");
                }
            }
        }
        for plugin in gone {
            self.store.sync_schedules(&plugin, &[]).await?;
        }
        Ok(())
    }
}

fn is_wanted(wanted: &[(SchedulerSpec, bool)], view: &SchedulerView) -> bool {
    wanted
        .iter()
        .any(|(spec, paused)| spec.id.as_str() == view.id && !paused)
}
