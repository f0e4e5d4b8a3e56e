//! Convergence: makes this process run what Postgres says is active. Owns the only way into the
//! registry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use patchbay_model::grant::{Ask, Granted};
use patchbay_model::manifest::Manifest;
use patchbay_model::signature::Signature;
use patchbay_model::{PluginName, RevisionDigest};
use patchbay_runtime::{Revision, RuntimeError};
use patchbay_store::{ActiveRow, Failure, SignatureRow, StoreError};
use patchbay_work::redactions::Paths;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::permissions::tables;
use super::redactions::by_queue;
use super::route_table::Source;
use super::unavailable::Unavailable;
use super::{PluginError, Plugins, RouteTable, Runner};
use crate::Parts;
use crate::service::Service;
use crate::snapshot::OfflineSnapshot;

/// Name of the snapshot of the active plugins.
const COPY: &str = "plugins.json";
/// Name of the snapshot of what is redacted.
const REDACTIONS: &str = "redactions.json";
/// Interval of convergence without a notification. It bounds how long a lost notification goes
/// unnoticed.
const RECONCILE_EVERY: Duration = Duration::from_secs(3);
/// A process that has not read Postgres for this long may run outdated plugins.
pub const STALE_AFTER: Duration = Duration::from_secs(15);

/// Converges when notified, and every few seconds without it; leaves the fleet at the end.
pub fn converger(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(Converger(Arc::clone(&parts.plugins)))
}

struct Converger(Arc<Plugins>);

#[async_trait]
impl Service for Converger {
    fn name(&self) -> &'static str {
        "plugin-converger"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.0.woken.notified() => {}
                () = tokio::time::sleep(RECONCILE_EVERY) => {}
            }
            if let Err(error) = self.0.converge().await {
                error!(error = %error, "cannot read the active plugins; continuing with the last known ones");
            }
        }
    }

    async fn finish(&self) -> anyhow::Result<()> {
        self.0
            .leave()
            .await
            .context("the other hosts could not be notified of this stop")
    }
}

/// The part of an active plugin that a start without Postgres needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SnapshotPlugin {
    plugin: PluginName,
    digest: RevisionDigest,
    settings: Value,
    granted: Vec<Ask>,
    /// In the form of `.sig` files.
    signatures: Vec<String>,
}

impl Plugins {
    /// Why the active revision of a plugin does not run here. `None` when it does.
    pub fn failure(&self, plugin: &PluginName) -> Option<String> {
        let failures = self.failures.lock();
        failures.get(plugin).map(|failure| failure.reason.clone())
    }

    /// Whether this process may run outdated plugins: it has not seen Postgres for [`STALE_AFTER`].
    pub fn is_stale(&self) -> bool {
        let at = *self.converged_at.lock();
        at.is_none_or(|at| at.elapsed() > STALE_AFTER)
    }

    /// Time since Postgres was last read with success. `None` before the first time.
    pub fn converged_ago(&self) -> Option<Duration> {
        self.converged_at.lock().map(|at| at.elapsed())
    }

    /// When each active revision was activated, from Postgres, so the same on every host.
    pub fn activated(&self) -> HashMap<RevisionDigest, DateTime<Utc>> {
        self.activated.lock().clone()
    }

    /// Makes registry, settings and workers match Postgres. When a revision cannot be loaded, the
    /// incumbent goes on running.
    pub async fn converge(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.converging.lock().await;
        let active = self.store.active_set().await?;
        // This is first, so that jobs of a revision that was just quarantined do not use up
        // attempts.
        let quarantined = self.store.quarantined().await?;
        self.quarantine.publish(quarantined.clone());
        // Before a revision leaves the registry: its jobs stay, and must not be shown unredacted in
        // between.
        let redactions = by_queue(self.store.redactions().await?);
        self.redactions.publish(redactions.clone());
        let registry = self.runtime.registry();
        let mut failures = HashMap::new();
        let mut changed = false;
        // A revoked grant must not wait until a revision is compiled.
        for row in active.iter().filter(|row| row.grants_adopted) {
            self.grants
                .publish(&row.plugin, Arc::new(row.granted.iter().cloned().collect()));
        }
        for row in &active {
            let current = registry.get(&row.plugin);
            let revision = match current.filter(|revision| revision.digest() == row.digest) {
                Some(current) => current,
                None => match self.load(&row.plugin, &row.digest).await {
                    Ok(revision) => revision,
                    Err(error) => {
                        error!(plugin = %row.plugin, revision = %row.digest, error = %error, "active revision cannot be loaded; the previous one keeps running");
                        failures.insert(
                            row.plugin.clone(),
                            Failure {
                                digest: row.digest,
                                reason: error.to_string(),
                            },
                        );
                        if let Some(incumbent) =
                            registry.get(&row.plugin).filter(|_| row.grants_adopted)
                        {
                            self.permit(row, incumbent.manifest()).await?;
                        }
                        continue;
                    }
                },
            };
            // Grants and settings first: the new revision must not get a call without them.
            self.permit(row, revision.manifest()).await?;
            self.settings.publish(
                &row.plugin,
                self.settings.effective(revision.manifest(), &row.settings),
            );
            if registry
                .get(&row.plugin)
                .is_none_or(|running| running.digest() != row.digest)
            {
                let version = revision.manifest().version.to_string();
                let previous = registry.publish(revision);
                changed = true;
                // Not at the start, since nothing is deployed then.
                if self.converged_ago().is_some() {
                    let previous = previous.as_ref().map(|revision| revision.digest().short());
                    self.traces.mark_takeover(
                        row.plugin.as_str(),
                        &row.digest.short(),
                        &version,
                        previous.as_deref(),
                    );
                }
                info!(plugin = %row.plugin, revision = %row.digest, previous = previous.map(|p| p.digest().to_string()), "revision takes over");
            }
        }
        for running in registry.snapshot() {
            if !active.iter().any(|row| &row.plugin == running.plugin()) {
                registry.remove(running.plugin());
                changed = true;
                info!(plugin = %running.plugin(), "plugin stopped");
            }
        }
        let activated = active
            .iter()
            .filter_map(|row| Some((row.digest, row.activated_at?)))
            .collect();
        *self.activated.lock() = activated;
        let unavailable = self.unavailable(&quarantined, &failures).await?;
        self.publish_routes(unavailable.clone());
        *self.failures.lock() = failures;
        self.workers.reconcile().await;
        if let (true, Some(tell)) = (changed, self.on_change.get()) {
            tell();
        }
        *self.converged_at.lock() = Some(Instant::now());
        // Running plugins depend neither on the report nor on the snapshot.
        self.keep_unavailable(&unavailable).await;
        if let Err(error) = self.tell(&active, redactions).await {
            warn!(%error, "the plugins that run here could not be reported; other hosts, or the next start without Postgres, may not know them");
        }
        Ok(())
    }

    /// The routes of the active plugins, as they are now.
    pub fn route_table(&self) -> Arc<RouteTable> {
        self.route_table.load_full()
    }

    /// Serves the routes of what runs here. Those of plugins that should run stay, and say that the
    /// plugin is unavailable; of deactivated ones, only the webhooks stay.
    fn publish_routes(&self, unavailable: Vec<Unavailable>) {
        let activated = self.activated();
        let mut running = self.runtime.registry().snapshot().to_vec();
        running.sort_by_key(|revision| {
            (
                activated.get(&revision.digest()).copied(),
                revision.plugin().clone(),
            )
        });
        let running = running.into_iter().map(|revision| {
            let (digest, manifest) = (revision.digest(), Arc::clone(revision.manifest()));
            // One with routes exports operations, one with webhooks webhooks.
            (digest, manifest, Runner::Revision(revision))
        });
        let sources = running
            .chain(unavailable)
            .map(|(digest, manifest, runner)| Source {
                granted: self.grants.of(&manifest.name),
                digest,
                manifest,
                runner,
            });
        let (previous, sources) = (self.route_table(), sources.collect());
        // Schemas are compiled.
        let built = block_in_place(|| RouteTable::build(&previous, sources));
        let Some((table, left_out)) = built else {
            return;
        };
        for (plugin, overlap) in left_out {
            error!(%plugin, %overlap, "none of the plugin's routes and webhooks take requests on this host");
        }
        self.route_table.store(Arc::new(table));
    }

    async fn tell(&self, active: &[ActiveRow], redactions: Paths) -> Result<(), StoreError> {
        self.report().await?;
        self.keep_redactions(redactions).await;
        self.keep_copy(active).await
    }

    /// Converges this process now, for the caller that made a change. The other hosts are notified.
    pub(super) async fn take_effect(&self) -> Result<(), PluginError> {
        self.converge().await.map_err(PluginError::NotInEffectYet)
    }

    /// Whether [`Plugins::start_from_snapshot`] has anything to start.
    pub fn has_copy(copy: &OfflineSnapshot) -> bool {
        copy.load::<Vec<SnapshotPlugin>>(COPY).is_some()
    }

    /// Starts the active plugins; from the snapshot while Postgres `is_away`.
    pub async fn begin(&self, is_away: bool) -> anyhow::Result<()> {
        if is_away {
            let running = self.start_from_snapshot().await;
            info!(plugins = running, "started from the snapshot");
            return Ok(());
        }
        self.converge()
            .await
            .context("cannot read the active plugins")?;
        self.forget_killed_neighbours()
            .await
            .context("cannot use Postgres")
    }

    /// Runs the plugins of the snapshot, for a start while Postgres is away. Returns how many run.
    async fn start_from_snapshot(&self) -> usize {
        let _one_at_a_time = self.converging.lock().await;
        let registry = self.runtime.registry();
        self.redactions
            .publish(self.copy.load(REDACTIONS).unwrap_or_default());
        let copied: Vec<SnapshotPlugin> = self.copy.load(COPY).unwrap_or_default();
        for plugin in &copied {
            match self.load_copied(plugin).await {
                Ok(revision) => {
                    self.grants.publish(
                        &plugin.plugin,
                        Arc::new(plugin.granted.iter().cloned().collect()),
                    );
                    let settings = self
                        .settings
                        .effective(revision.manifest(), &plugin.settings);
                    self.settings.publish(&plugin.plugin, settings);
                    registry.publish(revision);
                }
                Err(error) => {
                    error!(plugin = %plugin.plugin, revision = %plugin.digest, %error, "the snapshot of an active revision cannot be loaded");
                    let failure = Failure {
                        digest: plugin.digest,
                        reason: error.to_string(),
                    };
                    self.failures.lock().insert(plugin.plugin.clone(), failure);
                }
            }
        }
        self.publish_routes(self.unavailable_of_snapshot());
        self.workers.reconcile().await;
        if let Some(tell) = self.on_change.get() {
            tell();
        }
        registry.snapshot().len()
    }

    async fn load_copied(&self, plugin: &SnapshotPlugin) -> Result<Arc<Revision>, PluginError> {
        let signatures: Vec<Signature> = plugin
            .signatures
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        self.check_signatures(&plugin.digest, &signatures)?;
        let component = self.copy.component(&plugin.digest);
        let component = component
            .ok_or_else(|| PluginError::NotFound("Its file is not in the local copy".into()))?;
        of_plugin(self.runtime.load(&component).await?, &plugin.plugin)
    }

    /// Writes the redactions to the snapshot.
    async fn keep_redactions(&self, redactions: Paths) {
        let mut copied = self.copied_redactions.lock().await;
        if copied.as_ref() == Some(&redactions) {
            return;
        }
        let (copy, current) = (self.copy.clone(), redactions.clone());
        tokio::task::spawn_blocking(move || copy.save(REDACTIONS, &current))
            .await
            .ok();
        *copied = Some(redactions);
    }

    /// Writes what runs here to the snapshot.
    async fn keep_copy(&self, active: &[ActiveRow]) -> Result<(), StoreError> {
        let mut copied = self.copied.lock().await;
        let running = active
            .iter()
            .filter(|row| self.running(&row.plugin) == Some(row.digest));
        let mut current: Vec<SnapshotPlugin> = running
            .map(|row| SnapshotPlugin {
                plugin: row.plugin.clone(),
                digest: row.digest,
                settings: row.settings.clone(),
                granted: row.granted.clone(),
                signatures: copied
                    .iter()
                    .find(|plugin| plugin.digest == row.digest)
                    .map(|plugin| plugin.signatures.clone())
                    .unwrap_or_default(),
            })
            .collect();
        if *copied == current {
            return Ok(());
        }
        for plugin in &mut current {
            let rows = self.store.signatures(&plugin.digest).await?;
            plugin.signatures = rows
                .iter()
                .filter_map(SignatureRow::signature)
                .map(|signature| signature.to_string())
                .collect();
        }
        copied.clone_from(&current);
        // A held revision may be the next to run.
        let (copy, mut wanted) = (self.copy.clone(), self.runtime.held());
        let write = tokio::task::spawn_blocking(move || {
            copy.save(COPY, &current);
            wanted.extend(current.iter().map(|plugin| plugin.digest));
            copy.keep_only(&wanted);
        });
        write.await.ok();
        Ok(())
    }

    /// Applies the grants to the next calls, and to the plugin's database login.
    async fn permit(&self, row: &ActiveRow, manifest: &Manifest) -> Result<(), StoreError> {
        let granted: Granted = if row.grants_adopted {
            Arc::new(row.granted.iter().cloned().collect())
        } else {
            let asks: Vec<Ask> = manifest.asks().into_iter().collect();
            self.store.adopt_grants(&row.plugin, &asks).await?;
            Arc::new(asks.into_iter().collect())
        };
        self.grants.publish(&row.plugin, Arc::clone(&granted));
        let tables = tables(manifest, |ask| granted.contains(ask));
        if let Err(error) = self.sql.reconcile(&row.plugin, &tables).await {
            error!(plugin = %row.plugin, %error, "the plugin's database login cannot be used; the plugin cannot run SQL");
        }
        Ok(())
    }

    /// Requests a convergence at once. To be called when something may have changed.
    pub fn changed(&self) {
        self.woken.notify_one();
    }

    /// Loads a revision from Postgres into the registry. Postgres may hold another file than the
    /// one that was staged. A revision that is loaded already was checked when it was read from
    /// there.
    pub(super) async fn load(
        &self,
        plugin: &PluginName,
        digest: &RevisionDigest,
    ) -> Result<Arc<Revision>, PluginError> {
        self.check_kept_signatures(digest).await?;
        if let Some(loaded) = self
            .runtime
            .loaded(digest)
            .filter(|_| self.copy.has_component(digest))
        {
            return of_plugin(loaded, plugin);
        }
        let component = self.stored(digest).await?;
        let revision = of_plugin(self.runtime.load(&component).await?, plugin)?;
        let (copy, digest) = (self.copy.clone(), *digest);
        tokio::task::spawn_blocking(move || copy.keep_component(&digest, &component))
            .await
            .ok();
        Ok(revision)
    }

    async fn check_kept_signatures(&self, digest: &RevisionDigest) -> Result<(), PluginError> {
        // Checks the digest only, so that a revision without a trusted signature is not read from
        // Postgres at each convergence.
        if self.trusted.are_required() {
            let kept: Vec<Signature> = self
                .store
                .signatures(digest)
                .await?
                .iter()
                .filter_map(SignatureRow::signature)
                .collect();
            self.check_signatures(digest, &kept)?;
        }
        Ok(())
    }

    fn check_signatures(
        &self,
        digest: &RevisionDigest,
        kept: &[Signature],
    ) -> Result<(), PluginError> {
        if self.trusted.are_required() {
            Ok(self.trusted.check(digest, kept)?)
        } else {
            Ok(())
        }
    }

    /// Reads the file. Fails if it is not the one that was staged.
    pub(super) async fn stored(&self, digest: &RevisionDigest) -> Result<Vec<u8>, PluginError> {
        let component = self.store.component(digest).await?;
        let component = component.ok_or_else(|| gone(digest))?;
        // Files are megabytes, so this does not run on the threads that answer health probes.
        let hash = move || (RevisionDigest::of(&component), component);
        let (found, component) = tokio::task::spawn_blocking(hash).await.map_err(|error| {
            let message = format!("reading it panicked: {error}");
            PluginError::Runtime(RuntimeError::Engine(message))
        })?;
        if found == *digest {
            Ok(component)
        } else {
            Err(changed(&found, digest))
        }
    }

    /// Checks, without reading the file, that it is the one that was staged: this host may hold it
    /// already, but the others need it from Postgres.
    pub(super) async fn check_stored(&self, digest: &RevisionDigest) -> Result<(), PluginError> {
        match self.store.component_digest(digest).await? {
            Some(found) if found == *digest => Ok(()),
            Some(found) => Err(changed(&found, digest)),
            None => Err(gone(digest)),
        }
    }
}

fn gone(digest: &RevisionDigest) -> PluginError {
    PluginError::NotFound(format!("Revision {digest} is no longer in Postgres"))
}

fn changed(found: &RevisionDigest, wanted: &RevisionDigest) -> PluginError {
    let (found, wanted) = (found.short(), wanted.short());
    PluginError::Damaged(format!(
        "The stored file of revision {wanted} has changed: its digest is {found} now. Push it again"
    ))
}

fn of_plugin(revision: Arc<Revision>, plugin: &PluginName) -> Result<Arc<Revision>, PluginError> {
    if revision.plugin() != plugin {
        let (digest, owner) = (revision.digest().short(), revision.plugin());
        return Err(PluginError::Damaged(format!(
            "Revision {digest} belongs to plugin {owner}, not to {plugin}"
        )));
    }
    Ok(revision)
}
