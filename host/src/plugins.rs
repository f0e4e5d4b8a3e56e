//! The plugins of this host: staging, activation, rollback, and convergence on what Postgres says is active.
//!
//! Owns the rule that a swap either completes or leaves the incumbent untouched: a revision is loaded (checked, compiled, self-tested)
//! before Postgres learns of it, and again from Postgres before the registry does. Operators' actions and other processes' actions
//! take the same path, [`Plugins::converge`]; it takes no input.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex as StdMutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use patchbay_model::grant::Ask;
use patchbay_model::manifest::{EgressAuth, Manifest};
use patchbay_model::{PluginName, QueueName, RevisionDigest};
use patchbay_runtime::{LoadError, Rejection, Revision, Runtime, RuntimeError};
use patchbay_store::{RevisionRow, Store, StoreError};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::grants::Grants;
use crate::settings::{self, Settings};
use crate::work::Supervisor;

/// Convergence without a notification: bounds how long a lost one goes unnoticed.
const RECONCILE_EVERY: Duration = Duration::from_secs(3);
/// Without a successful look at Postgres for this long, the process may run outdated plugins.
pub const STALE_AFTER: Duration = Duration::from_secs(15);

/// Why an operation on plugins did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The component file is not acceptable.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// No such plugin or revision, or an ambiguous digest.
    #[error("{0}")]
    NotFound(String),
    /// It clashes with the present state.
    #[error("{0}")]
    Conflict(String),
    /// It asks for what no operator has granted.
    #[error("{} asks for what it is not granted: {}", .plugin, joined(.missing))]
    NotGranted {
        /// The plugin.
        plugin: PluginName,
        /// What it lacks.
        missing: Vec<Ask>,
    },
    /// Settings that the plugin's schema does not allow.
    #[error("settings do not fit the plugin's schema")]
    Settings(Vec<String>),
    /// The sandbox itself failed.
    #[error("the sandbox failed")]
    Runtime(#[source] RuntimeError),
    /// Postgres went away between the change and its effect on this host.
    #[error("the change is stored, and takes effect as soon as Postgres answers")]
    NotInEffectYet(#[source] StoreError),
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A staged revision, as its uploader sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Staged {
    /// The plugin's name.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// From its manifest.
    pub version: String,
    /// SHA-256 of the file.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
    /// False when this very file was here already.
    pub created: bool,
    /// What it asks for.
    pub asks: Value,
    /// What of it no operator has granted yet.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<Ask>,
}

/// What an activation did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Activated {
    /// The plugin's name.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// From its manifest.
    pub version: String,
    /// Now active.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
    /// Active until now.
    #[schema(value_type = Option<String>)]
    pub previous: Option<RevisionDigest>,
    /// What it asks for, all of it granted.
    pub granted: Value,
    /// Granted with this activation.
    #[schema(value_type = Vec<String>)]
    pub newly_granted: Vec<Ask>,
}

/// One thing that a plugin asks for or is granted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStory {
    /// Its text: give it to grant and revoke.
    #[schema(value_type = String)]
    pub ask: Ask,
    /// The active revision asks for it.
    pub asked_by_active: bool,
    /// The newest revision asks for it.
    pub asked_by_newest: bool,
    /// Who granted it; absent when it is not granted.
    pub granted_by: Option<String>,
    /// When.
    pub granted_at: Option<String>,
    /// Within the last 30 days, late by some seconds.
    pub uses: i64,
    /// The last day of those on which it was used.
    pub last_used: Option<String>,
}

/// The plugins of this process.
pub struct Plugins {
    store: Store,
    runtime: Arc<Runtime>,
    settings: Arc<Settings>,
    grants: Arc<Grants>,
    supervisor: Arc<Supervisor>,
    drain_limit: Duration,
    /// One convergence at a time.
    converging: Mutex<()>,
    converged_at: StdMutex<Option<Instant>>,
    /// Told when the active set of this process has changed.
    on_change: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Why an active revision does not run here.
    failures: StdMutex<HashMap<PluginName, String>>,
}

impl Plugins {
    /// Loads nothing yet; see [`Plugins::converge`].
    pub fn new(
        store: Store,
        runtime: Arc<Runtime>,
        settings: Arc<Settings>,
        grants: Arc<Grants>,
        supervisor: Arc<Supervisor>,
        drain_limit: Duration,
    ) -> Self {
        Self {
            store,
            runtime,
            settings,
            grants,
            supervisor,
            drain_limit,
            converging: Mutex::default(),
            converged_at: StdMutex::default(),
            on_change: OnceLock::new(),
            failures: StdMutex::default(),
        }
    }

    /// Who is told when the active set of this process has changed; one, before the first convergence.
    pub fn when_changed(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.on_change.set(Box::new(tell)).ok();
    }

    /// Checks, compiles and self-tests a component file and keeps it as a revision. Nothing runs on it yet.
    pub async fn stage(&self, component: &[u8], actor: &str) -> Result<Staged, PluginError> {
        let inspected = self.runtime.inspect(component)?;
        let manifest = &inspected.manifest;
        self.refuse_clashes(manifest).await?;
        let revision = self.runtime.load(component).await.map_err(load_error)?;
        revision.self_test().await?;
        let created = self
            .store
            .put_revision(patchbay_store::NewRevision {
                plugin: manifest.name.clone(),
                digest: revision.digest(),
                version: manifest.version.to_string(),
                manifest: manifest_value(manifest),
                component: component.to_vec(),
                actor: actor.to_owned(),
            })
            .await?;
        info!(plugin = %manifest.name, revision = %revision.digest(), created, "revision staged");
        Ok(Staged {
            plugin: manifest.name.clone(),
            version: manifest.version.to_string(),
            digest: revision.digest(),
            created,
            asks: asks(manifest),
            missing: self.missing(manifest).await?,
        })
    }

    /// Makes a staged or retired revision the active one, here and (through Postgres) everywhere. One that asks for more than is granted
    /// waits, unless the rest is granted with it.
    pub async fn activate(
        &self,
        plugin: &PluginName,
        digest: &str,
        grant: bool,
        actor: &str,
    ) -> Result<Activated, PluginError> {
        let row = self.find(plugin, digest).await?;
        let manifest = row_manifest(&row)?;
        self.refuse_clashes(&manifest).await?;
        self.refuse_settings_that_do_not_fit(plugin, &manifest).await?;
        let missing = self.missing(&manifest).await?;
        if !missing.is_empty() && !grant {
            return Err(PluginError::NotGranted { plugin: plugin.clone(), missing });
        }
        // Loaded before anybody hears of it: a revision that this host cannot run must not become the active one.
        self.load(&row.digest).await?;
        let granted = asks(&manifest);
        let activation = self.store.activate(plugin, &row.digest, &granted, &missing, actor).await?;
        info!(plugin = %plugin, revision = %row.digest, "revision activated");
        self.take_effect().await?;
        Ok(Activated {
            plugin: plugin.clone(),
            version: row.version,
            digest: row.digest,
            previous: activation.previous,
            granted,
            newly_granted: missing,
        })
    }

    /// Activates the revision that was active before: the same path as any activation.
    pub async fn rollback(&self, plugin: &PluginName, actor: &str) -> Result<Activated, PluginError> {
        let target =
            self.store.rollback_target(plugin).await?.ok_or_else(|| {
                PluginError::Conflict(format!("{plugin} has no earlier active revision to go back to"))
            })?;
        self.activate(plugin, &target.to_string(), false, actor).await
    }

    /// Stops the plugin: its queues wait.
    pub async fn deactivate(&self, plugin: &PluginName, actor: &str) -> Result<(), PluginError> {
        self.store.deactivate(plugin, actor).await?;
        self.take_effect().await
    }

    /// Forgets a revision that is not active.
    pub async fn delete(&self, plugin: &PluginName, digest: &str, actor: &str) -> Result<RevisionDigest, PluginError> {
        let row = self.find(plugin, digest).await?;
        self.store.delete_revision(&row.digest, actor).await?;
        Ok(row.digest)
    }

    /// Stores settings that fit the active revision's schema (or, before any activation, the newest one's).
    pub async fn set_settings(&self, plugin: &PluginName, value: &Value, actor: &str) -> Result<(), PluginError> {
        let rows = self.store.revisions(Some(plugin)).await?;
        let row = rows.iter().find(|row| row.state == "active").or(rows.first());
        let row = row.ok_or_else(|| PluginError::NotFound(format!("no plugin is called {plugin}")))?;
        let violations = settings::violations(&row_manifest(row)?, value);
        if !violations.is_empty() {
            return Err(PluginError::Settings(violations));
        }
        self.store.set_settings(plugin, value, actor).await?;
        self.take_effect().await
    }

    /// What the plugin asks for, is granted, and uses.
    pub async fn grants(&self, plugin: &PluginName) -> Result<Vec<GrantStory>, PluginError> {
        let rows = self.known(plugin).await?;
        let asks = |row: Option<&RevisionRow>| {
            row.map(row_manifest).transpose().map(|m| m.map(|m| m.asks()).unwrap_or_default())
        };
        let (active, newest) = (asks(rows.iter().find(|row| row.state == "active"))?, asks(rows.first())?);
        let mut stories: BTreeMap<Ask, GrantStory> = BTreeMap::new();
        let mut story = |ask: Ask, fill: &dyn Fn(&mut GrantStory)| {
            fill(stories.entry(ask.clone()).or_insert_with(|| GrantStory {
                asked_by_active: active.contains(&ask),
                asked_by_newest: newest.contains(&ask),
                ask,
                granted_by: None,
                granted_at: None,
                uses: 0,
                last_used: None,
            }));
        };
        for row in self.store.grants(plugin).await? {
            story(row.ask.clone(), &|story| {
                story.granted_by.clone_from(&row.granted_by);
                story.granted_at = row.granted_at.map(|at| at.to_rfc3339());
                story.uses = row.uses;
                story.last_used = row.last_used.map(|day| day.to_string());
            });
        }
        for ask in active.union(&newest) {
            story(ask.clone(), &|_| {});
        }
        Ok(stories.into_values().collect())
    }

    /// Grants; what no revision asks for is refused, since it is a typo. Takes effect with the next call.
    pub async fn grant(&self, plugin: &PluginName, asks: &[Ask], actor: &str) -> Result<(), PluginError> {
        let mut asked = BTreeSet::new();
        for row in self.known(plugin).await? {
            asked.extend(row_manifest(&row)?.asks());
        }
        if let Some(unknown) = asks.iter().find(|ask| !asked.contains(ask)) {
            return Err(PluginError::NotFound(format!(
                "no revision of {plugin} asks for {unknown:?}; see: patchbay plugin grants {plugin}",
                unknown = unknown.as_str()
            )));
        }
        self.store.grant(plugin, asks, actor).await?;
        self.take_effect().await
    }

    /// Takes grants back; calls that have begun keep theirs.
    pub async fn revoke(&self, plugin: &PluginName, asks: &[Ask]) -> Result<Vec<Ask>, PluginError> {
        self.known(plugin).await?;
        let granted = self.store.granted(plugin).await?;
        if let Some(unknown) = asks.iter().find(|ask| !granted.contains(ask)) {
            return Err(PluginError::NotFound(format!("{plugin} is not granted {:?}", unknown.as_str())));
        }
        let revoked = self.store.revoke(plugin, asks).await?;
        self.take_effect().await?;
        Ok(revoked)
    }

    /// Whoever changed something sees it done here; the other hosts hear of it.
    async fn take_effect(&self) -> Result<(), PluginError> {
        self.converge().await.map_err(PluginError::NotInEffectYet)
    }

    /// What of its asks is not granted.
    async fn missing(&self, manifest: &Manifest) -> Result<Vec<Ask>, StoreError> {
        let granted: HashSet<Ask> = self.store.granted(&manifest.name).await?.into_iter().collect();
        Ok(manifest.asks().into_iter().filter(|ask| !granted.contains(ask)).collect())
    }

    async fn known(&self, plugin: &PluginName) -> Result<Vec<RevisionRow>, PluginError> {
        let rows = self.store.revisions(Some(plugin)).await?;
        if rows.is_empty() {
            return Err(PluginError::NotFound(format!("no plugin is called {plugin}")));
        }
        Ok(rows)
    }

    /// The revision of `plugin` that this digest, or unambiguous beginning of one, names.
    pub async fn find(&self, plugin: &PluginName, digest: &str) -> Result<RevisionRow, PluginError> {
        let usable = digest.len() >= 4 && digest.chars().all(|c| c.is_ascii_hexdigit());
        if !usable {
            return Err(PluginError::NotFound("a digest is given by at least its first 4 hexadecimal digits".into()));
        }
        let mut rows = self.store.find_revisions(plugin, &digest.to_ascii_lowercase()).await?;
        match rows.len() {
            0 => Err(PluginError::NotFound(format!("{plugin} has no revision {digest}"))),
            1 => Ok(rows.remove(0)),
            n => Err(PluginError::Conflict(format!("{digest} is the beginning of {n} revisions: give more digits"))),
        }
    }

    /// Queues that active plugins of this process handle.
    pub fn queues(&self) -> Vec<QueueName> {
        let revisions = self.runtime.registry().snapshot();
        revisions
            .iter()
            .flat_map(|revision| revision.manifest().queues.iter().map(|queue| queue.name.clone()))
            .collect()
    }

    /// The active plugin of this process that handles a queue.
    pub fn handler_of(&self, queue: &QueueName) -> Option<PluginName> {
        self.runtime.registry().owner_of(queue).map(|revision| revision.plugin().clone())
    }

    /// Why the active revision of a plugin does not run here, if so.
    pub fn failure(&self, plugin: &PluginName) -> Option<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(plugin).cloned()
    }

    /// Whether this process may run outdated plugins: it has not seen Postgres for [`STALE_AFTER`].
    pub fn is_stale(&self) -> bool {
        let at = *self.converged_at.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_none_or(|at| at.elapsed() > STALE_AFTER)
    }

    /// Makes registry, settings and workers match Postgres. A revision that cannot be loaded leaves the incumbent running.
    pub async fn converge(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.converging.lock().await;
        let active = self.store.active_set().await?;
        let registry = self.runtime.registry();
        let mut failures = HashMap::new();
        let mut changed = false;
        for row in &active {
            // Whatever becomes of the revision: what was revoked, the incumbent must not do either.
            if row.grants_adopted {
                self.grants.publish(&row.plugin, Arc::new(row.granted.iter().cloned().collect()));
            }
            let current = registry.get(&row.plugin);
            let revision = match current.filter(|revision| revision.digest() == row.digest) {
                Some(current) => current,
                None => match self.load(&row.digest).await {
                    Ok(revision) => revision,
                    Err(error) => {
                        error!(plugin = %row.plugin, revision = %row.digest, error = %error, "active revision cannot be loaded; the previous one keeps running");
                        failures.insert(row.plugin.clone(), error.to_string());
                        continue;
                    }
                },
            };
            if !row.grants_adopted {
                let asks: Vec<Ask> = revision.manifest().asks().into_iter().collect();
                self.store.adopt_grants(&row.plugin, &asks).await?;
                self.grants.publish(&row.plugin, Arc::new(asks.into_iter().collect()));
            }
            // Settings first, too: the new revision must not see a call without them.
            self.settings.publish(&row.plugin, self.settings.effective(revision.manifest(), &row.settings));
            if registry.get(&row.plugin).is_none_or(|running| running.digest() != row.digest) {
                let previous = registry.publish(revision);
                changed = true;
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
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = failures;
        self.supervisor.reconcile(self.drain_limit).await;
        if let (true, Some(tell)) = (changed, self.on_change.get()) {
            tell();
        }
        *self.converged_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    /// Converges on each notification, and every few seconds without one, until cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.store.changes();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changes.wait(RECONCILE_EVERY) => {}
            }
            if let Err(error) = self.converge().await {
                error!(error = %error, "cannot read the active plugins; running on with the last known ones");
            }
        }
    }

    async fn load(&self, digest: &RevisionDigest) -> Result<Arc<Revision>, PluginError> {
        let component = self.store.component(digest).await?;
        let component = component.ok_or_else(|| PluginError::NotFound(format!("revision {digest} is gone")))?;
        self.runtime.load(&component).await.map_err(load_error)
    }

    /// One plugin owns a queue.
    async fn refuse_clashes(&self, manifest: &Manifest) -> Result<(), PluginError> {
        for row in self.store.revisions(None).await? {
            if row.state != "active" || row.plugin == manifest.name {
                continue;
            }
            let other = row_manifest(&row)?;
            let clash: Option<&QueueName> =
                manifest.queues.iter().map(|queue| &queue.name).find(|name| other.queue(name).is_some());
            if let Some(queue) = clash {
                return Err(PluginError::Conflict(format!(
                    "{} and {} both want queue {queue}: one plugin owns a queue",
                    manifest.name, other.name
                )));
            }
            let schedules =
                |manifest: &Manifest| manifest.schedules.iter().map(|spec| spec.id.clone()).collect::<HashSet<_>>();
            if let Some(id) = schedules(manifest).intersection(&schedules(&other)).next() {
                return Err(PluginError::Conflict(format!(
                    "{} and {} both want schedule {id}: one plugin owns a schedule",
                    manifest.name, other.name
                )));
            }
        }
        Ok(())
    }

    async fn refuse_settings_that_do_not_fit(
        &self,
        plugin: &PluginName,
        manifest: &Manifest,
    ) -> Result<(), PluginError> {
        let stored = self.store.settings(plugin).await?;
        let violations = settings::violations(manifest, &Value::Object(self.settings.effective(manifest, &stored)));
        if violations.is_empty() { Ok(()) } else { Err(PluginError::Settings(violations)) }
    }
}

fn joined(asks: &[Ask]) -> String {
    asks.iter().map(|ask| format!("{:?}", ask.as_str())).collect::<Vec<_>>().join(", ")
}

fn load_error(error: LoadError) -> PluginError {
    match error {
        LoadError::Rejected(rejection) => PluginError::Rejected(rejection),
        LoadError::Host(error) => PluginError::Runtime(error),
    }
}

fn manifest_value(manifest: &Manifest) -> Value {
    serde_json::to_value(manifest).unwrap_or(Value::Null)
}

fn row_manifest(row: &RevisionRow) -> Result<Manifest, PluginError> {
    Manifest::from_packed(row.manifest.to_string().as_bytes()).map_err(|error| {
        PluginError::Conflict(format!("the stored manifest of {} cannot be read: {error}", row.plugin))
    })
}

/// What a manifest asks for, as an operator reads it.
pub fn asks(manifest: &Manifest) -> Value {
    let egress: Vec<Value> = manifest
        .egress
        .iter()
        .map(|rule| {
            let mut asked = json!({ "url": rule.url, "methods": rule.methods, "allowAddresses": rule.allow_addresses });
            // Credentials go there, too.
            if let Some(EgressAuth::OAuth2 { token_url, .. }) = &rule.auth {
                asked["tokenUrl"] = json!(token_url);
            }
            asked
        })
        .collect();
    let smtp = manifest.smtp.as_ref().is_some_and(|smtp| smtp.allowed);
    json!({
        "schedules": manifest.schedules.iter().map(|schedule| &schedule.id).collect::<Vec<_>>(),
        "queues": manifest.queues.iter().map(|queue| &queue.name).collect::<Vec<_>>(),
        "secrets": manifest.secrets.iter().map(|secret| &secret.name).collect::<Vec<_>>(),
        "egress": egress,
        "enqueue": manifest.enqueue.as_ref().map(|spec| &spec.queues),
        "kv": manifest.kv.as_ref().map(|spec| &spec.prefixes),
        "smtp": smtp,
    })
}
