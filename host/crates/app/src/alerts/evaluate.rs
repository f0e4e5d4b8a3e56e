//! Turns observations into changes of alerts: every rule over every subject, through [`step`].
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_store::{AlertChange, AlertEventRow, AlertRow, AlertRuleRow, SilenceRow};
use serde_json::{Map, Value, json};

use super::observe::{Observation, RuleObservations};
use super::rule::{InForce, Rule, in_force, silenced};
use super::state::{AlertInput, Event, Standing, step};

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
        let gone = gone.filter(|((_, subject), _)| {
            seen.covers.subject(subject)
                || seen
                    .observations
                    .iter()
                    .any(|observation| observation.subject == *subject)
        });
        changes.extend(gone.filter_map(|((_, subject), row)| {
            change(known, rule, subject, Some(row), None, round)
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
                Some((observation, in_force)),
                round,
            )
        }));
    }
    changes
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
    met: Option<(&Observation, &InForce)>,
    round: &Round<'_>,
) -> Option<AlertChange> {
    let hold = met.map_or_else(
        || in_force(rule, subject, &known.rules).hold,
        |(_, in_force)| in_force.hold,
    );
    let look = AlertInput {
        holds: Some(met.is_some()),
        hold,
        // Without a channel nothing counts as announced, so the first channel that is added learns
        // what fires already.
        silenced: known.channels.is_empty()
            || silenced(rule.name, subject, &known.silences).is_some(),
        passed: round.passed,
        repeat: round.repeat,
    };
    let before = row.map(standing);
    let next = step(before, &look);
    let notice = met.map_or_else(
        || row.map_or(Value::Null, |row| row.notice.clone()),
        |(observation, in_force)| notice(rule, observation, in_force, round),
    );
    let severity = met.map_or_else(
        || {
            row.map_or(rule.severity.as_str().to_owned(), |row| {
                row.severity.clone()
            })
        },
        |(_, in_force)| in_force.severity.as_str().to_owned(),
    );
    let begins = next.event == Some(Event::Firing) && !before.is_some_and(|before| before.firing);
    let now = next.now.map(|standing| AlertRow {
        rule: rule.name.to_owned(),
        subject: subject.to_owned(),
        severity: severity.clone(),
        firing: standing.firing,
        held_ms: ms(standing.held),
        quiet_ms: ms(standing.quiet),
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
    let since = row.map_or(round.now, |row| row.began_at);
    let reason = notice["reason"].as_str().unwrap_or_default().to_owned();
    let event = next.event.map(|event| AlertEventRow {
        at: round.now,
        rule: rule.name.to_owned(),
        subject: subject.to_owned(),
        event: event.as_str().to_owned(),
        severity: severity.clone(),
        reason,
        silenced: !next.tell,
    });
    let tell = next.event.filter(|_| next.tell).map(|event| {
        let body = body(rule, subject, event, &severity, &notice, since, round);
        (body, known.channels.iter().cloned().collect())
    });
    Some(AlertChange {
        rule: rule.name.to_owned(),
        subject: subject.to_owned(),
        now,
        event,
        tell,
        begins,
    })
}

/// What lists and messages show of an observation.
fn notice(rule: &Rule, observation: &Observation, in_force: &InForce, round: &Round<'_>) -> Value {
    let runbook = in_force
        .runbook
        .clone()
        .unwrap_or_else(|| format!("{}#{}", round.runbooks, rule.name));
    let rounded = observation.value.map(|value| (value * 10.0).round() / 10.0);
    json!({
        "reason": observation.reason,
        "next": observation.next,
        "value": rounded,
        "threshold": in_force.threshold,
        "unit": rule.threshold.map(|(_, unit)| unit),
        "runbook": runbook,
        "details": observation.details,
    })
}

/// The message, as it is posted to `alerts.webhook_url`.
fn body(
    rule: &Rule,
    subject: &str,
    event: Event,
    severity: &str,
    notice: &Value,
    since: DateTime<Utc>,
    round: &Round<'_>,
) -> Value {
    let mut body = Map::new();
    body.insert("host".into(), round.host.into());
    body.extend(notice["details"].as_object().cloned().unwrap_or_default());
    let fields = [
        ("alert", json!(rule.name)),
        ("event", json!(event.as_str())),
        ("severity", json!(severity)),
        ("subject", json!(subject)),
        ("environment", json!(round.environment)),
        ("since", json!(time(since))),
        ("at", json!(time(round.now))),
    ];
    body.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    for name in ["reason", "next", "value", "threshold", "unit", "runbook"] {
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
    Standing {
        firing: row.firing,
        held: duration(row.held_ms),
        quiet: duration(row.quiet_ms),
        announced: row.announced,
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
}
