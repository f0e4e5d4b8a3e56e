//! Alerts: their state, rules, silences, history, and test messages.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// An alert rule.
    RulePath {
        /// Name of the rule
        rule: String,
    }
}

path_params! {
    /// A silence.
    SilencePath {
        /// Number of the silence
        silence: String,
    }
}

operations! {
    /// List alerts that fire or are pending, and messages that were not delivered.
    AlertsList = "alerts.list": GET "/api/admin/alerts" ((), NoQuery, NoBody) -> Data<AlertOverview>,
        Viewer, Reads, errors [];
    /// List every alert rule.
    AlertRulesList = "alert_rules.list": GET "/api/admin/alerts/rules" ((), NoQuery, NoBody) -> List<AlertRule>,
        Viewer, Reads, errors [];
    /// Change a rule for all subjects or some of them. Reset the rule to return to its built-in
    /// values.
    AlertRulesSet = "alert_rules.set": PUT "/api/admin/alerts/rules/{rule}" (RulePath, NoQuery, Json<RuleChange>) -> Data<AlertRule>,
        Owner, Changes, audit "alert.rule.set", errors [];
    /// Remove the changes to a rule for one scope.
    AlertRulesReset = "alert_rules.reset": DELETE "/api/admin/alerts/rules/{rule}" (RulePath, RuleScope, NoBody) -> Data<AlertRule>,
        Owner, Changes, audit "alert.rule.reset", errors [];
    /// List the silences that are in force.
    AlertSilencesList = "alert_silences.list": GET "/api/admin/alerts/silences" ((), NoQuery, NoBody) -> List<Silence>,
        Viewer, Reads, errors [];
    /// Silence alerts for a while: no messages are sent. Rules are still evaluated and shown; a
    /// recovery is still sent to whoever received the alert before.
    AlertsSilence = "alerts.silence": POST "/api/admin/alerts/silences" ((), NoQuery, Json<NewSilence>) -> Data<Silence>,
        Operator, Changes, audit "alert.silence", errors [404 "There is no rule of that name"];
    /// End a silence. Alerts that fire now and were never sent are sent.
    AlertsUnsilence = "alerts.unsilence": DELETE "/api/admin/alerts/silences/{silence}" (SilencePath, NoQuery, NoBody) -> Data<EndedSilence>,
        Operator, Changes, audit "alert.unsilence", errors [];
    /// List what fired and recovered, the newest first. Entries are kept for 90 days.
    AlertsHistory = "alerts.history": GET "/api/admin/alerts/history" ((), AlertHistoryQuery, NoBody) -> List<AlertEvent>,
        Viewer, Reads, errors [404 "There is no rule of that name"];
    /// Send a test message over every channel of this host now, and show whether each was
    /// delivered. The list is empty if no channel is configured.
    AlertsTest = "alerts.test": POST "/api/admin/alerts/test" ((), NoQuery, NoBody) -> List<ChannelTest>,
        Operator, Changes, audit "alert.test", errors [409 "no channel is configured; nothing was sent"];
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody should look at it today.
    Warning,
    /// Somebody should be woken.
    Critical,
}

impl Severity {
    /// The stable word: `warning` or `critical`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Reads the stable word; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Warning, Self::Critical]
            .into_iter()
            .find(|severity| severity.as_str() == text)
    }
}

/// All open alerts and undelivered messages.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertOverview {
    /// Alerts that are pending or firing.
    pub alerts: Vec<Alert>,
    /// Messages that are not delivered yet, or were given up after a day.
    pub undelivered: Vec<UndeliveredMessage>,
    /// Jobs that failed for good in the last hour, have not run since, and were neither acknowledged
    /// nor removed, by queue.
    #[serde(default)]
    pub failed_last_hour: Vec<FailedJobs>,
}

/// Jobs of a queue that failed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedJobs {
    /// Name of the queue.
    pub queue: String,
    /// Number of jobs. Of all queues, at most the newest 10000 failures are counted.
    pub jobs: i64,
}

/// An alert of one rule for one subject.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Name of the rule.
    pub rule: String,
    /// The queue, plugin, host or schedule that the alert is about.
    pub subject: String,
    /// `warning` or `critical`.
    pub severity: String,
    /// `pending` (no message was sent yet) or `firing`.
    pub state: String,
    /// When the condition was first met.
    pub since: DateTime<Utc>,
    /// When it began to fire; absent while pending.
    pub fired_at: Option<DateTime<Utc>>,
    /// What is wrong; with `endsWithinS`, what was.
    pub reason: Option<String>,
    /// What to do next; absent if the cause is gone.
    pub next: Option<String>,
    /// The cause is gone, and the alert ends within this many seconds if it does not come back.
    /// Absent: the cause holds, or could not be looked at now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_within_s: Option<u64>,
    /// Link to the runbook.
    pub runbook: Option<String>,
    /// The measured value, in `unit`; absent if the cause is gone.
    pub value: Option<f64>,
    /// The rule fires at or beyond this value, in `unit`.
    pub threshold: Option<f64>,
    /// Unit of `value` and `threshold`.
    pub unit: Option<String>,
    /// No messages are sent until this time.
    pub silenced_until: Option<DateTime<Utc>>,
    /// Who silenced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silenced_by: Option<String>,
    /// Why it was silenced, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_reason: Option<String>,
}

/// A message about an alert that was not delivered.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UndeliveredMessage {
    /// Name of the rule.
    pub rule: String,
    /// The queue, plugin, host or schedule that the alert is about.
    pub subject: String,
    /// `webhook`, `slack` or `mail`.
    pub channel: String,
    /// `firing`, `still-firing` or `recovered`.
    pub event: Option<String>,
    /// When the message was due.
    pub since: DateTime<Utc>,
    /// Delivery attempts so far.
    pub tries: i32,
    /// Error of the last delivery attempt; absent before the first one.
    pub last_error: Option<String>,
    /// When delivery was given up; absent while it is retried.
    pub given_up_at: Option<DateTime<Utc>>,
}

/// An alert rule with the values in force.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRule {
    /// Name of the rule.
    pub rule: String,
    /// What the rule is evaluated for, such as `queue` or `host`.
    pub subjects: String,
    /// When the rule fires, in words.
    pub about: String,
    /// Whether the rule is evaluated.
    pub enabled: bool,
    /// Severity in force now.
    pub severity: Severity,
    /// Threshold in force now; absent if the rule measures no value.
    pub threshold: Option<f64>,
    /// Unit of the threshold.
    pub unit: Option<String>,
    /// True: the rule fires at the threshold or below. False: at the threshold or above.
    pub is_floor: bool,
    /// The condition must be met for this many seconds before a message is sent.
    pub hold_s: u64,
    /// The rule does not fire with fewer cases than this; 0 if there is no minimum.
    pub at_least: u32,
    /// Link to the runbook.
    pub runbook: String,
    /// Changes by operators, one per scope. The values above include the change for all subjects
    /// (empty `subject`), but not those for some subjects.
    pub changes: Vec<ChangedRule>,
    /// Only in the answer of a change: nothing is called like its subject now, so it may be a typo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What operators changed about a rule for one scope. Absent fields are unchanged.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangedRule {
    /// Name of the rule.
    pub rule: String,
    /// The scope: one subject, or a prefix followed by `*`; empty means all subjects.
    pub subject: String,
    /// Whether the rule is evaluated.
    pub enabled: Option<bool>,
    /// Threshold, in the unit of the rule.
    pub threshold: Option<f64>,
    /// The condition must be met for this many seconds before a message is sent.
    pub hold_s: Option<i32>,
    /// The rule does not fire with fewer cases than this.
    pub at_least: Option<i32>,
    /// `warning` or `critical`.
    pub severity: Option<String>,
    /// Link to the runbook.
    pub runbook: Option<String>,
}

/// A change of a rule. Absent fields stay as they are.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RuleChange {
    /// The scope: one subject, or a prefix followed by `*`; all subjects if absent.
    #[serde(default)]
    pub subject: String,
    /// Whether the rule is evaluated.
    pub enabled: Option<bool>,
    /// Threshold: a number in the unit of the rule, or a text with a unit.
    pub threshold: Option<Threshold>,
    /// The condition must be met for this many seconds before a message is sent.
    pub hold_s: Option<i32>,
    /// The rule does not fire with fewer cases than this.
    pub at_least: Option<i32>,
    /// `warning` or `critical`.
    pub severity: Option<String>,
    /// Link to the runbook.
    pub runbook: Option<String>,
}

/// A threshold that is set: a number in the unit of the rule, or a text with a unit, such as `5m`,
/// `36h` or `90%`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be a number in the unit of the rule, or a text with a unit, such as \"5m\" or \"90%\""
)]
pub enum Threshold {
    /// In the unit of the rule.
    Number(f64),
    /// With a unit.
    Text(String),
}

/// The scope of a change to a rule.
#[derive(Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RuleScope {
    /// The scope as it was set: a subject, or a prefix followed by `*`; all subjects if absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[param(required = false)]
    pub subject: String,
}

/// A silence: no messages are sent for alerts that it covers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// Number of the silence.
    pub id: i64,
    /// Name of the rule, or `all`.
    pub rule: String,
    /// One subject, or a prefix followed by `*`; empty means all subjects.
    pub subject: String,
    /// Why, for the next operator.
    pub reason: String,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// The operator who made it.
    pub created_by: String,
    /// When it ends by itself.
    pub ends_at: DateTime<Utc>,
    /// Only in the answer of making it: nothing that is known now has the name of its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A silence to be made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewSilence {
    /// Name of a rule, or `all`.
    pub rule: String,
    /// One subject, or a prefix followed by `*`; all subjects if absent.
    #[serde(default)]
    pub subject: String,
    /// Duration in seconds, at most 2592000 (30 days).
    #[schema(minimum = 1, maximum = 2592000)]
    pub for_s: u64,
    /// Why, for the next operator and the audit trail.
    pub reason: String,
}

/// The silence that was ended.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EndedSilence {
    /// Number of the silence.
    pub id: i64,
}

/// Which part of the alert history to list.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AlertHistoryQuery {
    /// Only events of this rule; all rules if absent.
    pub rule: Option<String>,
    /// `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Number of events, 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<i64>,
}

/// An event in the history of an alert.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertEvent {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Name of the rule.
    pub rule: String,
    /// The queue, plugin, host or schedule that the alert is about.
    pub subject: String,
    /// `firing`, `still-firing` or `recovered`.
    pub event: String,
    /// `warning` or `critical`.
    pub severity: String,
    /// What was wrong.
    pub reason: String,
    /// True if no message was sent because of a silence.
    pub silenced: bool,
    /// How long the alert lasted, in milliseconds; only if it has recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted_ms: Option<i64>,
}

/// Result of a test message on one channel.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChannelTest {
    /// `webhook`, `slack`, `mail` or `ping`.
    pub channel: String,
    /// Whether the channel accepted the message.
    pub delivered: bool,
    /// Why it was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long the delivery took, in milliseconds.
    pub ms: u64,
}
