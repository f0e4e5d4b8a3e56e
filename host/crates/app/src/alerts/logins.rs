//! Observations about logins: the emergency login, failures, refresh tokens that were shown twice,
//! and hosts that do not hear of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use patchbay_model::shell::arguments;
use patchbay_model::words::lasted;
use patchbay_store::{EmergencyLoginRow, Store, StoreError};

use super::observation::{Coverage, Observation, RuleObservations, everything};
use super::reports::HostReport;
use crate::people::Emergency;

/// The alert of an emergency login is over after this time.
const EMERGENCIES: Duration = Duration::from_secs(600);
/// For refresh tokens that were shown twice.
const REUSES: Duration = Duration::from_secs(3_600);
/// So many failures within 5 minutes are many …
const MANY: u64 = 50;
/// … if they are so many times what was usual.
const TIMES_USUAL: f64 = 3.0;
/// Stretches of 5 minutes in the day before.
const STRETCHES: f64 = 288.0;
/// An owner logs in from a few networks, a botnet from hundreds.
const MANY_NETWORKS: usize = 20;

/// Looks at the reports of all processes.
pub(super) fn of_processes(all: &[(String, HostReport)]) -> [RuleObservations; 2] {
    let stale = all.iter().filter_map(|(host, seen)| deaf(host, seen));
    let hearing = all.iter().filter(|(_, seen)| seen.deaf_for_ms.is_none());
    [
        everything("logins-failing", failing(all)),
        everything("identity-stale", stale).with_in_order(hearing.map(|(host, _)| host.clone())),
    ]
}

/// What needs no report of another process, for the time while Postgres is away.
pub(super) fn of_this_process(host: &str, own: &HostReport) -> RuleObservations {
    let stale = deaf(host, own);
    RuleObservations {
        rule: "identity-stale",
        in_order: stale
            .is_none()
            .then(|| host.to_owned())
            .into_iter()
            .collect(),
        observations: stale.into_iter().collect(),
        covers: Coverage::Only(host.to_owned()),
    }
}

pub(super) async fn in_postgres(store: &Store) -> Result<[RuleObservations; 2], StoreError> {
    let used = store.emergency_logins(EMERGENCIES).await?;
    let used = used.into_iter().map(|row| emergency(&row.into()));
    let count = store.refresh_reuses(REUSES).await?;
    Ok([
        everything("master-login", used),
        everything("refresh-reuse", (count > 0).then(|| reuses(count))),
    ])
}

impl From<EmergencyLoginRow> for Emergency {
    fn from(row: EmergencyLoginRow) -> Self {
        Self {
            key: row.entry_key,
            account: row.actor_id,
            address: row.address,
            is_failure: row.is_failure,
        }
    }
}

/// Each use has a subject of its own, so that each is told.
pub(super) fn emergency(seen: &Emergency) -> Observation {
    let from = seen.address.as_deref().unwrap_or("an unknown address");
    // Keys begin with the time, so their ends tell them apart.
    let end = seen.key.get(24..).unwrap_or(&seen.key);
    let (subject, reason, was) = match (&seen.account, seen.is_failure) {
        (Some(account), false) => (
            format!("use {end}"),
            format!(
                "Somebody at {from} has logged in to account {account} with the emergency login"
            ),
            format!(
                "somebody at {from} had logged in to account {account} with the emergency login"
            ),
        ),
        _ => (
            format!("failure {end}"),
            format!("Somebody at {from} has tried the emergency login and failed"),
            format!("somebody at {from} had tried the emergency login and failed"),
        ),
    };
    let next = match &seen.account {
        Some(account) => format!(
            "ask who it was; if nobody knows: patchbay user logout {}, and replace people.master_password_hash and people.master_totp_secret",
            arguments(&[account])
        ),
        None => "ask who it was; if nobody knows, restrict people.master_networks: patchbay audit list --trail login_logs --action master_login_failed".to_owned(),
    };
    Observation::new(subject, None, reason, next).was(was)
}

/// What all processes have seen of failed logins.
fn failing(all: &[(String, HostReport)]) -> Vec<Observation> {
    let mut found = Vec::new();
    let reports = || all.iter().map(|(_, seen)| &seen.failed_logins);
    let lately: u64 = reports().map(|failed| failed.lately).sum();
    let before: u64 = reports().map(|failed| failed.day_before).sum();
    let usual = before as f64 / STRETCHES;
    if lately > MANY && lately as f64 >= usual * TIMES_USUAL {
        let reason = format!(
            "{lately} logins failed within 5 min; on the day before, {usual:.1} did on average"
        );
        let next = "patchbay_logins_total says by which method; who guesses waits, owners do not: docs/operations/accounts.md#limits";
        let was = format!("{lately} logins failed within 5 min");
        found.push(Observation::new("logins", lately as f64, reason, next.into()).was(was));
    }
    let mut accounts: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for (account, networks) in reports().flat_map(|failed| &failed.accounts) {
        accounts.entry(account).or_default().extend(networks);
    }
    for (account, networks) in accounts {
        let count = networks.len();
        if count > MANY_NETWORKS {
            let reason =
                format!("Logins to account {account} failed from {count} networks within 15 min");
            let next = format!(
                "patchbay user show {0}; its owner still gets in. To keep everybody out: patchbay user block {0}",
                arguments(&[account])
            );
            let was = format!("logins to account {account} failed from {count} networks");
            let observation =
                Observation::new(format!("account {account}"), count as f64, reason, next);
            found.push(observation.was(was));
        }
    }
    found
}

fn reuses(count: i64) -> Observation {
    let reason = format!(
        "{count} sessions ended within an hour because a refresh token was shown twice: tokens were copied, or a client refreshes twice at once"
    );
    let next = "patchbay audit list --trail login_logs --since 1h; how a client avoids it: docs/operations/accounts.md#what-clients-call";
    Observation::new("sessions", count as f64, reason, next.into())
        .was(format!("{count} sessions had ended within an hour"))
}

fn deaf(host: &str, seen: &HostReport) -> Option<Observation> {
    let length = lasted(Duration::from_millis(seen.deaf_for_ms?));
    let reason = format!(
        "Host {host} has not heard for {length} which accounts and keys change; it asks Postgres at each request"
    );
    let next = "patchbay doctor on its machine: LISTEN needs a connection of its own, not a pooler that shares sessions";
    Some(
        Observation::new(host, None, reason, next.into()).was(format!(
            "host {host} did not hear for {length} which accounts and keys changed"
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login_meters::FailedLogins;

    fn host(name: &str, failed: FailedLogins) -> (String, HostReport) {
        let report = HostReport {
            failed_logins: failed,
            ..HostReport::default()
        };
        (name.to_owned(), report)
    }

    fn failed(lately: u64, day_before: u64) -> FailedLogins {
        FailedLogins {
            lately,
            day_before,
            ..FailedLogins::default()
        }
    }

    #[test]
    fn failures_of_all_hosts_count_together_and_only_beside_what_is_usual() {
        let subjects = |all: &[(String, HostReport)]| {
            let seen = failing(all).into_iter();
            seen.map(|one| one.subject).collect::<Vec<_>>()
        };
        assert_eq!(
            subjects(&[host("a:1", failed(30, 0)), host("b:2", failed(30, 0))]),
            ["logins"]
        );
        assert!(subjects(&[host("a:1", failed(50, 0))]).is_empty());
        // 30 in 5 minutes are usual here.
        assert!(subjects(&[host("a:1", failed(80, 30 * 288))]).is_empty());
        assert_eq!(subjects(&[host("a:1", failed(90, 30 * 288))]), ["logins"]);
    }

    #[test]
    fn networks_that_two_hosts_have_seen_count_once() {
        let of = |networks: std::ops::Range<u32>| FailedLogins {
            accounts: [("ada".to_owned(), networks.collect())].into(),
            ..FailedLogins::default()
        };
        let seen = failing(&[host("a:1", of(0..15)), host("b:2", of(10..21))]);
        assert_eq!(seen[0].subject, "account ada");
        assert!(seen[0].reason.contains("from 21 networks"), "{seen:?}");
        assert!(failing(&[host("a:1", of(0..15)), host("b:2", of(10..20))]).is_empty());
    }

    #[test]
    fn each_use_of_the_emergency_login_is_a_subject_of_its_own() {
        let seen = |key: &str, account: Option<&str>| {
            emergency(&Emergency {
                key: key.to_owned(),
                account: account.map(str::to_owned),
                address: Some("203.0.113.1".to_owned()),
                is_failure: account.is_none(),
            })
        };
        let key = "01a22b27-2b6e-7749-86bd-b9a38734f699";
        let used = seen(key, Some("7"));
        assert_eq!(used.subject, "use b9a38734f699");
        assert!(used.reason.contains("account 7") && used.next.contains("user logout 7"));
        let failed = seen(key, None);
        assert_eq!(failed.subject, "failure b9a38734f699");
        assert!(failed.reason.contains("203.0.113.1"));
    }
}
