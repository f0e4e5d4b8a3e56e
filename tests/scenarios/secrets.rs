//! The vault from outside: what a guest sees of a secret that is set, rotated and removed, and
//! where its value never appears.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tokio::io::AsyncWriteExt;

use crate::harness::{
    Host, PASSWORD, USER, World, binary, hostile_plugin, hostile_plugin_with, printed_json, until,
};

const KEY: &str = "5f1d3c2b4a59687766554433221100ffeeddccbbaa99887766554433221100ab";
const NEW_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const WITH_KEY: [(&str, &str); 1] = [("PATCHBAY_SECRETS_KEY", KEY)];
/// Another process must have noticed a change within this time.
const NOTICED: Duration = Duration::from_secs(1);

const ONE: &str = "value-number-one-4711";
const TWO: &str = "value-number-two-0815";

async fn world(env: &[(&str, &str)]) -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    let host = world.host(env).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    Ok((world, host))
}

async fn send(
    host: &Host,
    method: Method,
    path: &str,
    body: Value,
) -> anyhow::Result<(u16, Value)> {
    host.request(
        host.http
            .request(method, format!("{}/api/admin/{path}", host.url))
            .json(&body),
    )
    .await
}

async fn set(host: &Host, value: &str) -> anyhow::Result<Value> {
    let (status, answer) = send(
        host,
        Method::PUT,
        "plugins/hostile/secrets/TOKEN",
        json!({ "value": value }),
    )
    .await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    Ok(answer["data"].clone())
}

async fn rotate(host: &Host, value: &str, overlap_ms: u64) -> anyhow::Result<(u16, Value)> {
    let body = json!({ "value": value, "overlapMs": overlap_ms });
    send(
        host,
        Method::POST,
        "plugins/hostile/secrets/TOKEN/rotate",
        body,
    )
    .await
}

async fn list(host: &Host) -> anyhow::Result<Value> {
    let (status, answer) = host.get("/api/admin/plugins/hostile/secrets").await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    Ok(answer["data"].clone())
}

async fn run(host: &Host, name: &str, data: Value, state: &str) -> anyhow::Result<Value> {
    let id = host
        .add("hostileQueue", json!({ "name": name, "data": data }))
        .await?;
    Ok(host.job_in("hostileQueue", &id, state).await?["job"].clone())
}

/// What a guest finds out: which candidates match, which signatures are valid, and a signature.
async fn seen(host: &Host, candidates: &[&str], macs: &[&str]) -> anyhow::Result<Value> {
    let job = run(
        host,
        "secret",
        json!({ "candidates": candidates, "macs": macs }),
        "completed",
    )
    .await?;
    Ok(serde_json::from_str(
        job["returnValue"].as_str().context("a return value")?,
    )?)
}

async fn not_configured(host: &Host) -> anyhow::Result<bool> {
    let id = host
        .add(
            "hostileQueue",
            json!({ "name": "secret", "data": { "candidates": ["x"] } }),
        )
        .await?;
    let job = until(Duration::from_secs(30), "the end of the job", async || {
        let (_, story) = host
            .get(&format!("/api/admin/queues/hostileQueue/jobs/{id}"))
            .await?;
        let job = story["data"]["job"].clone();
        Ok(matches!(job["state"].as_str(), Some("failed" | "completed")).then_some(job))
    })
    .await?;
    Ok(job["failedReason"]
        .as_str()
        .is_some_and(|reason| reason.starts_with("not-configured")))
}

/// Every row of every table of Patchbay, as text and as bytes.
async fn dump(world: &World) -> anyhow::Result<String> {
    let mut database = world.database().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables where table_schema = 'patchbay' and table_name <> 'revisions'",
    )
    .fetch_all(&mut database)
    .await?;
    let mut text = String::new();
    for table in tables {
        let query = format!(
            "select coalesce(string_agg(t::text, E'\\n'), '') as rows from patchbay.{table} t"
        );
        text.push_str(
            &sqlx::query(sqlx::AssertSqlSafe(query))
                .fetch_one(&mut database)
                .await?
                .try_get::<String, _>("rows")?,
        );
    }
    Ok(text)
}

/// `patchbay` with exactly these variables and this standard input.
async fn patchbay(
    world: &World,
    env: &[(&str, &str)],
    args: &[&str],
    input: &str,
) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(std::path::absolute(binary())?);
    command
        .args(args)
        .current_dir(world.dir.path())
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default());
    command
        .env("DATABASE_URL", &world.database_url)
        .env("REDIS_URL", &world.redis_url);
    command.env("PATCHBAY_HTTP_LISTEN", "127.0.0.1:0");
    command.env("PATCHBAY_RUNTIME_CACHE_DIR", world.dir.path().join("cache"));
    command
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    Ok(tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await??)
}

async fn finding(world: &World, env: &[(&str, &str)]) -> anyhow::Result<Value> {
    let output = patchbay(world, env, &["--json", "doctor"], "").await?;
    let findings: Vec<Value> = serde_json::from_value(printed_json(&output.stdout)?)?;
    let of_secrets = |finding: &&Value| finding["check"] == "secrets";
    // The most severe finding.
    let worst =
        findings
            .iter()
            .filter(of_secrets)
            .max_by_key(|finding| match finding["level"].as_str() {
                Some("error") => 2,
                Some("warning") => 1,
                _ => 0,
            });
    Ok(worst.context("a finding")?.clone())
}

#[tokio::test]
async fn a_secret_is_set_rotated_and_removed_and_each_process_notices() -> anyhow::Result<()> {
    let (world, host) = world(&WITH_KEY).await?;
    assert!(not_configured(&host).await?, "nothing is set yet");
    assert_eq!(
        list(&host).await?,
        json!([{ "name": "TOKEN", "asked": true, "source": "none", "versions": [] }])
    );

    let story = set(&host, ONE).await?;
    assert_eq!(
        (&story["source"], &story["versions"][0]["setBy"]),
        (&json!("vault"), &json!(USER))
    );
    let first = seen(&host, &[ONE, TWO], &[]).await?;
    assert_eq!(first["fits"], json!([true, false]));
    let old_mac = first["mac"].as_str().context("a signature")?.to_owned();

    let overlap = Duration::from_secs(4);
    let began = std::time::Instant::now();
    let (status, rotated) = rotate(&host, TWO, overlap.as_millis() as u64).await?;
    assert_eq!(status, 200, "{rotated}");
    let versions = rotated["data"]["versions"].as_array().context("versions")?;
    assert_eq!(
        versions
            .iter()
            .map(|v| v["version"].as_i64())
            .collect::<Vec<_>>(),
        [Some(2), Some(1)]
    );
    assert!(
        versions[0]["endsAt"].is_null() && versions[1]["endsAt"].is_string(),
        "{rotated}"
    );
    let during = seen(&host, &[ONE, TWO, "neither"], &[&old_mac]).await?;
    assert_eq!(
        (&during["fits"], &during["verified"]),
        (&json!([true, true, false]), &json!([true]))
    );
    assert_ne!(during["mac"], first["mac"], "the newest version signs");
    let (status, refused) = rotate(&host, "value-number-three", 1_000).await?;
    assert_eq!(status, 409, "two versions at most: {refused}");
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|text| text.contains("is valid until")),
        "{refused}"
    );

    until(
        Duration::from_secs(10),
        "the end of the overlap",
        async || {
            let now = seen(&host, &[ONE, TWO], &[&old_mac]).await?;
            Ok(
                (now["fits"] == json!([false, true]) && now["verified"] == json!([false]))
                    .then_some(()),
            )
        },
    )
    .await?;
    assert!(
        began.elapsed() >= overlap,
        "not before its end: {:?}",
        began.elapsed()
    );
    let mut database = world.database().await?;
    until(
        Duration::from_secs(10),
        "the ended row to be gone",
        async || {
            let rows: i64 = sqlx::query_scalar("select count(*) from patchbay.secrets")
                .fetch_one(&mut database)
                .await?;
            Ok((rows == 1).then_some(()))
        },
    )
    .await?;

    // It has other queues on the same Postgres: only the first host's jobs can show its changes.
    let prefix = format!("{}-elsewhere", world.prefix);
    let elsewhere = world
        .host(&[WITH_KEY[0], ("PATCHBAY_REDIS_PREFIX", &prefix)])
        .await?;
    for value in [
        "value-number-three",
        "value-number-four",
        "value-number-five",
    ] {
        set(&elsewhere, value).await?;
        until(NOTICED, "the other process to notice", async || {
            Ok(
                (seen(&host, &[value, TWO], &[]).await?["fits"] == json!([true, false]))
                    .then_some(()),
            )
        })
        .await?;
    }
    rotate(&elsewhere, "value-number-six", 60_000).await?;
    until(NOTICED, "both versions", async || {
        let now = seen(&host, &["value-number-five", "value-number-six"], &[]).await?;
        Ok((now["fits"] == json!([true, true])).then_some(()))
    })
    .await?;
    let tries = run(&host, "secret", json!({}), "completed").await?;
    let tries: Value =
        serde_json::from_str(tries["returnValue"].as_str().context("a return value")?)?;
    assert_eq!(tries["matches"], 8, "a second version gives no more tries");

    // Without a notification it takes until the next poll.
    sqlx::query("delete from patchbay.secrets")
        .execute(&mut database)
        .await?;
    until(Duration::from_secs(10), "the next look", async || {
        Ok(not_configured(&host).await?.then_some(()))
    })
    .await?;
    set(&elsewhere, ONE).await?;
    let (status, _) = send(
        &elsewhere,
        Method::DELETE,
        "plugins/hostile/secrets/TOKEN",
        json!(null),
    )
    .await?;
    assert_eq!(status, 200);
    until(NOTICED, "the removal", async || {
        Ok(not_configured(&host).await?.then_some(()))
    })
    .await?;
    let (status, _) = send(
        &host,
        Method::DELETE,
        "plugins/hostile/secrets/TOKEN",
        json!(null),
    )
    .await?;
    assert_eq!(status, 404);
    Ok(())
}

#[tokio::test]
async fn a_value_is_in_no_answer_no_log_and_no_table() -> anyhow::Result<()> {
    let (world, host) = world(&[WITH_KEY[0], ("PATCHBAY_LOG_FILTER", "debug")]).await?;
    let mut answers = String::new();
    let mut keep = |(_, answer): (u16, Value)| answers.push_str(&answer.to_string());
    let path = "plugins/hostile/secrets/TOKEN";
    keep(send(&host, Method::PUT, path, json!({ "value": ONE })).await?);
    keep(rotate(&host, TWO, 60_000).await?);
    seen(&host, &["x"], &[]).await?;
    // Refusals do not repeat the value that was sent.
    for body in [
        json!({ "value": [ONE] }),
        json!({ "value": ONE, TWO: 1 }),
        json!(ONE),
        json!({ "value": 4711 }),
    ] {
        let (status, answer) = send(&host, Method::PUT, path, body).await?;
        assert!((400..=422).contains(&status), "{answer}");
        keep((status, answer));
    }
    keep(
        send(
            &host,
            Method::PUT,
            "plugins/hostile/secrets/not-a-name",
            json!({ "value": ONE }),
        )
        .await?,
    );
    keep(
        send(
            &host,
            Method::PUT,
            "plugins/unknown/secrets/TOKEN",
            json!({ "value": ONE }),
        )
        .await?,
    );
    keep(host.get("/api/admin/plugins/hostile/secrets").await?);
    let used = until(
        Duration::from_secs(10),
        "the use to be recorded",
        async || {
            let secrets = list(&host).await?;
            Ok(secrets[0]["versions"][0]["lastUsedAt"]
                .is_string()
                .then_some(secrets))
        },
    );
    keep((200, used.await?));
    keep(send(&host, Method::POST, "secrets/rekey", json!(null)).await?);

    let table = dump(&world).await?;
    assert!(
        table.contains("secret.set") && table.contains("secret.rotate"),
        "operators' actions are recorded"
    );
    let log = host.log.lock().expect("no writer panics").clone();
    assert!(log.contains("secret set"), "the log was seen");
    for value in [ONE, TWO, "4711", KEY] {
        let hex = hex::encode(value);
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, value);
        for (place, text) in [
            ("an answer", &answers),
            ("the log", &log),
            ("the database", &table),
        ] {
            // Four digits may occur anywhere else; answers must not quote the value.
            if value.len() < 8 && place != "an answer" {
                continue;
            }
            assert!(
                !text.contains(value) && !text.contains(&base64),
                "{value} is in {place}"
            );
            assert!(
                value.len() < 8 || !text.contains(&hex),
                "{value} is in {place}, in hexadecimal"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_a_key_the_environment_still_works_and_setting_says_what_to_configure()
-> anyhow::Result<()> {
    let (world, host) = world(&[("PATCHBAY_SECRET_HOSTILE_TOKEN", "of-the-environment")]).await?;
    assert_eq!(
        seen(&host, &["of-the-environment"], &[]).await?["fits"],
        json!([true])
    );
    assert_eq!(list(&host).await?[0]["source"], "environment");
    let (status, answer) = send(
        &host,
        Method::PUT,
        "plugins/hostile/secrets/TOKEN",
        json!({ "value": ONE }),
    )
    .await?;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("no-vault-key")),
        "{answer}"
    );
    assert!(
        answer["message"]
            .as_str()
            .is_some_and(|text| text.contains("secrets.key_file")),
        "{answer}"
    );
    host.stop().await?;

    // With a key, the vault overrides the environment; a secret that the vault no longer has comes
    // from the environment again.
    let host = world
        .host(&[
            WITH_KEY[0],
            ("PATCHBAY_SECRET_HOSTILE_TOKEN", "of-the-environment"),
        ])
        .await?;
    set(&host, ONE).await?;
    assert_eq!(
        seen(&host, &["of-the-environment", ONE], &[]).await?["fits"],
        json!([false, true])
    );
    send(
        &host,
        Method::DELETE,
        "plugins/hostile/secrets/TOKEN",
        json!(null),
    )
    .await?;
    assert_eq!(
        seen(&host, &["of-the-environment", ONE], &[]).await?["fits"],
        json!([true, false])
    );
    Ok(())
}

#[tokio::test]
async fn a_wrong_key_stops_the_start_and_doctor_says_why() -> anyhow::Result<()> {
    let (world, host) = world(&WITH_KEY).await?;
    set(&host, ONE).await?;
    host.stop().await?;
    let serve = ["serve"];
    let wrong = patchbay(&world, &[("PATCHBAY_SECRETS_KEY", NEW_KEY)], &serve, "").await?;
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned()
        + &String::from_utf8_lossy(&wrong.stdout);
    assert_eq!(wrong.status.code(), Some(4), "{text}");
    assert!(
        text.contains(
            "secrets.key is the wrong key: it opens none of the secrets in the database (1)"
        ),
        "{text}"
    );
    assert!(!text.contains(NEW_KEY) && !text.contains(ONE), "{text}");

    let said = finding(&world, &[("PATCHBAY_SECRETS_KEY", NEW_KEY)]).await?;
    assert!(
        said["level"] == "error"
            && said["message"]
                .as_str()
                .is_some_and(|m| m.contains("cannot be opened: hostile TOKEN, version 1")),
        "{said}"
    );
    let said = finding(&world, &[]).await?;
    assert!(
        said["level"] == "error"
            && said["message"]
                .as_str()
                .is_some_and(|m| m.contains("no master key is configured")),
        "{said}"
    );
    let file = world.dir.path().join("master.key");
    std::fs::write(&file, KEY)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let named = [(
        "PATCHBAY_SECRETS_KEY_FILE",
        file.to_str().context("a path")?,
    )];
    let said = finding(&world, &named).await?;
    assert!(
        said["level"] == "warning"
            && said["mend"]
                .as_str()
                .is_some_and(|m| m.starts_with("chmod 600")),
        "{said}"
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    assert_eq!(finding(&world, &named).await?["level"], "ok");
    std::fs::write(&file, "not a key")?;
    let malformed = patchbay(&world, &named, &serve, "").await?;
    let text = String::from_utf8_lossy(&malformed.stderr);
    assert!(
        malformed.status.code() == Some(4)
            && text.contains("secrets.key_file (")
            && text.contains("is not a key"),
        "{text}"
    );

    // Without any key the host starts, does not use the vault, and lets the operator begin anew.
    let host = world.host(&[]).await?;
    assert!(not_configured(&host).await?);
    assert!(list(&host).await?[0]["versions"][0]["unreadable"].is_string());
    let (status, _) = send(
        &host,
        Method::DELETE,
        "plugins/hostile/secrets/TOKEN",
        json!(null),
    )
    .await?;
    assert_eq!(status, 200);
    Ok(())
}

#[tokio::test]
async fn rows_that_change_places_in_the_database_are_not_used() -> anyhow::Result<()> {
    let (world, host) = world(&WITH_KEY).await?;
    set(&host, ONE).await?;
    let (status, answer) = send(
        &host,
        Method::PUT,
        "plugins/hostile/secrets/OTHER",
        json!({ "value": TWO }),
    )
    .await?;
    assert_eq!(
        (status, &answer["data"]["asked"]),
        (200, &json!(false)),
        "{answer}"
    );
    host.stop().await?;
    let mut database: PgConnection = PgConnection::connect(&world.database_url).await?;
    sqlx::query(
        "update patchbay.secrets a set nonce = b.nonce, ciphertext = b.ciphertext from patchbay.secrets b \
         where a.name = 'TOKEN' and b.name = 'OTHER'",
    )
    .execute(&mut database)
    .await?;
    let host = world.host(&WITH_KEY).await?;
    assert!(not_configured(&host).await?, "neither value is used");
    let log = host.log.lock().expect("no writer panics").clone();
    assert!(
        log.contains("a secret cannot be opened") && !log.contains(TWO),
        "{log}"
    );
    let secrets = list(&host).await?;
    let token = secrets
        .as_array()
        .into_iter()
        .flatten()
        .find(|secret| secret["name"] == "TOKEN")
        .context("TOKEN")?;
    assert_eq!(
        token["versions"][0]["unreadable"],
        "damaged, or moved from another secret"
    );
    Ok(())
}

#[tokio::test]
async fn the_master_key_is_rotated_by_commands() -> anyhow::Result<()> {
    let (world, host) = world(&WITH_KEY).await?;
    let client = |host: &Host| {
        vec![
            ("PATCHBAY_URL", host.url.clone()),
            ("PATCHBAY_USER", USER.into()),
            ("PATCHBAY_PASSWORD", PASSWORD.into()),
        ]
    };
    let command = async |host: &Host, args: &[&str], input: &str| {
        let env = client(host);
        let env: Vec<(&str, &str)> = env
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        patchbay(&world, &env, args, input).await
    };
    let json_of = async |host: &Host, args: &[&str], input: &str| {
        let output = command(host, &[&["--json"], args].concat(), input).await?;
        anyhow::ensure!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        printed_json(&output.stdout)
    };
    let done = json_of(
        &host,
        &["secret", "set", "hostile", "TOKEN"],
        &format!("{ONE}\n"),
    )
    .await?;
    assert_eq!(done["versions"][0]["version"], 1);
    let file = world.dir.path().join("value");
    std::fs::write(&file, TWO)?;
    let rotate = [
        "secret",
        "rotate",
        "hostile",
        "TOKEN",
        "--overlap",
        "24h",
        "--from-file",
        file.to_str().context("a path")?,
    ];
    assert_eq!(
        json_of(&host, &rotate, "").await?["versions"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(
        command(&host, &["secret", "set", "hostile", "TOKEN", ONE], "")
            .await?
            .status
            .code(),
        Some(2),
        "no argument"
    );
    assert_eq!(
        command(&host, &["secret", "set", "hostile", "TOKEN"], "")
            .await?
            .status
            .code(),
        Some(4),
        "empty"
    );
    assert_eq!(
        command(&host, &["secret", "list", "unknown"], "")
            .await?
            .status
            .code(),
        Some(3)
    );
    let table = command(&host, &["secret", "list", "hostile"], "").await?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.contains("TOKEN   vault  2") && table.contains("ends 20") && !table.contains(ONE),
        "{table}"
    );

    // Hosts are restarted one by one; this one, with other queues, is the first.
    let both = [
        ("PATCHBAY_SECRETS_KEY", NEW_KEY),
        ("PATCHBAY_SECRETS_OLD_KEY", KEY),
    ];
    let prefix = format!("{}-elsewhere", world.prefix);
    let restarted = world
        .host(&[both[0], both[1], ("PATCHBAY_REDIS_PREFIX", &prefix)])
        .await?;
    assert_eq!(
        seen(&restarted, &[ONE, TWO], &[]).await?["fits"],
        json!([true, true]),
        "sealed with the old key"
    );
    json_of(
        &restarted,
        &["secret", "set", "hostile", "OTHER"],
        "sealed with the new key",
    )
    .await?;
    let said = finding(&world, &both).await?;
    let outdated = "2 of 3 values are sealed with the old master key";
    assert!(
        said["message"]
            .as_str()
            .is_some_and(|message| message.contains(outdated)),
        "{said}"
    );
    let done = json_of(&restarted, &["secret", "rekey"], "").await?;
    assert_eq!(
        (&done["resealed"], &done["unreadable"]),
        (&json!(2), &json!([])),
        "what is left to do, and no more"
    );
    assert_eq!(
        json_of(&restarted, &["secret", "rekey"], "").await?["resealed"],
        0,
        "again does no harm"
    );
    assert_eq!(
        seen(&restarted, &[ONE, TWO], &[]).await?["fits"],
        json!([true, true])
    );
    until(
        Duration::from_secs(10),
        "the other host to see the new seals",
        async || {
            let log = host.log.lock().expect("no writer panics").clone();
            Ok(log
                .contains("resealed with a key that this host does not have")
                .then_some(()))
        },
    )
    .await?;
    assert_eq!(
        seen(&host, &[ONE, TWO], &[]).await?["fits"],
        json!([true, true]),
        "it keeps what it holds"
    );
    restarted.stop().await?;
    host.stop().await?;

    let host = world.host(&both[..1]).await?;
    assert_eq!(
        seen(&host, &[ONE, TWO], &[]).await?["fits"],
        json!([true, true]),
        "the old key is not needed any more"
    );
    json_of(
        &host,
        &["secret", "remove", "hostile", "OTHER", "--yes"],
        "",
    )
    .await?;
    host.stop().await?;

    // A row that cannot be opened is reported and left as it is; the others are resealed.
    let mut database = world.database().await?;
    sqlx::query(
        "update patchbay.secrets set ciphertext = ciphertext || '\\x00'::bytea where version = 1",
    )
    .execute(&mut database)
    .await?;
    let back = [
        ("PATCHBAY_SECRETS_KEY", KEY),
        ("PATCHBAY_SECRETS_OLD_KEY", NEW_KEY),
    ];
    let host = world.host(&back).await?;
    let partly = command(&host, &["secret", "rekey"], "").await?;
    let text = String::from_utf8_lossy(&partly.stderr).into_owned();
    assert!(
        partly.status.code() == Some(1) && text.contains("opens: hostile TOKEN, version 1. "),
        "{text}"
    );
    assert_eq!(
        seen(&host, &[ONE, TWO], &[]).await?["fits"],
        json!([false, true])
    );
    json_of(
        &host,
        &["secret", "remove", "hostile", "TOKEN", "--yes"],
        "",
    )
    .await?;

    let actions: Vec<String> =
        sqlx::query_scalar("select action from patchbay.operator_actions where action like 'secret.%' and ended_at is not null and error is null order by id")
            .fetch_all(&mut database)
            .await?;
    let expected = [
        "set", "rotate", "set", "rekey", "rekey", "remove", "rekey", "remove",
    ];
    assert_eq!(actions, expected.map(|action| format!("secret.{action}")));
    Ok(())
}

#[tokio::test]
async fn outside_calls_carry_the_newest_version() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&WITH_KEY).await?;
    let echo = |headers: axum::http::HeaderMap| async move {
        headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .len()
            .to_string()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = axum::Router::new().fallback(axum::routing::get(echo));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let plugin = hostile_plugin_with(|manifest| {
        let manifest = manifest
            .replace("127.0.0.1:9/", &format!("{address}/"))
            .replace("deadline_ms = 200", "deadline_ms = 2_000");
        manifest.replace(
            "methods = [\"GET\"]",
            "methods = [\"GET\"]\nauth = { bearer = { token = \"TOKEN\" } }",
        )
    })?;
    host.deploy("hostile", plugin).await?;
    set(&host, "short").await?;
    rotate(&host, "and-a-longer-one", 60_000).await?;
    let job = run(
        &host,
        "outside",
        json!({ "url": format!("http://{address}/") }),
        "completed",
    )
    .await?;
    let answer: Value =
        serde_json::from_str(job["returnValue"].as_str().context("a return value")?)?;
    assert_eq!(
        answer["body"],
        "Bearer and-a-longer-one".len().to_string(),
        "{answer}"
    );
    Ok(())
}
