//! The other processes: what each reports of its plugins, and whether all follow an activation.

use std::time::{Duration, Instant};

use patchbay_api::plugins::HostView;
use patchbay_model::{PluginName, RevisionDigest};
use patchbay_store::{HostRow, Report, Running, StoreError};

use super::Plugins;

/// Longest wait of an activation for the other processes. They usually follow within 50 ms; a
/// compilation takes longer.
const FOLLOW_LIMIT: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(25);

impl Plugins {
    /// Reports to the others which revisions this process runs.
    pub(super) async fn report(&self) -> Result<(), StoreError> {
        let failures = self.failures.lock().clone();
        let mut report: Report = failures
            .into_iter()
            .map(|(plugin, failure)| {
                (
                    plugin,
                    Running {
                        digest: None,
                        failure: Some(failure),
                    },
                )
            })
            .collect();
        for revision in self.runtime.registry().snapshot() {
            let running = report.entry(revision.plugin().clone()).or_insert(Running {
                digest: None,
                failure: None,
            });
            running.digest = Some(revision.digest());
        }
        let version = env!("CARGO_PKG_VERSION");
        let hosts = self.store.report(&self.host, version, &report).await?;
        self.local_rates.set_hosts(hosts);
        Ok(())
    }

    /// Removes this process, which ends, so that nobody waits for it.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        self.store.leave(&self.host).await
    }

    /// Removes processes of this machine that no longer exist and could not report their end. If
    /// one only seems to be gone, because it has another process namespace, its next report adds it
    /// again.
    pub(super) async fn forget_killed_neighbours(&self) -> Result<(), StoreError> {
        let machine = |host: &str| {
            host.rsplit_once(':')
                .map(|(machine, pid)| (machine.to_owned(), pid.to_owned()))
        };
        let Some((here, _)) = machine(&self.host) else {
            return Ok(());
        };
        for row in self.store.hosts().await? {
            let killed = machine(&row.host).is_some_and(|(there, pid)| {
                there == here && !std::path::Path::new("/proc").join(pid).exists()
            });
            if killed {
                self.store.leave(&row.host).await?;
            }
        }
        Ok(())
    }

    /// How each process runs the active revision of a plugin.
    pub async fn hosts(
        &self,
        plugin: &PluginName,
        active: &RevisionDigest,
    ) -> Result<Vec<HostView>, StoreError> {
        Ok(self
            .store
            .hosts()
            .await?
            .into_iter()
            .map(|row| state(row, plugin, active))
            .collect())
    }

    /// Waits until every process that answers runs this revision or reports why it does not; at
    /// most a second.
    pub(super) async fn wait_for_fleet(
        &self,
        plugin: &PluginName,
        active: &RevisionDigest,
    ) -> Result<Vec<HostView>, StoreError> {
        let until = Instant::now() + FOLLOW_LIMIT;
        loop {
            let hosts = self.hosts(plugin, active).await?;
            let settled = |host: &HostView| {
                host.is_current || host.failure.is_some() || host.silent_s.is_some()
            };
            if hosts.iter().all(settled) || Instant::now() >= until {
                return Ok(hosts);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn state(mut row: HostRow, plugin: &PluginName, active: &RevisionDigest) -> HostView {
    let found = row.plugins.remove(plugin);
    let (running, failure) = found.map_or((None, None), |found| (found.digest, found.failure));
    HostView {
        host: row.host,
        version: row.version,
        running,
        is_current: running == Some(*active),
        failure: failure
            .filter(|failure| failure.digest == *active)
            .map(|failure| failure.reason),
        silent_s: row.silent_for.map(|silent| silent.as_secs()),
    }
}
