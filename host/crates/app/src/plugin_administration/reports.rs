//! What operators look at before and after an activation.

use patchbay_api::plugins::{
    Activation, Difference, HostCount, PluginStatus, PluginSummary, RevisionSummary,
};
use patchbay_model::{PluginName, RevisionDigest};
use patchbay_store::HostRow;
use serde_json::Value;

use super::{PluginAdministration, quarantine_view};
use crate::nearest::unknown_plugin;
use crate::{Error, revision_diff};

impl PluginAdministration {
    /// All plugins, by name.
    pub async fn list(&self) -> Result<Vec<PluginSummary>, Error> {
        let rows = self.store.revisions(None).await?;
        let hosts = self.store.hosts().await?;
        let answering: Vec<_> = hosts
            .iter()
            .filter(|host| host.silent_for.is_none())
            .collect();
        let mut plugins: Vec<PluginSummary> = Vec::new();
        // Rows come newest first, so the first row of a plugin is its newest revision.
        for row in rows {
            let current = row.is_current;
            let known = plugins
                .iter()
                .position(|plugin| plugin.name == row.plugin.as_str());
            let runs = |host: &&&HostRow| {
                host.plugins
                    .get(&row.plugin)
                    .is_some_and(|running| running.digest == Some(row.digest))
            };
            let quarantined = self.plugins.quarantined(&row.plugin);
            let summary = PluginSummary {
                hosts: HostCount {
                    running: answering.iter().filter(runs).count(),
                    of: answering.len(),
                },
                name: row.plugin.to_string(),
                version: row.version,
                digest: row.digest.to_string(),
                // The rows may be older than the quarantine.
                active: row.state == "active" && quarantined.is_none(),
                quarantined: quarantined.map(quarantine_view),
                description: row.manifest["description"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                queues: queue_names(&row.manifest),
                routes: route_lines(&row.manifest),
                webhooks: webhook_lines(&row.manifest),
                revisions: 1,
                failure: self.plugins.failure(&row.plugin),
            };
            match known {
                Some(i) if current => {
                    plugins[i] = PluginSummary {
                        revisions: plugins[i].revisions + 1,
                        ..summary
                    }
                }
                Some(i) => plugins[i].revisions += 1,
                None => plugins.push(summary),
            }
        }
        plugins.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(plugins)
    }

    /// Newest first. A plugin without revisions is not found.
    pub async fn revisions(&self, name: &str) -> Result<Vec<RevisionSummary>, Error> {
        let plugin: PluginName = name.parse()?;
        let rows = self.store.revisions(Some(&plugin)).await?;
        if rows.is_empty() {
            let unknown = unknown_plugin(&self.store, &plugin).await;
            return Err(Error::not_found(unknown));
        }
        let attempts = self.store.attempts_by_revision(&plugin).await?;
        let signatures = self.store.signatures_of(&plugin).await?;
        let signed = |digest: &RevisionDigest| {
            let rows: Vec<_> = signatures
                .iter()
                .filter(|row| &row.digest == digest)
                .cloned()
                .collect();
            self.plugins.signed(&rows)
        };
        Ok(rows
            .into_iter()
            .map(|row| RevisionSummary {
                attempts: attempts
                    .iter()
                    .find(|(digest, _)| digest == &row.digest)
                    .map_or(0, |(_, count)| *count),
                signatures: signed(&row.digest),
                digest: row.digest.to_string(),
                version: row.version,
                state: row.state,
                created_at: row.created_at.to_rfc3339(),
                created_by: row.created_by,
                activated_at: row.activated_at.map(|at| at.to_rfc3339()),
                size_bytes: row.size_bytes,
            })
            .collect())
    }

    /// Shows which revision is active, which one runs here, and why they differ.
    pub async fn status(&self, name: &str) -> Result<PluginStatus, Error> {
        let plugin: PluginName = name.parse()?;
        let revisions = self.revisions(name).await?;
        let active = revisions.iter().find(|revision| revision.state == "active");
        let hosts = match active.and_then(|revision| revision.digest.parse().ok()) {
            Some(active) => self.plugins.hosts(&plugin, &active).await?,
            None => Vec::new(),
        };
        Ok(PluginStatus {
            hosts,
            active: active.map(|revision| revision.digest.clone()),
            running: self
                .plugins
                .running(&plugin)
                .map(|digest| digest.to_string()),
            failure: self.plugins.failure(&plugin),
            quarantined: self.plugins.quarantined(&plugin).map(quarantine_view),
            revisions,
            name: name.to_owned(),
        })
    }

    /// Every change of the active revision, newest first.
    pub async fn history(&self, name: &str) -> Result<Vec<Activation>, Error> {
        let plugin: PluginName = name.parse()?;
        let rows = self.store.activations(&plugin).await?;
        // The history of a plugin outlives its last revision.
        if rows.is_empty() && self.store.revisions(Some(&plugin)).await?.is_empty() {
            let unknown = unknown_plugin(&self.store, &plugin).await;
            return Err(Error::not_found(unknown));
        }
        let mut seen: Vec<RevisionDigest> = Vec::new();
        let mut activations = Vec::new();
        for row in rows {
            let action = match &row.digest {
                None => "deactivated",
                Some(digest) if seen.contains(digest) => "reactivated",
                Some(digest) => {
                    seen.push(*digest);
                    "activated"
                }
            };
            activations.push(Activation {
                at: row.at.to_rfc3339(),
                action: action.to_owned(),
                digest: row.digest.map(|digest| digest.to_string()),
                version: row.version,
                actor: row.actor,
                reason: row.reason,
                granted: row.grants,
            });
        }
        activations.reverse();
        Ok(activations)
    }

    pub async fn diff(&self, name: &str, from: &str, to: &str) -> Result<Difference, Error> {
        let plugin: PluginName = name.parse()?;
        let (from, before) = self.plugins.describe(&plugin, from).await?;
        let (to, after) = self.plugins.describe(&plugin, to).await?;
        let changes = revision_diff::between(&before, &after);
        Ok(Difference {
            from: from.to_string(),
            to: to.to_string(),
            changes,
        })
    }
}

fn route_lines(manifest: &Value) -> Vec<String> {
    let routes = manifest["routes"].as_array().into_iter().flatten();
    routes
        .filter_map(|route| {
            Some(format!(
                "{} {}",
                route["method"].as_str()?,
                route["path"].as_str()?
            ))
        })
        .collect()
}

fn webhook_lines(manifest: &Value) -> Vec<String> {
    let line = |webhook: &Value| {
        let methods: Vec<&str> = webhook["methods"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        // The methods are absent where they are the default.
        let methods = if methods.is_empty() {
            "POST".to_owned()
        } else {
            methods.join(",")
        };
        Some(format!(
            "{} {methods} {}",
            webhook["name"].as_str()?,
            webhook["path"].as_str()?
        ))
    };
    manifest["webhooks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(line)
        .collect()
}

fn queue_names(manifest: &Value) -> Vec<String> {
    let queues = manifest["queues"].as_array().into_iter().flatten();
    queues
        .filter_map(|queue| queue["name"].as_str().map(str::to_owned))
        .collect()
}
