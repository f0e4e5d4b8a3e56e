//! The command line, as an operator or a script uses it.

use std::process::Output;

use anyhow::Context;
use serde_json::{Value, json};

use crate::harness::{
    Host, PASSWORD, USER, World, binary, email_plugin, hostile_plugin, hostile_plugin_with,
    printed_json, variant,
};

/// Runs `patchbay` against the host.
pub async fn patchbay(host: &Host, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(binary());
    command
        .args(args)
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD);
    Ok(command.output().await?)
}

pub async fn json_of(host: &Host, args: &[&str]) -> anyhow::Result<Value> {
    let output = patchbay(host, args).await?;
    anyhow::ensure!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    printed_json(&output.stdout)
}

#[tokio::test]
async fn a_plugins_whole_life_by_commands() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let write = |name: &str, bytes: Vec<u8>| -> anyhow::Result<String> {
        let path = world.dir.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path.to_str().context("a path")?.to_owned())
    };
    let first = write("first.wasm", email_plugin()?)?;
    let second = write("second.wasm", variant(&email_plugin()?, "second"))?;
    let activated = json_of(
        &host,
        &["--json", "plugin", "push", &first, "--activate", "--grant"],
    )
    .await?;
    let staged = json_of(&host, &["--json", "plugin", "push", &second]).await?;
    assert_eq!(staged["created"], true);
    let digest = staged["digest"].as_str().context("a digest")?;
    let swapped = json_of(
        &host,
        &["--json", "plugin", "activate", "email", &digest[..8]],
    )
    .await?;
    assert_eq!(swapped["previous"], activated["digest"]);
    let back = json_of(&host, &["--json", "plugin", "rollback", "email"]).await?;
    assert_eq!(back["digest"], activated["digest"]);
    let refused = patchbay(
        &host,
        &[
            "plugin",
            "delete",
            "email",
            activated["digest"].as_str().context("a digest")?,
        ],
    )
    .await?;
    assert_eq!(
        refused.status.code(),
        Some(4),
        "the active revision is not deleted"
    );
    json_of(
        &host,
        &["--json", "plugin", "delete", "email", digest, "--yes"],
    )
    .await?;
    let listed = json_of(&host, &["--json", "plugin", "list"]).await?;
    assert_eq!(
        (&listed[0]["active"], &listed[0]["revisions"]),
        (&json!(true), &json!(1))
    );

    json_of(
        &host,
        &[
            "--json",
            "plugin",
            "settings",
            "set",
            "email",
            "from=Ops <ops@example.com>",
            "deferMinutes=5",
        ],
    )
    .await?;
    let settings = json_of(&host, &["--json", "plugin", "settings", "get", "email"]).await?;
    assert_eq!(
        settings,
        json!({ "from": "Ops <ops@example.com>", "deferMinutes": 5 })
    );
    let wrong = patchbay(
        &host,
        &["plugin", "settings", "set", "email", "deferMinutes=soon"],
    )
    .await?;
    assert_eq!(wrong.status.code(), Some(4));
    assert!(
        String::from_utf8_lossy(&wrong.stderr).contains("/deferMinutes"),
        "it names the setting"
    );

    let added = json_of(
        &host,
        &[
            "--json",
            "job",
            "add",
            "emailQueue",
            "send",
            r#"{"to":"a@example.com","subject":"s","text":"t"}"#,
        ],
    )
    .await?;
    let id = added["id"].as_str().context("an id")?;
    host.job_in("emailQueue", id, "completed").await?;
    assert_eq!(world.mail.list()[0].from, "ops@example.com");
    json_of(&host, &["--json", "plugin", "deactivate", "email", "--yes"]).await?;
    let waiting = json_of(&host, &["--json", "job", "add", "emailQueue", "send", "{}"]).await?;
    let shown = json_of(
        &host,
        &[
            "--json",
            "job",
            "show",
            "emailQueue",
            waiting["id"].as_str().context("an id")?,
        ],
    )
    .await?;
    assert_eq!(
        shown["job"]["state"], "waiting",
        "a stopped plugin's queue waits"
    );
    Ok(())
}

#[tokio::test]
async fn data_goes_through_the_command_line_as_it_was_written() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let mut redis = world.redis().await?;
    let data = r#"{"z":12345678901234567890123,"a":1.50,"half":"\ud800","m":{"y":0.8444218515250481,"b":1e400}}"#;
    let mut stored =
        async |queue: &str, id: &str| -> anyhow::Result<String> {
            Ok(redis::AsyncCommands::hget(
                &mut redis,
                format!("{}:{queue}:{id}", world.prefix),
                "data",
            )
            .await?)
        };
    let added = json_of(
        &host,
        &["--json", "job", "add", "rawQueue", "n", data, "--new-queue"],
    )
    .await?;
    let id = added["id"].as_str().context("an id")?;
    assert_eq!(stored("rawQueue", id).await?, data);
    let shown = patchbay(&host, &["job", "show", "rawQueue", id]).await?;
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains(data),
        "and is shown so"
    );
    let changed = data.replace("1.50", "2.500");
    json_of(
        &host,
        &[
            "--json", "job", "set-data", "rawQueue", id, &changed, "--yes",
        ],
    )
    .await?;
    assert_eq!(stored("rawQueue", id).await?, changed);
    let tree = format!(
        r#"{{"queue":"rawQueue","job":{{"name":"p","data":{data}}},"children":[{{"queue":"rawQueue","job":{{"name":"c","data":{changed}}}}}]}}"#
    );
    let flow = json_of(&host, &["--json", "job", "flow", &tree]).await?;
    let jobs = flow["jobs"].as_array().context("jobs")?;
    let mut texts = Vec::new();
    for job in jobs {
        texts.push(stored("rawQueue", job["id"].as_str().context("an id")?).await?);
    }
    texts.sort();
    assert_eq!(texts, [data.to_owned(), changed.clone()]);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let added = json_of(&host, &["--json", "job", "add", "rawQueue", "n", &deep]).await?;
    assert_eq!(
        stored("rawQueue", added["id"].as_str().context("an id")?).await?,
        deep
    );
    let wrong = patchbay(&host, &["job", "add", "rawQueue", "n", "{"]).await?;
    assert_eq!(
        wrong.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&wrong.stderr)
    );
    Ok(())
}

#[tokio::test]
async fn what_a_swap_changes_and_what_became_of_it_is_shown() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let first = host.deploy("hostile", hostile_plugin()?).await?;
    let other = hostile_plugin_with(|manifest| {
        let manifest = manifest.replace("version = \"0.1.0\"", "version = \"0.2.0\"");
        manifest
            + "\n[[schedules]]\nid = \"tick\"\nqueue = \"hostileQueue\"\nname = \"ok\"\nevery_ms = 3600000\n"
    })?;
    let second = host.deploy("hostile", other).await?;
    json_of(&host, &["--json", "plugin", "rollback", "hostile"]).await?;
    json_of(
        &host,
        &["--json", "plugin", "deactivate", "hostile", "--yes"],
    )
    .await?;

    let diff = json_of(
        &host,
        &[
            "--json",
            "plugin",
            "diff",
            "hostile",
            &first[..8],
            &second[..8],
        ],
    )
    .await?;
    let changed: Vec<_> = diff["changes"]
        .as_array()
        .context("changes")?
        .iter()
        .map(|change| &change["part"])
        .collect();
    assert_eq!(changed, ["schedules", "version"], "{diff}");
    let text = String::from_utf8(
        patchbay(&host, &["plugin", "diff", "hostile", &first, &second])
            .await?
            .stdout,
    )?;
    assert!(
        text.contains("+ schedules tick") && text.contains("~ version  \"0.1.0\" → \"0.2.0\""),
        "{text}"
    );
    let same = String::from_utf8(
        patchbay(&host, &["plugin", "diff", "hostile", &first, &first])
            .await?
            .stdout,
    )?;
    assert_eq!(same.trim(), "nothing but the code");
    let missing = patchbay(&host, &["plugin", "diff", "hostile", &first, "abcdef"]).await?;
    assert_eq!(missing.status.code(), Some(3));

    let history = json_of(&host, &["--json", "plugin", "history", "hostile"]).await?;
    let story: Vec<(&str, &Value)> = history
        .as_array()
        .context("a list")?
        .iter()
        .map(|entry| {
            (
                entry["action"].as_str().unwrap_or_default(),
                &entry["digest"],
            )
        })
        .collect();
    let (first, second) = (json!(first), json!(second));
    assert_eq!(
        story,
        [
            ("deactivated", &Value::Null),
            ("reactivated", &first),
            ("activated", &second),
            ("activated", &first)
        ]
    );
    assert!(
        history[0]["actor"] == USER && history[0]["at"].is_string(),
        "{history}"
    );

    let status = json_of(&host, &["--json", "plugin", "status", "hostile"]).await?;
    assert_eq!(
        (&status["active"], &status["running"]),
        (&Value::Null, &Value::Null)
    );
    json_of(
        &host,
        &[
            "--json",
            "plugin",
            "activate",
            "hostile",
            second.as_str().context("a digest")?,
        ],
    )
    .await?;
    let status = json_of(&host, &["--json", "plugin", "status", "hostile"]).await?;
    assert_eq!(
        (&status["active"], &status["running"], &status["failure"]),
        (&second, &second, &Value::Null)
    );
    assert_eq!(status["revisions"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        patchbay(&host, &["plugin", "status", "nobody"])
            .await?
            .status
            .code(),
        Some(3)
    );
    assert_eq!(
        patchbay(&host, &["plugin", "history", "nobody"])
            .await?
            .status
            .code(),
        Some(3)
    );
    Ok(())
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_happened() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut host = world.host(&[]).await?;
    let code =
        async |host: &Host, args: &[&str]| anyhow::Ok(patchbay(host, args).await?.status.code());
    assert_eq!(code(&host, &["queue", "list"]).await?, Some(0));
    assert_eq!(code(&host, &["queue", "lists"]).await?, Some(2));
    assert_eq!(
        code(&host, &["job", "show", "emailQueue", "4711"]).await?,
        Some(3)
    );
    assert_eq!(
        code(&host, &["job", "retry", "emailQueue", "4711"]).await?,
        Some(3)
    );
    assert_eq!(code(&host, &["job", "add", "a:b", "x"]).await?, Some(4));
    assert_eq!(
        code(&host, &["plugin", "rollback", "nobody"]).await?,
        Some(3)
    );
    assert_eq!(
        code(&host, &["--password", "wrong", "queue", "list"]).await?,
        Some(4)
    );
    host.child.kill().await?;
    assert_eq!(code(&host, &["queue", "list"]).await?, Some(5));
    Ok(())
}

#[tokio::test]
async fn activating_what_is_active_changes_nothing_and_a_plugin_that_was_deleted_begins_without_grants()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let first = host.deploy("email", email_plugin()?).await?;
    let again = json_of(&host, &["--json", "plugin", "activate", "email", &first]).await?;
    assert_eq!(
        (&again["changed"], &again["previous"]),
        (&json!(false), &Value::Null),
        "{again}"
    );
    let history = async || json_of(&host, &["--json", "plugin", "history", "email"]).await;
    assert_eq!(history().await?.as_array().map(Vec::len), Some(1));

    let (status, answer) = host
        .post("/api/admin/plugins/email/deactivate", json!({}))
        .await?;
    assert_eq!(status, 200, "{answer}");
    let unasked = patchbay(&host, &["plugin", "delete", "email", &first]).await?;
    let words = String::from_utf8(unasked.stderr)?;
    assert!(
        unasked.status.code() == Some(4)
            && words.contains("last revision")
            && words.contains("--yes"),
        "{words}"
    );
    json_of(
        &host,
        &["--json", "plugin", "delete", "email", &first, "--yes"],
    )
    .await?;
    assert_eq!(
        history().await?.as_array().map(Vec::len),
        Some(2),
        "its history stays"
    );
    let (status, staged) = host.push(email_plugin()?).await?;
    assert_eq!(status, 200, "{staged}");
    let missing = staged["data"]["missing"].as_array().context("a list")?;
    assert!(missing.contains(&json!("kv")) && missing.contains(&json!("smtp")));
    Ok(())
}

#[tokio::test]
async fn old_revisions_go_and_those_that_are_new_active_or_ran_a_job_lately_stay()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_PLUGINS_KEEP_REVISIONS", "2")])
        .await?;
    let first = host.deploy("hostile", hostile_plugin()?).await?;
    let id = host
        .add("hostileQueue", json!({ "name": "noop", "data": {} }))
        .await?;
    host.job_in("hostileQueue", &id, "completed").await?;
    let mut digests = vec![first];
    for name in ["two", "three", "four", "five"] {
        digests.push(
            host.deploy("hostile", variant(&hostile_plugin()?, name))
                .await?,
        );
    }
    let mut database = world.database().await?;
    crate::harness::until(
        std::time::Duration::from_secs(10),
        "the attempt is remembered",
        async || {
            let count: i64 = sqlx::query_scalar("select count(*) from patchbay.attempts")
                .fetch_one(&mut database)
                .await?;
            Ok((count == 1).then_some(()))
        },
    )
    .await?;
    let prune = async |arguments: &[&str]| {
        let pruned = json_of(
            &host,
            &[&["--json", "plugin", "prune", "--yes"], arguments].concat(),
        )
        .await?;
        let digests = pruned
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|row| row["digest"].as_str());
        anyhow::Ok(digests.map(str::to_owned).collect::<Vec<String>>())
    };
    assert_eq!(prune(&[]).await?, Vec::<String>::new(), "all are new");
    for (table, column) in [("activations", "at"), ("revisions", "created_at")] {
        let older = format!("update patchbay.{table} set {column} = {column} - interval '40 days'");
        sqlx::query(sqlx::AssertSqlSafe(older))
            .execute(&mut database)
            .await?;
    }
    // The first one ran a job, the last two are the newest.
    assert_eq!(prune(&["--dry-run"]).await?, digests[1..3]);
    let mut gone = prune(&[]).await?;
    gone.sort();
    let mut expected = digests[1..3].to_vec();
    expected.sort();
    assert_eq!(gone, expected);
    let left = json_of(&host, &["--json", "plugin", "revisions", "hostile"]).await?;
    assert_eq!(left.as_array().map(Vec::len), Some(3), "{left}");
    assert_eq!(
        json_of(&host, &["--json", "plugin", "rollback", "hostile"]).await?["digest"],
        digests[3].as_str()
    );
    Ok(())
}

#[tokio::test]
async fn a_host_whose_port_is_taken_starts_no_work() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let address = host.url.trim_start_matches("http://").to_owned();
    assert!(
        world
            .host(&[("PATCHBAY_HTTP_LISTEN", &address)])
            .await
            .is_err()
    );
    let (_, status) = host.get("/api/admin/plugins/hostile/status").await?;
    assert_eq!(
        status["data"]["hosts"].as_array().map(Vec::len),
        Some(1),
        "it was never there: {status}"
    );
    Ok(())
}

#[tokio::test]
async fn whoever_reads_only_the_beginning_of_a_list_sees_no_panic() -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(binary());
    command
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output().await?;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Ok(())
}

#[tokio::test]
async fn every_configuration_key_is_shown_even_where_none_fits() -> anyhow::Result<()> {
    let output = tokio::process::Command::new(binary())
        .arg("config")
        .env_clear()
        .output()
        .await?;
    let (shown, problems) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        shown.contains("work.drain_limit_s") && problems.contains("database.url is not set"),
        "{shown}{problems}"
    );
    assert_eq!(output.status.code(), Some(4));
    Ok(())
}

#[tokio::test]
async fn a_failed_job_is_put_back_and_runs_with_fresh_attempts() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let id = host
        .add(
            "hostileQueue",
            json!({ "name": "fail", "data": { "retry": "never" } }),
        )
        .await?;
    host.job_in("hostileQueue", &id, "failed").await?;
    let (status, _) = host
        .post(
            &format!("/api/admin/queues/hostileQueue/jobs/{id}/retry"),
            json!({}),
        )
        .await?;
    assert_eq!(status, 200);
    crate::harness::until(
        std::time::Duration::from_secs(10),
        "a second start",
        async || {
            let (_, story) = host
                .get(&format!("/api/admin/queues/hostileQueue/jobs/{id}"))
                .await?;
            let job = &story["data"]["job"];
            Ok((job["state"] == "failed" && job["attemptsStarted"] == 2)
                .then(|| assert_eq!(job["attemptsMade"], 1)))
        },
    )
    .await?;
    let (status, answer) = host
        .get("/api/admin/queues/hostileQueue/jobs?state=failed")
        .await?;
    assert_eq!(
        (status, answer["data"].as_array().map(Vec::len)),
        (200, Some(1))
    );
    Ok(())
}

#[tokio::test]
async fn jobs_with_ids_delays_and_priorities_are_added_as_bullmq_adds_them() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let twice = json!({ "name": "n", "id": "order-1" });
    assert_eq!(host.add("q", twice.clone()).await?, "order-1");
    assert_eq!(
        host.add("q", twice).await?,
        "order-1",
        "known: not added again"
    );
    let (_, answer) = host
        .post(
            "/api/admin/queues/q/jobs",
            json!({ "name": "n", "id": "order-1" }),
        )
        .await?;
    assert_eq!(answer["data"]["known"], true, "{answer}");
    host.add("q", json!({ "name": "n", "delayMs": 60_000 }))
        .await?;
    host.add("q", json!({ "name": "n", "priority": 5 })).await?;
    let (_, queues) = host.get("/api/admin/queues").await?;
    let counts = &queues["data"][0]["counts"];
    assert_eq!(
        (
            &counts["waiting"],
            &counts["delayed"],
            &counts["prioritized"]
        ),
        (&json!(1), &json!(1), &json!(1)),
        "{counts}"
    );
    for (job, field) in [
        (json!({ "name": "n", "id": "12" }), "whole number"),
        (json!({ "name": "n", "priority": 3_000_000 }), "priority"),
        (json!({ "name": "n", "attempts": 0 }), "attempt"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": "n", "delay": 5 }), "delay"),
    ] {
        let (status, answer) = host.post("/api/admin/queues/q/jobs", job).await?;
        assert!((400..=422).contains(&status), "{answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains(field)),
            "{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn migrating_is_safe_when_several_start_at_once() -> anyhow::Result<()> {
    let world = World::new().await?;
    let run = |args: &'static [&'static str]| {
        let mut command = tokio::process::Command::new(binary());
        command
            .args(args)
            .env("DATABASE_URL", &world.database_url)
            .env("REDIS_URL", &world.redis_url);
        async move { command.output().await }
    };
    let check = run(&["migrate", "--check"]).await?;
    assert_eq!(check.status.code(), Some(1), "there is something to do");
    let all = futures::future::try_join_all((0..4).map(|_| run(&["--json", "migrate"]))).await?;
    let mut applied = 0;
    for output in all {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report = printed_json(&output.stdout)?;
        applied += report["applied"].as_array().map_or(0, Vec::len);
    }
    let migrations =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"))?.count();
    assert_eq!(applied, migrations, "each migration ran once");
    assert_eq!(run(&["migrate", "--check"]).await?.status.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn doctor_says_what_is_wrong_and_how_to_mend_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let doctor = |redis: String| {
        let mut command = tokio::process::Command::new(binary());
        command
            .args(["--json", "doctor"])
            .env("DATABASE_URL", &world.database_url)
            .env("REDIS_URL", redis);
        command.env("PATCHBAY_RUNTIME_CACHE_DIR", world.dir.path().join("cache"));
        async move { command.output().await }
    };
    let healthy = doctor(world.redis_url.clone()).await?;
    let findings: Vec<Value> = serde_json::from_value(printed_json(&healthy.stdout)?)?;
    assert!(healthy.status.success(), "{findings:?}");
    let messages: Vec<&str> = findings
        .iter()
        .filter_map(|finding| finding["message"].as_str())
        .collect();
    assert!(
        messages.contains(&"append-only file is on")
            && messages.contains(&"maxmemory-policy is noeviction"),
        "{messages:?}"
    );
    assert!(
        findings
            .iter()
            .all(|finding| finding["level"] == "ok" || finding["mend"].is_string()),
        "{findings:?}"
    );
    let alerts = findings
        .iter()
        .find(|finding| finding["check"] == "alerts")
        .context("a finding")?;
    assert!(
        alerts["level"] == "warning"
            && alerts["mend"]
                .as_str()
                .is_some_and(|mend| mend.contains("alerts.webhook_url")),
        "{alerts}"
    );
    let away = doctor("redis://127.0.0.1:1/".into()).await?;
    assert_eq!(away.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_value(printed_json(&away.stdout)?)?;
    let redis = findings
        .iter()
        .find(|finding| finding["check"] == "redis")
        .context("a finding")?;
    assert!(
        redis["level"] == "error"
            && redis["mend"]
                .as_str()
                .is_some_and(|mend| mend.contains("REDIS_URL")),
        "{redis}"
    );
    Ok(())
}

#[tokio::test]
async fn a_configuration_that_contradicts_itself_stops_the_start_and_names_the_keys()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let mut command = tokio::process::Command::new(binary());
    command
        .arg("serve")
        .env("DATABASE_URL", &world.database_url)
        .env("REDIS_URL", &world.redis_url);
    command
        .env("PATCHBAY_WORK_DRAIN_LIMIT_S", "60")
        .env("PATCHBAY_HTTP_LISTENS", "x");
    let output = command.output().await?;
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("PATCHBAY_HTTP_LISTENS is not a known variable; did you mean http.listen?"),
        "{text}"
    );
    Ok(())
}

/// With `PATCHBAY_TEST_UPDATE=1` it writes the file.
#[tokio::test]
async fn the_openapi_file_in_the_repository_is_what_the_host_serves() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let served = host
        .http
        .get(format!("{}/api/openapi.json", host.url))
        .send()
        .await?
        .text()
        .await?
        + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os("PATCHBAY_TEST_UPDATE").is_some() {
        std::fs::write(path, &served)?;
    }
    let kept = std::fs::read_to_string(path).context("docs/openapi.json")?;
    assert!(
        kept == served,
        "docs/openapi.json is out of date: PATCHBAY_TEST_UPDATE=1 scripts/test -E 'test(openapi)'"
    );
    Ok(())
}

#[tokio::test]
async fn input_that_cannot_be_used_is_refused_as_such_wherever_it_is_found_out()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let write = |name: &str, content: &str| -> anyhow::Result<String> {
        let path = world.dir.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.to_str().context("a path")?.to_owned())
    };
    let text = write("text.wasm", "no component")?;
    write(
        "plugin.toml",
        "name = \"demo\"\nversion = \"1.0.0\"\nwit = \"0.1\"\nqueue = []\n",
    )?;
    let here = world.dir.path().to_str().context("a path")?;
    for (arguments, words) in [
        (vec!["job", "add", "emailQueue", "send", "{"], "not JSON"),
        (
            vec!["job", "add", "emailQueue", "send", "--id", "a\nb"],
            "a job's own id",
        ),
        (
            vec!["plugin", "settings", "set", "email", "from"],
            "NAME=VALUE",
        ),
        (vec!["plugin", "inspect", &text], "component"),
        (
            vec!["plugin", "pack", here],
            "queue is not a known field; known: format, name",
        ),
        (vec!["plugin", "deactivate", "email"], "--yes"),
        (vec!["audit", "trail", "set", "leads", &text], "not JSON"),
    ] {
        let output = patchbay(&host, &arguments).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
    Ok(())
}
