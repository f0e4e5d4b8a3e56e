use super::*;

fn schedule(more: Value) -> ScheduleView {
    let mut view = json!({ "id": "nightly", "queue": "emailQueue", "name": "send", "data": "{}", "cron": "0 9 * * *",
            "zone": "Asia/Kolkata", "missed": "skip", "description": "The report", "overridden": false,
            "updatedAt": "2026-11-24T12:00:00Z", "updatedBy": "ops", "nextAt": "2026-12-01T03:30:00.000Z" });
    for (name, value) in more.as_object().into_iter().flatten() {
        view[name] = value.clone();
    }
    serde_json::from_value(view).expect("a schedule")
}

#[test]
fn a_schedule_is_told_by_its_own_clocks_with_its_last_run() {
    let run = json!({ "jobId": "repeat:nightly:1", "at": "2026-11-30T03:30:00Z", "finishedAt": "2026-11-30T03:30:01Z",
            "state": "failed", "outcome": "failed", "code": "upstream" });
    let ticks = json!(["2026-12-01T03:30:00.000Z", "2026-12-02T03:30:00.000Z"]);
    let text = describe(&schedule(json!({ "lastRun": run, "next": ticks })));
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "nightly  emailQueue send  0 9 * * * Asia/Kolkata",
            "  The report",
            "  Next: 2026-12-01 09:00 IST (03:30 UTC)",
            "  Then: 2026-12-02 09:00 IST (03:30 UTC)",
            "  Last run: 2026-11-30 03:30 UTC: failed (upstream)",
            "    patchbay job timeline emailQueue repeat:nightly:1",
            "  If missed: skipped. Created by: operator",
            "  Data: {}",
        ]
    );
}

#[test]
fn what_a_client_made_is_told_with_the_command_that_removes_it() {
    let scheduler = json!({ "queue": "my queue", "id": "-x", "nextAt": 1_796_095_800_000_u64, "name": "send", "data": "{}",
            "pattern": "0 9 * * *", "zone": "Asia/Kolkata", "alive": true, "legacy": false, "nextTime": "2026-12-01T03:30:00.000Z",
            "zoneInForce": "Asia/Kolkata" });
    let told = describe_of_client(&serde_json::from_value(scheduler).expect("a scheduler"));
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        [
            "-x  'my queue' send  0 9 * * * Asia/Kolkata",
            "  Next: 2026-12-01 09:00 IST (03:30 UTC)",
            "  Last run: none known",
            "  Created by: a BullMQ client, which alone can change it",
            "  Data: {}",
            "  To remove it: patchbay schedule remove --queue 'my queue' -- -x",
        ]
    );
}

#[test]
fn of_several_queues_one_must_be_named() {
    let of = |queues: &[&str]| one_of("x", queues.iter().map(|q| (*q).to_owned()).collect());
    assert_eq!(of(&["a"]).expect("one"), "a");
    let refused = of(&["a", "b"]).expect_err("two").to_string();
    assert!(refused.ends_with("one of them: a, b"), "{refused}");
}

#[test]
fn a_paused_one_says_who_and_how_to_resume_it_and_a_late_one_for_how_long() {
    let paused = json!({ "pausedBy": "ops", "pausedAt": "2026-11-24T12:00:00Z", "nextAt": null });
    let text = describe(&schedule(paused));
    assert!(
            text.contains("\n  Paused by ops since 2026-11-24 12:00 UTC\n  Next: patchbay schedule resume nightly\n"),
            "{text}"
        );
    let late = schedule(json!({ "overdueMs": 605_000 }));
    assert_eq!(Line::from(&late).state(), "OVERDUE for 10 min");
    assert_eq!(Line::from(&late).last_run(), "none known");
}
