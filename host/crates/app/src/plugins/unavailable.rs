//! Plugins that do not answer, and whose paths stay all the same: quarantined, not loadable here, or
//! deactivated. What vendors send to their webhooks is kept, or refused, as their manifests say.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::grant::Ask;
use patchbay_model::manifest::Manifest;
use patchbay_model::quarantine::Quarantine;
use patchbay_model::{PluginName, RevisionDigest};
use patchbay_store::{Failure, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use super::conflicts::manifest_of;
use super::{Plugins, Runner, manifest_value};

/// Name of the snapshot of these plugins.
const COPY: &str = "unavailable.json";

/// A revision that does not answer, and why.
pub(super) type Unavailable = (RevisionDigest, Arc<Manifest>, Runner);

/// The part of it that a start without Postgres needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Copied {
    digest: RevisionDigest,
    manifest: Value,
    granted: Vec<Ask>,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Why {
    Quarantined(String),
    NotLoaded(String),
    Deactivated(String),
}

fn since(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

impl Plugins {
    /// All of them. Makes their grants known: the check of a webhook needs that of its secret.
    pub(super) async fn unavailable(
        &self,
        quarantined: &[Quarantine],
        failures: &HashMap<PluginName, Failure>,
    ) -> Result<Vec<Unavailable>, StoreError> {
        let mut found = Vec::new();
        for row in quarantined.iter().filter(|row| row.is_current) {
            let Ok(manifest) = Manifest::from_stored(row.manifest.clone()) else {
                continue;
            };
            if !manifest.webhooks.is_empty() {
                let granted = self.store.granted(&row.plugin).await?;
                let granted = granted.into_iter().collect();
                self.grants.publish(&row.plugin, Arc::new(granted));
            }
            let runner = Runner::Quarantined(since(row.began_at));
            found.push((row.digest, Arc::new(manifest), runner));
        }
        found.extend(self.not_loaded(failures).await?);
        for row in self.store.deactivated_with_webhooks().await? {
            let manifest = match self.route_table().manifest(&row.digest) {
                Some(known) => Arc::clone(known),
                None => match Manifest::from_stored(row.manifest) {
                    Ok(manifest) => Arc::new(manifest),
                    Err(error) => {
                        warn!(plugin = %row.plugin, %error, "the manifest of a deactivated plugin cannot be read: its webhooks answer 404");
                        continue;
                    }
                },
            };
            self.grants
                .publish(&row.plugin, Arc::new(row.granted.into_iter().collect()));
            found.push((row.digest, manifest, Runner::Deactivated(since(row.at))));
        }
        Ok(found)
    }

    /// Revisions that should run, and do not, where no other one of the plugin runs.
    async fn not_loaded(
        &self,
        failures: &HashMap<PluginName, Failure>,
    ) -> Result<Vec<Unavailable>, StoreError> {
        let mut found = Vec::new();
        for (plugin, failure) in failures {
            if self.runtime.registry().get(plugin).is_some() {
                continue;
            }
            let known = self.route_table().manifest(&failure.digest).cloned();
            let manifest = match known {
                Some(known) => Some(known),
                None => {
                    let rows = self.store.revisions(Some(plugin)).await?;
                    let row = rows.iter().find(|row| row.digest == failure.digest);
                    row.and_then(|row| manifest_of(row).ok()).map(Arc::new)
                }
            };
            let runner = Runner::NotLoaded(failure.reason.clone());
            found.extend(manifest.map(|manifest| (failure.digest, manifest, runner)));
        }
        Ok(found)
    }

    /// Writes those with webhooks to the snapshot.
    pub(super) async fn keep_unavailable(&self, unavailable: &[Unavailable]) {
        let with_webhooks = unavailable
            .iter()
            .filter(|(_, manifest, _)| !manifest.webhooks.is_empty());
        let current: Vec<Copied> = with_webhooks
            .filter_map(|(digest, manifest, runner)| {
                let mut granted: Vec<Ask> =
                    self.grants.of(&manifest.name).iter().cloned().collect();
                granted.sort();
                Some(Copied {
                    digest: *digest,
                    manifest: manifest_value(manifest),
                    granted,
                    why: match runner {
                        Runner::Revision(_) => return None,
                        Runner::Quarantined(since) => Why::Quarantined(since.clone()),
                        Runner::NotLoaded(reason) => Why::NotLoaded(reason.clone()),
                        Runner::Deactivated(since) => Why::Deactivated(since.clone()),
                    },
                })
            })
            .collect();
        let mut copied = self.copied_unavailable.lock().await;
        if copied.as_ref() == Some(&current) {
            return;
        }
        let (copy, rows) = (self.copy.clone(), current.clone());
        tokio::task::spawn_blocking(move || copy.save(COPY, &rows))
            .await
            .ok();
        *copied = Some(current);
    }

    /// Those of the snapshot, with their grants.
    pub(super) fn unavailable_of_snapshot(&self) -> Vec<Unavailable> {
        let copied: Vec<Copied> = self.copy.load(COPY).unwrap_or_default();
        let each = copied.into_iter().filter_map(|copied| {
            let manifest = Manifest::from_stored(copied.manifest).ok()?;
            let granted = Arc::new(copied.granted.into_iter().collect());
            self.grants.publish(&manifest.name, granted);
            let runner = match copied.why {
                Why::Quarantined(since) => Runner::Quarantined(since),
                Why::NotLoaded(reason) => Runner::NotLoaded(reason),
                Why::Deactivated(since) => Runner::Deactivated(since),
            };
            Some((copied.digest, Arc::new(manifest), runner))
        });
        each.collect()
    }
}
