//! /api/admin/alerts: what is not in order, the rules, silences, and trying whether messages arrive.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use patchbay_app::alert::Tested;
use patchbay_app::alert::rule::{ALL, RULES, Rule, Severity, in_force, is_link, silenced};
use patchbay_store::{AlertEventRow, AlertRow, AlertRuleRow, SilenceRow, UndeliveredRow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::audited;
use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ApiResult, ErrorBody, Success, ok};
use crate::path::Path;

/// Longest text of an operator, in characters.
const MAX_TEXT: usize = 500;
/// Longer than that, a rule should be changed instead.
const MAX_SILENCE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest time that a condition may have to hold.
const MAX_HOLD_S: i32 = 7 * 24 * 3600;
const MAX_EVENTS: i64 = 1_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(rules))
        .routes(routes!(set, reset))
        .routes(routes!(silences, silence))
        .routes(routes!(unsilence))
        .routes(routes!(history))
        .routes(routes!(test))
}

/// Something that is not in order.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct AlertStory {
    rule: String,
    subject: String,
    severity: String,
    /// `pending` (nobody was told yet) or `firing`.
    state: &'static str,
    since: DateTime<Utc>,
    fired_at: Option<DateTime<Utc>>,
    reason: Option<String>,
    next: Option<String>,
    runbook: Option<String>,
    value: Option<f64>,
    threshold: Option<f64>,
    unit: Option<String>,
    /// Nobody is told until then.
    silenced_until: Option<DateTime<Utc>>,
}

/// All that is to be known.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Overview {
    alerts: Vec<AlertStory>,
    /// Messages that did not arrive yet, or were given up after a day.
    #[schema(value_type = Vec<Object>)]
    undelivered: Vec<UndeliveredRow>,
}

fn story(row: AlertRow, silences: &[SilenceRow]) -> AlertStory {
    let text = |name: &str| row.notice[name].as_str().map(str::to_owned);
    AlertStory {
        state: if row.firing { "firing" } else { "pending" },
        since: row.began_at,
        fired_at: row.fired_at,
        reason: text("reason"),
        next: text("next"),
        runbook: text("runbook"),
        value: row.notice["value"].as_f64(),
        threshold: row.notice["threshold"].as_f64(),
        unit: text("unit"),
        silenced_until: silenced(&row.rule, &row.subject, silences).map(|silence| silence.ends_at),
        rule: row.rule,
        subject: row.subject,
        severity: row.severity,
    }
}

/// What fires, what is about to, and which messages did not arrive.
#[utoipa::path(get, path = "/alerts", tag = "alerts", security(("operator" = [])),
    responses((status = 200, body = Success<Overview>)))]
async fn list(State(state): State<AppState>) -> ApiResult<Overview> {
    let silences = state.store.alert_silences().await?;
    let alerts = state.store.alerts().await?;
    let undelivered = state.store.undelivered().await?;
    ok(Overview { alerts: alerts.into_iter().map(|row| story(row, &silences)).collect(), undelivered })
}

/// A rule as it stands.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct RuleStory {
    rule: &'static str,
    /// What its subjects are.
    subjects: &'static str,
    about: &'static str,
    enabled: bool,
    severity: Severity,
    threshold: Option<f64>,
    unit: Option<&'static str>,
    /// It fires at this value or below; otherwise at or above.
    is_floor: bool,
    /// For so many seconds before anybody is told.
    hold_s: u64,
    /// Fewer cases say nothing.
    at_least: u32,
    runbook: String,
    /// What operators have changed: for all subjects where `subject` is empty, which is contained above, and for some.
    #[schema(value_type = Vec<Object>)]
    changes: Vec<AlertRuleRow>,
}

fn rule_story(state: &AppState, rule: &'static Rule, changes: &[AlertRuleRow]) -> RuleStory {
    let now = in_force(rule, "", changes);
    RuleStory {
        rule: rule.name,
        subjects: rule.subject,
        about: rule.about,
        enabled: now.enabled,
        severity: now.severity,
        threshold: now.threshold,
        unit: rule.threshold.map(|(_, unit)| unit),
        is_floor: rule.is_floor,
        hold_s: now.hold.as_secs(),
        at_least: now.at_least,
        runbook: now.runbook.unwrap_or_else(|| state.alerts.runbook(rule.name)),
        changes: changes.iter().filter(|change| change.rule == rule.name).cloned().collect(),
    }
}

/// Every rule.
#[utoipa::path(get, path = "/alerts/rules", tag = "alerts", security(("operator" = [])),
    responses((status = 200, body = Success<Vec<RuleStory>>)))]
async fn rules(State(state): State<AppState>) -> ApiResult<Vec<RuleStory>> {
    let changes = state.store.alert_rules().await?;
    ok(RULES.iter().map(|rule| rule_story(&state, rule, &changes)).collect())
}

fn named(rule: &str) -> Result<&'static Rule, ApiError> {
    Rule::named(rule).ok_or_else(|| {
        let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        ApiError::not_found(format!("there is no rule {rule}; there are {}", names.join(", ")))
    })
}

fn text(name: &str, text: &str) -> Result<(), ApiError> {
    if text.trim().is_empty() || text.chars().count() > MAX_TEXT {
        return Err(ApiError::invalid(format!("{name}: 1 to {MAX_TEXT} characters")));
    }
    Ok(())
}

/// What to change; what is absent stays.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleChange {
    /// For this subject only, or for those that begin so when it ends in `*`; all when absent.
    #[serde(default)]
    subject: String,
    enabled: Option<bool>,
    threshold: Option<f64>,
    /// Seconds.
    hold_s: Option<i32>,
    at_least: Option<i32>,
    /// `warning` or `critical`.
    severity: Option<String>,
    /// A link.
    runbook: Option<String>,
}

impl RuleChange {
    fn check(&self, rule: &Rule) -> Result<(), ApiError> {
        let invalid = |message: &str| Err(ApiError::invalid(message));
        if !self.subject.is_empty() {
            text("subject", &self.subject)?;
        }
        if let Some(runbook) = &self.runbook {
            text("runbook", runbook)?;
            if !is_link(runbook) {
                return invalid("runbook: a link with http:// or https://, or a path");
            }
        }
        match self.threshold {
            Some(_) if rule.threshold.is_none() => return invalid("threshold: this rule has none"),
            Some(threshold) if !threshold.is_finite() || threshold < 0.0 => {
                return invalid("threshold: a number of at least 0");
            }
            Some(threshold) if threshold > 100.0 && rule.threshold.is_some_and(|(_, unit)| unit == "%") => {
                return invalid("threshold: a percentage is at most 100");
            }
            _ => {}
        }
        if self.at_least.is_some() && rule.at_least.is_none() {
            return invalid("atLeast: this rule counts no cases");
        }
        if self.at_least.is_some_and(|count| count < 1) {
            return invalid("atLeast: at least 1");
        }
        if self.hold_s.is_some_and(|hold| !(0..=MAX_HOLD_S).contains(&hold)) {
            return Err(ApiError::invalid(format!("holdS: 0 to {MAX_HOLD_S}")));
        }
        if self.severity.as_deref().is_some_and(|severity| Severity::parse(severity).is_none()) {
            return invalid("severity: warning or critical");
        }
        let Self { enabled, threshold, hold_s, at_least, severity, runbook, .. } = self;
        if enabled.is_none()
            && threshold.is_none()
            && hold_s.is_none()
            && at_least.is_none()
            && severity.is_none()
            && runbook.is_none()
        {
            return invalid("nothing to change: give enabled, threshold, holdS, atLeast, severity or runbook");
        }
        Ok(())
    }
}

/// Change a rule, for all subjects or some. The way back is its removal: what is compiled in holds again.
#[utoipa::path(put, path = "/alerts/rules/{rule}", tag = "alerts", security(("operator" = [])), params(("rule" = String, Path)),
    request_body = RuleChange, responses((status = 200, body = Success<RuleStory>), (status = 400, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
async fn set(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    body: Result<Json<RuleChange>, JsonRejection>,
) -> ApiResult<RuleStory> {
    let (rule, Json(change)) = (named(&name)?, body?);
    change.check(rule)?;
    let details = serde_json::to_value(&change).unwrap_or(Value::Null);
    let act = async {
        let row = AlertRuleRow {
            rule: rule.name.to_owned(),
            subject: change.subject,
            enabled: change.enabled,
            threshold: change.threshold,
            hold_s: change.hold_s,
            at_least: change.at_least,
            severity: change.severity,
            runbook: change.runbook,
        };
        state.store.set_alert_rule(&row, &actor.0).await?;
        Ok::<_, ApiError>(rule_story(&state, rule, &state.store.alert_rules().await?))
    };
    audited(&state, &actor, "alert.rule.set", rule.name, details, act).await
}

/// For which subject.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    #[serde(default)]
    subject: String,
}

/// Undo what was changed about a rule, for one scope.
#[utoipa::path(delete, path = "/alerts/rules/{rule}", tag = "alerts", security(("operator" = [])),
    params(("rule" = String, Path), ("subject" = Option<String>, Query, description = "as it was set; absent: for all subjects")),
    responses((status = 200, body = Success<RuleStory>), (status = 404, body = ErrorBody)))]
async fn reset(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    scope: Result<Query<Scope>, QueryRejection>,
) -> ApiResult<RuleStory> {
    let (rule, Query(Scope { subject })) = (named(&name)?, scope?);
    let act = async {
        state.store.reset_alert_rule(rule.name, &subject).await?;
        Ok::<_, ApiError>(rule_story(&state, rule, &state.store.alert_rules().await?))
    };
    audited(&state, &actor, "alert.rule.reset", rule.name, json!({ "subject": subject }), act).await
}

/// Silences that are in force.
#[utoipa::path(get, path = "/alerts/silences", tag = "alerts", security(("operator" = [])),
    responses((status = 200, body = Success<Vec<Object>>)))]
async fn silences(State(state): State<AppState>) -> ApiResult<Vec<SilenceRow>> {
    ok(state.store.alert_silences().await?)
}

/// What to be quiet about.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Silence {
    /// A rule, or `all`.
    rule: String,
    /// This subject only, or those that begin so when it ends in `*`; all when absent.
    #[serde(default)]
    subject: String,
    /// For so long.
    for_s: u64,
    /// For the next operator and the audit trail.
    reason: String,
}

/// Tell nobody for a while. Rules are evaluated and shown all the same; whoever was told of an alert before is told of its end.
#[utoipa::path(post, path = "/alerts/silences", tag = "alerts", security(("operator" = [])), request_body = Silence,
    responses((status = 200, body = Success<Object>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn silence(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Silence>, JsonRejection>,
) -> ApiResult<SilenceRow> {
    let Json(silence) = body?;
    if silence.rule != ALL {
        named(&silence.rule)?;
    }
    if !silence.subject.is_empty() {
        text("subject", &silence.subject)?;
    }
    text("reason", &silence.reason)?;
    let length = Duration::from_secs(silence.for_s);
    if length.is_zero() || length > MAX_SILENCE {
        return Err(ApiError::invalid(format!("forS: 1 to {} (30 days)", MAX_SILENCE.as_secs())));
    }
    let details = serde_json::to_value(&silence).unwrap_or(Value::Null);
    let act = state.store.silence_alert(&silence.rule, &silence.subject, length, &silence.reason, &actor.0);
    audited(&state, &actor, "alert.silence", &silence.rule, details, act).await
}

/// What was ended.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Ended {
    id: i64,
}

/// End a silence. What fires then, and nobody was told of, is told.
#[utoipa::path(delete, path = "/alerts/silences/{silence}", tag = "alerts", security(("operator" = [])), params(("silence" = i64, Path)),
    responses((status = 200, body = Success<Ended>), (status = 404, body = ErrorBody)))]
async fn unsilence(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> ApiResult<Ended> {
    let id: i64 = id.parse().map_err(|_| ApiError::invalid("silence: a number; see: patchbay alert silences"))?;
    let act = async {
        state.store.unsilence_alert(id).await?;
        Ok::<_, ApiError>(Ended { id })
    };
    audited(&state, &actor, "alert.unsilence", &id.to_string(), json!({}), act).await
}

/// What to look back on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Back {
    rule: Option<String>,
    limit: Option<i64>,
}

/// What fired and recovered, the newest first; kept for 90 days.
#[utoipa::path(get, path = "/alerts/history", tag = "alerts", security(("operator" = [])),
    params(("rule" = Option<String>, Query), ("limit" = Option<i64>, Query, description = "1 to 1000; 100 when absent")),
    responses((status = 200, body = Success<Vec<Object>>), (status = 404, body = ErrorBody)))]
async fn history(
    State(state): State<AppState>,
    back: Result<Query<Back>, QueryRejection>,
) -> ApiResult<Vec<AlertEventRow>> {
    let Query(Back { rule, limit }) = back?;
    let rule = rule.as_deref().map(named).transpose()?;
    let limit = limit.unwrap_or(100);
    if !(1..=MAX_EVENTS).contains(&limit) {
        return Err(ApiError::invalid(format!("limit: 1 to {MAX_EVENTS}")));
    }
    ok(state.store.alert_events(rule.map(|rule| rule.name), limit).await?)
}

/// Send a test message over every channel of this host now, and say how each fared. Empty where none is configured.
#[utoipa::path(post, path = "/alerts/test", tag = "alerts", security(("operator" = [])),
    responses((status = 200, body = Success<Vec<Tested>>)))]
async fn test(State(state): State<AppState>, Extension(actor): Extension<Actor>) -> ApiResult<Vec<Tested>> {
    let act = async { Ok::<_, ApiError>(state.alerts.test(&actor.0).await) };
    audited(&state, &actor, "alert.test", "all", json!({}), act).await
}
