//! Collects the files of an incident bundle. A file that cannot be had in time is listed with the
//! reason.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::future::{BoxFuture, join_all};
use patchbay_api::incident::IncidentBundle;
use patchbay_api::operation::Endpoint;
use patchbay_model::QueueName;
use patchbay_model::redaction::REDACTED;
use patchbay_queue::Broker;
use patchbay_store::{HostRow, NewAction, RevisionRow, Store};
use patchbay_telemetry::{RecentLines, redact_foreign, redact_own};
use serde::Serialize;
use serde_json::{Value, json};

use super::{BundleFile, Title, archive};
use crate::actions::Caller;
use crate::breakers::OutsideHosts;
use crate::exposition::Exposition;
use crate::health::Health;
use crate::plugins::Plugins;
use crate::queues::Queues;
use crate::schedules::Schedules;
use crate::{Error, Parts};

/// Limit for one file: Postgres and Redis may hang, and the other files must still come.
const FILE_LIMIT: Duration = Duration::from_secs(5);
const DEFAULT_SINCE_S: u64 = 3_600;
const MAX_SINCE_S: u64 = 30 * 24 * 3_600;
/// Most failures, and most actions.
const MAX_ROWS: i64 = 500;
/// In place of the log.
const LOG_LEFT_OUT: &str =
    "Left out: lines of plugins may quote data of jobs, which whoever asked may not see.\n";
/// Most queues that are diagnosed.
const MAX_QUEUES: usize = 200;

/// What a bundle needs besides the state of the host.
pub struct Sources {
    /// Every key that is set, with its source. Secrets appear as `(set)`.
    pub configuration: Value,
    /// Asks `patchbay doctor` for its findings, as JSON.
    pub findings: Box<dyn Fn() -> BoxFuture<'static, Value> + Send + Sync>,
    pub lines: RecentLines,
}

pub struct Packed {
    pub name: String,
    /// The `.tar.gz`.
    pub content: Vec<u8>,
}

#[derive(Clone)]
pub struct Incident {
    store: Store,
    broker: Broker,
    plugins: Arc<Plugins>,
    outside: Arc<OutsideHosts>,
    health: Arc<Health>,
    exposition: Arc<Exposition>,
    sources: Arc<Sources>,
    queues: Queues,
    schedules: Schedules,
}

impl Incident {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            broker: parts.broker.clone(),
            plugins: Arc::clone(&parts.plugins),
            outside: Arc::clone(&parts.outside),
            health: Arc::clone(&parts.health),
            exposition: Arc::clone(&parts.exposition),
            sources: Arc::clone(&parts.incident),
            queues: Queues::new(parts),
            schedules: Schedules::new(parts),
        }
    }

    /// Collects and packs everything that helps to understand an incident.
    pub async fn bundle(&self, who: &Caller, since_s: Option<u64>) -> Result<Packed, Error> {
        let since_s = since_s.unwrap_or(DEFAULT_SINCE_S);
        if !(1..=MAX_SINCE_S).contains(&since_s) {
            return Err(Error::invalid(format!(
                "since_s: must be from 1 to {MAX_SINCE_S} seconds"
            )));
        }
        let recorded = self.record(who, since_s).await;
        let mut files = self
            .collect(Duration::from_secs(since_s), who.operator.may_see_data)
            .await;
        files.push(BundleFile::json(
            "audited.json",
            "whether this bundle was recorded as an action of an operator",
            recorded,
        ));
        let title = Title {
            by: format!("host {}", self.plugins.host()),
            at: Utc::now(),
            since: format!("{since_s} s"),
        };
        let name = format!(
            "patchbay-incident-{}.tar.gz",
            title.at.format("%Y%m%dT%H%M%SZ")
        );
        let packed = tokio::task::spawn_blocking(move || archive(&title, &files)).await;
        let content = packed
            .map_err(|_| Error::internal())?
            .map_err(|_| Error::internal())?;
        Ok(Packed { name, content })
    }

    /// Records the action where that is possible. A bundle must work without Postgres: then it is
    /// needed most.
    async fn record(&self, who: &Caller, since_s: u64) -> Result<Value, String> {
        let action = const {
            IncidentBundle::OPERATION
                .audit
                .expect("a bundle is recorded")
        };
        let details = json!({ "sinceS": since_s });
        let noted = within(async {
            let id = self
                .store
                .begin_action(&NewAction {
                    actor: &who.actor,
                    is_host: false,
                    action,
                    target: "host",
                    details: &who.noted(details),
                })
                .await?;
            self.store.finish_action(id, &Ok(Value::Null)).await
        });
        match noted.await {
            Ok(()) => Ok(json!({ "action": action, "actor": who.actor })),
            Err(reason) => {
                tracing::warn!(
                    actor = who.actor,
                    reason,
                    "an incident bundle was made, but the action could not be recorded"
                );
                Err(reason)
            }
        }
    }

    async fn collect(&self, since: Duration, shows_data: bool) -> Vec<BundleFile> {
        let Sources {
            configuration,
            findings,
            lines,
        } = &*self.sources;
        let metrics = async { self.exposition.text().await.map_err(|_| Error::internal()) };
        let (versions, health, metrics, queues, plugins, actions, failures, schedules, doctor) = tokio::join!(
            self.versions(),
            self.health(),
            within(metrics),
            self.queues(),
            self.plugins(),
            json(self.actions(since)),
            json(self.failures(since, shows_data)),
            json(self.schedules()),
            tokio::time::timeout(2 * FILE_LIMIT, findings()),
        );
        let doctor = doctor.map_err(|_| "no answer in time".to_owned());
        let outside = self.outside.list();
        let log = if shows_data {
            lines.text().into_bytes()
        } else {
            LOG_LEFT_OUT.as_bytes().to_vec()
        };
        vec![
            BundleFile::json(
                "versions.json",
                "this host, the others, and what they run",
                versions,
            ),
            BundleFile::json(
                "config.json",
                "every key that is set, secrets as (set)",
                Ok(scrubbed(configuration.clone())),
            ),
            BundleFile::json(
                "health.json",
                "whether Postgres and Redis answer, and why the host is not ready",
                Ok(health),
            ),
            BundleFile {
                name: "metrics.txt",
                about: "the page that Prometheus reads",
                content: metrics.map(String::into_bytes),
            },
            BundleFile::json(
                "queues.json",
                "counts, ages, limits, and why each queue does not move",
                queues,
            ),
            BundleFile::json(
                "plugins.json",
                "revisions and their states, quarantines",
                plugins,
            ),
            BundleFile::json(
                "actions.json",
                "what operators did, without details",
                actions,
            ),
            BundleFile::json(
                "failures.json",
                "attempts that did not complete, without their jobs",
                failures,
            ),
            BundleFile::json("schedules.json", "schedules, without their data", schedules),
            BundleFile::json(
                "breakers.json",
                "outside hosts and their breakers, of this host",
                serde_json::to_value(outside)
                    .map(scrubbed)
                    .map_err(|error| error.to_string()),
            ),
            BundleFile::json(
                "doctor.json",
                "what `patchbay doctor` finds, asked by this host",
                doctor.map(scrubbed),
            ),
            BundleFile {
                name: "log.jsonl",
                about: "the last lines of this host's log, info and above",
                content: Ok(log),
            },
        ]
    }

    async fn versions(&self) -> Result<Value, String> {
        let hosts = within(self.store.hosts()).await.map(|rows| {
            let row = |row: HostRow| {
                let silent_s = row.silent_for.map(|silent| silent.as_secs());
                json!({ "host": row.host, "version": row.version, "plugins": scrubbed(json!(row.plugins)), "silentS": silent_s })
            };
            rows.into_iter().map(row).collect::<Vec<_>>()
        });
        let version = env!("CARGO_PKG_VERSION");
        let (hosts, unknown) = (hosts.clone().ok(), hosts.err());
        Ok(
            json!({ "host": self.plugins.host(), "version": version, "hosts": hosts, "hostsUnknown": unknown }),
        )
    }

    async fn health(&self) -> Value {
        let (probe, not_ready) = tokio::join!(self.health.probe(), self.health.not_ready());
        let ms = |trip: Option<Duration>| trip.map(|trip| trip.as_secs_f64() * 1e3);
        json!({
            "uptimeS": self.health.uptime().as_secs(),
            "postgresMs": ms(probe.database),
            "postgresPoolWaitMs": ms(probe.pool_wait),
            "postgresWritable": probe.database.map(|_| probe.read_only.is_none()),
            "redisMs": ms(probe.redis),
            "clockSkewMs": probe.skew_ms,
            "notReady": not_ready.iter().map(|reason| reason.code).collect::<Vec<_>>(),
            "notReadyBecause": not_ready,
        })
    }

    async fn queues(&self) -> Result<Value, String> {
        // The queues that Postgres and a scan of Redis know, or those of running plugins when these
        // do not answer.
        let names = within(self.queues.catalog().names()).await;
        let names: Vec<QueueName> = names.map_or_else(
            |_| self.plugins.queues(),
            |names| names.into_iter().collect(),
        );
        let overviews = within(self.broker.overview(&names)).await?;
        let diagnosed = overviews
            .into_iter()
            .enumerate()
            .map(async |(place, overview)| {
                let asked = place < MAX_QUEUES;
                let why = if asked {
                    json(self.queues.reasons(&overview.name)).await
                } else {
                    Ok(Value::Null)
                };
                let (why, unknown) = (why.clone().ok(), why.err());
                json!({ "queue": overview, "why": why.map(scrubbed), "whyUnknown": unknown })
            });
        Ok(join_all(diagnosed).await.into())
    }

    async fn plugins(&self) -> Result<Value, String> {
        let rows = within(self.store.revisions(None)).await?;
        let row = |row: RevisionRow| {
            json!({
                "plugin": row.plugin,
                "digest": row.digest,
                "version": row.version,
                "state": row.state,
                "isCurrent": row.is_current,
                "runsHere": self.plugins.running(&row.plugin) == Some(row.digest),
                "failureHere": self.plugins.failure(&row.plugin).map(|reason| redact_own(&reason)),
                "quarantine": self.plugins.quarantined(&row.plugin).map(|quarantined| redact_own(&quarantined.reason)),
                "pushedAt": row.created_at,
                "pushedBy": row.created_by,
                "activatedAt": row.activated_at,
            })
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn actions(&self, since: Duration) -> Result<Value, Error> {
        let mut rows = self.store.recent_actions(since, MAX_ROWS).await?;
        for row in &mut rows {
            // The target is one job: keep the queue, and remove the job's id.
            let names_jobs = ["job.", "history."]
                .iter()
                .any(|kind| row.action.starts_with(kind));
            if let Some((queue, _)) = row.target.split_once('/').filter(|_| names_jobs) {
                row.target = queue.to_owned();
            }
            row.error = row.error.take().map(|error| redact_foreign(&error));
        }
        Ok(scrubbed(serde_json::to_value(rows).unwrap_or_default()))
    }

    async fn failures(&self, since: Duration, shows_data: bool) -> Result<Value, Error> {
        let mut rows = self
            .store
            .recent_failures(self.broker.prefix(), since, MAX_ROWS)
            .await?;
        for row in &mut rows {
            row.message = row.message.take().map(|message| match shows_data {
                true => redact_foreign(&message),
                false => REDACTED.to_owned(),
            });
            row.code = row.code.take().map(|code| redact_foreign(&code));
        }
        Ok(serde_json::to_value(rows).unwrap_or_default())
    }

    async fn schedules(&self) -> Result<Value, Error> {
        let mut shown = serde_json::to_value(self.schedules.list().await?).unwrap_or_default();
        for schedule in shown
            .as_array_mut()
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            schedule.remove("data");
        }
        Ok(scrubbed(shown))
    }
}

async fn within<T, E: Into<Error>>(part: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(FILE_LIMIT, part).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into().message),
        Err(_) => Err(format!("no answer within {} s", FILE_LIMIT.as_secs())),
    }
}

async fn json<T: Serialize, E: Into<Error>>(
    part: impl Future<Output = Result<T, E>>,
) -> Result<Value, String> {
    serde_json::to_value(within(part).await?).map_err(|error| error.to_string())
}

/// Applies [`redact_own`] to every text of a document.
fn scrubbed(value: Value) -> Value {
    match value {
        Value::String(text) => redact_own(&text).into(),
        Value::Array(items) => items.into_iter().map(scrubbed).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, scrubbed(value)))
            .collect(),
        other => other,
    }
}
