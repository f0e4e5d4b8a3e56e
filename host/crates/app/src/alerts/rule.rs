//! Alert rules: what is compiled in and enabled by default, and what operators have changed.

use std::time::Duration;

use patchbay_api::alerts::Severity::{self, Critical, Warning};
use patchbay_store::{AlertRuleRow, SilenceRow};

#[derive(Debug)]
pub struct Rule {
    /// Stable, kebab-case.
    pub name: &'static str,
    pub severity: Severity,
    /// The limit at or beyond which the condition is met, and its unit. `None` where nothing is
    /// measured.
    pub threshold: Option<(f64, &'static str)>,
    /// Small values are the bad ones.
    pub is_floor: bool,
    /// How long the condition must hold before an alert fires.
    pub hold: Duration,
    /// With fewer cases than this, the condition is not met.
    pub at_least: Option<u32>,
    /// The kind of its subjects.
    pub subject: &'static str,
    /// A description in one line.
    pub about: &'static str,
}

const fn rule(
    name: &'static str,
    severity: Severity,
    subject: &'static str,
    about: &'static str,
) -> Rule {
    Rule {
        name,
        severity,
        threshold: None,
        is_floor: false,
        hold: Duration::ZERO,
        at_least: None,
        subject,
        about,
    }
}

const fn above(mut rule: Rule, threshold: f64, unit: &'static str) -> Rule {
    rule.threshold = Some((threshold, unit));
    rule
}

const fn held(mut rule: Rule, seconds: u64) -> Rule {
    rule.hold = Duration::from_secs(seconds);
    rule
}

const fn at_least(mut rule: Rule, count: u32) -> Rule {
    rule.at_least = Some(count);
    rule
}

const fn floor(mut rule: Rule) -> Rule {
    rule.is_floor = true;
    rule
}

/// docs/operations/alerts.md says why each number is what it is.
pub const RULES: &[Rule] = &[
    held(
        rule(
            "health",
            Critical,
            "host",
            "a host is not ready, or does not report",
        ),
        60,
    ),
    held(
        above(
            rule(
                "oldest-waiting",
                Warning,
                "queue",
                "a job waits too long in a queue that is not paused",
            ),
            900.0,
            "s",
        ),
        60,
    ),
    at_least(
        above(
            rule(
                "failure-rate",
                Warning,
                "queue",
                "too many of the jobs that ended in the last 10 min failed for good",
            ),
            20.0,
            "%",
        ),
        5,
    ),
    above(
        rule(
            "schedule-overdue",
            Warning,
            "schedule",
            "a schedule's tick is due and has not started",
        ),
        300.0,
        "s",
    ),
    held(
        rule(
            "schedule-stopped",
            Warning,
            "schedule",
            "a schedule has no next tick, or its last one is ahead",
        ),
        60,
    ),
    above(
        rule(
            "history-lag",
            Warning,
            "history",
            "finished attempts wait too long for their copy to Postgres",
        ),
        300.0,
        "s",
    ),
    held(
        rule(
            "redis-unfit",
            Critical,
            "redis",
            "Redis cannot serve, or may delete jobs and locks: replica, cluster, eviction, rights",
        ),
        10,
    ),
    held(
        above(
            rule("redis-memory", Warning, "redis", "Redis is filling up"),
            75.0,
            "%",
        ),
        60,
    ),
    above(
        rule(
            "redis-full",
            Critical,
            "redis",
            "Redis is so full that new jobs are refused",
        ),
        85.0,
        "%",
    ),
    held(
        rule(
            "breaker-open",
            Warning,
            "plugin and outside host",
            "calls of a plugin to an outside host have failed for minutes",
        ),
        300,
    ),
    rule(
        "plugin-quarantined",
        Critical,
        "plugin",
        "a plugin crashed too often and is quarantined",
    ),
    rule(
        "bad-credentials",
        Critical,
        "plugin",
        "jobs of a plugin fail because an account outside refuses its login",
    ),
    above(
        rule(
            "stalled",
            Warning,
            "queue",
            "jobs run again because they lost their worker in the last 10 min",
        ),
        1.0,
        "jobs",
    ),
    above(
        rule(
            "secret-age",
            Warning,
            "plugin and secret",
            "a secret has not been rotated for a long time",
        ),
        180.0,
        "d",
    ),
    rule(
        "audit-broken",
        Critical,
        "audit trail",
        "entries of an audit trail were changed, removed, added or moved",
    ),
    rule(
        "audit-short",
        Critical,
        "audit trail",
        "entries are missing at the end of an audit trail, as after a restore",
    ),
    above(
        rule(
            "audit-unsealed",
            Warning,
            "audit trail",
            "entries of an audit trail wait too long to be sealed",
        ),
        60.0,
        "s",
    ),
    floor(above(
        rule(
            "certificate",
            Warning,
            "outside host",
            "the certificate of an outside host ends soon",
        ),
        21.0,
        "d",
    )),
    held(
        floor(above(
            rule(
                "tls-certificate",
                Warning,
                "host",
                "the certificate of a host's own HTTPS ends soon, or the next one cannot be used",
            ),
            21.0,
            "d",
        )),
        60,
    ),
    rule(
        "master-login",
        Critical,
        "emergency login",
        "somebody has used the emergency login, or tried to",
    ),
    rule(
        "logins-failing",
        Warning,
        "logins or account",
        "far more logins fail than usual, or one account is guessed from many networks",
    ),
    above(
        rule(
            "refresh-reuse",
            Warning,
            "sessions",
            "sessions ended in the last hour because a refresh token was shown twice",
        ),
        3.0,
        "sessions",
    ),
    held(
        rule(
            "identity-stale",
            Critical,
            "host",
            "a host does not hear which accounts and keys change, and asks Postgres each time",
        ),
        30,
    ),
    rule(
        "operator-new-owner",
        Warning,
        "operator",
        "an operator has become an owner in the last 10 min",
    ),
    rule(
        "shared-login-used",
        Warning,
        "shared login",
        "the shared login has changed something in the last hour, though owners have a login of their own",
    ),
    floor(above(
        rule(
            "token-expiring",
            Warning,
            "token or vendor key",
            "a token of a program or a key of a vendor expires soon, or has expired",
        ),
        7.0,
        "d",
    )),
    above(
        rule(
            "inbox-waiting",
            Warning,
            "webhook, or what waits in Redis",
            "requests to a webhook wait for their jobs, or for 5 min to be judged",
        ),
        60.0,
        "s",
    ),
    at_least(
        above(
            rule(
                "webhook-rejected",
                Warning,
                "webhook",
                "many requests of the last 10 min were rejected, or 3 from networks that are known",
            ),
            20.0,
            "%",
        ),
        20,
    ),
    rule(
        "webhook-silent",
        Warning,
        "webhook",
        "no request was accepted for longer than is usual, or than silent_after_s of the manifest",
    ),
    rule(
        "proxy-not-trusted",
        Warning,
        "proxy",
        "a proxy sends requests of other clients, and is not in http.trusted_proxies",
    ),
];

/// Whether a message may show the text as a link: a web address or a path, never a scheme that runs
/// something.
pub fn is_link(text: &str) -> bool {
    reqwest::Url::parse(text).map_or(true, |url| ["http", "https"].contains(&url.scheme()))
}

impl Rule {
    pub fn named(name: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.name == name)
    }
}

/// A rule as it applies to one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    pub enabled: bool,
    pub severity: Severity,
    pub threshold: Option<f64>,
    pub hold: Duration,
    pub at_least: u32,
    pub runbook: Option<String>,
}

/// Applies the changes of operators to a rule: those for all subjects first, and the most specific
/// one for this subject last.
pub fn in_force(rule: &Rule, subject: &str, changes: &[AlertRuleRow]) -> InForce {
    let mut in_force = InForce {
        enabled: true,
        severity: rule.severity,
        threshold: rule.threshold.map(|(threshold, _)| threshold),
        hold: rule.hold,
        at_least: rule.at_least.unwrap_or(0),
        runbook: None,
    };
    let mut changes: Vec<&AlertRuleRow> = changes
        .iter()
        .filter(|change| change.rule == rule.name && covers(&change.subject, subject))
        .collect();
    changes.sort_by_key(|change| {
        (
            !change.subject.ends_with('*') && !change.subject.is_empty(),
            change.subject.len(),
        )
    });
    for change in changes {
        let number = |value: i32| u32::try_from(value).unwrap_or(0);
        in_force.enabled = change.enabled.unwrap_or(in_force.enabled);
        in_force.severity = change
            .severity
            .as_deref()
            .and_then(Severity::parse)
            .unwrap_or(in_force.severity);
        in_force.threshold = in_force
            .threshold
            .map(|threshold| change.threshold.unwrap_or(threshold));
        in_force.hold = change.hold_s.map_or(in_force.hold, |hold| {
            Duration::from_secs(number(hold).into())
        });
        in_force.at_least = change.at_least.map_or(in_force.at_least, number);
        in_force.runbook = change.runbook.clone().or(in_force.runbook);
    }
    in_force
}

impl InForce {
    /// Whether an observation meets the condition.
    pub fn is_met(&self, rule: &Rule, value: Option<f64>, cases: Option<u32>) -> bool {
        let beyond = match (self.threshold, value) {
            (Some(threshold), Some(value)) if rule.is_floor => value <= threshold,
            (Some(threshold), Some(value)) => value >= threshold,
            (Some(_), None) => false,
            (None, _) => true,
        };
        self.enabled && beyond && cases.is_none_or(|cases| cases >= self.at_least)
    }
}

/// The silence that covers an alert. If several do, the one that ends last.
pub fn silenced<'a>(
    rule: &str,
    subject: &str,
    silences: &'a [SilenceRow],
) -> Option<&'a SilenceRow> {
    let of_rule = |silence: &&SilenceRow| silence.rule == rule || silence.rule == ALL;
    silences
        .iter()
        .filter(of_rule)
        .filter(|silence| covers(&silence.subject, subject))
        .max_by_key(|silence| silence.ends_at)
}

/// The rule name of a silence that covers every rule.
pub const ALL: &str = "all";

fn covers(scope: &str, subject: &str) -> bool {
    match scope.strip_suffix('*') {
        Some(start) => subject.starts_with(start),
        None => scope.is_empty() || scope == subject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(subject: &str, threshold: Option<f64>, enabled: Option<bool>) -> AlertRuleRow {
        AlertRuleRow {
            rule: "oldest-waiting".into(),
            subject: subject.into(),
            threshold,
            enabled,
            ..AlertRuleRow::default()
        }
    }

    #[test]
    fn what_is_said_most_exactly_about_a_subject_holds_and_the_rest_stays() {
        let rule = Rule::named("oldest-waiting").expect("a rule");
        let changes = [
            change("emailQueue", Some(60.0), None),
            change("", Some(300.0), Some(false)),
            change("email*", None, Some(true)),
            change("emailQueueOther*", Some(1.0), None),
        ];
        let of = |subject| in_force(rule, subject, &changes);
        assert_eq!(
            (of("emailQueue").threshold, of("emailQueue").enabled),
            (Some(60.0), true)
        );
        assert_eq!(
            (of("emails").threshold, of("emails").enabled),
            (Some(300.0), true)
        );
        assert_eq!(
            (of("other").threshold, of("other").enabled),
            (Some(300.0), false)
        );
        assert_eq!(of("other").hold, rule.hold);
    }

    #[test]
    fn a_floor_is_met_below_and_few_cases_say_nothing() {
        let (certificate, rate) = (
            Rule::named("certificate").expect("a rule"),
            Rule::named("failure-rate").expect("a rule"),
        );
        let met =
            |rule: &Rule, value, cases| in_force(rule, "x", &[]).is_met(rule, Some(value), cases);
        assert!(
            met(certificate, 20.9, None)
                && met(certificate, -3.0, None)
                && !met(certificate, 22.0, None)
        );
        assert!(
            met(rate, 100.0, Some(5)) && !met(rate, 100.0, Some(4)) && !met(rate, 19.0, Some(500))
        );
    }

    #[test]
    fn names_are_unique_and_every_rule_says_what_it_is_about() {
        let names: std::collections::BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
        assert!(
            RULES
                .iter()
                .all(|rule| !rule.about.is_empty() && rule.name != ALL)
        );
    }
}
