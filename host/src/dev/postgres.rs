//! A private Postgres. Under root it runs as the user `postgres`, with its data where that user can
//! read it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::free_port;
use crate::dev_state::DevState;
use crate::dev_state::write_private;

const USER: &str = "patchbay";
/// The oldest version that the migrations are tested with.
const OLDEST: u32 = 15;

pub(super) struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    password: String,
}

/// The newest usable installation; otherwise what is missing and how to install it.
pub(super) fn find() -> Result<PathBuf, String> {
    let versioned = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<(u32, PathBuf)> = versioned
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(version, bin)| *version >= OLDEST && bin.join("initdb").exists())
        .collect();
    found.sort();
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .find(|dir| dir.join("initdb").exists() && dir.join("pg_ctl").exists())
    };
    found.pop().map(|(_, bin)| bin).or_else(on_path).ok_or_else(|| {
        format!("PostgreSQL {OLDEST} or newer (Debian, Ubuntu: apt-get install postgresql), or set DATABASE_URL")
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Postgres's commands refuse to run as root.
fn command(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    // Postgres's user may not be allowed to read the current directory.
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(false);
    command
}

async fn run(mut command: Command, what: &str) -> anyhow::Result<()> {
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {what}"))?;
    if !output.status.success() {
        bail!(
            "{what} failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn data_dir(dir: &Path) -> PathBuf {
    if is_root() {
        let name = hex::encode(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..6]);
        PathBuf::from("/var/lib/patchbay-dev").join(name)
    } else {
        dir.join("postgres")
    }
}

pub(super) async fn start(bin: PathBuf, state: &mut DevState) -> anyhow::Result<Postgres> {
    let data = data_dir(&state.dir);
    if state.is_new && data.exists() {
        forget(&bin, &data).await?;
    }
    if !data.join("PG_VERSION").exists() {
        initialise(&bin, &data, state).await?;
    }
    // A killed `patchbay dev` leaves its server running: use that one.
    if let Some(port) = running_port(&bin, &data).await {
        return Ok(Postgres {
            bin,
            data,
            port,
            password: state.service_password.clone(),
        });
    }
    let port = free_port()?;
    let mut start = command(&bin.join("pg_ctl"));
    start
        .arg("-D")
        .arg(&data)
        .arg("-l")
        .arg(data.join("server.log"))
        .arg("-o")
        .arg(format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        ))
        .args(["-w", "-t", "60", "start"])
        // The server would keep our pipes open, and waiting for their end would never return.
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = start.status().await.context("cannot run pg_ctl")?;
    if !status.success() {
        bail!(
            "Postgres does not start; see {}",
            data.join("server.log").display()
        );
    }
    Ok(Postgres {
        bin,
        data,
        port,
        password: state.service_password.clone(),
    })
}

/// Deletes data whose passwords were deleted with their directory (for example by `make clean`):
/// nobody can use it any more.
async fn forget(bin: &Path, data: &Path) -> anyhow::Result<()> {
    if running_port(bin, data).await.is_some() {
        let mut stop = command(&bin.join("pg_ctl"));
        stop.arg("-D")
            .arg(data)
            .args(["-m", "immediate", "-w", "stop"]);
        run(stop, "pg_ctl stop").await?;
    }
    std::fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))
}

async fn initialise(bin: &Path, data: &Path, state: &DevState) -> anyhow::Result<()> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    let password_file = data.with_extension("pw");
    write_private(&password_file, state.service_password.as_bytes())?;
    if is_root() {
        let mut chown = Command::new("chown");
        chown.arg("postgres:postgres").arg(data).arg(&password_file);
        run(chown, "chown")
            .await
            .context("as root, the system user postgres is needed")?;
    }
    let mut initdb = command(&bin.join("initdb"));
    initdb
        .arg("-D")
        .arg(data)
        .arg("-U")
        .arg(USER)
        .arg(format!("--pwfile={}", password_file.display()))
        .args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
    let made = run(initdb, "initdb").await;
    std::fs::remove_file(&password_file).ok();
    made
}

/// While a server runs, line 4 of postmaster.pid is its port.
async fn running_port(bin: &Path, data: &Path) -> Option<u16> {
    let mut status = command(&bin.join("pg_ctl"));
    status
        .arg("-D")
        .arg(data)
        .arg("status")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !status.status().await.ok()?.success() {
        return None;
    }
    std::fs::read_to_string(data.join("postmaster.pid"))
        .ok()?
        .lines()
        .nth(3)?
        .trim()
        .parse()
        .ok()
}

fn refused(file: &Path, told: Option<String>) -> anyhow::Result<()> {
    match told {
        None => Ok(()),
        Some(told) => bail!("{} cannot be run: Postgres answers {told}", file.display()),
    }
}

/// Codes of Postgres for a schema, a table and a type that are there already.
const EXISTS: [&str; 3] = ["42P06", "42P07", "42710"];

impl Postgres {
    /// Runs a file of statements in one transaction. What exists already stays as it is.
    pub(super) async fn make_tables(&self, file: &Path) -> anyhow::Result<()> {
        match self.told_by(file).await? {
            Some(told) if EXISTS.iter().any(|code| told.contains(code)) => Ok(()),
            told => refused(file, told),
        }
    }

    /// Runs a file of statements in one transaction.
    pub(super) async fn run_file(&self, file: &Path) -> anyhow::Result<()> {
        refused(file, self.told_by(file).await?)
    }

    /// What Postgres answers to a file of statements, if it refuses one: then none is done.
    async fn told_by(&self, file: &Path) -> anyhow::Result<Option<String>> {
        let name = file.display();
        let statements =
            std::fs::File::open(file).with_context(|| format!("cannot read {name}"))?;
        let output = Command::new(self.bin.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--single-transaction"])
            .args(["-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate"])
            .args(["--host", "127.0.0.1", "--username", USER])
            .args(["--port", &self.port.to_string(), "--dbname", "postgres"])
            .env("PGPASSWORD", &self.password)
            .stdin(Stdio::from(statements))
            .output()
            .await
            .context("cannot run psql")?;
        let told = String::from_utf8_lossy(&output.stderr);
        Ok((!output.status.success()).then(|| told.trim().to_owned()))
    }

    pub(super) fn url(&self) -> String {
        format!(
            "postgres://{USER}:{}@127.0.0.1:{}/postgres",
            self.password, self.port
        )
    }

    /// Whether a server runs on its data. One that stops for a moment is asked twice.
    pub(super) async fn runs(&self) -> bool {
        for _ in 0..2 {
            if running_port(&self.bin, &self.data).await.is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        false
    }

    /// The file that says why it has ended.
    pub(super) fn log(&self) -> PathBuf {
        self.data.join("server.log")
    }

    pub(super) async fn stop(self) {
        let mut stop = command(&self.bin.join("pg_ctl"));
        stop.arg("-D")
            .arg(&self.data)
            .args(["-m", "fast", "-w", "stop"]);
        if let Err(error) = run(stop, "pg_ctl stop").await {
            eprintln!("Postgres may still run: {error:#}");
        }
    }
}
