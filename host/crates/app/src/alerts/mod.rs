//! Alerts: sends one message when something is wrong, and one when it is right again.
//!
//! One process of the fleet, the leader, evaluates the rules (`lead`). Any process delivers.
//! Alerts, silences and undelivered messages are rows of Postgres, so killing or replacing the
//! leader neither repeats nor loses anything. While Postgres is away, the last leader goes on with
//! its state in memory and sends messages directly.
//!
//! | Module | Owns |
//! |---|---|
//! | `rule` | the rules with the changes of operators; silences |
//! | `state` | the life of one alert |
//! | `observe` | observing processes, Redis and Postgres |
//! | `logins` | what is observed of logins |
//! | `operators` | what is observed of operators: new owners, the shared login, tokens that expire |
//! | `evaluate` | turning observations into changes of alerts |
//! | `lead` | the rounds of the leader, and the ping |
//! | `recheck` | the causes of alerts at the time when they are shown |
//! | `channel`, `deliver` | sending messages, with retries |
//! | `administration` | use cases of alerts |

mod administration;
mod channel;
mod deliver;
mod evaluate;
mod inbox;
mod lead;
mod logins;
mod observation;
mod observe;
mod operators;
mod recheck;
mod reports;
pub mod rule;
mod state;
mod threshold;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use chrono::Utc;
use parking_lot::Mutex;
use patchbay_api::alerts::ChannelTest;
use patchbay_model::audit_chain::Anchor;
use patchbay_store::{AlertChange, StoreError};
use reqwest::Url;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::administration::Alerts;
pub use self::channel::ChannelConfig;
use self::deliver::Deliveries;
use self::evaluate::{AlertState, Round, evaluate, recovery, time};
use self::observation::{Coverage, Observation, RuleObservations};
pub use self::observe::Sources;
use self::reports::HostReport;
use crate::Parts;
use crate::leader::Led;
use crate::people::Emergency;
use crate::plugins::{Begun, way_out};
use crate::service::{Service, task};

/// Limit of one query of Postgres.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub struct AlertConfig {
    pub channels: ChannelConfig,
    /// The URL that is requested every minute while rules are evaluated.
    pub ping: Option<Url>,
    /// Time between two rounds.
    pub every: Duration,
    /// Time until a firing alert is announced again.
    pub repeat: Duration,
    /// The base URL of runbooks. The rule's name follows as fragment.
    pub runbooks: String,
    /// The name of the installation in messages.
    pub environment: String,
}

/// Evaluates the rules and delivers the messages.
pub struct AlertWatch {
    sources: Sources,
    deliveries: Arc<Deliveries>,
    /// Quarantines that this process has begun.
    begun: tokio::sync::Mutex<mpsc::UnboundedReceiver<Begun>>,
    /// Uses of the emergency login in this process.
    emergencies: tokio::sync::Mutex<mpsc::UnboundedReceiver<Emergency>>,
    /// The ping URL, with its client.
    ping: Option<(reqwest::Client, Url)>,
    every: Duration,
    repeat: Duration,
    runbooks: String,
    environment: String,
    /// Firing alerts by rule and severity, as of this process's last round.
    firing: Mutex<BTreeMap<(String, String), u64>>,
}

impl AlertWatch {
    /// Starts nothing; see [`evaluation`], [`delivery`], [`quarantines`] and [`emergency_logins`].
    pub fn new(
        config: AlertConfig,
        sources: Sources,
        begun: mpsc::UnboundedReceiver<Begun>,
        emergencies: mpsc::UnboundedReceiver<Emergency>,
    ) -> anyhow::Result<Arc<Self>> {
        let channels = channel::channels(config.channels).context("alerts")?;
        let ping = config
            .ping
            .map(|url| anyhow::Ok((channel::http_client(&url)?, url)));
        let ping = ping.transpose().context("alerts")?;
        Ok(Arc::new(Self {
            deliveries: Arc::new(Deliveries::new(sources.store.clone(), channels)),
            sources,
            begun: tokio::sync::Mutex::new(begun),
            emergencies: tokio::sync::Mutex::new(emergencies),
            ping,
            every: config.every,
            repeat: config.repeat,
            runbooks: config.runbooks,
            environment: config.environment,
            firing: Mutex::default(),
        }))
    }

    async fn quarantined(
        &self,
        Begun {
            crash_loop,
            consequence,
        }: &Begun,
    ) {
        let plugin = &crash_loop.plugin;
        // While Postgres is away, nobody can roll back either.
        let earlier = self.sources.store.rollback_target(plugin).await;
        let next = way_out(plugin.as_str(), earlier.ok().flatten().as_ref());
        let mut observation = observe::quarantined(plugin.as_str(), &crash_loop.reason, next);
        observation.details = observation::details([
            ("plugin", json!(plugin)),
            ("revision", json!(crash_loop.digest)),
            ("host", json!(self.host())),
            ("consequence", json!(consequence)),
        ]);
        self.raise("plugin-quarantined", observation).await;
    }

    async fn emergency_login(&self, seen: &Emergency) {
        self.raise("master-login", logins::emergency(seen)).await;
    }

    /// Sends the newest batch of each audit trail over the webhook, with retries, so that whoever
    /// receives alerts can prove that a database was cut. Does nothing without a webhook.
    pub(crate) async fn post_anchors(&self, heads: &[Anchor]) -> Result<(), StoreError> {
        const CHANNEL: &str = "webhook";
        if heads.is_empty() || !self.channel_names().iter().any(|name| name == CHANNEL) {
            return Ok(());
        }
        let body = json!({
            "alert": "audit-anchors", "event": "daily", "subject": "audit trails", "severity": "info", "host": self.host(),
            "environment": self.environment, "at": time(Utc::now()), "anchors": heads,
            "reason": "The newest batch of each audit trail; keep it outside of the database",
            "next": "nothing to do; to compare: patchbay audit verify --anchors FILE",
        });
        let store = &self.sources.store;
        answered(store.enqueue_delivery("audit-anchors", "audit trails", CHANNEL, &body)).await?;
        self.deliveries.wake();
        Ok(())
    }

    async fn raise(&self, rule: &'static str, observation: Observation) {
        let seen = [RuleObservations {
            rule,
            observations: vec![observation],
            in_order: BTreeSet::new(),
            covers: Coverage::Nothing,
        }];
        let stored = async {
            let (known, _) = answered(self.known()).await?;
            let changes = evaluate(&known, &seen, &self.round(Duration::ZERO));
            answered(self.sources.store.save_alerts(&changes)).await?;
            Ok::<_, StoreError>(changes)
        };
        match stored.await {
            Ok(changes) => self.log(&changes),
            Err(error) => {
                warn!(%error, rule, "an alert could not be stored; it is delivered all the same");
                let known = AlertState {
                    channels: self.channel_names().into_iter().collect(),
                    ..AlertState::default()
                };
                let changes = evaluate(&known, &seen, &self.round(Duration::ZERO));
                self.log(&changes);
                self.tell_directly(&changes);
            }
        }
        self.deliveries.wake();
    }

    /// Sends a test message over every channel now, and waits for the answers.
    pub async fn test(&self, actor: &str) -> Vec<ChannelTest> {
        let now = time(Utc::now());
        let body = json!({
            "alert": "test", "event": "test", "severity": "warning", "subject": self.host(), "host": self.host(),
            "environment": self.environment, "reason": format!("Test message, sent by {actor}"),
            "next": "nothing to do: this is a test", "since": now, "at": now,
        });
        let timed = async |channel: &str, sent: &mut (dyn Future<Output = Result<(), String>> + Send + Unpin)| {
            let started = Instant::now();
            let error = sent.await.err();
            let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            ChannelTest { channel: channel.to_owned(), delivered: error.is_none(), error, ms }
        };
        let channels = self.deliveries.channels.iter().map(|channel| {
            let body = &body;
            async move { timed(channel.name, &mut Box::pin(channel.send(body))).await }
        });
        let ping = async {
            let (http, url) = self.ping.clone()?;
            Some(timed("ping", &mut Box::pin(channel::ask(http.get(url)))).await)
        };
        let (mut tested, ping) = tokio::join!(futures::future::join_all(channels), ping);
        tested.extend(ping);
        tested
    }

    /// Counts firing alerts by rule and severity, as of this process's last round.
    pub fn firing(&self) -> BTreeMap<(String, String), u64> {
        self.firing.lock().clone()
    }

    /// Counts what this process has delivered since its start, by channel and result.
    pub fn deliveries(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.deliveries.counts()
    }

    /// The default runbook of a rule, used unless an operator has set another.
    pub fn runbook(&self, rule: &str) -> String {
        format!("{}#{rule}", self.runbooks)
    }

    /// BullMQ's key prefix.
    fn prefix(&self) -> &str {
        self.sources.queues.prefix()
    }

    fn host(&self) -> &str {
        self.sources.plugins.host()
    }

    fn round(&self, passed: Duration) -> Round<'_> {
        Round {
            host: self.host(),
            environment: &self.environment,
            runbooks: &self.runbooks,
            now: Utc::now(),
            passed,
            every: self.every,
            repeat: self.repeat,
        }
    }

    fn channel_names(&self) -> Vec<String> {
        self.deliveries
            .channels
            .iter()
            .map(|channel| channel.name.to_owned())
            .collect()
    }

    /// Reads the state from Postgres, with the report of each process.
    async fn known(&self) -> Result<(AlertState, Vec<(String, HostReport)>), StoreError> {
        let store = &self.sources.store;
        let (rules, silences) = (store.alert_rules().await?, store.alert_silences().await?);
        let alerts = store.alerts().await?.into_iter();
        let alerts = alerts
            .map(|row| ((row.rule.clone(), row.subject.clone()), row))
            .collect();
        let lately = (self.every * 3).max(Duration::from_secs(30));
        let sightings = store.sightings(lately).await?.into_iter();
        let sightings: Vec<(String, HostReport)> = sightings
            .map(|(host, seen)| (host, serde_json::from_value(seen).unwrap_or_default()))
            .collect();
        let channels = sightings
            .iter()
            .flat_map(|(_, seen)| seen.channels.clone())
            .chain(self.channel_names());
        let channels = channels.collect();
        Ok((
            AlertState {
                rules,
                silences,
                alerts,
                channels,
            },
            sightings,
        ))
    }

    fn note_firing(&self, known: &AlertState) {
        let mut firing = BTreeMap::new();
        for row in known.alerts.values().filter(|row| row.firing) {
            *firing
                .entry((row.rule.clone(), row.severity.clone()))
                .or_default() += 1;
        }
        *self.firing.lock() = firing;
    }

    /// Writes one log line for each event, with stable fields.
    fn log(&self, changes: &[AlertChange]) {
        for event in changes.iter().filter_map(|change| change.event.as_ref()) {
            let (alert, subject, reason) = (&event.rule, &event.subject, &event.reason);
            if event.event == "recovered" {
                let lasted_ms = event.lasted_ms.unwrap_or(0);
                let length = Duration::from_millis(lasted_ms.unsigned_abs());
                let reason = recovery(subject, length, reason);
                info!(
                    alert,
                    subject,
                    reason,
                    lasted_ms,
                    silenced = event.silenced,
                    "alert recovered"
                );
            } else {
                let (event, severity) = (&event.event, &event.severity);
                error!(alert, event, severity, subject, reason, "alert");
            }
        }
    }

    fn tell_directly(&self, changes: &[AlertChange]) {
        for change in changes {
            if let Some((body, _)) = &change.tell {
                self.deliveries
                    .remember(&change.rule, &change.subject, body);
            }
        }
    }
}

/// Evaluates the alert rules: those of this process always, those of the fleet as the leader.
pub fn evaluation(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(Led::new(
        parts.store.clone(),
        lead::Rounds::new(Arc::clone(&parts.alerts)),
    ))
}

/// Delivers alerts, and retries until they are delivered.
pub fn delivery(parts: &Parts) -> Arc<dyn Service> {
    let alerts = Arc::clone(&parts.alerts);
    task("alert-delivery", move |stop| {
        Arc::clone(&alerts.deliveries).run(alerts.every, stop)
    })
}

/// Announces quarantines at once, without waiting for the next round. It is listed before the
/// service that begins quarantines, so that the last one is announced, too.
pub fn quarantines(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(QuarantineAlerts(Arc::clone(&parts.alerts)))
}

struct QuarantineAlerts(Arc<AlertWatch>);

#[async_trait]
impl Service for QuarantineAlerts {
    fn name(&self) -> &'static str {
        "quarantine-alerts"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut quarantines = self.0.begun.lock().await;
        while let Some(Some(begun)) = stop.run_until_cancelled(quarantines.recv()).await {
            let alerts = Arc::clone(&self.0);
            // They do not wait for each other.
            tokio::spawn(async move { alerts.quarantined(&begun).await });
        }
        Ok(())
    }

    async fn finish(&self) -> anyhow::Result<()> {
        let mut quarantines = self.0.begun.lock().await;
        while let Ok(begun) = quarantines.try_recv() {
            self.0.quarantined(&begun).await;
        }
        Ok(())
    }
}

/// Announces each use of the emergency login at once. `None` on a host without accounts.
pub fn emergency_logins(parts: &Parts) -> Option<Arc<dyn Service>> {
    parts.people.as_ref()?;
    Some(Arc::new(EmergencyAlerts(Arc::clone(&parts.alerts))))
}

struct EmergencyAlerts(Arc<AlertWatch>);

#[async_trait]
impl Service for EmergencyAlerts {
    fn name(&self) -> &'static str {
        "emergency-login-alerts"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut emergencies = self.0.emergencies.lock().await;
        while let Some(Some(seen)) = stop.run_until_cancelled(emergencies.recv()).await {
            self.0.emergency_login(&seen).await;
        }
        Ok(())
    }

    async fn finish(&self) -> anyhow::Result<()> {
        let mut emergencies = self.0.emergencies.lock().await;
        while let Ok(seen) = emergencies.try_recv() {
            self.0.emergency_login(&seen).await;
        }
        Ok(())
    }
}

/// Limits a query to [`ANSWER_WITHIN`]: a connection that died without notice would block for
/// minutes.
async fn answered<T>(
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(ANSWER_WITHIN, question)
        .await
        .unwrap_or_else(|_| Err(StoreError::no_answer()))
}
