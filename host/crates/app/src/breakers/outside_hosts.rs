//! The outside hosts that active manifests name, with their breakers. In memory, of this process
//! only.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_api::breakers::BreakerView;
use patchbay_capability::{Breaker, BreakerState, Breakers};
use patchbay_model::breaker::BreakerSpec;
use patchbay_model::manifest::Manifest;
use patchbay_model::shell::word;
use patchbay_model::{PluginName, egress};
use patchbay_runtime::Runtime;

use crate::nearest::suggesting;
use crate::{Error, nearest};

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

    /// Finds a breaker by `scheme://host:port`, or by any part of it that matches one host only. The
    /// error names the hosts to choose from.
    pub fn find(&self, plugin: &PluginName, host: &str) -> Result<Arc<Breaker>, Error> {
        let known: Vec<String> = self.of(plugin).into_iter().map(|view| view.host).collect();
        match meant(plugin, &known, host) {
            Ok(host) => Ok(self.breakers.of(plugin, host)),
            Err(message) if known.is_empty() => {
                let active = self.runtime.registry().snapshot();
                let names = active.iter().map(|revision| &revision.manifest().name);
                let others = names.filter(|name| *name != plugin).map(PluginName::as_str);
                let message = suggesting(message, plugin.as_str(), others);
                Err(Error::not_found(message))
            }
            Err(message) => Err(Error::not_found(message)),
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
            next_try_at: None,
            opened_at: None,
            open_for_ms: None,
            opened_after: None,
            opened_by: None,
            reason: None,
            failures: 0,
            opens_at: limits.failures,
            within_ms: ms(limits.within),
            open_ms: ms(limits.open),
            last_failure: None,
            times_opened: 0,
            deferred_jobs: 0,
            already: false,
        };
        let Some(view) = view else { return shown };
        let now = Utc::now();
        let time = |at: DateTime<Utc>| Some(at.to_rfc3339_opts(SecondsFormat::Secs, true));
        shown.since = time(now - view.age);
        if let Some(open_for) = view.open_for {
            (shown.opened_at, shown.open_for_ms) = (time(now - open_for), Some(ms(open_for)));
        }
        shown.opened_after = view.opened_after;
        (shown.failures, shown.last_failure) = (view.failures, view.last_failure);
        (shown.times_opened, shown.deferred_jobs) = (view.opened, view.deferred);
        match view.state {
            BreakerState::Closed => {}
            BreakerState::HalfOpen => shown.state = "half-open".to_owned(),
            BreakerState::Open(left) => {
                (shown.state, shown.probe_in_ms) = ("open".to_owned(), Some(ms(left)));
                shown.next_try_at = time(now + left);
            }
            BreakerState::Held { by, reason } => {
                (shown.state, shown.opened_by, shown.reason) =
                    ("open".to_owned(), Some(by), Some(reason));
            }
        }
        shown
    }
}

/// The host that is meant: the one of that name, or else the only one of which `part` is a part.
/// Names of hosts do not depend on the letter case.
fn meant<'a>(plugin: &PluginName, known: &'a [String], part: &str) -> Result<&'a str, String> {
    let wanted = part.to_lowercase();
    let like = |is_meant: &dyn Fn(&str) -> bool| -> Vec<&'a str> {
        let hosts = known.iter().map(String::as_str);
        hosts
            .filter(|host| is_meant(&host.to_lowercase()))
            .collect()
    };
    // A whole name, or a whole part of one, is meant before other names that contain it.
    let ways: [&dyn Fn(&str) -> bool; 3] = [
        &|host| host == wanted,
        &|host| whole_parts(host).contains(&wanted.as_str()),
        &|host| !wanted.is_empty() && host.contains(&wanted),
    ];
    let found = ways
        .into_iter()
        .map(like)
        .find(|found| !found.is_empty())
        .unwrap_or_default();
    let names = |hosts: &[&str]| {
        let words = hosts.iter().map(|host| word(host));
        words.collect::<Vec<_>>().join(", ")
    };
    let all: Vec<&str> = known.iter().map(String::as_str).collect();
    match found[..] {
        [host] => Ok(host),
        [] if known.is_empty() => Err(format!(
            "Plugin {plugin} is not active on this host, or calls no outside hosts. See: patchbay plugin list"
        )),
        [] => Err(format!(
            "{plugin} calls no outside host like {}.{} It calls: {}",
            word(part),
            nearest::meant(
                &wanted,
                known
                    .iter()
                    .flat_map(|host| std::iter::once(host.as_str()).chain(whole_parts(host)))
                    .filter(|part| !part.is_empty())
            ),
            names(&all)
        )),
        [..] => Err(format!(
            "{} matches {} outside hosts of {plugin}: {}. Give a longer part",
            word(part),
            found.len(),
            names(&found)
        )),
    }
}

/// Of `https://api.example:443`: `api.example:443`, `api.example` and `https://api.example`.
fn whole_parts(host: &str) -> [&str; 3] {
    let authority = host
        .split_once("://")
        .map_or("", |(_, authority)| authority);
    let name = authority.rsplit_once(':').map_or("", |(name, _)| name);
    let without_port = host.rsplit_once(':').map_or("", |(start, _)| start);
    [authority, name, without_port]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(part: &str) -> Result<String, String> {
        let plugin = "email".parse().expect("a name");
        let known = [
            "https://api.example:443",
            "https://api.example:8443",
            "https://sandbox.api.example:443",
            "smtp://Mail.example:465",
        ]
        .map(str::to_owned);
        meant(&plugin, &known, part).map(str::to_owned)
    }

    #[test]
    fn any_part_that_matches_one_host_only_names_it_in_any_letter_case() {
        for (part, host) in [
            ("https://api.example:443", "https://api.example:443"),
            ("API.example:8443", "https://api.example:8443"),
            ("8443", "https://api.example:8443"),
            ("sandbox", "https://sandbox.api.example:443"),
            ("mail", "smtp://Mail.example:465"),
            ("SMTP", "smtp://Mail.example:465"),
            // A whole part of a name, although another name ends in it.
            ("api.example:443", "https://api.example:443"),
        ] {
            assert_eq!(found(part), Ok(host.to_owned()), "{part}");
        }
    }

    #[test]
    fn a_part_of_several_hosts_lists_them_and_an_unknown_one_lists_all() {
        let several = found("api.example").expect_err("two");
        assert_eq!(
            several,
            "api.example matches 2 outside hosts of email: https://api.example:443, \
             https://api.example:8443. Give a longer part"
        );
        let unknown = found("it's\u{1b}[2J").expect_err("none");
        assert!(
            unknown.contains(r"$'it\'s\033[2J'") && unknown.contains("smtp://Mail.example:465"),
            "{unknown}"
        );
        let typo = found("mial.example").expect_err("a typo");
        assert!(typo.contains("Did you mean Mail.example?"), "{typo}");
        assert!(found("").is_err());
        assert!(found("example").is_err());
    }
}
