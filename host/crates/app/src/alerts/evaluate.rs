//! Turns observations into changes of alerts: every rule over every subject, through [`step`].
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::words::lasted;
use patchbay_store::{AlertChange, AlertEventRow, AlertRow, AlertRuleRow, SilenceRow};
use serde_json::{Map, Value, json};

use super::observation::{Observation, RuleObservations};
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
mod tests;
