//! Observes for the rules: each process observes itself, and the leader observes Redis, Postgres
//! and the reports of all processes.
//!
//! Nothing here decides. What could not be observed is absent. It does not count as in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_api::breakers::BreakerView;
use patchbay_capability::Certificates;
use patchbay_model::id::KEPT;
use patchbay_model::shell::arguments;
use patchbay_model::words::{counted, lasted};
use patchbay_model::{CredentialName, PluginName, QueueName};
use patchbay_queue::{Broker, QueueError, QueueOverview, SchedulerView, Trouble};
use patchbay_store::{PendingAge, RefusedLogin, Store, StoreError, VerificationRow};
use serde_json::json;

use super::observation::{Coverage, Observation, RuleObservations, details, everything};
use super::reports::{
    HostReport, OpenBreaker, REDIS, ServedCertificate, breaker_subject, breakers, certificates,
    redis_unfit, served_certificates, stalls, unready, untrusted_proxies,
};
use crate::breakers::OutsideHosts;
use crate::health::{DRAINING, Health};
use crate::http_standing::HttpStanding;
use crate::identity_changes::IdentityChanges;
use crate::inbox::InboxParts;
use crate::login_meters::LoginMeters;
use crate::plugins::{Plugins, way_out};
use crate::scheduling::spec;

/// Older failures and stalls are not observed.
const LATELY: Duration = Duration::from_secs(600);
const DAY_S: f64 = 86_400.0;
/// A login that was refused stays an alert for so long when nothing tries it again.
const REFUSED_FOR: Duration = Duration::from_secs(86_400);
/// A host that starts, or connects again, hears of no changes for a moment.
const SHORT_SILENCE: Duration = Duration::from_secs(10);

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
        let refused = self.refused_logins().await?;
        let refused = by_plugin(&refused).into_iter().map(|(plugin, of)| {
            let logins = plugin
                .parse::<PluginName>()
                .map(|plugin| self.plugins.logins_of(&plugin));
            refused_login(plugin, &of, &logins.unwrap_or_default())
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

    /// Logins that are still refused. One with a credential that a plugin has handed over is over when
    /// a job that has used this credential completes, or when the credential is gone: another one's
    /// success says nothing of it.
    async fn refused_logins(&self) -> Result<Vec<RefusedLogin>, StoreError> {
        let prefix = self.queues.prefix();
        let mut refused = self.store.refused_logins(prefix, REFUSED_FOR).await?;
        if refused.iter().all(|one| one.credential.is_none()) {
            return Ok(refused);
        }
        let rows = self.store.secrets(None).await?;
        let kept: BTreeSet<(String, CredentialName)> = rows
            .iter()
            .filter_map(|row| {
                let name = CredentialName::of_secret(row.name.as_str())?;
                Some((row.plugin.to_string(), name))
            })
            .collect();
        let mut over = Vec::new();
        for one in &refused {
            let (Ok(plugin), Some(Ok(name))) = (
                one.plugin.parse::<PluginName>(),
                one.credential.as_deref().map(str::parse::<CredentialName>),
            ) else {
                over.push(false);
                continue;
            };
            let queues = self.plugins.queues_of(&plugin);
            over.push(
                !kept.contains(&(one.plugin.clone(), name.clone()))
                    || self
                        .store
                        .credential_was_taken(prefix, &queues, name.as_str(), one.last_at)
                        .await?,
            );
        }
        let mut over = over.into_iter();
        refused.retain(|_| !over.next().unwrap_or(false));
        Ok(refused)
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

pub(super) fn quarantined(plugin: &str, why: &str, next: String) -> Observation {
    let reason = format!("Plugin {plugin} is quarantined: {why}");
    Observation::new(plugin, None, reason, next)
        .was(format!("plugin {plugin} was quarantined: {why}"))
}

/// What of one plugin is refused.
#[derive(Default)]
struct Refused<'a> {
    queues: BTreeSet<&'a str>,
    /// Of those that the plugin has handed over.
    credentials: BTreeSet<&'a str>,
}

fn by_plugin(refused: &[RefusedLogin]) -> BTreeMap<&str, Refused<'_>> {
    let mut by: BTreeMap<&str, Refused<'_>> = BTreeMap::new();
    for one in refused {
        let of = by.entry(&one.plugin).or_default();
        of.queues.insert(&one.queue);
        of.credentials.extend(one.credential.as_deref());
    }
    by
}

/// Names what to replace, never a value.
fn refused_login(plugin: &str, of: &Refused<'_>, logins: &[String]) -> Observation {
    let queues: Vec<&str> = of.queues.iter().copied().collect();
    let credentials: Vec<&str> = of.credentials.iter().copied().collect();
    let list = queues.join(", ");
    let reason = format!(
        "An account outside refuses the login of plugin {plugin}: jobs of {list} fail as bad-credentials, and are not tried again"
    );
    let what = match (credentials.as_slice(), logins) {
        ([], []) => "the credentials of its account".to_owned(),
        ([], logins) => logins.join(" or "),
        // Nobody but the plugin can give it.
        ([one], _) => format!("credential {one}, where it was entered"),
        (several, _) => format!(
            "the refused ones of the credentials {}, where they were entered",
            several.join(", ")
        ),
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
    if !credentials.is_empty() {
        let named = details([("credentials", json!(credentials))]);
        observation.details.extend(named);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_names_what_to_replace_and_how_to_go_on() {
        let row = |queue: &str| RefusedLogin {
            plugin: "email".into(),
            queue: queue.into(),
            credential: None,
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
        let with = |name: &str| RefusedLogin {
            credential: Some(name.into()),
            ..row("syncQueue")
        };
        let one = [with("acme-7")];
        let told = refused_login("email", &by_plugin(&one)["email"], &logins);
        assert_eq!(
            told.next,
            "replace credential acme-7, where it was entered; then: patchbay queue retry-all syncQueue"
        );
        let two = [with("acme-7"), with("acme-8")];
        let told = refused_login("email", &by_plugin(&two)["email"], &logins);
        assert!(told.next.contains("acme-7, acme-8"), "{}", told.next);
    }
}
