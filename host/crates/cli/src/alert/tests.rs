use super::*;

#[test]
fn a_length_has_a_unit() {
    let of = |text| seconds(text, 1, 30);
    assert_eq!(
        ["90s", "30m", "2h", "30d"].map(of),
        [Ok(90), Ok(1_800), Ok(7_200), Ok(2_592_000)]
    );
    assert!(
        ["90", "", "-1h", "9ü", "0s", "31d", "99999999999999999999d"]
            .iter()
            .all(|text| of(text).is_err())
    );
    assert_eq!(seconds("0s", 0, 7), Ok(0));
}

#[test]
fn a_threshold_is_printed_as_it_may_be_written() {
    assert_eq!(threshold("90"), Ok(Threshold::Number(90.0)));
    assert_eq!(threshold("5m"), Ok(Threshold::Text("5m".into())));
    assert_eq!(threshold("90%"), Ok(Threshold::Text("90%".into())));
    for bad in ["-1", "", "m", "five", "NaN", "inf", "1e999"] {
        assert!(threshold(bad).is_err(), "{bad:?}");
    }
    for (number, unit, told) in [
        (900.0, "s", "15m"),
        (90.0, "s", "90s"),
        (0.5, "s", "0.5s"),
        (0.0, "s", "0s"),
        (20.0, "%", "20%"),
        (180.0, "d", "180d"),
        (1.0, "jobs", "1 job"),
        (5.0, "jobs", "5 jobs"),
    ] {
        assert_eq!(with_unit(number, unit), told);
    }
}

fn overview(states: &[&str], failed: &[(&str, i64)]) -> AlertOverview {
    let alert = |state: &&str| {
        serde_json::json!({ "rule": "health", "subject": "a:1", "severity": "critical", "state": state,
                "since": "2026-11-24T12:00:00Z" })
    };
    let alerts: Vec<_> = states.iter().map(alert).collect();
    let failed: Vec<_> = failed
        .iter()
        .map(|(queue, jobs)| serde_json::json!({ "queue": queue, "jobs": jobs }))
        .collect();
    let all = serde_json::json!({ "alerts": alerts, "undelivered": [], "failedLastHour": failed });
    serde_json::from_value(all).expect("an overview")
}

#[test]
fn when_nothing_fires_it_says_so_and_where_jobs_failed() {
    let of = |states: &[&str], failed: &[(&str, i64)]| summary(&overview(states, failed));
    assert_eq!(of(&[], &[]).as_deref(), Some("No alert fires."));
    assert_eq!(of(&["pending", "firing"], &[("emailQueue", 201)]), None);
    let pending = of(&["pending"], &[]).expect("a text");
    assert!(pending.contains("1 alert is pending"), "{pending}");
    assert_eq!(
        of(&[], &[("emailQueue", 1)]).as_deref(),
        Some(
            "No alert fires.\n1 job failed in the last hour in emailQueue: patchbay dead-letter list"
        )
    );
    assert_eq!(
        of(&[], &[("my queue", 201), ("smsQueue", 2)]).as_deref(),
        Some(
            "No alert fires.\n203 jobs failed in the last hour in 2 queues, most of them (201) in 'my queue': \
                 patchbay dead-letter list"
        )
    );
}
