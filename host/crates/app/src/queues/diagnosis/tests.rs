use patchbay_model::RevisionDigest;
use patchbay_queue::QueueCounts;
use serde_json::{Value, json};

use super::*;

fn at(second: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000 + i64::from(second), 0).expect("a time")
}

fn seen(counts: QueueCounts) -> QueueObservation {
    QueueObservation {
        now: at(3_600),
        queue: QueueOverview {
            name: "emailQueue".parse().expect("a name"),
            counts,
            oldest_waiting_ms: None,
            next_delayed_at: None,
            concurrency: None,
            rate: None,
            rate_limited_ms: None,
            put_aside: 0,
            paused_by: None,
            error: None,
        },
        taken: Vec::new(),
        workers: vec!["host:1".into()],
        local: None,
        plugin: Some("email".into()),
        absent: None,
        missing: Vec::new(),
        quarantined: None,
        earlier_revision: None,
        sql: None,
        breakers: Vec::new(),
        is_recorded: true,
        changes: Vec::new(),
        since: None,
        schedules: Vec::new(),
        ticks: 0,
        only_delayed_job: None,
        next_tick: None,
        failed_lately: Some(0),
        acknowledged: 0,
        not_ready: Vec::new(),
        redis_full: false,
    }
}

fn waiting(waiting: u64) -> QueueObservation {
    seen(QueueCounts {
        waiting,
        ..QueueCounts::default()
    })
}

fn action(action: &str, target: &str, second: u32, details: Value) -> ActionRow {
    ActionRow {
        actor: "ops".into(),
        action: action.into(),
        target: target.into(),
        began_at: at(second),
        details,
        result: None,
        reason: None,
    }
}

fn breaker(state: &str, probe_in_ms: Option<u64>) -> BreakerView {
    BreakerView {
        plugin: "email".parse().expect("a name"),
        host: "smtp://mail.example:465".into(),
        state: state.to_owned(),
        since: None,
        probe_in_ms,
        next_try_at: None,
        opened_at: Some("2026-11-24T12:00:00Z".into()),
        open_for_ms: Some(300_000),
        opened_after: Some(5),
        opened_by: None,
        reason: None,
        failures: 0,
        opens_at: 5,
        within_ms: 30_000,
        open_ms: 15_000,
        last_failure: Some("connect: refused".into()),
        times_opened: 1,
        deferred_jobs: 0,
        already: false,
    }
}

fn codes(seen: &QueueObservation) -> Vec<String> {
    diagnose(seen)
        .into_iter()
        .map(|reason| reason.code)
        .collect()
}

#[test]
fn while_postgres_is_away_nobody_is_said_to_have_paused_the_queue() {
    let paused = QueueCounts {
        paused: true,
        ..QueueCounts::default()
    };
    let mut seen = seen(paused);
    assert!(
        diagnose(&seen)[0]
            .message
            .contains("by another BullMQ client")
    );
    seen.is_recorded = false;
    assert_eq!(
        diagnose(&seen)[0].message,
        "The queue is paused; who paused it is unknown while Postgres is away"
    );
}

#[test]
fn who_set_a_limit_is_named_and_a_limit_of_a_worker_is_not_the_queues() {
    let mut seen = waiting(1);
    seen.queue.rate_limited_ms = Some(5_000);
    assert!(
        diagnose(&seen)[0]
            .message
            .starts_with("The rate limit of a worker")
    );
    seen.queue.rate = Some((10, 1_000));
    let details = json!({ "max": 10, "perMs": 1_000 });
    seen.changes = vec![action("queue.rate-limit", "emailQueue", 0, details)];
    let told = &diagnose(&seen)[0];
    assert!(told.message.contains("Set by ops at"), "{told:?}");
    assert!(told.next.ends_with("--none"), "{told:?}");
    seen.changes.clear();
    seen.is_recorded = false;
    assert!(
        diagnose(&seen)[0]
            .message
            .contains("unknown while Postgres")
    );
}

#[test]
fn a_queue_that_only_another_worker_handles_is_not_helped_by_another_host() {
    let mut seen = waiting(2);
    seen.queue.counts.active = 1;
    assert!(diagnose(&seen)[0].next.contains("another host"));
    seen.plugin = None;
    let told = &diagnose(&seen)[0];
    assert!(
        told.message.contains("Another BullMQ worker handles"),
        "{told:?}"
    );
    assert!(!told.next.contains("host"), "{told:?}");
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
fn a_tick_is_run_and_not_promoted_and_removed_jobs_are_told() {
    let mut seen = seen(QueueCounts {
        delayed: 1,
        ..QueueCounts::default()
    });
    let next = |seen: &QueueObservation| diagnose(seen)[0].next.clone();
    assert_eq!(next(&seen), "wait, or: patchbay job promote emailQueue ID");
    seen.only_delayed_job = Some("17".into());
    assert_eq!(next(&seen), "wait, or: patchbay job promote emailQueue 17");
    seen.only_delayed_job = None;
    seen.ticks = 1;
    seen.next_tick = Some(("nightly".into(), true));
    assert_eq!(next(&seen), "wait, or: patchbay schedule run nightly");
    seen.next_tick = Some(("of-node".into(), false));
    assert_eq!(next(&seen), "wait");
    seen.queue.counts.delayed = 2;
    assert_eq!(next(&seen), "wait, or: patchbay job promote emailQueue ID");
    seen.queue.counts = QueueCounts {
        removed: 2,
        ..QueueCounts::default()
    };
    assert_eq!(
        diagnose(&seen)[0].message,
        "Nothing waiting. 2 removed jobs leave Redis when a worker takes them"
    );
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
    let next = |seen: &QueueObservation| diagnose(seen)[0].next.clone();
    assert!(
        !next(&seen).contains("rollback"),
        "there is nothing to go back to"
    );
    seen.earlier_revision = Some(NamedRevision {
        digest: RevisionDigest::of(b"earlier"),
        version: "0.1.0".into(),
    });
    assert!(next(&seen).contains("or: patchbay plugin rollback email (back to 0.1.0 "));
    assert!(
        diagnose(&seen)[0]
            .next
            .contains("patchbay plugin release email")
    );
}

#[test]
fn a_breaker_that_is_not_closed_is_named_with_what_it_waits_for() {
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
    assert_eq!(
        reasons[0].message,
        "email cannot reach smtp://mail.example:465 for 5 min (refused); 5 jobs wait. Next try in 10 s. The breaker opened after \
             5 failures at 2026-11-24T12:00:00Z; jobs that need it wait without using up attempts"
    );
    assert!(
        reasons[1]
            .message
            .contains("The next call tests whether it works again")
    );
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
        reason.message.contains("Calls of email")
            && reason.message.contains(": 48.")
            && reason.message.contains("3.1 s"),
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

#[test]
fn beside_an_open_breaker_a_worker_without_a_connection_is_no_reason() {
    let mut seen = waiting(5);
    seen.workers.clear();
    assert_eq!(codes(&seen), ["no-worker"]);
    seen.breakers = vec![breaker("open", Some(1_000))];
    assert_eq!(codes(&seen), ["breaker-open"]);
}

#[test]
fn a_worker_that_was_just_started_runs_jobs_or_waits_for_a_slot_is_not_missing() {
    let mut seen = waiting(5);
    seen.workers.clear();
    let local = |age_s, active, host_is_full| {
        Some(LocalWorker {
            age: Duration::from_secs(age_s),
            active,
            host_is_full,
        })
    };
    seen.local = local(2, 0, false);
    assert_eq!(codes(&seen), ["worker-starting"]);
    seen.local = local(60, 0, false);
    assert_eq!(codes(&seen), ["no-worker"]);
    seen.local = local(60, 0, true);
    assert_eq!(codes(&seen), ["host-busy"]);
    seen.local = local(60, 3, true);
    seen.queue.counts.active = 3;
    assert_eq!(codes(&seen), ["busy"]);
}

#[test]
fn a_deactivation_says_who_when_and_how_to_undo_it() {
    let mut seen = waiting(5);
    seen.workers.clear();
    seen.plugin = None;
    let digest = RevisionDigest::of(b"email");
    seen.absent = Some(AbsentPlugin {
        plugin: "email".parse().expect("a name"),
        digest,
        why: Absence::Deactivated {
            because: None,
            by: "ops".into(),
            at: at(0),
        },
    });
    seen.changes = vec![action("plugin.deactivate", "email", 0, json!({}))];
    let reasons = diagnose(&seen);
    assert_eq!(codes(&seen), ["plugin-deactivated"], "said once");
    assert_eq!(
        reasons[0].message,
        format!(
            "Plugin email was deactivated by ops at {}. Its jobs wait",
            time(at(0))
        )
    );
    assert_eq!(
        reasons[0].next,
        format!("patchbay plugin activate email {}", digest.short())
    );
    seen.workers = vec!["node:1".into()];
    assert_eq!(codes(&seen)[0], "about-to-start", "another worker does it");
}

#[test]
fn a_plugin_that_does_not_run_here_or_dropped_the_queue_is_told_apart() {
    let mut seen = waiting(5);
    seen.workers.clear();
    seen.plugin = None;
    let mut code = |why| {
        seen.absent = Some(AbsentPlugin {
            plugin: "email".parse().expect("a name"),
            digest: RevisionDigest::of(b"email"),
            why,
        });
        codes(&seen)
    };
    assert_eq!(code(Absence::NeverActivated), ["plugin-not-active"]);
    let active = RevisionDigest::of(b"other");
    assert_eq!(code(Absence::Dropped { active }), ["plugin-not-active"]);
    let reason = Some("its signature is missing".to_owned());
    assert_eq!(code(Absence::NotLoaded { reason }), ["plugin-not-loaded"]);
}

#[test]
fn a_revoked_grant_is_named_with_who_revoked_it_and_the_command_that_grants_it() {
    let mut seen = waiting(0);
    seen.missing = vec![Ask::new("secret API_KEY")];
    seen.changes = vec![action(
        "plugin.revoke",
        "email",
        7,
        json!({ "asks": ["smtp", "secret API_KEY"] }),
    )];
    assert_eq!(codes(&seen), ["grant-missing"]);
    let reason = &diagnose(&seen)[0];
    assert_eq!(
        reason.message,
        format!(
            "Plugin email asks for \"secret API_KEY\", but ops revoked it at {}: its calls that need it are denied",
            time(at(7))
        )
    );
    assert_eq!(reason.next, "patchbay plugin grant email 'secret API_KEY'");
    seen.changes.clear();
    assert!(diagnose(&seen)[0].message.contains("is not granted"));
}

#[test]
fn an_empty_queue_with_failed_jobs_leads_to_them_and_not_to_the_producer() {
    let mut seen = seen(QueueCounts {
        failed: 350,
        ..QueueCounts::default()
    });
    seen.failed_lately = Some(201);
    let reasons = diagnose(&seen);
    assert_eq!(codes(&seen), ["failed-jobs"]);
    assert_eq!(
        reasons[0].message,
        "Nothing waiting. 201 jobs failed in the last hour; Redis holds 350 failed jobs of this queue"
    );
    assert_eq!(
        reasons[0].next,
        "patchbay dead-letter list --queue emailQueue"
    );
    seen.failed_lately = Some(0);
    assert_eq!(codes(&seen), ["empty"]);
    assert!(
        diagnose(&seen)[0]
            .message
            .ends_with("350 failed jobs of this queue, none of the last hour")
    );
    seen.queue.name = "-my queue".parse().expect("a name");
    assert!(diagnose(&seen)[0].next.contains("--queue='-my queue'"));
}

#[test]
fn failed_jobs_of_acknowledged_groups_are_told_apart() {
    let mut seen = seen(QueueCounts {
        failed: 201,
        ..QueueCounts::default()
    });
    (seen.failed_lately, seen.acknowledged) = (Some(21), 180);
    let message = |seen: &QueueObservation| diagnose(seen)[0].message.clone();
    assert_eq!(
        message(&seen),
        "Nothing waiting. 21 jobs failed in the last hour; Redis holds 201 failed jobs of this queue, of which 180 are in \
             acknowledged groups"
    );
    (seen.failed_lately, seen.acknowledged) = (Some(0), 300);
    assert_eq!(
        message(&seen),
        "Nothing waiting. Redis holds 201 failed jobs of this queue, all of them in acknowledged groups"
    );
    seen.acknowledged = 1;
    assert!(message(&seen).ends_with("of which 1 is in an acknowledged group"));
}

#[test]
fn of_a_queue_that_somebody_has_emptied_the_producer_is_not_asked_first() {
    let mut seen = seen(QueueCounts::default());
    seen.changes = vec![action("queue.drain", "emailQueue", 3_000, json!({}))];
    assert!(
        diagnose(&seen)[0]
            .next
            .starts_with("nothing to do: jobs of the queue were removed on purpose")
    );
    seen.changes
        .insert(0, action("queue.resume", "emailQueue", 3_100, json!({})));
    assert_eq!(diagnose(&seen)[0].next, "check that the producer adds jobs");
}

#[test]
fn a_schedule_that_is_paused_late_or_stopped_is_a_reason() {
    let schedule = |id: &str| ScheduleObservation {
        id: id.into(),
        paused: None,
        late: Duration::ZERO,
        trouble: None,
    };
    let mut seen = waiting(0);
    seen.schedules = vec![
        ScheduleObservation {
            paused: Some(("ops".into(), Some(at(0)))),
            ..schedule("nightly")
        },
        ScheduleObservation {
            late: Duration::from_secs(600),
            ..schedule("hourly")
        },
        ScheduleObservation {
            trouble: Some("no zone".into()),
            ..schedule("weekly")
        },
        schedule("daily"),
    ];
    let expected = ["schedule-paused", "schedule-overdue", "schedule-stopped"];
    assert_eq!(codes(&seen), expected);
    let reasons = diagnose(&seen);
    assert_eq!(
        reasons[0].message,
        format!(
            "Schedule nightly adds no jobs: it has been paused by ops since {}",
            time(at(0))
        )
    );
    assert_eq!(reasons[0].next, "patchbay schedule resume nightly");
    assert!(reasons[1].message.contains("due for 10 min"), "{reasons:?}");
    seen.queue.counts.paused = true;
    assert_eq!(codes(&seen)[0], "paused");
    assert!(!codes(&seen).contains(&"schedule-overdue".to_owned()));
}

#[test]
fn what_operators_changed_last_is_named_unless_a_reason_says_it() {
    let mut seen = waiting(5);
    seen.changes = vec![
        action("queue.resume", "emailQueue", 9, json!({})),
        action("queue.pause", "*", 5, json!({})),
    ];
    assert_eq!(codes(&seen), ["about-to-start", "last-change"]);
    let last = diagnose(&seen).pop().expect("a reason");
    assert_eq!(
        last.message,
        format!("Last change: ops resumed the queue at {}", time(at(9)))
    );
    seen.changes.remove(0);
    seen.queue.counts.paused = true;
    assert_eq!(codes(&seen), ["paused"]);
    assert!(diagnose(&seen)[0].message.contains("by ops at"));
}
