//! Turns observations into changes of alerts: every rule over every subject, through [`step`].
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::words::lasted;
use patchbay_store::{AlertChange, AlertEventRow, AlertRow, AlertRuleRow, SilenceRow};
use serde_json::{Map, Value, json};

use super::observe::{Observation, RuleObservations};
use super::rule::{InForce, Rule, in_force, silenced};
use super::state::{AlertInput, Event, Seen, Standing, step};

/// Most subjects of one rule that may fire at once. When everything fails, hundreds of messages
/// help nobody.
const MOST_SUBJECTS: usize = 20;

/// Rules and silences of operators, and present alerts by rule and subject.
#[derive(Debug, Clone, Default)]
pub(super) struct AlertState {
    pub rules: Vec<AlertRuleRow>,
    pub silences: Vec<SilenceRow>,
    pub alerts: BTreeMap<(String, String), AlertRow>,
    /// The channels of all processes.
    pub channels: BTreeSet<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Round<'a> {
    pub host: &'a str,
    pub environment: &'a str,
    /// The base URL of runbooks. The rule's name follows as fragment.
    pub runbooks: &'a str,
    /// Only for display: durations are counted, see [`super::state`].
    pub now: DateTime<Utc>,
    pub passed: Duration,
    /// Time between two rounds.
    pub every: Duration,
    pub repeat: Duration,
}

pub(super) fn evaluate(
    known: &AlertState,
    seen: &[RuleObservations],
    round: &Round<'_>,
) -> Vec<AlertChange> {
    let mut changes = Vec::new();
    for seen in seen {
        let Some(rule) = Rule::named(seen.rule) else {
            continue;
        };
        let met = met(known, rule, &seen.observations);
        let standing = known
            .alerts
            .iter()
            .filter(|((name, _), _)| name == rule.name);
        let gone = standing.filter(|((_, subject), _)| {
            !met.iter()
                .any(|(observation, _)| observation.subject == *subject)
        });
        let gone =
            gone.filter_map(|((_, subject), row)| Some((subject, row, unmet(seen, subject)?)));
        changes.extend(gone.filter_map(|(subject, row, how)| {
            change(known, rule, subject, Some(row), Look::Gone(how), round)
        }));
        changes.extend(met.iter().filter_map(|(observation, in_force)| {
            let row = known
                .alerts
                .get(&(rule.name.to_owned(), observation.subject.clone()));
            change(
                known,
                rule,
                &observation.subject,
                row,
                Look::Met(observation, in_force),
                round,
            )
        }));
    }
    changes
}

/// How a round saw a subject.
#[derive(Clone, Copy)]
enum Look<'a> {
    Met(&'a Observation, &'a InForce),
    Gone(Seen),
}

/// How the round saw a subject that does not meet the condition. `None`: nobody looked at it.
fn unmet(seen: &RuleObservations, subject: &str) -> Option<Seen> {
    let mut observed = seen.observations.iter();
    if seen.in_order.contains(subject) || observed.any(|observation| observation.subject == subject)
    {
        return Some(Seen::InOrder);
    }
    seen.covers.subject(subject).then_some(Seen::Absent)
}

/// Observations that meet the rule's condition: those that did so before, and the worst of the
/// others up to [`MOST_SUBJECTS`].
fn met<'a>(
    known: &AlertState,
    rule: &Rule,
    observations: &'a [Observation],
) -> Vec<(&'a Observation, InForce)> {
    let mut met: Vec<(&Observation, InForce)> = observations
        .iter()
        .map(|observation| {
            (
                observation,
                in_force(rule, &observation.subject, &known.rules),
            )
        })
        .filter(|(observation, in_force)| {
            in_force.is_met(rule, observation.value, observation.cases)
        })
        .collect();
    let stands = |observation: &Observation| {
        known
            .alerts
            .contains_key(&(rule.name.to_owned(), observation.subject.clone()))
    };
    let badness = |observation: &Observation| {
        observation.value.unwrap_or(0.0) * if rule.is_floor { -1.0 } else { 1.0 }
    };
    met.sort_by(|(a, _), (b, _)| {
        stands(b)
            .cmp(&stands(a))
            .then(badness(b).total_cmp(&badness(a)))
    });
    met.truncate(MOST_SUBJECTS);
    met
}

fn change(
    known: &AlertState,
    rule: &Rule,
    subject: &str,
    row: Option<&AlertRow>,
    look: Look<'_>,
    round: &Round<'_>,
) -> Option<AlertChange> {
    let input = AlertInput {
        seen: match look {
            Look::Met(..) => Seen::Met,
            Look::Gone(how) => how,
        },
        hold: match look {
            Look::Met(_, in_force) => in_force.hold,
            Look::Gone(_) => in_force(rule, subject, &known.rules).hold,
        },
        // Without a channel nothing counts as announced, so the first channel that is added learns
        // what fires already.
        silenced: known.channels.is_empty()
            || silenced(rule.name, subject, &known.silences).is_some(),
        passed: round.passed,
        every: round.every,
        repeat: round.repeat,
    };
    let before = row.map(standing);
    let next = step(before, &input);
    let (notice, severity) = match look {
        Look::Met(observation, in_force) => (
            notice(rule, observation, in_force, round),
            in_force.severity.as_str().to_owned(),
        ),
        Look::Gone(_) => (
            row.map_or(Value::Null, |row| row.notice.clone()),
            row.map_or(rule.severity.as_str().to_owned(), |row| {
                row.severity.clone()
            }),
        ),
    };
    let begins = next.event == Some(Event::Firing) && !before.is_some_and(|before| before.firing);
    let now = next.now.map(|standing| AlertRow {
        rule: rule.name.to_owned(),
        subject: subject.to_owned(),
        severity: severity.clone(),
        firing: standing.firing,
        held_ms: ms(standing.held),
        quiet_ms: ms(quiet(&standing)),
        announced: standing.announced,
        began_at: row.map_or(round.now, |row| row.began_at),
        fired_at: row
            .and_then(|row| row.fired_at)
            .or_else(|| standing.firing.then_some(round.now)),
        notice: notice.clone(),
    });
    if now.as_ref() == row && next.event.is_none() {
        return None;
    }
    let told = next.event.map(|event| Told {
        rule,
        subject,
        event,
        severity: &severity,
        notice: &notice,
        since: row.map_or(round.now, |row| row.began_at),
    });
    let event = told.as_ref().map(|told| AlertEventRow {
        at: round.now,
        rule: rule.name.to_owned(),
        subject: subject.to_owned(),
        event: told.event.as_str().to_owned(),
        severity: severity.clone(),
        reason: told.was_or_is().to_owned(),
        silenced: !next.tell,
        lasted_ms: told.lasted(round).map(ms),
    });
    let tell = told
        .as_ref()
        .filter(|_| next.tell)
        .map(|told| (body(told, round), known.channels.iter().cloned().collect()));
    Some(AlertChange {
        rule: rule.name.to_owned(),
        subject: subject.to_owned(),
        now,
        event,
        tell,
        begins,
    })
}

/// An event, as it is told.
struct Told<'a> {
    rule: &'a Rule,
    subject: &'a str,
    event: Event,
    severity: &'a str,
    notice: &'a Value,
    /// When the condition was first met.
    since: DateTime<Utc>,
}

impl Told<'_> {
    /// How long an alert lasted that has recovered, for display: by the clock, as the times beside
    /// it.
    fn lasted(&self, round: &Round<'_>) -> Option<Duration> {
        let lasted = (round.now - self.since).to_std().unwrap_or_default();
        (self.event == Event::Recovered).then_some(lasted)
    }

    /// What is wrong; of an alert that has recovered, what was.
    fn was_or_is(&self) -> &str {
        let was = self.notice["was"]
            .as_str()
            .filter(|_| self.event == Event::Recovered);
        was.or(self.notice["reason"].as_str()).unwrap_or_default()
    }

    fn reason(&self, round: &Round<'_>) -> String {
        match self.lasted(round) {
            Some(length) => recovery(self.subject, length, self.was_or_is()),
            None => self.was_or_is().to_owned(),
        }
    }
}

/// The text of an alert that has recovered.
pub(super) fn recovery(subject: &str, length: Duration, was: &str) -> String {
    format!(
        "{subject}: recovered after {}. It was: {was}",
        lasted(length)
    )
}

/// What lists and messages show of an observation.
fn notice(rule: &Rule, observation: &Observation, in_force: &InForce, round: &Round<'_>) -> Value {
    let runbook = in_force
        .runbook
        .clone()
        .unwrap_or_else(|| format!("{}#{}", round.runbooks, rule.name));
    let rounded = observation.value.map(rounded);
    json!({
        "reason": observation.reason,
        "was": observation.was,
        "next": observation.next,
        "value": rounded,
        "threshold": in_force.threshold,
        "unit": rule.threshold.map(|(_, unit)| unit),
        "runbook": runbook,
        "details": observation.details,
    })
}

/// A measured value, as it is shown.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The message, as it is posted to `alerts.webhook_url`.
fn body(told: &Told<'_>, round: &Round<'_>) -> Value {
    let notice = told.notice;
    let mut body = Map::new();
    body.insert("host".into(), round.host.into());
    body.extend(notice["details"].as_object().cloned().unwrap_or_default());
    let fields = [
        ("alert", json!(told.rule.name)),
        ("event", json!(told.event.as_str())),
        ("severity", json!(told.severity)),
        ("subject", json!(told.subject)),
        ("environment", json!(round.environment)),
        ("since", json!(time(told.since))),
        ("at", json!(time(round.now))),
        ("reason", json!(told.reason(round))),
    ];
    body.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    if let Some(length) = told.lasted(round) {
        body.insert("lastedMs".into(), ms(length).into());
    }
    for name in ["next", "value", "threshold", "unit", "runbook"] {
        if !notice[name].is_null() {
            body.insert(name.to_owned(), notice[name].clone());
        }
    }
    Value::Object(body)
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn standing(row: &AlertRow) -> Standing {
    let duration = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let quiet = duration(row.quiet_ms);
    let (quiet, unseen) = match row.firing {
        true => (quiet, Duration::ZERO),
        false => (Duration::ZERO, quiet),
    };
    Standing {
        firing: row.firing,
        held: duration(row.held_ms),
        unseen,
        quiet,
        announced: row.announced,
    }
}

/// What the column `quiet_ms` holds: about a pending alert nobody is told, so there it is for how
/// long its subject has not been seen.
fn quiet(standing: &Standing) -> Duration {
    match standing.firing {
        true => standing.quiet,
        false => standing.unseen,
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl AlertState {
    pub(super) fn apply(&mut self, changes: &[AlertChange]) {
        for change in changes {
            let key = (change.rule.clone(), change.subject.clone());
            match &change.now {
                Some(row) => drop(self.alerts.insert(key, row.clone())),
                None => drop(self.alerts.remove(&key)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observe::Coverage;
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
                bodies
                    .map(|body| format!("{} {}", body["event"], body["subject"]).replace('"', "")),
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
        let mut observation =
            Observation::new("email", None, "it crashed".into(), "mend it".into());
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
}
