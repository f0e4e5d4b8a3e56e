//! Postgres behind a real PgBouncer.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio::process::{Child, Command};

use crate::harness::{World, hostile_plugin, statements_plugin, until};
use crate::postgres_server::PostgresServer;
use crate::sql;

struct PgBouncer {
    port: u16,
    _process: Child,
}

impl PgBouncer {
    /// In front of the tests' server; `mode` is its `pool_mode`. It asks Postgres for plugins'
    /// logins, which it cannot know beforehand.
    async fn start(world: &World, mode: &str, more: &str) -> anyhow::Result<Self> {
        let how = format!(
            "pool_mode = {mode}\nauth_type = trust\nauth_user = postgres\n\
             auth_query = select rolname, rolpassword from pg_authid where rolname = $1\n{more}"
        );
        Self::before(world, &world.database_url, "\"postgres\" \"\"", &how).await
    }

    /// In front of the server of `url`, with one line for its file of users.
    async fn before(world: &World, url: &str, user: &str, how: &str) -> anyhow::Result<Self> {
        let server: reqwest::Url = url.parse()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let dir = world.dir.path().join(format!("pgbouncer-{port}"));
        std::fs::create_dir(&dir)?;
        let users = dir.join("users.txt");
        std::fs::write(&users, format!("{user}\n"))?;
        let (database, users) = (server.path().trim_start_matches('/'), users.display());
        let behind = format!(
            "host=127.0.0.1 port={} dbname={database}",
            server.port().context("a port")?
        );
        let settings = format!(
            "[databases]\n{database} = {behind}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_file = {users}\ndefault_pool_size = 60\n{how}\n"
        );
        let file = dir.join("pgbouncer.ini");
        std::fs::write(&file, settings)?;
        open_to_all(world.dir.path())?;
        open_to_all(&dir)?;
        // PgBouncer refuses to run as root.
        let is_root = rustix::process::geteuid().is_root();
        let mut command = Command::new(if is_root { "setpriv" } else { "pgbouncer" });
        if is_root {
            command.args([
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
                "pgbouncer",
            ]);
        }
        command
            .arg(&file)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let process = command
            .spawn()
            .context("run `make test`, which installs what it needs")?;
        until(Duration::from_secs(20), "PgBouncer", async || {
            Ok(tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .ok())
        })
        .await?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    fn url(&self, world: &World) -> anyhow::Result<String> {
        let mut url: reqwest::Url = world.database_url.parse()?;
        url.set_port(Some(self.port)).ok().context("a port")?;
        Ok(url.into())
    }
}

fn open_to_all(dir: &Path) -> anyhow::Result<()> {
    Ok(std::fs::set_permissions(
        dir,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?)
}

#[tokio::test]
async fn by_sessions_everything_works_wherever_the_pooler_loses_what_stands_in_the_startup_packet()
-> anyhow::Result<()> {
    let world = sql::world().await?;
    let usual = PgBouncer::start(
        &world,
        "session",
        "ignore_startup_parameters = extra_float_digits,options",
    )
    .await?;
    let url = usual.url(&world)?;
    let host = world.host(&[("DATABASE_URL", &url)]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let plugin = statements_plugin(|manifest| {
        manifest.replace("deadline_ms = 10_000", "deadline_ms = 2_000")
    })?;
    host.deploy("statements", plugin).await?;
    let job = host.add("hostileQueue", json!({ "name": "noop" })).await?;
    host.job_in("hostileQueue", &job, "completed").await?;
    let rows = sql::query(&host, "select id from crm.leads order by id").await?;
    ensure!(rows.to_string().contains('1'), "{rows}");
    let mut database = world.database().await?;
    let tables = "select table_schema::text, count(*) from information_schema.tables \
         where table_schema in ('patchbay', 'public') and table_name not like 'email%' group by 1";
    let tables: Vec<(String, i64)> = sqlx::query_as(tables).fetch_all(&mut database).await?;
    ensure!(tables.len() == 1 && tables[0].0 == "patchbay", "{tables:?}");
    // A statement past its deadline is ended through the pooler too, and the login still works.
    let late = host
        .add(
            "sqlQueue",
            json!({ "name": "each", "data": [{ "query": "select pg_sleep(60)" }], "attempts": 1 }),
        )
        .await?;
    host.job_in("sqlQueue", &late, "failed").await?;
    sql::query(&host, "select id from crm.leads order by id").await?;
    let (status, answer) = host.get("/readyz").await?;
    assert_eq!(status, 200, "{answer}");
    ensure!(host.stop().await?.success(), "it ends in order");

    // A pooler that refuses unknown parameters.
    let strict = PgBouncer::start(&world, "session", "").await?;
    let url = strict.url(&world)?;
    let (code, said) = world.output(&["doctor"], &[("DATABASE_URL", &url)]).await?;
    assert_eq!(code, Some(0), "{said}");
    ensure!(
        said.contains("sessions of its own") && said.contains("schema is up to date"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn logins_with_passwords_the_plugins_own_ones_too_get_through_a_pooler_that_asks_postgres_for_them()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    open_to_all(world.dir.path())?;
    let server = PostgresServer::start_new(world.dir.path()).await?;
    let mut admin = PgConnection::connect(&server.url).await?;
    let logins = "create role patchbay login createrole password 'of patchbay'; \
         create role pgbouncer login password 'of pgbouncer'; create database lms owner patchbay";
    for statement in logins.split("; ") {
        admin.execute(statement).await?;
    }
    let mut behind: reqwest::Url = server.url.parse()?;
    behind.set_path("lms");
    // A right on a view belongs to one database.
    let mut admin = PgConnection::connect(behind.as_str()).await?;
    admin
        .execute("grant select on pg_shadow to pgbouncer")
        .await?;
    // From here on every login needs a password.
    std::fs::write(
        server.data.join("pg_hba.conf"),
        "host all all 127.0.0.1/32 scram-sha-256\n",
    )?;
    admin.execute("select pg_reload_conf()").await?;
    let how = "pool_mode = session\nauth_type = scram-sha-256\nauth_user = pgbouncer\n\
         auth_query = select usename, passwd from pg_shadow where usename = $1";
    let pooler = PgBouncer::before(
        &world,
        behind.as_str(),
        "\"pgbouncer\" \"of pgbouncer\"",
        how,
    )
    .await?;
    let login = |url: &str, password: &str| {
        let mut url: reqwest::Url = url.parse()?;
        url.set_username("patchbay").ok().context("a login")?;
        url.set_password(Some(password))
            .ok()
            .context("a password")?;
        anyhow::Ok(url)
    };
    let mut url = login(behind.as_str(), "of patchbay")?;
    let mut owner = PgConnection::connect(url.as_str()).await?;
    sql::fill(&mut owner).await?;
    url.set_port(Some(pooler.port)).ok().context("a port")?;
    let _shared = std::mem::replace(&mut world.database_url, url.clone().into());
    let (code, said) = world
        .output(
            &["doctor"],
            &[("DATABASE_URL", login(url.as_str(), "wrong")?.as_str())],
        )
        .await?;
    ensure!(code == Some(1) && !said.contains("wrong"), "{said}");

    let host = world.host(&[]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest)?)
        .await?;
    let rows = sql::query(&host, "select id from crm.leads order by id").await?;
    ensure!(rows.to_string().contains('1'), "{rows}");
    ensure!(host.stop().await?.success(), "it ends in order");
    Ok(())
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_between_clients_is_named_and_nothing_is_made()
-> anyhow::Result<()> {
    let world = World::new().await?;
    for (mode, more) in [
        (
            "transaction",
            "ignore_startup_parameters = extra_float_digits,options",
        ),
        ("transaction", "server_round_robin = 1\nmin_pool_size = 5"),
        ("statement", ""),
    ] {
        let pooler = PgBouncer::start(&world, mode, more).await?;
        let url = pooler.url(&world)?;
        for command in ["serve", "migrate", "doctor"] {
            let (code, said) = world.output(&[command], &[("DATABASE_URL", &url)]).await?;
            assert_eq!(code, Some(1), "{mode} {more} {command}: {said}");
            ensure!(
                said.contains("shares sessions between clients")
                    && said.contains("pool_mode = session"),
                "{said}"
            );
        }
    }
    let mut database = world.database().await?;
    let made = "select count(*) from information_schema.tables where table_schema = 'patchbay' or (table_schema = 'public' and table_name not like 'email%')";
    let made: i64 = sqlx::query_scalar(made).fetch_one(&mut database).await?;
    assert_eq!(made, 0);
    Ok(())
}
