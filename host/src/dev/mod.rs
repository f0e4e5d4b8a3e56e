//! `patchbay dev`: a whole installation on one machine, without configuration.
//!
//! Starts a private Postgres and Redis where none is configured, catches mail, and loads the
//! plugins of a folder. All its data is in one directory; it stops everything that it has started.

mod demo;
mod mail_catcher;
mod overrides;
mod plugins;
mod postgres;
mod redis;
mod stand_in;
mod watch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use parking_lot::Mutex;
use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::operators::OperatorBasicShow;
use patchbay_cli::{Client, Output, plain};
use patchbay_http::OwnKey;

use crate::boot::Host;
use crate::config::{self, Config};

pub(crate) use crate::dev_state::DevState;
use demo::Stage;
pub use mail_catcher::{CaughtMail, MailCatcher};
use plugins::{LoadedPlugins, Target};
use watch::Watch;

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Directory for all data
    #[arg(long, default_value = ".patchbay", value_name = "DIR")]
    dir: PathBuf,
    /// Folder whose */dist/*.wasm are pushed and activated
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    plugins: PathBuf,
    /// Set up everything that plugins with a demo.toml need of their vendors: local stand-ins, made-up
    /// settings, secrets and rows; prints commands to try
    #[arg(long, conflicts_with = "watch")]
    demo: bool,
    /// The program with the stand-ins [default: stand-in, beside this program]
    #[arg(long, value_name = "PROGRAM", requires = "demo")]
    stand_in: Option<PathBuf>,
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

    let stand_ins = match args.demo {
        true if !own_postgres => bail!(
            "--demo makes tables, accounts and made-up secrets, so it needs the private Postgres of dev. Unset DATABASE_URL and DB_HOST"
        ),
        true => Some(stand_in::program(args.stand_in.as_deref())?),
        false => None,
    };
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
    let (mut catcher, mut mail_server) = (None, None);
    if own_mail && let Some(program) = &stand_ins {
        mail_server = demo::mail_server(&args.plugins, program, &mut state).await?;
    }
    if let Some(server) = &mail_server {
        let mail = &set.mail;
        for (entry, value) in [
            (&mail.host.entry, server.address.ip().to_string()),
            (&mail.port.entry, server.address.port().to_string()),
            (&mail.tls.entry, "none".to_owned()),
            (&mail.username.entry, server.username.clone()),
            (&mail.password.entry, server.password.clone()),
        ] {
            given.insert(entry.variable.clone(), value);
        }
        if !mail.from.is_set() {
            given.insert(mail.from.entry.variable.clone(), server.username.clone());
        }
    } else if own_mail {
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
        let (key, own_token) = OwnKey::of(&rand::random());
        let host = step("Patchbay", Host::start_with(config, &logging, Some(key))).await?;
        state.url = format!("{scheme}://{}", reachable(host.address()));
        if let Some((user, password)) = operator {
            (state.user, state.password) = (user, password);
        }
        state.given = given;
        state.inherited = set.variables(&environment);
        state.config_file = Config::file_of_dev(file);
        state.save()?;
        let client = Client::with_token(state.url.clone(), own_token)?;
        let running = mail_server.take().map(|server| server.stand_in);
        let running = Mutex::new(running);
        let place = stand_ins.as_deref().zip(database.as_ref());
        let target = Target {
            client: &client,
            own: database.as_ref(),
            stage: place.map(|(program, postgres)| Stage {
                client: &client,
                postgres,
                program,
                host: state.url.clone(),
                mail: running,
            }),
        };
        // Stand-ins run until it is dropped, after the drain.
        let loaded = plugins::load_all(&args.plugins, &target, &mut state).await;
        let opens = what_login_opens(&client).await;
        print_welcome(&state, &opens, catcher.as_ref(), &loaded);
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

/// What is to be said of the login that is printed, if it no longer opens everything.
async fn what_login_opens(client: &Client) -> String {
    let shown = client
        .ask::<OperatorBasicShow>((), NoQuery {}, NoBody)
        .await;
    let mode = shown.map(|shown| shown.data.mode);
    let opens = match mode.as_deref() {
        Ok("board") => "opens only Bull Board and metrics",
        Ok("off") => "opens nothing",
        // What is not known now is not said.
        _ => return String::new(),
    };
    format!("   it {opens}; log in with a name of your own: patchbay login NAME")
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

fn print_welcome(
    state: &DevState,
    opens: &str,
    mail: Option<&MailCatcher>,
    plugins: &LoadedPlugins,
) {
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
    println!("  console   {}/admin/queues", state.url);
    println!("  operator  {} / {}{opens}", state.user, state.password);
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
        if mail.is_some() {
            println!("  {program} mail list");
        }
    }
    println!("  {program} plugin list");
    for line in &plugins.demos {
        println!("{}", plain(line));
    }
    println!("Ctrl-C stops everything.");
}
