//! The main kind of job on real input: a mail from a producer through the sandbox to a mail server.

mod disturbed;
mod library;
mod runbook_b;
mod server;

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::harness::{Host, World, email_plugin, mail_job, repository, server_of_node, until};

/// A mail server with scripted replies: the first rule whose word is in a line gives the reply,
/// otherwise `250 ok`. An empty reply closes the connection. `DOT` means the end of a mail.
struct Scripted {
    port: String,
    lines: Arc<Mutex<Vec<String>>>,
}

type Rules = &'static [(&'static str, &'static [u8])];

impl Scripted {
    async fn start(rules: Rules) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port().to_string();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, rules, Arc::clone(&heard)));
            }
        });
        Ok(Self { port, lines })
    }

    fn heard(&self, text: &str) -> usize {
        self.lines
            .lock()
            .expect("no panic")
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    async fn host(&self, world: &World) -> anyhow::Result<Host> {
        world.host(&[("PATCHBAY_MAIL_PORT", &self.port)]).await
    }
}

async fn converse(
    stream: TcpStream,
    rules: Rules,
    heard: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 here\r\n").await?;
    let mut in_data = false;
    while let Some(line) = lines.next_line().await? {
        if in_data && line != "." {
            continue;
        }
        let line = if in_data { "DOT".to_owned() } else { line };
        in_data = line == "DATA";
        let reply = rules
            .iter()
            .find(|(word, _)| line.contains(word))
            .map_or(&b"250 ok\r\n"[..], |(_, reply)| *reply);
        heard.lock().expect("no panic").push(line);
        match reply {
            b"" => return Ok(()),
            _ if in_data => write.write_all(b"354 go on\r\n").await?,
            reply => write.write_all(reply).await?,
        }
    }
    Ok(())
}

/// A plugin of this checkout under another manifest.
fn plugin_with(
    dir: &str,
    component: &str,
    change: impl FnOnce(String) -> String,
) -> anyhow::Result<Vec<u8>> {
    let dir = repository().join(dir);
    let workspace = dir.parent().context("a workspace")?;
    let component = std::fs::read(
        workspace
            .join("target/wasm32-wasip2/release")
            .join(component),
    )?;
    let manifest = change(std::fs::read_to_string(dir.join("plugin.toml"))?);
    let manifest = Manifest::from_toml(&manifest, |file| {
        std::fs::read_to_string(dir.join(file)).map_err(|error| error.to_string())
    })?;
    Ok(patchbay_runtime::pack(&component, &manifest)?)
}

fn to(recipients: Value) -> Value {
    json!({ "to": recipients, "subject": "s", "text": "t" })
}

fn result(story: &Value) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(
        story["job"]["returnValue"].as_str().context("a result")?,
    )?)
}

#[tokio::test]
async fn a_mail_that_is_taken_in_latin_1_is_sent_once() -> anyhow::Result<()> {
    let server = Scripted::start(&[("DOT", b"250 angenommen f\xfcr Sie\r\n")]).await?;
    let world = World::new().await?;
    let host = server.host(&world).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": mail_job(1), "attempts": 3 }),
        )
        .await?;
    let story = host.job_in("emailQueue", &id, "completed").await?;
    assert_eq!(
        (server.heard("DOT"), &story["job"]["attemptsMade"]),
        (1, &json!(1))
    );
    assert_eq!(result(&story)?["response"], "angenommen für Sie");
    Ok(())
}

#[tokio::test]
async fn a_refused_recipient_costs_the_others_nothing_and_one_put_off_is_tried_again_alone()
-> anyhow::Result<()> {
    let server = Scripted::start(&[
        ("RCPT TO:<refused@", b"571 5.7.1 not for you\r\n"),
        ("RCPT TO:<later@", b"450 4.2.1 too fast\r\n"),
    ])
    .await?;
    let world = World::new().await?;
    let host = server.host(&world).await?;
    host.deploy("email", email_plugin()?).await?;
    let all = to(json!([
        "a@example.com",
        "refused@example.com",
        "info@m\u{fc}ller.example"
    ]));
    for _ in 0..6 {
        let id = host
            .add("emailQueue", json!({ "name": "send", "data": all }))
            .await?;
        let sent = result(&host.revealed_job_in("emailQueue", &id, "completed").await?)?;
        assert_eq!(
            sent["accepted"],
            json!(["a@example.com", "info@xn--mller-kva.example"])
        );
        assert_eq!(sent["rejected"][0]["code"], 571, "{sent}");
    }
    let (_, breakers) = host.get("/api/admin/breakers").await?;
    assert!(
        breakers["data"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["state"] == "closed")),
        "{breakers}"
    );

    let put_off = to(json!(["b@example.com", "later@example.com"]));
    let backoff = json!({ "type": "fixed", "delayMs": 10 });
    let id = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": put_off, "attempts": 3, "backoff": backoff }),
        )
        .await?;
    let story = host.revealed_job_in("emailQueue", &id, "completed").await?;
    assert_eq!(
        (server.heard("RCPT TO:<b@"), server.heard("RCPT TO:<later@")),
        (1, 3)
    );
    let sent = result(&story)?;
    assert_eq!(
        (&sent["accepted"], &sent["rejected"][0]["recipient"]),
        (&json!(["b@example.com"]), &json!("later@example.com"))
    );
    Ok(())
}

#[tokio::test]
async fn an_unknown_outcome_costs_an_attempt_also_as_the_probe_of_a_breaker() -> anyhow::Result<()>
{
    let server = Scripted::start(&[("DOT", b"")]).await?;
    let world = World::new().await?;
    let host = server.host(&world).await?;
    let with_breaker = |manifest: String| {
        manifest.replace(
            "allowed = true",
            "allowed = true\nbreaker = { failures = 1, within_ms = 30_000, open_ms = 1_000 }",
        )
    };
    host.deploy(
        "email",
        plugin_with("plugins/email", "email.wasm", with_breaker)?,
    )
    .await?;
    let backoff = json!({ "type": "fixed", "delayMs": 10 });
    let id = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": mail_job(1), "attempts": 3, "backoff": backoff }),
        )
        .await?;
    let story = host.job_in("emailQueue", &id, "failed").await?;
    assert_eq!(
        (server.heard("DOT"), &story["job"]["attemptsMade"]),
        (3, &json!(3)),
        "{story}"
    );
    let reason = story["job"]["failedReason"].as_str().context("a reason")?;
    assert!(
        reason.starts_with("unknown-outcome: the mail may have been sent"),
        "{reason}"
    );
    Ok(())
}

#[tokio::test]
async fn a_guest_smuggles_no_second_mail_into_its_first() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // The guest asks for this table.
    let table = "create schema crm; create table crm.leads (id int primary key, name text)";
    sqlx::Executor::execute(&mut world.database().await?, table).await?;
    host.deploy(
        "seeker",
        plugin_with("tests/guests/seeker", "seeker.wasm", |manifest| manifest)?,
    )
    .await?;
    let evil = "MAIL FROM:<evil@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nSubject: second\r\n\r\nx";
    let ends = ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r\n.\r\n"];
    for (n, end) in ends.iter().enumerate() {
        let mime = format!("Subject: first\r\n\r\nbody{end}{evil}{end}");
        let data =
            json!({ "sender": "us@example.com", "recipient": "a@example.com", "mime": mime });
        let id = host
            .add("seekerQueue", json!({ "name": "smtp", "data": data }))
            .await?;
        host.job_in("seekerQueue", &id, "completed").await?;
        assert_eq!(world.mail.count(), n + 1, "{end:?}");
    }
    assert!(world.mail.list().iter().all(|mail| mail.subject == "first"));
    for (field, evil) in [
        ("mime", "a\0b"),
        ("recipient", "a@example.com>\r\nDATA"),
        ("sender", "us@example.com\r\nRSET"),
    ] {
        let mut data =
            json!({ "sender": "us@example.com", "recipient": "a@example.com", "mime": "x" });
        data[field] = evil.into();
        let id = host
            .add("seekerQueue", json!({ "name": "smtp", "data": data }))
            .await?;
        host.job_in("seekerQueue", &id, "completed").await?;
    }
    assert_eq!(world.mail.count(), ends.len());
    Ok(())
}

#[tokio::test]
async fn a_mail_job_reaches_the_mail_server_and_is_remembered() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let digest = host.deploy("email", email_plugin()?).await?;
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    let story = host.job_in("emailQueue", &id, "completed").await?;
    let mails = world.mail.list();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].subject, "Message 1");
    let sent: Value = serde_json::from_str(
        story["job"]["returnValue"]
            .as_str()
            .context("return value")?,
    )?;
    assert!(
        sent["messageId"]
            .as_str()
            .is_some_and(|id| id.contains('@')),
        "{sent}"
    );
    let path = format!("/api/admin/queues/emailQueue/jobs/{id}");
    let attempt = until(
        Duration::from_secs(10),
        "the attempt in Postgres",
        async || Ok(host.get(&path).await?.1["data"]["attempts"].get(0).cloned()),
    )
    .await?;
    assert_eq!(attempt["outcome"], "completed");
    assert_eq!(attempt["revision"], digest);
    Ok(())
}

#[tokio::test]
async fn a_bad_payload_fails_at_once_and_names_the_field() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": { "subject": "x", "text": "y" } }),
        )
        .await?;
    let story = host.job_in("emailQueue", &id, "failed").await?;
    let reason = story["job"]["failedReason"].as_str().context("reason")?;
    assert!(
        reason.starts_with("invalid-input") && reason.contains("to"),
        "{reason}"
    );
    assert_eq!(story["job"]["attemptsMade"], 1);
    Ok(())
}

#[tokio::test]
async fn node_bullmq_and_bull_board_see_their_job_done() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let mut adding = Command::new("node");
    adding
        .arg("add-email.mjs")
        .current_dir(repository().join("tests/interop"))
        .env("REDIS_URL", &world.redis_url)
        .env("PREFIX", &world.prefix)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), adding.output()).await??;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let added: Value = serde_json::from_slice(&output.stdout)?;
    assert!(added["returnvalue"]["messageId"].is_string(), "{added}");
    assert_eq!(world.mail.count(), 1);

    let env = [
        ("REDIS_URL", world.redis_url.as_str()),
        ("PREFIX", world.prefix.as_str()),
    ];
    let (mut board, port) = server_of_node("bull-board.mjs", &env).await?;
    let url = format!(
        "http://127.0.0.1:{port}/admin/queues/api/queues?activeQueue=emailQueue&status=completed&page=1&jobsPerPage=10"
    );
    let listed: Value = host.http.get(url).send().await?.json().await?;
    let job = &listed["queues"][0]["jobs"][0];
    assert_eq!(job["id"], added["id"], "{listed}");
    assert_eq!(listed["queues"][0]["counts"]["completed"], 1);
    board.kill().await?;
    Ok(())
}
