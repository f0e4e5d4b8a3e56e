//! What each process reports of itself, and the observations that follow from the reports of all.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use chrono::DateTime;
use patchbay_api::breakers::BreakerView;
use patchbay_model::shell::word;
use patchbay_model::words::counted;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::observation::{Observation, details};
use crate::breakers::outage::{NextTry, Outage};
use crate::inbox::RejectedLately;
use crate::login_meters::FailedLogins;

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
    pub(super) fn of(view: &BreakerView, jobs: Option<(u64, u64)>) -> Self {
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

/// The subject of `redis-unfit`.
pub(super) const REDIS: &str = "redis";

/// Redis is the same for all hosts, so the observation of one host is enough.
pub(super) fn redis_unfit(seen: &HostReport) -> Option<Observation> {
    let (code, message, next) = seen.redis.clone()?;
    let mut observation = Observation::new(REDIS, None, message, next);
    observation.details = details([("trouble", json!(code))]);
    Some(observation)
}

pub(super) fn unready(host: &str, seen: &HostReport) -> Observation {
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

pub(super) fn breaker_subject(plugin: &str, host: &str) -> String {
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

pub(super) fn breakers(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
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

pub(super) fn served_certificates(
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

pub(super) fn untrusted_proxies(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
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

pub(super) fn stalls(all: &[(String, HostReport)]) -> impl Iterator<Item = Observation> {
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

pub(super) fn certificates(
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
}
