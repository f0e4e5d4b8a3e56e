//! Use cases of plugins: each step is checked, recorded, and done by [`Plugins`].

mod calls;
mod database;
mod reports;

use std::sync::Arc;

use patchbay_api::operation::Endpoint;
use patchbay_api::plugins::{
    Activate, Activated, Asks, GrantView, PluginsActivate, PluginsDeactivate, PluginsDelete,
    PluginsGrant, PluginsPrune, PluginsPush, PluginsRelease, PluginsRevoke, PluginsRollback,
    PluginsSetSettings, PluginsSettings, PrunedRevision, QuarantineView, Release, Released,
    SignedComponent, Staged,
};
use patchbay_api::reveal::Reveal;
use patchbay_model::grant::Ask;
use patchbay_model::operator::OperatorRole;
use patchbay_model::{PluginName, Redaction, RevisionDigest};
use patchbay_store::{PluginSql, PrunedRevision as PrunedRow, Store, StoreError};
use patchbay_work::quarantine::Quarantined;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::actions::{Actions, Caller};
use crate::nearest::unknown_plugin;
use crate::plugins::{Allowed, Plugins};
use crate::{Error, Parts, reveal};

/// Longest reason of an operator, in characters.
const MAX_REASON: usize = 500;

#[derive(Clone)]
pub struct PluginAdministration {
    store: Store,
    sql: PluginSql,
    plugins: Arc<Plugins>,
    actions: Actions,
}

impl PluginAdministration {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            sql: parts.sql.clone(),
            plugins: Arc::clone(&parts.plugins),
            actions: parts.actions.clone(),
        }
    }

    pub async fn push(&self, who: &Caller, file: &SignedComponent) -> Result<Staged, Error> {
        let SignedComponent {
            component,
            signatures,
            source,
        } = file;
        let digest = RevisionDigest::of(component).to_string();
        let signers: Vec<String> = signatures
            .iter()
            .map(|signature| signature.key.to_string())
            .collect();
        let details = json!({ "digest": digest, "bytes": component.len(), "signatures": signers, "source": source });
        let name = self.plugins.name_in(component);
        // What cannot be read is refused, and recorded under the only name that it has.
        let target = name.as_ref().map_or(digest.as_str(), PluginName::as_str);
        let act = async {
            Ok(self
                .plugins
                .stage(component, signatures, &who.actor)
                .await?)
        };
        self.actions
            .record::<PluginsPush, _>(who, target, details, act)
            .await
    }

    pub async fn activate(
        &self,
        who: &Caller,
        name: &str,
        wanted: &Activate,
    ) -> Result<Activated, Error> {
        let plugin: PluginName = name.parse()?;
        let Activate { digest, grant } = wanted;
        if *grant {
            who.operator.refuse(&PluginsGrant::OPERATION)?;
        }
        let details = json!({ "digest": digest, "grant": grant });
        let allowed = Allowed {
            grants: *grant,
            widening: may_widen(who),
        };
        let act = async {
            Ok(self
                .plugins
                .activate(&plugin, digest, allowed, &who.actor)
                .await?)
        };
        self.actions
            .record::<PluginsActivate, _>(who, name, details, act)
            .await
    }

    pub async fn rollback(&self, who: &Caller, name: &str) -> Result<Activated, Error> {
        let plugin: PluginName = name.parse()?;
        let act = async {
            Ok(self
                .plugins
                .rollback(&plugin, may_widen(who), &who.actor)
                .await?)
        };
        self.actions
            .record::<PluginsRollback, _>(who, name, json!({}), act)
            .await
    }

    pub async fn deactivate(&self, who: &Caller, name: &str) -> Result<(), Error> {
        let plugin: PluginName = name.parse()?;
        let act = async { Ok(self.plugins.deactivate(&plugin, &who.actor).await?) };
        self.actions
            .record::<PluginsDeactivate, _>(who, name, json!({}), act)
            .await
    }

    /// Lets a quarantined plugin take calls again.
    pub async fn release(
        &self,
        who: &Caller,
        name: &str,
        why: &Release,
    ) -> Result<Released, Error> {
        let plugin: PluginName = name.parse()?;
        let reason = why.reason.trim();
        if reason.is_empty() || reason.chars().count() > MAX_REASON {
            return Err(Error::invalid(format!(
                "reason: is required, with at most {MAX_REASON} characters"
            )));
        }
        let act = async {
            let digest = self.plugins.release(&plugin, reason, &who.actor).await?;
            Ok(Released {
                plugin: plugin.clone(),
                digest,
            })
        };
        self.actions
            .record::<PluginsRelease, _>(who, name, json!({ "reason": reason }), act)
            .await
    }

    /// Deletes a revision, and returns its full digest.
    pub async fn delete(&self, who: &Caller, name: &str, digest: &str) -> Result<String, Error> {
        let plugin: PluginName = name.parse()?;
        let act = async {
            Ok(self
                .plugins
                .delete(&plugin, digest, &who.actor)
                .await?
                .to_string())
        };
        self.actions
            .record::<PluginsDelete, _>(who, name, json!({ "digest": digest }), act)
            .await
    }

    /// Deletes old revisions, or only lists them.
    pub async fn prune(&self, who: &Caller, dry_run: bool) -> Result<Vec<PrunedRevision>, Error> {
        let act = async {
            let rows = self.plugins.prune(dry_run).await?;
            Ok(rows.into_iter().map(pruned).collect())
        };
        if dry_run {
            return act.await;
        }
        self.actions
            .record::<PluginsPrune, _>(who, "old revisions", json!({}), act)
            .await
    }

    /// The stored settings. Values whose names sound secret are redacted, unless a reveal is asked
    /// for.
    pub async fn settings(&self, who: &Caller, name: &str, asked: &Reveal) -> Result<Value, Error> {
        reveal::check(asked)?;
        let plugin: PluginName = name.parse()?;
        let act = async {
            match self.store.settings(&plugin).await {
                Err(StoreError::NotFound(_)) => {
                    let unknown = unknown_plugin(&self.store, &plugin).await;
                    Err(Error::not_found(unknown))
                }
                settings => Ok(settings?),
            }
        };
        if asked.reveal {
            let (details, nothing) = (reveal::details(asked), |_: &Value| Value::Null);
            return self
                .actions
                .record_as::<PluginsSettings, _>(who, name, details, act, nothing)
                .await;
        }
        let settings: Result<Value, Error> = act.await;
        let text = settings?.to_string();
        let (redacted, _) = Redaction::default().data(&text);
        serde_json::from_str(&redacted.text).map_err(|_| Error::internal())
    }

    /// The JSON Schema that settings must fit; null where there are none.
    pub async fn settings_schema(&self, name: &str) -> Result<Value, Error> {
        let schema = self.plugins.settings_schema(&name.parse()?).await?;
        Ok(schema.unwrap_or_default())
    }

    pub async fn set_settings(
        &self,
        who: &Caller,
        name: &str,
        settings: &RawValue,
    ) -> Result<(), Error> {
        let plugin: PluginName = name.parse()?;
        let value: Value = serde_json::from_str(settings.get())
            .map_err(|error| Error::invalid(error.to_string()))?;
        reveal::refuse_mark("the settings", &value.to_string())?;
        let act = async {
            Ok(self
                .plugins
                .set_settings(&plugin, &value, &who.actor)
                .await?)
        };
        self.actions
            .record::<PluginsSetSettings, _>(who, name, json!({}), act)
            .await
    }

    /// Lists what a plugin asks for, what is granted, and what it has used.
    pub async fn grants(&self, name: &str) -> Result<Vec<GrantView>, Error> {
        Ok(self.plugins.grants(&name.parse()?).await?)
    }

    pub async fn grant(&self, who: &Caller, name: &str, Asks { asks }: &Asks) -> Result<(), Error> {
        let plugin: PluginName = name.parse()?;
        let had = self.store.granted(&plugin).await?;
        let is_same = asks.iter().all(|ask| had.contains(ask));
        let act = async { Ok(self.plugins.grant(&plugin, asks, &who.actor).await?) };
        self.actions
            .record_as::<PluginsGrant, _>(
                who,
                name,
                json!({ "asks": asks }),
                act,
                |()| json!({ "already": is_same }),
            )
            .await
    }

    pub async fn revoke(
        &self,
        who: &Caller,
        name: &str,
        Asks { asks }: &Asks,
    ) -> Result<Vec<String>, Error> {
        let plugin: PluginName = name.parse()?;
        let text = |ask: &Ask| ask.as_str().to_owned();
        let act = async {
            Ok(self
                .plugins
                .revoke(&plugin, asks, &who.actor)
                .await?
                .iter()
                .map(text)
                .collect())
        };
        self.actions
            .record::<PluginsRevoke, _>(who, name, json!({ "asks": asks }), act)
            .await
    }
}

/// Whether somebody may activate what shows more of jobs: a plugin's failures may quote their data.
fn may_widen(who: &Caller) -> bool {
    who.operator.may_see_data || who.operator.role == OperatorRole::Owner
}

fn pruned(row: PrunedRow) -> PrunedRevision {
    PrunedRevision {
        plugin: row.plugin.to_string(),
        digest: row.digest.to_string(),
        version: row.version,
        size_bytes: row.size_bytes,
    }
}

fn quarantine_view(quarantined: Quarantined) -> QuarantineView {
    let Quarantined {
        plugin,
        since,
        by,
        reason,
    } = quarantined;
    QuarantineView {
        plugin,
        since,
        by,
        reason,
    }
}
