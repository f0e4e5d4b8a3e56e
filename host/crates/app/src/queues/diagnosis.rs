//! Why a queue does not move: reasons in the order in which an operator should look at them, each
//! with what to do next.
//!
//! Owns only the rules: [`diagnose`] is a pure function of what was observed.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_api::breakers::BreakerView;
use patchbay_api::queues::Reason;
use patchbay_model::QueueName;
use patchbay_model::shell::{arguments, word};
use patchbay_queue::{QueueOverview, TakenKey};
use patchbay_store::{ActionRow, PlacesTaken};
use patchbay_work::quarantine::Quarantined;

use crate::health::NotReady;

#[derive(Debug)]
pub struct QueueObservation {
    pub queue: QueueOverview,
    /// The queue's keys in Redis that hold something else.
    pub taken: Vec<TakenKey>,
    /// Names of its workers.
    pub workers: Vec<String>,
    /// The plugin that handles the queue, active on this host.
    pub plugin: Option<String>,
    /// The plugin that handles the queue, if it is quarantined.
    pub quarantined: Option<Quarantined>,
    /// Breakers of the active plugin on this host.
    pub breakers: Vec<BreakerView>,
    /// Database places of the active plugin on this host.
    pub sql: Option<PlacesTaken>,
    /// The last pause, if it was made through Patchbay.
    pub paused_by: Option<ActionRow>,
    /// Why this host takes no jobs.
    pub not_ready: Vec<NotReady>,
    /// Whether Redis is nearly full.
    pub redis_full: bool,
}

/// A longer statement or transaction of a plugin delays its other calls.
const LONG_IN_THE_DATABASE: Duration = Duration::from_secs(1);

/// What is at a key of the queue, and how to remove it.
pub fn taken(queue: &QueueName, key: &TakenKey) -> (String, String) {
    let TakenKey {
        key,
        name,
        wanted,
        found,
        is_job,
    } = key;
    let key = word(key);
    if *is_job {
        let job = arguments(&[queue.as_str(), name]);
        return (
            format!(
                "a job was added under the id {name}, and stands in Redis at {key}, where BullMQ keeps a part of the queue (a {wanted}): the \
                 queue cannot work"
            ),
            format!(
                "read it: patchbay job show {job}; then take it away: patchbay job remove {job}. Add it again under another id"
            ),
        );
    }
    (
        format!(
            "the key {key} holds a {found}, and BullMQ keeps a {wanted} there: the queue cannot work"
        ),
        format!(
            "look at it with redis-cli; then put it aside: redis-cli RENAME {key} {}",
            word(&format!("{key}-aside"))
        ),
    )
}

/// Every reason that applies. If nothing is wrong, one reason that says so.
pub fn diagnose(seen: &QueueObservation) -> Vec<Reason> {
    let queue = &seen.queue;
    let name = arguments(&[queue.name.as_str()]);
    let counts = &queue.counts;
    let waiting = counts.waiting + counts.prioritized;
    let mut reasons = Vec::new();
    let mut because = |code: &str, message: String, next: String| {
        reasons.push(Reason {
            code: code.to_owned(),
            message,
            next,
        })
    };
    for key in &seen.taken {
        let (stands, next) = taken(&queue.name, key);
        because("damaged-data", stands, next);
    }
    if let Some(error) = queue.error.as_ref().filter(|error| {
        !seen
            .taken
            .iter()
            .any(|key| error.starts_with(&format!("{}:", key.key)))
    }) {
        let next =
            "repair or remove that key with redis-cli; jobs there may not be taken until then";
        because(
            "damaged-data",
            format!("what Redis holds of the queue is damaged: {error}"),
            next.into(),
        );
    }
    if counts.paused {
        let who = seen.paused_by.as_ref().map_or_else(
            || "by another BullMQ client, such as Bull Board".to_owned(),
            |action| format!("by {} at {}", action.actor, time(action.began_at)),
        );
        because(
            "paused",
            format!("the queue is paused {who}"),
            format!("patchbay queue resume {name}"),
        );
    }
    if queue.put_aside > 0 && !counts.paused {
        because(
            "put-aside",
            format!(
                "{} jobs lie in the list where BullMQ 5 puts jobs of a paused queue",
                queue.put_aside
            ),
            format!(
                "patchbay queue resume {name} (it puts them back; a resume by BullMQ 5 would lose others)"
            ),
        );
    }
    if let Some(ms) = queue.rate_limited_ms {
        because(
            "rate-limited",
            format!("its rate limit is reached for {ms} ms more"),
            "wait, or raise the rate".into(),
        );
    }
    if queue.concurrency.is_some_and(|most| counts.active >= most) {
        because(
            "concurrency-reached",
            format!(
                "{} jobs run, as many as the queue allows over all workers",
                counts.active
            ),
            format!("wait, or: patchbay queue concurrency {name} N"),
        );
    }
    if seen.redis_full {
        let next = "patchbay queue clean, or raise maxmemory; running jobs still settle";
        because(
            "redis-full",
            "Redis is nearly full: new jobs are refused".into(),
            next.into(),
        );
    }
    for reason in &seen.not_ready {
        because(
            "host-not-ready",
            format!(
                "this host is not ready ({}): {}",
                reason.code, reason.message
            ),
            reason.next.clone(),
        );
    }
    if let Some(Quarantined {
        plugin,
        since,
        by,
        reason,
    }) = &seen.quarantined
    {
        because(
            "quarantined",
            format!(
                "plugin {plugin} was quarantined at {since} by {by}: {reason}. Its jobs wait and keep their attempts"
            ),
            format!(
                "push and activate a mended revision, or: patchbay plugin rollback {plugin}, or: patchbay plugin release {plugin}"
            ),
        );
    }
    for breaker in seen.breakers.iter().filter(|breaker| !breaker.is_closed()) {
        let (plugin, host) = (&breaker.plugin, &breaker.host);
        let how = match (&breaker.opened_by, breaker.probe_in_ms) {
            (Some(by), _) => format!(
                "{by} has opened it: {}",
                breaker.reason.as_deref().unwrap_or_default()
            ),
            (None, Some(ms)) => format!("for {} s more, then one call tries", ms.div_ceil(1_000)),
            (None, None) => "one call tries whether it is back".into(),
        };
        let last = breaker
            .last_failure
            .as_ref()
            .map(|last| format!("; last failure: {last}"))
            .unwrap_or_default();
        because(
            "breaker-open",
            format!(
                "calls of {plugin} to {host} are refused: {how}{last}. Jobs that need it wait without using up attempts"
            ),
            format!("see to {host}, or: patchbay breaker close {plugin} {host} --reason WHY"),
        );
    }
    if let (Some(plugin), Some(sql)) = (&seen.plugin, seen.sql)
        && sql.waiting > 0
        && sql.longest >= LONG_IN_THE_DATABASE
    {
        because(
            "database-connections",
            format!(
                "{} calls of {plugin} wait for one of its database connections; the one that is held longest, for {:.1} s",
                sql.waiting,
                sql.longest.as_secs_f64()
            ),
            format!("patchbay plugin sql {plugin}"),
        );
    }
    match (&seen.plugin, seen.workers.is_empty()) {
        // When Redis cannot serve, its workers are connected elsewhere or wait for it.
        (_, true) if seen.not_ready.iter().any(|reason| reason.code == "redis") => {}
        (None, true) if seen.quarantined.is_some() => {}
        (None, true) => because(
            "no-worker",
            "no active plugin handles it, and no other worker is connected".into(),
            "patchbay plugin list; activate the plugin that should, or start the Node worker"
                .into(),
        ),
        (Some(plugin), true) => because(
            "no-worker",
            format!("plugin {plugin} handles it, but no worker is connected to Redis"),
            "wait some seconds; then look at the host's log for this queue".into(),
        ),
        (_, false) => {}
    }
    if waiting == 0 && counts.delayed > 0 {
        let due = queue
            .next_delayed_at
            .and_then(|ms| DateTime::from_timestamp_millis(i64::try_from(ms).ok()?));
        let due = due.map_or_else(|| "a time beyond any calendar".to_owned(), time);
        because(
            "only-delayed",
            format!(
                "nothing waits; the next of {} delayed jobs is due at {due}",
                counts.delayed
            ),
            format!("wait, or: patchbay job promote {name} ID"),
        );
    }
    if !reasons.is_empty() {
        return reasons;
    }
    vec![match (waiting, counts.active) {
        (0, 0) => Reason {
            code: "empty".into(),
            message: "nothing waits".into(),
            next: "look at the producer".into(),
        },
        (0, _) => Reason {
            code: "moving".into(),
            message: "everything that was waiting runs".into(),
            next: "nothing".into(),
        },
        (_, 0) => Reason {
            code: "about-to-start".into(),
            message: format!(
                "{waiting} jobs wait and {} workers are connected",
                seen.workers.len()
            ),
            next: "ask again; a killed host's jobs come back after about 30 s".into(),
        },
        (_, active) => Reason {
            code: "busy".into(),
            message: format!("{waiting} jobs wait behind {active} that run: all workers are busy"),
            next: "wait, raise the concurrency, or start another host".into(),
        },
    }]
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use patchbay_queue::QueueCounts;

    use super::*;

    fn seen(counts: QueueCounts) -> QueueObservation {
        QueueObservation {
            queue: QueueOverview {
                name: "emailQueue".parse().expect("a name"),
                counts,
                oldest_waiting_ms: None,
                next_delayed_at: None,
                concurrency: None,
                rate: None,
                rate_limited_ms: None,
                put_aside: 0,
                error: None,
            },
            taken: Vec::new(),
            workers: vec!["host:1".into()],
            plugin: Some("email".into()),
            quarantined: None,
            sql: None,
            breakers: Vec::new(),
            paused_by: None,
            not_ready: Vec::new(),
            redis_full: false,
        }
    }

    fn codes(seen: &QueueObservation) -> Vec<String> {
        diagnose(seen)
            .into_iter()
            .map(|reason| reason.code)
            .collect()
    }

    #[test]
    fn a_queue_without_trouble_says_so() {
        assert_eq!(codes(&seen(QueueCounts::default())), ["empty"]);
        assert_eq!(
            codes(&seen(QueueCounts {
                waiting: 5,
                active: 2,
                ..QueueCounts::default()
            })),
            ["busy"]
        );
    }

    #[test]
    fn a_job_in_the_place_of_a_key_is_named_with_what_takes_it_away() {
        let mut seen = seen(QueueCounts::default());
        seen.queue.name = "-my queue".parse().expect("a name");
        seen.queue.error = Some("bull:-my queue:failed: WRONGTYPE".into());
        let key = |name: &str, is_job| TakenKey {
            key: format!("bull:-my queue:{name}"),
            name: name.into(),
            wanted: "zset",
            found: "hash".into(),
            is_job,
        };
        seen.taken = vec![key("failed", true), key("marker", false)];
        let reasons = diagnose(&seen);
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(
            reasons[0]
                .next
                .contains("patchbay job remove -- '-my queue' failed"),
            "{}",
            reasons[0].next
        );
        assert!(
            reasons[1]
                .next
                .contains("redis-cli RENAME 'bull:-my queue:marker'"),
            "{}",
            reasons[1].next
        );
    }

    #[test]
    fn several_reasons_are_all_told() {
        let mut seen = seen(QueueCounts {
            waiting: 5,
            paused: true,
            ..QueueCounts::default()
        });
        seen.workers.clear();
        seen.plugin = None;
        seen.redis_full = true;
        assert_eq!(codes(&seen), ["paused", "redis-full", "no-worker"]);
    }

    #[test]
    fn a_quarantined_plugin_is_the_reason_and_not_the_missing_worker() {
        let mut seen = seen(QueueCounts {
            waiting: 5,
            ..QueueCounts::default()
        });
        seen.workers.clear();
        seen.plugin = None;
        seen.quarantined = Some(Quarantined {
            plugin: "email".parse().expect("a name"),
            since: "2026-11-24T12:00:00Z".into(),
            by: "host a:1".into(),
            reason: "10 of the last 10 calls crashed".into(),
        });
        assert_eq!(codes(&seen), ["quarantined"]);
        assert!(
            diagnose(&seen)[0]
                .next
                .contains("patchbay plugin release email")
        );
    }

    #[test]
    fn a_breaker_that_is_not_closed_is_named_with_what_it_waits_for() {
        let breaker = |state: &str, probe_in_ms| BreakerView {
            plugin: "email".parse().expect("a name"),
            host: "smtp://mail.example:465".into(),
            state: state.to_owned(),
            since: None,
            probe_in_ms,
            opened_by: None,
            reason: None,
            failures: 0,
            opens_at: 5,
            within_ms: 30_000,
            open_ms: 15_000,
            last_failure: Some("connect: refused".into()),
            times_opened: 1,
            deferred_jobs: 0,
        };
        let mut seen = seen(QueueCounts {
            waiting: 5,
            ..QueueCounts::default()
        });
        seen.breakers = vec![
            breaker("closed", None),
            breaker("open", Some(9_001)),
            breaker("half-open", None),
        ];
        let reasons = diagnose(&seen);
        assert_eq!(
            reasons
                .iter()
                .map(|reason| reason.code.as_str())
                .collect::<Vec<_>>(),
            ["breaker-open", "breaker-open"]
        );
        assert!(
            reasons[0].message.contains("for 10 s more")
                && reasons[0].message.contains("connect: refused")
        );
        assert!(reasons[1].message.contains("one call tries whether"));
        assert!(
            reasons[0]
                .next
                .contains("patchbay breaker close email smtp://mail.example:465")
        );
    }

    #[test]
    fn calls_that_wait_for_a_database_connection_are_told_once_one_is_held_for_long() {
        let taken = |longest| PlacesTaken {
            in_use: 2,
            longest,
            waiting: 48,
        };
        let mut seen = seen(QueueCounts {
            waiting: 5,
            active: 50,
            ..QueueCounts::default()
        });
        seen.sql = Some(taken(Duration::from_millis(40)));
        assert_eq!(codes(&seen), ["busy"]);
        seen.sql = Some(taken(Duration::from_millis(3_140)));
        assert_eq!(codes(&seen), ["database-connections"]);
        let reason = &diagnose(&seen)[0];
        assert!(
            reason.message.contains("48 calls of email") && reason.message.contains("3.1 s"),
            "{reason:?}"
        );
    }

    #[test]
    fn jobs_that_are_only_delayed_are_told_from_jobs_that_wait() {
        let mut seen = seen(QueueCounts {
            delayed: 3,
            ..QueueCounts::default()
        });
        seen.queue.next_delayed_at = Some(1_000);
        assert_eq!(codes(&seen), ["only-delayed"]);
        assert!(diagnose(&seen)[0].message.contains("1970-01-01T00:00:01Z"));
    }
}
