//! Builds every service from the configuration, and takes them down in order. The only place where parts are wired together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use patchbay_capability::{Breakers, Egress, GrantUses, MailTransport, SecretSource, SecretValue, Services};
use patchbay_model::PluginName;
use patchbay_queue::Queues;
use patchbay_runtime::{CompilerCommand, Runtime};
use patchbay_store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::breakers::OutsideHosts;
use crate::config::Config;
use crate::grants::{self, Grants};
use crate::health::Health;
use crate::http::{AppState, Operator};
use crate::plugins::Plugins;
use crate::schedule::Schedules;
use crate::settings::Settings;
use crate::work::{Supervisor, WasmExecutor, Work, WorkerDefaults};
use crate::{http, recorder};

/// How long open HTTP requests may take to finish at the end of a drain.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// More than NTP leaves, less than does harm; beyond [`crate::health`]'s limit the host is not ready.
const SKEW_TO_WARN_ABOUT_MS: i64 = 500;

/// A running host.
pub struct Host {
    address: SocketAddr,
    store: Store,
    queues: Queues,
    supervisor: Arc<Supervisor>,
    health: Arc<Health>,
    drain_limit: Duration,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    server: JoinHandle<()>,
    /// Listened to from the start: whoever sees that we are up may signal at once.
    terminate: Signal,
    interrupt: Signal,
}

impl Host {
    /// Connects, migrates, loads the active plugins, and begins to serve and to work.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        yield_to_other_services();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let store = Store::connect(config.store()).await.context("cannot use Postgres")?;
        store.migrate().await.context("cannot migrate the database")?;
        let queues = Queues::connect(config.queues()).await.context("cannot use Redis")?;
        let runtime = Runtime::new(runtime_config(&config)?).context("cannot start the sandbox")?;

        let mail = MailTransport::new(config.mail()).context("mail")?;
        let uses = Arc::new(GrantUses::default());
        let breakers = Arc::new(Breakers::default());
        let outside = OutsideHosts::new(Arc::clone(&runtime), Arc::clone(&breakers), mail.server());
        let services = Arc::new(Services {
            host: tokio::runtime::Handle::current(),
            queues: queues.clone(),
            kv: queues.kv(),
            secrets: Arc::new(EnvironmentSecrets(config.clone())),
            mail,
            egress: Egress::new(config.egress()).context("cannot make outside calls")?,
            breakers,
            uses: Arc::clone(&uses),
        });
        let settings = Arc::new(Settings::new(config.mail_from()));
        let host_name = host_name();
        let grants = Arc::new(Grants::default());
        let executor = WasmExecutor::new(Arc::clone(&runtime), services, Arc::clone(&settings), Arc::clone(&grants));
        let work = Work::new(Arc::new(executor), host_name.clone());
        let defaults = WorkerDefaults {
            lock: config.lock(),
            renew: config.renew(),
            max_stalls: config.max_stalls(),
            max_jobs: config.max_jobs(),
            host: host_name,
        };
        let supervisor = Arc::new(Supervisor::new(queues.clone(), work, Arc::clone(&runtime), defaults));
        let drain_limit = config.drain_limit();
        let plugins =
            Arc::new(Plugins::new(store.clone(), runtime, settings, grants, Arc::clone(&supervisor), drain_limit));
        let schedules = Schedules::new(store.clone(), queues.clone());
        plugins.when_changed({
            let schedules = Arc::clone(&schedules);
            move || schedules.changed()
        });
        plugins.converge().await.context("cannot read the active plugins")?;
        let worked_queues = plugins.queues().len();
        let health = Arc::new(Health::new(store.clone(), queues.clone(), Arc::clone(&plugins)));

        let state = AppState {
            store: store.clone(),
            queues: queues.clone(),
            plugins: Arc::clone(&plugins),
            outside: Arc::new(outside),
            schedules: Arc::clone(&schedules),
            health: Arc::clone(&health),
            operator: config.operator().map(|(name, password)| Arc::new(Operator::new(&name, &password))),
            environment: config.environment().into(),
            node_may_be_bullmq_5: config.node_may_be_bullmq_5(),
            max_component_bytes: config.max_component_bytes(),
        };
        if state.operator.is_none() {
            warn!("no operator is configured: /api/admin answers 403; set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD");
        }
        let listener = TcpListener::bind(config.listen())
            .await
            .with_context(|| format!("cannot listen on {}", config.listen()))?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, http::router(state), stop.clone()));
        let tasks = vec![
            tokio::spawn(plugins.run(stop.clone())),
            tokio::spawn(schedules.run(stop.clone())),
            tokio::spawn(grants::count_uses(uses, store.clone(), stop.clone())),
            tokio::spawn(recorder::run(queues.attempts(), store.clone(), stop.clone())),
        ];
        info!(
            postgres_at_most = config.store().max_connections,
            // One shared, one for reading attempts, and each worker's own to wait on.
            redis = 2 + worked_queues,
            "connections of this host"
        );
        warn_about_skew(&queues).await;
        info!(%address, "patchbay is up");
        Ok(Self { address, store, queues, supervisor, health, drain_limit, stop, tasks, server, terminate, interrupt })
    }

    /// Where HTTP is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM or SIGINT, then drains: no new jobs at once, running ones to their end or the drain limit.
    pub async fn run_until_signal(mut self) -> anyhow::Result<()> {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM: draining"),
            _ = self.interrupt.recv() => info!("SIGINT: draining"),
        }
        self.shut_down().await
    }

    /// Drains and stops. Probes and operators are served until the last job has ended.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.health.set_draining();
        let left = self.supervisor.drain(self.drain_limit).await;
        self.stop.cancel();
        for task in self.tasks {
            task.await.ok();
        }
        // What the drain produced; anything beyond stays in the stream for the next process.
        if let Err(error) = recorder::flush(self.queues.attempts(), &self.store).await {
            warn!(error = format!("{error:#}"), "attempts stay in Redis until the next start");
        }
        if tokio::time::timeout(HTTP_GRACE, self.server).await.is_err() {
            warn!("HTTP requests were still open at the end");
        }
        self.store.close().await;
        info!(jobs_left = left, "stopped");
        Ok(())
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

/// Delays, locks and schedules mean Redis's clock.
async fn warn_about_skew(queues: &Queues) {
    match queues.clock_skew_ms().await {
        Ok(skew_ms) if skew_ms.abs() > SKEW_TO_WARN_ABOUT_MS => {
            warn!(skew_ms, "this machine's clock is not Redis's: synchronise both with NTP");
        }
        Ok(_) | Err(_) => {}
    }
}

async fn serve(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP server ended");
    }
}

/// Secrets from the environment, until there is a vault.
struct EnvironmentSecrets(Config);

impl SecretSource for EnvironmentSecrets {
    fn get(&self, plugin: &PluginName, name: &str) -> Option<SecretValue> {
        self.0.plugin_secret(plugin, name).map(SecretValue::new)
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
