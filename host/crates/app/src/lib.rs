//! The use cases of a host by domain, and what runs in its background.

pub mod actions;
pub mod alerts;
pub mod audit;
pub mod breakers;
pub mod bulk;
pub mod dead_letters;
mod enqueue_span;
pub mod error;
pub mod exposition;
pub mod flows;
pub mod health;
pub mod history;
pub mod history_filter;
pub mod incident;
pub mod jobs;
pub mod outbox;
pub mod plugin_administration;
pub mod plugins;
pub mod queues;
pub mod redacted;
pub mod resume;
mod reveal;
pub mod revision_diff;
pub mod schedules;
pub mod scheduling;
pub mod searches;
pub mod secrets;
pub mod snapshot;
pub mod vault;

pub use actions::Caller;
pub use error::Error;

use std::sync::Arc;

use patchbay_queue::Broker;
use patchbay_store::{PluginSql, Store};
use patchbay_telemetry::traces::Traces;

#[derive(Clone)]
pub struct App {
    pub queues: queues::Queues,
    pub schedules: schedules::Schedules,
    pub alerts: alerts::Alerts,
    pub secrets: secrets::Secrets,
    pub audit: audit::Audit,
    pub breakers: breakers::Breakers,
    pub plugins: plugin_administration::PluginAdministration,
    pub incident: incident::Incident,
    pub health: health::HealthCheck,
    pub jobs: jobs::Jobs,
    pub flows: flows::Flows,
    pub dead_letters: dead_letters::DeadLetters,
    pub bulk: bulk::BulkOperations,
    pub history: history::History,
    pub searches: searches::Searches,
}

/// What use cases are made of.
pub struct Parts {
    pub broker: Broker,
    pub store: Store,
    pub sql: PluginSql,
    pub plugins: Arc<plugins::Plugins>,
    pub outside: Arc<breakers::OutsideHosts>,
    pub health: Arc<health::Health>,
    pub schedules: Arc<scheduling::Reconciler>,
    pub alerts: Arc<alerts::AlertWatch>,
    pub vault: Arc<vault::Vault>,
    pub traces: Traces,
    pub exposition: Arc<exposition::Exposition>,
    pub incident: Arc<incident::Sources>,
    /// The value that was `NODE_ENV` before. The health check shows it.
    pub environment: Arc<str>,
    pub actions: actions::Actions,
    pub bulks: Arc<bulk::BulkJobs>,
    pub history: Arc<history::HistoryParts>,
    /// Whether BullMQ 5 works on the same queues. With it, some operations lose jobs.
    pub node_may_be_bullmq_5: bool,
}

impl App {
    pub fn new(parts: &Parts) -> Self {
        Self {
            queues: queues::Queues::new(parts),
            schedules: schedules::Schedules::new(parts),
            alerts: alerts::Alerts::new(parts),
            secrets: secrets::Secrets::new(parts),
            audit: audit::Audit::new(parts),
            breakers: breakers::Breakers::new(parts),
            plugins: plugin_administration::PluginAdministration::new(parts),
            incident: incident::Incident::new(parts),
            health: health::HealthCheck::new(parts),
            jobs: jobs::Jobs::new(parts),
            flows: flows::Flows::new(parts),
            dead_letters: dead_letters::DeadLetters::new(parts),
            bulk: bulk::BulkOperations::new(parts),
            history: history::History::new(parts),
            searches: searches::Searches::new(parts),
        }
    }
}
