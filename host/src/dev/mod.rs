//! `patchbay dev`: a whole installation on one machine, without configuration.
//!
//! Starts a private Postgres and Redis where none is configured, catches mail, and loads the
//! plugins of a folder. All its data is in one directory; it stops everything that it has started.

mod mail_catcher;
mod overrides;
mod postgres;
mod redis;
mod watch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::plugins::{PluginSummary, PluginsList, SignedComponent};
use patchbay_cli::{Client, Output, plain};
use patchbay_model::shell::word;

use crate::boot::Host;
use crate::config::{self, Config};

pub(crate) use crate::dev_state::DevState;
pub use mail_catcher::{CaughtMail, MailCatcher};
use watch::Watch;

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Directory for all data
    #[arg(long, default_value = ".patchbay", value_name = "DIR")]
    dir: PathBuf,
    /// Folder whose */dist/*.wasm are pushed and activated
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    plugins: PathBuf,
    /// Build, push and activate plugins whenever their sources are saved: those in --plugins, and
    /// the folders DIR with a plugin.toml
    #[arg(long, value_name = "DIR", num_args = 0..)]
    watch: Option<Vec<String>>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MailCommand {
    /// List caught mails, newest last
    List,
    /// Print one mail as it was received
    Show {
        /// File name, as listed
        file: String,
    },
}

pub(crate) fn run_mail(command: MailCommand, output: Output) -> anyhow::Result<()> {
    let state = DevState::find().context("`patchbay dev` has not run in this directory")?;
    match command {
        MailCommand::List => {
            let mails = mail_catcher::read_all(&state.mail_dir)?;
            let rows = mails
                .iter()
                .map(|mail| vec![mail.file.clone(), mail.to.join(", "), mail.subject.clone()])
                .collect();
            output.table(&["FILE", "TO", "SUBJECT"], rows, &mails);
            if mails.is_empty() {
                output.note(&format!("No mail yet in {}", state.mail_dir.display()));
            }
        }
        MailCommand::Show { file } => {
            let name = Path::new(&file).file_name().context("not a file name")?;
            let path = state.mail_dir.join(name);
            let mail = match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let text = format!("There is no mail {file}. See: patchbay mail list");
                    return Err(patchbay_cli::NotFound(text).into());
                }
                mail => mail.with_context(|| format!("cannot read {}", path.display()))?,
            };
            std::io::stdout().write_all(&mail)?;
        }
    }
    Ok(())
}

pub(crate) async fn run(args: DevArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let environment = config::environment();
    // Problems are reported later, when the configuration is complete.
    let (set, _) = Config::read_dev(file, &environment);
    let own_postgres = !set.database.url.is_set() && !set.database.host.is_set();
    let own_redis =
        !set.redis.url.is_set() && !set.redis.host.is_set() && !set.redis.sentinels.is_set();
    let own_mail = !set.mail.host.is_set() && !set.mail.username.is_set();

    for line in overrides::told(&set) {
        println!("{}", plain(&line));
    }

    let mut missing = Vec::new();
    let postgres_bin = own_postgres
        .then(postgres::find)
        .and_then(|found| found.map_err(|need| missing.push(need)).ok());
    let redis_bin = own_redis
        .then(redis::find)
        .and_then(|found| found.map_err(|need| missing.push(need)).ok());
    if !missing.is_empty() {
        bail!("missing on this machine:\n  - {}", missing.join("\n  - "));
    }

    let watch = args
        .watch
        .map(|more| {
            let more = more.into_iter().map(PathBuf::from).collect();
            Watch::begin(&args.plugins, more)
        })
        .transpose()?;
    let mut state = DevState::open(&args.dir)?;
    let _only_one = state.lock()?;
    // As if these values were set in the environment.
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut database = None;
    if let Some(bin) = postgres_bin {
        let server = step("PostgreSQL", postgres::start(bin, &mut state)).await?;
        given.insert("DATABASE_URL".into(), server.url());
        database = Some(server);
    }
    let mut queue_server = None;
    if let Some(bin) = redis_bin {
        let server = step("Redis", redis::start(bin, &mut state)).await?;
        given.insert("REDIS_URL".into(), server.url());
        queue_server = Some(server);
    }
    let mut catcher = None;
    if own_mail {
        let mail = MailCatcher::start(&state.mail_dir)
            .await
            .context("cannot start the mail catcher")?;
        given.insert(
            set.mail.host.entry.variable.clone(),
            mail.address.ip().to_string(),
        );
        given.insert(
            set.mail.port.entry.variable.clone(),
            mail.address.port().to_string(),
        );
        given.insert(set.mail.tls.entry.variable.clone(), "none".into());
        if !set.mail.from.is_set() {
            given.insert(
                set.mail.from.entry.variable.clone(),
                "Patchbay <demo@patchbay.example>".into(),
            );
        }
        catcher = Some(mail);
    }
    if !set.admin.username.is_set() {
        given.insert(
            set.admin.username.entry.variable.clone(),
            state.user.clone(),
        );
        given.insert(
            set.admin.password.entry.variable.clone(),
            state.password.clone(),
        );
    }
    // In a database of somebody else, it would make a table of accounts.
    if database.is_some() && !set.people.enabled.is_set() {
        given.insert(set.people.enabled.entry.variable.clone(), "true".into());
    }
    if !set.log.filter.is_set() {
        given.insert(
            set.log.filter.entry.variable.clone(),
            // Without their spans, lines would not say of which request or job they are.
            "warn,guest=info,patchbay_http::request_id=info,patchbay_work::attempt=info,patchbay_work::invoke=info".into(),
        );
    }
    if !set.http.listen.is_set() {
        let address = free_listen_address(USUAL_PORT)?;
        if !address.ends_with(&format!(":{USUAL_PORT}")) {
            println!(
                "port {USUAL_PORT} is in use by something else: Patchbay listens on {address}"
            );
        }
        given.insert(set.http.listen.entry.variable.clone(), address);
    }
    if !set.secrets.key.is_set() && !set.secrets.key_file.is_set() {
        given.insert(
            set.secrets.key_file.entry.variable.clone(),
            state.master_key_file()?.display().to_string(),
        );
    }
    let outcome = async {
        let config = Config::of_dev(file, given.clone())?;
        let logging = patchbay_telemetry::start(*config.log.as_json, &config.log.filter)?;
        let operator = config.admin.operator();
        let scheme = if config.http.tls().is_some() {
            "https"
        } else {
            "http"
        };
        let host = step("Patchbay", Host::start(config, &logging)).await?;
        state.url = format!("{scheme}://{}", reachable(host.address()));
        if let Some((user, password)) = operator {
            (state.user, state.password) = (user, password);
        }
        state.given = given;
        state.inherited = set.variables(&environment);
        state.config_file = Config::file_of_dev(file);
        state.save()?;
        let loaded = load_plugins(&args.plugins, &state, database.as_ref()).await;
        print_welcome(&state, catcher.as_ref(), &loaded);
        let client = Client::new(
            state.url.clone(),
            state.user.clone(),
            Some(state.password.clone()),
        )?;
        let watching = watch.map(|watch| tokio::spawn(watch.run(client)));
        let ended = tokio::select! {
            ended = host.run_until_signal() => ended,
            never = tell_of_dead_servers(database.as_ref(), queue_server.as_ref()) => match never {},
        };
        if let Some(watching) = watching {
            watching.abort();
            // This also ends a build that it may be waiting for.
            watching.await.ok();
        }
        ended
    }
    .await;
    // In any case, the servers that were started are stopped.
    if let Some(server) = queue_server {
        server.stop().await;
    }
    if let Some(server) = database {
        server.stop().await;
    }
    outcome
}

/// How often the servers are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Says once of each server that was started that it runs no more. Never ends.
async fn tell_of_dead_servers(
    database: Option<&postgres::Postgres>,
    queue_server: Option<&redis::Redis>,
) -> Infallible {
    let (mut told_database, mut told_redis) = (false, false);
    let say = |server: &str, log: &Path| {
        eprintln!(
            "{server} has ended, although Patchbay did not stop it. Until it runs again, {}. Why: {}. Stop this command with Ctrl-C and start it \
             again: that starts {server}, too, and no data is lost",
            match server {
                "Redis" => "no job runs and none can be added",
                _ => "nothing can be recorded or changed, and jobs still run",
            },
            log.display()
        );
    };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(server) = database.filter(|_| !told_database)
            && !server.runs().await
        {
            say("PostgreSQL", &server.log());
            told_database = true;
        }
        if let Some(server) = queue_server.filter(|_| !told_redis)
            && !server.runs().await
        {
            say("Redis", &server.log());
            told_redis = true;
        }
    }
}

async fn step<T>(what: &str, act: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let started = Instant::now();
    eprintln!("starting {what}…");
    let done = act.await?;
    eprintln!(
        "  {what} is up after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(done)
}

/// The port of `patchbay serve`, used if it is free; otherwise any free port.
const USUAL_PORT: u16 = 8080;

fn free_listen_address(usual: u16) -> anyhow::Result<String> {
    let bound = std::net::TcpListener::bind(("127.0.0.1", usual))
        .or_else(|_| std::net::TcpListener::bind("127.0.0.1:0"));
    Ok(bound.context("no free port")?.local_addr()?.to_string())
}

/// For servers whose port must be chosen in advance.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")
        .context("no free port")?
        .local_addr()?
        .port())
}

/// The address at which local clients reach a server that listens on all addresses.
fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    address
}

/// What became of the plugins of a folder, one text per plugin.
#[derive(Debug, Default)]
struct LoadedPlugins {
    loaded: Vec<String>,
    /// Active, and not from the folder.
    active_before: Vec<String>,
    /// With the reason, and what to do.
    not_loaded: Vec<String>,
}

/// Pushes and activates the newest packed file of each plugin folder. Tables that a plugin works on and
/// does not own, its folder may have as `tables.sql`: they are made in our own Postgres only.
async fn load_plugins(
    dir: &Path,
    state: &DevState,
    own: Option<&postgres::Postgres>,
) -> LoadedPlugins {
    let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    folders.sort();
    let mut plugins = LoadedPlugins::default();
    for folder in folders {
        let Some(file) = newest_component(&folder.join("dist")) else {
            if folder.join("plugin.toml").exists() {
                plugins.not_loaded.push(not_built(&folder));
            }
            continue;
        };
        let tables = folder.join("tables.sql");
        if let Some(postgres) = own.filter(|_| tables.exists())
            && let Err(error) = postgres.make_tables(&tables).await
        {
            plugins.not_loaded.push(refused(&file, &error));
            continue;
        }
        match load_plugin(&file, state).await {
            Ok(line) => plugins.loaded.push(line),
            Err(error) => plugins.not_loaded.push(refused(&file, &error)),
        }
    }
    plugins.active_before = active_before(state, &plugins.loaded).await;
    plugins
}

/// The active plugins that are not among the lines `loaded`. Empty if the host does not say.
async fn active_before(state: &DevState, loaded: &[String]) -> Vec<String> {
    let (user, password) = (state.user.clone(), Some(state.password.clone()));
    let Ok(client) = Client::new(state.url.clone(), user, password) else {
        return Vec::new();
    };
    let Ok(plugins) = client.ask::<PluginsList>((), NoQuery {}, NoBody).await else {
        return Vec::new();
    };
    let line = |known: &PluginSummary| {
        let digest = patchbay_cli::short(&known.digest);
        format!("{} {} ({digest})", known.name, known.version)
    };
    let active = plugins.data.iter().filter(|known| known.active);
    let is_new = |line: &String| !loaded.contains(line);
    active.map(line).filter(is_new).collect()
}

fn not_built(folder: &Path) -> String {
    let folder = folder.display().to_string();
    let folder = word(&folder);
    format!(
        "{folder}: it is not built: there is no .wasm file in its folder dist. Build it with: patchbay plugin build {folder}"
    )
}

fn refused(file: &Path, error: &anyhow::Error) -> String {
    let file = file.display().to_string();
    let file = word(&file);
    format!(
        "{file}: {error:#}. When that is corrected: patchbay plugin push {file} --activate --grant"
    )
}

fn newest_component(dist: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dist)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let components = entries.filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "wasm")
    });
    components.max_by_key(|path| {
        path.metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
    })
}

async fn load_plugin(file: &Path, state: &DevState) -> anyhow::Result<String> {
    let client = Client::new(
        state.url.clone(),
        state.user.clone(),
        Some(state.password.clone()),
    )?;
    let component = std::fs::read(file)?;
    let name = file.display().to_string();
    let signatures = patchbay_cli::signatures_for(file, None)?;
    let file = SignedComponent {
        component,
        signatures,
        source: None,
    };
    let staged = step(&name, async { Ok(client.push(file).await?) })
        .await?
        .data;
    let (plugin, digest) = (staged.plugin, staged.digest.to_string());
    let none = NoQuery {};
    let plugins = client.ask::<PluginsList>((), none, NoBody).await?.data;
    // What is active already needs no activation, and no record of one; unless it lacks grants.
    let is_active = plugins
        .iter()
        .any(|known| known.name == plugin.as_str() && known.active && known.digest == digest);
    if !is_active || !staged.missing.is_empty() {
        client.activate(plugin.as_str(), &digest, true).await?;
    }
    Ok(format!(
        "{plugin} {} ({})",
        staged.version,
        patchbay_cli::short(&digest)
    ))
}

fn print_welcome(state: &DevState, mail: Option<&MailCatcher>, plugins: &LoadedPlugins) {
    let service = |variable| {
        state
            .given
            .get(variable)
            .map_or("as configured", String::as_str)
    };
    let (database, redis) = (service("DATABASE_URL"), service("REDIS_URL"));
    println!();
    println!("Patchbay runs.");
    println!(
        "  API       {}/api/admin   health: {0}/api/health   OpenAPI: {0}/api/openapi.json",
        state.url
    );
    println!("  operator  {} / {}", state.user, state.password);
    println!("  Postgres  {database}");
    println!("  Redis     {redis}");
    if let Some(mail) = mail {
        println!(
            "  mail      smtp://{} → {}",
            mail.address,
            state.mail_dir.display()
        );
    }
    for line in &plugins.active_before {
        println!("  plugin    {}, active since before", plain(line));
    }
    let is_none = plugins.active_before.is_empty() && plugins.loaded.is_empty();
    if is_none && plugins.not_loaded.is_empty() {
        println!(
            "  plugins   none found; push one with: patchbay plugin push FILE --activate --grant"
        );
    }
    for line in &plugins.loaded {
        println!("  plugin    {line}");
    }
    for line in &plugins.not_loaded {
        println!("  NOT LOADED  {}", plain(line));
    }
    println!();
    println!("Try, in another terminal here:");
    let program = std::env::args().next().unwrap_or_else(|| "patchbay".into());
    if plugins.loaded.iter().any(|line| line.starts_with("email ")) {
        println!(
            r#"  {program} job add emailQueue send '{{"to":"you@example.com","subject":"Hello","text":"It works"}}'"#
        );
        println!("  {program} mail list");
    }
    println!("  {program} plugin list");
    println!("Ctrl-C stops everything.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_was_not_loaded_says_why_and_what_to_do() {
        assert_eq!(
            not_built(Path::new("my plugins/email")),
            "'my plugins/email': it is not built: there is no .wasm file in its folder dist. Build it with: \
             patchbay plugin build 'my plugins/email'"
        );
        let error = anyhow::anyhow!("its signature is missing");
        assert_eq!(
            refused(Path::new("email/dist/email.wasm"), &error),
            "email/dist/email.wasm: its signature is missing. When that is corrected: \
             patchbay plugin push email/dist/email.wasm --activate --grant"
        );
    }
}
