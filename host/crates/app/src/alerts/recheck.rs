//! Looks again at the causes of alerts when they are shown. Between two rounds, and until an alert
//! has recovered, its cause may be gone: then its reason is past, and its next step helps nobody.
//!
//! It changes no alert: only the rounds of the leader do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use patchbay_model::QueueName;
use patchbay_store::AlertRow;

use super::AlertWatch;
use super::evaluate::AlertState;
use super::observation::{Observation, RuleObservations};
use super::reports::HostReport;
use super::rule::{Rule, in_force};
use super::state::ends_within;

/// Rules whose causes are looked at in Redis.
const OF_REDIS: [&str; 4] = [
    "oldest-waiting",
    "redis-memory",
    "redis-full",
    "history-lag",
];
/// Rules whose causes are looked at in Postgres.
const OF_POSTGRES: [&str; 7] = [
    "plugin-quarantined",
    "bad-credentials",
    "failure-rate",
    "secret-age",
    "audit-broken",
    "audit-short",
    "audit-unsealed",
];
/// Rules about webhooks, whose causes are looked at in both.
const OF_INBOX: [&str; 3] = ["inbox-waiting", "webhook-rejected", "webhook-silent"];
/// Rules whose causes are looked at in both.
const OF_SCHEDULES: [&str; 2] = ["schedule-overdue", "schedule-stopped"];
/// Whoever asks for the alerts does not wait longer for it.
const LOOK_FOR: Duration = Duration::from_secs(2);

/// The cause of an alert as it is now.
#[derive(Debug)]
pub(super) enum Cause {
    Holds(Observation),
    /// It is gone, and the alert ends within this time if it does not come back.
    Gone {
        ends_within: Duration,
    },
}

impl AlertWatch {
    /// By rule and subject. What could not be looked at now is left out.
    pub(super) async fn causes(&self, rows: &[AlertRow]) -> BTreeMap<(String, String), Cause> {
        if rows.is_empty() {
            return BTreeMap::new();
        }
        let Some((known, sightings)) = soon(self.known()).await else {
            return BTreeMap::new();
        };
        let seen = self.look_again(rows, sightings).await;
        let cause_of = |row: &AlertRow| {
            let mut seen = seen.iter().filter(|seen| seen.rule == row.rule);
            let key = (row.rule.clone(), row.subject.clone());
            let cause = seen.find_map(|seen| cause(row, seen, &known, self.every))?;
            Some((key, cause))
        };
        rows.iter().filter_map(cause_of).collect()
    }

    /// What the rules of these alerts look at, and for queues only these subjects.
    async fn look_again(
        &self,
        rows: &[AlertRow],
        mut sightings: Vec<(String, HostReport)>,
    ) -> Vec<RuleObservations> {
        let rules: BTreeSet<&str> = rows.iter().map(|row| row.rule.as_str()).collect();
        let has = |some: &[&str]| some.iter().any(|rule| rules.contains(rule));
        let others = rules.iter().any(|rule| {
            let apart = [&OF_REDIS[..], &OF_POSTGRES, &OF_SCHEDULES, &OF_INBOX];
            !apart.iter().any(|some| some.contains(rule))
        });
        let queues: BTreeSet<QueueName> = rows
            .iter()
            .filter(|row| row.rule == "oldest-waiting")
            .filter_map(|row| row.subject.parse().ok())
            .collect();
        let in_redis = async {
            match has(&OF_REDIS) {
                true => soon(self.sources.in_redis(&queues)).await,
                false => None,
            }
        };
        let in_postgres = async {
            match has(&OF_POSTGRES) {
                true => soon(self.sources.in_postgres()).await,
                false => None,
            }
        };
        let schedules = async {
            match has(&OF_SCHEDULES) {
                true => soon(self.sources.schedules()).await.flatten(),
                false => None,
            }
        };
        let reports = sightings.clone();
        let of_inbox = async {
            if !has(&OF_INBOX) {
                return (None, None);
            }
            tokio::join!(
                soon(self.sources.inbox_in_redis()),
                soon(self.sources.inbox_in_postgres(&reports))
            )
        };
        let of_processes = async {
            if !others {
                return None;
            }
            let look = async {
                let own = self.sources.own(self.channel_names()).await;
                sightings.retain(|(host, _)| host != self.host());
                sightings.push((self.host().to_owned(), own));
                let hosts = self.sources.store.hosts().await?.into_iter();
                let silent: Vec<(String, Duration)> = hosts
                    .filter_map(|host| Some((host.host, host.silent_for?)))
                    .collect();
                Ok::<_, patchbay_store::StoreError>(self.sources.of_processes(&sightings, &silent))
            };
            soon(look).await
        };
        let (in_redis, in_postgres, schedules, of_inbox, of_processes) =
            tokio::join!(in_redis, in_postgres, schedules, of_inbox, of_processes);
        let mut seen = in_redis.unwrap_or_default();
        seen.extend(in_postgres.unwrap_or_default());
        seen.extend(schedules.into_iter().flatten());
        seen.extend(of_inbox.0);
        seen.extend(of_inbox.1.into_iter().flatten());
        seen.extend(of_processes.unwrap_or_default());
        seen
    }
}

async fn soon<T, E>(look: impl Future<Output = Result<T, E>>) -> Option<T> {
    tokio::time::timeout(LOOK_FOR, look).await.ok()?.ok()
}

/// `None`: nobody has looked at this subject.
fn cause(
    row: &AlertRow,
    seen: &RuleObservations,
    known: &AlertState,
    every: Duration,
) -> Option<Cause> {
    let rule = Rule::named(&row.rule)?;
    let in_force = in_force(rule, &row.subject, &known.rules);
    let mut observations = seen.observations.iter();
    let observed = observations.find(|observation| observation.subject == row.subject);
    match observed {
        Some(observation) if in_force.is_met(rule, observation.value, observation.cases) => {
            return Some(Cause::Holds(observation.clone()));
        }
        Some(_) => {}
        None if seen.in_order.contains(&row.subject) || seen.covers.subject(&row.subject) => {}
        None => return None,
    }
    let gone = Duration::from_millis(u64::try_from(row.held_ms).unwrap_or(0));
    Some(Cause::Gone {
        ends_within: match row.firing {
            true => ends_within(gone, in_force.hold, every),
            false => every,
        },
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::super::observation::Coverage;
    use super::*;

    fn alert(firing: bool, held_ms: i64) -> AlertRow {
        AlertRow {
            rule: "oldest-waiting".into(),
            subject: "emailQueue".into(),
            severity: "warning".into(),
            firing,
            held_ms,
            quiet_ms: 0,
            announced: firing,
            began_at: DateTime::UNIX_EPOCH,
            fired_at: None,
            notice: json!({}),
        }
    }

    fn observed(age_s: Option<f64>, covers: Coverage) -> RuleObservations {
        let observation =
            |age| Observation::new("emailQueue", Some(age), format!("{age} s"), "why".into());
        RuleObservations {
            rule: "oldest-waiting",
            observations: age_s.into_iter().map(observation).collect(),
            in_order: BTreeSet::new(),
            covers,
        }
    }

    fn looked(row: &AlertRow, seen: &RuleObservations) -> Option<Cause> {
        let every = Duration::from_secs(15);
        cause(row, seen, &AlertState::default(), every)
    }

    #[test]
    fn a_cause_that_holds_is_told_as_it_is_now_and_one_that_is_gone_with_when_the_alert_ends() {
        let bad = observed(Some(1_000.0), Coverage::Everything);
        let holds = looked(&alert(true, 0), &bad);
        assert!(
            matches!(&holds, Some(Cause::Holds(now)) if now.reason == "1000 s"),
            "{holds:?}"
        );
        let within = |firing, held_ms, seen: &RuleObservations| match looked(
            &alert(firing, held_ms),
            seen,
        ) {
            Some(Cause::Gone { ends_within }) => Some(ends_within.as_secs()),
            _ => None,
        };
        let better = observed(Some(3.0), Coverage::Everything);
        let away = observed(None, Coverage::Everything);
        for gone in [&better, &away] {
            assert_eq!(within(true, 0, gone), Some(75));
            assert_eq!(within(true, 45_000, gone), Some(30));
            assert_eq!(within(false, 30_000, gone), Some(15), "it was only pending");
        }
        assert!(looked(&alert(true, 0), &observed(None, Coverage::Nothing)).is_none());
    }
}
