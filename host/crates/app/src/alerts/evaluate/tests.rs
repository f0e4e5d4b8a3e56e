use super::super::observation::Coverage;
use super::*;

fn round(now_unix_s: i64) -> Round<'static> {
    Round {
        host: "a:1",
        environment: "test",
        runbooks: "docs/operations/alerts.md",
        now: DateTime::from_timestamp(now_unix_s, 0).expect("a time"),
        passed: Duration::from_secs(60),
        every: Duration::from_secs(15),
        repeat: Duration::from_secs(3_600),
    }
}

fn told_by_mail() -> AlertState {
    AlertState {
        channels: ["mail".into()].into(),
        ..AlertState::default()
    }
}

fn waiting(observations: &[(&str, f64)], covers: Coverage) -> RuleObservations {
    let observation = |(subject, value): &(&str, f64)| {
        Observation::new(*subject, *value, format!("{value} s"), "why".into())
    };
    RuleObservations {
        rule: "oldest-waiting",
        observations: observations.iter().map(observation).collect(),
        in_order: BTreeSet::new(),
        covers,
    }
}

/// Evaluates the rounds in order. Returns the events that were sent.
fn run(
    known: &mut AlertState,
    rounds: impl IntoIterator<Item = (i64, RuleObservations)>,
) -> Vec<String> {
    let mut told = Vec::new();
    for (now, seen) in rounds {
        let changes = evaluate(known, &[seen], &round(now));
        known.apply(&changes);
        let bodies = changes
            .iter()
            .filter_map(|change| change.tell.as_ref())
            .map(|(body, _)| body);
        told.extend(
            bodies.map(|body| format!("{} {}", body["event"], body["subject"]).replace('"', "")),
        );
    }
    told
}

#[test]
fn it_fires_once_and_recovers_whatever_the_clock_of_this_machine_does() {
    let bad = || waiting(&[("q", 900.0)], Coverage::Everything);
    let good = || waiting(&[("q", 3.0)], Coverage::Everything);
    let mut known = told_by_mail();
    // The clock goes back a day after the first round, and a year ahead after the third.
    let told = run(
        &mut known,
        [
            (100_000, bad()),
            (13_600, bad()),
            (13_660, bad()),
            (40_000_000, bad()),
        ],
    );
    assert_eq!(told, ["firing q"]);
    assert_eq!(
        run(&mut known, [(0, good()), (40_000_000, good())]),
        ["recovered q"]
    );
    assert!(known.alerts.is_empty());
}

#[test]
fn what_fires_before_there_is_a_channel_is_told_by_the_first_one() {
    let bad = || waiting(&[("q", 900.0)], Coverage::Everything);
    let mut known = AlertState::default();
    assert_eq!(
        run(&mut known, [(0, bad()), (60, bad()), (120, bad())]),
        Vec::<String>::new()
    );
    assert_eq!(known.alerts.len(), 1, "it is listed all the same");
    known.channels = told_by_mail().channels;
    assert_eq!(run(&mut known, [(180, bad()), (240, bad())]), ["firing q"]);
}

#[test]
fn what_nobody_could_look_at_stays_as_it_is() {
    let mut known = told_by_mail();
    let bad = || waiting(&[("q", 900.0)], Coverage::Everything);
    assert_eq!(run(&mut known, [(0, bad()), (60, bad())]), ["firing q"]);
    let elsewhere = || waiting(&[("other", 1.0)], Coverage::Only("other".into()));
    assert_eq!(
        run(&mut known, [(120, elsewhere()), (180, elsewhere())]),
        Vec::<String>::new()
    );
    assert_eq!(known.alerts.len(), 1);
}

#[test]
fn of_many_only_the_worst_are_told_and_those_that_stand_stay() {
    let names: Vec<String> = (0..100).map(|n| format!("q{n}")).collect();
    let seen = |offset: f64| {
        let observations: Vec<(&str, f64)> = names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.as_str(), 1_000.0 + n as f64 * offset))
            .collect();
        waiting(&observations, Coverage::Everything)
    };
    let mut known = told_by_mail();
    let told = run(
        &mut known,
        [
            (0, seen(1.0)),
            (60, seen(1.0)),
            (120, seen(-1.0)),
            (180, seen(-1.0)),
        ],
    );
    assert_eq!(told.len(), MOST_SUBJECTS);
    assert!(
        told.contains(&"firing q99".into()) && !told.contains(&"firing q0".into()),
        "{told:?}"
    );
}

#[test]
fn a_rule_that_is_turned_off_recovers() {
    let mut known = told_by_mail();
    let bad = || waiting(&[("q", 900.0)], Coverage::Everything);
    assert_eq!(run(&mut known, [(0, bad()), (60, bad())]), ["firing q"]);
    let off = AlertRuleRow {
        rule: "oldest-waiting".into(),
        enabled: Some(false),
        ..AlertRuleRow::default()
    };
    known.rules.push(off);
    assert_eq!(
        run(&mut known, [(120, bad()), (180, bad())]),
        ["recovered q"]
    );
}

#[test]
fn a_message_says_what_is_wrong_and_what_to_do_and_details_stand_beside_it() {
    let mut observation = Observation::new("email", None, "it crashed".into(), "mend it".into());
    observation.details.insert("revision".into(), json!("abc"));
    let seen = RuleObservations {
        rule: "plugin-quarantined",
        observations: vec![observation],
        in_order: BTreeSet::new(),
        covers: Coverage::Nothing,
    };
    let changes = evaluate(&told_by_mail(), &[seen], &round(0));
    let (body, channels) = changes[0].tell.as_ref().expect("told");
    assert_eq!(channels, &["mail"]);
    assert!(changes[0].begins);
    let expected = json!({
        "alert": "plugin-quarantined", "event": "firing", "severity": "critical", "subject": "email", "host": "a:1",
        "environment": "test", "since": "1970-01-01T00:00:00Z", "at": "1970-01-01T00:00:00Z", "reason": "it crashed",
        "next": "mend it", "runbook": "docs/operations/alerts.md#plugin-quarantined", "revision": "abc",
    });
    assert_eq!(*body, expected);
}

#[test]
fn a_recovery_says_for_how_long_it_was_and_what_it_was() {
    let mut observation = Observation::new("q", 901.0, "3 jobs wait".into(), "look".into());
    observation.was = Some("3 jobs waited, the oldest for 901 s".into());
    let seen = |observations| RuleObservations {
        rule: "oldest-waiting",
        observations,
        in_order: ["q".to_owned()].into(),
        covers: Coverage::Everything,
    };
    let mut known = told_by_mail();
    for now in [0, 60] {
        let changes = evaluate(&known, &[seen(vec![observation.clone()])], &round(now));
        known.apply(&changes);
    }
    let changes = evaluate(&known, &[seen(Vec::new())], &round(720));
    let (body, _) = changes[0].tell.as_ref().expect("told");
    assert_eq!(
        body["reason"],
        "q: recovered after 12 min. It was: 3 jobs waited, the oldest for 901 s"
    );
    assert_eq!(body["lastedMs"], 720_000);
    let event = changes[0].event.as_ref().expect("an event");
    assert_eq!(
        (event.reason.as_str(), event.lasted_ms),
        ("3 jobs waited, the oldest for 901 s", Some(720_000))
    );
}

#[test]
fn a_recovery_by_a_clock_that_was_set_back_lasted_no_time() {
    let mut known = told_by_mail();
    let bad = || waiting(&[("q", 900.0)], Coverage::Everything);
    run(&mut known, [(1_000, bad()), (1_060, bad())]);
    let changes = evaluate(&known, &[waiting(&[], Coverage::Everything)], &round(500));
    let (body, _) = changes[0].tell.as_ref().expect("told");
    assert_eq!(body["lastedMs"], 0);
}

#[test]
fn a_subject_that_is_out_of_sight_keeps_its_time_and_one_in_order_does_not() {
    let breaker = |in_order: &[&str], is_open: bool| RuleObservations {
        rule: "breaker-open",
        observations: is_open
            .then(|| Observation::new("email smtp", None, "down".into(), "look".into()))
            .into_iter()
            .collect(),
        in_order: in_order.iter().map(|one| (*one).to_owned()).collect(),
        covers: Coverage::Everything,
    };
    let held = |gap: RuleObservations| {
        let mut known = told_by_mail();
        let rounds = [
            breaker(&[], true),
            breaker(&[], true),
            gap,
            breaker(&[], true),
        ];
        run(&mut known, rounds.into_iter().map(|seen| (0, seen)));
        known.alerts.into_values().next().map(|row| row.held_ms)
    };
    assert_eq!(held(breaker(&[], false)), Some(60_000));
    assert_eq!(held(breaker(&["email smtp"], false)), Some(0));
}
