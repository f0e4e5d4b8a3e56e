//! Starts the real binary as a child process, with its own database and Redis prefixes.
//!
//! Tests wait for signals (a log line, a state, a mail), each with a deadline, never for a fixed
//! time.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use patchbay::dev::MailCatcher;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{Connection, Executor, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub const USER: &str = "operator";
pub const PASSWORD: &str = "test-password";

/// The environment of one test: database, prefixes, mail server.
pub struct World {
    pub database_url: String,
    /// Empty: `env` sets Redis's address.
    pub redis_url: String,
    pub prefix: String,
    pub mail: MailCatcher,
    pub dir: tempfile::TempDir,
    /// `None`: the test has a Postgres server of its own.
    pub _own_database: Option<OwnDatabase>,
}

/// A database on the server that all tests share. Three hundred of them are gigabytes, so it is
/// dropped, unless the test failed.
pub struct OwnDatabase {
    server: String,
    name: String,
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (server, drop) = (
            self.server.clone(),
            format!("drop database {} with (force)", self.name),
        );
        // A runtime cannot block on another one, hence the thread.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut admin = PgConnection::connect(&server).await?;
                admin.execute(sqlx::AssertSqlSafe(drop)).await?;
                anyhow::Ok(())
            })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("the database {} stays: {error:#}", self.name);
        }
    }
}

pub struct Host {
    pub child: Child,
    pub url: String,
    pub http: reqwest::Client,
    /// Everything that it has printed so far.
    pub log: Arc<Mutex<String>>,
}

fn required(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("run `make test`, or set {name}"))
}

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The host's binary, as `make test` has built it.
pub fn binary() -> PathBuf {
    std::env::var("PATCHBAY_BIN").map_or_else(
        |_| repository().join("target/debug/patchbay"),
        |path| repository().join(path),
    )
}

impl World {
    pub async fn new() -> anyhow::Result<Self> {
        // The first test of this process installs it; later ones get an error.
        let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let server = required("PATCHBAY_TEST_DATABASE_URL")?;
        let mut url: reqwest::Url = server.parse()?;
        let mut admin = PgConnection::connect(url.as_str()).await?;
        let template = with_email_tables(&mut admin, &url).await?;
        admin
            .execute(sqlx::AssertSqlSafe(format!(
                "create database {name} template {template}"
            )))
            .await?;
        url.set_path(&name);
        let _own_database = Some(OwnDatabase {
            server,
            name: name.clone(),
        });
        let dir = tempfile::tempdir()?;
        let mail = MailCatcher::start(&dir.path().join("mail")).await?;
        let redis_url = required("PATCHBAY_TEST_REDIS_URL")?;
        Ok(Self {
            database_url: url.into(),
            redis_url,
            prefix: name,
            mail,
            dir,
            _own_database,
        })
    }

    /// A command with a complete configuration, plus `env`. The caller handles its output.
    pub fn command(&self, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("DATABASE_URL", &self.database_url)
            .env("REDIS_URL", &self.redis_url)
            .env("PATCHBAY_REDIS_PREFIX", &self.prefix)
            .env("PATCHBAY_REDIS_OWN_PREFIX", format!("{}-own", self.prefix))
            .env("PATCHBAY_HTTP_LISTEN", "127.0.0.1:0")
            .env("PATCHBAY_MAIL_HOST", self.mail.address.ip().to_string())
            .env("PATCHBAY_MAIL_PORT", self.mail.address.port().to_string())
            .env("PATCHBAY_MAIL_TLS", "none")
            .env("EMAIL_FROM", "Tests <tests@patchbay.example>")
            .env("BULL_BOARD_USERNAME", USER)
            .env("BULL_BOARD_PASSWORD", PASSWORD)
            // All tests share it: compiled code is content-addressed, so compiling once is enough.
            .env(
                "PATCHBAY_RUNTIME_CACHE_DIR",
                std::env::temp_dir().join("patchbay-test-cache"),
            )
            // Tests of the times set it.
            .env("PATCHBAY_PEOPLE_ANSWER_STEP_MS", "0")
            .env("PATCHBAY_LOG_FORMAT", "json")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if self.redis_url.is_empty() {
            command.env_remove("REDIS_URL");
        }
        command.envs(env.iter().copied());
        command
    }

    /// Runs such a command; returns exit code and output. An empty value unsets a variable.
    pub async fn output(
        &self,
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> anyhow::Result<(Option<i32>, String)> {
        let binary = binary();
        let mut command = self.command(binary.to_str().context("a path")?, arguments, env);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await??;
        let text = [output.stdout, output.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat();
        Ok((output.status.code(), text))
    }

    /// A host with a complete configuration, plus `env`.
    pub async fn host(&self, env: &[(&str, &str)]) -> anyhow::Result<Host> {
        // In a session of its own, as under a service manager.
        self.host_by(&["setsid"], env).await
    }

    /// A host that another program starts, such as one that sets a limit.
    pub async fn host_by(&self, starter: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Host> {
        let (program, arguments) = starter.split_first().context("a starter")?;
        let binary = binary();
        let arguments = [arguments, &[binary.to_str().context("a path")?, "serve"]].concat();
        let mut command = self.command(program, &arguments, env);
        let mut child = command
            .spawn()
            .context("cannot start the host: build it first (`make test` does)")?;
        let stdout = child.stdout.take().context("stdout")?;
        let stderr = child.stderr.take().context("stderr")?;
        let (found, address) = tokio::sync::oneshot::channel();
        let log = Arc::new(Mutex::new(String::new()));
        tokio::spawn(watch(stdout, Some(found), Arc::clone(&log)));
        tokio::spawn(watch(stderr, None, Arc::clone(&log)));
        let address = match tokio::time::timeout(Duration::from_secs(60), address).await {
            Ok(Ok(address)) => address,
            _ => bail!("the host did not come up; its output is above"),
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()?;
        Ok(Host {
            child,
            url: format!("http://{address}"),
            http,
            log,
        })
    }

    pub async fn redis(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.redis_url.as_str())?
            .get_multiplexed_async_connection()
            .await?)
    }

    /// Moves a delayed job to the front of its queue, as any BullMQ client may.
    pub async fn promote(&self, queue: &str, id: &str) -> anyhow::Result<()> {
        let key = |name: &str| format!("{}:{queue}:{name}", self.prefix);
        let mut pipe = redis::pipe();
        pipe.zrem(key("delayed"), id)
            .rpush(key("wait"), id)
            .zadd(key("marker"), "0", 0);
        Ok(pipe.query_async(&mut self.redis().await?).await?)
    }

    pub async fn database(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url).await?)
    }
}

/// Prints the child's log (cargo shows it when the test fails) and finds the line with the address.
async fn watch(
    output: impl tokio::io::AsyncRead + Unpin,
    mut found: Option<tokio::sync::oneshot::Sender<String>>,
    log: Arc<Mutex<String>>,
) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = address_in(&line)
            && let Some(found) = found.take()
        {
            found.send(address).ok();
        }
        eprintln!("host: {line}");
        let mut log = log.lock().expect("no writer panics");
        log.push_str(&line);
        log.push('\n');
    }
}

fn address_in(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    (fields["message"] == "patchbay is up")
        .then(|| fields["address"].as_str().map(str::to_owned))?
}

impl Host {
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.request(self.http.get(self.url.clone() + path)).await
    }

    /// The metrics page for Prometheus.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let request = self
            .http
            .get(format!("{}/metrics", self.url))
            .basic_auth(USER, Some(PASSWORD));
        let response = request.send().await?;
        anyhow::ensure!(response.status() == 200, "{}", response.status());
        let kind = response.headers()["content-type"].to_str()?;
        anyhow::ensure!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        Ok(response.text().await?)
    }

    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        self.request(self.http.post(self.url.clone() + path).json(&body))
            .await
    }

    pub async fn put(&self, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        self.request(self.http.put(self.url.clone() + path).json(&body))
            .await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.request(self.http.delete(self.url.clone() + path))
            .await
    }

    pub async fn push(&self, component: Vec<u8>) -> anyhow::Result<(u16, Value)> {
        self.request(
            self.http
                .post(format!("{}/api/admin/plugins", self.url))
                .body(component),
        )
        .await
    }

    pub async fn request(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
        let request = confirmed(request.basic_auth(USER, Some(PASSWORD)).build()?);
        let response = self.http.execute(request).await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    /// Pushes and activates a component; returns the digest.
    pub async fn deploy(&self, plugin: &str, component: Vec<u8>) -> anyhow::Result<String> {
        let (status, staged) = self.push(component).await?;
        anyhow::ensure!(status == 200, "push: {status} {staged}");
        let digest = staged["data"]["digest"]
            .as_str()
            .context("digest")?
            .to_owned();
        let (status, answer) = self
            .post(
                &format!("/api/admin/plugins/{plugin}/activate"),
                json!({ "digest": digest, "grant": true }),
            )
            .await?;
        anyhow::ensure!(status == 200, "activate: {status} {answer}");
        Ok(digest)
    }

    /// The queue may be new, and the job need not be one that the queue's plugin declares: tests
    /// give plugins also what they do not expect.
    pub async fn add(&self, queue: &str, mut job: Value) -> anyhow::Result<String> {
        job["newQueue"] = true.into();
        job["force"] = true.into();
        let (status, answer) = self
            .post(&format!("/api/admin/queues/{queue}/jobs"), job)
            .await?;
        anyhow::ensure!(status == 200, "add: {status} {answer}");
        Ok(answer["data"]["id"].as_str().context("id")?.to_owned())
    }

    /// The job, once it is in `state`.
    pub async fn job_in(&self, queue: &str, id: &str, state: &str) -> anyhow::Result<Value> {
        let path = format!("/api/admin/queues/{queue}/jobs/{id}");
        until(
            Duration::from_secs(30),
            &format!("job {id} in {state}"),
            async || {
                let (_, answer) = self.get(&path).await?;
                Ok((answer["data"]["job"]["state"] == state).then(|| answer["data"].clone()))
            },
        )
        .await
    }

    /// The job without redaction, once it is in `state`.
    pub async fn revealed_job_in(
        &self,
        queue: &str,
        id: &str,
        state: &str,
    ) -> anyhow::Result<Value> {
        self.job_in(queue, id, state).await?;
        let (_, mut answer) = self
            .get(&format!("/api/admin/queues/{queue}/jobs/{id}?reveal=true"))
            .await?;
        Ok(answer["data"].take())
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn stop(mut self) -> anyhow::Result<std::process::ExitStatus> {
        let pid = rustix::process::Pid::from_raw(self.child.id().context("running")?.try_into()?)
            .context("pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        Ok(tokio::time::timeout(Duration::from_secs(40), self.child.wait()).await??)
    }
}

/// The request, with the confirmation that the host wants for what cannot be undone. Requests that
/// have one, or a dry run, stay as they are.
pub fn confirmed(mut request: reqwest::Request) -> reqwest::Request {
    let path = request.url().path().to_owned();
    let name = |place: usize| path.split('/').nth(place).unwrap_or_default().to_owned();
    let ends = |end: &str| path.ends_with(end);
    let what = match request.method().as_str() {
        "DELETE" => path.rsplit('/').next().unwrap_or_default().to_owned(),
        "POST" if ends("/plugins/prune") || ends("/history/prune") || ends("/history/erase") => {
            "all".to_owned()
        }
        "POST" if ends("/api/admin/bulk") || ends("/api/admin/inbox/erase") => "all".to_owned(),
        "POST" if ends("/clean") || ends("/drain") => name(4),
        "POST" if ends("/expire") => name(5),
        "PUT" if ends("/data") && path.contains("/jobs/") => name(6),
        _ => return request,
    };
    if request
        .url()
        .query()
        .is_some_and(|query| query.contains("confirm="))
    {
        return request;
    }
    // As it stands in the path, without the mark in front of names that a path cannot hold.
    let what = what.strip_prefix('~').unwrap_or(&what).replace('+', "%2B");
    let query = match request.url().query() {
        Some(query) => format!("{query}&confirm={what}"),
        None => format!("confirm={what}"),
    };
    request.url_mut().set_query(Some(&query));
    request
}

/// A server of tests/interop, and the first line that it prints: where it is. It ends when the
/// process is dropped. What it prints later goes nowhere, so that it never waits for a reader.
pub async fn server_of_node(script: &str, env: &[(&str, &str)]) -> anyhow::Result<(Child, String)> {
    let mut child = Command::new("node")
        .arg(script)
        .current_dir(repository().join("tests/interop"))
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let first = tokio::time::timeout(Duration::from_secs(60), lines.next_line());
    let first = match first.await {
        Ok(line) => line?,
        Err(_) => bail!(
            "{script} did not say within 60 s where it is: {}",
            waits(&child)
        ),
    };
    let first = first.with_context(|| format!("{script} ended before it said where it is"))?;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, first.trim().to_owned()))
}

/// What the main thread of a child waits for, as the kernel tells it: a lock is another fault than
/// a busy machine.
fn waits(child: &Child) -> String {
    let Some(pid) = child.id() else {
        return "it has ended".to_owned();
    };
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let state = read("stat").unwrap_or_default();
    let state = state.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<&str> = state.split(' ').collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or("?");
    format!(
        "state {}, waits in {}, processor time {} + {} ticks",
        field(0),
        read("wchan").unwrap_or_default(),
        field(11),
        field(12),
    )
}

/// The data in the envelope that a command prints with `--json`. Fails if it is not the envelope
/// that docs/json-output.schema.json describes.
pub fn printed_json(stdout: &[u8]) -> anyhow::Result<Value> {
    let mut envelope = envelope(stdout)?;
    anyhow::ensure!(envelope["success"] == true, "{envelope}");
    Ok(envelope["data"].take())
}

/// The envelope that a command prints with `--json`, on standard output or standard error.
pub fn envelope(printed: &[u8]) -> anyhow::Result<Value> {
    let envelope: Value = serde_json::from_slice(printed)
        .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(printed)))?;
    let schema = std::fs::read_to_string(repository().join("docs/json-output.schema.json"))?;
    let schema = patchbay_model::json_schema::Schema::new(&serde_json::from_str(&schema)?)
        .map_err(anyhow::Error::msg)?;
    let values = patchbay_model::json_schema::Values::Shown;
    if let Err(violations) = schema.fits(&envelope, values, 5) {
        anyhow::bail!("not the envelope ({violations}): {envelope}");
    }
    Ok(envelope)
}

/// Asks repeatedly until there is an answer: for states that are only visible from outside.
pub async fn until<T>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A database with the tables that the email plugin works on, from which those of tests are copied:
/// a copy costs no more than an empty database. The first test of a run makes it.
async fn with_email_tables(
    admin: &mut PgConnection,
    server: &reqwest::Url,
) -> anyhow::Result<String> {
    let tables = std::fs::read(repository().join("plugins/email/tables.sql"))?;
    let name = format!("email_{}", hex::encode(&Sha256::digest(&tables)[..8]));
    let there = "select exists (select from pg_database where datname = $1)";
    let is_there = async |admin: &mut PgConnection| {
        let there = sqlx::query_scalar::<_, bool>(there).bind(&name);
        there.fetch_one(admin).await
    };
    if is_there(&mut *admin).await? {
        return Ok(name);
    }
    // Tests are processes of their own.
    const LOCK: i64 = 7_401_992;
    sqlx::query("select pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut *admin)
        .await?;
    if !is_there(&mut *admin).await? {
        // Under another name until it is whole.
        let draft = format!("{name}_draft");
        for statement in [
            format!("drop database if exists {draft} with (force)"),
            format!("create database {draft}"),
        ] {
            admin.execute(sqlx::AssertSqlSafe(statement)).await?;
        }
        let mut url = server.clone();
        url.set_path(&draft);
        email_tables(url.as_str()).await?;
        let rename = format!("alter database {draft} rename to {name}");
        admin.execute(sqlx::AssertSqlSafe(rename)).await?;
    }
    sqlx::query("select pg_advisory_unlock($1)")
        .bind(LOCK)
        .execute(&mut *admin)
        .await?;
    Ok(name)
}

/// The tables that the email plugin works on, in a new database.
async fn email_tables(database_url: &str) -> anyhow::Result<()> {
    let tables = std::fs::read_to_string(repository().join("plugins/email/tables.sql"))?;
    let mut database = PgConnection::connect(database_url).await?;
    database.execute(sqlx::AssertSqlSafe(tables)).await?;
    Ok(database.close().await?)
}

/// The packed email plugin that `make test` has built.
pub fn email_plugin() -> anyhow::Result<Vec<u8>> {
    packed("plugins/email/dist")
}

/// The packed plugin for slots of mentors.
pub fn slots_plugin() -> anyhow::Result<Vec<u8>> {
    packed("plugins/slots/dist")
}

/// The placeholder plugin, which has the schedules of the old backend.
pub fn echo_plugin() -> anyhow::Result<Vec<u8>> {
    packed("plugins/echo/dist")
}

/// The guest that misbehaves on request.
pub fn hostile_plugin() -> anyhow::Result<Vec<u8>> {
    packed("tests/guests/hostile/dist")
}

/// The hostile guest, allowed to call a server of the test.
pub fn hostile_plugin_calling(address: std::net::SocketAddr) -> anyhow::Result<Vec<u8>> {
    // The first outside call of an unoptimised host takes a slow machine longer than 200 ms.
    hostile_plugin_with(|manifest| {
        manifest
            .replace("127.0.0.1:9/", &format!("{address}/"))
            .replace("deadline_ms = 200", "deadline_ms = 2_000")
    })
}

/// The hostile guest under another manifest.
pub fn hostile_plugin_with(change: impl FnOnce(String) -> String) -> anyhow::Result<Vec<u8>> {
    as_hostile_plugin(&hostile_component()?, change)
}

/// Another guest as a revision of the hostile plugin.
pub fn as_hostile_plugin(
    component: &[u8],
    change: impl FnOnce(String) -> String,
) -> anyhow::Result<Vec<u8>> {
    let manifest = change(std::fs::read_to_string(
        repository().join("tests/guests/hostile/plugin.toml"),
    )?);
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(component, &manifest)?)
}

/// The guest that tries to reach files, environment and sockets.
pub fn curious_plugin() -> anyhow::Result<Vec<u8>> {
    packed("tests/guests/curious/dist")
}

/// The guest that appends to audit trails.
pub fn clerk_plugin() -> anyhow::Result<Vec<u8>> {
    packed("tests/guests/clerk/dist")
}

/// The guest that does little, and continues when it is denied something.
pub fn steady_plugin() -> anyhow::Result<Vec<u8>> {
    packed("tests/guests/steady/dist")
}

/// The steady guest under another manifest.
pub fn steady_plugin_with(change: impl FnOnce(String) -> String) -> anyhow::Result<Vec<u8>> {
    let manifest = change(std::fs::read_to_string(
        repository().join("tests/guests/steady/plugin.toml"),
    )?);
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(
        &guest_component("steady")?,
        &manifest,
    )?)
}

/// The guest that runs the SQL in its jobs' data, under a changed manifest.
pub fn statements_plugin(change: impl FnOnce(String) -> String) -> anyhow::Result<Vec<u8>> {
    let manifest =
        std::fs::read_to_string(repository().join("tests/guests/statements/plugin.toml"))?;
    let manifest = Manifest::from_toml(&change(manifest), |file| {
        Err(format!("{file} is not expected"))
    })?;
    let file = repository().join("tests/guests/target/wasm32-wasip2/release/statements.wasm");
    Ok(patchbay_runtime::pack(
        &std::fs::read(file).context("run `make test`")?,
        &manifest,
    )?)
}

/// The guest that answers operations, allowed to call a server of the test.
pub fn answers_plugin(address: std::net::SocketAddr) -> anyhow::Result<Vec<u8>> {
    answers_plugin_with(|manifest| manifest.replace("127.0.0.1:9/", &format!("{address}/")))
}

/// The answers guest under another manifest.
pub fn answers_plugin_with(change: impl FnOnce(String) -> String) -> anyhow::Result<Vec<u8>> {
    let manifest = change(std::fs::read_to_string(
        repository().join("tests/guests/answers/plugin.toml"),
    )?);
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(
        &guest_component("answers")?,
        &manifest,
    )?)
}

/// Another guest of the tests under a changed manifest.
pub fn as_guest(name: &str, change: impl FnOnce(String) -> String) -> anyhow::Result<Vec<u8>> {
    let file = repository().join(format!("tests/guests/{name}/plugin.toml"));
    let manifest = change(std::fs::read_to_string(file)?);
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(&guest_component(name)?, &manifest)?)
}

/// The hostile component as compiled, without a manifest.
pub fn hostile_component() -> anyhow::Result<Vec<u8>> {
    guest_component("hostile")
}

/// Any guest's component as compiled, without a manifest.
pub fn guest_component(name: &str) -> anyhow::Result<Vec<u8>> {
    let file = repository().join(format!(
        "tests/guests/target/wasm32-wasip2/release/{name}.wasm"
    ));
    std::fs::read(file).context("run `make test`")
}

/// Whether to run at full length, for published figures (`make chaos`), or in a short form.
pub fn full_length() -> bool {
    std::env::var_os("PATCHBAY_TEST_FULL").is_some()
}

/// The seed for random choices. It is printed; `PATCHBAY_TEST_SEED` repeats a run.
pub fn seed() -> u64 {
    let given = std::env::var("PATCHBAY_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("PATCHBAY_TEST_SEED={seed}");
    seed
}

fn packed(dir: &str) -> anyhow::Result<Vec<u8>> {
    let dir = repository().join(dir);
    let file = std::fs::read_dir(&dir)
        .with_context(|| format!("no packed plugin in {}: run `make test`", dir.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        });
    Ok(std::fs::read(
        file.context("no packed plugin: run `make test`")?,
    )?)
}

/// The same plugin with another digest: an additional custom section changes the file.
pub fn variant(component: &[u8], tag: &str) -> Vec<u8> {
    let mut out = component.to_vec();
    let name = b"test-variant";
    let length = 1 + name.len() + tag.len();
    assert!(length < 128, "a one-byte length");
    out.extend([0, length as u8, name.len() as u8]);
    out.extend(name);
    out.extend(tag.as_bytes());
    out
}

pub fn mail_job(n: usize) -> Value {
    json!({ "to": format!("person{n}@example.com"), "subject": format!("Message {n}"), "text": "Hello", "html": "<p>Hello</p>" })
}
