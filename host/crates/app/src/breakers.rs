//! The outside hosts of the active plugins with their breakers, as operators see and work them. In memory, of this process only.

use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use patchbay_capability::{Breaker, BreakerState, Breakers};
use patchbay_model::breaker::BreakerSpec;
use patchbay_model::manifest::Manifest;
use patchbay_model::{PluginName, egress};
use patchbay_runtime::Runtime;
use serde::Serialize;

/// In which a breaker may be.
pub const STATES: [&str; 3] = ["closed", "open", "half-open"];

/// One breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStory {
    /// Whose calls it lets through or refuses.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Where to: `scheme://host:port`.
    pub host: String,
    /// `closed` (calls go through), `open` (they are refused) or `half-open` (one tries).
    pub state: &'static str,
    /// Since when; absent when it was never used.
    pub since: Option<String>,
    /// While open: when a call may try. Absent when an operator has opened it.
    pub probe_in_ms: Option<u64>,
    /// The operator who has opened it; he must close it.
    pub opened_by: Option<String>,
    /// In his words.
    pub reason: Option<String>,
    /// Failures that count now.
    pub failures: u32,
    /// So many open it…
    pub opens_at: u32,
    /// …within so long.
    pub within_ms: u64,
    /// For so long.
    pub open_ms: u64,
    /// What the last failure was, if there was one.
    pub last_failure: Option<String>,
    /// How often it has opened since the host started.
    pub times_opened: u64,
    /// How often a job was deferred because of it since then.
    pub deferred_jobs: u64,
}

impl BreakerStory {
    /// Whether calls go through without a doubt.
    pub fn is_closed(&self) -> bool {
        self.state == "closed"
    }
}

/// No such host, or not one alone. The text names those that there are.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnknownHost(String);

/// The outside hosts that active manifests name.
pub struct OutsideHosts {
    runtime: Arc<Runtime>,
    breakers: Arc<Breakers>,
    mail_server: Option<String>,
}

impl OutsideHosts {
    /// `mail_server` is the operator's, as breakers name it.
    pub fn new(runtime: Arc<Runtime>, breakers: Arc<Breakers>, mail_server: Option<String>) -> Self {
        Self { runtime, breakers, mail_server }
    }

    /// All of them, by plugin and host.
    pub fn list(&self) -> Vec<BreakerStory> {
        let mut stories: Vec<BreakerStory> = self
            .runtime
            .registry()
            .snapshot()
            .iter()
            .flat_map(|revision| self.of_manifest(revision.manifest()))
            .collect();
        stories.sort_by(|a, b| (&a.plugin, &a.host).cmp(&(&b.plugin, &b.host)));
        stories
    }

    /// Of one plugin; none when it is not active here.
    pub fn of(&self, plugin: &PluginName) -> Vec<BreakerStory> {
        let revision = self.runtime.registry().get(plugin);
        revision.map(|revision| self.of_manifest(revision.manifest())).unwrap_or_default()
    }

    /// By `scheme://host:port`, or a part of that which names one host only.
    pub fn find(&self, plugin: &PluginName, host: &str) -> Result<Arc<Breaker>, UnknownHost> {
        let known: Vec<String> = self.of(plugin).into_iter().map(|story| story.host).collect();
        let exact = known.iter().filter(|known| known.as_str() == host);
        let parts = |known: &str| {
            let authority = known.split_once("://").map_or("", |(_, authority)| authority).to_owned();
            let name = authority.rsplit_once(':').map_or("", |(name, _)| name).to_owned();
            let without_port = known.rsplit_once(':').map_or("", |(start, _)| start).to_owned();
            [authority, name, without_port]
        };
        let alike = known.iter().filter(|known| parts(known).iter().any(|part| part == host));
        let found: Vec<&String> = match exact.collect::<Vec<_>>() {
            exact if exact.is_empty() => alike.collect(),
            exact => exact,
        };
        match found[..] {
            [host] => Ok(self.breakers.of(plugin, host)),
            [] if known.is_empty() => Err(UnknownHost(format!("no plugin {plugin} with outside hosts is active here"))),
            [] => Err(UnknownHost(format!("{plugin} names no host {host}; it names {}", known.join(", ")))),
            [..] => Err(UnknownHost(format!("{plugin} names several hosts like {host}: {}", known.join(", ")))),
        }
    }

    fn of_manifest(&self, manifest: &Manifest) -> Vec<BreakerStory> {
        let mut specs = egress::breakers(&manifest.egress);
        if let (Some(smtp), Some(server)) = (manifest.smtp.as_ref().filter(|smtp| smtp.allowed), &self.mail_server) {
            specs.insert(server.clone(), smtp.breaker.unwrap_or_default());
        }
        specs.into_iter().map(|(host, spec)| self.story(&manifest.name, host, spec)).collect()
    }

    fn story(&self, plugin: &PluginName, host: String, spec: BreakerSpec) -> BreakerStory {
        let (view, limits) = (self.breakers.view(plugin, &host), spec.limits());
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut story = BreakerStory {
            plugin: plugin.clone(),
            host,
            state: "closed",
            since: None,
            probe_in_ms: None,
            opened_by: None,
            reason: None,
            failures: 0,
            opens_at: limits.failures,
            within_ms: ms(limits.within),
            open_ms: ms(limits.open),
            last_failure: None,
            times_opened: 0,
            deferred_jobs: 0,
        };
        let Some(view) = view else { return story };
        story.since = Some((Utc::now() - view.age).to_rfc3339_opts(SecondsFormat::Secs, true));
        (story.failures, story.last_failure) = (view.failures, view.last_failure);
        (story.times_opened, story.deferred_jobs) = (view.opened, view.deferred);
        match view.state {
            BreakerState::Closed => {}
            BreakerState::HalfOpen => story.state = "half-open",
            BreakerState::Open(left) => (story.state, story.probe_in_ms) = ("open", Some(ms(left))),
            BreakerState::Held { by, reason } => {
                (story.state, story.opened_by, story.reason) = ("open", Some(by), Some(reason));
            }
        }
        story
    }
}
