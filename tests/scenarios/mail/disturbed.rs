//! Mails while the server is away, slow or has another password, while jobs come twice and in
//! another order, while the plugin is replaced, and while hosts are killed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use patchbay_stand_ins::smtp::{self, Account, Fault, Smtp, Stage};
use serde_json::{Value, json};

use super::library::Office;
use super::plugin_with;
use super::server::{PASSWORD, environment};
use crate::cable::Cable;
use crate::commands::json_of;
use crate::disturbance::{Killer, away, kills};
use crate::harness::{until, variant};
use crate::people::PEOPLE;

const QUEUE: &str = "emailQueue";
const TEMPLATES: &str = "/api/sales/email-templates";
/// Of the plugin's queue: so many mails are on their way at once.
const CONCURRENCY: usize = 10;
const SOON: Duration = Duration::from_secs(30);

/// An office that sends by the server at this address, and whose killed jobs are taken over soon.
fn variables(address: SocketAddr, password: &Path) -> Vec<(&'static str, String)> {
    let mut all = environment(address, password);
    all.push(("PATCHBAY_WORK_LOCK_S", "3".into()));
    all.push(("PATCHBAY_WORK_RENEW_S", "1".into()));
    all
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    env.iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

/// The plugin, whose breaker lets somebody try soon.
fn plugin() -> anyhow::Result<Vec<u8>> {
    plugin_with("plugins/email", "email.wasm", |manifest| {
        let soon = "allowed = true\nbreaker = { open_ms = 500 }";
        manifest.replace("allowed = true", soon)
    })
}

/// The plugin begins to send, and somebody of sales makes the template that these mails are made of.
async fn begin(office: &Office) -> anyhow::Result<()> {
    let sales = office.account("sales", "sales").await?;
    office.open_with(plugin()?).await?;
    let draft = json!({ "name": "offer", "subject": "For {{ name }}", "text": "Hello {{ name }}", "sample": { "name": "Asha" } });
    let (status, made) = office.ask(&sales, "POST", TEMPLATES, Some(draft)).await?;
    anyhow::ensure!(status == 201, "{status} {made}");
    Ok(())
}

fn address(kind: &str, n: usize) -> String {
    format!("{kind}{n}@example.com")
}

/// A mail of the template, which is tried as often as it takes.
fn mail(kind: &str, n: usize) -> Value {
    let data =
        json!({ "to": address(kind, n), "template": "offer", "variables": { "name": kind } });
    let backoff = json!({ "type": "fixed", "delayMs": 200 });
    json!({ "name": "template", "data": data, "attempts": 1_000, "backoff": backoff })
}

async fn added(office: &Office, kind: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(office.host.add(QUEUE, mail(kind, n)).await?);
    }
    Ok(ids)
}

/// Waits until all are done: each was sent, and once.
async fn sent_once(
    office: &Office,
    server: &Smtp,
    kind: &str,
    jobs: &[String],
) -> anyhow::Result<()> {
    for (n, id) in jobs.iter().enumerate() {
        office.host.job_in(QUEUE, id, "completed").await?;
        let taken = server.taken_for(&address(kind, n));
        anyhow::ensure!(taken == 1, "{} was sent {taken} times", address(kind, n));
    }
    Ok(())
}

async fn taken(server: &Smtp, kind: &str, least: usize) -> anyhow::Result<()> {
    until(SOON, &format!("{least} mails to {kind}"), async || {
        let mails = server.mails();
        let to = |recipients: &[String]| recipients.iter().any(|one| one.starts_with(kind));
        let count = mails.iter().filter(|mail| to(&mail.recipients)).count();
        Ok((count >= least).then_some(()))
    })
    .await
}

#[tokio::test]
async fn whatever_happens_around_mails_each_is_sent_once() -> anyhow::Result<()> {
    let server = smtp::start("127.0.0.1:0".parse()?, Account::default()).await?;
    let cable = Cable::to(server.address.to_string()).await?;
    let dir = tempfile::tempdir()?;
    let password = dir.path().join("password");
    std::fs::write(&password, PASSWORD)?;
    let place = cable.address;
    let env = variables(place, &password);
    let office = Office::new(&borrowed(&env)).await?;
    begin(&office).await?;
    let before = server.mails().len();

    // The server is away. Nothing is lost, and nothing is sent twice when it is back.
    cable.refuse().await;
    let jobs = added(&office, "away", 10).await?;
    // How long it is away is what is tested.
    tokio::time::sleep(away()).await;
    assert_eq!(server.mails().len(), before);
    let _cable = Cable::at(place, server.address.to_string()).await?;
    sent_once(&office, &server, "away", &jobs).await?;

    // It is slow. Jobs come twice and in another order; one that is done runs again.
    server.behave(|behaviour| behaviour.slow_ms = 100);
    let mut twice = Vec::new();
    for n in 0..20 {
        let mut job = mail("twice", n);
        (job["id"], job["priority"]) = (json!(format!("twice-{n}")), json!(100 - n));
        twice.push(office.host.add(QUEUE, job.clone()).await?);
        assert_eq!(office.host.add(QUEUE, job).await?, twice[n]);
    }
    sent_once(&office, &server, "twice", &twice).await?;
    let again = format!("/api/admin/queues/{QUEUE}/jobs/{}/retry", twice[7]);
    let (status, answer) = office.host.post(&again, json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    sent_once(&office, &server, "twice", &twice).await?;
    // What is written down late does not undo what was sent.
    let (message_id, _, _) = office.row("twice7@example.com", "sent").await?;
    let late = json!({
        "messageId": message_id, "jobId": twice[7], "platform": "default", "triedAtMs": 1, "to": ["twice7@example.com"],
        "outcomes": [{ "address": "twice7@example.com", "status": "unknown", "code": null, "enhanced": null, "reply": "late" }],
        "kind": "template", "subject": "s",
    });
    let late = json!({ "name": "record", "data": late });
    let late = office.host.add("mailLogQueue", late).await?;
    office
        .host
        .job_in("mailLogQueue", &late, "completed")
        .await?;
    office.row("twice7@example.com", "sent").await?;

    // Another revision takes over in the middle.
    let next = variant(&plugin()?, "next");
    let (status, staged) = office.host.push(next).await?;
    assert_eq!(status, 200, "{staged}");
    let digest = staged["data"]["digest"].as_str().context("a digest")?;
    server.behave(|behaviour| behaviour.slow_ms = 500);
    let jobs = added(&office, "swap", 40).await?;
    taken(&server, "swap", 5).await?;
    let activate = json!({ "digest": digest, "grant": true });
    let path = "/api/admin/plugins/email/activate";
    let (status, answer) = office.host.post(path, activate).await?;
    assert_eq!(status, 200, "{answer}");
    sent_once(&office, &server, "swap", &jobs).await?;
    let mut revisions = BTreeSet::new();
    for id in &jobs {
        let path = format!("/api/admin/queues/{QUEUE}/jobs/{id}");
        let attempt = until(SOON, "the attempt in Postgres", async || {
            let (_, answer) = office.host.get(&path).await?;
            Ok(answer["data"]["attempts"].get(0).cloned())
        })
        .await?;
        revisions.extend(attempt["revision"].as_str().map(str::to_owned));
    }
    assert!(
        revisions.len() == 2 && revisions.contains(digest),
        "{revisions:?}"
    );

    // The password is replaced at the provider, and connections end. Then the file has the new one.
    server.behave(|behaviour| behaviour.slow_ms = 0);
    server.set_password("the-next-password");
    let closing = Fault::reply(Stage::Mail, "421 4.7.0 closing");
    server.fault(closing);
    let jobs = added(&office, "rotated", 10).await?;
    for id in &jobs {
        let reason = office.reason(id).await?;
        assert!(reason.starts_with("bad-credentials"), "{reason}");
    }
    server.remove_faults();
    std::fs::write(&password, "the-next-password\n")?;
    let retry = ["--json", "queue", "retry-all", QUEUE, "--yes"];
    json_of(&office.host, &retry).await?;
    sent_once(&office, &server, "rotated", &jobs).await?;
    until(SOON, "a row of each mail", async || {
        let mut database = office.world.database().await?;
        let rows = rows_of(&mut database).await?;
        Ok((rows == (80, 80)).then_some(()))
    })
    .await?;
    Ok(())
}

/// Rows of `emails_sent`, and how many of them say that the mail was sent; without mails about
/// accounts.
async fn rows_of(database: &mut sqlx::PgConnection) -> anyhow::Result<(i64, i64)> {
    let statement = "select count(*), count(*) filter (where status = 'sent') from public.emails_sent where template_id is not null";
    Ok(sqlx::query_as(statement).fetch_one(database).await?)
}

/// How long a mail could have come twice: from the server's answer to the end of the attempt, by
/// which the plugin has noted it.
fn window_ms(attempt: &Value) -> anyhow::Result<i64> {
    let at = |name: &str| -> anyhow::Result<DateTime<Utc>> {
        Ok(attempt[name].as_str().context("a time")?.parse()?)
    };
    let took = at("finishedAt")? - at("startedAt")?;
    let call = &attempt["calls"][0];
    let answered = ["afterMs", "tookMs"].map(|name| call[name].as_i64().unwrap_or_default());
    Ok(took.num_milliseconds() - answered.iter().sum::<i64>())
}

#[tokio::test]
async fn a_killed_host_loses_no_mail_and_doubles_only_those_that_are_on_their_way()
-> anyhow::Result<()> {
    const MAILS: usize = 20;
    const SLOW_MS: u64 = 50;
    let server = smtp::start("127.0.0.1:0".parse()?, Account::default()).await?;
    let dir = tempfile::tempdir()?;
    let password = dir.path().join("password");
    std::fs::write(&password, PASSWORD)?;
    let env = variables(server.address, &password);
    let mut office = Office::new(&borrowed(&env)).await?;
    begin(&office).await?;
    server.behave(|behaviour| behaviour.slow_ms = SLOW_MS);
    let mut env = borrowed(&env);
    env.extend(PEOPLE);
    let (mut killer, kills) = (Killer::new(), kills());
    let mut doubled = Vec::new();
    for round in 0..kills {
        let kind = format!("round{round}-");
        let jobs = added(&office, &kind, MAILS).await?;
        killer
            .kills(&office.world, &mut office.host, &env, 250)
            .await?;
        let mut twice = 0;
        for (n, id) in jobs.iter().enumerate() {
            office.host.job_in(QUEUE, id, "completed").await?;
            let to = address(&kind, n);
            let mails = server.mails();
            let ids: Vec<Option<&str>> = mails
                .iter()
                .filter(|mail| mail.recipients.contains(&to))
                .map(|mail| mail.header("Message-ID"))
                .collect();
            anyhow::ensure!(!ids.is_empty(), "{to} is lost");
            anyhow::ensure!(
                ids.iter().all(|id| id.is_some() && *id == ids[0]),
                "{to} has two Message-IDs: {ids:?}"
            );
            anyhow::ensure!(ids.len() <= 2, "{to} was sent {} times", ids.len());
            twice += ids.len() - 1;
        }
        assert!(twice <= CONCURRENCY, "{twice} doubled by one kill");
        doubled.push(twice);
    }
    let all = i64::try_from(kills * MAILS)?;
    until(SOON, "a row of each mail", async || {
        let mut database = office.world.database().await?;
        Ok((rows_of(&mut database).await? == (all, all)).then_some(()))
    })
    .await?;

    // How long the window is, when nobody disturbs.
    let jobs = added(&office, "window", MAILS).await?;
    sent_once(&office, &server, "window", &jobs).await?;
    let mut windows = Vec::new();
    for id in &jobs {
        let path = format!("/api/admin/queues/{QUEUE}/jobs/{id}");
        let attempt = until(SOON, "the attempt in Postgres", async || {
            let (_, answer) = office.host.get(&path).await?;
            Ok(answer["data"]["attempts"].get(0).cloned())
        })
        .await?;
        windows.push(window_ms(&attempt)?);
    }
    windows.sort_unstable();
    println!(
        "{kills} kills amid {all} mails, {CONCURRENCY} at a time, to a server that answers after {SLOW_MS} ms: 0 lost, {} came twice, with one \
         Message-ID; by kill {doubled:?}. From the server's answer to the end of the attempt: median {} ms, at most {} ms",
        doubled.iter().sum::<usize>(),
        windows[windows.len() / 2],
        windows[windows.len() - 1],
    );
    Ok(())
}
