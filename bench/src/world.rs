//! What all measurements share: services, the sandbox with the guest, and Node's worker.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_trait::async_trait;
use patchbay_app::history::SealedBodies;
use patchbay_app::snapshot::OfflineSnapshot;
use patchbay_app::vault::{KeySource, Keys, Vault};
use patchbay_capability::{
    AccountProposal, AccountProposals, CredentialInfo, CredentialStore, Egress, EgressConfig,
    MadeAtRunTime, MailTransport, ProposedAccount, RuntimeSchedule, RuntimeScheduleState,
    RuntimeSchedules, SecretSource, SecretValue, Services, Zeroizing,
};
use patchbay_model::audit::{AuditTrails, NewAuditEntry};
use patchbay_model::capability::CapabilityError;
use patchbay_model::manifest::RuntimeSchedulesSpec;
use patchbay_model::outcome::Outcome;
use patchbay_model::retry::RetryPolicy;
use patchbay_model::schedule::ScheduleId;
use patchbay_model::sql::{
    PluginDatabase, SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction,
};
use patchbay_model::{CredentialName, PluginName, QueueName};
use patchbay_queue::{Broker, Delivery, Keep, RedisConfig, WorkerConfig, WorkerHandle};
use patchbay_runtime::{HostLimits, Runtime, RuntimeConfig};
use patchbay_store::{Store, StoreConfig};
use patchbay_telemetry::traces::Traces;
use patchbay_work::body_budget::{BodyBudget, Recording};
use patchbay_work::meters::Meters;
use patchbay_work::quarantine::Quarantine;
use patchbay_work::settings::Settings;
use patchbay_work::{AttemptHandler, Execution, Executor, Invoker};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The guest's queue in its manifest.
pub const QUEUE: &str = "hostileQueue";

/// As a host is configured by default.
pub const EVERYTHING: Recording = Recording {
    attempts: true,
    bodies: true,
    has_key: true,
    buffer_bytes: 64 << 20,
};

/// Who works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A fresh instance per job.
    Wasm,
    /// A closure on the same work path.
    Native,
    /// Node's `bullmq`.
    Node,
}

pub struct World {
    pub redis_url: String,
    pub database_url: String,
    pub guest_file: tempfile::NamedTempFile,
    pub dir: tempfile::TempDir,
    runtime: Arc<Runtime>,
    native_per_ms: u64,
    pub wasm_per_ms: u64,
    pub store: Store,
    pub bodies: Arc<SealedBodies>,
    node: Mutex<Node>,
    sequence: AtomicU64,
    redis_server: Child,
}

/// Whether attempts are copied to Postgres while jobs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// As every host does.
    Meanwhile,
    /// As if another machine did, with its own Postgres.
    Never,
}

/// A process of Node that does as it is told.
pub struct Node {
    child: Child,
    input: ChildStdin,
    output: tokio::io::Lines<BufReader<ChildStdout>>,
}

/// A worker that runs; stop it before the next one.
pub enum Worker {
    Ours {
        handle: WorkerHandle,
        stop: CancellationToken,
        recorder: tokio::task::JoinHandle<()>,
    },
    Node,
}

struct NoSecrets;

impl SecretSource for NoSecrets {
    fn current(&self, _: &PluginName, _: &str) -> Vec<SecretValue> {
        Vec::new()
    }
}

struct NoDatabase;

const NO_DATABASE: &str = "no database is available here";

#[async_trait]
impl PluginDatabase for NoDatabase {
    async fn run(
        &self,
        _: &PluginName,
        _: Instant,
        _: Vec<SqlStatement>,
        _: Option<SqlJobs>,
    ) -> Result<Vec<SqlAnswer>, SqlError> {
        Err(SqlError::denied(NO_DATABASE))
    }
    async fn begin(&self, _: &PluginName, _: Instant) -> Result<Arc<dyn SqlTransaction>, SqlError> {
        Err(SqlError::denied(NO_DATABASE))
    }
}

#[async_trait]
impl AuditTrails for NoDatabase {
    async fn append(&self, _: NewAuditEntry, _: Instant) -> Result<(), CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
}

#[async_trait]
impl RuntimeSchedules for NoDatabase {
    async fn put(
        &self,
        _: &PluginName,
        _: &RuntimeSchedulesSpec,
        _: RuntimeSchedule,
    ) -> Result<bool, CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
    async fn remove(&self, _: &PluginName, _: &ScheduleId) -> Result<bool, CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
    async fn page(
        &self,
        _: &PluginName,
        _: &str,
        _: u32,
    ) -> Result<Vec<RuntimeScheduleState>, CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
}

#[async_trait]
impl CredentialStore for NoDatabase {
    async fn put(
        &self,
        _: &PluginName,
        _: &CredentialName,
        _: Zeroizing<String>,
        _: u32,
    ) -> Result<u32, CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
    async fn remove(&self, _: &PluginName, _: &CredentialName) -> Result<bool, CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
    async fn all(&self, _: &PluginName) -> Result<Vec<CredentialInfo>, CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
}

#[async_trait]
impl AccountProposals for NoDatabase {
    async fn propose(
        &self,
        _: &PluginName,
        _: AccountProposal,
        _: u32,
    ) -> Result<ProposedAccount, CapabilityError> {
        Err(CapabilityError::denied(NO_DATABASE))
    }
}

/// On the same threads as the sandbox.
struct NativeExecutor {
    iterations_per_ms: u64,
}

#[async_trait]
impl Executor for NativeExecutor {
    async fn execute(&self, delivery: &Delivery) -> Execution {
        let iterations = milliseconds(&delivery.data) * self.iterations_per_ms;
        let value = if iterations == 0 {
            "null".to_owned()
        } else {
            (compute(iterations) == 0).to_string()
        };
        Execution {
            ran_by: None,
            policy: self.policy(delivery),
            outcome: Outcome::Completed(value),
            stack: None,
            refused: None,
            calls: Vec::new(),
        }
    }

    fn policy(&self, delivery: &Delivery) -> RetryPolicy {
        RetryPolicy::merge(delivery.retry, (None, None))
    }
}

fn milliseconds(data: &str) -> u64 {
    let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    data["ms"].as_u64().unwrap_or(0)
}

/// The guest's job `compute`, natively.
fn compute(iterations: u64) -> u64 {
    (0..iterations).fold(1, |x: u64, i| std::hint::black_box(x.rotate_left(5) ^ i))
}

/// How much computing a millisecond holds when nothing else runs: each side does its own 5 ms.
async fn iterations_per_ms<F: Future<Output = anyhow::Result<()>>>(
    run: impl Fn(u64) -> F,
) -> anyhow::Result<u64> {
    let mut iterations = 100_000;
    loop {
        let started = Instant::now();
        run(iterations).await?;
        let took_ms = started.elapsed().as_secs_f64() * 1e3;
        if took_ms > 40.0 {
            return Ok((iterations as f64 / took_ms) as u64);
        }
        iterations *= 2;
    }
}

impl World {
    pub async fn new(durable: bool, guest: &[u8]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let redis = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendfsync",
                "everysec",
                "--port",
                &port.to_string(),
            ])
            .args([
                "--appendonly",
                if durable { "yes" } else { "no" },
                "--logfile",
                "redis.log",
            ])
            .current_dir(dir.path())
            .kill_on_drop(true)
            .spawn()?;
        let redis_url = format!("redis://127.0.0.1:{port}/");
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            if Instant::now() > deadline {
                bail!("redis-server does not start");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let config = RuntimeConfig {
            cache_dir: dir.path().join("cache"),
            compiler: None,
            compile_timeout: Duration::from_secs(120),
            compile_memory_bytes: 4 << 30,
            max_calls: 100,
            worker_threads: std::thread::available_parallelism().map_or(2, usize::from),
            limits: limits(),
            draft_wit: false,
            cache_key: [7; 32],
        };
        let runtime = Runtime::new(config, patchbay_capability::link)?;
        let revision = runtime.load(guest).await?;
        let wasm_per_ms = iterations_per_ms(|iterations| {
            let job =
                crate::job_call::call("compute", &format!(r#"{{"iterations":{iterations}}}"#));
            let report = revision.run_job(job, None);
            async {
                report
                    .await
                    .outcome
                    .reason()
                    .map_or(Ok(()), |reason| bail!("{reason}"))
            }
        })
        .await?;
        let native_per_ms = iterations_per_ms(|iterations| async move {
            std::hint::black_box(compute(iterations));
            Ok(())
        })
        .await?;
        runtime.registry().publish(revision);
        let database_url =
            std::env::var("PATCHBAY_TEST_DATABASE_URL").context("run this with `make bench`")?;
        let store = Store::connect(
            StoreConfig {
                url: database_url.clone(),
                min_connections: 5,
                max_connections: 20,
                acquire_timeout: Duration::from_secs(5),
            },
            Duration::from_secs(5),
        )
        .await?;
        store.migrate().await?;
        // As a host is set up: with a master key, so that data and results are kept.
        let key = KeySource::Text {
            key: "secrets.key",
            text: format!("{}{}", "01".repeat(31), "02").into(),
        };
        let copy = OfflineSnapshot::new(&dir.path().join("cache"), [7; 32], &database_url);
        let vault = Vault::open(
            store.clone(),
            Keys::load([Some(key), None])?,
            NoSecrets,
            copy,
            false,
        )
        .await?;
        let bodies = Arc::new(SealedBodies::new(store.clone(), vault));
        let guest_file = tempfile::NamedTempFile::new()?;
        std::fs::write(guest_file.path(), guest)?;
        let node = Mutex::new(Node::start(&redis_url)?);
        Ok(Self {
            redis_url,
            database_url,
            guest_file,
            dir,
            runtime,
            native_per_ms,
            wasm_per_ms,
            store,
            bodies,
            node,
            sequence: AtomicU64::new(0),
            redis_server: redis,
        })
    }

    /// Broker under a key prefix that nobody used before.
    pub async fn fresh_queues(&self) -> anyhow::Result<Broker> {
        let n = self.sequence.fetch_add(1, Ordering::Relaxed);
        let config = RedisConfig {
            url: self.redis_url.clone(),
            prefix: format!("b{n}"),
            own_prefix: format!("p{n}"),
            ..RedisConfig::default()
        };
        Ok(Broker::connect(config).await?)
    }

    pub async fn redis(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.redis_url.as_str())?
            .get_multiplexed_async_connection()
            .await?)
    }

    /// Processor time of Redis so far, in seconds.
    pub fn redis_cpu(&self) -> anyhow::Result<f64> {
        crate::jobs::cpu_seconds(self.redis_server.id().context("Redis runs")?)
    }

    /// Redis as it was at the start.
    pub async fn flush(&self) -> anyhow::Result<()> {
        Ok(redis::cmd("FLUSHDB")
            .arg("ASYNC")
            .query_async(&mut self.redis().await?)
            .await?)
    }

    pub fn prefix(&self, queues: &Broker) -> String {
        queues.prefix().to_owned()
    }

    /// Starts working on the queue.
    pub async fn start(
        &self,
        who: Who,
        queues: &Broker,
        concurrency: usize,
    ) -> anyhow::Result<Worker> {
        self.start_recording(who, queues, concurrency, EVERYTHING, Copying::Meanwhile)
            .await
    }

    /// The same, of which only so much is recorded.
    pub async fn start_recording(
        &self,
        who: Who,
        queues: &Broker,
        concurrency: usize,
        recording: Recording,
        copying: Copying,
    ) -> anyhow::Result<Worker> {
        if who == Who::Node {
            let prefix = self.prefix(queues);
            self.node
                .lock()
                .await
                .tell(&format!("start {prefix} {QUEUE} {concurrency}"))
                .await?;
            return Ok(Worker::Node);
        }
        let executor: Arc<dyn Executor> = if who == Who::Wasm {
            let services = Arc::new(Services {
                host: tokio::runtime::Handle::current(),
                queues: queues.clone(),
                kv: queues.kv(),
                sql: Arc::new(NoDatabase),
                audit: Arc::new(NoDatabase),
                made: MadeAtRunTime {
                    schedules: Arc::new(NoDatabase),
                    credentials: Arc::new(NoDatabase),
                    accounts: Arc::new(NoDatabase),
                },
                secrets: Arc::new(NoSecrets),
                mail: MailTransport::new(None)?,
                egress: Egress::new(EgressConfig::default())?,
                breakers: Arc::default(),
                uses: Arc::default(),
            });
            let (settings, grants) = (
                Arc::new(Settings::new(None, "default".into())),
                Arc::default(),
            );
            let meters = Arc::new(Meters::new(Arc::clone(&self.runtime), Duration::ZERO));
            Arc::new(Invoker::new(
                Arc::clone(&self.runtime),
                services,
                settings,
                grants,
                patchbay_work::redactions::Redactions::new(Arc::clone(&self.runtime)),
                meters,
                Traces::default(),
            ))
        } else {
            Arc::new(NativeExecutor {
                iterations_per_ms: self.native_per_ms,
            })
        };
        let budget = Arc::new(BodyBudget::new(recording));
        let quarantine = Quarantine::new(None, Arc::clone(&self.runtime)).0;
        let handler = AttemptHandler::new(
            executor,
            "bench".into(),
            quarantine,
            Arc::clone(&budget),
            Traces::default(),
        );
        let stop = CancellationToken::new();
        tokio::spawn(budget.watch(queues.clone(), stop.clone()));
        let (store, bodies) = (self.store.clone(), Arc::clone(&self.bodies));
        let recorder = match copying {
            Copying::Meanwhile => tokio::spawn(patchbay_app::history::recorder::run(
                queues.attempts(),
                store,
                bodies,
                stop.clone(),
            )),
            Copying::Never => tokio::spawn(async {}),
        };
        let queue: QueueName = QUEUE.parse()?;
        let config = WorkerConfig {
            queue,
            concurrency,
            lock: Duration::from_secs(30),
            renew: Duration::from_secs(10),
            stalled_interval: Duration::from_secs(30),
            max_stalls: 10,
            keep_completed: Keep::default(),
            keep_failed: Keep::default(),
            rate: None,
            host: "bench".into(),
            threads: self.runtime.guests(),
            gate: Arc::new(patchbay_queue::Unlimited),
        };
        Ok(Worker::Ours {
            handle: queues.spawn_worker(config, handler),
            stop,
            recorder,
        })
    }

    /// Node adds so many jobs, so many at once; gives how long it took.
    pub async fn add_by_node(
        &self,
        queues: &Broker,
        jobs: usize,
        bulk: usize,
    ) -> anyhow::Result<Duration> {
        let command = format!("add {} {QUEUE} {jobs} {bulk}", self.prefix(queues));
        let ms: f64 = self.node.lock().await.tell(&command).await?.parse()?;
        Ok(Duration::from_secs_f64(ms / 1e3))
    }

    pub async fn stop(&self, worker: Worker) -> anyhow::Result<()> {
        match worker {
            Worker::Node => self.node.lock().await.tell("stop").await.map(drop),
            Worker::Ours {
                handle,
                stop,
                recorder,
            } => {
                handle.drain(Duration::from_secs(10)).await;
                stop.cancel();
                recorder.await?;
                Ok(())
            }
        }
    }
}

pub fn limits() -> HostLimits {
    HostLimits {
        default_memory_mb: 64,
        max_memory_mb: 64,
        default_deadline: Duration::from_secs(30),
        max_deadline: Duration::from_secs(300),
        max_result_bytes: 1 << 20,
        max_log_bytes: 1 << 20,
        max_component_bytes: 64 << 20,
    }
}

impl Node {
    pub fn start(redis_url: &str) -> anyhow::Result<Self> {
        let script =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/interop/bench-worker.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .env("REDIS_URL", redis_url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("node")?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Its process.
    pub fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("node runs")
    }

    /// Gives what stands behind its `ok`.
    pub async fn tell(&mut self, command: &str) -> anyhow::Result<String> {
        self.input
            .write_all(format!("{command}\n").as_bytes())
            .await?;
        let answer = self.output.next_line().await?.context("node ended")?;
        let said = answer
            .strip_prefix("ok")
            .with_context(|| format!("node: {answer}"))?;
        Ok(said.trim().to_owned())
    }
}
