//! A Postgres of a test's own, which the test can stop and start. It is durable like a server in
//! production: committed data survives.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

/// A private server; stopped when dropped.
pub struct PostgresServer {
    pub url: String,
    pub port: u16,
    pub data: PathBuf,
    bin: PathBuf,
    /// Additional server options; the last one of a name counts.
    options: String,
}

impl PostgresServer {
    /// Every user must be allowed to traverse the path to `dir`.
    pub async fn start_new(dir: &Path) -> anyhow::Result<Self> {
        let server = Self::prepared(dir, "postgres").await?;
        server.start().await?;
        Ok(server)
    }

    /// A cluster that does not run yet.
    pub async fn prepared(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let server = Self::nothing_yet(dir, name).await?;
        server
            .run(
                "initdb",
                &[
                    "-U",
                    "postgres",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--locale=C",
                ],
            )
            .await?;
        Ok(server)
    }

    async fn nothing_yet(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let data = dir.join(name);
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let server = Self {
            url,
            port,
            data,
            bin: programs()?,
            options: String::new(),
        };
        server.owns(&server.data).await?;
        Ok(server)
    }

    /// Makes the server's user the owner of a file.
    pub async fn owns(&self, file: &Path) -> anyhow::Result<()> {
        if rustix::process::geteuid().is_root() {
            ensure!(
                Command::new("chown")
                    .arg("postgres:postgres")
                    .arg(file)
                    .status()
                    .await?
                    .success(),
                "chown"
            );
        }
        Ok(())
    }

    /// For the next start.
    pub fn with_options(mut self, options: &str) -> Self {
        self.options = options.to_owned();
        self
    }

    /// A running standby of this server.
    pub async fn standby(&self, dir: &Path) -> anyhow::Result<Self> {
        let standby = Self::nothing_yet(dir, "standby").await?;
        let port = self.port.to_string();
        let copy = [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
        ];
        standby.run("pg_basebackup", &copy).await?;
        standby.start().await?;
        Ok(standby)
    }

    /// Returns when the server answers.
    pub async fn start(&self) -> anyhow::Result<()> {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= {}",
            self.port, self.options
        );
        self.run(
            "pg_ctl",
            &["-w", "-t", "60", "-l", "/dev/null", "-o", &options, "start"],
        )
        .await
    }

    /// As an operator's restart that does not wait for clients.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.run("pg_ctl", &["-w", "-m", "fast", "stop"]).await
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let status = self.command(program).args(arguments).status().await?;
        ensure!(status.success(), "{program} {arguments:?}: {status}");
        Ok(())
    }

    /// Postgres refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        // The server would keep our pipes open.
        command
            .arg("-D")
            .arg(&self.data)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let mut stop = self.command("pg_ctl").into_std();
        stop.args(["-m", "immediate", "-w", "stop"]).status().ok();
    }
}

/// The directory of Postgres's programs.
pub fn programs() -> anyhow::Result<PathBuf> {
    let versioned = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versioned: Vec<PathBuf> = versioned.map(|entry| entry.path().join("bin")).collect();
    versioned.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = versioned
        .into_iter()
        .rev()
        .chain(std::env::split_paths(&path));
    all.find(|dir| dir.join("initdb").exists())
        .context("no initdb: run `make test`, which installs what it needs")
}
