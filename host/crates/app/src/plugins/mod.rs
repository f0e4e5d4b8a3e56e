//! The plugins of this host: staging, activation, rollback, and convergence on what Postgres says
//! is active.
//!
//! Owns the rule that an activation either completes or leaves the incumbent untouched: a revision
//! is loaded (checked, compiled, self-tested) before Postgres learns of it, and is loaded again
//! from Postgres before the registry gets it. Actions of operators and of other processes take the
//! same path, [`Plugins::converge`], which takes no input.
//!
//! Where this host trusts keys, no file is read before its signature is checked. Neither the file
//! nor its signature is trusted because Postgres has it.

mod absent;
mod call;
mod conflicts;
mod converge;
mod error;
mod fleet;
mod grant_uses;
mod permissions;
mod prune;
mod quarantine;
mod redactions;
mod route_table;
mod runner;
mod unavailable;
mod widening;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use patchbay_api::plugins::{Activated, SignatureView, Staged};
use patchbay_model::manifest::Manifest;
use patchbay_model::retry::{Backoff, RetryPolicy};
use patchbay_model::{DataPath, PluginName, QueueName, Redaction, RevisionDigest, grant};
use patchbay_queue::ChildData;
use patchbay_runtime::{Rejection, Runtime};
use patchbay_store::{
    Failure, Keep, NewSignature, PluginSql, RevisionRow, SignatureRow, Store, Wanted,
};
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::task::block_in_place;
use tracing::info;

pub use self::absent::{Absence, AbsentPlugin};
pub use self::call::{
    Answer, AnswerBody, Operation, RelayAs, RouteFailure, Unjudged, Verification,
};
use self::converge::SnapshotPlugin;
pub use self::converge::{STALE_AFTER, converger};
pub use self::error::PluginError;
pub use self::grant_uses::grant_uses;
use self::permissions::tables;
pub use self::prune::pruner;
pub(crate) use self::quarantine::way_out;
pub use self::quarantine::{Begun, quarantine_follow_up};
pub use self::route_table::{PathMatch, Route, RouteTable, Ungranted, Webhook};
pub use self::runner::Runner;
pub use self::widening::Allowed;
use patchbay_capability::SecretSource;
use patchbay_model::signature::{Signature, Standing, TrustedKeys};
use patchbay_telemetry::traces::Traces;
use patchbay_work::grants::Grants;
use patchbay_work::quarantine::{CrashLoop, Policy, Quarantine};
use patchbay_work::redactions::{Paths, Redactions};
use patchbay_work::settings::{self, Settings};
use patchbay_work::{Invoker, Workers};

use crate::local_rates::LocalRates;
use crate::nearest::unknown_plugin;
use crate::revision_diff::Described;
use crate::snapshot::OfflineSnapshot;

pub struct Parts {
    pub store: Store,
    pub sql: PluginSql,
    pub runtime: Arc<Runtime>,
    pub settings: Arc<Settings>,
    pub grants: Arc<Grants>,
    pub invoker: Arc<Invoker>,
    pub workers: Arc<Workers>,
    pub trusted: TrustedKeys,
    pub quarantine: Arc<Quarantine>,
    pub redactions: Arc<Redactions>,
    pub copy: OfflineSnapshot,
    /// Crash loops that `quarantine` has found.
    pub crash_loops: mpsc::UnboundedReceiver<CrashLoop>,
    /// What happens to a plugin in a crash loop.
    pub policy: Policy,
    /// Receives each quarantine that this process begins.
    pub begun: mpsc::UnboundedSender<Begun>,
    /// Old revisions to keep.
    pub keep: Keep,
    pub traces: Traces,
    /// Name of this process.
    pub host: String,
    /// Whether requests to webhooks can be sealed.
    pub has_master_key: bool,
    /// Where plugins' secrets come from.
    pub secrets: Arc<dyn SecretSource>,
}

pub struct Plugins {
    store: Store,
    sql: PluginSql,
    runtime: Arc<Runtime>,
    settings: Arc<Settings>,
    grants: Arc<Grants>,
    invoker: Arc<Invoker>,
    workers: Arc<Workers>,
    /// Notified when something may have changed.
    woken: Notify,
    trusted: TrustedKeys,
    quarantine: Arc<Quarantine>,
    redactions: Arc<Redactions>,
    copy: OfflineSnapshot,
    crash_loops: tokio::sync::Mutex<mpsc::UnboundedReceiver<CrashLoop>>,
    policy: Policy,
    begun: mpsc::UnboundedSender<Begun>,
    keep: Keep,
    /// What was last written to the snapshot.
    copied: tokio::sync::Mutex<Vec<SnapshotPlugin>>,
    copied_redactions: tokio::sync::Mutex<Option<Paths>>,
    copied_unavailable: tokio::sync::Mutex<Option<Vec<unavailable::Copied>>>,
    traces: Traces,
    /// Name of this process.
    host: String,
    has_master_key: bool,
    secrets: Arc<dyn SecretSource>,
    /// Told how many hosts run.
    local_rates: Arc<LocalRates>,
    /// One convergence at a time.
    converging: tokio::sync::Mutex<()>,
    converged_at: Mutex<Option<Instant>>,
    /// Called when the active set of this process has changed.
    on_change: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Why active revisions do not run here.
    failures: Mutex<HashMap<PluginName, Failure>>,
    /// When the active revisions were activated.
    activated: Mutex<HashMap<RevisionDigest, DateTime<Utc>>>,
    /// Replaced as a whole.
    route_table: ArcSwap<RouteTable>,
}

impl Plugins {
    /// Loads nothing yet; see [`Plugins::converge`].
    pub fn new(parts: Parts) -> Self {
        if parts.trusted.are_required() {
            info!(
                keys = parts.trusted.ids(),
                "plugins must be signed by one of these keys"
            );
        }
        Self {
            store: parts.store,
            sql: parts.sql,
            runtime: parts.runtime,
            settings: parts.settings,
            grants: parts.grants,
            invoker: parts.invoker,
            workers: parts.workers,
            trusted: parts.trusted,
            quarantine: parts.quarantine,
            redactions: parts.redactions,
            copy: parts.copy,
            crash_loops: tokio::sync::Mutex::new(parts.crash_loops),
            policy: parts.policy,
            begun: parts.begun,
            keep: parts.keep,
            copied: tokio::sync::Mutex::default(),
            copied_redactions: tokio::sync::Mutex::default(),
            copied_unavailable: tokio::sync::Mutex::default(),
            traces: parts.traces,
            host: parts.host,
            has_master_key: parts.has_master_key,
            secrets: parts.secrets,
            local_rates: Arc::default(),
            woken: Notify::new(),
            converging: tokio::sync::Mutex::default(),
            converged_at: Mutex::default(),
            on_change: OnceLock::new(),
            failures: Mutex::default(),
            activated: Mutex::default(),
            route_table: ArcSwap::default(),
        }
    }

    /// Limits that each host keeps alone while Redis is away.
    pub(crate) fn local_rates(&self) -> Arc<LocalRates> {
        Arc::clone(&self.local_rates)
    }

    /// Sets the function that is called when the active set of this process has changed. Can be set
    /// once, before the first convergence.
    pub fn when_changed(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.on_change.set(Box::new(tell)).ok();
    }

    /// Checks, compiles, starts and self-tests a component file, and keeps it as a revision. It
    /// takes no calls yet.
    ///
    /// When the file is here already, signatures that it did not have are added.
    pub async fn stage(
        &self,
        component: &[u8],
        signatures: &[Signature],
        actor: &str,
    ) -> Result<Staged, PluginError> {
        let digest = RevisionDigest::of(component);
        let kept: Vec<Signature> = self
            .store
            .signatures(&digest)
            .await?
            .iter()
            .filter_map(SignatureRow::signature)
            .collect();
        self.trusted.check_upload(&digest, signatures, &kept)?;
        let inspected = block_in_place(|| self.runtime.inspect(component))?;
        self.refuse_conflicts(&inspected.manifest).await?;
        self.sql
            .check(&tables(&inspected.manifest, |_| true))
            .await?;
        let revision = self.runtime.load_inspected(inspected, component).await?;
        revision.try_start().await?;
        self.invoker
            .self_test(&revision)
            .await
            .map_err(Rejection::SelfTest)?;
        let manifest = revision.manifest();
        let created = self
            .store
            .put_revision(patchbay_store::NewRevision {
                plugin: manifest.name.clone(),
                digest: revision.digest(),
                version: manifest.version.to_string(),
                manifest: manifest_value(manifest),
                component: component.to_vec(),
                signatures: signatures.iter().map(to_keep).collect(),
                actor: actor.to_owned(),
            })
            .await?;
        info!(plugin = %manifest.name, revision = %revision.digest(), created, "revision staged");
        Ok(Staged {
            plugin: manifest.name.clone(),
            version: manifest.version.to_string(),
            digest: revision.digest(),
            created,
            asks: grant::asks(manifest),
            missing: self.missing(manifest).await?,
            secrets_without_value: self.without_value(manifest),
            signatures: self.signed(&self.store.signatures(&digest).await?),
        })
    }

    /// The plugin that this file says it is; nothing if it cannot be read.
    pub fn name_in(&self, component: &[u8]) -> Option<PluginName> {
        let inspected = block_in_place(|| self.runtime.inspect(component));
        inspected.ok().map(|inspected| inspected.manifest.name)
    }

    /// How this host judges these signatures.
    pub fn signed(&self, rows: &[SignatureRow]) -> Vec<SignatureView> {
        let signed = |row: &SignatureRow| SignatureView {
            key_id: row.key_id.clone(),
            standing: row.signature().map_or(Standing::Wrong, |signature| {
                self.trusted.standing(&row.digest, &signature)
            }),
            added_by: row.added_by.clone(),
            added_at: row.added_at.to_rfc3339(),
        };
        rows.iter().map(signed).collect()
    }

    /// Secrets of a manifest that have no value here.
    fn without_value(&self, manifest: &Manifest) -> Vec<String> {
        let names = manifest.secrets.iter().map(|secret| &secret.name);
        names
            .filter(|name| self.secrets.get(&manifest.name, name).is_none())
            .cloned()
            .collect()
    }

    /// What a vendor sends is kept sealed only.
    fn refuse_webhooks_without_a_key(&self, manifest: &Manifest) -> Result<(), PluginError> {
        if manifest.webhooks.is_empty() || self.has_master_key {
            return Ok(());
        }
        let plugin = &manifest.name;
        Err(PluginError::Conflict(format!(
            "{plugin} has webhooks, and this host has no master key to seal what vendors send. Set secrets.key_file on every host, restart them, then activate {plugin} again"
        )))
    }

    /// Activates a staged or retired revision here and, through Postgres, everywhere. One that asks
    /// for more than is granted is refused, unless the missing grants are given with it.
    pub async fn activate(
        &self,
        plugin: &PluginName,
        digest: &str,
        allowed: Allowed,
        actor: &str,
    ) -> Result<Activated, PluginError> {
        let row = self.find(plugin, digest).await?;
        // It is loaded before Postgres learns of it: a revision that this host cannot run must not
        // become active. From here on its own manifest counts, which the signature covers, and not
        // the copy in its row.
        self.check_stored(&row.digest).await?;
        let revision = self.load(plugin, &row.digest).await?;
        let manifest = revision.manifest();
        self.refuse_conflicts(manifest).await?;
        self.refuse_webhooks_without_a_key(manifest)?;
        self.refuse_settings_that_do_not_fit(plugin, manifest)
            .await?;
        let missing = self.missing(manifest).await?;
        if !missing.is_empty() && !allowed.grants {
            return Err(PluginError::NotGranted {
                plugin: plugin.clone(),
                digest: row.digest,
                missing,
            });
        }
        if !allowed.widening {
            self.refuse_widening(plugin, manifest).await?;
        }
        // Likewise, a revision whose rights Postgres refuses must not become active. The incumbent
        // keeps its rights until it is replaced.
        let mut rights = tables(manifest, |_| true);
        if let Some(incumbent) = self.runtime.registry().get(plugin) {
            let granted = self.store.granted(plugin).await?;
            let kept = tables(incumbent.manifest(), |ask| granted.contains(ask));
            rights.extend(
                kept.into_iter()
                    .filter(|right| !rights.contains(right))
                    .collect::<Wanted>(),
            );
        }
        self.sql.prepare(plugin, &rights).await?;
        let granted = grant::asks(manifest);
        if row.state == "active" && missing.is_empty() {
            // A host that has just started may not run it yet.
            self.take_effect().await?;
            return Ok(Activated {
                plugin: plugin.clone(),
                version: row.version,
                digest: row.digest,
                changed: false,
                hosts: self.wait_for_fleet(plugin, &row.digest).await?,
                previous: None,
                previous_version: None,
                was_active: true,
                released: false,
                granted,
                newly_granted: missing,
                secrets_without_value: self.without_value(manifest),
            });
        }
        let refuse = |others: &[RevisionRow]| {
            conflicts::refuse(manifest, others).map_err(|error| error.to_string())
        };
        let activation = self
            .store
            .activate(plugin, &row.digest, &granted, &missing, actor, refuse)
            .await?;
        info!(plugin = %plugin, revision = %row.digest, "revision activated");
        self.take_effect().await?;
        let (was_active, previous) = match activation.previous {
            Some(previous) if previous.digest == row.digest => (true, None),
            previous => (false, previous),
        };
        Ok(Activated {
            plugin: plugin.clone(),
            version: row.version,
            digest: row.digest,
            changed: true,
            // The revision is active, whether or not the other hosts answer.
            hosts: self
                .wait_for_fleet(plugin, &row.digest)
                .await
                .unwrap_or_default(),
            previous: previous.as_ref().map(|previous| previous.digest),
            previous_version: previous.map(|previous| previous.version),
            was_active,
            released: activation.released,
            granted,
            newly_granted: missing,
            secrets_without_value: self.without_value(manifest),
        })
    }

    /// Activates the revision that was active before, by the same path as any activation.
    pub async fn rollback(
        &self,
        plugin: &PluginName,
        widening: bool,
        actor: &str,
    ) -> Result<Activated, PluginError> {
        self.known(plugin).await?;
        let target = self.store.rollback_target(plugin).await?.ok_or_else(|| {
            PluginError::Conflict(format!(
                "{plugin} has no earlier active revision to go back to"
            ))
        })?;
        let allowed = Allowed {
            grants: false,
            widening,
        };
        self.activate(plugin, &target.digest.to_string(), allowed, actor)
            .await
    }

    /// Stops the plugin. Its jobs wait in their queues.
    pub async fn deactivate(&self, plugin: &PluginName, actor: &str) -> Result<(), PluginError> {
        self.known(plugin).await?;
        self.store.deactivate(plugin, actor).await?;
        self.take_effect().await
    }

    /// Deletes a revision that is not active.
    pub async fn delete(
        &self,
        plugin: &PluginName,
        digest: &str,
        actor: &str,
    ) -> Result<RevisionDigest, PluginError> {
        let row = self.find(plugin, digest).await?;
        self.store.delete_revision(&row.digest, actor).await?;
        // The paths of a plugin that is removed are nobody's.
        self.changed();
        Ok(row.digest)
    }

    /// The JSON Schema that `set_settings` checks; `None` where that revision has no settings.
    pub async fn settings_schema(&self, plugin: &PluginName) -> Result<Option<Value>, PluginError> {
        let manifest = self.manifest_of_settings(plugin).await?;
        Ok(manifest.settings.map(|settings| settings.schema))
    }

    /// The manifest of the active revision or, before any activation, of the newest one.
    async fn manifest_of_settings(&self, plugin: &PluginName) -> Result<Manifest, PluginError> {
        let rows = self.known(plugin).await?;
        let row = rows.iter().find(|row| row.is_current).or(rows.first());
        let row =
            row.ok_or_else(|| PluginError::NotFound(format!("There is no plugin {plugin}")))?;
        conflicts::manifest_of(row)
    }

    /// Stores settings that fit the schema of the active revision or, before any activation, of the
    /// newest one.
    pub async fn set_settings(
        &self,
        plugin: &PluginName,
        value: &Value,
        actor: &str,
    ) -> Result<(), PluginError> {
        let manifest = self.manifest_of_settings(plugin).await?;
        block_in_place(|| settings::check(&manifest, value)).map_err(|violations| {
            PluginError::Settings {
                plugin: plugin.clone(),
                violations,
            }
        })?;
        self.store.set_settings(plugin, value, actor).await?;
        self.take_effect().await
    }

    async fn known(&self, plugin: &PluginName) -> Result<Vec<RevisionRow>, PluginError> {
        let rows = self.store.revisions(Some(plugin)).await?;
        if rows.is_empty() {
            let unknown = unknown_plugin(&self.store, plugin).await;
            return Err(PluginError::NotFound(unknown));
        }
        Ok(rows)
    }

    /// Finds a revision of `plugin` by its digest or an unambiguous beginning of it.
    pub async fn find(
        &self,
        plugin: &PluginName,
        digest: &str,
    ) -> Result<RevisionRow, PluginError> {
        let usable = digest.len() >= 4 && digest.chars().all(|c| c.is_ascii_hexdigit());
        if !usable {
            return Err(PluginError::NotFound(
                "A digest must be given with at least its first 4 hexadecimal digits".into(),
            ));
        }
        let mut rows = self
            .store
            .find_revisions(plugin, &digest.to_ascii_lowercase())
            .await?;
        match rows.len() {
            0 => {
                self.known(plugin).await?;
                Err(PluginError::NotFound(format!(
                    "{plugin} has no revision {digest}. See: patchbay plugin revisions {plugin}"
                )))
            }
            1 => Ok(rows.remove(0)),
            n => Err(PluginError::Conflict(format!(
                "{n} revisions begin with {digest}. Give more digits"
            ))),
        }
    }

    /// Describes a revision by its stored file.
    pub async fn describe(
        &self,
        plugin: &PluginName,
        digest: &str,
    ) -> Result<(RevisionDigest, Described), PluginError> {
        let digest = self.find(plugin, digest).await?.digest;
        let component = self.stored(&digest).await?;
        let inspected = block_in_place(|| self.runtime.inspect(&component))?;
        let described = Described {
            manifest: inspected.manifest,
            imports: inspected.imports,
            exports: inspected.exports,
        };
        Ok((digest, described))
    }

    /// The revision of a plugin that takes new calls in this process.
    pub fn running(&self, plugin: &PluginName) -> Option<RevisionDigest> {
        self.runtime
            .registry()
            .get(plugin)
            .map(|revision| revision.digest())
    }

    /// Queues that active plugins of this process handle.
    pub fn queues(&self) -> Vec<QueueName> {
        let revisions = self.runtime.registry().snapshot();
        revisions
            .iter()
            .flat_map(|revision| {
                revision
                    .manifest()
                    .queues
                    .iter()
                    .map(|queue| queue.name.clone())
            })
            .collect()
    }

    /// Queues that the plugin handles, if it is active in this process.
    pub fn queues_of(&self, plugin: &PluginName) -> Vec<QueueName> {
        let revision = self.runtime.registry().get(plugin);
        let queues = revision
            .iter()
            .flat_map(|revision| &revision.manifest().queues);
        queues.map(|queue| queue.name.clone()).collect()
    }

    /// What the plugin logs in with outside, in the words of whoever must replace it: the mail
    /// account's password, and the secrets that its manifest names.
    pub fn logins_of(&self, plugin: &PluginName) -> Vec<String> {
        let Some(revision) = self.runtime.registry().get(plugin) else {
            return Vec::new();
        };
        let manifest = revision.manifest();
        let mail = manifest.smtp.as_ref().filter(|smtp| smtp.allowed);
        let mail = mail.map(|_| {
            "the mail account's password (mail.password_file, or mail.password)".to_owned()
        });
        let secrets = manifest
            .secrets
            .iter()
            .map(|secret| format!("secret {}", secret.name));
        mail.into_iter().chain(secrets).collect()
    }

    /// Paths of job data that active plugins of this process declare searchable, of one queue or of
    /// all.
    pub fn searchable(&self, queue: Option<&QueueName>) -> BTreeSet<DataPath> {
        let revisions = self.runtime.registry().snapshot();
        let queues = revisions
            .iter()
            .flat_map(|revision| &revision.manifest().queues);
        let queues = queues.filter(|spec| queue.is_none_or(|queue| spec.name == *queue));
        queues
            .flat_map(|spec| spec.searchable.iter().cloned())
            .collect()
    }

    /// The active plugin of this process that handles a queue.
    pub fn handler_of(&self, queue: &QueueName) -> Option<PluginName> {
        self.runtime
            .registry()
            .owner_of(queue)
            .map(|revision| revision.plugin().clone())
    }

    /// How often a job of the queue runs, by its own options and those of the plugin that is active
    /// on this host.
    pub fn retry_policy(
        &self,
        queue: &QueueName,
        own: (Option<u32>, Option<Backoff>),
    ) -> RetryPolicy {
        let owner = self.runtime.registry().owner_of(queue);
        let spec = owner
            .as_ref()
            .and_then(|owner| owner.manifest().queue(queue));
        let declared = spec.map_or((None, None), |spec| {
            (spec.attempts, spec.backoff.as_ref().map(Into::into))
        });
        RetryPolicy::merge(own, declared)
    }

    /// What is redacted in a queue's jobs, by the manifest that handles it or has handled it.
    pub fn redaction(&self, queue: &QueueName) -> Redaction {
        self.redactions.of(queue)
    }

    /// Hidden values in the data of a parent's children. The parent sees these values.
    pub fn hidden_values(&self, children: &[ChildData]) -> Vec<String> {
        self.redactions.values(children)
    }

    /// Whether any manifest, past or present, declares redactions for the queue.
    pub fn knows_redaction(&self, queue: &QueueName) -> bool {
        self.redactions.knows(queue)
    }

    /// As [`Self::redaction`]. For a filter without a queue, everything that any queue redacts.
    pub fn redaction_of(&self, queue: Option<&QueueName>) -> Redaction {
        queue.map_or_else(
            || self.redactions.of_any(),
            |queue| self.redactions.of(queue),
        )
    }

    /// Checks early. The check is repeated in the transaction of the activation, where no other
    /// activation can interfere.
    async fn refuse_conflicts(&self, manifest: &Manifest) -> Result<(), PluginError> {
        conflicts::refuse(manifest, &self.store.revisions(None).await?)
    }

    async fn refuse_settings_that_do_not_fit(
        &self,
        plugin: &PluginName,
        manifest: &Manifest,
    ) -> Result<(), PluginError> {
        let stored = self.store.settings(plugin).await?;
        let settings = Value::Object(self.settings.effective(manifest, &stored));
        block_in_place(|| settings::check(manifest, &settings)).map_err(|violations| {
            PluginError::StoredSettings {
                plugin: plugin.clone(),
                violations,
            }
        })
    }
}

fn to_keep(signature: &Signature) -> NewSignature {
    NewSignature {
        key_id: signature.key.to_string(),
        bytes: signature.bytes,
    }
}

fn manifest_value(manifest: &Manifest) -> Value {
    serde_json::to_value(manifest).unwrap_or(Value::Null)
}
