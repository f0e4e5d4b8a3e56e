//! Observes for the rules: each process observes itself, and the leader observes Redis, Postgres
//! and the reports of all processes.
//!
//! Nothing here decides. What could not be observed is absent. It does not count as in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_capability::Certificates;
use patchbay_model::QueueName;
use patchbay_model::shell::arguments;
use patchbay_queue::{Broker, QueueError, QueueOverview, SchedulerView, Trouble};
use patchbay_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::breakers::OutsideHosts;
use crate::health::{DRAINING, Health};
use crate::plugins::Plugins;
use crate::scheduling::spec;

/// Older failures and stalls are not observed.
const LATELY: Duration = Duration::from_secs(600);
const DAY_S: f64 = 86_400.0;

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
    /// When the certificate of each outside host ends, in Unix seconds.
    pub certificates: BTreeMap<String, i64>,
    /// Jobs per queue whose worker was lost lately.
    pub stalls: BTreeMap<String, usize>,
    /// The channels over which it can deliver.
    pub channels: Vec<String>,
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
            next,
            details: Map::new(),
        }
    }
}

#[derive(Debug)]
pub struct RuleObservations {
    pub rule: &'static str,
    pub observations: Vec<Observation>,
    pub covers: Coverage,
}

/// Subjects that are in order when [`RuleObservations::observations`] does not contain them.
#[derive(Debug)]
pub enum Coverage {
    Everything,
    Only(String),
    /// No subject: only those that were observed are known.
    Nothing,
}

impl Coverage {
    pub fn subject(&self, subject: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(one) => one == subject,
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
        let open = self.outside.list().into_iter();
        // A breaker that an operator has opened is open on purpose.
        let open = open.filter(|story| !story.is_closed() && story.opened_by.is_none());
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
            breakers: open
                .map(|story| (story.plugin.to_string(), story.host))
                .collect(),
            certificates: self.certificates.ends().into_iter().collect(),
            stalls: self
                .queues
                .stalls()
                .within(LATELY)
                .iter()
                .map(|(queue, jobs)| (queue.to_string(), *jobs))
                .collect(),
            channels,
        }
    }

    /// Evaluates the reports of all processes.
    pub fn of_processes(
        &self,
        all: &[(String, HostReport)],
        silent: &[(String, Duration)],
    ) -> Vec<RuleObservations> {
        let now = Utc::now().timestamp();
        let silent_ones = silent.iter().map(|(host, silent)| {
            let reason = format!("{host} has said nothing for {} s", silent.as_secs());
            let next = "look whether its machine and process run; its jobs run again elsewhere after about 30 s";
            Observation::new(host, None, reason, next.into())
        });
        let is_silent = |host: &str| silent.iter().any(|(silent, _)| silent == host);
        let others = all
            .iter()
            .filter(|(host, seen)| !seen.not_ready.is_empty() && !is_silent(host));
        let others = others.map(|(host, seen)| unready(host, seen));
        vec![
            everything("health", silent_ones.chain(others)),
            everything(
                "redis-unfit",
                all.iter().find_map(|(_, seen)| redis_unfit(seen)),
            ),
            everything("breaker-open", breakers(all)),
            everything("stalled", stalls(all)),
            everything("certificate", certificates(all, now)),
        ]
    }

    /// The observations that need no report of another process, for the time while Postgres is
    /// away.
    pub fn of_this_process(&self, own: &HostReport) -> Vec<RuleObservations> {
        let host = self.plugins.host();
        let observations = if own.not_ready.is_empty() {
            Vec::new()
        } else {
            vec![unready(host, own)]
        };
        let health = RuleObservations {
            rule: "health",
            observations,
            covers: Coverage::Only(host.to_owned()),
        };
        vec![health, everything("redis-unfit", redis_unfit(own))]
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
                    "patchbay queue clean QUEUE, or raise maxmemory".into(),
                )
            });
            everything(rule, observation)
        };
        let lag = lag.map(|lag| {
            let reason = format!("the oldest finished attempt has waited {} s for Postgres", lag.as_secs());
            let next =
                "look whether Postgres answers and is fast: patchbay doctor; nothing is lost while Redis has room";
            Observation::new("attempts", lag.as_secs_f64(), reason, next.into())
        });
        Ok(vec![
            everything("oldest-waiting", queues.iter().filter_map(oldest)),
            memory("redis-memory"),
            memory("redis-full"),
            everything("history-lag", lag),
        ])
    }

    /// Observes Postgres, and for schedules Redis, too.
    pub async fn in_postgres(&self) -> Result<Vec<RuleObservations>, StoreError> {
        let quarantined = self.store.quarantined().await?.into_iter().filter(|row| row.is_current).map(|row| {
            let plugin = &row.plugin;
            let next = format!(
                "push and activate a mended revision, or: patchbay plugin rollback {plugin}, or: patchbay plugin release {plugin}"
            );
            let mut observation = Observation::new(plugin.as_str(), None, row.reason.clone(), next);
            let consequence =
                format!("its queues wait; patchbay plugin release {plugin}, or activate another revision");
            let host = row.began_by.strip_prefix("host ").unwrap_or(&row.began_by);
            observation.details = details([
                ("plugin", json!(plugin)),
                ("revision", json!(row.digest)),
                ("host", json!(host)),
                ("consequence", json!(consequence)),
            ]);
            observation
        });
        let rates = self.store.failure_rates(self.queues.prefix(), LATELY).await?.into_iter().map(|rate| {
            let share = rate.failed as f64 * 100.0 / rate.ended.max(1) as f64;
            let queue = &rate.queue;
            let reason = format!(
                "{} of {} jobs of {queue} that ended in the last 10 min failed for good",
                rate.failed, rate.ended
            );
            let mut observation = Observation::new(
                queue,
                share,
                reason,
                format!(
                    "patchbay job list {}; once the cause is mended: patchbay queue retry-all {}",
                    arguments(&[queue, "failed"]),
                    arguments(&[queue])
                ),
            );
            observation.cases = u32::try_from(rate.failed).ok();
            observation
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
            let reason = format!("{name} of {plugin} was set {days:.0} days ago");
            Observation::new(
                format!("{plugin}/{name}"),
                days,
                reason,
                format!("patchbay secret rotate {plugin} {name}"),
            )
        });
        Ok(vec![
            everything("plugin-quarantined", quarantined),
            everything("failure-rate", rates),
            everything("secret-age", secrets),
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
                let reason = format!("the tick of {id} in {queue} is {late_s} s late");
                (late_s > 0).then(|| {
                    Observation::new(
                        id,
                        late_s as f64,
                        reason,
                        format!("patchbay queue why {}", arguments(&[queue])),
                    )
                })
            });
        let zone = self.queues.default_zone();
        let unusable = rows
            .iter()
            .filter(|row| row.paused_by.is_none())
            .filter_map(|row| {
                let reason = format!(
                    "schedule {} has no ticks: {}",
                    row.id,
                    spec(row, zone).err()?
                );
                Some(Observation::new(
                    &row.id,
                    None,
                    reason,
                    format!("patchbay schedule edit {}", row.id),
                ))
            });
        let stopped = there.iter().flat_map(|(queue, (_, views))| {
            views.iter().filter_map(move |view| {
                let reason = format!(
                    "schedule {} of {queue} stops: {}",
                    view.id,
                    view.trouble.as_ref()?
                );
                let next = "mend it where it was made; patchbay schedule list";
                Some(Observation::new(
                    format!("{queue} {}", view.id),
                    None,
                    reason,
                    next.into(),
                ))
            })
        });
        Ok(Some([
            everything("schedule-overdue", overdue),
            everything("schedule-stopped", unusable.chain(stopped)),
        ]))
    }
}

fn everything(
    rule: &'static str,
    observations: impl IntoIterator<Item = Observation>,
) -> RuleObservations {
    RuleObservations {
        rule,
        observations: observations.into_iter().collect(),
        covers: Coverage::Everything,
    }
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
    let reason = format!(
        "jobs that wait in {name}: {waiting}, the oldest for {} s",
        age_ms / 1_000
    );
    Some(Observation::new(
        name.as_str(),
        age_ms as f64 / 1e3,
        reason,
        format!("patchbay queue why {}", arguments(&[name.as_str()])),
    ))
}

/// Redis is the same for all hosts, so the observation of one host is enough.
fn redis_unfit(seen: &HostReport) -> Option<Observation> {
    let (code, message, next) = seen.redis.clone()?;
    let mut observation = Observation::new("redis", None, message, next);
    observation.details = details([("trouble", json!(code))]);
    Some(observation)
}

fn unready(host: &str, seen: &HostReport) -> Observation {
    let words = seen.not_ready.iter().map(|code| match code.as_str() {
        "database" => "Postgres does not answer (database)",
        "database-read-only" => {
            "Postgres may only be read: a standby, or default_transaction_read_only is on (database-read-only)"
        }
        code => code,
    });
    let reason = format!(
        "{host} is not ready: {}",
        words.collect::<Vec<_>>().join(", ")
    );
    Observation::new(host, None, reason, "patchbay doctor on its machine".into())
}

fn breakers(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
    let mut by: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (process, seen) in all {
        for (plugin, host) in &seen.breakers {
            by.entry((plugin, host)).or_default().push(process);
        }
    }
    by.into_iter().map(|((plugin, host), processes)| {
        let reason = format!(
            "calls of {plugin} to {host} are refused on {}: it keeps failing",
            processes.join(", ")
        );
        let mut observation = Observation::new(
            format!("{plugin} {host}"),
            None,
            reason,
            format!("see to {host}; patchbay breaker list"),
        );
        observation.details = details([("plugin", json!(plugin)), ("outsideHost", json!(host))]);
        observation
    })
}

fn stalls(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    for (queue, jobs) in all.iter().flat_map(|(_, seen)| &seen.stalls) {
        *by.entry(queue).or_default() += jobs;
    }
    by.into_iter().map(|(queue, jobs)| {
        let reason = format!(
            "in the last 10 min, jobs of {queue} that lost their worker and run again: {jobs}"
        );
        let next = "look for a host that was killed, lost Redis, or had no time to renew its locks";
        Observation::new(queue, jobs as f64, reason, next.into())
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
        let reason = format!("the certificate of {host} ends on {at}, in {days:.0} days");
        Observation::new(
            host,
            days,
            reason,
            format!("ask whoever runs {host} to renew it"),
        )
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
}
