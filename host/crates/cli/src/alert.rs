//! `patchbay alert …`

use std::time::Duration;

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args, Subcommand};
use patchbay_api::alerts::{
    AlertHistoryQuery, AlertOverview, AlertRule, AlertRulesList, AlertRulesReset, AlertRulesSet,
    AlertSilencesList, AlertsHistory, AlertsList, AlertsSilence, AlertsTest, AlertsUnsilence,
    ChangedRule, NewSilence, RuleChange, RulePath, RuleScope, SilencePath, Threshold,
};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_model::shell::word;
use patchbay_model::words::{counted, lasted};

use super::client::{Client, ClientArgs};
use super::input::{in_units, number_in, seconds, whole};
use super::names;
use super::output::{Output, plain};
use super::paging::Paging;
use super::refusal::Why;

#[derive(Subcommand)]
pub enum AlertCommand {
    /// List alerts that fire or are pending, and messages that were not delivered
    List,
    /// List the rules with the values in force
    Rules,
    /// Change or reset a rule
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Silence alerts for a while: no messages are sent, but rules are still evaluated and shown
    Silence {
        /// Name of a rule, or `all`
        #[arg(add = names::alert_rules())]
        rule: String,
        /// Only this subject, or a prefix followed by *
        #[arg(long)]
        subject: Option<String>,
        /// Duration, at most 30d: 30m, 2h, 3d
        #[arg(long = "for", value_parser = |text: &str| seconds(text, 1, 30), value_name = "LENGTH")]
        length: u64,
        /// Why, for the next operator and the audit trail
        #[arg(long)]
        reason: String,
    },
    /// List the silences that are in force
    Silences,
    /// End a silence
    Unsilence {
        /// Number of the silence, as shown by `alert silences`
        #[arg(value_parser = number_in::<u64>("alert silences"))]
        id: u64,
        #[command(flatten)]
        why: Why,
    },
    /// List what fired and recovered, the newest first
    History {
        /// Only this rule
        #[arg(long, add = names::alert_rules())]
        rule: Option<String>,
        #[command(flatten)]
        much: Paging,
    },
    /// Send a test message over every channel now, and show whether each was delivered
    Test,
}

#[derive(Subcommand)]
pub enum RuleCommand {
    /// Change a rule; options that are not given stay as they are
    Set {
        /// Name of the rule
        #[arg(add = names::alert_rules())]
        rule: String,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        why: Why,
    },
    /// Reset a rule to its built-in values
    Reset {
        /// Name of the rule
        #[arg(add = names::alert_rules())]
        rule: String,
        /// Only the change for this subject
        #[arg(long)]
        subject: Option<String>,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["threshold", "hold", "at_least", "severity", "runbook", "on", "off"]))]
pub struct Change {
    /// Only for this subject, or a prefix followed by *
    #[arg(long)]
    subject: Option<String>,
    /// Threshold, 0 or more: a number in the unit that `alert rules` shows, or with a unit, such as
    /// 90s, 5m, 30d or 90%
    #[arg(long, value_parser = threshold)]
    threshold: Option<Threshold>,
    /// How long the condition must be met before a message is sent, at most 7d: 0s, 90s, 5m
    #[arg(long = "for", value_parser = |text: &str| seconds(text, 0, 7), value_name = "LENGTH")]
    hold: Option<u64>,
    /// Minimum number of cases; with fewer the rule does not fire
    #[arg(long, value_parser = whole::<i32>(0, i32::MAX as u64))]
    at_least: Option<i32>,
    /// Severity: warning or critical
    #[arg(long, value_parser = ["warning", "critical"])]
    severity: Option<String>,
    /// Link to the runbook
    #[arg(long)]
    runbook: Option<String>,
    /// Enable the rule
    #[arg(long, conflicts_with = "off")]
    on: bool,
    /// Disable the rule
    #[arg(long)]
    off: bool,
}

impl AlertCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::List | Self::Rules | Self::Silences | Self::History { .. }
        )
    }

    fn why(&self) -> Why {
        match self {
            Self::Rule(RuleCommand::Set { why, .. } | RuleCommand::Reset { why, .. })
            | Self::Unsilence { why, .. } => why.clone(),
            // The reason of a silence is part of it.
            _ => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: AlertCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        AlertCommand::List => list(&client, output).await?,
        AlertCommand::Rules => {
            let rules = client.ask::<AlertRulesList>((), none, NoBody).await?;
            let rows = rules.data.iter().flat_map(|rule| {
                let base = vec![
                    rule.rule.clone(),
                    severity(rule),
                    condition(rule),
                    rule.about.clone(),
                ];
                let unit = rule.unit.as_deref().unwrap_or_default();
                let some = of_some_subjects(rule);
                std::iter::once(base).chain(some.map(move |change| {
                    vec![
                        format!("  {}", change.subject),
                        String::new(),
                        changed(change, unit),
                    ]
                }))
            });
            output.table(
                &["RULE", "SEVERITY", "FIRES AT", "WHEN"],
                rows.collect(),
                &rules.raw,
            );
        }
        AlertCommand::Rule(RuleCommand::Set { rule, change, .. }) => {
            let Change {
                subject,
                threshold,
                hold,
                at_least,
                severity,
                runbook,
                on,
                off,
            } = change;
            let change = RuleChange {
                subject: subject.unwrap_or_default(),
                enabled: (on || off).then_some(on),
                threshold,
                hold_s: hold.map(i32::try_from).transpose()?,
                at_least,
                severity,
                runbook,
            };
            let rule = client
                .ask::<AlertRulesSet>(RulePath { rule }, none, Json(change))
                .await?;
            output.value(&describe(&rule.data), &rule.raw);
            if let Some(warning) = &rule.data.warning {
                output.note(&format!("Warning: {warning}"));
            }
        }
        AlertCommand::Rule(RuleCommand::Reset { rule, subject, .. }) => {
            let scope = RuleScope {
                subject: subject.unwrap_or_default(),
            };
            let rule = client
                .ask::<AlertRulesReset>(RulePath { rule }, scope, NoBody)
                .await?;
            output.value(&describe(&rule.data), &rule.raw);
        }
        AlertCommand::Silence {
            rule,
            subject,
            length,
            reason,
        } => {
            let new = NewSilence {
                rule,
                subject: subject.unwrap_or_default(),
                for_s: length,
                reason,
            };
            let silence = client.ask::<AlertsSilence>((), none, Json(new)).await?;
            let (id, until) = (silence.data.id, to_the_second(silence.data.ends_at));
            let message =
                format!("Silenced until {until}. To end it earlier: patchbay alert unsilence {id}");
            output.value(&message, &silence.raw);
            if let Some(warning) = &silence.data.warning {
                output.note(&format!("Warning: {warning}"));
            }
        }
        AlertCommand::Silences => {
            let silences = client.ask::<AlertSilencesList>((), none, NoBody).await?;
            let rows = silences.data.into_iter().map(|silence| {
                let until = to_the_second(silence.ends_at);
                vec![
                    silence.id.to_string(),
                    silence.rule,
                    silence.subject,
                    until,
                    silence.created_by,
                    silence.reason,
                ]
            });
            output.table_or(
                "No silence is in force",
                &["ID", "RULE", "SUBJECT", "UNTIL", "BY", "REASON"],
                rows.collect(),
                &silences.raw,
            );
        }
        AlertCommand::Unsilence { id, .. } => {
            let path = SilencePath {
                silence: id.to_string(),
            };
            let ended = client.ask::<AlertsUnsilence>(path, none, NoBody).await?;
            output.value(&format!("Ended: silence {id}"), &ended.raw);
        }
        AlertCommand::History { rule, much } => {
            let query = |limit: u16, cursor| AlertHistoryQuery {
                rule: rule.clone(),
                cursor,
                limit: Some(limit.into()),
            };
            let events = much.ask::<AlertsHistory, _>(&client, &(), query).await?;
            let rows = events.items.iter().map(|event| {
                let what = if event.silenced {
                    " (no message was sent)"
                } else {
                    ""
                };
                let length = event.lasted_ms.map(|ms| {
                    format!(
                        " after {}",
                        lasted(Duration::from_millis(ms.unsigned_abs()))
                    )
                });
                let what = format!("{}{}{what}", event.event, length.unwrap_or_default());
                vec![
                    to_the_second(event.at),
                    event.rule.clone(),
                    event.subject.clone(),
                    what,
                    event.reason.clone(),
                ]
            });
            output.list(
                &["AT", "RULE", "SUBJECT", "EVENT", "REASON"],
                &[],
                rows.collect(),
                &events.raw,
                &events.more(),
            );
            events.note("event", output);
        }
        AlertCommand::Test => test(&client, output).await?,
    }
    Ok(())
}

async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let overview = client.ask::<AlertsList>((), NoQuery {}, NoBody).await?;
    let summary = summary(&overview.data);
    let rows: Vec<Vec<String>> = overview
        .data
        .alerts
        .into_iter()
        .map(|alert| {
            let until = alert
                .silenced_until
                .map(|until| format!(", silenced until {}", to_the_second(until)));
            let ends = alert.ends_within_s.map(|seconds| {
                let within = lasted(Duration::from_secs(seconds));
                format!(", ends within {within}: the cause is gone")
            });
            let (until, ends) = (until.unwrap_or_default(), ends.unwrap_or_default());
            let state = format!("{}{ends}{until}", alert.state);
            let since = to_the_second(alert.since);
            vec![
                alert.rule,
                alert.subject,
                alert.severity,
                state,
                since,
                alert.reason.unwrap_or_default(),
            ]
        })
        .collect();
    if let Some(summary) = summary.filter(|_| !output.json) {
        println!("{}", plain(&summary));
    }
    if !rows.is_empty() || output.json {
        output.table(
            &["RULE", "SUBJECT", "SEVERITY", "STATE", "SINCE", "REASON"],
            rows,
            &overview.raw,
        );
    }
    if output.json {
        return Ok(());
    }
    for message in overview.data.undelivered {
        let given_up = if message.given_up_at.is_none() {
            ""
        } else {
            ", given up"
        };
        let (channel, rule, subject, tries) = (
            message.channel,
            message.rule,
            message.subject,
            message.tries,
        );
        let error = message.last_error.as_deref().unwrap_or("it is due");
        let tries = match tries {
            1 => "1 try".to_owned(),
            tries => format!("{tries} tries"),
        };
        println!("not delivered by {channel}: {rule} {subject} ({tries}{given_up}): {error}");
    }
    Ok(())
}

/// What to say when no alert fires; `None` when one does.
fn summary(overview: &AlertOverview) -> Option<String> {
    if overview.alerts.iter().any(|alert| alert.state == "firing") {
        return None;
    }
    let mut lines = vec![match overview.alerts.len() {
        0 => "No alert fires.".to_owned(),
        pending => format!(
            "No alert fires. {} pending: the condition is met, but not yet for long enough.",
            match pending {
                1 => "1 alert is".to_owned(),
                pending => format!("{pending} alerts are"),
            }
        ),
    }];
    if let Some(worst) = overview.failed_last_hour.first() {
        let jobs: i64 = overview.failed_last_hour.iter().map(|one| one.jobs).sum();
        let queues = overview.failed_last_hour.len() as u64;
        let places = match queues {
            1 => format!("in {}", word(&worst.queue)),
            _ => format!(
                "in {}, most of them ({}) in {}",
                counted(queues, "queue"),
                worst.jobs,
                word(&worst.queue)
            ),
        };
        lines.push(format!(
            "{} failed in the last hour {places}: patchbay dead-letter list",
            counted(jobs.unsigned_abs(), "job")
        ));
    }
    Some(lines.join("\n"))
}

async fn test(client: &Client, output: Output) -> anyhow::Result<()> {
    let tests = client.ask::<AlertsTest>((), NoQuery {}, NoBody).await?;
    let failed = tests.data.iter().filter(|one| !one.delivered).count();
    let rows = tests.data.iter().map(|one| {
        let result = one.error.as_ref().map_or_else(
            || "delivered".to_owned(),
            |error| format!("FAILED: {error}"),
        );
        vec![one.channel.clone(), format!("{} ms", one.ms), result]
    });
    output.table(&["CHANNEL", "TOOK", "RESULT"], rows.collect(), &tests.raw);
    if failed > 0 {
        bail!("{failed} of {} channels failed", tests.data.len());
    }
    Ok(())
}

fn to_the_second(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn severity(rule: &AlertRule) -> String {
    if rule.enabled {
        rule.severity.as_str()
    } else {
        "off"
    }
    .to_owned()
}

/// Parses `900`, `15m` or `90%`; whether the unit fits the rule, the host knows.
fn threshold(text: &str) -> Result<Threshold, String> {
    let is_positive = |text: &str| text.parse::<f64>().is_ok_and(|n| n >= 0.0 && n.is_finite());
    if let (true, Ok(number)) = (is_positive(text), text.parse()) {
        return Ok(Threshold::Number(number));
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%');
    match is_positive(number) {
        true => Ok(Threshold::Text(text.to_owned())),
        false => Err(
            "must be a number, 0 or more, or one with a unit, such as 90s, 5m, 30d or 90%".into(),
        ),
    }
}

/// As options take it: `15m`, `90%`, `180d`, `5 jobs`.
fn with_unit(number: f64, unit: &str) -> String {
    match unit {
        "s" if number >= 1.0 && number.fract() == 0.0 => in_units(number as u64),
        "s" | "d" | "%" => format!("{number}{unit}"),
        unit if number == 1.0 => format!("1 {}", unit.trim_end_matches('s')),
        unit => format!("{number} {unit}"),
    }
}

/// For example `≥ 15m for 1m`.
fn condition(rule: &AlertRule) -> String {
    let sign = if rule.is_floor { "≤" } else { "≥" };
    let mut parts = Vec::new();
    if let Some(threshold) = rule.threshold {
        let unit = rule.unit.as_deref().unwrap_or_default();
        parts.push(format!("{sign} {}", with_unit(threshold, unit)));
    }
    if rule.at_least > 0 {
        parts.push(format!("of at least {}", rule.at_least));
    }
    match rule.hold_s {
        0 if parts.is_empty() => parts.push("at once".into()),
        0 => {}
        seconds => parts.push(format!("for {}", in_units(seconds))),
    }
    parts.join(" ")
}

/// Changes for some subjects only.
fn of_some_subjects(rule: &AlertRule) -> impl Iterator<Item = &ChangedRule> {
    rule.changes
        .iter()
        .filter(|change| !change.subject.is_empty())
}

fn changed(change: &ChangedRule, unit: &str) -> String {
    let threshold = |number| with_unit(number, unit);
    let set = [
        ("enabled", change.enabled.map(|enabled| enabled.to_string())),
        ("severity", change.severity.clone()),
        ("threshold", change.threshold.map(threshold)),
        (
            "for",
            change
                .hold_s
                .map(|hold| in_units(hold.unsigned_abs().into())),
        ),
        ("at-least", change.at_least.map(|count| count.to_string())),
        ("runbook", change.runbook.clone()),
    ];
    let set = set
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    set.collect::<Vec<_>>().join(" ")
}

fn describe(rule: &AlertRule) -> String {
    let mut lines = vec![format!(
        "{}: {}, {}",
        rule.rule,
        severity(rule),
        condition(rule)
    )];
    let unit = rule.unit.as_deref().unwrap_or_default();
    lines.extend(
        of_some_subjects(rule)
            .map(|change| format!("  {}: {}", change.subject, changed(change, unit))),
    );
    lines.push(format!("  runbook: {}", rule.runbook));
    lines.join("\n")
}

#[cfg(test)]
mod tests;
