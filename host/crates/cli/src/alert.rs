//! `patchbay alert …`

use anyhow::bail;
use clap::{ArgGroup, Args, Subcommand};
use patchbay_api::path::{api_path, with_query};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::refusal::Refusal;
use super::view::{items, text};

#[derive(Subcommand)]
pub enum AlertCommand {
    /// List what fires or is about to, and messages that did not arrive
    List,
    /// List the rules as they stand
    Rules,
    /// Change a rule, or undo that
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Tell nobody for a while; rules are evaluated and shown all the same
    Silence {
        /// A rule, or `all`
        rule: String,
        /// This subject only; with * at its end, those that begin so
        #[arg(long)]
        subject: Option<String>,
        /// For how long, at most 30d: 30m, 2h, 3d
        #[arg(long = "for", value_parser = |text: &str| seconds(text, 1, 30), value_name = "LENGTH")]
        length: u64,
        /// For the next operator and the audit trail
        #[arg(long)]
        reason: String,
    },
    /// List the silences that are in force
    Silences,
    /// End a silence
    Unsilence {
        /// Its number, as `alert silences` shows it
        id: u64,
    },
    /// What fired and recovered, the newest first
    History {
        /// Of one rule
        #[arg(long)]
        rule: Option<String>,
        /// So many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Send a test message over every channel now, and say how each fared
    Test,
}

#[derive(Subcommand)]
pub enum RuleCommand {
    /// Change a rule; what is not named stays
    Set {
        /// The rule
        rule: String,
        #[command(flatten)]
        change: Change,
    },
    /// Back to what is compiled in
    Reset {
        /// The rule
        rule: String,
        /// What was changed for this subject
        #[arg(long)]
        subject: Option<String>,
    },
}

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["threshold", "hold", "at_least", "severity", "runbook", "on", "off"]))]
pub struct Change {
    /// For this subject only; with * at its end, for those that begin so
    #[arg(long)]
    subject: Option<String>,
    /// In the rule's unit
    #[arg(long)]
    threshold: Option<f64>,
    /// For how long before anybody is told, at most 7d: 0s, 90s, 5m
    #[arg(long = "for", value_parser = |text: &str| seconds(text, 0, 7), value_name = "LENGTH")]
    hold: Option<u64>,
    /// Fewer cases say nothing
    #[arg(long)]
    at_least: Option<u32>,
    /// warning or critical
    #[arg(long, value_parser = ["warning", "critical"])]
    severity: Option<String>,
    /// Link to what to do
    #[arg(long)]
    runbook: Option<String>,
    /// Evaluate it again
    #[arg(long, conflicts_with = "off")]
    on: bool,
    /// Evaluate it no more
    #[arg(long)]
    off: bool,
}

/// `90s`, `30m`, `2h`, `3d`: so many seconds at least, and so many days at most.
fn seconds(text: &str, least: u64, most_days: u64) -> Result<u64, String> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err("a number with a unit: 90s, 30m, 2h or 3d".into()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| "a number with a unit: 90s, 30m, 2h or 3d")?;
    let length = number.checked_mul(unit).filter(|length| (least..=most_days * 86_400).contains(length));
    length.ok_or_else(|| format!("{least} s to {most_days} days"))
}

pub(crate) async fn run(command: AlertCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        AlertCommand::List => list(&client, output).await?,
        AlertCommand::Rules => {
            let rules = client.call(Method::GET, "alerts/rules", None).await?;
            let rows = items(&rules).flat_map(|rule| {
                let base = vec![text(rule, "rule"), severity(rule), condition(rule), text(rule, "about")];
                let some = items(&rule["changes"]).filter(|change| change["subject"] != "");
                std::iter::once(base).chain(
                    some.map(|change| vec![format!("  {}", text(change, "subject")), String::new(), changed(change)]),
                )
            });
            output.table(&["RULE", "SEVERITY", "FIRES AT", "WHEN"], rows.collect(), &rules);
        }
        AlertCommand::Rule(RuleCommand::Set { rule, change }) => {
            let Change { subject, threshold, hold, at_least, severity, runbook, on, off } = change;
            let mut body = json!({
                "subject": subject, "threshold": threshold, "holdS": hold, "atLeast": at_least, "severity": severity,
                "runbook": runbook, "enabled": (on || off).then_some(on),
            });
            if let Value::Object(fields) = &mut body {
                fields.retain(|_, value| !value.is_null());
            }
            let path = api_path(&["alerts", "rules", &rule]);
            let rule = client.call(Method::PUT, &path, Some(body)).await?;
            output.value(&describe(&rule), &rule);
        }
        AlertCommand::Rule(RuleCommand::Reset { rule, subject }) => {
            let path = with_query(&api_path(&["alerts", "rules", &rule]), subject.map(|subject| ("subject", subject)));
            let rule = client.call(Method::DELETE, &path, None).await?;
            output.value(&describe(&rule), &rule);
        }
        AlertCommand::Silence { rule, subject, length, reason } => {
            let body =
                json!({ "rule": rule, "subject": subject.unwrap_or_default(), "forS": length, "reason": reason });
            let silence = client.call(Method::POST, "alerts/silences", Some(body)).await?;
            let (id, until) = (shown(&silence, "id"), at(&silence, "endsAt"));
            output.value(
                &format!("nobody is told until {until}; before that with: patchbay alert unsilence {id}"),
                &silence,
            );
        }
        AlertCommand::Silences => {
            let silences = client.call(Method::GET, "alerts/silences", None).await?;
            let columns = ["id", "rule", "subject", "endsAt", "createdBy", "reason"];
            let rows = items(&silences).map(|silence| {
                columns.map(|name| if name == "endsAt" { at(silence, name) } else { shown(silence, name) }).to_vec()
            });
            output.table(&["ID", "RULE", "SUBJECT", "UNTIL", "BY", "REASON"], rows.collect(), &silences);
        }
        AlertCommand::Unsilence { id } => {
            let ended = client.call(Method::DELETE, &api_path(&["alerts", "silences", &id.to_string()]), None).await?;
            output.value(&format!("silence {id} is ended"), &ended);
        }
        AlertCommand::History { rule, limit } => {
            let query = [("limit", limit.to_string())].into_iter().chain(rule.map(|rule| ("rule", rule)));
            let events = client.call(Method::GET, &with_query("alerts/history", query), None).await?;
            let rows = items(&events).map(|event| {
                let what = if event["silenced"] == true { " (nobody was told)" } else { "" };
                let cells = [at(event, "at"), text(event, "rule"), text(event, "subject")];
                cells.into_iter().chain([format!("{}{what}", text(event, "event")), text(event, "reason")]).collect()
            });
            output.table(&["AT", "RULE", "SUBJECT", "EVENT", "REASON"], rows.collect(), &events);
        }
        AlertCommand::Test => test(&client, output).await?,
    }
    Ok(())
}

async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let overview = client.call(Method::GET, "alerts", None).await?;
    let rows: Vec<Vec<String>> = items(&overview["alerts"])
        .map(|alert| {
            let until = at(alert, "silencedUntil");
            let silenced = (!until.is_empty()).then(|| format!(", silenced until {until}"));
            let state = format!("{}{}", text(alert, "state"), silenced.unwrap_or_default());
            let cells = ["rule", "subject", "severity"].map(|name| text(alert, name));
            cells.into_iter().chain([state, at(alert, "since"), text(alert, "reason")]).collect()
        })
        .collect();
    if rows.is_empty() && !output.json {
        println!("all is in order");
    } else {
        output.table(&["RULE", "SUBJECT", "SEVERITY", "STATE", "SINCE", "REASON"], rows, &overview);
    }
    if output.json {
        return Ok(());
    }
    for message in items(&overview["undelivered"]) {
        let [channel, rule, subject] = ["channel", "rule", "subject"].map(|name| text(message, name));
        let given_up = if message["givenUpAt"].is_null() { "" } else { ", given up" };
        let (tries, error) = (&message["tries"], message["lastError"].as_str().unwrap_or("it is due"));
        println!("not delivered by {channel}: {rule} {subject} ({tries} tries{given_up}): {error}");
    }
    Ok(())
}

async fn test(client: &Client, output: Output) -> anyhow::Result<()> {
    let tested = client.call(Method::POST, "alerts/test", None).await?;
    let rows: Vec<Vec<String>> = items(&tested)
        .map(|one| {
            let result =
                one["error"].as_str().map_or_else(|| "delivered".to_owned(), |error| format!("FAILED: {error}"));
            vec![text(one, "channel"), format!("{} ms", one["ms"]), result]
        })
        .collect();
    if rows.is_empty() {
        let message = "no channel is configured: set alerts.webhook_url, alerts.slack_url or alerts.mail_to";
        return Err(Refusal(message.into()).into());
    }
    let failed = items(&tested).filter(|one| one["delivered"] == false).count();
    output.table(&["CHANNEL", "TOOK", "RESULT"], rows, &tested);
    if failed > 0 {
        bail!("{failed} of {} channels failed", items(&tested).count());
    }
    Ok(())
}

/// Numbers, too.
fn shown(value: &Value, name: &str) -> String {
    value[name].as_str().map_or_else(|| value[name].to_string(), str::to_owned)
}

/// A time, to the second.
fn at(value: &Value, name: &str) -> String {
    value[name].as_str().and_then(|time| time.get(..19)).map(|time| format!("{time}Z")).unwrap_or_default()
}

fn severity(rule: &Value) -> String {
    if rule["enabled"] == false { "off".into() } else { text(rule, "severity") }
}

/// `≥ 900 s for 60 s`
fn condition(rule: &Value) -> String {
    let sign = if rule["isFloor"] == true { "≤" } else { "≥" };
    let mut parts = Vec::new();
    if let Some(threshold) = rule["threshold"].as_f64() {
        parts.push(format!("{sign} {threshold} {}", text(rule, "unit")));
    }
    if let Some(count) = rule["atLeast"].as_u64().filter(|count| *count > 0) {
        parts.push(format!("of at least {count}"));
    }
    match rule["holdS"].as_u64() {
        Some(0) | None if parts.is_empty() => parts.push("at once".into()),
        Some(0) | None => {}
        Some(seconds) => parts.push(format!("for {seconds} s")),
    }
    parts.join(" ")
}

fn changed(change: &Value) -> String {
    let names = ["enabled", "severity", "threshold", "holdS", "atLeast", "runbook"];
    let set = names.iter().filter(|name| !change[**name].is_null());
    set.map(|name| format!("{name}={}", shown(change, name))).collect::<Vec<_>>().join(" ")
}

fn describe(rule: &Value) -> String {
    let mut lines = vec![format!("{}: {}, {}", text(rule, "rule"), severity(rule), condition(rule))];
    let some = items(&rule["changes"]).filter(|change| change["subject"] != "");
    lines.extend(some.map(|change| format!("  {}: {}", text(change, "subject"), changed(change))));
    lines.push(format!("  runbook: {}", text(rule, "runbook")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_a_unit() {
        let of = |text| seconds(text, 1, 30);
        assert_eq!(["90s", "30m", "2h", "30d"].map(of), [Ok(90), Ok(1_800), Ok(7_200), Ok(2_592_000)]);
        assert!(["90", "", "-1h", "9ü", "0s", "31d", "99999999999999999999d"].iter().all(|text| of(text).is_err()));
        assert_eq!(seconds("0s", 0, 7), Ok(0));
    }
}
