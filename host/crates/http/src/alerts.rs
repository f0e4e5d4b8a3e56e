//! Routes of alerts, rules and silences.

use patchbay_api::alerts::{
    AlertEvent, AlertOverview, AlertRule, AlertRulesList, AlertRulesReset, AlertRulesSet,
    AlertSilencesList, AlertsHistory, AlertsList, AlertsSilence, AlertsTest, AlertsUnsilence,
    ChannelTest, EndedSilence, Silence,
};
use patchbay_api::answer::Page;
use patchbay_api::body::Json;
use patchbay_app::alerts::Alerts;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(list)
        .add(rules)
        .add(set_rule)
        .add(reset_rule)
        .add(silences)
        .add(silence)
        .add(unsilence)
        .add(history)
        .add(test)
}

async fn list(alerts: Alerts, _: Caller, _: Ask<AlertsList>) -> Result<AlertOverview, Error> {
    alerts.list().await
}

async fn rules(alerts: Alerts, _: Caller, _: Ask<AlertRulesList>) -> Result<Vec<AlertRule>, Error> {
    alerts.rules().await
}

async fn set_rule(
    alerts: Alerts,
    who: Caller,
    ask: Ask<AlertRulesSet>,
) -> Result<AlertRule, Error> {
    let Json(change) = ask.body;
    alerts.set_rule(&who, &ask.path.rule, change).await
}

async fn reset_rule(
    alerts: Alerts,
    who: Caller,
    ask: Ask<AlertRulesReset>,
) -> Result<AlertRule, Error> {
    alerts
        .reset_rule(&who, &ask.path.rule, &ask.query.subject)
        .await
}

async fn silences(
    alerts: Alerts,
    _: Caller,
    _: Ask<AlertSilencesList>,
) -> Result<Vec<Silence>, Error> {
    alerts.silences().await
}

async fn silence(alerts: Alerts, who: Caller, ask: Ask<AlertsSilence>) -> Result<Silence, Error> {
    let Json(new) = ask.body;
    alerts.silence(&who, new).await
}

async fn unsilence(
    alerts: Alerts,
    who: Caller,
    ask: Ask<AlertsUnsilence>,
) -> Result<EndedSilence, Error> {
    alerts.unsilence(&who, &ask.path.silence).await
}

async fn history(
    alerts: Alerts,
    _: Caller,
    ask: Ask<AlertsHistory>,
) -> Result<Page<AlertEvent>, Error> {
    alerts.history(&ask.query).await
}

async fn test(alerts: Alerts, who: Caller, _: Ask<AlertsTest>) -> Result<Vec<ChannelTest>, Error> {
    alerts.test(&who).await
}
