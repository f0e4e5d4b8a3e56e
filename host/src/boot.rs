//! What runs in a host, and the order in which it starts and stops. The only place where the layers
//! meet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use patchbay_app::audit::Trails;
use patchbay_app::health::{self, Health};
use patchbay_app::service::{RunningServices, Services};
use patchbay_app::snapshot::OfflineSnapshot;
use patchbay_app::vault::{Keys, Vault};
use patchbay_app::{Foundation, Parts};
use patchbay_app::{
    alerts, audit, bulk, dead_letters, history, identity_changes, inbox, operators, outbox, people,
    plugins, resume, routes, scheduling, trace_export, vault, vendor_keys, workers,
};
use patchbay_capability::{Egress, MadeAtRunTime, MailTransport};
use patchbay_http::{HttpConfig, OwnKey, Tls};
use patchbay_queue::Broker;
use patchbay_runtime::Runtime;
use patchbay_store::{PluginSql, Store};
use patchbay_telemetry::Logging;
use patchbay_telemetry::traces::{Exporter, Traces};
use patchbay_work::Work;
use tokio::net::TcpListener;
use tracing::info;

use crate::config::secrets::EnvironmentSecrets;
use crate::config::{Config, ConfigError};
use crate::incident;
use crate::process::{self, Signals};

/// How long each service may take to stop; for HTTP: how long open requests, and operations whose
/// clients have left, may take to finish.
const STOP_LIMIT: Duration = Duration::from_secs(5);

pub struct Host {
    address: SocketAddr,
    services: RunningServices,
    health: Arc<Health>,
    store: Store,
    signals: Signals,
}

impl Host {
    /// Connects, migrates, loads the active plugins, and begins to serve and to work.
    pub async fn start(config: Config, logging: &Logging) -> anyhow::Result<Self> {
        Self::start_with(config, logging, None).await
    }

    /// As [`Self::start`], with a key by which this process itself asks the host.
    pub(crate) async fn start_with(
        config: Config,
        logging: &Logging,
        own_key: Option<OwnKey>,
    ) -> anyhow::Result<Self> {
        process::yield_to_other_services();
        let config = Arc::new(config);
        let keys = Keys::load(config.secrets.master_keys())?;
        // Before anybody sees that we are up.
        let signals = Signals::listen()?;
        process::check_limits(&config);
        // Before any job is taken: a host that cannot listen or has no certificate does not start.
        let tls = tls(&config)?;
        let listener = patchbay_http::bind(*config.http.listen).await?;
        let address = listener.local_addr()?;
        let (parts, exporter) = parts(&config, keys, logging).await?;
        parts.plugins.begin(parts.started_without_postgres).await?;
        info!(
            postgres_at_most = config.database.store().max_connections,
            postgres_of_plugins_at_most = *config.sql.max_connections,
            // One shared, one for reading attempts, and each worker's own to wait on.
            redis = 2 + parts.plugins.queues().len(),
            "connections of this host"
        );
        let http = HttpConfig {
            own_key,
            ..config.of_http()
        };
        let services = services(&parts, listener, tls, http, exporter).start();
        health::warn_about_skew(&parts.broker).await;
        info!(%address, "patchbay is up");
        let Parts { health, store, .. } = parts;
        Ok(Self {
            address,
            services,
            health,
            store,
            signals,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM, SIGINT or SIGHUP, then drains: no new jobs at once, running ones to
    /// their end or the drain limit.
    pub async fn run_until_signal(mut self) -> anyhow::Result<()> {
        self.signals.wait().await;
        self.shut_down().await
    }

    /// Drains and stops. Probes and operators are served until the last job has ended.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.health.set_draining();
        let left = self.services.drain().await.left;
        self.services.stop(STOP_LIMIT).await;
        self.store.close().await;
        info!(jobs_left = left, "stopped");
        Ok(())
    }
}

/// What runs, in the order in which it starts. The workers drain first; then all stop at once, and
/// finish from the last to the first: the fleet is left, the recorder copies what the drain has
/// produced, HTTP ends, the last spans are sent.
fn services(
    parts: &Parts,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    http: HttpConfig,
    exporter: Option<Exporter>,
) -> Services {
    Services::new(Arc::clone(&parts.services))
        .and(exporter.map(trace_export::service))
        .and(patchbay_http::certificate_watch(tls.clone(), parts))
        .and(vendor_keys::meter(parts))
        .and(patchbay_http::server(listener, tls, parts, http))
        .and(history::recorder(parts))
        .and(plugins::converger(parts))
        .and(resume::changes(parts))
        .and(alerts::quarantines(parts))
        .and(alerts::emergency_logins(parts))
        .and(plugins::quarantine_follow_up(parts))
        .and(alerts::delivery(parts))
        .and(alerts::evaluation(parts))
        .and(plugins::pruner(parts))
        .and(plugins::grant_uses(parts))
        .and(vault::refresh(parts))
        .and(scheduling::reconciler(parts))
        .and(outbox::relay(parts))
        .and(inbox::sweep(parts))
        .and(inbox::judging(parts))
        .and(inbox::counting(parts))
        .and(inbox::upkeep(parts))
        .and(inbox::drain(parts))
        .and(history::body_budget(parts))
        .and(history::maintenance(parts))
        .and(routes::recorder(parts))
        .and(history::mirror(parts))
        .and(audit::sealer(parts))
        .and(audit::nightly(parts))
        .and(dead_letters::checking(parts))
        .and(bulk::runner(parts))
        .and(identity_changes::service(parts))
        .and(people::mail_service(parts))
        .and(people::upkeep_service(parts))
        .and(operators::upkeep_service(parts))
        .and(people::key_service(parts))
        .and(people::key_rotation(parts))
        .and(workers::service(parts))
}

/// The certificate, where this host serves HTTPS.
fn tls(config: &Config) -> Result<Option<Arc<Tls>>, ConfigError> {
    let Some(files) = config.http.tls() else {
        return Ok(None);
    };
    let (certificate, key) = (&config.http.tls_cert_file, &config.http.tls_key_file);
    let named = format!("{} and {}", certificate.entry.key, key.entry.key);
    let loaded = Tls::load(files);
    let tls = loaded.map_err(|problem| ConfigError(vec![format!("{named}: {problem}")]))?;
    Ok(Some(Arc::new(tls)))
}

/// Everything that these are made of. Connects and migrates; works on nothing yet.
async fn parts(
    config: &Arc<Config>,
    keys: Keys,
    logging: &Logging,
) -> anyhow::Result<(Parts, Option<Exporter>)> {
    let store = Store::new(config.database.store()).context("cannot use Postgres")?;
    let sandbox = config.runtime.sandbox(*config.plugins.draft_wit)?;
    let copy = OfflineSnapshot::new(
        &sandbox.cache_dir,
        sandbox.cache_key,
        &config.database.store().url,
    );
    let is_away = resume::migrate_or_resume(&store, &copy).await?;
    let environment = EnvironmentSecrets(Arc::clone(config));
    let vault = Vault::open(store.clone(), keys, environment, copy.clone(), is_away).await?;
    let queues = Broker::connect(config.redis.queues())
        .await
        .context("cannot use Redis")?;
    let queues = queues.with_default_zone(*config.schedule.default_zone);
    let runtime =
        Runtime::new(sandbox, patchbay_capability::link).context("cannot start the sandbox")?;
    let sql = PluginSql::new(&store, *config.sql.max_connections);
    let schedules = scheduling::Reconciler::new(store.clone(), queues.clone());
    let outside = Arc::new(patchbay_capability::Services::new(
        &queues,
        Arc::new(sql.clone()),
        Arc::new(Trails::new(store.patient())),
        Arc::clone(&vault) as _,
        MadeAtRunTime {
            schedules: Arc::clone(&schedules) as _,
            credentials: Arc::clone(&vault) as _,
            accounts: Arc::new(people::Proposals::new(
                store.patient(),
                config.people.proposals(),
            )),
        },
        MailTransport::new(config.mail.account()).context("mail")?,
        Egress::new(config.egress.calls(config.routes.pace()))
            .context("cannot make outside calls")?,
    ));
    let host = process::host_name();
    let (traces, exporter) = Traces::start_if(config.telemetry.traces(&config.general, &host))?;
    let work = config.of_work(host, !vault.keys().is_empty());
    let foundation = Foundation {
        work: Work::new(work, &queues, &runtime, Arc::clone(&outside), &traces),
        store,
        sql,
        broker: queues,
        runtime,
        outside,
        vault,
        schedules,
        copy,
        traces,
        spans: exporter.as_ref().map(Exporter::counts).unwrap_or_default(),
        dropped_lines: logging.dropped.clone(),
        incident: incident::sources(config, logging),
        started_without_postgres: is_away,
    };
    Ok((Parts::new(foundation, config.of_app())?, exporter))
}
