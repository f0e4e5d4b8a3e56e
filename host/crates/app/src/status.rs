//! The state of an installation on one screen: what other use cases know, as far as it can be read
//! now.

use std::time::Duration;

use patchbay_api::alerts::{Alert, AlertOverview};
use patchbay_api::plugins::PluginSummary;
use patchbay_api::queues::Reason;
use patchbay_api::status::{HostStatus, Overview, PluginTrouble, QueueInTrouble, Unavailable};
use patchbay_queue::QueueOverview;
use patchbay_store::{HostRow, Store};

use crate::breakers::OutsideHosts;
use crate::health::HealthCheck;
use crate::plugin_administration::PluginAdministration;
use crate::queues::Queues;
use crate::{Error, Parts, alerts};

/// Queues in trouble that are shown.
const MOST_QUEUES: usize = 20;
/// Older failures are not shown.
const LATELY: Duration = Duration::from_secs(3_600);
/// Reasons of `queues.why` that call for nobody.
const FINE: [&str; 5] = ["empty", "moving", "busy", "about-to-start", "only-delayed"];

#[derive(Clone)]
pub struct Status {
    store: Store,
    prefix: String,
    host: String,
    health: HealthCheck,
    alerts: alerts::Alerts,
    queues: Queues,
    outside: std::sync::Arc<OutsideHosts>,
    plugins: PluginAdministration,
}

impl Status {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            prefix: parts.broker.prefix().to_owned(),
            host: parts.plugins.host().to_owned(),
            health: HealthCheck::new(parts),
            alerts: alerts::Alerts::new(parts),
            queues: Queues::new(parts),
            outside: std::sync::Arc::clone(&parts.outside),
            plugins: PluginAdministration::new(parts),
        }
    }

    pub async fn show(&self) -> Result<Overview, Error> {
        let dead_letters = self.store.open_dead_letters(&self.prefix);
        let (readiness, alerts, queues, plugins, hosts, dead_letters, schedules) = tokio::join!(
            self.health.readiness(),
            self.alerts.list(),
            self.queues_in_trouble(),
            self.plugins.list(),
            self.store.hosts(),
            dead_letters,
            self.store.schedules()
        );
        let mut unavailable = Vec::new();
        let alerts = known(alerts, "alerts", &mut unavailable);
        let queues = known(queues, "queues", &mut unavailable);
        let plugins = known(plugins, "plugins", &mut unavailable);
        let hosts = known(hosts.map_err(Error::from), "hosts", &mut unavailable);
        let dead_letters = dead_letters.map_err(Error::from);
        let dead_letters = known(dead_letters, "dead-letters", &mut unavailable);
        let schedules = schedules.map_err(Error::from);
        let schedules = known(schedules, "schedules", &mut unavailable);
        let pending = alerts.as_ref().map(|overview| {
            let alerts = overview.alerts.iter();
            alerts.filter(|alert| alert.state != "firing").count()
        });
        let (firing, pending_alerts) = alerts.map_or((Vec::new(), Vec::new()), sorted);
        let all = queues.as_ref().map(|seen| seen.all);
        let seen = queues.unwrap_or_default();
        unavailable.extend(seen.without_failures.map(|reason| Unavailable {
            part: "failures".to_owned(),
            reason,
        }));
        let mut in_trouble = seen.in_trouble;
        let more_queues_in_trouble = in_trouble.len().saturating_sub(MOST_QUEUES);
        in_trouble.truncate(MOST_QUEUES);
        let active_plugins = plugins
            .as_ref()
            .map(|plugins| plugins.iter().filter(|plugin| plugin.active).count());
        let plugins = plugins.unwrap_or_default();
        let open = dead_letters.map(|groups| groups.iter().map(|(_, open)| open).sum());
        let paused_schedules =
            schedules.map(|rows| rows.iter().filter(|row| row.paused_by.is_some()).count());
        let mut breakers = self.outside.list();
        breakers.retain(|breaker| !breaker.is_closed());
        Ok(Overview {
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            ready: readiness.ready,
            reasons: readiness.details,
            firing,
            pending,
            pending_alerts,
            queues: all,
            queues_in_trouble: in_trouble,
            more_queues_in_trouble,
            open_dead_letters: open,
            breakers,
            active_plugins,
            paused_schedules,
            plugins: plugins.iter().filter_map(trouble).collect(),
            hosts: hosts.unwrap_or_default().into_iter().map(host).collect(),
            unavailable,
        })
    }

    /// Those in trouble are the worst first.
    async fn queues_in_trouble(&self) -> Result<SeenQueues, Error> {
        let queues = self.queues.list().await?.items;
        // Without Postgres, the queues are shown without their failures.
        let failed = self.store.failed_lately(&self.prefix, None, LATELY).await;
        let acknowledged = self.store.acknowledged_failures(&self.prefix, None).await;
        // Why they are not known is told of the failures.
        let acknowledged = acknowledged.unwrap_or_default();
        let mut unavailable = Vec::new();
        let failed = known(failed.map_err(Error::from), "failures", &mut unavailable);
        let without_failures = unavailable.pop().map(|part| part.reason);
        let failed = failed.unwrap_or_default();
        let all = queues.len();
        let mut found = Vec::new();
        for overview in queues {
            let failed = failed
                .iter()
                .find(|(queue, _)| queue == overview.name.as_str());
            let failed_last_hour = failed.map_or(0, |(_, jobs)| *jobs);
            if !may_be_in_trouble(&overview) && failed_last_hour == 0 {
                continue;
            }
            // One that was removed meanwhile is not in trouble.
            let reasons = self
                .queues
                .reasons(&overview.name)
                .await
                .unwrap_or_default();
            let reasons: Vec<Reason> = reasons
                .into_iter()
                .filter(|reason| !FINE.contains(&reason.code.as_str()))
                .collect();
            if !reasons.is_empty() || failed_last_hour > 0 {
                let jobs = acknowledged
                    .iter()
                    .find(|(queue, _)| queue == overview.name.as_str())
                    .map_or(0, |(_, jobs)| jobs.unsigned_abs());
                found.push(QueueInTrouble {
                    acknowledged: jobs.min(overview.counts.failed),
                    overview,
                    failed_last_hour,
                    reasons,
                });
            }
        }
        found.sort_by_key(|queue| {
            let counts = &queue.overview.counts;
            let waiting = counts.waiting + counts.prioritized;
            std::cmp::Reverse((
                queue.overview.error.is_some(),
                waiting > 0 && !queue.reasons.is_empty(),
                queue.overview.oldest_waiting_ms,
                queue.failed_last_hour,
            ))
        });
        Ok(SeenQueues {
            all,
            in_trouble: found,
            without_failures,
        })
    }
}

#[derive(Default)]
struct SeenQueues {
    /// Number of queues.
    all: usize,
    in_trouble: Vec<QueueInTrouble>,
    /// Why the failures of the last hour are not known.
    without_failures: Option<String>,
}

fn known<T>(part: Result<T, Error>, name: &str, unavailable: &mut Vec<Unavailable>) -> Option<T> {
    part.map_err(|error| {
        unavailable.push(Unavailable {
            part: name.to_owned(),
            reason: error.message,
        });
    })
    .ok()
}

/// Firing alerts with the critical ones first, and pending ones.
fn sorted(overview: AlertOverview) -> (Vec<Alert>, Vec<Alert>) {
    let (mut firing, pending): (Vec<Alert>, Vec<Alert>) = overview
        .alerts
        .into_iter()
        .partition(|alert| alert.state == "firing");
    firing.sort_by_key(|alert| (alert.severity != "critical", alert.since));
    (firing, pending)
}

/// Whether a queue is worth the questions that tell why it makes no progress.
fn may_be_in_trouble(queue: &QueueOverview) -> bool {
    let counts = &queue.counts;
    queue.error.is_some()
        || counts.paused
        || queue.put_aside > 0
        || counts.waiting + counts.prioritized > 0
}

fn trouble(plugin: &PluginSummary) -> Option<PluginTrouble> {
    let (state, reason) = if let Some(quarantine) = &plugin.quarantined {
        (
            "quarantined",
            format!("since {}: {}", quarantine.since, quarantine.reason),
        )
    } else if let Some(failure) = &plugin.failure {
        ("failing", failure.clone())
    } else if !plugin.active {
        ("inactive", "no revision is active".to_owned())
    } else if plugin.hosts.running < plugin.hosts.of {
        let (running, of) = (plugin.hosts.running, plugin.hosts.of);
        (
            "behind",
            format!("its active revision runs on {running} of {of} hosts"),
        )
    } else {
        return None;
    };
    Some(PluginTrouble {
        name: plugin.name.clone(),
        state: state.to_owned(),
        reason,
    })
}

fn host(row: HostRow) -> HostStatus {
    HostStatus {
        host: row.host,
        version: row.version,
        silent_s: row.silent_for.map(|silent| silent.as_secs()),
    }
}
