//! A Redis that the test can stop and start, and a proxy to a server that can go silent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::harness::until;

/// A private server with an append-only file, as in production, unless its arguments differ.
pub struct RedisServer {
    pub url: String,
    pub port: u16,
    pub dir: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    pub async fn start_new(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, "redis", &[]).await
    }

    /// `args` override the usual arguments; `name` is the name of its directory.
    pub async fn start_with(dir: &Path, name: &str, args: &[&str]) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir)?;
        let args = args
            .iter()
            .map(|arg| arg.replace("PORT", &port.to_string()))
            .collect();
        let mut server = Self {
            url: format!("redis://127.0.0.1:{port}/"),
            port,
            dir,
            args,
            child: None,
        };
        server.start().await?;
        Ok(server)
    }

    /// A Sentinel that watches this master; it fails over when that is away for a second.
    pub async fn start_sentinel(dir: &Path, master: &Self, password: &str) -> anyhow::Result<Self> {
        let config = format!(
            "requirepass {password}\nsentinel monitor mymaster 127.0.0.1 {} 1\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n",
            master.port
        );
        std::fs::write(dir.join("sentinel.conf"), config)?;
        let file = dir.join("sentinel.conf");
        let mut sentinel = Self::start_with(
            dir,
            "sentinel",
            &[
                file.to_str().context("a path")?,
                "--sentinel",
                "--port",
                "PORT",
            ],
        )
        .await?;
        sentinel.url = format!("redis://:{password}@127.0.0.1:{}/", sentinel.port);
        Ok(sentinel)
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Sends a command over a new connection.
    pub async fn ask<T: redis::FromRedisValue>(&self, command: &str) -> anyhow::Result<T> {
        let mut connection = redis::Client::open(self.url.as_str())?
            .get_multiplexed_async_connection()
            .await?;
        let mut words = command.split_whitespace();
        let mut asked = redis::cmd(words.next().context("a command")?);
        for word in words {
            asked.arg(word);
        }
        Ok(asked.query_async(&mut connection).await?)
    }

    /// Returns when the server answers.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("redis-server");
        let is_usual = !self.args.iter().any(|arg| arg == "--sentinel");
        if is_usual {
            command
                .args([
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "yes",
                    "--maxmemory-policy",
                    "noeviction",
                ])
                .args(["--port", &self.port.to_string(), "--logfile", "server.log"]);
        }
        let child = command
            .args(&self.args)
            .current_dir(&self.dir)
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("redis-server")?;
        self.child = Some(child);
        let (url, address) = (self.url.clone(), self.address());
        let is_plain = !self
            .args
            .iter()
            .any(|arg| arg == "--tls-port" || arg == "--requirepass" || arg == "--sentinel");
        until(Duration::from_secs(20), "Redis answers", async || {
            if !is_plain {
                return Ok(TcpStream::connect(address).await.is_ok().then_some(()));
            }
            let client = redis::Client::open(url.as_str())?;
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                return Ok(None);
            };
            let answer: redis::RedisResult<String> =
                redis::cmd("PING").query_async(&mut connection).await;
            Ok(answer.is_ok().then_some(()))
        })
        .await
    }

    /// As an operator's restart: it writes its data first.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("running")?;
        let pid = rustix::process::Pid::from_raw(child.id().context("running")?.try_into()?)
            .context("pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        child.wait().await?;
        Ok(())
    }
}

/// Forwards to a server until it goes silent, as behind a dead router: connections stay open and
/// nothing moves; later ones work. Or until it refuses, as if there were no server.
pub struct SilentProxy {
    pub address: SocketAddr,
    generation: Arc<watch::Sender<u64>>,
    refuses: Arc<AtomicBool>,
}

impl SilentProxy {
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let generation = Arc::new(watch::Sender::new(0));
        let current = Arc::clone(&generation);
        let refuses = Arc::new(AtomicBool::new(false));
        let refusing = Arc::clone(&refuses);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if refusing.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(upstream) = TcpStream::connect(server).await else {
                    continue;
                };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = upstream.into_split();
                tokio::spawn(forward(client_read, server_write, current.subscribe()));
                tokio::spawn(forward(server_read, client_write, current.subscribe()));
            }
        });
        Ok(Self {
            address,
            generation,
            refuses,
        })
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Applies to the connections that are open now.
    pub fn go_silent(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut generation: watch::Receiver<u64>,
) {
    generation.mark_unchanged();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            biased;
            _ = generation.changed() => break,
            read = from.read(&mut buffer) => {
                let Ok(n @ 1..) = read else { return };
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
    // Both halves stay open and unused.
    std::future::pending::<()>().await;
}
