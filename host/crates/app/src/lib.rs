//! The use cases of a host by domain, and what runs in its background.

pub mod actions;
pub mod activity;
pub mod alerts;
mod answer_steps;
pub mod audit;
pub mod breakers;
pub mod bulk;
mod csv_cell;
pub mod dead_letters;
mod declared_jobs;
mod enqueue_span;
pub mod error;
pub mod exposition;
pub mod flows;
pub mod health;
pub mod history;
pub mod history_filter;
pub mod http_standing;
pub mod identity_changes;
pub mod inbox;
pub mod incident;
pub mod jobs;
mod leader;
pub mod limits;
mod local_rates;
mod login_meters;
mod nearest;
pub mod operator;
pub mod operators;
pub mod outbox;
pub mod people;
pub mod plugin_administration;
pub mod plugins;
pub mod queues;
pub mod quota;
pub mod redacted;
pub mod redis_keys;
mod remembered;
pub mod resume;
mod reveal;
pub mod revision_diff;
pub mod routes;
pub mod schedules;
pub mod scheduling;
pub mod sealed_keys;
pub mod searches;
pub mod secrets;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod trace_export;
pub mod vault;
pub mod vendor_keys;
pub mod workers;

pub use actions::Caller;
pub use error::Error;

use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::{GrantUses, Services};
use patchbay_model::signature::TrustedKeys;
use patchbay_queue::Broker;
use patchbay_runtime::Runtime;
use patchbay_store::{Keep, KeepAttempts, PluginSql, Store};
use patchbay_telemetry::DroppedLines;
use patchbay_telemetry::metrics::RequestMeters;
use patchbay_telemetry::traces::{Counts, Traces};
use patchbay_work::quarantine::Policy;
use patchbay_work::{Work, Workers};
use tokio_util::task::TaskTracker;

#[derive(Clone)]
pub struct App {
    pub queues: queues::Queues,
    pub schedules: schedules::Schedules,
    pub alerts: alerts::Alerts,
    pub secrets: secrets::Secrets,
    pub audit: audit::Audit,
    pub breakers: breakers::Breakers,
    pub plugins: plugin_administration::PluginAdministration,
    pub routes: routes::Routes,
    pub inbox: inbox::Inbox,
    pub incident: incident::Incident,
    pub health: health::HealthCheck,
    pub jobs: jobs::Jobs,
    pub flows: flows::Flows,
    pub dead_letters: dead_letters::DeadLetters,
    pub bulk: bulk::BulkOperations,
    pub history: history::History,
    pub searches: searches::Searches,
    pub activity: activity::ActivityLog,
    pub status: status::Status,
    pub redis_keys: redis_keys::RedisKeys,
    pub people: people::People,
    pub operators: operators::Operators,
    pub sso: operators::oidc::SingleSignOn,
    pub keys: people::Keys,
    pub vendor_keys: vendor_keys::VendorKeys,
}

/// What the application stands on.
pub struct Foundation {
    pub store: Store,
    pub sql: PluginSql,
    pub broker: Broker,
    pub runtime: Arc<Runtime>,
    pub outside: Arc<Services>,
    pub work: Work,
    pub vault: Arc<vault::Vault>,
    /// What plugins reach for their schedules.
    pub schedules: Arc<scheduling::Reconciler>,
    pub copy: snapshot::OfflineSnapshot,
    pub traces: Traces,
    pub spans: Arc<Counts>,
    pub dropped_lines: DroppedLines,
    pub incident: incident::Sources,
    /// This host goes on with what it last saw of Postgres.
    pub started_without_postgres: bool,
}

/// What operators configure of the application.
pub struct AppConfig {
    /// `NODE_ENV` of old, shown by the health check.
    pub environment: Arc<str>,
    pub alerts: alerts::AlertConfig,
    /// What becomes of a plugin that crashes too often.
    pub quarantine: Policy,
    /// Whose signatures let a plugin run.
    pub trusted: TrustedKeys,
    pub keep_revisions: Keep,
    pub keep_attempts: KeepAttempts,
    /// Between two looks at what other workers have ended; nothing when nobody is to look.
    pub mirror_every: Option<Duration>,
    /// Whether BullMQ 5 works on the same queues, with which some operations lose jobs.
    pub node_may_be_bullmq_5: bool,
    pub audit: audit::AuditConfig,
    /// Accounts of API clients; nothing when this host serves none.
    pub people: Option<people::PeopleConfig>,
    pub operators: operators::OperatorsConfig,
    /// Single sign-on of operators; nothing when it is off.
    pub oidc: Option<operators::oidc::OidcConfig>,
    /// What answers that are kept for repeats may take of Redis.
    pub kept_answers: routes::KeptBytes,
}

/// What use cases and services are made of.
pub struct Parts {
    pub broker: Broker,
    pub store: Store,
    pub sql: PluginSql,
    pub workers: Arc<Workers>,
    pub plugins: Arc<plugins::Plugins>,
    pub outside: Arc<breakers::OutsideHosts>,
    pub grant_uses: Arc<GrantUses>,
    pub health: Arc<health::Health>,
    pub services: Arc<service::ServiceStatus>,
    pub schedules: Arc<scheduling::Reconciler>,
    pub alerts: Arc<alerts::AlertWatch>,
    pub vault: Arc<vault::Vault>,
    pub traces: Traces,
    pub requests: Arc<RequestMeters>,
    pub route_meters: Arc<routes::RouteMeters>,
    pub(crate) kept_answers: routes::KeptBytes,
    pub exposition: Arc<exposition::Exposition>,
    pub incident: Arc<incident::Sources>,
    /// The value that was `NODE_ENV` before. The health check shows it.
    pub environment: Arc<str>,
    pub limits: limits::Limits,
    pub http: Arc<http_standing::HttpStanding>,
    pub actions: actions::Actions,
    /// What operators do just now, whether or not their clients still wait for it.
    pub operations: TaskTracker,
    pub(crate) people: Option<Arc<people::PeopleParts>>,
    pub(crate) operators: Arc<operators::OperatorParts>,
    pub(crate) sso: Option<Arc<operators::oidc::SsoParts>>,
    pub(crate) identity_changes: Arc<identity_changes::IdentityChanges>,
    pub(crate) vendors: Arc<vendor_keys::VendorParts>,
    pub bulks: Arc<bulk::BulkJobs>,
    pub(crate) inbox: Arc<inbox::InboxParts>,
    pub(crate) declared_jobs: Arc<declared_jobs::DeclaredJobs>,
    pub history: Arc<history::HistoryParts>,
    pub audit: Arc<audit::Ledger>,
    /// Whether BullMQ 5 works on the same queues. With it, some operations lose jobs.
    pub node_may_be_bullmq_5: bool,
    pub started_without_postgres: bool,
}

impl Parts {
    pub fn new(foundation: Foundation, config: AppConfig) -> anyhow::Result<Self> {
        let Foundation {
            store,
            sql,
            broker,
            runtime,
            work,
            vault,
            schedules,
            copy,
            traces,
            ..
        } = foundation;
        let services = Arc::<service::ServiceStatus>::default();
        let host = work.host.clone();
        let (begun, quarantines) = tokio::sync::mpsc::unbounded_channel();
        let plugins = Arc::new(plugins::Plugins::new(plugins::Parts {
            store: store.clone(),
            sql: sql.clone(),
            runtime: Arc::clone(&runtime),
            settings: work.settings,
            grants: work.grants,
            invoker: work.invoker,
            workers: Arc::clone(&work.workers),
            trusted: config.trusted,
            quarantine: Arc::clone(&work.quarantine),
            redactions: Arc::clone(&work.redactions),
            copy: copy.clone(),
            crash_loops: work.crash_loops,
            policy: config.quarantine,
            begun,
            keep: config.keep_revisions,
            traces: traces.clone(),
            host: work.host,
            has_master_key: !vault.keys().is_empty(),
            secrets: Arc::clone(&vault) as _,
        }));
        plugins.when_changed({
            let (schedules, meters) = (Arc::clone(&schedules), Arc::clone(&work.meters));
            move || {
                schedules.changed();
                meters.reconcile();
            }
        });
        let (breakers, mail) = (
            Arc::clone(&foundation.outside.breakers),
            foundation.outside.mail.server(),
        );
        let outside = Arc::new(breakers::OutsideHosts::new(
            Arc::clone(&runtime),
            breakers,
            mail,
        ));
        let health = health::Health::new(
            store.clone(),
            broker.clone(),
            Arc::clone(&plugins),
            Arc::clone(&services),
        );
        let health = Arc::new(health);
        let http = Arc::<http_standing::HttpStanding>::default();
        let limits = limits::Limits::new(&broker, vault.keys().limits(), plugins.local_rates());
        let logins = Arc::<login_meters::LoginMeters>::default();
        let (emergencies, emergency_logins) = tokio::sync::mpsc::unbounded_channel();
        let operations = TaskTracker::new();
        let actions = actions::Actions::new(store.clone(), operations.clone());
        let people = config.people.map(|config| {
            people::PeopleParts::new(
                config,
                store.clone(),
                broker.clone(),
                sealed_keys::SealedKeys::new(store.clone(), Arc::clone(&vault)),
                limits.clone(),
                actions.clone(),
                people::Noticed {
                    logins: Arc::clone(&logins),
                    emergencies,
                },
            )
        });
        let people = people.transpose()?.map(Arc::new);
        let vendors = vendor_keys::VendorParts::new(store.clone(), limits.clone());
        let vendors = Arc::new(vendors);
        let operators = Arc::new(operators::OperatorParts::new(
            config.operators,
            operators::Shared {
                store: &store,
                broker: &broker,
                sealed: sealed_keys::SealedKeys::new(store.clone(), Arc::clone(&vault)),
                limits: &limits,
                actions: &actions,
                meters: &logins,
                passwords: people.as_deref().map(people::PeopleParts::passwords),
            },
        ));
        let sso = config
            .oidc
            .map(|config| operators::oidc::SsoParts::new(config, &operators));
        let mut followers: Vec<Arc<dyn identity_changes::Follower>> =
            vec![Arc::clone(&vendors) as _, Arc::clone(&operators) as _];
        followers.extend(people.iter().map(|people| Arc::clone(people) as _));
        let changes = identity_changes::IdentityChanges::new(store.clone(), followers);
        let identity_changes = Arc::new(changes);
        let inbox = Arc::new(inbox::InboxParts::new(
            store.clone(),
            broker.clone(),
            Arc::clone(&plugins),
            Arc::clone(&vault),
            copy,
            host,
        ));
        if foundation.started_without_postgres {
            inbox.resume();
        }
        let seen = alerts::Sources {
            store: store.clone(),
            queues: broker.clone(),
            plugins: Arc::clone(&plugins),
            health: Arc::clone(&health),
            outside: Arc::clone(&outside),
            certificates: foundation.outside.egress.certificates(),
            http: Arc::clone(&http),
            identity_changes: Arc::clone(&identity_changes),
            logins: Arc::clone(&logins),
            inbox: Arc::clone(&inbox),
        };
        let alerts = alerts::AlertWatch::new(config.alerts, seen, quarantines, emergency_logins)?;
        let bodies = Arc::new(history::SealedBodies::new(
            store.clone(),
            Arc::clone(&vault),
        ));
        let declared_jobs = declared_jobs::DeclaredJobs::new(Arc::clone(&runtime));
        let bulks = bulk::BulkJobs::new(
            store.clone(),
            broker.clone(),
            Arc::clone(&declared_jobs),
            Arc::clone(&bodies),
            Arc::clone(&work.redactions),
        );
        let audit = Arc::new(audit::Ledger::new(
            config.audit,
            &store,
            &broker,
            Arc::clone(&vault),
        ));
        let requests = Arc::<RequestMeters>::default();
        let route_meters = Arc::<routes::RouteMeters>::default();
        let exposition = Arc::new(exposition::Exposition::new(exposition::Sources {
            alerts: Arc::clone(&alerts),
            meters: work.meters,
            attempts: work.attempts,
            requests: Arc::clone(&requests),
            routes: Arc::clone(&route_meters),
            relays: foundation.outside.egress.relays(),
            spans: foundation.spans,
            store: store.clone(),
            runtime,
            workers: Arc::clone(&work.workers),
            plugins: Arc::clone(&plugins),
            outside: Arc::clone(&outside),
            sql: sql.clone(),
            quarantine: work.quarantine,
            health: Arc::clone(&health),
            services: Arc::clone(&services),
            queues: broker.clone(),
            bulks: Arc::clone(&bulks),
            limits: limits.clone(),
            inbox: Arc::clone(&inbox),
            http: Arc::clone(&http),
            identity_changes: Arc::clone(&identity_changes),
            logins,
            people: people.clone(),
            vendors: Arc::clone(&vendors),
            sealed: Arc::clone(&audit.meters),
            max_jobs: work.max_jobs,
            dropped_lines: foundation.dropped_lines,
        }));
        Ok(Self {
            identity_changes,
            vendors,
            people,
            operators,
            sso: sso.map(Arc::new),
            limits,
            http,
            actions,
            history: Arc::new(history::HistoryParts {
                bodies,
                budget: work.budget,
                keep: config.keep_attempts,
                mirror_every: config.mirror_every,
            }),
            audit,
            broker,
            store,
            sql,
            workers: work.workers,
            plugins,
            outside,
            grant_uses: Arc::clone(&foundation.outside.uses),
            health,
            services,
            schedules,
            alerts,
            vault,
            traces,
            requests,
            route_meters,
            kept_answers: config.kept_answers,
            exposition,
            incident: Arc::new(foundation.incident),
            environment: config.environment,
            operations,
            bulks,
            inbox,
            declared_jobs,
            node_may_be_bullmq_5: config.node_may_be_bullmq_5,
            started_without_postgres: foundation.started_without_postgres,
        })
    }
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
            routes: routes::Routes::new(parts),
            inbox: inbox::Inbox::new(parts),
            incident: incident::Incident::new(parts),
            health: health::HealthCheck::new(parts),
            jobs: jobs::Jobs::new(parts),
            flows: flows::Flows::new(parts),
            dead_letters: dead_letters::DeadLetters::new(parts),
            bulk: bulk::BulkOperations::new(parts),
            history: history::History::new(parts),
            searches: searches::Searches::new(parts),
            activity: activity::ActivityLog::new(parts),
            status: status::Status::new(parts),
            redis_keys: redis_keys::RedisKeys::new(parts),
            people: people::People::new(parts),
            operators: operators::Operators::new(parts),
            sso: operators::oidc::SingleSignOn::new(parts),
            keys: people::Keys::new(parts),
            vendor_keys: vendor_keys::VendorKeys::new(parts),
        }
    }
}
