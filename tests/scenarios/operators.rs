//! What operators read and type: one screen, who did what, questions before what cannot be undone,
//! output for people and for scripts.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::commands::{json_of, patchbay};
use crate::harness::{
    Host, PASSWORD, USER, World, binary, email_plugin, envelope, printed_json, until,
};

pub const QUEUE: &str = "plainQueue";

/// A host with a queue that nobody works on, and so many waiting jobs.
pub async fn with_jobs(world: &World, jobs: usize) -> anyhow::Result<(Host, Vec<String>)> {
    let host = world.host(&[]).await?;
    let mut ids = Vec::new();
    for n in 0..jobs {
        let job = json!({ "name": "work", "data": { "n": n }, "newQueue": true });
        ids.push(host.add(QUEUE, job).await?);
    }
    Ok((host, ids))
}

async fn waiting(host: &Host) -> anyhow::Result<u64> {
    let (_, queue) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
    queue["data"]["counts"]["waiting"]
        .as_u64()
        .context("a count")
}

pub struct Printed {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub async fn run(host: &Host, args: &[&str]) -> anyhow::Result<Printed> {
    let output = patchbay(host, args).await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Printed {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    })
}

#[tokio::test]
async fn what_cannot_be_undone_says_what_and_how_many_and_asks() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 3).await?;
    host.deploy("email", email_plugin()?).await?;
    json_of(
        &host,
        &[
            "--json",
            "schedule",
            "add",
            "nightly",
            QUEUE,
            "work",
            "--cron",
            "0 3 * * *",
            "--tz",
            "Asia/Kolkata",
            "--data",
            r#"{"n":1.50}"#,
        ],
    )
    .await?;
    let (_, revisions) = host.get("/api/admin/plugins/email/revisions").await?;
    let digest = revisions["data"][0]["digest"]
        .as_str()
        .context("a digest")?;
    let id = ids[0].as_str();
    let late = ["job", "add", QUEUE, "work", "--delay-ms", "1h"];
    assert_eq!(run(&host, &late).await?.code, Some(0));
    for (args, says) in [
        (
            vec!["queue", "drain", QUEUE],
            "3 waiting jobs of plainQueue",
        ),
        (
            vec!["queue", "clean", QUEUE, "waiting"],
            "3 waiting jobs of plainQueue",
        ),
        (vec!["queue", "promote-all", QUEUE], "1 delayed job"),
        (vec!["queue", "pause", "--all"], "on all hosts"),
        (vec!["job", "remove", QUEUE, id], "removes the waiting job"),
        (
            vec!["job", "set-data", QUEUE, id, "{}"],
            "replaces the data",
        ),
        (
            vec!["schedule", "remove", "nightly"],
            "removes schedule nightly",
        ),
        (
            vec!["plugin", "deactivate", "email"],
            "stops email on all hosts",
        ),
        (vec!["plugin", "delete", "email", digest], "last revision"),
        (
            vec!["bulk", "remove", "queue=plainQueue", "--state", "waiting"],
            "removes 3 jobs",
        ),
    ] {
        let printed = run(&host, &args).await?;
        assert_eq!(printed.code, Some(4), "{args:?}: {}", printed.err);
        assert!(
            printed.err.contains("Nothing was done") && printed.err.contains("add --yes"),
            "{args:?}: {}",
            printed.err
        );
        assert!(printed.err.contains(says), "{args:?}: {}", printed.err);
        let output = patchbay(&host, &[&["--json"], args.as_slice()].concat()).await?;
        assert_eq!(
            envelope(&output.stderr)?["code"],
            "not-confirmed",
            "{args:?}"
        );
    }
    assert_eq!(waiting(&host).await?, 3);
    for (args, says) in [
        (
            vec!["queue", "retry-all", QUEUE],
            "plainQueue has no failed jobs",
        ),
        (
            vec!["queue", "retry-all", QUEUE, "--state", "completed"],
            "plainQueue has no completed jobs",
        ),
        (
            vec!["queue", "clean", QUEUE, "failed"],
            "plainQueue has no failed jobs",
        ),
        (vec!["queue", "resume", "--all"], "not paused"),
    ] {
        let printed = run(&host, &args).await?;
        assert_eq!(printed.code, Some(0), "{args:?}: {}", printed.err);
        assert!(
            printed.out.starts_with("Nothing ") && printed.out.contains(says),
            "{args:?}: {}",
            printed.out
        );
    }
    run(&host, &["queue", "pause", QUEUE]).await?;
    let resume = run(&host, &["queue", "resume", "--all"]).await?;
    assert!(resume.err.contains("1 paused queue"), "{}", resume.err);
    run(&host, &["queue", "resume", QUEUE]).await?;
    let (_, status) = host.get("/api/admin/plugins/email/status").await?;
    assert!(status["data"]["active"].is_string(), "{status}");

    let counted = run(&host, &["queue", "drain", QUEUE, "--dry-run"]).await?;
    assert_eq!(
        counted.out,
        "Would be removed: 3 waiting jobs of plainQueue.\nThis cannot be undone\n"
    );
    let removed = run(&host, &["schedule", "remove", "nightly", "--yes"]).await?;
    assert!(
        removed
            .out
            .contains("Undo: patchbay schedule restore nightly"),
        "{}",
        removed.out
    );
    let removed = run(&host, &["job", "remove", QUEUE, id, "-y"]).await?;
    assert_eq!(removed.code, Some(0), "{}", removed.err);
    let stopped = run(&host, &["plugin", "deactivate", "email", "--yes"]).await?;
    let undo = format!("patchbay plugin activate email {}", &digest[..12]);
    assert!(stopped.out.contains(&undo), "{}", stopped.out);
    let drained = run(
        &host,
        &["queue", "drain", QUEUE, "--yes", "--reason", "INC-7"],
    )
    .await?;
    assert_eq!(
        drained.out,
        "Removed: 2 waiting jobs of plainQueue.\nThey cannot be brought back\n"
    );
    assert_eq!(waiting(&host).await?, 0);
    Ok(())
}

#[tokio::test]
async fn the_api_wants_the_name_of_what_it_destroys() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 2).await?;
    let send = async |request: reqwest::RequestBuilder| {
        let response = request.basic_auth(USER, Some(PASSWORD)).send().await?;
        anyhow::Ok((response.status().as_u16(), response.json::<Value>().await?))
    };
    let job = format!("{}/api/admin/queues/{QUEUE}/jobs/{}", host.url, ids[0]);
    let (status, refused) = send(host.http.delete(&job)).await?;
    assert_eq!((status, &refused["code"]), (428, &json!("not-confirmed")));
    assert_eq!(refused["details"]["confirm"], ids[0].as_str());
    let wrong = send(host.http.delete(format!("{job}?confirm=other"))).await?;
    assert_eq!(wrong.0, 400, "{}", wrong.1);
    let twice = format!("{job}?confirm=1&confirm=2");
    assert_eq!(send(host.http.delete(twice)).await?.0, 400);
    let long = format!("{job}?confirm={}&reason={}", ids[0], "x".repeat(501));
    assert_eq!(send(host.http.delete(long)).await?.0, 400);
    let clean = format!("{}/api/admin/queues/{QUEUE}/clean", host.url);
    let body = json!({ "state": "waiting" });
    assert_eq!(send(host.http.post(&clean).json(&body)).await?.0, 428);
    let dry = json!({ "state": "waiting", "dryRun": true });
    let (status, counted) = send(host.http.post(&clean).json(&dry)).await?;
    assert_eq!((status, &counted["data"]["count"]), (200, &json!(2)));
    assert_eq!(waiting(&host).await?, 2);
    let reason = "परीक्षण %26 = a+b";
    let done = host
        .http
        .delete(&job)
        .query(&[("confirm", ids[0].as_str()), ("reason", reason)]);
    assert_eq!(send(done).await?.0, 200);
    let (_, activity) = host.get("/api/admin/activity?action=job.remove").await?;
    let last = &activity["data"][0];
    assert_eq!(
        (&last["reason"], &last["from"]),
        (&json!(reason), &json!("127.0.0.1"))
    );
    Ok(())
}

#[tokio::test]
async fn who_did_what_is_listed_filtered_followed_and_exported() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 2).await?;
    run(
        &host,
        &["queue", "pause", QUEUE, "--reason", "=deploy, \"at\" night"],
    )
    .await?;
    run(&host, &["job", "remove", QUEUE, &ids[0], "--yes"]).await?;
    let refused = run(&host, &["job", "promote", QUEUE, &ids[1]]).await?;
    assert_eq!(refused.code, Some(4), "{}", refused.err);
    let list =
        async |args: &[&str]| json_of(&host, &[&["--json", "activity"], args].concat()).await;
    let all = list(&[]).await?;
    let actions: Vec<&str> = all
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|one| one["action"].as_str())
        .collect();
    assert_eq!(actions[..3], ["job.promote", "job.remove", "queue.pause"]);
    assert_eq!(
        (&all[0]["result"], &all[1]["result"]),
        (&json!("failed"), &json!("done"))
    );
    assert_eq!(all[2]["actor"], USER);
    let count = async |args: &[&str]| anyhow::Ok(list(args).await?.as_array().map_or(0, Vec::len));
    assert_eq!(
        count(&["--target", &format!("{QUEUE}/{}", ids[0])]).await?,
        2,
        "its addition and its removal"
    );
    assert_eq!(
        count(&["--target", QUEUE]).await?,
        5,
        "the queue and its jobs"
    );
    assert_eq!(count(&["--action", "job", "--result", "failed"]).await?, 1);
    assert_eq!(count(&["--kind", "host"]).await?, 0);
    assert_eq!(count(&["--actor", "nobody"]).await?, 0);
    assert_eq!(count(&["--until", "2001-01-01T00:00:00Z"]).await?, 0);
    // Page by page, each once.
    let page = patchbay(&host, &["--json", "activity", "--limit", "2"]).await?;
    let page = envelope(&page.stdout)?;
    let cursor = page["nextCursor"].as_str().context("a cursor")?;
    let next = list(&["--limit", "2", "--cursor", cursor]).await?;
    assert_eq!(next[0]["id"], all[2]["id"]);
    let (status, answer) = host.get("/api/admin/activity?cursor=nonsense").await?;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid-input")));

    // A second parser reads what is written, and no cell is a formula.
    let csv = run(&host, &["activity", "--csv"]).await?;
    let mut python = tokio::process::Command::new("python3")
        .args([
            "-c",
            "import csv,sys,json; print(json.dumps(list(csv.DictReader(sys.stdin))))",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = python.stdin.take().context("stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut input, csv.out.as_bytes()).await?;
    drop(input);
    let rows: Value = serde_json::from_slice(&python.wait_with_output().await?.stdout)?;
    assert_eq!(rows.as_array().map(Vec::len), all.as_array().map(Vec::len));
    assert_eq!(rows[2]["reason"], "'=deploy, \"at\" night");

    let mut follow = tokio::process::Command::new(binary())
        .args(["activity", "--follow"])
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("stdout")?).lines();
    // It begins with what is done after its start: repeated until it is seen.
    let seen = async {
        loop {
            run(&host, &["queue", "resume", QUEUE, "--reason", "morning"]).await?;
            let line = tokio::time::timeout(Duration::from_secs(2), lines.next_line()).await;
            if let Ok(line) = line {
                return anyhow::Ok(line?.context("a line")?);
            }
        }
    };
    let line = tokio::time::timeout(Duration::from_secs(60), seen).await??;
    assert!(
        line.contains("queue.resume  plainQueue") && line.contains("(morning)"),
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn one_screen_shows_what_is_wrong_and_what_to_do() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 3).await?;
    let calm = run(&host, &["status"]).await?;
    assert!(calm.out.contains(": ready"), "{}", calm.out);
    assert!(calm.out.contains("Alerts: none fires"), "{}", calm.out);
    run(&host, &["queue", "pause", QUEUE]).await?;
    let wrong = run(&host, &["status"]).await?;
    assert!(
        wrong.out.contains("Queues: 1, 1 in trouble"),
        "{}",
        wrong.out
    );
    assert!(
        wrong.out.contains("plainQueue: 3 jobs waiting")
            && wrong.out.contains("patchbay queue resume plainQueue"),
        "{}",
        wrong.out
    );
    let shown = json_of(&host, &["--json", "status"]).await?;
    assert_eq!(shown["queuesInTrouble"][0]["reasons"][0]["code"], "paused");
    assert_eq!(shown["unavailable"], json!([]));

    let mut watch = tokio::process::Command::new(binary())
        .args(["status", "--watch=1", "--json"])
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("stdout")?).lines();
    for _ in 0..2 {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await??;
        let shown = printed_json(line.context("a line")?.as_bytes())?;
        assert_eq!(shown["queues"], 1);
    }
    let refused = run(&host, &["queue", "pause", QUEUE, "--watch"]).await?;
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    Ok(())
}

#[tokio::test]
async fn every_command_that_reads_prints_the_envelope_and_fits_a_narrow_terminal()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 2).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = ids[0].as_str();
    for args in [
        vec!["status"],
        vec!["activity"],
        vec!["queue", "list"],
        vec!["queue", "show", QUEUE],
        vec!["queue", "why", QUEUE],
        vec!["job", "list", QUEUE, "waiting"],
        vec!["job", "show", QUEUE, id],
        vec!["job", "timeline", QUEUE, id],
        vec!["search"],
        vec!["search", "queue=plainQueue", "--state", "waiting"],
        vec!["search", "saved"],
        vec!["bulk", "list"],
        vec!["dead-letter", "list"],
        vec!["breaker", "list"],
        vec!["schedule", "list"],
        vec!["plugin", "list"],
        vec!["plugin", "revisions", "email"],
        vec!["plugin", "status", "email"],
        vec!["plugin", "history", "email"],
        vec!["plugin", "grants", "email"],
        vec!["plugin", "sql"],
        vec!["plugin", "settings", "get", "email"],
        vec!["secret", "list", "email"],
        vec!["audit", "list"],
        vec!["audit", "trail", "list"],
        vec!["alert", "list"],
        vec!["alert", "rules"],
        vec!["alert", "silences"],
        vec!["alert", "history"],
        vec!["history", "status"],
        vec!["history", "retention", "list"],
        vec!["history", "erasures"],
    ] {
        let output = patchbay(&host, &[&["-o", "json"], args.as_slice()].concat()).await?;
        printed_json(&output.stdout).with_context(|| format!("{args:?}"))?;
        let mut narrow = tokio::process::Command::new(binary());
        narrow
            .args(&args)
            .env("COLUMNS", "40")
            .env("LC_ALL", "C")
            .env("PATCHBAY_URL", &host.url)
            .env("PATCHBAY_USER", USER)
            .env("PATCHBAY_PASSWORD", PASSWORD);
        let printed = String::from_utf8(narrow.output().await?.stdout)?;
        let is_table = args.contains(&"list") || args.contains(&"revisions");
        let widest = printed.lines().map(|line| line.chars().count()).max();
        assert!(
            !is_table || widest.unwrap_or(0) <= 40,
            "{args:?}:\n{printed}"
        );
        let wide = run(&host, &[&["-o", "wide"], args.as_slice()].concat()).await?;
        assert_eq!(wide.code, Some(0), "{args:?}: {}", wide.err);
        let quiet = run(&host, &[&["-q"], args.as_slice()].concat()).await?;
        assert_eq!(quiet.code, Some(0), "{args:?}: {}", quiet.err);
    }
    let names = run(&host, &["-q", "queue", "list"]).await?;
    assert_eq!(names.out, "emailQueue\nmailLogQueue\nplainQueue\n");
    let added = run(&host, &["-q", "job", "add", QUEUE, "work"]).await?;
    assert!(added.out.trim().parse::<u64>().is_ok(), "{}", added.out);
    assert_eq!(run(&host, &["-q", "queue", "pause", QUEUE]).await?.out, "");

    for (args, code, status) in [
        (vec!["job", "show", QUEUE, "999"], "not-found", 3),
        (vec!["queue", "show", "nowhere"], "unknown-queue", 3),
        (vec!["job", "list", QUEUE, "nonsense"], "usage", 2),
        (vec!["no-such-command"], "usage", 2),
        (vec!["search", "colour=red"], "invalid-input", 4),
    ] {
        let output = patchbay(&host, &[&["--json"], args.as_slice()].concat()).await?;
        let failed = envelope(&output.stderr)?;
        assert_eq!(failed["code"], code, "{args:?}: {failed}");
        assert_eq!(output.status.code(), Some(status), "{args:?}: {failed}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    // A reader that goes away early ends the command, without a word.
    let script = format!("{} activity --all | head -n 1", binary().display());
    let piped = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD)
        .output()
        .await?;
    assert_eq!(String::from_utf8_lossy(&piped.stderr), "");
    Ok(())
}

#[tokio::test]
async fn a_job_is_shown_with_its_times_copied_and_missed_with_a_reason() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let data = r#"{"n":123456789012345678901234567890}"#;
    let added = json_of(
        &host,
        &[
            "--json",
            "job",
            "add",
            QUEUE,
            "work",
            data,
            "--new-queue",
            "--delay-ms",
            "3600000",
            "--attempts",
            "3",
            "--backoff-ms",
            "1000",
            "--priority",
            "7",
        ],
    )
    .await?;
    let id = added["id"].as_str().context("an id")?;
    run(
        &host,
        &["job", "set-priority", QUEUE, id, "9", "--reason", "INC-8"],
    )
    .await?;
    let shown = run(&host, &["job", "show", QUEUE, id]).await?;
    for part in [
        "Added: ",
        "Due: ",
        "(in 59 min)",
        "Attempts: 0 of 3 made, 3 left, backoff fixed 1 s",
        "Priority: 9",
        "Options: {",
        "Last change: job.set-priority by",
        ": INC-8",
        &format!("Data: {data}"),
    ] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    let output = patchbay(&host, &["--json", "job", "show", QUEUE, id]).await?;
    let text = String::from_utf8(output.stdout)?;
    assert!(
        text.contains("\"n\": 123456789012345678901234567890"),
        "{text}"
    );

    let copy = json_of(
        &host,
        &[
            "--json",
            "job",
            "duplicate",
            QUEUE,
            id,
            "--data",
            r#"{"n":2}"#,
            "--reason",
            "again",
        ],
    )
    .await?;
    let copy = copy["id"].as_str().context("an id")?;
    let (_, like) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/{copy}"))
        .await?;
    let job = &like["data"]["job"];
    assert_eq!(
        (&job["name"], &job["data"]),
        (&json!("work"), &json!(r#"{"n":2}"#))
    );
    assert_eq!(
        (&job["priority"], &like["data"]["retries"]["attempts"]),
        (&json!(9), &json!(3))
    );

    run(&host, &["job", "remove", QUEUE, id, "--yes"]).await?;
    let gone = run(&host, &["job", "show", QUEUE, id]).await?;
    assert_eq!(gone.code, Some(3));
    assert!(
        gone.err.contains("not in Redis any more") && gone.err.contains("removed it"),
        "{}",
        gone.err
    );
    let never = run(&host, &["job", "show", QUEUE, "777"]).await?;
    assert!(
        never.err.contains("nothing is recorded of one"),
        "{}",
        never.err
    );
    let missing = run(&host, &["job", "duplicate", QUEUE, id]).await?;
    assert_eq!(missing.code, Some(3), "{}", missing.err);
    Ok(())
}

#[tokio::test]
async fn a_shell_completes_the_names_that_the_host_knows() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    host.deploy("email", email_plugin()?).await?;
    let complete = async |url: &str, words: &[&str]| {
        let output = tokio::process::Command::new(binary())
            .arg("--")
            .args(words)
            .env("COMPLETE", "bash")
            .env("_CLAP_IFS", "\n")
            .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("_CLAP_COMPLETE_SPACE", "true")
            .env("PATCHBAY_URL", url)
            .env("PATCHBAY_USER", USER)
            .env("PATCHBAY_PASSWORD", PASSWORD)
            .output()
            .await?;
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let queues = complete(&host.url, &["patchbay", "queue", "show", "pla"]).await?;
    assert_eq!(queues.trim(), QUEUE);
    // A name that a shell would run or split is not offered: the shell takes it as it is.
    for name in ["plain$(touch x)", "plain two"] {
        host.add(name, json!({ "name": "work", "newQueue": true }))
            .await?;
    }
    let queues = complete(&host.url, &["patchbay", "queue", "show", "pla"]).await?;
    assert_eq!(queues.trim(), QUEUE);
    let plugins = complete(&host.url, &["patchbay", "plugin", "status", ""]).await?;
    assert!(plugins.lines().any(|line| line == "email"), "{plugins}");
    let rules = complete(&host.url, &["patchbay", "alert", "silence", "oldest"]).await?;
    assert_eq!(rules.trim(), "oldest-waiting");
    // Without a host there are none, and nothing fails.
    complete("http://127.0.0.1:1", &["patchbay", "queue", "show", ""]).await?;
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&host, &["completions", shell]).await?;
        assert!(script.out.contains("COMPLETE"), "{shell}: {}", script.out);
    }
    Ok(())
}

#[tokio::test]
async fn a_removed_schedule_comes_back_with_its_data() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    let data = r#"{"n":123456789012345678901234567890}"#;
    let add = [
        "schedule",
        "add",
        "nightly",
        QUEUE,
        "work",
        "--every-ms",
        "3600000",
    ];
    let made = run(
        &host,
        &[&add[..], &["--data", data, "--missed", "once"]].concat(),
    )
    .await?;
    assert_eq!(made.code, Some(0), "{}", made.err);
    let early = run(&host, &["schedule", "restore", "nightly"]).await?;
    assert!(
        early.code == Some(4) && early.err.contains("exists: created by"),
        "{}",
        early.err
    );
    let removed = run(&host, &["schedule", "remove", "nightly", "--yes"]).await?;
    assert!(
        removed
            .out
            .contains("Undo: patchbay schedule restore nightly"),
        "{}",
        removed.out
    );
    let back = run(
        &host,
        &[
            "--json", "schedule", "restore", "nightly", "--reason", "INC-9",
        ],
    )
    .await?;
    assert_eq!(back.code, Some(0), "{}", back.err);
    let (_, shown) = host.get("/api/admin/schedules/nightly").await?;
    let shown = &shown["data"];
    assert_eq!(
        (
            &shown["data"],
            &shown["missed"],
            shown["nextAt"].is_string()
        ),
        (&json!(data), &json!("once"), true),
        "{shown}"
    );
    let twice = run(&host, &["schedule", "restore", "nightly"]).await?;
    assert!(
        twice.code == Some(4) && twice.err.contains("Schedule nightly exists: restored by"),
        "{}",
        twice.err
    );
    // A schedule that was made anew is not replaced by the old one.
    run(&host, &["schedule", "remove", "nightly", "--yes"]).await?;
    run(&host, &add).await?;
    let taken = run(&host, &["schedule", "restore", "nightly"]).await?;
    assert!(
        taken.code == Some(4) && taken.err.contains("There is a schedule nightly again"),
        "{}",
        taken.err
    );
    run(&host, &["schedule", "remove", "nightly", "--yes"]).await?;
    let newest = run(&host, &["schedule", "restore", "nightly"]).await?;
    assert!(newest.out.contains("If missed: skipped"), "{}", newest.out);
    Ok(())
}

#[tokio::test]
async fn a_job_that_a_bulk_operation_removed_is_not_changed_and_its_id_is_not_lost()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let job = json!({ "name": "work", "id": "same", "data": { "v": "old" }, "newQueue": true });
    host.add(QUEUE, job).await?;
    let twice = run(&host, &["job", "add", QUEUE, "work", "{}", "--id", "same"]).await?;
    assert!(
        twice
            .out
            .contains("Nothing was added, because there is a job with this id"),
        "{}",
        twice.out
    );
    let which = format!("queue={QUEUE}");
    let remove = [
        "bulk", "remove", &which, "--state", "waiting", "--yes", "--watch",
    ];
    let removed = run(&host, &remove).await?;
    assert_eq!(removed.code, Some(0), "{}", removed.err);
    let shown = run(&host, &["job", "show", QUEUE, "same"]).await?;
    assert!(
        shown.out.contains("Removed by bulk operation 1"),
        "{}",
        shown.out
    );
    for arguments in [
        vec![
            "job",
            "add",
            QUEUE,
            "work",
            r#"{"v":"new"}"#,
            "--id",
            "same",
        ],
        vec!["job", "set-data", QUEUE, "same", "{}", "--yes"],
        vec!["job", "set-priority", QUEUE, "same", "3"],
        vec!["job", "duplicate", QUEUE, "same"],
        vec!["job", "remove", QUEUE, "same", "--yes"],
    ] {
        let refused = run(&host, &arguments).await?;
        assert!(
            refused.code == Some(4) && refused.err.contains("patchbay bulk undo 1"),
            "{arguments:?}: {} {}",
            refused.out,
            refused.err
        );
    }
    let undone = run(&host, &["bulk", "undo", "1", "--watch"]).await?;
    assert_eq!(undone.code, Some(0), "{}", undone.err);
    let (_, back) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/same"))
        .await?;
    assert_eq!(back["data"]["job"]["data"], r#"{"v":"old"}"#, "{back}");
    Ok(())
}

#[tokio::test]
async fn a_change_with_an_unknown_parameter_does_nothing() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    for query in [
        "dryrun=true",
        "Reason=x",
        "=1",
        "confirm=plainQueue&force=true",
    ] {
        let (status, answer) = host
            .post(
                &format!("/api/admin/queues/{QUEUE}/pause?{query}"),
                json!({}),
            )
            .await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{query}: {answer}"
        );
    }
    let (_, queue) = host.get(&format!("/api/admin/queues/{QUEUE}?x=1")).await?;
    assert_eq!(queue["data"]["counts"]["paused"], false, "{queue}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_written_is_an_error_and_no_output_steers_a_terminal() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    let job = json!({ "name": "a\u{9b}31m\u{202e}b", "data": {} });
    let id = host.add(QUEUE, job).await?;
    let shown = run(&host, &["--json", "job", "show", QUEUE, &id]).await?;
    assert!(shown.out.contains("a\\u009b31m\\u202eb"), "{}", shown.out);
    let reason = "\u{1b}]0;pwn\u{7}\u{9b}31m";
    run(&host, &["queue", "pause", QUEUE, "--reason", reason]).await?;
    let csv = run(&host, &["activity", "--csv"]).await?;
    assert!(
        csv.out.contains("]0;pwn") && !csv.out.contains(['\u{1b}', '\u{9b}', '\u{7}']),
        "{}",
        csv.out
    );
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let job = run(&host, &["-q", "job", "add", QUEUE, "deep", &deep]).await?;
    let shown = run(&host, &["--json", "job", "show", QUEUE, job.out.trim()]).await?;
    assert!(
        shown.code == Some(0) && shown.out.len() < 100_000,
        "{} bytes",
        shown.out.len()
    );
    let full = tokio::process::Command::new(binary())
        .args(["queue", "list"])
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD)
        .stdout(std::fs::OpenOptions::new().write(true).open("/dev/full")?)
        .stderr(Stdio::piped())
        .spawn()?
        .wait_with_output()
        .await?;
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(
        full.status.code() == Some(1) && said.starts_with("error: cannot write the output"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn two_operators_at_once_on_one_thing_leave_one_result() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 2).await?;
    let (id, job) = (
        &ids[0],
        format!("/api/admin/queues/{QUEUE}/jobs/{}", ids[0]),
    );
    let (one, two) = tokio::join!(host.delete(&job), host.delete(&job));
    let mut statuses = [one?.0, two?.0];
    statuses.sort_unstable();
    // Both wanted it gone, and it is.
    assert!(
        statuses == [200, 404] || statuses == [200, 200],
        "{statuses:?}"
    );
    assert_eq!(host.get(&job).await?.0, 404, "job {id} is gone");
    let silence = json!({ "rule": "oldest-waiting", "forS": 60, "reason": "a look" });
    let (_, made) = host.post("/api/admin/alerts/silences", silence).await?;
    let path = format!("/api/admin/alerts/silences/{}", made["data"]["id"]);
    let (one, two) = tokio::join!(host.delete(&path), host.delete(&path));
    let mut statuses = [one?.0, two?.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404]);
    let schedule = json!({ "id": "beat", "queue": QUEUE, "name": "work", "everyMs": 3_600_000 });
    let (one, two) = tokio::join!(
        host.post("/api/admin/schedules", schedule.clone()),
        host.post("/api/admin/schedules", schedule)
    );
    let mut statuses = [one?.0, two?.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let pause = "/api/admin/schedules/beat/pause";
    let (one, two) = tokio::join!(host.post(pause, json!({})), host.post(pause, json!({})));
    assert_eq!((one?.0, two?.0), (200, 200));
    // What goes away between a look and the change is told as gone.
    let remove = async { host.delete("/api/admin/schedules/beat").await };
    let (one, two) = tokio::join!(
        remove,
        host.post("/api/admin/schedules/beat/run", json!({}))
    );
    assert_eq!(one?.0, 200);
    assert!([200, 404].contains(&two?.0));
    until(
        Duration::from_secs(10),
        "the schedule to be gone",
        async || {
            let (status, _) = host.get("/api/admin/schedules/beat").await?;
            Ok((status == 404).then_some(()))
        },
    )
    .await
}

/// Replaces what differs from run to run, and runs of spaces.
fn normalised(text: &str, host: &Host) -> anyhow::Result<String> {
    let mut text = text.replace(&host.url, "URL");
    for (pattern, with) in [
        (
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
            "TIME",
        ),
        (
            r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( [A-Z]{3,4}|[+-]\d\d:?\d\d)?",
            "TIME",
        ),
        (r"\(\d\d:\d\d(:\d\d)? UTC\)", "(TIME)"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
        (r"\b[0-9a-f]{12}\b|\b[0-9a-f]{64}\b", "DIGEST"),
        (r"\b(now|\d+ (ms|s|min) ago)\b", "AGO"),
        (r"\bfor \d+ (ms|s)\b", "for AGE"),
        (r"\b[A-Za-z0-9.-]+:\d{2,7}\b", "HOST"),
        (r"smtp://\S+", "smtp://SERVER"),
        (r"\b\d+ (ms|s)\b", "AGE"),
        (r" {2,}", "  "),
        (r" +\n", "\n"),
    ] {
        text = regex::Regex::new(pattern)?
            .replace_all(&text, with)
            .into_owned();
    }
    Ok(text)
}

#[tokio::test]
async fn lists_and_errors_look_as_in_the_snapshot() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 2).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = ids[0].as_str();
    for args in [
        vec!["queue", "pause", QUEUE, "--reason", "INC-7"],
        vec!["queue", "concurrency", QUEUE, "3"],
        vec![
            "schedule",
            "add",
            "nightly",
            QUEUE,
            "work",
            "--cron",
            "0 3 * * *",
            "--tz",
            "Asia/Kolkata",
            "--description",
            "The report of the night",
        ],
        vec!["schedule", "pause", "nightly"],
        vec![
            "search",
            "save",
            "failed mails",
            "queue=emailQueue",
            "outcome=failed",
        ],
    ] {
        let done = run(&host, &args).await?;
        anyhow::ensure!(done.code == Some(0), "{args:?}: {}", done.err);
    }
    let mut shown = String::new();
    for args in [
        vec!["status"],
        vec!["queue", "list"],
        vec!["queue", "show", QUEUE],
        vec!["queue", "why", QUEUE],
        vec!["queue", "why", "emailQueue"],
        vec!["job", "list", QUEUE, "waiting", "--limit", "1"],
        vec!["job", "list", QUEUE, "waiting", "-o", "wide"],
        vec!["job", "show", QUEUE, id],
        vec!["activity"],
        vec!["schedule", "list"],
        vec!["schedule", "show", "nightly"],
        vec!["plugin", "list"],
        vec!["plugin", "revisions", "email"],
        vec!["plugin", "grants", "email"],
        vec!["breaker", "list"],
        vec!["alert", "list"],
        vec!["dead-letter", "list"],
        vec!["bulk", "list"],
        vec!["search", "saved"],
        vec!["search", "queue=plainQueue"],
        vec!["queue", "resume", QUEUE],
        vec!["queue", "concurrency", QUEUE, "--none"],
        // Errors.
        vec!["queue", "clean", QUEUE, "waiting"],
        vec!["queue", "concurrency", QUEUE],
        vec!["queue", "show", "nowhere"],
        vec!["job", "show", QUEUE, "999"],
        vec!["job", "promote", QUEUE, id],
        vec!["job", "add", "emailQueue", "sned", "{}"],
        vec!["job", "add", "emailQueue", "send", "{}"],
        vec!["job", "add", "emialQueue", "send", "{}"],
        vec!["job", "add", QUEUE, "work", "{"],
        vec!["job", "set-priority", QUEUE, id, "9999999"],
        vec![
            "schedule",
            "add",
            "never",
            QUEUE,
            "work",
            "--cron",
            "0 0 30 2 *",
        ],
        vec![
            "schedule",
            "add",
            "x",
            QUEUE,
            "work",
            "--cron",
            "0 3 * * *",
            "--tz",
            "Mars/Base",
        ],
        vec!["schedule", "add", "y", QUEUE, "work", "--every-ms", "5"],
        vec!["schedule", "resume", "missing"],
        vec!["plugin", "activate", "email", "ffff"],
        vec!["plugin", "rollback", "email"],
        vec!["plugin", "settings", "set", "email", "form=x"],
        vec![
            "alert",
            "silence",
            "no-such-rule",
            "--for",
            "2h",
            "--reason",
            "x",
        ],
        vec![
            "alert",
            "rule",
            "set",
            "oldest-waiting",
            "--threshold",
            "-1",
        ],
        vec!["breaker", "close", "email", "nowhere", "--reason", "x"],
        vec!["bulk", "retry"],
        vec!["bulk", "retry", "queue=plainQueue"],
        vec!["bulk", "retry", "colour=red"],
        vec!["bulk", "undo", "77"],
        vec!["dead-letter", "show", "77"],
        vec!["search", "colour=red"],
        vec!["search", "run", "missing"],
        vec!["secret", "remove", "email", "MISSING", "--yes"],
        vec!["history", "retention", "set", QUEUE, "--days", "0"],
    ] {
        let printed = run(&host, &args).await?;
        let command: Vec<_> = args
            .iter()
            .map(|word| patchbay_model::shell::word(word))
            .collect();
        shown += &format!(
            "$ patchbay {}\n{}{}",
            command.join(" "),
            printed.out,
            printed.err
        );
        if printed.code != Some(0) {
            shown += &format!("[exit code {}]\n", printed.code.unwrap_or(-1));
        }
        shown.push('\n');
    }
    let shown = normalised(&shown, &host)?;
    let file = crate::harness::repository().join("tests/snapshots/command-line.txt");
    if std::env::var_os("PATCHBAY_TEST_UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().context("a folder")?)?;
        std::fs::write(&file, &shown)?;
    }
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = shown
        .lines()
        .zip(before.lines())
        .find(|(now, before)| now != before);
    assert!(
        shown == before,
        "the first line that differs: {differs:?}. If it is better so, take it: PATCHBAY_TEST_UPDATE=1 scripts/test -E 'test(as_in_the_snapshot)'"
    );
    Ok(())
}
