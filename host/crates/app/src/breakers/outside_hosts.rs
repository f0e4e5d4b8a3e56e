//! The outside hosts that active manifests name, with their breakers. In memory, of this process
//! only.

use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use patchbay_api::breakers::BreakerView;
use patchbay_capability::{Breaker, BreakerState, Breakers};
use patchbay_model::breaker::BreakerSpec;
use patchbay_model::manifest::Manifest;
use patchbay_model::{PluginName, egress};
use patchbay_runtime::Runtime;

use crate::Error;

/// The states of a breaker.
pub const STATES: [&str; 3] = ["closed", "open", "half-open"];

pub struct OutsideHosts {
    runtime: Arc<Runtime>,
    breakers: Arc<Breakers>,
    mail_server: Option<String>,
}

impl OutsideHosts {
    /// `mail_server` is the configured one, in the form in which breakers name it.
    pub fn new(
        runtime: Arc<Runtime>,
        breakers: Arc<Breakers>,
        mail_server: Option<String>,
    ) -> Self {
        Self {
            runtime,
            breakers,
            mail_server,
        }
    }

    /// Ordered by plugin and host.
    pub fn list(&self) -> Vec<BreakerView> {
        let mut views: Vec<BreakerView> = self
            .runtime
            .registry()
            .snapshot()
            .iter()
            .flat_map(|revision| self.of_manifest(revision.manifest()))
            .collect();
        views.sort_by(|a, b| (&a.plugin, &a.host).cmp(&(&b.plugin, &b.host)));
        views
    }

    /// The outside hosts of one plugin. Empty when it is not active here.
    pub fn of(&self, plugin: &PluginName) -> Vec<BreakerView> {
        let revision = self.runtime.registry().get(plugin);
        revision
            .map(|revision| self.of_manifest(revision.manifest()))
            .unwrap_or_default()
    }

    /// Finds a breaker by `scheme://host:port`, or by a part of it that matches one host only. The
    /// error names the known hosts.
    pub fn find(&self, plugin: &PluginName, host: &str) -> Result<Arc<Breaker>, Error> {
        let known: Vec<String> = self.of(plugin).into_iter().map(|view| view.host).collect();
        let exact = known.iter().filter(|known| known.as_str() == host);
        let parts = |known: &str| {
            let authority = known
                .split_once("://")
                .map_or("", |(_, authority)| authority)
                .to_owned();
            let name = authority
                .rsplit_once(':')
                .map_or("", |(name, _)| name)
                .to_owned();
            let without_port = known
                .rsplit_once(':')
                .map_or("", |(start, _)| start)
                .to_owned();
            [authority, name, without_port]
        };
        let alike = known
            .iter()
            .filter(|known| parts(known).iter().any(|part| part == host));
        let found: Vec<&String> = match exact.collect::<Vec<_>>() {
            exact if exact.is_empty() => alike.collect(),
            exact => exact,
        };
        match found[..] {
            [host] => Ok(self.breakers.of(plugin, host)),
            [] if known.is_empty() => Err(Error::not_found(format!(
                "no plugin {plugin} with outside hosts is active here"
            ))),
            [] => Err(Error::not_found(format!(
                "{plugin} names no host {host}; it names {}",
                known.join(", ")
            ))),
            [..] => Err(Error::not_found(format!(
                "{plugin} names several hosts like {host}: {}",
                known.join(", ")
            ))),
        }
    }

    fn of_manifest(&self, manifest: &Manifest) -> Vec<BreakerView> {
        let mut specs = egress::breakers(&manifest.egress);
        if let (Some(smtp), Some(server)) = (
            manifest.smtp.as_ref().filter(|smtp| smtp.allowed),
            &self.mail_server,
        ) {
            specs.insert(server.clone(), smtp.breaker.unwrap_or_default());
        }
        specs
            .into_iter()
            .map(|(host, spec)| self.view(&manifest.name, host, spec))
            .collect()
    }

    fn view(&self, plugin: &PluginName, host: String, spec: BreakerSpec) -> BreakerView {
        let (view, limits) = (self.breakers.view(plugin, &host), spec.limits());
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut shown = BreakerView {
            plugin: plugin.clone(),
            host,
            state: "closed".to_owned(),
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
        let Some(view) = view else { return shown };
        shown.since = Some((Utc::now() - view.age).to_rfc3339_opts(SecondsFormat::Secs, true));
        (shown.failures, shown.last_failure) = (view.failures, view.last_failure);
        (shown.times_opened, shown.deferred_jobs) = (view.opened, view.deferred);
        match view.state {
            BreakerState::Closed => {}
            BreakerState::HalfOpen => shown.state = "half-open".to_owned(),
            BreakerState::Open(left) => {
                (shown.state, shown.probe_in_ms) = ("open".to_owned(), Some(ms(left)))
            }
            BreakerState::Held { by, reason } => {
                (shown.state, shown.opened_by, shown.reason) =
                    ("open".to_owned(), Some(by), Some(reason));
            }
        }
        shown
    }
}
