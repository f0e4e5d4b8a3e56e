//! A private Redis with the durability that Patchbay needs: append-only file, no eviction.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use patchbay_queue::{Broker, RedisConfig};
use tokio::process::{Child, Command};

use super::free_port;
use crate::dev_state::{DevState, write_private};

/// Loading a large append-only file takes time.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);

pub(super) struct Redis {
    /// `None`: the server was left by a killed run.
    child: Option<Child>,
    port: u16,
    password: String,
    /// Its data and its log.
    dir: PathBuf,
}

/// The server's binary; otherwise what is missing and how to install it.
pub(super) fn find() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("redis-server"))
        .find(|file| file.exists());
    found.ok_or_else(|| {
        "Redis 7 (Debian, Ubuntu: apt-get install redis-server), or set REDIS_URL".to_owned()
    })
}

pub(super) async fn start(bin: PathBuf, state: &mut DevState) -> anyhow::Result<Redis> {
    let password = state.service_password.clone();
    // Two servers would damage the same append-only file: one that a killed run left is reused.
    if let Some(port) = state.redis_port {
        let left = Redis {
            child: None,
            port,
            password: password.clone(),
            dir: state.dir.join("redis"),
        };
        if left.answers().await {
            return Ok(left);
        }
    }
    let dir = state.dir.join("redis");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let port = free_port()?;
    let config = format!(
        "port {port}\nbind 127.0.0.1\nrequirepass {password}\ndir \"{}\"\nappendonly yes\nappendfsync everysec\nsave \"\"\n\
         maxmemory-policy noeviction\nlogfile \"{}\"\n",
        dir.display(),
        dir.join("server.log").display()
    );
    // In a file, because every user can see the command line.
    let file = dir.join("redis.conf");
    write_private(&file, config.as_bytes())?;
    state.redis_port = Some(port);
    state.save()?;
    let child = Command::new(bin)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Redis must not get Ctrl-C: it must run until the drain has ended.
        .process_group(0)
        .spawn()
        .context("cannot run redis-server")?;
    let mut server = Redis {
        child: Some(child),
        port,
        password,
        dir: dir.clone(),
    };
    let deadline = Instant::now() + START_LIMIT;
    while !server.answers().await {
        let ended = server
            .child
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten());
        if ended.is_some() || Instant::now() > deadline {
            bail!(
                "Redis does not start; see {}",
                dir.join("server.log").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(server)
}

impl Redis {
    pub(super) fn url(&self) -> String {
        format!("redis://default:{}@127.0.0.1:{}/", self.password, self.port)
    }

    /// Whether it runs. One that is slow for a moment is asked twice.
    pub(super) async fn runs(&self) -> bool {
        self.answers().await || self.answers().await
    }

    /// The file that says why it has ended.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    async fn answers(&self) -> bool {
        let config = RedisConfig {
            url: self.url(),
            prefix: "bull".into(),
            own_prefix: "patchbay".into(),
            ..RedisConfig::default()
        };
        let asked = async { Broker::connect(config).await.ok()?.ping().await.ok() };
        tokio::time::timeout(Duration::from_secs(2), asked)
            .await
            .ok()
            .flatten()
            .is_some()
    }

    pub(super) async fn stop(mut self) {
        if let Some(child) = &mut self.child {
            let pid = child
                .id()
                .and_then(|id| rustix::process::Pid::from_raw(id as i32));
            if let Some(pid) = pid {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
            if tokio::time::timeout(STOP_LIMIT, child.wait())
                .await
                .is_err()
            {
                eprintln!(
                    "Redis did not stop in time; it still runs on port {}",
                    self.port
                );
            }
        } else {
            let config = RedisConfig {
                url: self.url(),
                prefix: "bull".into(),
                own_prefix: "patchbay".into(),
                ..RedisConfig::default()
            };
            if let Ok(queues) = Broker::connect(config).await {
                queues.shut_server_down().await;
            }
        }
    }
}
