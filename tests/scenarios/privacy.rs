//! Personal data in jobs: what is shown, who revealed it, and that an erasure leaves nothing.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sqlx::Executor;

use crate::commands::{json_of, patchbay};
use crate::fleet::proxied;
use crate::harness::{Host, PASSWORD, USER, World, email_plugin, hostile_plugin_with, until};
use crate::incident;

const KEY: (&str, &str) = (
    "PATCHBAY_SECRETS_KEY",
    "0101010101010101010101010101010101010101010101010101010101010102",
);
const QUEUE: &str = "emailQueue";

/// A person whom no other test uses.
struct Person {
    address: String,
    password: String,
}

impl Person {
    fn new() -> Self {
        let tag = uuid::Uuid::new_v4().simple().to_string();
        Self {
            address: format!("ada-{}@example.com", &tag[..12]),
            password: format!("pw{}", &tag[12..28]),
        }
    }

    /// Which of the two values are in a text, in upper or lower case.
    fn found_in(&self, text: &[u8]) -> Vec<&'static str> {
        let text = String::from_utf8_lossy(text).to_lowercase();
        let has = |value: &str| text.contains(&value.to_lowercase());
        let names = [
            ("address", has(&self.address)),
            ("password", has(&self.password)),
        ];
        names
            .into_iter()
            .filter_map(|(name, is_there)| is_there.then_some(name))
            .collect()
    }
}

/// Every key of this world with its content, BullMQ's and Patchbay's.
async fn redis_dump(world: &World) -> anyhow::Result<Vec<u8>> {
    let mut redis = world.redis().await?;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}*", world.prefix))
        .query_async(&mut redis)
        .await?;
    ensure!(!keys.is_empty(), "the world has keys");
    let mut text = String::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await?;
        let (read, all): (&str, &[&str]) = match kind.as_str() {
            "string" => ("GET", &[]),
            "hash" => ("HGETALL", &[]),
            "set" => ("SMEMBERS", &[]),
            "list" => ("LRANGE", &["0", "-1"]),
            "zset" => ("ZRANGE", &["0", "-1"]),
            "stream" => ("XRANGE", &["-", "+"]),
            _ => continue,
        };
        let held: redis::Value = redis::cmd(read)
            .arg(&key)
            .arg(all)
            .query_async(&mut redis)
            .await?;
        text += &format!("{key} {}\n", plain(&held));
    }
    Ok(text.into_bytes())
}

fn plain(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::SimpleString(text) => text.clone(),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().map(plain).collect::<Vec<_>>().join(" ")
        }
        redis::Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| format!("{} {}", plain(key), plain(value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => format!("{other:?}"),
    }
}

/// Every row of every schema.
async fn postgres_dump(world: &World) -> anyhow::Result<Vec<u8>> {
    // Debian has a directory per version; the newest version reads all older ones.
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions.map(|version| version.path()).max_by_key(|path| {
        path.file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
            .unwrap_or_default()
    });
    let program = newest.map_or_else(|| "pg_dump".into(), |dir| dir.join("bin/pg_dump"));
    let mut command = tokio::process::Command::new(program);
    let output = command
        .args(["--data-only", "--no-sync", "--dbname", &world.database_url])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "pg_dump: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

async fn mail(host: &Host, job: &str, data: Value, more: Value) -> anyhow::Result<String> {
    let mut body = json!({ "name": job, "data": data, "attempts": 1 });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    host.add(QUEUE, body).await
}

async fn recorded(world: &World, count: i64) -> anyhow::Result<()> {
    let mut database = world.database().await?;
    until(Duration::from_secs(60), "the attempts in Postgres", async || {
        let found: i64 = sqlx::query_scalar(
            "select count(*) from patchbay.attempts where queue = $1 and verdict in ('complete', 'fail')",
        )
        .bind(QUEUE)
        .fetch_one(&mut database)
        .await?;
        Ok((found >= count).then_some(()))
    })
    .await
}

/// Begins a bulk operation and waits for its end.
async fn bulk(host: &Host, args: &[&str]) -> anyhow::Result<Value> {
    let args: Vec<&str> = ["--json", "bulk"].iter().chain(args).copied().collect();
    json_of(host, &args).await
}

async fn timeline(host: &Host, id: &str) -> anyhow::Result<Value> {
    let (status, answer) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/{id}/timeline"))
        .await?;
    ensure!(status == 200, "{status} {answer}");
    Ok(answer["data"].clone())
}

fn erasures_of(timeline: &Value) -> Vec<&Value> {
    let events = timeline["lives"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|life| life["events"].as_array());
    events
        .flatten()
        .filter(|event| event["kind"] == "erased")
        .collect()
}

#[tokio::test]
async fn of_a_person_who_is_erased_nothing_is_left_anywhere() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    host.deploy("email", email_plugin()?).await?;
    let (ada, ravi) = (Person::new(), Person::new());
    let account = |person: &Person| json!({ "to": person.address, "name": "Ada", "password": person.password });
    let letter = |to: Value| json!({ "to": to, "subject": "Hello", "text": "It works" });

    // Jobs in every state, with the address in the spellings that producers use.
    let completed = mail(&host, "credentials", account(&ada), json!({})).await?;
    let other = mail(&host, "credentials", account(&ravi), json!({})).await?;
    let named = format!("Ada <{}>", ada.address.to_uppercase());
    let in_a_list = mail(&host, "send", letter(json!([named])), json!({})).await?;
    let failed = mail(
        &host,
        "send",
        json!({ "to": ada.address, "password": ada.password, "subject": "x" }),
        json!({}),
    )
    .await?;
    for (id, state) in [
        (&completed, "completed"),
        (&other, "completed"),
        (&in_a_list, "completed"),
        (&failed, "failed"),
    ] {
        host.job_in(QUEUE, id, state).await?;
    }
    // In a flow, the parent gets its child's result.
    let child =
        json!({ "queue": QUEUE, "job": { "name": "send", "data": letter(json!(ada.address)) } });
    let flow = json!({ "queue": "parentQueue", "job": { "name": "n", "newQueue": true }, "children": [child] });
    let (status, answer) = host.post("/api/admin/flows", flow).await?;
    ensure!(status == 200, "{status} {answer}");
    recorded(&world, 5).await?;
    // Removed by an operator, with copies for undoing, and a filter that contains her address.
    let later = json!({ "delayMs": 3_600_000 });
    let removed = mail(&host, "credentials", account(&ada), later.clone()).await?;
    let filter = format!("data.to={}", ada.address);
    let removal = bulk(
        &host,
        &[
            "remove",
            "queue=emailQueue",
            "--state",
            "delayed",
            &filter,
            "--yes",
            "--watch",
        ],
    )
    .await?;
    assert_eq!(
        (&removal["state"], &removal["done"]),
        (&json!("done"), &json!(1)),
        "{removal}"
    );
    assert_eq!(
        removal["filter"]["data.to"], "[redacted]",
        "shown without her"
    );
    let both = mail(&host, "credentials", account(&ravi), later.clone()).await?;
    let hers = mail(&host, "credentials", account(&ada), later.clone()).await?;
    let everything = bulk(
        &host,
        &[
            "remove",
            "queue=emailQueue",
            "--state",
            "delayed",
            "--yes",
            "--watch",
        ],
    )
    .await?;
    assert_eq!(everything["done"], 2, "{everything}");
    let waiting = mail(&host, "credentials", account(&ada), later).await?;
    // Texts that operators type, and a failure of another worker.
    let saved = patchbay(
        &host,
        &["search", "save", "ada", "queue=emailQueue", &filter],
    )
    .await?;
    ensure!(
        saved.status.success(),
        "{}",
        String::from_utf8_lossy(&saved.stderr)
    );
    let note = json!({ "note": format!("ask {} again", ada.address.to_uppercase()) });
    let (status, answer) = host.put("/api/admin/dead-letters/1/note", note).await?;
    ensure!(status == 200, "{status} {answer}");
    let mut database = world.database().await?;
    let elsewhere = format!(
        "insert into patchbay.attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, host, started_at, finished_at, outcome, \
         verdict, code, message, correlation_id, source) values ('{}', 'nodeQueue', '9', 1, 1, 1, 'n', 'elsewhere', now(), now(), 'failed', \
         'fail', 'failed', 'no mailbox {}', '-', 'mirror')",
        world.prefix, ada.address
    );
    database.execute(sqlx::AssertSqlSafe(elsewhere)).await?;

    assert_eq!(
        ada.found_in(&redis_dump(&world).await?),
        ["address", "password"],
        "the search finds what is there"
    );
    assert_eq!(ada.found_in(&postgres_dump(&world).await?), ["address"]);

    let erase = [
        "history",
        "erase",
        "--path",
        "to",
        "--value",
        &ada.address,
        "--reason",
        "request 7",
    ];
    let preview = patchbay(&host, &erase).await?;
    let said = String::from_utf8(preview.stdout)?;
    assert_eq!(preview.status.code(), Some(4), "{said}");
    assert!(
        said.contains("2 copies for undoing")
            && said.contains(&format!("{QUEUE} {waiting} (delayed): it is still to run")),
        "{said}"
    );
    assert_eq!(
        ada.found_in(&redis_dump(&world).await?),
        ["address", "password"],
        "nothing was erased"
    );
    let reason = [
        "history",
        "erase",
        "--path",
        "to",
        "--value",
        &ada.address,
        "--yes",
        "--reason",
        &ada.address.to_uppercase(),
    ];
    assert_eq!(
        patchbay(&host, &reason).await?.status.code(),
        Some(4),
        "the reason stays, so it must not name her"
    );
    let done = patchbay(&host, &[&erase[..], &["--yes", "--unfinished"]].concat()).await?;
    let said = String::from_utf8(done.stdout)?;
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(said.contains("Not reached: backups"), "{said}");
    // Tables of plugins are the plugin's to clear.
    let address = json!({ "path": { "address": ada.address } });
    let forget = json!({ "operation": "forget-address", "input": address });
    let (status, answer) = host.post("/api/admin/plugins/email/call", forget).await?;
    ensure!(status == 200, "{status} {answer}");

    let dump = redis_dump(&world).await?;
    assert_eq!(ada.found_in(&dump), [""; 0], "{}", around(&dump, &ada));
    let dump = postgres_dump(&world).await?;
    assert_eq!(ada.found_in(&dump), [""; 0], "{}", around(&dump, &ada));
    let bundle = incident::fetched(&host).await?;
    assert_eq!(ada.found_in(format!("{bundle:?}").as_bytes()), [""; 0]);
    assert_eq!(
        ada.found_in(host.log.lock().expect("no writer panics").as_bytes()),
        [""; 0],
        "the host's log never had her"
    );
    assert_eq!(
        ravi.found_in(&redis_dump(&world).await?),
        ["address", "password"],
        "the others stay"
    );

    // Their jobs show that data was erased, and why.
    for id in [&completed, &failed, &removed, &waiting] {
        let told = timeline(&host, id).await?;
        let erased = erasures_of(&told);
        assert_eq!(
            (erased.len(), &erased[0]["actor"], &erased[0]["reason"]),
            (1, &json!(USER), &json!("request 7")),
            "{told}"
        );
    }
    assert!(erasures_of(&timeline(&host, &other).await?).is_empty());
    let id = everything["id"].to_string();
    let undone = bulk(&host, &["undo", &id, "--watch"]).await?;
    assert_eq!(
        (&undone["restored"], &undone["state"]),
        (&json!(1), &json!("undone")),
        "{undone}"
    );
    assert!(
        undone["reasons"]
            .to_string()
            .contains("its data was erased"),
        "{undone}"
    );
    host.job_in(QUEUE, &both, "delayed").await?;
    assert_eq!(
        host.get(&format!("/api/admin/queues/{QUEUE}/jobs/{hers}"))
            .await?
            .0,
        404
    );
    assert_eq!(ada.found_in(&redis_dump(&world).await?), [""; 0]);

    let again = patchbay(&host, &erase).await?;
    assert!(
        again.status.success(),
        "nothing is left to erase: {}",
        String::from_utf8_lossy(&again.stdout)
    );
    let list = json_of(&host, &["--json", "history", "erasures"]).await?;
    assert_eq!(
        (
            list.as_array().map(Vec::len),
            &list[0]["toCome"],
            &list[0]["left"]
        ),
        (Some(1), &json!(0), &json!(0)),
        "{list}"
    );
    assert!(
        list[0]["endedAt"].is_string() && list[0]["done"].as_i64() > Some(6),
        "{list}"
    );
    Ok(())
}

fn around(dump: &[u8], person: &Person) -> String {
    let text = String::from_utf8_lossy(dump).into_owned();
    let lines = text
        .lines()
        .filter(|line| !person.found_in(line.as_bytes()).is_empty());
    lines
        .map(|line| line.chars().take(600).collect::<String>())
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn what_is_hidden_is_hidden_everywhere_and_whoever_looks_is_recorded() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let manifest = |text: String| text + "searchable = [\"to\"]\nredact = [\"to\"]\n";
    host.deploy("hostile", hostile_plugin_with(manifest)?)
        .await?;
    let ada = Person::new();
    let queue = "hostileQueue";
    let data = json!({ "to": ada.address, "nested": { "Password": ada.password }, "retry": "never", "n": 1 });
    let echoed = host
        .add(queue, json!({ "name": "echo", "data": data }))
        .await?;
    host.job_in(queue, &echoed, "completed").await?;
    let failed = host
        .add(queue, json!({ "name": "fail", "data": data }))
        .await?;
    host.job_in(queue, &failed, "failed").await?;
    let mut redis = world.redis().await?;
    // As a Node worker may have left it.
    let key = format!("{}:{queue}:{failed}", world.prefix);
    let said = format!("Error: {} has the password {}", ada.address, ada.password);
    redis::cmd("HSET")
        .arg(&key)
        .arg("failedReason")
        .arg(&said)
        .arg("stacktrace")
        .arg(json!([said]).to_string())
        .arg("progress")
        .arg(json!({ "sentTo": ada.address }).to_string())
        .query_async::<()>(&mut redis)
        .await?;
    redis::cmd("RPUSH")
        .arg(format!("{key}:logs"))
        .arg(&said)
        .query_async::<()>(&mut redis)
        .await?;
    let schedule =
        json!({ "id": "s", "queue": queue, "name": "noop", "data": data, "everyMs": 3_600_000 });
    assert_eq!(host.post("/api/admin/schedules", schedule).await?.0, 200);
    until(Duration::from_secs(30), "both in the history", async || {
        let (_, found) = host
            .get(&format!("/api/admin/history/search?queue={queue}"))
            .await?;
        Ok((found["data"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })
    .await?;

    let jobs = format!("/api/admin/queues/{queue}");
    for path in [
        format!("{jobs}/jobs?state=failed"),
        format!("{jobs}/jobs/{failed}"),
        format!("{jobs}/jobs/{echoed}"),
        format!("{jobs}/jobs/{failed}/timeline"),
        format!("{jobs}/search?state=failed&data.to={}", ada.address),
        format!(
            "/api/admin/history/search?queue={queue}&data.to={}",
            ada.address
        ),
        format!("/api/admin/history/bodies/{queue}/{echoed}"),
        "/api/admin/dead-letters/1".into(),
        "/api/admin/schedules".into(),
        "/api/admin/schedules/s".into(),
    ] {
        let (status, answer) = host.get(&path).await?;
        assert_eq!(
            (status, ada.found_in(answer.to_string().as_bytes())),
            (200, vec![]),
            "{path}: {answer}"
        );
    }
    let export = host.http.get(format!(
        "{}/api/admin/history/export?bodies=true&queue={queue}",
        host.url
    ));
    let export = export
        .basic_auth(USER, Some(PASSWORD))
        .send()
        .await?
        .text()
        .await?;
    assert!(
        export.contains("[redacted]") && ada.found_in(export.as_bytes()).is_empty(),
        "{export}"
    );
    let look =
        json!({ "kind": "retry", "filter": { "queue": queue }, "dryRun": true, "withData": true });
    let (_, preview) = host.post("/api/admin/bulk", look.clone()).await?;
    assert_eq!(
        (
            &preview["data"]["matched"],
            ada.found_in(preview.to_string().as_bytes())
        ),
        (&json!(1), vec![]),
        "{preview}"
    );
    let shown = patchbay(&host, &["job", "show", queue, &failed]).await?;
    let shown = String::from_utf8(shown.stdout)?;
    assert!(
        ada.found_in(shown.as_bytes()).is_empty() && shown.contains("--reveal"),
        "{shown}"
    );
    assert!(
        shown.contains(r#""n":1,"nested":{"Password":"[redacted]"}"#),
        "the rest is shown: {shown}"
    );
    let mut database = world.database().await?;
    let looks = "select action, target, actor, details ->> 'reason', row_to_json(a)::text from patchbay.operator_actions a \
                 where action like '%reveal%' order by id";
    type Look = (String, String, String, Option<String>, String);
    let recorded: Vec<Look> = sqlx::query_as(looks).fetch_all(&mut database).await?;
    assert!(recorded.is_empty(), "nobody has asked yet: {recorded:?}");

    let shown = patchbay(
        &host,
        &[
            "job",
            "show",
            queue,
            &failed,
            "--reveal",
            "--reason",
            "ticket 12",
        ],
    )
    .await?;
    assert_eq!(ada.found_in(&shown.stdout), ["address", "password"]);
    let mut reveal = look;
    reveal["reveal"] = true.into();
    let (_, preview) = host.post("/api/admin/bulk", reveal).await?;
    assert_eq!(
        ada.found_in(preview.to_string().as_bytes()),
        ["address", "password"]
    );
    for path in [
        format!("{jobs}/jobs?state=failed&reveal=true"),
        "/api/admin/schedules/s?reveal=true".into(),
    ] {
        let (_, answer) = host.get(&path).await?;
        assert_eq!(
            ada.found_in(answer.to_string().as_bytes()),
            ["address", "password"],
            "{path}"
        );
    }
    let recorded: Vec<Look> = sqlx::query_as(looks).fetch_all(&mut database).await?;
    let names: Vec<(&str, &str)> = recorded
        .iter()
        .map(|look| (look.0.as_str(), look.1.as_str()))
        .collect();
    let target = format!("{queue}/{failed}");
    assert_eq!(
        names,
        [
            ("job.reveal", &*target),
            ("bulk.reveal", "preview"),
            ("queue.reveal-jobs", queue),
            ("schedule.reveal", "s")
        ]
    );
    assert_eq!(
        (&*recorded[0].2, recorded[0].3.as_deref()),
        (USER, Some("ticket 12"))
    );
    for (.., row) in &recorded {
        assert!(ada.found_in(row.as_bytes()).is_empty(), "{row}");
    }

    // The redacted text is not accepted as data.
    for (body, place) in [
        (json!({ "to": "[redacted]" }), "/to"),
        (json!([{ "a": "x [redacted]" }]), "/0/a"),
    ] {
        let (status, answer) = host
            .put(&format!("{jobs}/jobs/{failed}/data"), body)
            .await?;
        assert_eq!(
            (
                status,
                answer["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(place))
            ),
            (400, true),
            "{answer}"
        );
    }
    let edit = json!({ "kind": "edit-and-retry", "filter": { "queue": queue }, "set": { "to": "[redacted]" } });
    assert_eq!(host.post("/api/admin/bulk", edit).await?.0, 400);
    let job = json!({ "name": "noop", "data": { "to": "[redacted]" } });
    assert_eq!(host.post(&format!("{jobs}/jobs"), job).await?.0, 400);
    let kept: String = redis::cmd("HGET")
        .arg(&key)
        .arg("data")
        .query_async(&mut redis)
        .await?;
    assert_eq!(serde_json::from_str::<Value>(&kept)?, data);
    assert!(
        ada.found_in(host.log.lock().expect("no writer panics").as_bytes())
            .is_empty()
    );
    Ok(())
}

#[tokio::test]
async fn what_is_kept_told_or_written_about_a_person_is_erased_in_every_spelling_of_the_address()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let (ada, queue) = (Person::new(), "hostileQueue");
    let manifest = |text: String| {
        text.replace("deadline_ms = 200", "deadline_ms = 60_000")
            + "searchable = [\"to\"]\nredact = [\"to\"]\n"
    };
    host.deploy("hostile", hostile_plugin_with(manifest)?)
        .await?;
    // The same mailbox, as two producers write it.
    let tag = ada.address.replace("@example.com", "").replace('-', ".");
    let (unicode, ascii) = (
        format!("{tag}@bücher.example"),
        format!("{tag}@XN--BCHER-KVA.example"),
    );
    let dump = async || -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let lines = |dump: Vec<u8>| {
            let text = String::from_utf8_lossy(&dump).into_owned();
            text.lines()
                .filter(|line| line.to_lowercase().contains(&tag))
                .map(|line| line.chars().take(400).collect())
                .collect()
        };
        Ok((
            lines(redis_dump(&world).await?),
            lines(postgres_dump(&world).await?),
        ))
    };

    let completed = host
        .add(queue, json!({ "name": "noop", "data": { "to": unicode } }))
        .await?;
    let many: Vec<String> = (0..300)
        .map(|n| format!("p{n}@example.com"))
        .chain([ascii.clone()])
        .collect();
    let in_a_list = host
        .add(queue, json!({ "name": "noop", "data": { "to": many } }))
        .await?;
    for id in [&completed, &in_a_list] {
        host.job_in(queue, id, "completed").await?;
    }
    // Deduplication keeps the last job while the first runs.
    let once = json!({ "id": "once", "keepLastIfActive": true });
    let add = async |name: &str, to: &str| {
        host.add(
            queue,
            json!({ "name": name, "data": { "to": to, "retry": "never" }, "deduplication": once }),
        )
        .await
    };
    let running = add("sleep", "somebody@example.com").await?;
    host.job_in(queue, &running, "active").await?;
    assert_eq!(add("noop", &unicode).await?, running);
    // A parent returns its child's result.
    let child = json!({ "queue": queue, "job": { "name": "echo", "data": { "to": ascii } } });
    let parent = json!({ "queue": queue, "job": { "name": "children", "id": "parent" }, "children": [child] });
    let (status, answer) = host.post("/api/admin/flows", parent).await?;
    ensure!(status == 200, "{status} {answer}");
    host.job_in(queue, "parent", "completed").await?;
    until(
        Duration::from_secs(30),
        "five jobs in the history",
        async || {
            let (_, found) = host
                .get(&format!("/api/admin/history/search?queue={queue}"))
                .await?;
            Ok((found["data"].as_array().map(Vec::len) >= Some(4)).then_some(()))
        },
    )
    .await?;
    for path in [
        format!("/api/admin/queues/{queue}/jobs/parent"),
        format!("/api/admin/queues/{queue}/jobs/parent/timeline"),
        format!("/api/admin/queues/{queue}/jobs?state=completed"),
        format!("/api/admin/history/bodies/{queue}/parent"),
    ] {
        let (status, shown) = host.get(&path).await?;
        let text = shown.to_string().to_lowercase();
        assert!(
            status == 200 && !text.contains(&tag),
            "a parent is shown without what its child hides: {path}: {shown}"
        );
    }
    // Texts that operators type.
    let reason = format!("asked by {}", unicode.to_uppercase());
    for (path, body) in [
        (
            "/api/admin/alerts/silences",
            json!({ "rule": "all", "subject": ascii, "forS": 3_600, "reason": reason }),
        ),
        (
            "/api/admin/schedules",
            json!({ "id": "s", "queue": queue, "name": "noop", "data": {}, "everyMs": 3_600_000, "description": reason }),
        ),
        (
            "/api/admin/history/erase",
            json!({ "queue": queue, "job": "nobody", "reason": reason }),
        ),
    ] {
        let (status, answer) = host.post(path, body).await?;
        ensure!(status == 200, "{path}: {status} {answer}");
    }
    let (in_redis, in_postgres) = dump().await?;
    assert!(
        in_redis.iter().any(|line| line.contains(":dn:once"))
            && in_redis.iter().any(|line| line.contains(":processed"))
    );
    assert!(in_postgres.len() >= 3, "{in_postgres:?}");

    let request = |more: Value| {
        let mut body = json!({ "path": "to", "value": unicode, "reason": "request 7" });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        body
    };
    let named = json!({ "reason": format!("of {}", ascii.to_lowercase()) });
    assert_eq!(
        host.post("/api/admin/history/erase", request(named))
            .await?
            .0,
        400,
        "the reason stays"
    );
    let (_, left) = host
        .post(
            "/api/admin/history/erase",
            request(json!({ "dryRun": true })),
        )
        .await?;
    assert_eq!(
        (
            &left["data"]["live"]["found"],
            &left["data"]["places"]["flowResults"]
        ),
        (&json!(1), &json!(1)),
        "{left}"
    );
    let (status, done) = host
        .post(
            "/api/admin/history/erase",
            request(json!({ "unfinished": true })),
        )
        .await?;
    assert_eq!(
        (status, &done["data"]["live"]["found"]),
        (200, &json!(0)),
        "{done}"
    );
    assert_eq!(dump().await?, (vec![], vec![]));
    let bodies = host
        .get(&format!("/api/admin/history/search?queue={queue}"))
        .await?
        .1;
    for row in bodies["data"].as_array().into_iter().flatten() {
        let path = format!(
            "/api/admin/history/bodies/{queue}/{}?reveal=true",
            row["jobId"].as_str().context("an id")?
        );
        let (_, body) = host.get(&path).await?;
        assert!(
            !body.to_string().to_lowercase().contains(&tag),
            "the parent's result, too: {body}"
        );
    }
    let killed = host
        .post(
            &format!("/api/admin/queues/{queue}/jobs/{running}/kill"),
            json!({}),
        )
        .await?;
    assert_eq!(killed.0, 200, "{killed:?}");
    host.job_in(queue, &running, "failed").await?;
    assert_eq!(dump().await?, (vec![], vec![]), "what was kept never runs");
    Ok(())
}

#[tokio::test]
async fn jobs_stay_hidden_when_their_plugin_is_stopped_quarantined_or_deleted_and_while_postgres_is_away()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (proxy, database_url) = proxied(&world).await?;
    let cache = world.dir.path().join("cache").display().to_string();
    let env = [
        ("DATABASE_URL", database_url.as_str()),
        ("PATCHBAY_RUNTIME_CACHE_DIR", cache.as_str()),
        ("PATCHBAY_QUARANTINE_CRASHES", "2"),
        ("PATCHBAY_QUARANTINE_CALLS", "2"),
        ("PATCHBAY_QUARANTINE_JOBS", "2"),
        KEY,
    ];
    let host = world.host(&env).await?;
    let (ada, queue) = (Person::new(), "hostileQueue");
    let version = |tag: &str, more: &str| {
        let (tag, more) = (tag.to_owned(), more.to_owned());
        hostile_plugin_with(move |text| {
            text.replace("version = \"0", &format!("version = \"{tag}")) + &more
        })
    };
    let data = json!({ "to": ada.address, "phone": ada.password, "retry": "never" });
    let first = host
        .deploy("hostile", version("1", "redact = [\"phone\"]\n")?)
        .await?;
    let second = host
        .deploy("hostile", version("2", "redact = [\"to\"]\n")?)
        .await?;
    let failed = host
        .add(queue, json!({ "name": "fail", "data": data }))
        .await?;
    host.job_in(queue, &failed, "failed").await?;
    let seen = async |host: &Host| -> anyhow::Result<Vec<&'static str>> {
        let jobs = format!("/api/admin/queues/{queue}");
        let mut seen = Vec::new();
        let (status, list) = host.get(&format!("{jobs}/jobs?state=failed")).await?;
        ensure!(
            status == 200 && list.to_string().contains("[redacted]"),
            "{status} {list}"
        );
        seen.extend(ada.found_in(list.to_string().as_bytes()));
        // The following requests are refused while Postgres is away.
        let (status, shown) = host.get(&format!("{jobs}/jobs/{failed}")).await?;
        ensure!(
            status == 503 || shown.to_string().contains("[redacted]"),
            "{status} {shown}"
        );
        seen.extend(ada.found_in(shown.to_string().as_bytes()));
        let look = json!({ "kind": "retry", "filter": { "queue": queue }, "dryRun": true, "withData": true });
        let (status, preview) = host.post("/api/admin/bulk", look).await?;
        ensure!(
            status == 503 || preview.to_string().contains("[redacted]"),
            "{status} {preview}"
        );
        seen.extend(ada.found_in(preview.to_string().as_bytes()));
        Ok(seen)
    };
    assert_eq!(
        seen(&host).await?,
        ["password"; 3],
        "as the active manifest says"
    );

    for _ in 0..2 {
        host.add(queue, json!({ "name": "panic", "data": data }))
            .await?;
    }
    until(Duration::from_secs(30), "the quarantine", async || {
        let (_, plugins) = host.get("/api/admin/plugins").await?;
        Ok(plugins["data"][0]["quarantined"].is_object().then_some(()))
    })
    .await?;
    // The list names the quarantine a moment before the revision stops.
    until(
        Duration::from_secs(5),
        "quarantined: hidden is what any revision has hidden",
        async || Ok(seen(&host).await?.is_empty().then_some(())),
    )
    .await?;
    assert!(host.stop().await?.success());
    proxy.refuse(true);
    let host = world.host(&env).await?;
    assert_eq!(seen(&host).await?, [""; 0], "by the local copy");
    proxy.refuse(false);
    until(Duration::from_secs(20), "readiness", async || {
        Ok((host.get("/readyz").await?.0 == 200).then_some(()))
    })
    .await?;
    assert_eq!(seen(&host).await?, [""; 0], "after a restart");

    let stopped = host
        .post("/api/admin/plugins/hostile/deactivate", json!({}))
        .await?;
    assert_eq!(stopped.0, 200, "{stopped:?}");
    assert_eq!(seen(&host).await?, [""; 0], "stopped");
    for revision in [&first, &second] {
        let deleted = host
            .delete(&format!("/api/admin/plugins/hostile/revisions/{revision}"))
            .await?;
        assert_eq!(deleted.0, 200, "{deleted:?}");
    }
    assert_eq!(seen(&host).await?, [""; 0], "deleted");
    Ok(())
}

#[tokio::test]
async fn an_erasure_goes_on_after_a_crash_and_waits_for_jobs_that_run() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let manifest = |text: String| {
        text.replace("deadline_ms = 200", "deadline_ms = 60_000")
            + "searchable = [\"to\"]\nredact = [\"to\"]\n"
    };
    host.deploy("hostile", hostile_plugin_with(manifest)?)
        .await?;
    let (ada, queue) = (Person::new(), "hostileQueue");
    let data = json!({ "to": ada.address, "password": ada.password, "retry": "never" });
    let running = host
        .add(queue, json!({ "name": "sleep", "data": data }))
        .await?;
    host.job_in(queue, &running, "active").await?;
    let ended = host
        .add(queue, json!({ "name": "noop", "data": data }))
        .await?;
    host.job_in(queue, &ended, "completed").await?;

    // A host began the erasure and ended: its jobs are recorded, the value is not.
    let mut database = world.database().await?;
    let begun = "with begun as (insert into patchbay.erasures (prefix, queue, job_id, unfinished, actor, reason, listed_at) \
        values ($1, $2, $3, false, 'gone', 'request 8', now()) returning id) insert into patchbay.erased_jobs (erasure, queue, job_id, \
        job_created_ms) select id, $2, $3, $4 from begun";
    let story = host
        .get(&format!("/api/admin/queues/{queue}/jobs/{ended}"))
        .await?
        .1;
    let created = story["data"]["job"]["timestamp"]
        .as_i64()
        .context("a time")?;
    sqlx::query(begun)
        .bind(&world.prefix)
        .bind(queue)
        .bind(&ended)
        .bind(created)
        .execute(&mut database)
        .await?;
    until(Duration::from_secs(30), "its end", async || {
        let list = json_of(&host, &["--json", "history", "erasures"]).await?;
        Ok((list[0]["endedAt"].is_string() && list[0]["done"] == 1).then_some(()))
    })
    .await?;
    assert_eq!(
        host.get(&format!("/api/admin/queues/{queue}/jobs/{ended}"))
            .await?
            .0,
        404
    );

    let mut command = tokio::process::Command::new(crate::harness::binary());
    command.args([
        "history",
        "erase",
        "--path",
        "to",
        "--reason",
        "request 9",
        "--yes",
    ]);
    command
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, ada.address.as_bytes()).await?;
    drop(stdin);
    let said = String::from_utf8(child.wait_with_output().await?.stdout)?;
    assert!(
        said.contains(&format!("{queue} {running} (active): it runs")),
        "{said}"
    );
    host.job_in(queue, &running, "active").await?;
    let killed = host
        .post(
            &format!("/api/admin/queues/{queue}/jobs/{running}/kill"),
            json!({}),
        )
        .await?;
    assert_eq!(killed.0, 200, "{killed:?}");
    until(Duration::from_secs(30), "its end", async || {
        let list = json_of(&host, &["--json", "history", "erasures"]).await?;
        Ok((list[0]["endedAt"].is_string() && list[0]["done"] == 1).then_some(()))
    })
    .await?;
    let dump = redis_dump(&world).await?;
    assert_eq!(ada.found_in(&dump), [""; 0], "{}", around(&dump, &ada));
    let erased: Vec<(String, bool)> =
        sqlx::query_as("select outcome, body is null from patchbay.attempts where erased_at is not null order by 1")
            .fetch_all(&mut database)
            .await?;
    assert_eq!(
        erased,
        [("completed".to_owned(), true), ("failed".into(), true)]
    );

    // One job, by its id, without a value.
    let named = host
        .add(
            queue,
            json!({ "name": "noop", "data": data, "id": "order-1", "delayMs": 3_600_000 }),
        )
        .await?;
    let erase = [
        "history",
        "erase",
        "--queue",
        queue,
        "--job",
        &named,
        "--reason",
        "request 10",
        "--yes",
    ];
    assert!(
        String::from_utf8(patchbay(&host, &erase).await?.stdout)?
            .contains("with --unfinished it is removed")
    );
    host.job_in(queue, &named, "delayed").await?;
    assert!(
        patchbay(&host, &[&erase[..], &["--unfinished"]].concat())
            .await?
            .status
            .success()
    );
    assert_eq!(
        host.get(&format!("/api/admin/queues/{queue}/jobs/{named}"))
            .await?
            .0,
        404
    );
    for (body, reason) in [
        (json!({ "reason": "r" }), "of a person"),
        (json!({ "reason": "r", "path": "to" }), "belong together"),
        (
            json!({ "reason": "r", "job": "1", "path": "to", "value": "x" }),
            "the queue of this job",
        ),
        (
            json!({ "reason": " ", "path": "to", "value": "x" }),
            "reason",
        ),
        (json!({ "reason": "r", "path": "to", "value": "" }), "value"),
    ] {
        let (status, answer) = host.post("/api/admin/history/erase", body).await?;
        assert_eq!(
            (
                status,
                answer["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(reason))
            ),
            (400, true),
            "{answer}"
        );
    }
    Ok(())
}
