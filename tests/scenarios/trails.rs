//! Audit trails of the old backend: packs define them, accounts read them, old tables get a copy.

use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, clerk_plugin, guest_component, repository, until};
use crate::people::{PASSWORD, PEOPLE, verified};

const QUEUE: &str = "clerkQueue";

fn pack(name: &str) -> String {
    let file = repository().join(format!("deploy/trails/{name}.json"));
    file.display().to_string()
}

fn step(trail: &str, key: &str, entry: Value) -> Value {
    json!({ "trail": trail, "key": key, "entry": entry })
}

/// The result of each step of one job.
async fn each(host: &Host, steps: Value) -> anyhow::Result<Vec<Value>> {
    let job = json!({ "name": "each", "data": steps });
    let id = host.add(QUEUE, job).await?;
    let story = host.job_in(QUEUE, &id, "completed").await?;
    let returned = story["job"]["returnValue"].as_str();
    Ok(serde_json::from_str(returned.context("a return value")?)?)
}

async fn ask(host: &Host, token: &str, path: &str) -> anyhow::Result<(u16, Value)> {
    let request = host.http.get(host.url.clone() + path).bearer_auth(token);
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok((status, response.json().await?))
}

/// Id and token of an account with this role.
async fn account(world: &World, host: &Host, role: &str) -> anyhow::Result<(String, String)> {
    let email = format!("{}@example.com", role.replace('_', "-"));
    let body = verified(world, host, &email).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (id, token) = (text(&body["user"]["id"]), text(&body["token"]));
    let path = format!("/api/admin/people/{id}/role");
    let (status, answer) = host.put(&path, json!({ "role": role })).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok((id, token))
}

fn count(answer: &Value) -> usize {
    answer["data"].as_array().map_or(usize::MAX, Vec::len)
}

fn field(payment: &str, name: &str, new: &str) -> Value {
    json!({
        "paymentId": payment, "invoiceNumber": "2026-117", "action": "update", "field": name, "oldValue": null, "newValue": new,
        "changedBy": "person-7", "changedByEmail": "finance@example.com",
    })
}

#[tokio::test]
async fn a_pack_makes_a_trail_with_its_old_table_and_its_readers() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let install = [
        "--json",
        "audit",
        "trail",
        "install",
        &pack("gst_audit_log"),
        "--reason",
        "cut-over",
    ];
    let installed = json_of(&host, &install).await?;
    assert_eq!(installed["tableMade"], true, "{installed}");
    let again = json_of(&host, &install).await?;
    assert_eq!(
        (&again["tableMade"], &again["trail"]["tableState"]),
        (&json!(false), &json!("guarded")),
        "{again}"
    );
    host.deploy("clerk", clerk_plugin()?).await?;
    let trail = "gst_audit_log";
    let steps = json!([
        step(trail, "2026-117 hsn", field("pay-1", "hsn", "9983")),
        step(trail, "2026-117 rate", field("pay-1", "rate", "18")),
        step(trail, "2026-118 hsn", field("pay-2", "hsn", "=1+1")),
    ]);
    assert_eq!(each(&host, steps).await?, ["written", "written", "written"]);

    // The old table has the same rows, and takes no other change.
    let mut database = world.database().await?;
    type Copied = (
        String,
        String,
        String,
        String,
        Option<String>,
        String,
        String,
    );
    let rows: Vec<Copied> = sqlx::query_as(
        "select payment_id, action, field, new_value, old_value, changed_by, changed_by_email from superadmin.gst_audit_log order by created_at, field",
    )
    .fetch_all(&mut database)
    .await?;
    assert_eq!(rows.len(), 3, "{rows:?}");
    let row = rows.iter().find(|row| row.2 == "rate").context("a row")?;
    assert_eq!(
        (row.0.as_str(), row.1.as_str(), row.3.as_str(), &row.4),
        ("pay-1", "update", "18", &None)
    );
    assert_eq!(
        (row.5.as_str(), row.6.as_str()),
        ("person-7", "finance@example.com")
    );
    for change in [
        "update superadmin.gst_audit_log set new_value = '0'",
        "delete from superadmin.gst_audit_log",
        "truncate superadmin.gst_audit_log",
    ] {
        let refused = database.execute(change).await.expect_err(change);
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }

    // Whoever may read it finds entries by account, entity, action and time.
    let (_, finance) = account(&world, &host, "finance").await?;
    let (_, admin) = account(&world, &host, "admin").await?;
    let (_, sales) = account(&world, &host, "sales_head").await?;
    for (query, expected) in [
        ("", 3),
        ("?entity=pay-1", 2),
        ("?entity=pay-1&limit=1", 1),
        ("?user=person-7", 3),
        ("?user=person-8", 0),
        ("?action=update", 3),
        ("?action=issue", 0),
        ("?since=2999-01-01T00:00:00Z", 0),
        ("?until=2999-01-01T00:00:00Z", 3),
    ] {
        let path = format!("/api/audit/{trail}{query}");
        for token in [&finance, &admin] {
            let (status, answer) = ask(&host, token, &path).await?;
            assert_eq!(
                (status, count(&answer)),
                (200, expected),
                "{path}: {answer}"
            );
        }
    }
    let (_, page) = ask(&host, &finance, &format!("/api/audit/{trail}?limit=2")).await?;
    let cursor = page["nextCursor"].as_str().context("a cursor")?;
    let rest = format!("/api/audit/{trail}?limit=2&cursor={cursor}");
    let (_, rest) = ask(&host, &finance, &rest).await?;
    assert_eq!((count(&rest), &rest["nextCursor"]), (1, &Value::Null));
    assert_eq!(rest["data"][0]["plugin"], "clerk");
    for wrong in ["?limit=0", "?limit=201", "?cursor=x", "?since=-1", "?x=1"] {
        let (status, answer) = ask(&host, &finance, &format!("/api/audit/{trail}{wrong}")).await?;
        assert_eq!(status, 400, "{wrong}: {answer}");
    }

    // Everybody else gets the answer of a trail that is not there.
    let mut answers = Vec::new();
    for name in [trail, "operators", "plugins", "nothing", "No%20Name"] {
        for path in [
            format!("/api/audit/{name}"),
            format!("/api/audit/{name}/export"),
        ] {
            answers.push(ask(&host, &sales, &path).await?);
        }
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(answers[0].0, 404);
    for name in ["operators", "plugins"] {
        let (status, _) = ask(&host, &admin, &format!("/api/audit/{name}")).await?;
        assert_eq!(status, 404, "also to administrators: {name}");
    }
    let nobody = host.http.get(format!("{}/api/audit/{trail}", host.url));
    assert_eq!(nobody.send().await?.status(), 401);

    // A download is recorded, and a cell is never a formula.
    let request = host.http.get(format!(
        "{}/api/audit/{trail}/export?entity=pay-2",
        host.url
    ));
    let response = request.bearer_auth(&finance).send().await?;
    assert_eq!(
        response.headers()["content-type"],
        "text/csv; charset=utf-8"
    );
    let csv = response.text().await?;
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(
        csv.contains("\"pay-2\"") && csv.contains("\"person-7\""),
        "{csv}"
    );
    let exported = until(Duration::from_secs(10), "the record", async || {
        let (_, done) = host
            .get("/api/admin/activity?action=audit.export&limit=5")
            .await?;
        Ok(done["data"].as_array().and_then(|all| all.first().cloned()))
    })
    .await?;
    assert!(
        exported["actor"]
            .as_str()
            .is_some_and(|actor| actor.starts_with("user ")),
        "{exported}"
    );
    Ok(())
}

#[tokio::test]
async fn logins_are_read_by_administrators_whole_and_by_others_as_far_as_they_are_their_own()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let (ada, token) = account(&world, &host, "user").await?;
    let (root, admin) = account(&world, &host, "admin").await?;
    let (status, own) = ask(&host, &token, "/api/audit/login_logs").await?;
    assert_eq!((status, count(&own)), (200, 1), "{own}");
    assert_eq!(own["data"][0]["actorId"], json!(ada));
    let others = format!("/api/audit/login_logs?user={root}");
    let (status, others) = ask(&host, &token, &others).await?;
    assert_eq!((status, count(&others)), (200, 0), "{others}");
    let (status, all) = ask(&host, &admin, "/api/audit/login_logs").await?;
    assert_eq!((status, count(&all)), (200, 2), "{all}");
    let by_address = "/api/audit/login_logs?user=user@example.com&action=login";
    let (_, found) = ask(&host, &admin, by_address).await?;
    assert_eq!(count(&found), 1, "{found}");
    assert_eq!(found["data"][0]["address"], "127.0.0.1");
    let csv = host
        .http
        .get(format!("{}/api/audit/login_logs/export", host.url))
        .bearer_auth(&token);
    assert_eq!(csv.send().await?.text().await?.lines().count(), 2);

    // Who reads the logins of others is recorded; who reads his own is not.
    let (_, read) = host.get("/api/admin/activity?action=audit.read").await?;
    assert_eq!(count(&read), 2, "{read}");
    assert_eq!(read["data"][0]["actor"], format!("user {root}"));
    let (_, entries) = host
        .get(&format!(
            "/api/admin/audit?trail=operators&actor=user%20{root}&action=audit.read"
        ))
        .await?;
    assert!(
        entries["data"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|entry| entry["actorKind"] == "user")
            && count(&entries) >= 4,
        "{entries}"
    );
    Ok(())
}

#[tokio::test]
async fn all_packs_can_be_installed_and_say_who_may_read_them() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let mut names = Vec::new();
    for file in std::fs::read_dir(repository().join("deploy/trails"))? {
        let path = file?.path().display().to_string();
        let installed = json_of(&host, &["--json", "audit", "trail", "install", &path]).await?;
        assert_eq!(installed["tableMade"], true, "{installed}");
        names.push(
            installed["trail"]["name"]
                .as_str()
                .context("a name")?
                .to_owned(),
        );
    }
    assert_eq!(names.len(), 6, "{names:?}");
    let listed = json_of(&host, &["--json", "audit", "trail", "list"]).await?;
    let trails = listed.as_array().context("trails")?;
    assert_eq!(trails.len(), 6);
    for trail in trails {
        let readers = trail["readers"].as_array().context("readers")?;
        assert!(readers.contains(&json!("admin")), "{trail}");
        assert_eq!(trail["tableState"], "guarded", "{trail}");
    }
    let shown = patchbay(&host, &["audit", "trail", "show", "lead_email_log"]).await?;
    let shown = String::from_utf8(shown.stdout)?;
    println!("{shown}");
    assert!(
        shown.contains("Readers: admin, sales_head")
            && shown.contains("Table: mas_crm.lead_email_log (guarded)"),
        "{shown}"
    );
    let absent = patchbay(&host, &["audit", "trail", "show", "nothing"]).await?;
    assert_eq!(absent.status.code(), Some(3));
    // `set` changes the schema, and leaves what the pack said.
    let (status, set) = host
        .put(
            "/api/admin/audit/trails/lead_email_log",
            json!({ "schema": {} }),
        )
        .await?;
    assert_eq!(status, 200, "{set}");
    assert_eq!(set["data"]["readers"], json!(["admin", "sales_head"]));
    Ok(())
}

#[tokio::test]
async fn a_pack_that_reaches_too_far_is_refused_with_its_reason() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let good: Value = serde_json::from_str(&std::fs::read_to_string(pack("gst_audit_log"))?)?;
    for (pointer, value, expected, words) in [
        ("/name", json!("login_logs"), 409, "Only the host writes"),
        ("/name", json!("No Name"), 400, "audit trail name"),
        (
            "/projection/table",
            json!("public.users"),
            400,
            "holds the accounts",
        ),
        (
            "/projection/table",
            json!("patchbay.operators"),
            422,
            "the schema patchbay",
        ),
        (
            "/projection/table",
            json!("users"),
            422,
            "must name its schema",
        ),
        (
            "/projection/columns/id/from",
            json!("password"),
            422,
            "correlationId",
        ),
        (
            "/projection/columns",
            json!({ "a\"b": { "from": "at", "type": "text" } }),
            400,
            "not a valid name",
        ),
        ("/readers", json!(["everybody"]), 422, "everybody"),
        ("/keepDays", json!(7), 400, "from 90"),
        ("/schema", json!({ "type": "lead" }), 400, "schema: "),
        (
            "/fields",
            json!({ "unique": ["version"] }),
            400,
            "fields.entity",
        ),
        ("/surplus", json!(1), 422, "surplus"),
    ] {
        let mut bad = good.clone();
        match bad.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => bad[&pointer[1..]] = value,
        }
        let (status, answer) = host.post("/api/admin/audit/trails", bad).await?;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(status, expected, "{pointer}: {answer}");
        assert!(message.contains(words), "{pointer}: {answer}");
    }
    let file = world.dir.path().join("no-pack.json");
    std::fs::write(&file, "{}")?;
    let file = file.display().to_string();
    let refused = patchbay(&host, &["audit", "trail", "install", &file]).await?;
    assert_eq!(refused.status.code(), Some(4));
    Ok(())
}

#[tokio::test]
async fn a_version_of_a_configuration_is_there_once_and_a_restored_one_is_a_new_version()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let trail = "agent_configuration_history";
    json_of(
        &host,
        &["--json", "audit", "trail", "install", &pack(trail)],
    )
    .await?;
    let manifest = std::fs::read_to_string(repository().join("tests/guests/clerk/plugin.toml"))?;
    let manifest = manifest.replace("lead_activity_log", trail);
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    let component = patchbay_runtime::pack(&guest_component("clerk")?, &manifest)?;
    host.deploy("clerk", component).await?;
    let version = |agent: &str, version: u32, old: Value, new: Value| json!({ "agentId": agent, "version": version, "old": old, "new": new, "changedBy": "person-7", "action": "change" });
    let (mild, keen) = (json!({ "tone": "mild" }), json!({ "tone": "keen" }));
    let mut restored = version("a", 3, keen.clone(), mild.clone());
    restored["action"] = json!("restore");
    let without_source = restored.clone();
    restored["restoredFrom"] = json!(1);
    let ends = each(
        &host,
        json!([
            step(trail, "a 1", version("a", 1, Value::Null, mild.clone())),
            step(trail, "a 2", version("a", 2, mild.clone(), keen.clone())),
            step(trail, "b 1", version("b", 1, Value::Null, keen.clone())),
            step(trail, "a 2 again", version("a", 2, mild.clone(), json!({}))),
            step(trail, "a 2", version("a", 2, mild, keen)),
            step(trail, "a 3", without_source),
            step(trail, "a 3", restored),
        ]),
    )
    .await?;
    for at in [0, 1, 2, 4, 6] {
        assert_eq!(ends[at], "written", "{at}: {ends:?}");
    }
    assert_eq!(ends[3]["code"], "invalid", "{ends:?}");
    assert!(
        ends[3]["message"]
            .as_str()
            .is_some_and(|message| message.contains("the same version")),
        "{ends:?}"
    );
    assert_eq!(ends[5]["code"], "invalid", "what was restored: {ends:?}");
    let mut database = world.database().await?;
    let versions: Vec<(i32, Option<i32>)> = sqlx::query_as(
        "select version, restored_from from agent_configuration_history where agent_id = 'a' order by version",
    )
    .fetch_all(&mut database)
    .await?;
    assert_eq!(versions, [(1, None), (2, None), (3, Some(1))]);
    Ok(())
}

#[tokio::test]
async fn at_the_cut_over_old_rows_become_entries_and_their_table_takes_only_new_rows()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let mut database = world.database().await?;
    database
        .execute(
            "create table login_logs (id uuid primary key default gen_random_uuid(), \"userId\" uuid, action text not null,
               \"ipAddress\" varchar(45), \"userAgent\" text, timestamp timestamp not null default now());
             insert into login_logs (\"userId\", action) select gen_random_uuid(), 'login' from generate_series(1, 5)",
        )
        .await?;
    let host = world.host(&PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    let logged_in = host.http.post(format!("{}/api/auth/login", host.url));
    let logged_in = logged_in.json(&json!({ "email": "ada@example.com", "password": PASSWORD }));
    assert_eq!(logged_in.send().await?.status(), 200);
    let refused = patchbay(&host, &["audit", "adopt", "login_logs"]).await?;
    assert_eq!(refused.status.code(), Some(4), "it asks first");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        told.contains("the rows of the old table of login_logs entries"),
        "{told}"
    );
    let adopt = ["--json", "audit", "adopt", "login_logs", "--yes"];
    let adopted = json_of(&host, &adopt).await?;
    assert_eq!(
        (&adopted["read"], &adopted["added"], &adopted["wasGuarded"]),
        (&json!(7), &json!(5), &json!(false)),
        "copies of entries are no old rows: {adopted}"
    );
    let again = json_of(&host, &adopt).await?;
    assert_eq!(
        (&again["added"], &again["wasGuarded"]),
        (&json!(0), &json!(true)),
        "{again}"
    );
    let refused = database
        .execute("delete from login_logs")
        .await
        .expect_err("guarded");
    assert!(refused.to_string().contains("append-only"), "{refused}");
    // Logins go on.
    let more = host.http.post(format!("{}/api/auth/login", host.url));
    let more = more.json(&json!({ "email": "ada@example.com", "password": PASSWORD }));
    assert_eq!(more.send().await?.status(), 200);
    let (rows,): (i64,) = sqlx::query_as("select count(*) from login_logs")
        .fetch_one(&mut database)
        .await?;
    assert_eq!(rows, 8);
    let (status, answer) = host
        .post("/api/admin/audit/trails/nothing/adopt", json!({}))
        .await?;
    assert_eq!(status, 404, "{answer}");
    Ok(())
}

#[tokio::test]
async fn each_night_the_newest_batches_go_to_the_webhook() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    json_of(
        &host,
        &["--json", "audit", "trail", "install", &pack("ask_mas_log")],
    )
    .await?;
    let sealed = until(Duration::from_secs(10), "a batch", async || {
        let (_, anchors) = host.get("/api/admin/audit/anchors").await?;
        Ok(anchors["data"]
            .as_array()
            .and_then(|all| all.first().cloned()))
    })
    .await?;
    assert_eq!(sealed["trail"], "operators");
    let (status, report) = host.post("/api/admin/audit/verify", json!({})).await?;
    assert_eq!((status, &report["data"]["result"]), (200, &json!("whole")));
    drop(host);
    // A host that starts after the night verifies.
    world
        .database()
        .await?
        .execute("update patchbay.audit_verifications set at = now() - interval '2 days'")
        .await?;
    let receiver = crate::alerts::Receiver::new().await?;
    let _host = crate::alerts::host(&world, &receiver, &[]).await?;
    let message = until(Duration::from_secs(20), "the anchors", async || {
        let mut messages = receiver.messages("/webhook", 200).into_iter();
        Ok(messages.rfind(|message| message["alert"] == "audit-anchors"))
    })
    .await?;
    assert_eq!(message["event"], "daily", "{message}");
    let anchors = message["anchors"].as_array().context("anchors")?;
    let line = anchors[0].to_string();
    let read = patchbay_model::audit_chain::Anchor::read(&line).context("an anchor")?;
    assert_eq!(read.trail, "operators", "{message}");
    Ok(())
}
