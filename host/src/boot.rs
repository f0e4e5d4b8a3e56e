//! Builds every service from the configuration, and takes them down in order. The only place where parts are wired together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use patchbay_app::App;
use patchbay_app::actions::Actions;
use patchbay_app::alerts::{self, AlertWatch};
use patchbay_app::audit::Trails;
use patchbay_app::breakers::OutsideHosts;
use patchbay_app::bulk::BulkJobs;
use patchbay_app::exposition::{Exposition, Sources};
use patchbay_app::health::{self, Health};
use patchbay_app::history::{self, HistoryParts, SealedBodies, recorder};
use patchbay_app::incident;
use patchbay_app::outbox;
use patchbay_app::plugins::{Parts, Plugins, grant_uses};
use patchbay_app::resume;
use patchbay_app::scheduling::Reconciler;
use patchbay_app::snapshot::OfflineSnapshot;
use patchbay_app::vault::{Keys, Vault};
use patchbay_capability::{Breakers, Egress, GrantUses, MailTransport, SecretSource, Services};
use patchbay_http::{AppState, MetricsPage, Operator};
use patchbay_queue::Broker;
use patchbay_runtime::{CompilerCommand, Runtime};
use patchbay_store::{PluginSql, Store};
use patchbay_telemetry::Logging;
use patchbay_telemetry::metrics::RequestMeters;
use patchbay_telemetry::traces::{Exporter, Traces};
use patchbay_work::body_budget::BodyBudget;
use patchbay_work::grants::Grants;
use patchbay_work::meters::Meters;
use patchbay_work::quarantine::Quarantine;
use patchbay_work::redactions::Redactions;
use patchbay_work::settings::Settings;
use patchbay_work::{AttemptHandler, Invoker, WorkerDefaults, Workers};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::cache_key;
use crate::config::Config;
use crate::config::secrets::EnvironmentSecrets;
use crate::doctor;
use crate::process::{self, Signals};

/// How long open HTTP requests, and operations whose clients have left, may take to finish at the end of a drain.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// A running host.
pub struct Host {
    address: SocketAddr,
    store: Store,
    queues: Broker,
    workers: Arc<Workers>,
    health: Arc<Health>,
    plugins: Arc<Plugins>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    server: JoinHandle<()>,
    operations: TaskTracker,
    exporter: Option<Exporter>,
    bodies: Arc<SealedBodies>,
    signals: Signals,
}

impl Host {
    /// Connects, migrates, loads the active plugins, and begins to serve and to work.
    pub async fn start(config: Config, logging: &Logging) -> anyhow::Result<Self> {
        process::yield_to_other_services();
        let config = Arc::new(config);
        let keys = Keys::load(config.secrets.master_keys())?;
        let signals = Signals::listen()?;
        process::check_limits(&config);
        // Before any job is taken: a host that cannot listen does not start.
        let listener = TcpListener::bind(*config.http.listen)
            .await
            .with_context(|| format!("cannot listen on {}", *config.http.listen))?;
        let address = listener.local_addr()?;
        let store = Store::new(config.database.store()).context("cannot use Postgres")?;
        let runtime_config = runtime_config(&config)?;
        let copy =
            OfflineSnapshot::new(&runtime_config.cache_dir, runtime_config.cache_key, &config.database.store().url);
        let is_away = match resume::migrate(&store).await {
            Ok(()) => false,
            Err(error) if resume::is_away(&error) && Plugins::has_copy(&copy) => {
                warn!(error = format!("{error:#}"), "starting with what this host last saw of Postgres");
                true
            }
            Err(error) => return Err(error),
        };
        let environment = EnvironmentSecrets(Arc::clone(&config));
        let vault = Vault::open(store.clone(), keys, environment, copy.clone(), is_away).await?;
        let queues = Broker::connect(config.redis.queues()).await.context("cannot use Redis")?;
        let queues = queues.with_default_zone(*config.schedule.default_zone);
        let runtime = Runtime::new(runtime_config, patchbay_capability::link).context("cannot start the sandbox")?;

        let sql = PluginSql::new(&store, *config.sql.max_connections);
        let mail = MailTransport::new(config.mail.account()).context("mail")?;
        let uses = Arc::new(GrantUses::default());
        let breakers = Arc::new(Breakers::default());
        let outside = OutsideHosts::new(Arc::clone(&runtime), Arc::clone(&breakers), mail.server());
        let egress = Egress::new(config.egress.calls()).context("cannot make outside calls")?;
        let certificates = egress.certificates();
        let services = Arc::new(Services {
            host: tokio::runtime::Handle::current(),
            queues: queues.clone(),
            kv: queues.kv(),
            sql: Arc::new(sql.clone()),
            audit: Arc::new(Trails::new(store.clone())),
            secrets: Arc::clone(&vault) as Arc<dyn SecretSource>,
            mail,
            egress,
            breakers,
            uses: Arc::clone(&uses),
        });
        let settings = Arc::new(Settings::new(config.mail.sender(), config.general.default_platform.as_str().into()));
        let host_name = process::host_name();
        let (traces, exporter) = match config.telemetry.traces(&config.general, &host_name) {
            None => (Traces::default(), None),
            Some(to) => {
                let (traces, exporter) = Traces::start(to).context("cannot send traces")?;
                (traces, Some(exporter))
            }
        };
        let grants = Arc::new(Grants::default());
        let meters = Arc::new(Meters::new(Arc::clone(&runtime), *config.metrics.keep_retired));
        let redactions = Redactions::new(Arc::clone(&runtime));
        let invoker = Arc::new(Invoker::new(
            Arc::clone(&runtime),
            services,
            Arc::clone(&settings),
            Arc::clone(&grants),
            Arc::clone(&redactions),
            Arc::clone(&meters),
            traces.clone(),
        ));
        let (quarantine, crashing) = Quarantine::new(config.quarantine.rule(), Arc::clone(&runtime));
        let budget = Arc::new(BodyBudget::new(config.history.recording(!vault.keys().is_empty())));
        let bodies = Arc::new(SealedBodies::new(store.clone(), Arc::clone(&vault)));
        let handler = AttemptHandler::new(
            Arc::clone(&invoker) as _,
            host_name.clone(),
            Arc::clone(&quarantine),
            Arc::clone(&budget),
            traces.clone(),
        );
        let (attempts, requests) = (handler.attempts(), Arc::new(RequestMeters::default()));
        let defaults = WorkerDefaults {
            lock: *config.work.lock,
            renew: *config.work.renew,
            max_stalls: *config.work.max_stalls,
            max_jobs: *config.work.max_jobs,
            drain_limit: *config.work.drain_limit,
            host: host_name.clone(),
        };
        let workers = Arc::new(Workers::new(queues.clone(), handler, Arc::clone(&runtime), defaults));
        let trusted = config.plugins.trusted();
        if trusted.are_required() {
            info!(keys = trusted.ids(), "plugins must be signed by one of these keys");
        }
        let plugins = Arc::new(Plugins::new(Parts {
            store: store.clone(),
            sql: sql.clone(),
            runtime: Arc::clone(&runtime),
            settings,
            grants,
            invoker,
            workers: Arc::clone(&workers),
            trusted,
            quarantine: Arc::clone(&quarantine),
            redactions: Arc::clone(&redactions),
            copy,
            keep: config.plugins.keep(),
            traces: traces.clone(),
            host: host_name,
        }));
        let schedules = Reconciler::new(store.clone(), queues.clone());
        plugins.when_changed({
            let (schedules, meters) = (Arc::clone(&schedules), Arc::clone(&meters));
            move || {
                schedules.changed();
                meters.reconcile();
            }
        });
        if is_away {
            let running = plugins.start_from_snapshot().await;
            info!(plugins = running, "started from the snapshot");
        } else {
            plugins.converge().await.context("cannot read the active plugins")?;
            plugins.forget_killed_neighbours().await.context("cannot use Postgres")?;
        }
        let worked_queues = plugins.queues().len();
        let health = Arc::new(Health::new(store.clone(), queues.clone(), Arc::clone(&plugins)));

        let outside = Arc::new(outside);
        let alerts = AlertWatch::new(
            config.alerts.alerting(&config.general, &config.mail),
            alerts::Sources {
                store: store.clone(),
                queues: queues.clone(),
                plugins: Arc::clone(&plugins),
                health: Arc::clone(&health),
                outside: Arc::clone(&outside),
                certificates,
            },
        )?;
        let bulks = BulkJobs::new(store.clone(), queues.clone(), Arc::clone(&runtime), Arc::clone(&bodies), redactions);
        let exposition = Arc::new(Exposition::new(Sources {
            alerts: Arc::clone(&alerts),
            meters,
            attempts,
            requests: Arc::clone(&requests),
            spans: exporter.as_ref().map(Exporter::counts).unwrap_or_default(),
            store: store.clone(),
            runtime,
            workers: Arc::clone(&workers),
            plugins: Arc::clone(&plugins),
            outside: Arc::clone(&outside),
            sql: sql.clone(),
            quarantine: Arc::clone(&quarantine),
            health: Arc::clone(&health),
            queues: queues.clone(),
            bulks: Arc::clone(&bulks),
            max_jobs: *config.work.max_jobs,
            dropped_lines: logging.dropped.clone(),
        }));
        let operations = TaskTracker::new();
        let app = App::new(&patchbay_app::Parts {
            broker: queues.clone(),
            store: store.clone(),
            sql: sql.clone(),
            plugins: Arc::clone(&plugins),
            outside: Arc::clone(&outside),
            health: Arc::clone(&health),
            schedules: Arc::clone(&schedules),
            alerts: Arc::clone(&alerts),
            vault: Arc::clone(&vault),
            traces: traces.clone(),
            exposition: Arc::clone(&exposition),
            incident: Arc::new(incident_sources(&config, logging)),
            environment: config.general.environment.as_str().into(),
            actions: Actions::new(store.clone(), operations.clone()),
            bulks: Arc::clone(&bulks),
            history: Arc::new(HistoryParts {
                bodies: Arc::clone(&bodies),
                budget: Arc::clone(&budget),
                keep: config.history.keep(),
            }),
            node_may_be_bullmq_5: config.redis.node_may_be_bullmq_5(),
        });
        let state = AppState {
            app,
            traces,
            metrics: Arc::new(MetricsPage { exposition, needs_operator: *config.metrics.require_operator }),
            operator: config.admin.operator().map(|(name, password)| Arc::new(Operator::new(&name, &password))),
            default_platform: config.general.default_platform.as_str().into(),
            max_component_bytes: *config.runtime.max_component,
            operations: operations.clone(),
        };
        if state.operator.is_none() {
            warn!(
                "no operator is configured: /api/admin and, unless metrics.require_operator is false, /metrics answer 403; set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD"
            );
        }
        let stop = CancellationToken::new();
        let limits = config.http.limits();
        let router = patchbay_http::router(state, requests, &limits);
        let server = tokio::spawn(patchbay_http::serve(listener, router, limits, stop.clone()));
        let policy = config.quarantine.policy();
        let (begun, quarantines) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = vec![
            tokio::spawn(resume::migrate_when_back(is_away, store.clone(), Arc::clone(&plugins), stop.clone())),
            tokio::spawn(resume::pass_on_changes(
                store.changes(),
                Arc::clone(&plugins),
                Arc::clone(&vault),
                stop.clone(),
            )),
            tokio::spawn(Arc::clone(&plugins).run(stop.clone())),
            tokio::spawn({
                let (plugins, stop) = (Arc::clone(&plugins), stop.clone());
                async move { plugins.carry_out_quarantines(quarantine, crashing, begun, policy, stop).await }
            }),
            tokio::spawn(Arc::clone(&alerts).tell_of_quarantines(quarantines)),
            tokio::spawn(alerts.run(stop.clone())),
            tokio::spawn(Arc::clone(&plugins).run_pruning(stop.clone())),
            tokio::spawn(vault.run(stop.clone())),
            tokio::spawn(schedules.run(stop.clone())),
            tokio::spawn(bulks.run(stop.clone())),
            tokio::spawn(grant_uses::count_uses(uses, store.clone(), stop.clone())),
            tokio::spawn(outbox::relay(sql, queues.clone(), stop.clone())),
            tokio::spawn(recorder::run(queues.attempts(), store.clone(), Arc::clone(&bodies), stop.clone())),
            tokio::spawn(budget.watch(queues.clone(), stop.clone())),
            tokio::spawn(history::run(store.clone(), queues.clone(), config.history.keep(), stop.clone())),
        ];
        if let Some(every) = config.history.mirror_every() {
            tasks.push(tokio::spawn(history::mirror::run(
                store.clone(),
                queues.clone(),
                Arc::clone(&plugins),
                every,
                stop.clone(),
            )));
        }
        info!(
            postgres_at_most = config.database.store().max_connections,
            postgres_of_plugins_at_most = *config.sql.max_connections,
            // One shared, one for reading attempts, and each worker's own to wait on.
            redis = 2 + worked_queues,
            "connections of this host"
        );
        health::warn_about_skew(&queues).await;
        info!(%address, "patchbay is up");
        Ok(Self {
            address,
            store,
            queues,
            workers,
            health,
            plugins,
            stop,
            tasks,
            server,
            operations,
            exporter,
            bodies,
            signals,
        })
    }

    /// Where HTTP is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM, SIGINT or SIGHUP, then drains: no new jobs at once, running ones to their end or the drain limit.
    pub async fn run_until_signal(mut self) -> anyhow::Result<()> {
        self.signals.wait().await;
        self.shut_down().await
    }

    /// Drains and stops. Probes and operators are served until the last job has ended.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.health.set_draining();
        let left = self.workers.drain().await;
        self.stop.cancel();
        for task in self.tasks {
            task.await.ok();
        }
        if let Err(error) = self.plugins.leave().await {
            warn!(%error, "the others hear of this end later");
        }
        // What the drain produced; anything beyond stays in the stream for the next process.
        if let Err(error) = recorder::flush(self.queues.attempts(), &self.store, &self.bodies).await {
            warn!(error = format!("{error:#}"), "attempts stay in Redis until the next start");
        }
        let served = async {
            self.server.await.ok();
            self.operations.close();
            self.operations.wait().await;
        };
        if tokio::time::timeout(HTTP_GRACE, served).await.is_err() {
            warn!("HTTP requests or operations were still open at the end");
        }
        if let Some(exporter) = self.exporter {
            exporter.end().await;
        }
        self.store.close().await;
        info!(jobs_left = left, "stopped");
        Ok(())
    }
}

fn incident_sources(config: &Arc<Config>, logging: &Logging) -> incident::Sources {
    let set = config.entries().into_iter().filter(|entry| entry.value.is_some());
    let configuration = set
        .map(|entry| serde_json::json!({ "key": entry.key, "value": entry.value, "source": entry.source }))
        .collect();
    let config = Arc::clone(config);
    let findings = move || {
        let config = Arc::clone(&config);
        async move { serde_json::to_value(doctor::examine(&config).await).unwrap_or_default() }.boxed()
    };
    incident::Sources { configuration, findings: Box::new(findings), lines: logging.lines.clone() }
}

fn runtime_config(config: &Config) -> anyhow::Result<patchbay_runtime::RuntimeConfig> {
    let compiler = CompilerCommand {
        program: std::env::current_exe().context("cannot find our own executable, which compiles plugins")?,
        args: vec!["__compile".into()],
    };
    let cache_key = cache_key::cache_key(&config.runtime.cache_dir)?;
    Ok(config.runtime.sandbox(compiler, cache_key, *config.plugins.draft_wit))
}
