//! Observes for the rules: each process observes itself, and the leader observes Redis, Postgres
//! and the reports of all processes.
//!
//! Nothing here decides. What could not be observed is absent. It does not count as in order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_api::breakers::BreakerView;
use patchbay_capability::Certificates;
use patchbay_model::id::KEPT;
use patchbay_model::shell::{arguments, word};
use patchbay_model::words::{counted, lasted};
use patchbay_model::{PluginName, QueueName};
use patchbay_queue::{Broker, QueueError, QueueOverview, SchedulerView, Trouble};
use patchbay_store::{PendingAge, RefusedLogin, Store, StoreError, VerificationRow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::breakers::OutsideHosts;
use crate::breakers::outage::{NextTry, Outage};
use crate::health::{DRAINING, Health};
use crate::http_standing::HttpStanding;
use crate::identity_changes::IdentityChanges;
use crate::inbox::{InboxParts, RejectedLately};
use crate::login_meters::{FailedLogins, LoginMeters};
use crate::plugins::{Plugins, way_out};
use crate::scheduling::spec;

/// Older failures and stalls are not observed.
const LATELY: Duration = Duration::from_secs(600);
const DAY_S: f64 = 86_400.0;
/// A login that was refused stays an alert for so long when nothing tries it again.
const REFUSED_FOR: Duration = Duration::from_secs(86_400);
/// A host that starts, or connects again, hears of no changes for a moment.
const SHORT_SILENCE: Duration = Duration::from_secs(10);

/// What only the process itself can observe. The others read it from Postgres.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostReport {
    pub not_ready: Vec<String>,
    /// Code, message and next step when Redis answers but cannot serve, or must not be trusted with
    /// jobs.
    pub redis: Option<(String, String, String)>,
    /// Plugin and outside host of each breaker that failures have opened.
    pub breakers: Vec<(String, String)>,
    /// The same breakers, with more of each. Empty in reports of the version before.
    pub open_breakers: Vec<OpenBreaker>,
    /// Plugin and outside host of each breaker that was opened and is closed again.
    pub closed_breakers: Vec<(String, String)>,
    /// When the certificate of each outside host ends, in Unix seconds.
    pub certificates: BTreeMap<String, i64>,
    /// Jobs per queue whose worker was lost lately.
    pub stalls: BTreeMap<String, usize>,
    /// Peers that look like proxies and are not trusted.
    pub untrusted_proxies: Vec<String>,
    /// The certificate with which it serves HTTPS.
    pub tls: Option<ServedCertificate>,
    pub failed_logins: FailedLogins,
    /// Webhooks with requests that were rejected lately.
    pub rejected: Vec<RejectedLately>,
    /// For how long it has not heard which accounts and keys change.
    pub deaf_for_ms: Option<u64>,
    /// The channels over which it can deliver.
    pub channels: Vec<String>,
}

/// The certificate of a host's own HTTPS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServedCertificate {
    pub ends_unix_s: i64,
    /// Why the files for the next one are not used.
    pub problem: Option<String>,
}

/// A breaker that failures have opened, as its process sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenBreaker {
    pub plugin: String,
    /// The outside host.
    pub host: String,
    pub open_for_ms: Option<u64>,
    pub next_try_in_ms: Option<u64>,
    /// It lets one call through.
    pub half_open: bool,
    pub opened_after: Option<u32>,
    pub last_failure: Option<String>,
    /// Jobs in the plugin's queues that wait, and those that are delayed.
    pub jobs: Option<(u64, u64)>,
}

impl OpenBreaker {
    fn of(view: &BreakerView, jobs: Option<(u64, u64)>) -> Self {
        Self {
            plugin: view.plugin.to_string(),
            host: view.host.clone(),
            open_for_ms: view.open_for_ms,
            next_try_in_ms: view.probe_in_ms,
            half_open: view.state == "half-open",
            opened_after: view.opened_after,
            last_failure: view.last_failure.clone(),
            jobs,
        }
    }

    fn outage(&self) -> Outage<'_> {
        Outage {
            plugin: &self.plugin,
            host: &self.host,
            open_for: self.open_for_ms.map(Duration::from_millis),
            last_failure: self.last_failure.as_deref(),
            jobs: self.jobs,
            next_try: NextTry::of(self.next_try_in_ms, self.half_open),
        }
    }
}

/// One subject of a rule, as it was observed.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub subject: String,
    pub value: Option<f64>,
    /// The number of cases behind the value.
    pub cases: Option<u32>,
    /// Must contain nothing of a job's data.
    pub reason: String,
    /// The reason when it is over. `None`: as [`Self::reason`].
    pub was: Option<String>,
    /// What the reader should do next.
    pub next: String,
    /// More details, for machines.
    pub details: Map<String, Value>,
}

impl Observation {
    pub fn new(
        subject: impl Into<String>,
        value: impl Into<Option<f64>>,
        reason: String,
        next: String,
    ) -> Self {
        Self {
            subject: subject.into(),
            value: value.into(),
            cases: None,
            reason,
            was: None,
            next,
            details: Map::new(),
        }
    }

    pub(super) fn was(mut self, was: impl Into<String>) -> Self {
        self.was = Some(was.into());
        self
    }
}

#[derive(Debug)]
pub struct RuleObservations {
    pub rule: &'static str,
    pub observations: Vec<Observation>,
    /// Subjects that were looked at and are in order, so far as they are known by name. Any other
    /// one that is covered and not observed is absent.
    pub in_order: BTreeSet<String>,
    pub covers: Coverage,
}

impl RuleObservations {
    /// A subject that is observed as well, for example by another process, is not in order.
    pub(super) fn with_in_order(mut self, subjects: impl IntoIterator<Item = String>) -> Self {
        self.in_order = subjects.into_iter().collect();
        for observation in &self.observations {
            self.in_order.remove(&observation.subject);
        }
        self
    }
}

/// Subjects that do not meet the condition when [`RuleObservations::observations`] does not contain
/// them.
#[derive(Debug)]
pub enum Coverage {
    Everything,
    Only(String),
    AllBut(&'static str),
    /// No subject: only those that were observed are known.
    Nothing,
}

impl Coverage {
    pub fn subject(&self, subject: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(one) => one == subject,
            Self::AllBut(one) => *one != subject,
            Self::Nothing => false,
        }
    }
}

pub struct Sources {
    pub store: Store,
    pub queues: Broker,
    pub plugins: Arc<Plugins>,
    pub health: Arc<Health>,
    pub outside: Arc<OutsideHosts>,
    pub certificates: Arc<Certificates>,
    pub http: Arc<HttpStanding>,
    pub(crate) identity_changes: Arc<IdentityChanges>,
    pub(crate) logins: Arc<LoginMeters>,
    pub(crate) inbox: Arc<InboxParts>,
}

impl Sources {
    pub async fn own(&self, channels: Vec<String>) -> HostReport {
        let not_ready = self.health.not_ready().await;
        let trouble = self
            .health
            .probe()
            .await
            .redis_trouble
            .filter(|trouble| *trouble != Trouble::Away);
        let (closed, open): (Vec<BreakerView>, Vec<BreakerView>) = self
            .outside
            .list()
            .into_iter()
            // A breaker that an operator has opened is open on purpose.
            .filter(|view| view.opened_by.is_none())
            .partition(BreakerView::is_closed);
        let pair = |view: &BreakerView| (view.plugin.to_string(), view.host.clone());
        HostReport {
            not_ready: not_ready
                .iter()
                .filter(|reason| reason.code != DRAINING)
                .map(|reason| reason.code.into())
                .collect(),
            redis: trouble.map(|trouble| {
                (
                    trouble.code().into(),
                    trouble.to_string(),
                    trouble.next().into(),
                )
            }),
            breakers: open.iter().map(pair).collect(),
            open_breakers: self.with_jobs(&open).await,
            closed_breakers: closed
                .iter()
                .filter(|view| view.times_opened > 0)
                .map(pair)
                .collect(),
            certificates: self.certificates.ends().into_iter().collect(),
            stalls: self
                .queues
                .stalls()
                .within(LATELY)
                .iter()
                .map(|(queue, jobs)| (queue.to_string(), *jobs))
                .collect(),
            untrusted_proxies: self
                .http
                .untrusted_proxies()
                .iter()
                .map(ToString::to_string)
                .collect(),
            tls: self.http.certificate().map(|served| ServedCertificate {
                ends_unix_s: served.ends_unix_s,
                problem: served.problem,
            }),
            failed_logins: self.logins.failed(),
            rejected: self.inbox.rejected_lately(),
            deaf_for_ms: self
                .identity_changes
                .deaf_for()
                .filter(|time| *time >= SHORT_SILENCE)
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            channels,
        }
    }

    /// The open breakers, with the jobs in their plugins' queues as far as Redis answers.
    async fn with_jobs(&self, open: &[BreakerView]) -> Vec<OpenBreaker> {
        let mut seen = Vec::with_capacity(open.len());
        let mut redis_answers = true;
        for view in open {
            let jobs = match redis_answers {
                true => self.jobs_of(&view.plugin).await,
                false => None,
            };
            redis_answers = jobs.is_some();
            seen.push(OpenBreaker::of(view, jobs));
        }
        seen
    }

    async fn jobs_of(&self, plugin: &PluginName) -> Option<(u64, u64)> {
        let queues = self.plugins.queues_of(plugin);
        let overview = tokio::time::timeout(super::ANSWER_WITHIN, self.queues.overview(&queues));
        Some(jobs_of(&overview.await.ok()?.ok()?))
    }

    /// Evaluates the reports of all processes.
    pub fn of_processes(
        &self,
        all: &[(String, HostReport)],
        silent: &[(String, Duration)],
    ) -> Vec<RuleObservations> {
        let now = Utc::now().timestamp();
        let silent_ones = silent.iter().map(|(host, silent)| {
            let length = lasted(*silent);
            let next = "check that its machine and its process run; its jobs run again on other hosts after about 30 s";
            Observation::new(host, None, format!("Host {host} has not reported for {length}"), next.into())
                .was(format!("host {host} had not reported for {length}"))
        });
        let is_silent = |host: &str| silent.iter().any(|(silent, _)| silent == host);
        let (others, ready): (Vec<_>, Vec<_>) = all
            .iter()
            .filter(|(host, _)| !is_silent(host))
            .partition(|(_, seen)| !seen.not_ready.is_empty());
        let others = others.into_iter().map(|(host, seen)| unready(host, seen));
        let unfit = all.iter().find_map(|(_, seen)| redis_unfit(seen));
        let closed = all.iter().flat_map(|(_, seen)| &seen.closed_breakers);
        vec![
            everything("health", silent_ones.chain(others))
                .with_in_order(ready.into_iter().map(|(host, _)| host.clone())),
            everything("redis-unfit", unfit).with_in_order([REDIS.to_owned()]),
            everything("breaker-open", breakers(all))
                .with_in_order(closed.map(|(plugin, host)| breaker_subject(plugin, host))),
            everything("stalled", stalls(all)),
            everything("certificate", certificates(all, now)),
            everything("tls-certificate", served_certificates(all, now)),
            everything("proxy-not-trusted", untrusted_proxies(all)),
        ]
    }

    /// The observations that need no report of another process, for the time while Postgres is
    /// away.
    pub fn of_this_process(&self, own: &HostReport) -> Vec<RuleObservations> {
        let host = self.plugins.host();
        let is_ready = own.not_ready.is_empty();
        let health = RuleObservations {
            rule: "health",
            observations: (!is_ready)
                .then(|| unready(host, own))
                .into_iter()
                .collect(),
            in_order: is_ready.then(|| host.to_owned()).into_iter().collect(),
            covers: Coverage::Only(host.to_owned()),
        };
        let redis = everything("redis-unfit", redis_unfit(own));
        vec![health, redis.with_in_order([REDIS.to_owned()])]
    }

    /// Observes Redis. `names` are queues.
    pub async fn in_redis(
        &self,
        names: &BTreeSet<QueueName>,
    ) -> Result<Vec<RuleObservations>, QueueError> {
        let names: Vec<QueueName> = names.iter().cloned().collect();
        let queues = self.queues.overview(&names).await?;
        let share = self.queues.memory_share().await?.map(|share| share * 100.0);
        let lag = self.queues.attempts_waiting_for().await?;
        let memory = |rule| {
            let observation = share.map(|share| {
                let reason = format!(
                    "Redis uses {share:.0} % of maxmemory; from 85 % on, new jobs are refused"
                );
                Observation::new(
                    "memory",
                    share,
                    reason,
                    "patchbay queue clean QUEUE completed, or raise maxmemory of Redis".into(),
                )
                .was(format!("Redis used {share:.0} % of maxmemory"))
            });
            everything(rule, observation)
        };
        let lag = lag.map(|lag| {
            let length = lasted(lag);
            let reason = format!(
                "The history is behind: the oldest finished attempt has waited {length} for its copy to Postgres"
            );
            let next =
                "patchbay doctor says whether Postgres answers and how fast; nothing is lost while Redis has room";
            Observation::new("attempts", lag.as_secs_f64(), reason, next.into())
                .was(format!("the oldest finished attempt had waited {length} for its copy to Postgres"))
        });
        Ok(vec![
            everything("oldest-waiting", queues.iter().filter_map(oldest))
                .with_in_order(queues.iter().map(|queue| queue.name.to_string())),
            memory("redis-memory"),
            memory("redis-full"),
            everything("history-lag", lag),
        ])
    }

    /// Observes Postgres, and for schedules Redis, too.
    pub async fn in_postgres(&self) -> Result<Vec<RuleObservations>, StoreError> {
        let mut current = Vec::new();
        for row in self.store.quarantined().await? {
            if row.is_current {
                let earlier = self.store.rollback_target(&row.plugin).await?;
                current.push((row, earlier));
            }
        }
        let quarantined = current.into_iter().map(|(row, earlier)| {
            let plugin = &row.plugin;
            let next = way_out(plugin.as_str(), earlier.as_ref());
            let mut observation = quarantined(plugin.as_str(), &row.reason, next);
            let consequence = format!(
                "its queues wait; patchbay plugin release {plugin}, or activate another revision"
            );
            let host = row.began_by.strip_prefix("host ").unwrap_or(&row.began_by);
            observation.details = details([
                ("plugin", json!(plugin)),
                ("revision", json!(row.digest)),
                ("host", json!(host)),
                ("consequence", json!(consequence)),
            ]);
            observation
        });
        let rates = self
            .store
            .failure_rates(self.queues.prefix(), LATELY)
            .await?
            .into_iter()
            .map(|rate| {
                let share = rate.failed as f64 * 100.0 / rate.ended.max(1) as f64;
                let queue = &rate.queue;
                let (failed, ended) = (rate.failed, rate.ended);
                let of = format!(
                    "of {} of {queue} that ended",
                    counted(ended.unsigned_abs(), "job")
                );
                let reason = format!("{failed} {of} in the last 10 min failed for good");
                let mut observation = Observation::new(
                queue,
                share,
                reason,
                format!(
                    "patchbay job list {}; when the cause is repaired: patchbay queue retry-all {}",
                    arguments(&[queue, "failed"]),
                    arguments(&[queue])
                ),
            )
            .was(format!("{failed} {of} within 10 min had failed for good"));
                observation.cases = u32::try_from(rate.failed).ok();
                observation
            });
        let refused = self
            .store
            .refused_logins(self.queues.prefix(), REFUSED_FOR)
            .await?;
        let refused = by_plugin(&refused).into_iter().map(|(plugin, queues)| {
            let logins = plugin
                .parse::<PluginName>()
                .map(|plugin| self.plugins.logins_of(&plugin));
            refused_login(plugin, &queues, &logins.unwrap_or_default())
        });
        let now = Utc::now();
        let mut newest: HashMap<(String, String), DateTime<Utc>> = HashMap::new();
        for row in self.store.secrets(None).await? {
            let set = newest
                .entry((row.plugin.to_string(), row.name.to_string()))
                .or_insert(row.created_at);
            *set = (*set).max(row.created_at);
        }
        let secrets = newest.into_iter().map(|((plugin, name), set)| {
            let days = (now - set).num_seconds().max(0) as f64 / DAY_S;
            let age = counted(days as u64, "day");
            let reason =
                format!("Secret {name} of plugin {plugin} was set {age} ago and not rotated since");
            // Nobody but the plugin can give a credential that it was handed over.
            let mend = match name.starts_with(KEPT) {
                true => "Save the credential again where it was entered".to_owned(),
                false => format!("patchbay secret rotate {plugin} {name}"),
            };
            Observation::new(format!("{plugin}/{name}"), days, reason, mend)
                .was(format!("secret {name} of plugin {plugin} was {age} old"))
        });
        let verified = self.store.audit_verifications().await?;
        let unsealed = self.store.audit_pending().await?;
        Ok(vec![
            everything("plugin-quarantined", quarantined),
            everything("bad-credentials", refused),
            everything("failure-rate", rates),
            everything("secret-age", secrets),
            everything("audit-broken", not_whole(&verified, "broken")),
            everything("audit-short", not_whole(&verified, "shorter")),
            everything("audit-unsealed", unsealed.iter().map(waiting_to_be_sealed)),
        ])
    }

    /// Observes ticks that are overdue, and schedules without a next tick. `None` when Redis does
    /// not answer.
    pub async fn schedules(&self) -> Result<Option<[RuleObservations; 2]>, StoreError> {
        let rows = self.store.schedules().await?;
        let mut queues: BTreeSet<QueueName> = rows
            .iter()
            .filter_map(|row| row.queue.parse().ok())
            .collect();
        queues.extend(self.queues.handled());
        let queues: Vec<QueueName> = queues.into_iter().collect();
        let there = async {
            let mut there: HashMap<String, (bool, Vec<SchedulerView>)> = HashMap::new();
            for queue in self.queues.overview(&queues).await? {
                match self.queues.schedulers(&queue.name).await {
                    // The list of queues reports it.
                    Err(QueueError::Damaged { .. }) => {}
                    schedulers => drop(
                        there.insert(queue.name.to_string(), (queue.counts.paused, schedulers?)),
                    ),
                }
            }
            Ok::<_, QueueError>(there)
        };
        let Ok(there) = there.await else {
            return Ok(None);
        };
        let now_ms = i64::try_from(self.queues.now_ms()).unwrap_or(i64::MAX);
        let overdue = rows
            .iter()
            .filter(|row| row.paused_by.is_none())
            .filter_map(|row| {
                let (_, views) = there.get(&row.queue).filter(|(paused, _)| !paused)?;
                let view = views.iter().find(|view| view.id == row.id && view.alive)?;
                let late_s = now_ms.saturating_sub(i64::try_from(view.next_at).ok()?) / 1_000;
                let (id, queue) = (&row.id, &row.queue);
                let length = lasted(Duration::from_secs(u64::try_from(late_s).ok()?));
                let reason = format!(
                    "A job of schedule {id} has been due in {queue} for {length} and has not started"
                );
                (late_s > 0).then(|| {
                    Observation::new(
                        id,
                        late_s as f64,
                        reason,
                        format!("patchbay queue why {}", arguments(&[queue])),
                    )
                    .was(format!("a job of schedule {id} in {queue} started {length} late or later"))
                })
            });
        let zone = self.queues.default_zone();
        let unusable = rows
            .iter()
            .filter(|row| row.paused_by.is_none())
            .filter_map(|row| {
                let (id, trouble) = (&row.id, spec(row, zone).err()?);
                let next = format!("patchbay schedule edit {}", arguments(&[id]));
                let reason = format!("Schedule {id} adds no jobs: {trouble}");
                Some(
                    Observation::new(id, None, reason, next)
                        .was(format!("schedule {id} added no jobs: {trouble}")),
                )
            });
        let stopped = there.iter().flat_map(|(queue, (_, views))| {
            views.iter().filter_map(move |view| {
                let (id, trouble) = (&view.id, view.trouble.as_ref()?);
                let reason = format!("Schedule {id} of {queue} stops: {trouble}");
                let next = format!(
                    "patchbay schedule show {}; correct it where it was made",
                    arguments(&[id])
                );
                Some(
                    Observation::new(format!("{queue} {id}"), None, reason, next)
                        .was(format!("schedule {id} of {queue} stopped: {trouble}")),
                )
            })
        });
        Ok(Some([
            everything("schedule-overdue", overdue),
            everything("schedule-stopped", unusable.chain(stopped)),
        ]))
    }
}

pub(super) fn everything(
    rule: &'static str,
    observations: impl IntoIterator<Item = Observation>,
) -> RuleObservations {
    RuleObservations {
        rule,
        observations: observations.into_iter().collect(),
        in_order: BTreeSet::new(),
        covers: Coverage::Everything,
    }
}

pub(super) fn quarantined(plugin: &str, why: &str, next: String) -> Observation {
    let reason = format!("Plugin {plugin} is quarantined: {why}");
    Observation::new(plugin, None, reason, next)
        .was(format!("plugin {plugin} was quarantined: {why}"))
}

fn by_plugin(refused: &[RefusedLogin]) -> BTreeMap<&str, Vec<&str>> {
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in refused {
        by.entry(&one.plugin).or_default().push(&one.queue);
    }
    by
}

/// Names what to replace, never a value.
fn refused_login(plugin: &str, queues: &[&str], logins: &[String]) -> Observation {
    let list = queues.join(", ");
    let reason = format!(
        "An account outside refuses the login of plugin {plugin}: jobs of {list} fail as bad-credentials, and are not tried again"
    );
    let what = match logins {
        [] => "the credentials of its account".to_owned(),
        logins => logins.join(" or "),
    };
    let retry: Vec<String> = queues
        .iter()
        .map(|queue| format!("patchbay queue retry-all {}", arguments(&[queue])))
        .collect();
    let next = format!("replace {what}; then: {}", retry.join("; "));
    let mut observation = Observation::new(plugin, None, reason, next).was(format!(
        "an account outside refused the login of plugin {plugin}"
    ));
    observation.details = details([("plugin", json!(plugin)), ("queues", json!(queues))]);
    observation
}

fn not_whole<'a>(
    verified: &'a [VerificationRow],
    result: &'a str,
) -> impl Iterator<Item = Observation> + 'a {
    let found = verified.iter().filter(move |row| row.result == result);
    found.map(|row| {
        let trail = &row.trail;
        let problem = row.problem.clone();
        let reason = problem.unwrap_or_else(|| format!("Audit trail {trail} is not whole"));
        let next = format!("patchbay audit verify --trail {trail}; then docs/operations/audit.md");
        Observation::new(trail, None, reason, next)
            .was(format!("audit trail {trail} was not whole"))
    })
}

fn waiting_to_be_sealed(waiting: &PendingAge) -> Observation {
    let (trail, length) = (
        &waiting.trail,
        lasted(Duration::from_secs_f64(waiting.age_s.max(0.0))),
    );
    let count = waiting.count;
    let reason = format!(
        "Audit trail {trail} has {count} entries that are not sealed, the oldest for {length}"
    );
    let next = "check the hosts' logs for audit-sealer; patchbay audit verify says whether entries are missing";
    Observation::new(trail, waiting.age_s, reason, next.into()).was(format!(
        "entries of audit trail {trail} were not sealed for {length}"
    ))
}

/// Waiting jobs of some queues, and delayed ones.
fn jobs_of(queues: &[QueueOverview]) -> (u64, u64) {
    let waiting = |queue: &QueueOverview| queue.counts.waiting + queue.counts.prioritized;
    (
        queues.iter().map(waiting).sum(),
        queues.iter().map(|queue| queue.counts.delayed).sum(),
    )
}

pub(super) fn details<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn oldest(queue: &QueueOverview) -> Option<Observation> {
    // Jobs of a paused queue wait because an operator wants it.
    let age_ms = queue.oldest_waiting_ms.filter(|_| !queue.counts.paused)?;
    let (name, waiting) = (&queue.name, queue.counts.waiting + queue.counts.prioritized);
    let (jobs, age) = (
        counted(waiting, "job"),
        lasted(Duration::from_millis(age_ms)),
    );
    let reason = match waiting {
        1 => format!("1 job waits in {name}, for {age}"),
        _ => format!("{jobs} wait in {name}, the oldest for {age}"),
    };
    let was = match waiting {
        1 => format!("1 job waited, for {age}"),
        _ => format!("{jobs} waited, the oldest for {age}"),
    };
    let next = format!("patchbay queue why {}", arguments(&[name.as_str()]));
    Some(Observation::new(name.as_str(), age_ms as f64 / 1e3, reason, next).was(was))
}

/// The subject of `redis-unfit`.
const REDIS: &str = "redis";

/// Redis is the same for all hosts, so the observation of one host is enough.
fn redis_unfit(seen: &HostReport) -> Option<Observation> {
    let (code, message, next) = seen.redis.clone()?;
    let mut observation = Observation::new(REDIS, None, message, next);
    observation.details = details([("trouble", json!(code))]);
    Some(observation)
}

fn unready(host: &str, seen: &HostReport) -> Observation {
    let words = seen.not_ready.iter().map(|code| match code.as_str() {
        "database" => "Postgres does not answer (database)",
        "database-read-only" => {
            "Postgres accepts no changes: a standby, or default_transaction_read_only is on (database-read-only)"
        }
        code => code,
    });
    let words = words.collect::<Vec<_>>().join(", ");
    let reason = format!("Host {host} is not ready: {words}");
    Observation::new(
        host,
        None,
        reason,
        "run patchbay doctor on its machine".into(),
    )
    .was(format!("host {host} was not ready: {words}"))
}

fn breaker_subject(plugin: &str, host: &str) -> String {
    format!("{plugin} {host}")
}

/// The open breakers of a report; of a host of the version before, as far as it tells.
fn open_breakers(seen: &HostReport) -> Vec<OpenBreaker> {
    if !seen.open_breakers.is_empty() {
        return seen.open_breakers.clone();
    }
    let bare = seen.breakers.iter().map(|(plugin, host)| OpenBreaker {
        plugin: plugin.clone(),
        host: host.clone(),
        ..OpenBreaker::default()
    });
    bare.collect()
}

fn breakers(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
    let mut by: BTreeMap<String, (OpenBreaker, Vec<&str>)> = BTreeMap::new();
    for (process, seen) in all {
        for open in open_breakers(seen) {
            let subject = breaker_subject(&open.plugin, &open.host);
            match by.entry(subject) {
                Entry::Vacant(entry) => drop(entry.insert((open, vec![process.as_str()]))),
                Entry::Occupied(mut entry) => {
                    let (known, processes) = entry.get_mut();
                    processes.push(process);
                    *known = of_both(known, &open);
                }
            }
        }
    }
    by.into_iter().map(|(subject, (open, processes))| {
        let outage = open.outage();
        let after = open.opened_after.map(|failures| {
            let failures = counted(failures, "failure");
            format!("; the breaker opened after {failures}")
        });
        let reason = format!(
            "{}. Seen on {}{}",
            outage.text(),
            processes.join(", "),
            after.unwrap_or_default()
        );
        let next = format!("check {}; then: patchbay breaker list", word(&open.host));
        let mut observation = Observation::new(subject, None, reason, next).was(outage.past());
        observation.details = details([
            ("plugin", json!(open.plugin)),
            ("outsideHost", json!(open.host)),
        ]);
        observation
    })
}

/// What two processes see of one outside host: the longer outage, and whoever tries sooner.
fn of_both(a: &OpenBreaker, b: &OpenBreaker) -> OpenBreaker {
    let (longer, other) = match a.open_for_ms >= b.open_for_ms {
        true => (a, b),
        false => (b, a),
    };
    OpenBreaker {
        next_try_in_ms: longer
            .next_try_in_ms
            .zip(other.next_try_in_ms)
            .map(|(a, b)| a.min(b))
            .or(longer.next_try_in_ms),
        last_failure: longer
            .last_failure
            .clone()
            .or_else(|| other.last_failure.clone()),
        jobs: longer.jobs.or(other.jobs),
        ..longer.clone()
    }
}

fn served_certificates(
    all: &[(String, HostReport)],
    now: i64,
) -> impl Iterator<Item = Observation> {
    all.iter().filter_map(move |(host, seen)| {
        let served = seen.tls.as_ref()?;
        let days = served.ends_unix_s.saturating_sub(now) as f64 / DAY_S;
        let end = match days < 0.0 {
            true => "has ended".to_owned(),
            false => format!("ends in {}", counted(days as u64, "day")),
        };
        Some(match &served.problem {
            // Below every threshold: the next certificate is already broken.
            Some(problem) => {
                let reason = format!(
                    "Host {host} cannot use the new certificate for HTTPS ({problem}); it goes on with the one before, which {end}"
                );
                let next = "correct the files of http.tls_cert_file and http.tls_key_file; the host reads them every 10 s";
                Observation::new(host, days.min(0.0), reason, next.into())
                    .was(format!("host {host} could not use the new certificate"))
            }
            None => {
                let reason = format!("The certificate with which host {host} serves HTTPS {end}");
                let next = "renew it, and write the new files in the place of the old ones; no restart is needed";
                Observation::new(host, days, reason, next.into())
                    .was(format!("the certificate of host {host} was about to end"))
            }
        })
    })
}

fn untrusted_proxies(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (host, seen) in all {
        for proxy in &seen.untrusted_proxies {
            by.entry(proxy).or_default().push(host);
        }
    }
    by.into_iter().map(|(proxy, hosts)| {
        let hosts = hosts.join(", ");
        let reason = format!(
            "{proxy} sends requests of other clients (X-Forwarded-For) to {hosts}, but is not trusted: its clients are taken for one, and are not limited by network"
        );
        let next = format!(
            "if it is your proxy, add {proxy} to http.trusted_proxies of every host and restart them; else find out what runs there"
        );
        Observation::new(proxy, None, reason, next)
            .was(format!("{proxy} sent requests of other clients and was not trusted"))
    })
}

fn stalls(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    for (queue, jobs) in all.iter().flat_map(|(_, seen)| &seen.stalls) {
        *by.entry(queue).or_default() += jobs;
    }
    by.into_iter().map(|(queue, jobs)| {
        let lost = counted(jobs as u64, "job");
        let runs = if jobs == 1 { "runs" } else { "run" };
        let reason =
            format!("{lost} of {queue} lost the worker in the last 10 min and {runs} again");
        let next =
            "check for a host that was killed, lost Redis, or was too busy to renew its locks";
        Observation::new(queue, jobs as f64, reason, next.into())
            .was(format!("{lost} of {queue} lost the worker within 10 min"))
    })
}

fn certificates(
    all: &[(String, HostReport)],
    now_unix_s: i64,
) -> impl Iterator<Item = Observation> {
    let mut by: BTreeMap<&str, i64> = BTreeMap::new();
    for (host, ends) in all.iter().flat_map(|(_, seen)| &seen.certificates) {
        // Processes may have seen the old and the new certificate: the one that ends last counts.
        by.entry(host)
            .and_modify(|known| *known = (*known).max(*ends))
            .or_insert(*ends);
    }
    by.into_iter().map(move |(host, ends)| {
        let days = ends.saturating_sub(now_unix_s) as f64 / DAY_S;
        let at = DateTime::from_timestamp(ends, 0)
            .map(|at| at.date_naive().to_string())
            .unwrap_or_default();
        let length = counted(days.abs().round() as u64, "day");
        let reason = match days < 0.0 {
            true => format!("The certificate of {host} ended on {at}, {length} ago"),
            false => format!("The certificate of {host} ends on {at}, in {length}"),
        };
        let next = format!("ask whoever runs {host} to renew it");
        Observation::new(host, days, reason, next)
            .was(format!("the certificate of {host} ended on {at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(change: impl FnOnce(&mut HostReport)) -> (String, HostReport) {
        let mut seen = HostReport::default();
        change(&mut seen);
        ("a:1".into(), seen)
    }

    #[test]
    fn of_two_certificates_of_a_host_the_one_that_ends_last_counts() {
        let with = |ends: i64| {
            process(|seen| seen.certificates = [("api.example:443".into(), ends)].into())
        };
        let observations: Vec<Observation> =
            certificates(&[with(10 * 86_400), with(90 * 86_400)], 0).collect();
        assert_eq!(
            observations
                .iter()
                .map(|observation| observation.value)
                .collect::<Vec<_>>(),
            [Some(90.0)]
        );
        assert!(
            observations[0]
                .reason
                .contains("ends on 1970-04-01, in 90 days"),
            "{}",
            observations[0].reason
        );
    }

    #[test]
    fn a_breaker_that_several_processes_have_open_is_one_subject_and_stalls_add_up() {
        let seen = |seen: &mut HostReport| {
            seen.breakers
                .push(("email".into(), "smtp://mail.example:465".into()));
            seen.stalls.insert("emailQueue".into(), 2);
        };
        let both = [process(seen), process(seen)];
        let observations: Vec<Observation> = breakers(&both).collect();
        assert_eq!(
            observations
                .iter()
                .map(|observation| observation.subject.as_str())
                .collect::<Vec<_>>(),
            ["email smtp://mail.example:465"]
        );
        assert_eq!(
            stalls(&both)
                .map(|observation| observation.value)
                .collect::<Vec<_>>(),
            [Some(4.0)]
        );
    }

    fn open(plugin: &str, open_for_s: u64, next_try_ms: Option<u64>) -> OpenBreaker {
        OpenBreaker {
            plugin: plugin.into(),
            host: "smtp://mail:587".into(),
            open_for_ms: Some(open_for_s * 1_000),
            next_try_in_ms: next_try_ms,
            half_open: next_try_ms.is_none(),
            opened_after: Some(5),
            last_failure: Some("connect: Connection refused (os error 111)".into()),
            jobs: Some((61, 0)),
        }
    }

    #[test]
    fn an_outage_is_told_as_far_as_the_reports_have_it() {
        let (mut a, mut b) = (HostReport::default(), HostReport::default());
        a.open_breakers = vec![open("email", 300, Some(12_000))];
        b.open_breakers = vec![open("email", 20, Some(3_000))];
        let both = [("a:1".to_owned(), a), ("b:2".to_owned(), b)];
        let observation = breakers(&both).next().expect("one");
        assert_eq!(
            observation.reason,
            "email cannot reach smtp://mail:587 for 5 min (connection refused); 61 jobs wait. Next try in 3 s. Seen on a:1, b:2; \
             the breaker opened after 5 failures"
        );
        assert_eq!(
            observation.was.as_deref(),
            Some(
                "email could not reach smtp://mail:587 for 5 min (connection refused); 61 jobs waited"
            )
        );
    }

    #[test]
    fn a_report_of_the_version_before_is_understood_and_a_newer_one_is_read_by_it() {
        let old = json!({ "notReady": [], "breakers": [["email", "smtp://mail:587"]], "channels": ["mail"] });
        let old: HostReport = serde_json::from_value(old).expect("a report");
        let reason = breakers(&[("a:1".to_owned(), old)])
            .next()
            .expect("one")
            .reason;
        assert_eq!(reason, "email cannot reach smtp://mail:587. Seen on a:1");
        let new = HostReport {
            breakers: vec![("email".into(), "smtp://mail:587".into())],
            open_breakers: vec![open("email", 1, None)],
            ..HostReport::default()
        };
        let written = serde_json::to_value(&new).expect("JSON");
        assert_eq!(written["breakers"], json!([["email", "smtp://mail:587"]]));
        assert_eq!(
            serde_json::from_value::<HostReport>(written).ok(),
            Some(new)
        );
    }

    #[test]
    fn a_refused_login_names_what_to_replace_and_how_to_go_on() {
        let row = |queue: &str| RefusedLogin {
            plugin: "email".into(),
            queue: queue.into(),
            last_at: Utc::now(),
        };
        let rows = [row("emailQueue"), row("otherQueue")];
        let by = by_plugin(&rows);
        let logins = [
            "the mail account's password".to_owned(),
            "secret API_KEY".to_owned(),
        ];
        let told = refused_login("email", &by["email"], &logins);
        assert_eq!(
            (by.len(), told.next.as_str()),
            (
                1,
                "replace the mail account's password or secret API_KEY; then: patchbay queue retry-all emailQueue; patchbay queue retry-all otherQueue"
            )
        );
        assert!(
            told.reason.contains("jobs of emailQueue, otherQueue fail"),
            "{}",
            told.reason
        );
    }

    #[test]
    fn a_certificate_that_cannot_be_replaced_is_below_every_threshold() {
        let day = 86_400;
        let served = |days: i64, problem: Option<&str>| {
            let report = HostReport {
                tls: Some(ServedCertificate {
                    ends_unix_s: days * day + 10,
                    problem: problem.map(str::to_owned),
                }),
                ..HostReport::default()
            };
            let all = [
                ("a:1".to_owned(), report),
                ("b:2".to_owned(), HostReport::default()),
            ];
            let mut seen: Vec<Observation> = served_certificates(&all, 0).collect();
            assert_eq!(seen.len(), 1, "b:2 serves plain HTTP");
            seen.remove(0)
        };
        let good = served(200, None);
        assert_eq!(
            good.reason,
            "The certificate with which host a:1 serves HTTPS ends in 200 days"
        );
        assert!(good.value.is_some_and(|days| days >= 200.0));
        let broken = served(200, Some("no key"));
        assert!(broken.value.is_some_and(|days| days <= 0.0), "{broken:?}");
        assert!(broken.reason.contains("(no key)") && broken.reason.contains("ends in 200 days"));
        assert!(served(-1, None).reason.ends_with("has ended"));
    }

    #[test]
    fn a_proxy_that_several_hosts_see_is_one_subject() {
        let report = || HostReport {
            untrusted_proxies: vec!["10.0.0.1".into()],
            ..HostReport::default()
        };
        let all = [("a:1".to_owned(), report()), ("b:2".to_owned(), report())];
        let seen: Vec<Observation> = untrusted_proxies(&all).collect();
        assert_eq!(seen.len(), 1);
        assert!(seen[0].subject == "10.0.0.1" && seen[0].reason.contains("to a:1, b:2"));
    }

    #[test]
    fn a_breaker_that_is_open_anywhere_is_not_in_order_and_one_that_closed_is() {
        let of = |in_order: &[&str], observed: &[&str]| {
            let observations = observed
                .iter()
                .map(|one| Observation::new(*one, None, String::new(), String::new()));
            let names = in_order.iter().map(|one| (*one).to_owned());
            everything("breaker-open", observations).with_in_order(names)
        };
        assert!(of(&["email x"], &["email x"]).in_order.is_empty());
        assert_eq!(of(&["email x"], &["email y"]).in_order.len(), 1);
    }
}
