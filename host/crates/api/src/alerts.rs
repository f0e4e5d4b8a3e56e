//! Alerts: what is not in order, the rules, silences, and trying whether messages arrive.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// A rule.
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
    /// What fires, what is about to, and which messages did not arrive.
    AlertsList = "alerts.list": GET "/api/admin/alerts" ((), NoQuery, NoBody) -> Data<AlertOverview>,
        Operator, Reads, errors [];
    /// Every rule.
    AlertRulesList = "alert_rules.list": GET "/api/admin/alerts/rules" ((), NoQuery, NoBody) -> List<AlertRule>,
        Operator, Reads, errors [];
    /// Change a rule, for all subjects or some. The way back is its removal: what is compiled in holds again.
    AlertRulesSet = "alert_rules.set": PUT "/api/admin/alerts/rules/{rule}" (RulePath, NoQuery, Json<RuleChange>) -> Data<AlertRule>,
        Operator, Changes, audit "alert.rule.set", errors [];
    /// Undo what was changed about a rule, for one scope.
    AlertRulesReset = "alert_rules.reset": DELETE "/api/admin/alerts/rules/{rule}" (RulePath, RuleScope, NoBody) -> Data<AlertRule>,
        Operator, Changes, audit "alert.rule.reset", errors [];
    /// Silences that are in force.
    AlertSilencesList = "alert_silences.list": GET "/api/admin/alerts/silences" ((), NoQuery, NoBody) -> List<Silence>,
        Operator, Reads, errors [];
    /// Tell nobody for a while. Rules are evaluated and shown all the same; whoever was told of an alert before is told of its end.
    AlertsSilence = "alerts.silence": POST "/api/admin/alerts/silences" ((), NoQuery, Json<NewSilence>) -> Data<Silence>,
        Operator, Changes, audit "alert.silence", errors [404 "There is no such rule"];
    /// End a silence. What fires then, and nobody was told of, is told.
    AlertsUnsilence = "alerts.unsilence": DELETE "/api/admin/alerts/silences/{silence}" (SilencePath, NoQuery, NoBody) -> Data<EndedSilence>,
        Operator, Changes, audit "alert.unsilence", errors [];
    /// What fired and recovered, the newest first; kept for 90 days.
    AlertsHistory = "alerts.history": GET "/api/admin/alerts/history" ((), AlertHistoryQuery, NoBody) -> List<AlertEvent>,
        Operator, Reads, errors [404 "There is no such rule"];
    /// Send a test message over every channel of this host now, and say how each fared. Empty where none is configured.
    AlertsTest = "alerts.test": POST "/api/admin/alerts/test" ((), NoQuery, NoBody) -> List<ChannelTest>,
        Operator, Changes, audit "alert.test", errors [];
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look at it today.
    Warning,
    /// Somebody should be woken.
    Critical,
}

impl Severity {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// By its word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Warning, Self::Critical].into_iter().find(|severity| severity.as_str() == text)
    }
}

/// All that is to be known.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AlertOverview {
    /// What fires or is about to.
    pub alerts: Vec<Alert>,
    /// Messages that did not arrive yet, or were given up after a day.
    pub undelivered: Vec<UndeliveredMessage>,
}

/// Something that is not in order.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Name of the rule.
    pub rule: String,
    /// Of which queue, plugin, host or schedule.
    pub subject: String,
    /// `warning` or `critical`.
    pub severity: String,
    /// `pending` (nobody was told yet) or `firing`.
    pub state: String,
    /// When the condition was first met.
    pub since: DateTime<Utc>,
    /// When somebody was told.
    pub fired_at: Option<DateTime<Utc>>,
    /// What is the case.
    pub reason: Option<String>,
    /// What to do next.
    pub next: Option<String>,
    /// Link to what to do.
    pub runbook: Option<String>,
    /// What was measured, in `unit`.
    pub value: Option<f64>,
    /// At or beyond it the rule fires.
    pub threshold: Option<f64>,
    /// Of value and threshold.
    pub unit: Option<String>,
    /// Nobody is told until then.
    pub silenced_until: Option<DateTime<Utc>>,
}

/// A message about an alert that did not arrive.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UndeliveredMessage {
    /// Name of the rule.
    pub rule: String,
    /// Of which queue, plugin, host or schedule.
    pub subject: String,
    /// `webhook`, `slack` or `mail`.
    pub channel: String,
    /// `firing`, `still-firing` or `recovered`.
    pub event: Option<String>,
    /// When it was to be told.
    pub since: DateTime<Utc>,
    /// So far.
    pub tries: i32,
    /// Absent before the first try.
    pub last_error: Option<String>,
    /// Absent while it is tried again.
    pub given_up_at: Option<DateTime<Utc>>,
}

/// A rule as it stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRule {
    /// Its name.
    pub rule: String,
    /// What its subjects are.
    pub subjects: String,
    /// When it fires, in words.
    pub about: String,
    /// Whether it is evaluated.
    pub enabled: bool,
    /// In force now.
    pub severity: Severity,
    /// In force now; absent where there is nothing to measure.
    pub threshold: Option<f64>,
    /// Of the threshold.
    pub unit: Option<String>,
    /// It fires at this value or below; otherwise at or above.
    pub is_floor: bool,
    /// For so many seconds before anybody is told.
    pub hold_s: u64,
    /// Fewer cases say nothing.
    pub at_least: u32,
    /// Link to what to do.
    pub runbook: String,
    /// What operators have changed: for all subjects where `subject` is empty, which is contained above, and for some.
    pub changes: Vec<ChangedRule>,
}

/// What operators have changed about a rule, for one scope. Absent is what they have not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangedRule {
    /// Name of the rule.
    pub rule: String,
    /// All when empty; may end in `*`.
    pub subject: String,
    /// Whether it is evaluated.
    pub enabled: Option<bool>,
    /// In the rule's unit.
    pub threshold: Option<f64>,
    /// For so many seconds before anybody is told.
    pub hold_s: Option<i32>,
    /// Fewer cases say nothing.
    pub at_least: Option<i32>,
    /// `warning` or `critical`.
    pub severity: Option<String>,
    /// A link.
    pub runbook: Option<String>,
}

/// What to change; what is absent stays.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RuleChange {
    /// For this subject only, or for those that begin so when it ends in `*`; all when absent.
    #[serde(default)]
    pub subject: String,
    /// Whether it is evaluated.
    pub enabled: Option<bool>,
    /// In the rule's unit.
    pub threshold: Option<f64>,
    /// Seconds.
    pub hold_s: Option<i32>,
    /// Fewer cases say nothing.
    pub at_least: Option<i32>,
    /// `warning` or `critical`.
    pub severity: Option<String>,
    /// A link.
    pub runbook: Option<String>,
}

/// For which subject.
#[derive(Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RuleScope {
    /// As it was set; absent: for all subjects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[param(required = false)]
    pub subject: String,
}

/// For how long nobody is told.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// Its number.
    pub id: i64,
    /// Name of the rule, or `all`.
    pub rule: String,
    /// All when empty; may end in `*`.
    pub subject: String,
    /// For the next operator.
    pub reason: String,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// The operator.
    pub created_by: String,
    /// When it ends by itself.
    pub ends_at: DateTime<Utc>,
}

/// What to be quiet about.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewSilence {
    /// A rule, or `all`.
    pub rule: String,
    /// This subject only, or those that begin so when it ends in `*`; all when absent.
    #[serde(default)]
    pub subject: String,
    /// For so many seconds, at most 2592000 (30 days).
    #[schema(minimum = 1, maximum = 2592000)]
    pub for_s: u64,
    /// For the next operator and the audit trail.
    pub reason: String,
}

/// The silence that was ended.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EndedSilence {
    /// Its number.
    pub id: i64,
}

/// What to look back on.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AlertHistoryQuery {
    /// Of this rule; all when absent.
    pub rule: Option<String>,
    /// 1 to 1000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<i64>,
}

/// What happened to an alert.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertEvent {
    /// When.
    pub at: DateTime<Utc>,
    /// Name of the rule.
    pub rule: String,
    /// Of which queue, plugin, host or schedule.
    pub subject: String,
    /// `firing`, `still-firing` or `recovered`.
    pub event: String,
    /// `warning` or `critical`.
    pub severity: String,
    /// What was the case.
    pub reason: String,
    /// Nobody was told.
    pub silenced: bool,
}

/// How a test message fared.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChannelTest {
    /// `webhook`, `slack`, `mail` or `ping`.
    pub channel: String,
    /// Whether it was taken.
    pub delivered: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long that took, milliseconds.
    pub ms: u64,
}
