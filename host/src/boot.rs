//! Builds every service from the configuration, and takes them down in order. The only place where parts are wired together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::FutureExt;
use patchbay_app::App;
use patchbay_app::actions::Actions;
use patchbay_app::alert::{self, Alerts};
use patchbay_app::audit::Trails;
use patchbay_app::breakers::OutsideHosts;
use patchbay_app::bulk::Bulks;
use patchbay_app::exposition::{Exposition, Sources};
use patchbay_app::health::Health;
use patchbay_app::history::{self, Bodies, HistoryParts, recorder};
use patchbay_app::local_copy::LocalCopy;
use patchbay_app::outbox;
use patchbay_app::plugins::{Parts, Plugins, grant_uses};
use patchbay_app::schedule::Schedules;
use patchbay_app::vault::{Keys, Vault};
use patchbay_capability::{Breakers, Egress, GrantUses, MailTransport, SecretSource, SecretValue, Services};
use patchbay_http::{AppState, IncidentSources, MetricsPage, Operator};
use patchbay_model::PluginName;
use patchbay_queue::Queues;
use patchbay_runtime::{CompilerCommand, Runtime};
use patchbay_store::{Changes, PluginSql, Store, StoreError};
use patchbay_telemetry::Logging;
use patchbay_telemetry::metrics::RequestMeters;
use patchbay_telemetry::traces::{Exporter, Traces};
use patchbay_work::body_budget::BodyBudget;
use patchbay_work::grants::Grants;
use patchbay_work::meters::Meters;
use patchbay_work::quarantine::Quarantine;
use patchbay_work::redactions::Redactions;
use patchbay_work::settings::Settings;
use patchbay_work::{Supervisor, WasmExecutor, Work, WorkerDefaults};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::Config;
use crate::{doctor, limits};

/// How long open HTTP requests, and operations whose clients have left, may take to finish at the end of a drain.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// Between two attempts to listen for changes when Postgres is away.
const LISTEN_FOR: Duration = Duration::from_secs(3);

/// At the start; a host that waits longer for Postgres than its supervisor for it is of no use.
const MIGRATION_CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// More than NTP leaves, less than does harm; beyond [`patchbay_queue::MAX_CLOCK_SKEW_MS`] the host takes no jobs.
const SKEW_TO_WARN_ABOUT_MS: i64 = 500;

/// A running host.
pub struct Host {
    address: SocketAddr,
    store: Store,
    queues: Queues,
    supervisor: Arc<Supervisor>,
    health: Arc<Health>,
    plugins: Arc<Plugins>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    server: JoinHandle<()>,
    operations: TaskTracker,
    exporter: Option<Exporter>,
    bodies: Arc<Bodies>,
    /// Listened to from the start: whoever sees that we are up may signal at once.
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that is closed; absent where whoever started us wants us to outlive it (`nohup`).
    hangup: Option<Signal>,
}

impl Host {
    /// Connects, migrates, loads the active plugins, and begins to serve and to work.
    pub async fn start(config: Config, logging: &Logging) -> anyhow::Result<Self> {
        yield_to_other_services();
        let keys = Keys::load(config.master_keys())?;
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        // Whoever sends them to a Node backend (its debugger starts with USR1) would end a host without draining. What has been listened to
        // once has no default action any more.
        for harmless in [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()] {
            drop(signal(harmless)?);
        }
        check_limits(&config);
        // Before any job is taken: a host that cannot listen does not start.
        let listener = TcpListener::bind(config.listen())
            .await
            .with_context(|| format!("cannot listen on {}", config.listen()))?;
        let address = listener.local_addr()?;
        let store = Store::new(config.store()).context("cannot use Postgres")?;
        let runtime_config = runtime_config(&config)?;
        let copy = LocalCopy::new(&runtime_config.cache_dir, runtime_config.cache_key, &config.store().url);
        let is_away = match migrate(&store).await {
            Ok(()) => false,
            Err(error) if is_away(&error) && Plugins::has_copy(&copy) => {
                warn!(error = format!("{error:#}"), "starting with what this host last saw of Postgres");
                true
            }
            Err(error) => return Err(error),
        };
        let environment = EnvironmentSecrets(config.clone());
        let vault = Vault::open(store.clone(), keys, environment, copy.clone(), is_away).await?;
        let queues = Queues::connect(config.queues()).await.context("cannot use Redis")?;
        let queues = queues.with_default_zone(config.default_zone());
        let runtime = Runtime::new(runtime_config).context("cannot start the sandbox")?;

        let sql = PluginSql::new(&store, config.sql_max_connections());
        let mail = MailTransport::new(config.mail()).context("mail")?;
        let uses = Arc::new(GrantUses::default());
        let breakers = Arc::new(Breakers::default());
        let outside = OutsideHosts::new(Arc::clone(&runtime), Arc::clone(&breakers), mail.server());
        let egress = Egress::new(config.egress()).context("cannot make outside calls")?;
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
        let settings = Arc::new(Settings::new(config.mail_from(), config.default_platform().into()));
        let host_name = host_name();
        let (traces, exporter) = match config.traces(&host_name) {
            None => (Traces::default(), None),
            Some(to) => {
                let (traces, exporter) = Traces::start(to).context("cannot send traces")?;
                (traces, Some(exporter))
            }
        };
        let grants = Arc::new(Grants::default());
        let meters = Arc::new(Meters::new(Arc::clone(&runtime), config.keep_retired_metrics()));
        let redactions = Redactions::new(Arc::clone(&runtime));
        let executor = Arc::new(WasmExecutor::new(
            Arc::clone(&runtime),
            services,
            Arc::clone(&settings),
            Arc::clone(&grants),
            Arc::clone(&redactions),
            Arc::clone(&meters),
            traces.clone(),
        ));
        let (quarantine, crashing) = Quarantine::new(config.quarantine_rule(), Arc::clone(&runtime));
        let budget = Arc::new(BodyBudget::new(config.recording(!vault.keys().is_empty())));
        let bodies = Arc::new(Bodies::new(store.clone(), Arc::clone(&vault)));
        let work = Work::new(
            Arc::clone(&executor) as _,
            host_name.clone(),
            Arc::clone(&quarantine),
            Arc::clone(&budget),
            traces.clone(),
        );
        let (attempts, requests) = (work.attempts(), Arc::new(RequestMeters::default()));
        let defaults = WorkerDefaults {
            lock: config.lock(),
            renew: config.renew(),
            max_stalls: config.max_stalls(),
            max_jobs: config.max_jobs(),
            drain_limit: config.drain_limit(),
            host: host_name.clone(),
        };
        let supervisor = Arc::new(Supervisor::new(queues.clone(), work, Arc::clone(&runtime), defaults));
        let trusted = config.trusted_keys();
        if trusted.are_required() {
            info!(keys = trusted.ids(), "plugins must be signed by one of these keys");
        }
        let plugins = Arc::new(Plugins::new(Parts {
            store: store.clone(),
            sql: sql.clone(),
            runtime: Arc::clone(&runtime),
            settings,
            grants,
            supervisor: Arc::clone(&supervisor),
            trusted,
            quarantine: Arc::clone(&quarantine),
            redactions: Arc::clone(&redactions),
            copy,
            keep: config.keep_revisions(),
            traces: traces.clone(),
            host: host_name,
        }));
        let schedules = Schedules::new(store.clone(), queues.clone());
        plugins.when_changed({
            let (schedules, meters) = (Arc::clone(&schedules), Arc::clone(&meters));
            move || {
                schedules.changed();
                meters.reconcile();
            }
        });
        if is_away {
            let running = plugins.start_from_copy().await;
            info!(plugins = running, "started from the local copy");
        } else {
            plugins.converge().await.context("cannot read the active plugins")?;
            plugins.forget_killed_neighbours().await.context("cannot use Postgres")?;
        }
        let worked_queues = plugins.queues().len();
        let health = Arc::new(Health::new(store.clone(), queues.clone(), Arc::clone(&plugins)));

        let outside = Arc::new(outside);
        let alerts = Alerts::new(
            config.alerts(),
            alert::Sources {
                store: store.clone(),
                queues: queues.clone(),
                plugins: Arc::clone(&plugins),
                health: Arc::clone(&health),
                outside: Arc::clone(&outside),
                certificates,
            },
        )?;
        let bulks = Bulks::new(store.clone(), queues.clone(), Arc::clone(&runtime), Arc::clone(&bodies), redactions);
        let metrics = Exposition::new(Sources {
            alerts: Arc::clone(&alerts),
            meters,
            attempts,
            requests: Arc::clone(&requests),
            spans: exporter.as_ref().map(Exporter::counts).unwrap_or_default(),
            store: store.clone(),
            runtime,
            supervisor: Arc::clone(&supervisor),
            plugins: Arc::clone(&plugins),
            outside: Arc::clone(&outside),
            sql: sql.clone(),
            quarantine: Arc::clone(&quarantine),
            health: Arc::clone(&health),
            queues: queues.clone(),
            bulks: Arc::clone(&bulks),
            max_jobs: config.max_jobs(),
            dropped_lines: logging.dropped.clone(),
        });
        let operations = TaskTracker::new();
        let actions = Actions::new(store.clone(), operations.clone());
        let app = App::new(&patchbay_app::Parts {
            broker: queues.clone(),
            store: store.clone(),
            sql: sql.clone(),
            plugins: Arc::clone(&plugins),
            outside: Arc::clone(&outside),
            health: Arc::clone(&health),
            schedules: Arc::clone(&schedules),
            actions: actions.clone(),
            traces: traces.clone(),
            bulks: Arc::clone(&bulks),
            history: Arc::new(HistoryParts {
                bodies: Arc::clone(&bodies),
                budget: Arc::clone(&budget),
                keep: config.keep_attempts(),
            }),
            node_may_be_bullmq_5: config.node_may_be_bullmq_5(),
        });
        let state = AppState {
            actions,
            app,
            store: store.clone(),
            sql: sql.clone(),
            queues: queues.clone(),
            plugins: Arc::clone(&plugins),
            executor,
            outside,
            schedules: Arc::clone(&schedules),
            alerts: Arc::clone(&alerts),
            vault: Arc::clone(&vault),
            health: Arc::clone(&health),
            incident: Arc::new(incident_sources(&config, logging)),
            traces,
            metrics: Arc::new(MetricsPage { exposition: metrics, needs_operator: config.metrics_need_operator() }),
            operator: config.operator().map(|(name, password)| Arc::new(Operator::new(&name, &password))),
            default_platform: config.default_platform().into(),
            environment: config.environment().into(),
            max_component_bytes: config.max_component_bytes(),
            operations: operations.clone(),
        };
        if state.operator.is_none() {
            warn!(
                "no operator is configured: /api/admin and, unless metrics.require_operator is false, /metrics answer 403; set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD"
            );
        }
        let stop = CancellationToken::new();
        let limits = config.http_limits();
        let router = patchbay_http::router(state, requests, &limits);
        let server = tokio::spawn(patchbay_http::serve(listener, router, limits, stop.clone()));
        let policy = config.quarantine_policy();
        let (begun, quarantines) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = vec![
            tokio::spawn(migrate_when_back(is_away, store.clone(), Arc::clone(&plugins), stop.clone())),
            tokio::spawn(pass_on_changes(store.changes(), Arc::clone(&plugins), Arc::clone(&vault), stop.clone())),
            tokio::spawn(Arc::clone(&plugins).run(stop.clone())),
            tokio::spawn({
                let (plugins, stop) = (Arc::clone(&plugins), stop.clone());
                async move { plugins.carry_out_quarantines(quarantine, crashing, begun, policy, stop).await }
            }),
            tokio::spawn(Arc::clone(&alerts).tell_of_quarantines(quarantines)),
            tokio::spawn(alerts.run(stop.clone())),
            tokio::spawn(Arc::clone(&plugins).prune_sometimes(stop.clone())),
            tokio::spawn(vault.run(stop.clone())),
            tokio::spawn(schedules.run(stop.clone())),
            tokio::spawn(bulks.run(stop.clone())),
            tokio::spawn(grant_uses::count_uses(uses, store.clone(), stop.clone())),
            tokio::spawn(outbox::relay(sql, queues.clone(), stop.clone())),
            tokio::spawn(recorder::run(queues.attempts(), store.clone(), Arc::clone(&bodies), stop.clone())),
            tokio::spawn(budget.watch(queues.clone(), stop.clone())),
            tokio::spawn(history::run(store.clone(), queues.clone(), config.keep_attempts(), stop.clone())),
        ];
        if let Some(every) = config.mirror_every() {
            tasks.push(tokio::spawn(history::mirror::run(
                store.clone(),
                queues.clone(),
                Arc::clone(&plugins),
                every,
                stop.clone(),
            )));
        }
        info!(
            postgres_at_most = config.store().max_connections,
            postgres_of_plugins_at_most = config.sql_max_connections(),
            // One shared, one for reading attempts, and each worker's own to wait on.
            redis = 2 + worked_queues,
            "connections of this host"
        );
        warn_about_skew(&queues).await;
        info!(%address, "patchbay is up");
        Ok(Self {
            address,
            store,
            queues,
            supervisor,
            health,
            plugins,
            stop,
            tasks,
            server,
            operations,
            exporter,
            bodies,
            terminate,
            interrupt,
            hangup,
        })
    }

    /// Where HTTP is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM, SIGINT or SIGHUP, then drains: no new jobs at once, running ones to their end or the drain limit.
    pub async fn run_until_signal(mut self) -> anyhow::Result<()> {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM: draining"),
            _ = self.interrupt.recv() => info!("SIGINT: draining"),
            _ = hangup => info!("SIGHUP: draining; the configuration is read at a start only"),
        }
        self.shut_down().await
    }

    /// Drains and stops. Probes and operators are served until the last job has ended.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.health.set_draining();
        let left = self.supervisor.drain().await;
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

/// By the mask of ignored signals (proc_pid_status(5)): a handler of ours would undo it.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Raises what may be raised, and says what is too small all the same.
fn check_limits(config: &Config) {
    limits::raise_open_files();
    for problem in limits::problems(config) {
        warn!("{problem}");
    }
}

/// Where Linux groups processes by session (sched_autogroup, sched(7)), the lower priority of guests' threads counts among this process's
/// threads only, and spinning guests keep Postgres on the same machine waiting for up to seconds. A session of our own, as a service
/// manager gives, may be made nicer as a whole; one that belongs to a terminal is not ours to change.
fn yield_to_other_services() {
    if session_of_this_process() == Some(std::process::id()) {
        // Where there is no such file, there are no such groups.
        std::fs::write("/proc/self/autogroup", "5").ok();
    }
}

/// The sixth field of /proc/self/stat (proc(5)). Not `getsid`: it answers 0 where a container's session was opened outside its process
/// namespace, which rustix takes for impossible and panics.
fn session_of_this_process() -> Option<u32> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses and may hold anything, even parentheses.
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(3)?.parse().ok()
}

fn incident_sources(config: &Config, logging: &Logging) -> IncidentSources {
    let set = config.shown().into_iter().filter(|shown| shown.value.is_some());
    let configuration = set
        .map(|shown| serde_json::json!({ "key": shown.key, "value": shown.value, "source": shown.source }))
        .collect();
    let config = config.clone();
    let findings = move || {
        let config = config.clone();
        async move { serde_json::to_value(doctor::examine(&config).await).unwrap_or_default() }.boxed()
    };
    IncidentSources { configuration, findings: Box::new(findings), lines: logging.lines.clone() }
}

async fn migrate(store: &Store) -> anyhow::Result<()> {
    store.reach(MIGRATION_CONNECT_LIMIT).await.context("cannot use Postgres")?;
    store.migrate().await.context("cannot migrate the database")?;
    Ok(())
}

fn is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_passing)
}

/// After a start without Postgres. Until then whatever needs it fails and is tried again.
async fn migrate_when_back(is_away: bool, store: Store, plugins: Arc<Plugins>, stop: CancellationToken) {
    let mut waits = is_away;
    while waits {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LISTEN_FOR) => {}
        }
        match store.migrate().await {
            Ok(_) => waits = false,
            Err(error) if error.is_passing() => {}
            Err(error) => tracing::error!(%error, "the database cannot be migrated"),
        }
    }
    if is_away {
        info!("Postgres answers again");
        plugins.changed();
    }
}

/// What Redis orders goes by its clock; what Postgres and plugins are told goes by this machine's.
async fn warn_about_skew(queues: &Queues) {
    if let Some(skew_ms) = queues.look().await.skew_ms.filter(|skew| skew.abs() > SKEW_TO_WARN_ABOUT_MS) {
        warn!(skew_ms, "this machine's clock is not Redis's: synchronise both with NTP");
    }
}

/// Tells those who follow Postgres that something has changed. Each looks by itself, so that a long compilation keeps no secret waiting.
async fn pass_on_changes(mut changes: Changes, plugins: Arc<Plugins>, vault: Arc<Vault>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = changes.wait(LISTEN_FOR) => {}
        }
        vault.changed();
        plugins.changed();
    }
}

/// Secrets from the environment: what the vault does not hold.
struct EnvironmentSecrets(Config);

impl SecretSource for EnvironmentSecrets {
    fn current(&self, plugin: &PluginName, name: &str) -> Vec<SecretValue> {
        self.0.plugin_secret(plugin, name).map(SecretValue::new).into_iter().collect()
    }
}

fn runtime_config(config: &Config) -> anyhow::Result<patchbay_runtime::RuntimeConfig> {
    let cache_dir = config.cache_dir();
    let compiler = CompilerCommand {
        program: std::env::current_exe().context("cannot find our own executable, which compiles plugins")?,
        args: vec!["__compile".into()],
    };
    let cache_key = cache_key(&cache_dir)?;
    Ok(config.runtime(compiler, cache_key))
}

/// The key that binds cached machine code to this installation: made once, readable by nobody else.
fn cache_key(cache_dir: &Path) -> anyhow::Result<[u8; 32]> {
    use std::io::Write;
    use std::os::unix::fs::DirBuilderExt;
    let path = cache_dir.join("key");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cache_dir);
    made.with_context(|| format!("cannot make the cache directory {}", cache_dir.display()))?;
    // Two processes may start at once: whoever links its complete file first wins, and both read that one.
    let mut fresh = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .tempfile_in(cache_dir)
        .with_context(|| format!("cannot write to {}", cache_dir.display()))?;
    fresh.write_all(&rand::random::<[u8; 32]>())?;
    fresh.as_file().sync_all()?;
    if let Err(error) = fresh.persist_noclobber(&path)
        && error.error.kind() != std::io::ErrorKind::AlreadyExists
    {
        bail!("cannot write {}: {}", path.display(), error.error);
    }
    let key = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    <[u8; 32]>::try_from(key.as_slice())
        .map_err(|_| anyhow::anyhow!("{} is damaged: delete it, and the cache is rebuilt", path.display()))
}

/// `hostname:pid`, as it stands in records and lists of workers.
fn host_name() -> String {
    let system = rustix::system::uname();
    format!("{}:{}", system.nodename().to_string_lossy(), std::process::id())
}
