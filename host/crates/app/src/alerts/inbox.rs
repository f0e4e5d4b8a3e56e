//! Observations about webhooks: requests that wait too long, that are rejected, and that no longer
//! come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_model::shell::{arguments, word};
use patchbay_model::webhook::InboxState;
use patchbay_model::words::{counted, lasted};
use patchbay_queue::{QueueError, SpillStanding};
use patchbay_store::{InboxSilence, InboxWaiting, KnownRejected, MOST_COUNTED, StoreError};

use super::observation::{Coverage, Observation, RuleObservations, everything};
use super::observe::Sources;
use super::reports::HostReport;
use crate::inbox::{LATELY, Usual};
use crate::plugins::{Runner, Webhook};

const WAITING: &str = "inbox-waiting";
/// What waits in Redis is one subject beside the webhooks, whose names have a point.
const SPILL: &str = "spill";
/// Jobs are added within a second, and within 5 s where a process has ended. The threshold of the
/// rule.
const ACCEPTED_S: f64 = 60.0;
/// Until then, deferred requests are as they should be: a revision is swapped, a secret is set.
const DEFERRED_S: f64 = 300.0;
/// A network from which a request was accepted in this time is known.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 86_400);
/// So many rejected requests from known networks are the vendor's.
const KNOWN_REJECTED: i64 = 3;

impl Sources {
    /// Requests that wait in Redis. `Err` where Redis does not answer.
    pub(super) async fn inbox_in_redis(&self) -> Result<RuleObservations, QueueError> {
        let standing = self.queues.spill_standing().await?;
        Ok(only_spill(standing.as_ref().map(spilled)))
    }

    /// What is known of webhooks: in Postgres, and by the reports of all processes.
    pub(super) async fn inbox_in_postgres(
        &self,
        all: &[(String, HostReport)],
    ) -> Result<[RuleObservations; 3], StoreError> {
        let table = self.plugins.route_table();
        let webhooks = table.webhooks();
        let waiting = self.store.inbox_waiting().await?;
        let known = match webhooks.is_empty() {
            true => Vec::new(),
            false => {
                let names: Vec<(String, String)> = webhooks.iter().map(key).collect();
                self.store.known_rejected(&names, LATELY, KNOWN_FOR).await?
            }
        };
        let active: HashMap<(String, String), &Arc<Webhook>> = webhooks
            .iter()
            .filter(|webhook| matches!(webhook.runner, Runner::Revision(_)))
            .map(|webhook| (key(webhook), webhook))
            .collect();
        let (silence, usual) = match active.is_empty() {
            true => <_>::default(),
            false => {
                let names: Vec<(String, String)> = active.keys().cloned().collect();
                tokio::try_join!(self.store.inbox_silence(&names), self.inbox.usual())?
            }
        };
        let now = Utc::now();
        let silent = silence.iter().filter_map(|of| {
            let key = (of.plugin.clone(), of.webhook.clone());
            match active.get(&key)?.spec.silent_after_s {
                Some(limit) => silent(of, limit),
                None => unusually_silent(of, usual.get(&key)?, now),
            }
        });
        let secret = |plugin: &str, name: &str| {
            let webhook = webhooks
                .iter()
                .find(|webhook| webhook.plugin.as_str() == plugin && webhook.spec.name == name)?;
            Some(webhook.spec.check.as_ref()?.secret().to_owned())
        };
        Ok([
            RuleObservations {
                covers: Coverage::AllBut(SPILL),
                ..everything(WAITING, waiting_longest(&waiting))
            },
            everything("webhook-rejected", rejected(all, &known, secret)),
            everything("webhook-silent", silent),
        ])
    }
}

fn key(webhook: &Arc<Webhook>) -> (String, String) {
    (webhook.plugin.to_string(), webhook.spec.name.clone())
}

fn only_spill(observation: Option<Observation>) -> RuleObservations {
    RuleObservations {
        covers: Coverage::Only(SPILL.to_owned()),
        ..everything(WAITING, observation).with_in_order([SPILL.to_owned()])
    }
}

fn spilled(standing: &SpillStanding) -> Observation {
    let (entries, length) = (standing.entries, lasted(standing.oldest));
    let mib = standing.bytes as f64 / f64::from(1 << 20);
    let reason = format!(
        "Requests to webhooks wait in Redis to be written to Postgres: {entries} ({mib:.1} MiB), the oldest for {length}. \
         Their jobs do not run before that"
    );
    let next = "patchbay doctor says whether Postgres answers and takes changes; then the hosts' logs, inbox-spill";
    Observation::new(SPILL, standing.oldest.as_secs_f64(), reason, next.into())
        .was(format!("requests to webhooks waited in Redis for {length}"))
}

/// Of each webhook what has waited too long, measured by how long it may wait.
fn waiting_longest(all: &[InboxWaiting]) -> Vec<Observation> {
    let mut worst: BTreeMap<(&str, &str), &InboxWaiting> = BTreeMap::new();
    for waiting in all {
        let key = (waiting.plugin.as_str(), waiting.webhook.as_str());
        let known = worst.entry(key).or_insert(waiting);
        if share_of_limit(waiting) > share_of_limit(known) {
            *known = waiting;
        }
    }
    worst.into_values().filter_map(waits).collect()
}

fn share_of_limit(waiting: &InboxWaiting) -> f64 {
    match waiting.state {
        InboxState::Deferred => waiting.oldest_s / DEFERRED_S,
        _ => waiting.oldest_s / ACCEPTED_S,
    }
}

fn waits(waiting: &InboxWaiting) -> Option<Observation> {
    let name = format!("{}.{}", waiting.plugin, waiting.webhook);
    let length = lasted(Duration::from_secs_f64(waiting.oldest_s.max(0.0)));
    let waits = |requests: &str, one: &str, many: &str| match waiting.rows {
        1 => format!("1 {requests} to {name} {one}, for {length}"),
        rows if rows >= MOST_COUNTED => {
            format!("{MOST_COUNTED} {requests}s or more to {name} {many}, the oldest for {length}")
        }
        rows => format!("{rows} {requests}s to {name} {many}, the oldest for {length}"),
    };
    let list = |state| {
        let name = word(&name);
        format!("patchbay inbox list --webhook {name} --state {state}")
    };
    let (reason, was, next) = match waiting.state {
        InboxState::Deferred if waiting.oldest_s < DEFERRED_S => return None,
        InboxState::Deferred => {
            let code = waiting.code.as_deref().unwrap_or("no reason is known");
            let reason = waits("request", "waits to be judged", "wait to be judged");
            (
                format!("{reason} ({code})"),
                format!("requests to {name} waited {length} to be judged ({code})"),
                format!(
                    "{}; what to do is in docs/operations/inbox.md#requests-are-deferred",
                    list("deferred")
                ),
            )
        }
        _ => (
            waits(
                "accepted request",
                "waits for its jobs",
                "wait for their jobs",
            ),
            format!("accepted requests to {name} waited {length} for their jobs"),
            format!(
                "patchbay doctor says whether Redis takes jobs; {}",
                list("accepted")
            ),
        ),
    };
    Some(Observation::new(name, waiting.oldest_s, reason, next).was(was))
}

/// Requests and rejected ones of a webhook, on all hosts, and rejected ones from known networks.
#[derive(Default)]
struct Rejections<'a> {
    requests: u64,
    rejected: u64,
    known: Option<&'a KnownRejected>,
}

fn rejected(
    all: &[(String, HostReport)],
    known: &[KnownRejected],
    secret: impl Fn(&str, &str) -> Option<String>,
) -> Vec<Observation> {
    let mut by: BTreeMap<(&str, &str), Rejections<'_>> = BTreeMap::new();
    for seen in all.iter().flat_map(|(_, report)| &report.rejected) {
        let of = by.entry((&seen.plugin, &seen.webhook)).or_default();
        of.requests += seen.requests;
        of.rejected += seen.rejected;
    }
    for known in known.iter().filter(|known| known.rows >= KNOWN_REJECTED) {
        by.entry((&known.plugin, &known.webhook)).or_default().known = Some(known);
    }
    let each = by.into_iter();
    each.map(|((plugin, webhook), of)| {
        rejections(plugin, webhook, &of, secret(plugin, webhook).as_deref())
    })
    .collect()
}

fn rejections(
    plugin: &str,
    webhook: &str,
    of: &Rejections<'_>,
    secret: Option<&str>,
) -> Observation {
    let name = format!("{plugin}.{webhook}");
    let next = format!(
        "patchbay inbox list --webhook {} --state rejected says why; if the vendor has a new secret: patchbay secret set {}, \
         then patchbay inbox verify --webhook {} --state rejected --apply",
        word(&name),
        arguments(&[plugin, secret.unwrap_or("NAME")]),
        word(&name),
    );
    let code = |known: &KnownRejected| {
        let code = known.code.as_deref();
        code.map(|code| format!(" (the newest: {code})"))
            .unwrap_or_default()
    };
    // What is not there at all was made with no secret.
    let is_absent = |known: &KnownRejected| {
        known
            .code
            .as_deref()
            .is_some_and(|code| code.starts_with("missing-"))
    };
    match of.known {
        // Beyond every threshold: a vendor that is refused is not a matter of shares.
        Some(known) => {
            let requests = counted(known.rows.unsigned_abs(), "request");
            let reason = format!(
                "{requests} to {name} in the last 10 min were rejected{}, though requests from the same networks have been \
                 accepted in the last 30 days{}",
                code(known),
                match is_absent(known) {
                    true => "",
                    false => ": the vendor's secret may have changed",
                }
            );
            let was = format!("{requests} to {name} from known networks were rejected");
            Observation::new(name, 100.0, reason, next).was(was)
        }
        None => {
            let (rejected, requests) = (of.rejected, counted(of.requests, "request"));
            let share = rejected as f64 * 100.0 / of.requests.max(1) as f64;
            let reason =
                format!("{rejected} of {requests} to {name} in the last 10 min were rejected");
            let was = format!("{rejected} of {requests} to {name} within 10 min were rejected");
            let mut observation = Observation::new(name, share, reason, next).was(was);
            observation.cases = Some(u32::try_from(rejected).unwrap_or(u32::MAX));
            observation
        }
    }
}

fn silent(of: &InboxSilence, limit_s: u64) -> Option<Observation> {
    let limit = lasted(Duration::from_secs(limit_s));
    let expected = format!("Its plugin expects one within {limit}");
    (of.silent_s >= limit_s as f64).then(|| silence(of, &expected))
}

/// By what came in the last four weeks at such times.
fn unusually_silent(of: &InboxSilence, usual: &Usual, now: DateTime<Utc>) -> Option<Observation> {
    let since = now - TimeDelta::milliseconds((of.silent_s * 1_000.0) as i64);
    let expected = usual.expected(since, now);
    let expected =
        format!("By the last 28 days, about {expected:.0} were to be expected in this time");
    usual.is_silent(since, now).then(|| silence(of, &expected))
}

fn silence(of: &InboxSilence, expected: &str) -> Observation {
    let name = format!("{}.{}", of.plugin, of.webhook);
    let length = lasted(Duration::from_secs_f64(of.silent_s));
    let last = match of.last_accepted_at {
        Some(at) => format!(
            "the last one was on {}",
            at.format("%Y-%m-%d at %H:%M:%S UTC")
        ),
        None => "there has been none yet".to_owned(),
    };
    let reason = format!("No request to {name} has been accepted for {length}; {last}. {expected}");
    let next = format!(
        "patchbay inbox list --webhook {0} shows what came; if nothing did, check at the vendor whether it sends to the path that \
         patchbay webhook show {0} names",
        word(&name)
    );
    let was = format!("no request to {name} was accepted for {length}");
    Observation::new(name, of.silent_s, reason, next).was(was)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::rule::{Rule, in_force};
    use crate::inbox::RejectedLately;

    fn waiting(webhook: &str, state: InboxState, oldest_s: f64, rows: i64) -> InboxWaiting {
        InboxWaiting {
            plugin: "crm".into(),
            webhook: webhook.into(),
            state,
            code: (state == InboxState::Deferred).then(|| "secret-missing".into()),
            oldest_s,
            rows,
        }
    }

    fn fires(rule: &str, observation: &Observation) -> bool {
        let rule = Rule::named(rule).expect("a rule");
        let in_force = in_force(rule, &observation.subject, &[]);
        in_force.is_met(rule, observation.value, observation.cases)
    }

    #[test]
    fn of_a_webhook_is_told_what_waits_longest_by_how_long_it_may() {
        let seen = waiting_longest(&[
            waiting("a", InboxState::Accepted, 61.0, 1),
            waiting("a", InboxState::Deferred, 301.0, 7),
            waiting("b", InboxState::Accepted, 10.0, 1),
            waiting("b", InboxState::Deferred, 420.0, 1_000),
            waiting("c", InboxState::Accepted, 59.0, 2),
            waiting("d", InboxState::Deferred, 299.0, 2),
        ]);
        let told: Vec<(&str, bool)> = seen
            .iter()
            .map(|seen| (seen.subject.as_str(), fires(WAITING, seen)))
            .collect();
        assert_eq!(told, [("crm.a", true), ("crm.b", true), ("crm.c", false)]);
        assert_eq!(
            seen[0].reason,
            "1 accepted request to crm.a waits for its jobs, for 61 s"
        );
        assert_eq!(
            seen[1].reason,
            "1000 requests or more to crm.b wait to be judged, the oldest for 7 min (secret-missing)"
        );
        assert!(
            seen[1]
                .next
                .starts_with("patchbay inbox list --webhook crm.b --state deferred;")
        );
    }

    #[test]
    fn what_waits_in_redis_is_looked_at_apart_from_the_webhooks() {
        let standing = SpillStanding {
            entries: 2,
            bytes: 3 << 20,
            oldest: Duration::from_secs(75),
        };
        let seen = only_spill(Some(spilled(&standing)));
        assert!(fires(WAITING, &seen.observations[0]));
        assert!(
            seen.observations[0]
                .reason
                .contains("to Postgres: 2 (3.0 MiB), the oldest for 75 s.")
        );
        assert!(seen.in_order.is_empty() && !seen.covers.subject("crm.a"));
        let empty = only_spill(None);
        assert!(empty.in_order.contains(SPILL) && empty.covers.subject(SPILL));
        assert!(
            !Coverage::AllBut(SPILL).subject(SPILL) && Coverage::AllBut(SPILL).subject("crm.a")
        );
    }

    fn report(webhook: &str, requests: u64, rejected: u64) -> (String, HostReport) {
        let rejected = RejectedLately {
            plugin: "crm".into(),
            webhook: webhook.into(),
            requests,
            rejected,
        };
        let report = HostReport {
            rejected: vec![rejected],
            ..HostReport::default()
        };
        ("a:1".to_owned(), report)
    }

    #[test]
    fn rejected_requests_of_all_hosts_count_together_and_must_be_many_and_a_part_of_all() {
        let seen = |all: &[(String, HostReport)]| {
            let mut seen = rejected(all, &[], |_, _| Some("TOKEN".into()));
            assert_eq!(seen.len(), 1);
            let seen = seen.remove(0);
            (fires("webhook-rejected", &seen), seen)
        };
        assert!(!seen(&[report("w", 19, 19)]).0, "few");
        assert!(!seen(&[report("w", 1_000, 199)]).0, "a small part");
        let (is_told, both) = seen(&[report("w", 50, 10), report("w", 50, 10)]);
        assert!(is_told);
        assert_eq!(
            both.reason,
            "20 of 100 requests to crm.w in the last 10 min were rejected"
        );
        assert_eq!(
            both.next,
            "patchbay inbox list --webhook crm.w --state rejected says why; if the vendor has a new secret: \
             patchbay secret set crm TOKEN, then patchbay inbox verify --webhook crm.w --state rejected --apply"
        );
    }

    #[test]
    fn three_rejected_requests_from_known_networks_are_told_however_many_are_accepted() {
        let known = |rows| KnownRejected {
            plugin: "crm".into(),
            webhook: "w".into(),
            rows,
            code: Some("bad-token".into()),
        };
        let calm = [report("w", 100_000, 3)];
        let two = rejected(&calm, &[known(2)], |_, _| None);
        assert!(!fires("webhook-rejected", &two[0]));
        let three = rejected(&calm, &[known(3)], |_, _| None);
        assert!(three.len() == 1 && fires("webhook-rejected", &three[0]));
        assert!(
            three[0].reason.starts_with(
                "3 requests to crm.w in the last 10 min were rejected (the newest: bad-token), though"
            ),
            "{}",
            three[0].reason
        );
        assert!(three[0].next.contains("patchbay secret set crm NAME,"));
    }

    #[test]
    fn a_webhook_is_silent_from_the_time_that_its_manifest_names() {
        let of = |silent_s, last_accepted_at| InboxSilence {
            plugin: "crm".into(),
            webhook: "w".into(),
            silent_s,
            last_accepted_at,
        };
        let last = chrono::DateTime::from_timestamp(1_700_000_000, 0);
        assert!(silent(&of(3_599.0, last), 3_600).is_none());
        let seen = silent(&of(7_200.0, last), 3_600).expect("silent");
        assert!(fires("webhook-silent", &seen));
        assert_eq!(
            seen.reason,
            "No request to crm.w has been accepted for 2 h; the last one was on 2023-11-14 at 22:13:20 UTC. \
             Its plugin expects one within 60 min"
        );
        let never = silent(&of(3_600.0, None), 3_600).expect("silent");
        assert!(never.reason.contains("there has been none yet"));
    }
}
