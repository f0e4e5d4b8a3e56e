//! A host as a process of its own: the release binary, started, told what to run, and measured from
//! outside.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use patchbay_queue::{Broker, RedisConfig};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// What a host needs to start.
pub struct Services {
    pub database_url: String,
    pub redis_url: String,
}

/// A running host; it ends when it is dropped.
pub struct HostProcess {
    child: Child,
    url: String,
    http: reqwest::Client,
    /// From the start of the process until it answered the probe.
    pub until_up: Duration,
}

impl Services {
    /// The shared Postgres with a database of this name that nobody used before, and the shared
    /// Redis, emptied.
    pub async fn fresh(name: &str) -> anyhow::Result<Self> {
        let variable = |name| std::env::var(name).context("run this with `make bench`");
        let shared = variable("PATCHBAY_TEST_DATABASE_URL")?;
        let mut postgres = PgConnection::connect(&shared).await?;
        sqlx::query(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut postgres)
            .await?;
        let server = shared.rsplit_once('/').context("a URL with a database")?.0;
        let services = Self {
            database_url: format!("{server}/{name}"),
            redis_url: variable("PATCHBAY_TEST_REDIS_URL")?,
        };
        redis::cmd("FLUSHDB")
            .query_async::<()>(&mut services.redis().await?)
            .await?;
        Ok(services)
    }

    pub async fn postgres(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url).await?)
    }

    pub async fn redis(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.redis_url.as_str())?
            .get_multiplexed_async_connection()
            .await?)
    }

    /// The queues that a host with these services works on.
    pub async fn queues(&self) -> anyhow::Result<Broker> {
        let (prefix, own_prefix) = ("bull".into(), "patchbay".into());
        Ok(Broker::connect(RedisConfig {
            url: self.redis_url.clone(),
            prefix,
            own_prefix,
            ..RedisConfig::default()
        })
        .await?)
    }
}

impl HostProcess {
    /// Starts one with its files in `dir`, and `settings` besides the usual environment; returns
    /// when it answers `probe` with 200.
    pub async fn start(
        services: &Services,
        dir: &Path,
        settings: &[(&str, String)],
        probe: &str,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let binary = std::env::current_exe()?.with_file_name("host");
        let started = Instant::now();
        let mut child = Command::new(binary)
            .arg("serve")
            .env_clear()
            .env("DATABASE_URL", &services.database_url)
            .env("REDIS_URL", &services.redis_url)
            .env("BULL_BOARD_USERNAME", "bench")
            .env("BULL_BOARD_PASSWORD", "bench")
            .env("PATCHBAY_HTTP_LISTEN", "127.0.0.1:0")
            .env("PATCHBAY_LOG_FORMAT", "json")
            .env("PATCHBAY_RUNTIME_CACHE_DIR", dir.join("host-cache"))
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let url = loop {
            let line = lines.next_line().await?.context("the host ended")?;
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"] == "patchbay is up" {
                break format!("http://{}", line["address"].as_str().context("an address")?);
            }
        };
        // Its log must go somewhere.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        loop {
            if http
                .get(format!("{url}{probe}"))
                .send()
                .await
                .is_ok_and(|response| response.status() == 200)
            {
                return Ok(Self {
                    child,
                    url,
                    http,
                    until_up: started.elapsed(),
                });
            }
            if started.elapsed() > Duration::from_secs(30) {
                bail!("the host does not answer {probe}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stages a file; gives its digest.
    pub async fn push(&self, component: Vec<u8>) -> anyhow::Result<String> {
        let staged = self
            .tell("/api/admin/plugins", "application/wasm", component)
            .await?;
        Ok(staged["digest"]
            .as_str()
            .with_context(|| staged.to_string())?
            .to_owned())
    }

    /// With all that it asks for.
    pub async fn activate(&self, plugin: &str, digest: &str) -> anyhow::Result<()> {
        let body = json!({ "digest": digest, "grant": true }).to_string();
        self.tell(
            &format!("/api/admin/plugins/{plugin}/activate"),
            "application/json",
            body.into_bytes(),
        )
        .await?;
        Ok(())
    }

    pub async fn set_secret(&self, plugin: &str, name: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/api/admin/plugins/{plugin}/secrets/{name}");
        let body = json!({ "value": value }).to_string();
        let request = self.http.put(format!("{}{path}", self.url));
        self.ask(&path, request, "application/json", body.into_bytes())
            .await?;
        Ok(())
    }

    /// From now on, its jobs wait, or run again.
    pub async fn pause(&self, queue: &str, is_paused: bool) -> anyhow::Result<()> {
        let what = if is_paused { "pause" } else { "resume" };
        let path = format!("/api/admin/queues/{queue}/{what}");
        self.tell(&path, "application/json", Vec::new()).await?;
        Ok(())
    }

    /// Gives the answer's data.
    async fn tell(&self, path: &str, content_type: &str, body: Vec<u8>) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}{path}", self.url));
        self.ask(path, request, content_type, body).await
    }

    async fn ask(
        &self,
        path: &str,
        request: reqwest::RequestBuilder,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Value> {
        let answer = request
            .basic_auth("bench", Some("bench"))
            .header("content-type", content_type)
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        anyhow::ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str::<Value>(&text)?["data"].take())
    }

    /// Posts JSON without a login; gives the answer, whatever its status.
    pub async fn post_json(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }

    pub fn address(&self) -> anyhow::Result<std::net::SocketAddr> {
        let address = self.url.strip_prefix("http://").context("a URL")?;
        Ok(address.parse()?)
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the host runs")
    }

    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        resident_mib(self.pid()?)
    }

    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

pub fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
