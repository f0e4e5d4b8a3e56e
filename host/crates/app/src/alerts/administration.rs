//! Use cases of alerts: operators list, change and test rules, and set silences.

use std::sync::Arc;
use std::time::Duration;

use patchbay_api::alerts::{
    Alert, AlertEvent, AlertHistoryQuery, AlertOverview, AlertRule, AlertRulesReset, AlertRulesSet,
    AlertsSilence, AlertsTest, AlertsUnsilence, ChangedRule, ChannelTest, EndedSilence, FailedJobs,
    NewSilence, RuleChange, Severity, Silence, Threshold, UndeliveredMessage,
};
use patchbay_api::answer::Page;
use patchbay_model::shell::word;
use patchbay_store::{AlertEventRow, AlertRow, AlertRuleRow, SilenceRow, Store, UndeliveredRow};
use serde_json::{Value, json};

use super::evaluate::rounded;
use super::recheck::Cause;
use super::rule::{ALL, RULES, Rule, in_force, is_link, silenced};
use super::{AlertWatch, threshold};
use crate::actions::{Actions, Caller};
use crate::nearest::{meant, suggested, suggesting_number};
use crate::queues::Catalog;
use crate::{Error, Parts};

/// Longest text of an operator, in characters.
const MAX_TEXT: usize = 500;
/// Longest silence. Whoever wants a longer one should change the rule.
const MAX_SILENCE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest time for which a rule may require that its condition holds.
const MAX_HOLD_S: i32 = 7 * 24 * 3600;
const MAX_EVENTS: i64 = 1_000;
/// Failures of this time are told beside the alerts.
const LATELY: Duration = Duration::from_secs(3_600);

#[derive(Clone)]
pub struct Alerts {
    store: Store,
    watch: Arc<AlertWatch>,
    actions: Actions,
    catalog: Catalog,
}

impl Alerts {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            watch: Arc::clone(&parts.alerts),
            actions: parts.actions.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
        }
    }

    /// Lists firing and pending alerts with their causes as they are now, and messages that were not
    /// delivered.
    pub async fn list(&self) -> Result<AlertOverview, Error> {
        let silences = self.store.alert_silences().await?;
        let alerts = self.store.alerts().await?;
        let undelivered = self.store.undelivered().await?;
        let failed = self
            .store
            .failed_lately(self.watch.prefix(), None, LATELY)
            .await?;
        let mut causes = self.watch.causes(&alerts).await;
        let shown = |row: AlertRow| {
            let cause = causes.remove(&(row.rule.clone(), row.subject.clone()));
            alert(row, &silences, cause)
        };
        Ok(AlertOverview {
            alerts: alerts.into_iter().map(shown).collect(),
            undelivered: undelivered.into_iter().map(undelivered_message).collect(),
            failed_last_hour: failed.into_iter().map(failed_jobs).collect(),
        })
    }

    pub async fn rules(&self) -> Result<Vec<AlertRule>, Error> {
        let changes = self.store.alert_rules().await?;
        Ok(RULES.iter().map(|rule| self.rule(rule, &changes)).collect())
    }

    fn rule(&self, rule: &'static Rule, changes: &[AlertRuleRow]) -> AlertRule {
        let now = in_force(rule, "", changes);
        let changes = changes.iter().filter(|change| change.rule == rule.name);
        AlertRule {
            rule: rule.name.to_owned(),
            subjects: rule.subject.to_owned(),
            about: rule.about.to_owned(),
            enabled: now.enabled,
            severity: now.severity,
            threshold: now.threshold,
            unit: rule.threshold.map(|(_, unit)| unit.to_owned()),
            is_floor: rule.is_floor,
            hold_s: now.hold.as_secs(),
            at_least: now.at_least,
            runbook: now.runbook.unwrap_or_else(|| self.watch.runbook(rule.name)),
            changes: changes.cloned().map(changed_rule).collect(),
            warning: None,
        }
    }

    pub async fn set_rule(
        &self,
        who: &Caller,
        name: &str,
        change: RuleChange,
    ) -> Result<AlertRule, Error> {
        let rule = named(name)?;
        let threshold = match (&change.threshold, rule.threshold) {
            (Some(wanted), Some((_, unit))) => {
                Some(threshold::read(wanted, unit).map_err(Error::invalid)?)
            }
            _ => None,
        };
        check(&change, threshold, rule)?;
        let change = RuleChange {
            threshold: threshold.map(Threshold::Number),
            ..change
        };
        let details = serde_json::to_value(&change).unwrap_or(Value::Null);
        let act = async {
            let row = AlertRuleRow {
                rule: rule.name.to_owned(),
                subject: change.subject,
                enabled: change.enabled,
                threshold,
                hold_s: change.hold_s,
                at_least: change.at_least,
                severity: change.severity,
                runbook: change.runbook,
            };
            self.store.set_alert_rule(&row, &who.actor).await?;
            let mut shown = self.rule(rule, &self.store.alert_rules().await?);
            if !row.subject.is_empty() {
                shown.warning = self.unknown_subject(&row.subject).await;
            }
            Ok(shown)
        };
        self.actions
            .record::<AlertRulesSet, _>(who, rule.name, details, act)
            .await
    }

    /// Resets the rule for one subject. An empty `subject` means all subjects.
    pub async fn reset_rule(
        &self,
        who: &Caller,
        name: &str,
        subject: &str,
    ) -> Result<AlertRule, Error> {
        let rule = named(name)?;
        let act = async {
            if let Err(error) = self.store.reset_alert_rule(rule.name, subject).await {
                let changes = self.store.alert_rules().await.unwrap_or_default();
                let subjects = changes
                    .iter()
                    .filter(|change| change.rule == rule.name)
                    .map(|change| change.subject.as_str());
                return Err(suggested(error.into(), subject, subjects));
            }
            Ok(self.rule(rule, &self.store.alert_rules().await?))
        };
        self.actions
            .record::<AlertRulesReset, _>(who, rule.name, json!({ "subject": subject }), act)
            .await
    }

    /// Lists the silences that have not ended.
    pub async fn silences(&self) -> Result<Vec<Silence>, Error> {
        Ok(self
            .store
            .alert_silences()
            .await?
            .into_iter()
            .map(silence)
            .collect())
    }

    pub async fn silence(&self, who: &Caller, new: NewSilence) -> Result<Silence, Error> {
        if new.rule != ALL {
            named(&new.rule)?;
        }
        if !new.subject.is_empty() {
            check_text("subject", &new.subject)?;
        }
        check_text("reason", &new.reason)?;
        let length = Duration::from_secs(new.for_s);
        if length.is_zero() || length > MAX_SILENCE {
            return Err(Error::invalid(format!(
                "forS: must be from 1 to {} seconds (30 days)",
                MAX_SILENCE.as_secs()
            )));
        }
        let details = serde_json::to_value(&new).unwrap_or(Value::Null);
        let act = async {
            let made = self
                .store
                .silence_alert(&new.rule, &new.subject, length, &new.reason, &who.actor)
                .await?;
            Ok(Silence {
                warning: self.unknown_subject(&new.subject).await,
                ..silence(made)
            })
        };
        self.actions
            .record::<AlertsSilence, _>(who, &new.rule, details, act)
            .await
    }

    /// That nothing has the name, which may be a typo. The check itself may fail: then nothing.
    async fn unknown_subject(&self, subject: &str) -> Option<String> {
        if subject.is_empty() {
            return None;
        }
        let mut known: Vec<String> = Vec::new();
        let queues = self.catalog.names().await.ok()?;
        known.extend(queues.iter().map(ToString::to_string));
        known.extend(self.store.plugin_names().await.ok()?);
        known.extend(
            self.store
                .hosts()
                .await
                .ok()?
                .into_iter()
                .map(|row| row.host),
        );
        let schedules = self.store.schedules().await.ok()?;
        known.extend(schedules.into_iter().map(|row| row.id));
        known.extend(
            self.store
                .alerts()
                .await
                .ok()?
                .into_iter()
                .map(|row| row.subject),
        );
        let is_meant = |name: &String| match subject.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            // Of a plugin also its outside hosts and its secrets.
            None => {
                let rest = subject.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '/']))
            }
        };
        if known.iter().any(is_meant) {
            return None;
        }
        let suggestion = meant(subject, known.iter().map(String::as_str));
        Some(format!(
            "No queue, plugin, host or schedule is called {} now.{suggestion}",
            word(subject)
        ))
    }

    pub async fn unsilence(&self, who: &Caller, id: &str) -> Result<EndedSilence, Error> {
        let id: i64 = id.parse().map_err(|_| {
            Error::invalid(
                "silence: must be a number. List silences with their numbers: patchbay alert silences",
            )
        })?;
        let act = async {
            match self.store.end_silence(id).await {
                Ok(()) => Ok(EndedSilence { id }),
                Err(error) => {
                    let error = Error::from(error);
                    let silences = self.store.alert_silences().await.unwrap_or_default();
                    let known: Vec<i64> = silences.iter().map(|silence| silence.id).collect();
                    let message = suggesting_number(error.message, id, &known);
                    Err(Error { message, ..error })
                }
            }
        };
        self.actions
            .record::<AlertsUnsilence, _>(who, &id.to_string(), json!({}), act)
            .await
    }

    /// Lists what fired and recovered, newest first.
    pub async fn history(&self, asked: &AlertHistoryQuery) -> Result<Page<AlertEvent>, Error> {
        let rule = asked.rule.as_deref().map(named).transpose()?;
        let limit = asked.limit.unwrap_or(100);
        if !(1..=MAX_EVENTS).contains(&limit) {
            return Err(Error::invalid(format!(
                "limit: must be from 1 to {MAX_EVENTS}"
            )));
        }
        let before = asked.cursor.as_ref().map(|cursor| {
            cursor.parse::<i64>().map_err(|_| {
                Error::invalid("cursor: not valid. Use `nextCursor` of the page before, or leave it out for the first page")
            })
        });
        // One more shows whether there is another page.
        let mut events = self
            .store
            .alert_events(rule.map(|rule| rule.name), before.transpose()?, limit + 1)
            .await?;
        let limit = usize::try_from(limit).unwrap_or_default();
        let is_more = events.len() > limit;
        events.truncate(limit);
        Ok(Page {
            next_cursor: events
                .last()
                .filter(|_| is_more)
                .map(|event| event.id.to_string()),
            items: events
                .into_iter()
                .map(|stored| event(stored.event))
                .collect(),
            partial: false,
        })
    }

    /// Sends a test message over every channel of this host.
    pub async fn test(&self, who: &Caller) -> Result<Vec<ChannelTest>, Error> {
        let act = async {
            let tested = self.watch.test(&who.actor).await;
            match tested.is_empty() {
                true => Err(Error::conflict(
                    "No channel is configured, so nothing was sent. Set alerts.webhook_url, alerts.slack_url or alerts.mail_to",
                )),
                false => Ok(tested),
            }
        };
        self.actions
            .record::<AlertsTest, _>(who, "all", json!({}), act)
            .await
    }
}

fn named(rule: &str) -> Result<&'static Rule, Error> {
    Rule::named(rule).ok_or_else(|| {
        let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        Error::not_found(format!(
            "No alert rule is called {}.{} The rules are {}",
            word(rule),
            meant(rule, names.iter().copied()),
            names.join(", ")
        ))
    })
}

fn check_text(name: &str, text: &str) -> Result<(), Error> {
    if text.trim().is_empty() || text.chars().count() > MAX_TEXT {
        return Err(Error::invalid(format!(
            "{name}: must have 1 to {MAX_TEXT} characters"
        )));
    }
    Ok(())
}

/// Refuses a change that makes no sense for this rule.
fn check(change: &RuleChange, threshold: Option<f64>, rule: &Rule) -> Result<(), Error> {
    let invalid = |message: &str| Err(Error::invalid(message));
    let RuleChange {
        subject,
        enabled,
        threshold: given,
        hold_s,
        at_least,
        severity,
        runbook,
    } = change;
    if !subject.is_empty() {
        check_text("subject", subject)?;
    }
    if let Some(runbook) = runbook {
        check_text("runbook", runbook)?;
        if !is_link(runbook) {
            return invalid("runbook: must be a link with http:// or https://, or a path");
        }
    }
    if given.is_some() && rule.threshold.is_none() {
        return invalid("threshold: this rule has no threshold. Leave it out");
    }
    match threshold {
        Some(threshold) if !threshold.is_finite() || threshold < 0.0 => {
            return invalid("threshold: must be a number, 0 or more");
        }
        Some(threshold)
            if threshold > 100.0 && rule.threshold.is_some_and(|(_, unit)| unit == "%") =>
        {
            return invalid("threshold: must be at most 100, because it is a percentage");
        }
        _ => {}
    }
    if at_least.is_some() && rule.at_least.is_none() {
        return invalid("atLeast: this rule has no minimum number of cases. Leave it out");
    }
    if at_least.is_some_and(|count| count < 1) {
        return invalid("atLeast: must be 1 or more");
    }
    if hold_s.is_some_and(|hold| !(0..=MAX_HOLD_S).contains(&hold)) {
        return Err(Error::invalid(format!(
            "holdS: must be from 0 to {MAX_HOLD_S} seconds"
        )));
    }
    if severity
        .as_deref()
        .is_some_and(|severity| Severity::parse(severity).is_none())
    {
        return invalid("severity: must be warning or critical");
    }
    if enabled.is_none()
        && given.is_none()
        && hold_s.is_none()
        && at_least.is_none()
        && severity.is_none()
        && runbook.is_none()
    {
        return invalid(
            "Nothing to change. Give at least one of enabled, threshold, holdS, atLeast, severity and runbook",
        );
    }
    Ok(())
}

fn alert(row: AlertRow, silences: &[SilenceRow], cause: Option<Cause>) -> Alert {
    let text = |name: &str| row.notice[name].as_str().map(str::to_owned);
    let (reason, next, value, ends_within) = match cause {
        Some(Cause::Holds(now)) => (
            Some(now.reason),
            Some(now.next),
            now.value.map(rounded),
            None,
        ),
        Some(Cause::Gone { ends_within }) => (
            text("was").or(text("reason")),
            None,
            None,
            Some(ends_within),
        ),
        None => (
            text("reason"),
            text("next"),
            row.notice["value"].as_f64(),
            None,
        ),
    };
    let silence = silenced(&row.rule, &row.subject, silences);
    Alert {
        state: if row.firing { "firing" } else { "pending" }.to_owned(),
        since: row.began_at,
        fired_at: row.fired_at,
        reason,
        next,
        ends_within_s: ends_within.map(|time| time.as_secs()),
        runbook: text("runbook"),
        value,
        threshold: row.notice["threshold"].as_f64(),
        unit: text("unit"),
        silenced_until: silence.map(|silence| silence.ends_at),
        silenced_by: silence.map(|silence| silence.created_by.clone()),
        silence_reason: silence.map(|silence| silence.reason.clone()),
        rule: row.rule,
        subject: row.subject,
        severity: row.severity,
    }
}

fn failed_jobs((queue, jobs): (String, i64)) -> FailedJobs {
    FailedJobs { queue, jobs }
}

fn undelivered_message(row: UndeliveredRow) -> UndeliveredMessage {
    UndeliveredMessage {
        rule: row.rule,
        subject: row.subject,
        channel: row.channel,
        event: row.event,
        since: row.since,
        tries: row.tries,
        last_error: row.last_error,
        given_up_at: row.given_up_at,
    }
}

fn changed_rule(row: AlertRuleRow) -> ChangedRule {
    ChangedRule {
        rule: row.rule,
        subject: row.subject,
        enabled: row.enabled,
        threshold: row.threshold,
        hold_s: row.hold_s,
        at_least: row.at_least,
        severity: row.severity,
        runbook: row.runbook,
    }
}

fn silence(row: SilenceRow) -> Silence {
    Silence {
        id: row.id,
        rule: row.rule,
        subject: row.subject,
        reason: row.reason,
        created_at: row.created_at,
        created_by: row.created_by,
        ends_at: row.ends_at,
        warning: None,
    }
}

fn event(row: AlertEventRow) -> AlertEvent {
    AlertEvent {
        at: row.at,
        rule: row.rule,
        subject: row.subject,
        event: row.event,
        severity: row.severity,
        reason: row.reason,
        silenced: row.silenced,
        lasted_ms: row.lasted_ms,
    }
}
