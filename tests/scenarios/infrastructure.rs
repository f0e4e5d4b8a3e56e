//! Real surroundings of a host: a Postgres that is read-only, has another encoding, is behind a
//! socket or grants few rights; a machine with small limits; a terminal that is closed.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::cable::Cable;
use crate::harness::{World, binary, full_length, hostile_plugin, statements_plugin, until};
use crate::postgres_server::PostgresServer;
use crate::sql;

const SOON: Duration = Duration::from_secs(30);

async fn open_dir(world: &World) -> anyhow::Result<&std::path::Path> {
    // Postgres runs as another user.
    std::fs::set_permissions(
        world.dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    Ok(world.dir.path())
}

#[tokio::test]
async fn a_postgres_that_may_only_be_read_is_named_at_the_start_and_while_the_host_runs()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let dir = open_dir(&world).await?;
    let primary = PostgresServer::start_new(dir).await?;
    let standby = primary.standby(dir).await?;
    // Not the shared cache: it contains the snapshot of this host's Postgres.
    let cache = dir.join("cache").to_str().context("a path")?.to_owned();
    let on_standby = [
        ("DATABASE_URL", standby.url.as_str()),
        ("PATCHBAY_RUNTIME_CACHE_DIR", cache.as_str()),
    ];
    for (command, code) in [("serve", 5), ("doctor", 1), ("migrate", 5)] {
        let (ended, said) = world.output(&[command], &on_standby).await?;
        assert_eq!(ended, Some(code), "{said}");
        ensure!(
            said.contains("Postgres accepts no changes: it is a standby"),
            "{command}: {said}"
        );
    }

    world.database_url = primary.url.clone();
    let host = world.host(&[("PATCHBAY_ALERTS_EVERY_MS", "200")]).await?;
    host.put("/api/admin/alerts/rules/health", json!({ "holdS": 0 }))
        .await?;
    let mut admin = PgConnection::connect(&primary.url).await?;
    admin
        .execute("set default_transaction_read_only = off")
        .await?;
    let ready = async |wanted: serde_json::Value| {
        until(SOON, &format!("reasons {wanted}"), async || {
            let (status, answer) = host.get("/readyz").await?;
            Ok(
                (answer["reasons"] == wanted && (status == 200) == (wanted == json!([])))
                    .then_some(()),
            )
        })
        .await
    };
    // For all sessions, and for new sessions of the login only, some of which remain afterwards.
    for (on, off) in [
        (
            "alter system set default_transaction_read_only = on",
            "alter system reset default_transaction_read_only",
        ),
        (
            "alter role postgres set default_transaction_read_only = on",
            "alter role postgres reset default_transaction_read_only",
        ),
    ] {
        let others = "select pg_reload_conf(), pg_terminate_backend(pid) from pg_stat_activity \
             where pid <> pg_backend_pid() and application_name = 'patchbay'";
        admin.execute(on).await?;
        admin.execute(others).await?;
        ready(json!(["database-read-only"])).await?;
        let (status, health) = host.get("/api/health").await?;
        assert_eq!(status, 503, "{health}");
        assert_eq!(
            (
                &health["data"]["database"]["connected"],
                &health["data"]["database"]["writable"]
            ),
            (&json!(true), &json!(false))
        );
        let (status, refused) = host
            .put("/api/admin/alerts/rules/health", json!({ "holdS": 0 }))
            .await?;
        assert_eq!(status, 503, "{refused}");
        ensure!(
            refused["message"]
                .as_str()
                .is_some_and(|text| text.contains("accepts no changes")),
            "{refused}"
        );
        ensure!(
            host.metrics()
                .await?
                .contains("patchbay_postgres_writable 0"),
            "the metric"
        );
        until(SOON, "an alert that names it", async || {
            Ok(host
                .log
                .lock()
                .expect("no writer panics")
                .contains("(database-read-only)")
                .then_some(()))
        })
        .await?;
        admin.execute(off).await?;
        admin.execute("select pg_reload_conf()").await?;
        ready(json!([])).await?;
    }
    let log = host.log.lock().expect("no writer panics").clone();
    ensure!(
        log.contains(
            "default_transaction_read_only is on for the server, the database or the login"
        ),
        "it is named"
    );
    ensure!(host.stop().await?.success(), "it ends in order");
    Ok(())
}

#[tokio::test]
async fn what_postgres_refuses_at_the_start_is_told_with_what_to_do() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    url.set_path("no_such_database");
    let (code, said) = world
        .output(&["serve"], &[("DATABASE_URL", url.as_str())])
        .await?;
    assert_eq!(code, Some(1), "{said}");
    ensure!(
        said.contains("createdb --encoding=UTF8") && !said.contains("unexpected"),
        "{said}"
    );
    url.set_username("nobody_of_that_name").ok();
    for command in ["serve", "doctor"] {
        let (_, said) = world
            .output(&[command], &[("DATABASE_URL", url.as_str())])
            .await?;
        ensure!(
            said.contains("Postgres refuses the login") && said.contains("pg_hba.conf"),
            "{command}: {said}"
        );
    }
    let (_, said) = world
        .output(
            &["serve"],
            &[("DATABASE_URL", "postgres://app:pw@#/1@127.0.0.1/lms")],
        )
        .await?;
    ensure!(said.contains("%23") && !said.contains("pw@"), "{said}");
    // All problems are reported at once.
    let wrong = [
        ("PATCHBAY_WORK_LOCKS_S", "3"),
        ("PATCHBAY_WORK_DRAIN_LIMIT_S", "60"),
    ];
    let (code, said) = world.output(&["serve"], &wrong).await?;
    assert_eq!(code, Some(4), "{said}");
    ensure!(
        said.contains("PATCHBAY_WORK_LOCKS_S is not a known variable")
            && said.contains("work.drain_limit_s"),
        "{said}"
    );
    let (_, said) = world.output(&["doctor"], &wrong).await?;
    ensure!(!said.contains("\\n"), "a line each: {said}");
    let (code, said) = world
        .output(&["--url", "127.0.0.1:1", "queue", "list"], &[])
        .await?;
    ensure!(code == Some(4) && said.contains("Write http://"), "{said}");
    Ok(())
}

#[tokio::test]
async fn variables_that_are_no_text_are_no_reason_to_panic_and_signals_for_node_end_nothing()
-> anyhow::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new().await?;
    let not_text = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let binary = binary();
    let mut command = world.command(binary.to_str().context("a path")?, &["config"], &[]);
    let output = command.env("LANG_OF_SOMEBODY", not_text).output().await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = command
        .env("PATCHBAY_LOG_FILTER", not_text)
        .arg("--json")
        .output()
        .await?;
    let said = [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat();
    ensure!(
        said.contains("PATCHBAY_LOG_FILTER: its value is not UTF-8"),
        "{said}"
    );

    let host = world.host(&[]).await?;
    let pid = rustix::process::Pid::from_raw(host.child.id().context("it runs")?.try_into()?)
        .context("a pid")?;
    for signal in [
        rustix::process::Signal::USR1,
        rustix::process::Signal::USR2,
        rustix::process::Signal::ALARM,
    ] {
        rustix::process::kill_process(pid, signal)?;
    }
    assert_eq!(host.get("/api/health").await?.0, 200);
    ensure!(host.stop().await?.success(), "it ends in order");
    Ok(())
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused_before_anything_is_made() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let name = format!("l{}", uuid::Uuid::new_v4().simple());
    let create = format!(
        "create database {name} encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'"
    );
    world
        .database()
        .await?
        .execute(AssertSqlSafe(create))
        .await?;
    url.set_path(&name);
    for command in ["serve", "migrate", "doctor"] {
        let (code, said) = world
            .output(&[command], &[("DATABASE_URL", url.as_str())])
            .await?;
        assert_eq!(code, Some(1), "{said}");
        ensure!(
            said.contains("has the encoding LATIN1") && said.contains("createdb --encoding=UTF8"),
            "{command}: {said}"
        );
    }
    let mut database = PgConnection::connect(url.as_str()).await?;
    let made: i64 =
        sqlx::query_scalar("select count(*) from pg_namespace where nspname like 'patchbay%'")
            .fetch_one(&mut database)
            .await?;
    assert_eq!(made, 0);
    Ok(())
}

#[tokio::test]
async fn a_login_with_exactly_the_documented_rights_is_enough_and_what_is_missing_is_named()
-> anyhow::Result<()> {
    let mut world = sql::world().await?;
    let login = format!("r{}", uuid::Uuid::new_v4().simple());
    let mut admin = world.database().await?;
    let name: String = sqlx::query_scalar("select current_database()")
        .fetch_one(&mut admin)
        .await?;
    let run = async |admin: &mut PgConnection, text: String| {
        admin.execute(AssertSqlSafe(text)).await.map(drop)
    };
    run(&mut admin, format!("create role {login} login")).await?;
    // Everybody has these rights in a new database.
    run(
        &mut admin,
        format!("revoke all on database {name} from public"),
    )
    .await?;
    run(
        &mut admin,
        format!("grant connect on database {name} to {login}"),
    )
    .await?;
    // Plugins' logins get this right through `public`.
    run(
        &mut admin,
        format!("grant connect on database {name} to public"),
    )
    .await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    url.set_username(&login).ok();
    let administrator = std::mem::replace(&mut world.database_url, url.into());

    let (code, said) = world.output(&["doctor"], &[]).await?;
    assert_eq!(code, Some(1), "{said}");
    ensure!(
        said.contains(&format!("grant create on database {name} to {login}")),
        "{said}"
    );
    ensure!(
        said.contains(&format!("alter role {login} createrole")),
        "{said}"
    );

    run(
        &mut admin,
        format!("grant create on database {name} to {login}"),
    )
    .await?;
    run(&mut admin, format!("alter role {login} createrole")).await?;
    // Needed for the plugin's grants.
    run(
        &mut admin,
        format!("grant usage on schema crm to {login} with grant option"),
    )
    .await?;
    run(
        &mut admin,
        format!("grant select, insert, update, delete on all tables in schema crm to {login} with grant option"),
    )
    .await?;
    run(
        &mut admin,
        format!("grant usage on all sequences in schema crm to {login} with grant option"),
    )
    .await?;
    let host = world.host(&[]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest)?)
        .await?;
    let answer = sql::query(&host, "select id from crm.leads order by id").await?;
    ensure!(answer.to_string().contains('1'), "{answer}");
    ensure!(host.stop().await?.success(), "it ends in order");

    // Only the installation needs it.
    run(
        &mut admin,
        format!("revoke create on database {name} from {login}"),
    )
    .await?;
    let (code, said) = world.output(&["doctor"], &[]).await?;
    assert_eq!(code, Some(0), "{said}");
    ensure!(said.contains("owns what it needs"), "{said}");
    let host = world.host(&[]).await?;
    sql::query(&host, "select id from crm.leads order by id").await?;
    ensure!(host.stop().await?.success(), "it ends in order");

    // A table that another login owns.
    run(
        &mut admin,
        "alter table patchbay.plugins owner to postgres".into(),
    )
    .await?;
    let (code, said) = world.output(&["doctor"], &[]).await?;
    assert_eq!(code, Some(1), "{said}");
    ensure!(said.contains("does not own patchbay.plugins"), "{said}");

    // The login may open no more connections.
    run(&mut admin, format!("alter role {login} connection limit 0")).await?;
    let (code, said) = world.output(&["doctor"], &[]).await?;
    assert_eq!(code, Some(1), "{said}");
    ensure!(
        said.contains("Postgres has no connection left") && said.contains("too many connections"),
        "{said}"
    );
    world.database_url = administrator;
    Ok(())
}

#[tokio::test]
async fn postgres_is_reached_by_a_socket_by_ipv6_and_by_tls_of_a_private_authority()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let dir = open_dir(&world).await?;
    let server = PostgresServer::prepared(dir, "postgres").await?;
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let certificate =
        rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    let ca_file = dir.join("ca.pem");
    std::fs::write(&ca_file, authority_certificate.pem())?;
    for (name, text) in [
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        let file = server.data.join(name);
        std::fs::write(&file, text)?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        server.owns(&file).await?;
    }
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let addresses = if has_ipv6 {
        "127.0.0.1,::1"
    } else {
        "127.0.0.1"
    };
    let sockets = server.data.to_str().context("a path")?.to_owned();
    let options =
        format!("-c ssl=on -c unix_socket_directories={sockets} -c listen_addresses={addresses}");
    let server = server.with_options(&options);
    server.start().await?;

    let (port, ca_file) = (
        server.port.to_string(),
        ca_file.to_str().context("a path")?.to_owned(),
    );
    let by_parts = |host| {
        [
            ("DATABASE_URL", ""),
            ("DB_HOST", host),
            ("DB_PORT", port.as_str()),
            ("DB_USERNAME", "postgres"),
        ]
    };
    let with_ca = [
        ("PATCHBAY_DATABASE_TLS", "verify-full"),
        ("PATCHBAY_DATABASE_CA_FILE", ca_file.as_str()),
    ];
    let by_url = format!("postgres://postgres@/postgres?host={sockets}&port={port}");
    let mut ways = vec![
        by_parts(&sockets).to_vec(),
        vec![("DATABASE_URL", by_url.as_str())],
        [&by_parts("127.0.0.1")[..], &with_ca].concat(),
    ];
    if has_ipv6 {
        ways.push(by_parts("::1").to_vec());
    }
    for way in ways {
        let (code, said) = world.output(&["migrate"], &way).await?;
        assert_eq!(code, Some(0), "{way:?}: {said}");
    }
    let without_ca = [
        &by_parts("127.0.0.1")[..],
        &[("PATCHBAY_DATABASE_TLS", "verify-full")],
    ]
    .concat();
    let (code, said) = world.output(&["migrate"], &without_ca).await?;
    assert_eq!(code, Some(5), "an unknown authority: {said}");
    Ok(())
}

/// Runs a command under a limit of the shell.
async fn limited(world: &World, limit: &str, command: &str) -> anyhow::Result<String> {
    let script = format!("{limit} && exec {} {command}", binary().display());
    let output = world.command("sh", &["-c", &script], &[]).output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn limits_that_are_too_small_are_named_with_what_to_do() -> anyhow::Result<()> {
    let world = World::new().await?;
    let files = limited(&world, "ulimit -n 256", "doctor").await?;
    ensure!(
        files.contains("may open 256 files") && files.contains("LimitNOFILE="),
        "{files}"
    );
    let space = limited(&world, "ulimit -v 8000000", "doctor").await?;
    ensure!(
        space.contains("of address space") && space.contains("ulimit -v unlimited"),
        "{space}"
    );
    let starter = ["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""];
    let host = world.host_by(&starter, &[]).await?;
    ensure!(
        host.log
            .lock()
            .expect("no writer panics")
            .contains("may open 256 files"),
        "the host says so, too"
    );
    // More clients than files: some are served, and when these have left, others are.
    let clients = if full_length() { 2_000 } else { 300 };
    let address = host.url.trim_start_matches("http://").to_owned();
    let mut open = Vec::new();
    for _ in 0..clients {
        open.push(tokio::net::TcpStream::connect(&address).await?);
    }
    drop(open);
    until(SOON, "an answer", async || {
        Ok(host
            .get("/readyz")
            .await
            .ok()
            .filter(|(status, _)| *status == 200))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_closed_terminal_drains_the_host_unless_it_was_started_to_outlive_it()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let hang_up = |host: &crate::harness::Host| {
        let pid = host
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?))
            .context("a pid")?;
        anyhow::Ok(rustix::process::kill_process(
            pid,
            rustix::process::Signal::HUP,
        )?)
    };
    let mut host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let job = host.add("hostileQueue", json!({ "name": "noop" })).await?;
    host.job_in("hostileQueue", &job, "completed").await?;
    hang_up(&host)?;
    let status = tokio::time::timeout(SOON, host.child.wait()).await??;
    ensure!(status.success(), "{status}");
    until(SOON, "the last line", async || {
        let log = host.log.lock().expect("no writer panics");
        Ok((log.contains("SIGHUP: draining") && log.contains("stopped")).then_some(()))
    })
    .await?;

    let starter = ["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""];
    let host = world.host_by(&starter, &[]).await?;
    hang_up(&host)?;
    assert_eq!(host.get("/readyz").await?.0, 200);
    ensure!(host.stop().await?.success(), "it ends in order");
    Ok(())
}

#[tokio::test]
async fn while_postgres_refuses_connections_requests_are_answered_at_once() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("a port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let host = world.host(&[("DATABASE_URL", url.as_str())]).await?;
    host.add("plainQueue", json!({ "name": "work", "newQueue": true }))
        .await?;
    cable.refuse().await;
    for (path, answered) in [
        ("/api/admin/queues", 200),
        ("/api/admin/status", 200),
        ("/api/admin/schedules", 503),
        ("/api/admin/activity", 503),
    ] {
        let began = Instant::now();
        let (status, answer) = host.get(path).await?;
        let took = began.elapsed();
        assert_eq!(status, answered, "{path}: {answer}");
        assert!(took < Duration::from_secs(1), "{path}: {took:?}");
    }
    let began = Instant::now();
    let (status, answer) = host
        .post("/api/admin/queues/plainQueue/pause", json!({}))
        .await?;
    assert_eq!((status, &answer["code"]), (503, &json!("unavailable")));
    assert!(began.elapsed() < Duration::from_secs(1));
    Ok(())
}
