//! The page that Prometheus reads at /metrics: collects the numbers and writes them in Prometheus's
//! text format, 0.0.4.

mod inbox;
mod logins;
mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use patchbay_api::breakers::BreakerView;
use patchbay_capability::Relays;
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::{PluginName, QueueName};
use patchbay_queue::{Broker, QueueOverview, ServerStats};
use patchbay_runtime::{Pool, Runtime};
use patchbay_store::{PendingAge, PlacesTaken, PluginSql, Store, VerificationRow};
use patchbay_telemetry::DroppedLines;
use patchbay_telemetry::metrics::RequestMeters;
use patchbay_telemetry::metrics::family::{Labels, family};
use patchbay_telemetry::metrics::process::{Process, unix_seconds};
use patchbay_telemetry::traces::Counts;
use patchbay_work::Workers;
use patchbay_work::meters::{AttemptMeters, Meters, RevisionMeters};
use patchbay_work::quarantine::{CRASHES, Quarantine};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::{Registry, Unit};

use self::logins::Logins;
use self::standing::Standing;
use crate::alerts::AlertWatch;
use crate::alerts::rule::RULES;
use crate::audit::SealMeters;
use crate::breakers::{OutsideHosts, STATES as BREAKER_STATES};
use crate::bulk::BulkJobs;
use crate::health::{Health, Probe};
use crate::http_standing::HttpStanding;
use crate::identity_changes::IdentityChanges;
use crate::inbox::InboxParts;
use crate::limits::Limits;
use crate::login_meters::LoginMeters;
use crate::people::PeopleParts;
use crate::plugins::Plugins;
use crate::routes::RouteMeters;
use crate::service::ServiceStatus;
use crate::vendor_keys::VendorParts;

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// Longest wait for Redis's numbers: a scrape has some seconds, and the probes have the same limit
/// at the same time.
const REDIS_LIMIT: Duration = Duration::from_millis(1_500);
/// Longest wait for Postgres's groups of dead letters.
const STORE_LIMIT: Duration = REDIS_LIMIT;

pub struct Sources {
    pub alerts: Arc<AlertWatch>,
    pub meters: Arc<Meters>,
    pub attempts: Arc<AttemptMeters>,
    pub requests: Arc<RequestMeters>,
    pub routes: Arc<RouteMeters>,
    pub relays: Arc<Relays>,
    pub spans: Arc<Counts>,
    pub store: Store,
    pub runtime: Arc<Runtime>,
    pub workers: Arc<Workers>,
    pub plugins: Arc<Plugins>,
    pub outside: Arc<OutsideHosts>,
    /// Database connections of plugins.
    pub sql: PluginSql,
    pub quarantine: Arc<Quarantine>,
    pub health: Arc<Health>,
    pub services: Arc<ServiceStatus>,
    pub queues: Broker,
    pub bulks: Arc<BulkJobs>,
    pub limits: Limits,
    pub(crate) inbox: Arc<InboxParts>,
    pub http: Arc<HttpStanding>,
    pub(crate) identity_changes: Arc<IdentityChanges>,
    pub(crate) logins: Arc<LoginMeters>,
    /// Absent on a host without accounts.
    pub(crate) people: Option<Arc<PeopleParts>>,
    pub(crate) vendors: Arc<VendorParts>,
    /// Entries of audit trails that this process has sealed.
    pub sealed: Arc<SealMeters>,
    /// Most jobs that run at once over all queues.
    pub max_jobs: usize,
    /// Lines of the log that were dropped because nobody read them in time.
    pub dropped_lines: DroppedLines,
}

pub struct Exposition {
    sources: Sources,
    started: SystemTime,
}

impl Exposition {
    /// Takes the present time as the start of the process.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            started: SystemTime::now(),
        }
    }

    /// Writes the page. Asks Postgres and Redis, each within the limit of a health probe.
    pub async fn text(&self) -> Result<String, fmt::Error> {
        let Sources {
            alerts,
            meters,
            runtime,
            workers,
            plugins,
            outside,
            sql,
            quarantine,
            health,
            queues,
            store,
            bulks,
            max_jobs,
            ..
        } = &self.sources;
        meters.reconcile();
        let dead_letters = async {
            tokio::time::timeout(STORE_LIMIT, store.open_dead_letters(queues.prefix()))
                .await
                .ok()?
                .ok()
        };
        let audit = async {
            let asked =
                async { tokio::try_join!(store.audit_pending(), store.audit_verifications()) };
            tokio::time::timeout(STORE_LIMIT, asked).await.ok()?.ok()
        };
        let sessions = async {
            let asked = tokio::time::timeout(STORE_LIMIT, store.open_sessions());
            asked.await.ok()?.ok()
        };
        let inbox = async {
            let asked = tokio::time::timeout(STORE_LIMIT, self.sources.inbox.standing());
            asked.await.ok()?.ok()
        };
        let spill = async {
            let asked = tokio::time::timeout(STORE_LIMIT, queues.spill_size());
            asked.await.ok()?.ok()
        };
        let (probe, standing, dead_letters, audit, sessions, inbox, spill, mut jobs) = tokio::join!(
            health.probe(),
            self.queues(),
            dead_letters,
            audit,
            sessions,
            inbox,
            spill,
            workers.active_by_queue()
        );
        jobs.sort();
        let unsettled = queues.unsettled();
        let page = Page {
            revisions: meters.read(),
            breakers: outside.list(),
            sql: sql
                .usage()
                .into_iter()
                .map(|(plugin, places, ended)| (plugin, (places, ended)))
                .collect(),
            plugins: {
                let active = runtime.registry().snapshot();
                active
                    .iter()
                    .map(|revision| revision.plugin().clone())
                    .collect()
            },
            quarantined_plugins: quarantine.quarantined_plugins(),
            quarantines: quarantine.begun(),
            firing: alerts.firing(),
            told: alerts.deliveries(),
            pool: runtime.pool(),
            jobs,
            max_jobs: *max_jobs,
            unsettled: [
                ("tried-again", unsettled.tried_again.load(Ordering::Relaxed)),
                ("lost", unsettled.lost.load(Ordering::Relaxed)),
                ("given-up", unsettled.given_up.load(Ordering::Relaxed)),
            ],
            standing: Standing {
                queues: standing,
                attempts: self.sources.attempts.read(),
                requests: self.sources.requests.read(),
                routes: self.sources.routes.read(),
                unkept: self.sources.routes.unkept(),
                relays: (self.sources.relays.open(), self.sources.relays.ended()),
                spans: Arc::clone(&self.sources.spans),
                pool: self.sources.store.pool_usage(),
                pool_wait: probe.pool_wait,
                activated: plugins.activated(),
            },
            probe,
            dead_letters: dead_letters.unwrap_or_default(),
            audit,
            sealed: self.sources.sealed.read(),
            logins: Logins::read(&self.sources, sessions),
            inbox: inbox::Inbox::read(&self.sources, inbox, spill),
            bulk_jobs: bulks.handled(),
            converged_ago: plugins.converged_ago(),
            service_restarts: self.sources.services.restarts(),
            rate_limited: self.sources.limits.refused(),
            tls_not_after: self
                .sources
                .http
                .certificate()
                .map_or(0, |certificate| certificate.ends_unix_s),
            dropped_lines: self.sources.dropped_lines.count(),
            process: Process::read(),
            started: self.started,
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(page));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// Reads from Redis the state of the queues of active and quarantined plugins.
    async fn queues(&self) -> Option<(Vec<QueueOverview>, ServerStats)> {
        let Sources {
            plugins,
            queues,
            attempts,
            quarantine,
            ..
        } = &self.sources;
        let mut names = plugins.queues();
        for queue in &names {
            // The queue has series from now on, with zeros.
            attempts.of(queue);
        }
        names.extend(quarantine.queues());
        names.sort();
        names.dedup();
        let seen = async { tokio::try_join!(queues.overview(&names), queues.census(&names)) };
        tokio::time::timeout(REDIS_LIMIT, seen).await.ok()?.ok()
    }
}

/// The numbers of one scrape.
#[derive(Debug)]
struct Page {
    revisions: Vec<(Arc<RevisionMeters>, bool)>,
    breakers: Vec<BreakerView>,
    sql: HashMap<PluginName, (PlacesTaken, u64)>,
    /// Plugins that are active in this process.
    plugins: BTreeSet<PluginName>,
    quarantined_plugins: BTreeSet<PluginName>,
    quarantines: HashMap<(PluginName, OutcomeKind), u64>,
    /// By rule and severity.
    firing: BTreeMap<(String, String), u64>,
    /// Delivered alert messages by channel and result.
    told: BTreeMap<(&'static str, &'static str), u64>,
    pool: Pool,
    jobs: Vec<(QueueName, usize)>,
    max_jobs: usize,
    unsettled: [(&'static str, u64); 3],
    probe: Probe,
    standing: Standing,
    /// Open groups by queue. Empty while Postgres is away.
    dead_letters: Vec<(String, i64)>,
    /// What waits to be sealed, and the last verifications. `None` while Postgres is away.
    audit: Option<(Vec<PendingAge>, Vec<VerificationRow>)>,
    sealed: BTreeMap<String, u64>,
    logins: Logins,
    inbox: inbox::Inbox,
    bulk_jobs: Vec<(&'static str, &'static str, u64)>,
    converged_ago: Option<Duration>,
    service_restarts: Vec<(&'static str, u64)>,
    rate_limited: Vec<(&'static str, u64)>,
    /// Unix seconds.
    tls_not_after: i64,
    dropped_lines: u64,
    process: Process,
    started: SystemTime,
}

/// The labels of a revision's series.
fn labels<'a, const N: usize>(
    meters: &'a RevisionMeters,
    more: [(&'a str, &'a str); N],
) -> Labels<'a> {
    [
        ("plugin", meters.plugin.as_str()),
        ("revision", meters.revision.as_str()),
    ]
    .into_iter()
    .chain(more)
    .collect()
}

fn breaker_labels(breaker: &BreakerView) -> Labels<'_> {
    vec![
        ("plugin", breaker.plugin.as_str()),
        ("host", breaker.host.as_str()),
    ]
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.calls(&mut encoder)?;
        self.outside(&mut encoder)?;
        self.breakers(&mut encoder)?;
        self.sql(&mut encoder)?;
        self.quarantines(&mut encoder)?;
        self.standing.encode(&mut encoder)?;
        self.alerts(&mut encoder)?;
        self.repair(&mut encoder)?;
        self.audit(&mut encoder)?;
        self.logins.encode(&mut encoder)?;
        self.inbox.encode(&mut encoder)?;
        self.host(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl Page {
    fn each(&self) -> impl Iterator<Item = &RevisionMeters> {
        self.revisions.iter().map(|(meters, _)| meters.as_ref())
    }

    fn calls(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let active = self.revisions.iter().map(|(meters, active)| {
            (
                labels(meters, [("version", meters.version.as_str())]),
                u32::from(*active),
            )
        });
        family(
            encoder,
            "patchbay_revision_active",
            "1 while new calls go to this revision, 0 once it is retired",
            None,
        )
        .gauges(active)?;
        let activated = self.revisions.iter().filter_map(|(meters, _)| {
            let at = self
                .standing
                .activated
                .get(&meters.digest)?
                .timestamp_millis() as f64
                / 1e3;
            Some((labels(meters, [("version", meters.version.as_str())]), at))
        });
        family(
            encoder,
            "patchbay_revision_activated_timestamp",
            "When the active revision was last made the active one, since 1970",
            Unit::Seconds,
        )
        .gauges(activated)?;
        let outcomes = self.each().flat_map(|meters| {
            let counts = OutcomeKind::ALL.iter().zip(&meters.outcomes);
            counts.map(|(outcome, count)| {
                (
                    labels(meters, [("outcome", outcome.as_str())]),
                    count.load(Ordering::Relaxed),
                )
            })
        });
        family(
            encoder,
            "patchbay_calls",
            "Calls that have ended, by outcome",
            None,
        )
        .counters(outcomes)?;
        family(
            encoder,
            "patchbay_call_duration",
            "Wall clock of a call, its wait for a slot not included",
            Unit::Seconds,
        )
        .histograms(
            self.each()
                .map(|meters| (labels(meters, []), meters.duration.read())),
        )?;
        let cpu = |meters: &RevisionMeters| {
            Duration::from_nanos(meters.cpu_ns.load(Ordering::Relaxed)).as_secs_f64()
        };
        family(
            encoder,
            "patchbay_call_cpu",
            "Processor time of calls that have ended",
            Unit::Seconds,
        )
        .counters(self.each().map(|meters| (labels(meters, []), cpu(meters))))?;
        family(
            encoder,
            "patchbay_call_peak_memory",
            "Largest linear memory of a call",
            Unit::Bytes,
        )
        .histograms(
            self.each()
                .map(|meters| (labels(meters, []), meters.peak_memory.read())),
        )?;
        family(
            encoder,
            "patchbay_calls_in_flight",
            "Calls that have a slot now",
            None,
        )
        .gauges(
            self.each()
                .map(|meters| (labels(meters, []), meters.occupancy.running())),
        )?;
        family(
            encoder,
            "patchbay_calls_waiting",
            "Calls that wait for a slot or for their plugin's own limit",
            None,
        )
        .gauges(
            self.each()
                .map(|meters| (labels(meters, []), meters.occupancy.waiting())),
        )
    }

    fn outside(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let host_calls = self.each().flat_map(|meters| {
            meters
                .outside
                .host_calls()
                .map(|(kind, reading)| (labels(meters, [("capability", kind.as_str())]), reading))
        });
        family(
            encoder,
            "patchbay_host_call_duration",
            "Time in host calls that reach outside",
            Unit::Seconds,
        )
        .histograms(host_calls)?;
        let requests = self.each().flat_map(|meters| {
            let requests = meters.outside.requests();
            requests.map(|(host, status, count)| {
                (labels(meters, [("host", host), ("status", status)]), count)
            })
        });
        family(
            encoder,
            "patchbay_egress_requests",
            "Outbound requests by host and class of status",
            None,
        )
        .counters(requests)?;
        let mails = self.each().flat_map(|meters| {
            let mails = meters.outside.mails();
            mails.map(|(phase, count)| (labels(meters, [("phase", phase)]), count))
        });
        family(
            encoder,
            "patchbay_mail_sends",
            "Mails by the phase in which they ended",
            None,
        )
        .counters(mails)
    }

    fn breakers(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let states = self.breakers.iter().flat_map(|story| {
            BREAKER_STATES.map(|state| {
                let labels = breaker_labels(story)
                    .into_iter()
                    .chain([("state", state)])
                    .collect();
                (labels, u32::from(story.state == state))
            })
        });
        family(
            encoder,
            "patchbay_breaker_state",
            "1 for the state in which the breaker is",
            None,
        )
        .gauges(states)?;
        family(
            encoder,
            "patchbay_breaker_opened",
            "How often the breaker has opened",
            None,
        )
        .counters(
            self.breakers
                .iter()
                .map(|story| (breaker_labels(story), story.times_opened)),
        )?;
        family(
            encoder,
            "patchbay_breaker_deferred_jobs",
            "How often a job was deferred because of the breaker",
            None,
        )
        .counters(
            self.breakers
                .iter()
                .map(|story| (breaker_labels(story), story.deferred_jobs)),
        )
    }

    fn sql(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        // Plugins without a login are included: they use no connections, and 0 says so.
        let each = |value: fn(&(PlacesTaken, u64)) -> u64| {
            let of = move |plugin| self.sql.get(plugin).map_or(0, value);
            self.plugins
                .iter()
                .map(move |plugin| (vec![("plugin", plugin.as_str())], of(plugin)))
        };
        family(
            encoder,
            "patchbay_sql_connections_in_use",
            "Database connections that calls of the plugin have now",
            None,
        )
        .gauges(each(|(places, _)| places.in_use as u64))?;
        family(
            encoder,
            "patchbay_sql_calls_waiting",
            "Calls that wait for a database connection",
            None,
        )
        .gauges(each(|(places, _)| places.waiting as u64))?;
        family(
            encoder,
            "patchbay_sql_backends_ended",
            "Database sessions that were ended because a call did not give them back",
            None,
        )
        .counters(each(|(_, ended)| *ended))
    }

    fn repair(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let open = self
            .dead_letters
            .iter()
            .map(|(queue, groups)| (vec![("queue", queue.as_str())], *groups));
        family(
            encoder,
            "patchbay_dead_letters",
            "Groups of dead letters that nobody has acknowledged",
            None,
        )
        .gauges(open)?;
        let jobs = self
            .bulk_jobs
            .iter()
            .map(|(kind, result, jobs)| (vec![("kind", *kind), ("result", *result)], *jobs));
        family(
            encoder,
            "patchbay_bulk_jobs",
            "Jobs that bulk operations have handled",
            None,
        )
        .counters(jobs)
    }

    fn audit(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let sealed = self.sealed.iter();
        let sealed = sealed.map(|(trail, entries)| (vec![("trail", trail.as_str())], *entries));
        family(
            encoder,
            "patchbay_audit_entries",
            "Entries of audit trails that this host has sealed",
            None,
        )
        .counters(sealed)?;
        let Some((pending, verified)) = &self.audit else {
            return Ok(());
        };
        let oldest = pending.iter().map(|waiting| waiting.age_s);
        family(
            encoder,
            "patchbay_audit_pending_age",
            "How long the oldest entry of an audit trail has waited to be sealed",
            Unit::Seconds,
        )
        .gauge(Some(oldest.fold(0.0, f64::max)))?;
        let at = verified.iter().map(|row| {
            let at = row.at.timestamp_millis() as f64 / 1e3;
            (vec![("trail", row.trail.as_str())], at)
        });
        family(
            encoder,
            "patchbay_audit_verified_timestamp",
            "When the audit trail was last verified, since 1970",
            Unit::Seconds,
        )
        .gauges(at)?;
        let broken = verified.iter().map(|row| {
            let is_broken = u32::from(row.result != "whole");
            (vec![("trail", row.trail.as_str())], is_broken)
        });
        family(
            encoder,
            "patchbay_audit_broken",
            "1 if the last verification found that the audit trail is broken or shorter than it was",
            None,
        )
        .gauges(broken)
    }

    fn quarantines(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let known = self.plugins.union(&self.quarantined_plugins);
        let still = known.map(|plugin| {
            (
                vec![("plugin", plugin.as_str())],
                u32::from(self.quarantined_plugins.contains(plugin)),
            )
        });
        family(
            encoder,
            "patchbay_plugin_quarantined",
            "1 while the plugin is quarantined",
            None,
        )
        .gauges(still)?;
        let begun = self
            .plugins
            .union(&self.quarantined_plugins)
            .flat_map(|plugin| {
                CRASHES.map(|kind| {
                    let count = self
                        .quarantines
                        .get(&(plugin.clone(), kind))
                        .copied()
                        .unwrap_or(0);
                    (
                        vec![("plugin", plugin.as_str()), ("reason", kind.as_str())],
                        count,
                    )
                })
            });
        family(
            encoder,
            "patchbay_quarantines",
            "Quarantines that this host has begun, by what most crashes were",
            None,
        )
        .counters(begun)
    }

    fn alerts(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        // Rules that do not fire are included, so that "nothing fires" differs from "nobody
        // evaluates".
        let quiet = RULES
            .iter()
            .filter(|rule| !self.firing.keys().any(|(name, _)| name == rule.name));
        let quiet = quiet.map(|rule| {
            (
                vec![("rule", rule.name), ("severity", rule.severity.as_str())],
                0,
            )
        });
        let firing = self.firing.iter().map(|((rule, severity), count)| {
            (
                vec![("rule", rule.as_str()), ("severity", severity.as_str())],
                *count,
            )
        });
        family(
            encoder,
            "patchbay_alerts_firing",
            "Alerts that fire, of all hosts",
            None,
        )
        .gauges(firing.chain(quiet))?;
        let told = self.told.iter().map(|((channel, result), count)| {
            (vec![("channel", *channel), ("result", *result)], *count)
        });
        family(
            encoder,
            "patchbay_alert_deliveries",
            "Attempts of this host to deliver an alert",
            None,
        )
        .counters(told)
    }

    fn host(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let build = vec![("version", env!("CARGO_PKG_VERSION"))];
        family(
            encoder,
            "patchbay_build_info",
            "1; the version of the host",
            None,
        )
        .gauges([(build, 1u32)])?;
        family(
            encoder,
            "patchbay_pool_slots",
            "Slots of the pool of instances; a call takes at least four",
            None,
        )
        .gauge(Some(self.pool.slots))?;
        family(
            encoder,
            "patchbay_pool_slots_in_use",
            "Slots that calls have now",
            None,
        )
        .gauge(Some(self.pool.slots.saturating_sub(self.pool.free)))?;
        let jobs = self
            .jobs
            .iter()
            .map(|(queue, jobs)| (vec![("queue", queue.as_str())], *jobs));
        family(
            encoder,
            "patchbay_jobs_in_flight",
            "Jobs that run here now",
            None,
        )
        .gauges(jobs)?;
        family(
            encoder,
            "patchbay_jobs_limit",
            "Jobs at once over all queues",
            None,
        )
        .gauge(Some(self.max_jobs))?;
        let unsettled = self
            .unsettled
            .iter()
            .map(|(kind, count)| (vec![("kind", *kind)], *count));
        family(
            encoder,
            "patchbay_settle_failures",
            "Settlements that did not happen at once, or at all",
            None,
        )
        .counters(unsettled)?;
        let restarts = self
            .service_restarts
            .iter()
            .map(|(service, restarts)| (vec![("service", *service)], *restarts));
        family(
            encoder,
            "patchbay_service_restarts",
            "Background services that ended and were restarted",
            None,
        )
        .counters(restarts)?;
        let limited = self
            .rate_limited
            .iter()
            .map(|(class, times)| (vec![("class", *class)], *times));
        family(
            encoder,
            "patchbay_rate_limited",
            "Requests and attempts that a rate limit has refused",
            None,
        )
        .counters(limited)?;
        family(
            encoder,
            "patchbay_tls_not_after",
            "When the certificate of HTTPS ends, since 1970; 0: this host serves plain HTTP",
            Unit::Seconds,
        )
        .gauge(Some(self.tls_not_after))?;
        family(
            encoder,
            "patchbay_log_lines_dropped",
            "Lines of the log that nobody read in time",
            None,
        )
        .counters([(Labels::new(), self.dropped_lines)])?;
        let up = [
            ("postgres", self.probe.database),
            ("redis", self.probe.redis),
        ];
        family(
            encoder,
            "patchbay_dependency_up",
            "1 when it answered this scrape's probe in time",
            None,
        )
        .gauges(up.map(|(name, trip)| (vec![("dependency", name)], u32::from(trip.is_some()))))?;
        let writable = self
            .probe
            .database
            .map(|_| u32::from(self.probe.read_only.is_none()));
        family(
            encoder,
            "patchbay_postgres_writable",
            "1 when Postgres takes changes, 0 when it may only be read",
            None,
        )
        .gauge(writable)?;
        let trips = up
            .into_iter()
            .filter_map(|(name, trip)| Some((vec![("dependency", name)], trip?.as_secs_f64())));
        family(
            encoder,
            "patchbay_dependency_probe",
            "Round trip of this scrape's probe",
            Unit::Seconds,
        )
        .gauges(trips)?;
        let skew = self.probe.skew_ms.map(|ms| ms as f64 / 1e3);
        family(
            encoder,
            "patchbay_clock_skew",
            "This machine's clock minus Redis's",
            Unit::Seconds,
        )
        .gauge(skew)?;
        let age = self.converged_ago.map(|age| age.as_secs_f64());
        family(
            encoder,
            "patchbay_convergence_age",
            "Since this host last saw which plugins are active",
            Unit::Seconds,
        )
        .gauge(age)
    }

    fn process(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let process = &self.process;
        family(
            encoder,
            "process_cpu",
            "Processor time of this process",
            Unit::Seconds,
        )
        .counters(process.cpu_seconds.map(|seconds| (Labels::new(), seconds)))?;
        family(
            encoder,
            "process_resident_memory",
            "Resident memory",
            Unit::Bytes,
        )
        .gauge(process.resident_bytes)?;
        family(
            encoder,
            "process_virtual_memory",
            "Address space; the pool of instances reserves much",
            Unit::Bytes,
        )
        .gauge(process.virtual_bytes)?;
        family(encoder, "process_threads", "Threads", None).gauge(process.threads)?;
        family(
            encoder,
            "process_open_fds",
            "Open files and connections",
            None,
        )
        .gauge(process.open_files)?;
        family(
            encoder,
            "process_max_fds",
            "Limit of open files and connections",
            None,
        )
        .gauge(process.max_files)?;
        family(
            encoder,
            "process_start_time",
            "When the host started, since 1970",
            Unit::Seconds,
        )
        .gauge(Some(unix_seconds(self.started)))
    }
}
