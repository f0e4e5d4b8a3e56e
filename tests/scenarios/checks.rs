//! What is added, changed or scheduled fits what the plugin of its queue declares, or is forced; and
//! bulk edits that replace within texts, with what they change shown before.

use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};

use crate::bulk::{bulk_in, failed_jobs};
use crate::commands::{json_of, patchbay};
use crate::harness::{
    Host, World, email_plugin, guest_component, hostile_component, mail_job, repository, until,
};

const MAIL: &str = "emailQueue";
const QUEUE: &str = "hostileQueue";
const SECRETS_KEY: (&str, &str) = (
    "PATCHBAY_SECRETS_KEY",
    "1111111111111111111111111111111122222222222222222222222222222222",
);

async fn with_mail(world: &World) -> anyhow::Result<Host> {
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    host.post(&format!("/api/admin/queues/{MAIL}/pause"), json!({}))
        .await?;
    Ok(host)
}

/// The hostile plugin, or another component in its place, with `redact` and declared jobs.
fn declaring(component: &[u8], version: &str, redact: &[&str]) -> anyhow::Result<Vec<u8>> {
    let manifest = std::fs::read_to_string(repository().join("tests/guests/hostile/plugin.toml"))?;
    let manifest = manifest
        .replace("deadline_ms = 200", "deadline_ms = 20_000")
        .replace("version = \"0.1.0\"", &format!("version = {version:?}"));
    let manifest = format!(
        "{manifest}redact = {}\n[[queues.jobs]]\nname = \"fail\"\nschema = \"fail.json\"\n",
        json!(redact)
    );
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer"},"message":{"type":"string","pattern":"^[^@]*@?[^@]*$"}}}"#;
    let manifest = Manifest::from_toml(&manifest, |_| Ok(schema.to_owned()))?;
    Ok(patchbay_runtime::pack(component, &manifest)?)
}

async fn set_data(host: &Host, id: &str, query: &str, data: Value) -> anyhow::Result<(u16, Value)> {
    let path = format!("/api/admin/queues/{MAIL}/jobs/{id}/data{query}");
    host.put(&path, data).await
}

fn text(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

fn assert_misfit(status: u16, answer: &Value, says: &[&str]) {
    assert_eq!(
        (status, &answer["code"]),
        (422, &json!("does-not-fit")),
        "{answer}"
    );
    for part in says {
        assert!(text(answer).contains(part), "{part}: {answer}");
    }
    assert!(
        !answer.to_string().contains("asha"),
        "values may be personal: {answer}"
    );
}

async fn forced(world: &World, action: &str) -> anyhow::Result<Vec<Option<bool>>> {
    let query = "select (details->>'forced')::boolean from patchbay.operator_actions where action = $1 and error is null order by id";
    Ok(sqlx::query_scalar(query)
        .bind(action)
        .fetch_all(&mut world.database().await?)
        .await?)
}

#[tokio::test]
async fn a_job_that_its_plugin_does_not_declare_is_refused_unless_it_is_forced()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = with_mail(&world).await?;
    let path = format!("/api/admin/queues/{MAIL}/jobs");
    let wrong = json!({ "to": "asha@example.com", "subject": 7, "text": "Hello" });

    let job = json!({ "name": "send", "data": wrong });
    let (status, answer) = host.post(&path, job.clone()).await?;
    assert_misfit(
        status,
        &answer,
        &[
            "email",
            "\"send\"",
            "/subject: ",
            "--force",
            "\"force\": true",
        ],
    );
    let details = &answer["details"];
    assert_eq!(details["violations"][0]["path"], "/subject", "{answer}");
    assert!(details["violations"][0]["message"].is_string(), "{answer}");
    assert_eq!(details["jobNames"][0], "send", "{answer}");

    let job = json!({ "name": "sned", "data": mail_job(1) });
    let (status, answer) = host.post(&path, job).await?;
    assert_misfit(
        status,
        &answer,
        &["no job \"sned\"", "Did you mean \"send\"?", "otp"],
    );
    assert_eq!(answer["details"]["violations"], json!([]));
    assert!(
        answer["details"]["jobNames"]
            .as_array()
            .is_some_and(|names| names.contains(&json!("otp"))),
        "{answer}"
    );
    let many: Vec<Value> = (0..9).map(|_| json!({ "filename": 1 })).collect();
    let mut job = json!({ "name": "send", "data": mail_job(1) });
    job["data"]["attachments"] = many.into();
    let (status, answer) = host.post(&path, job).await?;
    assert_misfit(status, &answer, &["the first 5 violations; there are more"]);
    assert_eq!(
        answer["details"]["violations"].as_array().map(Vec::len),
        Some(5)
    );

    let refused = patchbay(&host, &["job", "add", MAIL, "send", &wrong.to_string()]).await?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        said.contains("/subject") && said.contains("--force"),
        "{said}"
    );
    let added = json_of(
        &host,
        &[
            "--json",
            "job",
            "add",
            MAIL,
            "send",
            &wrong.to_string(),
            "--force",
        ],
    )
    .await?;
    assert!(added["id"].is_string(), "{added}");
    let right = json!({ "name": "send", "data": mail_job(1), "force": true });
    assert_eq!(host.post(&path, right).await?.0, 200);
    assert_eq!(
        forced(&world, "job.add").await?,
        [Some(true), None],
        "only what did not fit was forced, and nothing else was added"
    );
    // Without an active plugin, nobody declares anything.
    host.post("/api/admin/plugins/email/deactivate", json!({}))
        .await?;
    let any = json!({ "name": "anything", "data": 7 });
    assert_eq!(host.post(&path, any).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn data_that_is_set_fits_the_schema_of_its_job_or_is_forced() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = with_mail(&world).await?;
    let id = host
        .add(MAIL, json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    let wrong = json!({ "to": "asha@example.com" });
    let (status, answer) = set_data(&host, &id, "", wrong.clone()).await?;
    assert_misfit(status, &answer, &["subject", "--force", "?force=true"]);
    let (status, answer) = set_data(&host, "4711", "", wrong.clone()).await?;
    assert_eq!(status, 404, "{answer}");
    let (status, answer) = set_data(&host, &id, "?forec=true", wrong.clone()).await?;
    assert_eq!(
        (status, text(&answer).contains("forec")),
        (400, true),
        "{answer}"
    );
    assert_eq!(set_data(&host, &id, "", mail_job(2)).await?.0, 200);
    let (status, answer) = set_data(&host, &id, "?force=true", wrong.clone()).await?;
    assert_eq!(status, 200, "{answer}");
    let data = wrong.to_string();
    let refused = patchbay(&host, &["job", "set-data", MAIL, &id, &data, "--yes"]).await?;
    assert_eq!(refused.status.code(), Some(4));
    json_of(
        &host,
        &[
            "--json", "job", "set-data", MAIL, &id, &data, "--force", "--yes",
        ],
    )
    .await?;
    assert_eq!(
        forced(&world, "job.set-data").await?,
        [None, Some(true), Some(true)]
    );
    // Its name cannot be changed, so an unknown one is no reason to keep its data.
    let odd = host.add(MAIL, json!({ "name": "odd", "data": {} })).await?;
    assert_eq!(set_data(&host, &odd, "", json!({ "a": 1 })).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn each_job_of_a_flow_fits_or_is_forced_by_itself_or_with_all() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = with_mail(&world).await?;
    let wrong = json!({ "name": "send", "data": { "to": "asha@example.com" } });
    let flow = |child: &Value| {
        json!({ "queue": "parentQueue", "job": { "name": "n", "newQueue": true },
            "children": [{ "queue": MAIL, "job": { "name": "send", "data": mail_job(1) } },
                { "queue": MAIL, "job": child }] })
    };
    let (status, answer) = host.post("/api/admin/flows", flow(&wrong)).await?;
    assert_misfit(
        status,
        &answer,
        &["/children/1 of the flow", "subject", "--force"],
    );
    assert_eq!(answer["details"]["node"], "/children/1", "{answer}");
    assert_eq!(
        host.get("/api/admin/queues/parentQueue/why").await?.0,
        404,
        "nothing was added"
    );

    let mut by_itself = wrong.clone();
    by_itself["force"] = true.into();
    let (status, answer) = host.post("/api/admin/flows", flow(&by_itself)).await?;
    assert_eq!(status, 200, "{answer}");
    let tree = flow(&wrong).to_string();
    assert_eq!(
        patchbay(&host, &["job", "flow", &tree])
            .await?
            .status
            .code(),
        Some(4)
    );
    json_of(&host, &["--json", "job", "flow", &tree, "--force"]).await?;
    assert_eq!(forced(&world, "flow.add").await?, [Some(true), Some(true)]);
    Ok(())
}

#[tokio::test]
async fn a_schedule_makes_only_jobs_that_fit_or_is_forced_and_runs_as_it_is() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = with_mail(&world).await?;
    let schedule = |name: &str, data: Value| json!({ "id": "s", "queue": MAIL, "name": name, "data": data, "everyMs": 3_600_000 });
    let path = "/api/admin/schedules";
    let wrong = json!({ "to": "asha@example.com" });
    let (status, answer) = host.post(path, schedule("send", wrong.clone())).await?;
    assert_misfit(status, &answer, &["subject", "--force", "\"force\": true"]);
    let (status, answer) = host.post(path, schedule("sned", mail_job(1))).await?;
    assert_misfit(status, &answer, &["Did you mean \"send\"?"]);
    assert_eq!(host.post(path, schedule("send", mail_job(1))).await?.0, 200);

    let data = wrong.to_string();
    let edit = ["schedule", "edit", "s", "--data", &data];
    let refused = patchbay(&host, &edit).await?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        said.contains("subject") && said.contains("--force"),
        "{said}"
    );
    json_of(&host, &[&["--json"][..], &edit[..], &["--force"]].concat()).await?;
    // Its time and its run ask no more about data that was forced.
    json_of(
        &host,
        &["--json", "schedule", "edit", "s", "--every-ms", "7200000"],
    )
    .await?;
    json_of(&host, &["--json", "schedule", "run", "s"]).await?;
    assert_eq!(forced(&world, "schedule.change").await?, [Some(true), None]);
    assert_eq!(forced(&world, "schedule.create").await?, [None]);
    Ok(())
}

#[tokio::test]
async fn settings_that_do_not_fit_are_told_in_the_same_form_and_cannot_be_forced()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = with_mail(&world).await?;
    let settings = json!({ "deferMinutes": "asha", "unknown": 1 });
    let (status, answer) = host
        .put("/api/admin/plugins/email/settings", settings)
        .await?;
    assert_misfit(status, &answer, &["/deferMinutes: ", "no --force"]);
    let places = answer["details"]["violations"]
        .as_array()
        .context("violations")?;
    assert!(
        places.iter().any(|it| it["path"] == "/deferMinutes"),
        "{answer}"
    );
    let (_, kept) = host.get("/api/admin/plugins/email/settings").await?;
    assert_eq!(kept["data"], json!({}), "nothing was changed");
    Ok(())
}

#[tokio::test]
async fn a_copy_of_a_job_that_does_not_fit_stays_possible() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = host
        .add(
            MAIL,
            json!({ "name": "odd", "data": { "a": 1 }, "attempts": 1 }),
        )
        .await?;
    host.job_in(MAIL, &id, "failed").await?;
    host.post(&format!("/api/admin/queues/{MAIL}/pause"), json!({}))
        .await?;
    let queue = format!("queue={MAIL}");
    let copied = json_of(
        &host,
        &[
            "--json",
            "bulk",
            "enqueue-again",
            &queue,
            "--new-key",
            "--yes",
            "--watch",
        ],
    )
    .await?;
    assert_eq!(
        (&copied["state"], &copied["done"]),
        (&json!("done"), &json!(1)),
        "{copied}"
    );
    Ok(())
}

#[tokio::test]
async fn a_bulk_edit_replaces_within_texts_and_shows_before_what_it_changes() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let component = hostile_component()?;
    host.deploy("hostile", declaring(&component, "0.1.0", &[])?)
        .await?;
    let ids = failed_jobs(&world, 3).await?;
    let queue = format!("queue={QUEUE}");
    let edit = [
        "bulk",
        "edit-and-retry",
        &queue,
        "--replace",
        "message",
        " 1 is ",
        "@",
        "--set",
        "n=12345678901234567",
    ];
    let look = json_of(
        &host,
        &[&["--json"][..], &edit[..], &["--dry-run"]].concat(),
    )
    .await?;
    let sample = look["sample"].as_array().context("a sample")?;
    let of = |id: &str| sample.iter().find(|job| job["id"] == id);
    let changed = of(&ids[1]).context("the job that changes")?;
    assert_eq!(changed["data"], Value::Null, "not asked for");
    assert_eq!(
        changed["changes"],
        json!([{ "path": "n", "before": 1, "after": 12345678901234567_u64 },
            { "path": "message", "before": "lead 1 is missing", "after": "lead@missing" }]),
        "{look}"
    );
    let left = of(&ids[0]).context("a job that stays")?;
    assert!(
        left["refused"]
            .as_str()
            .is_some_and(|why| why.contains("nothing to replace at /message")),
        "{left}"
    );
    assert_eq!(left["changes"], Value::Null, "{left}");
    let shown = patchbay(&host, &[&edit[..], &["--dry-run"]].concat()).await?;
    let shown = String::from_utf8(shown.stdout)?;
    assert!(
        shown.contains(r#"message: "lead 1 is missing" -> "lead@missing""#)
            && shown.contains("n: 1 -> 12345678901234567")
            && shown
                .contains("would be left as it is: its data has nothing to replace at /message"),
        "{shown}"
    );

    let steady = guest_component("steady")?;
    host.deploy("hostile", declaring(&steady, "0.2.0", &[])?)
        .await?;
    let ended = json_of(
        &host,
        &[&["--json"][..], &edit[..], &["--yes", "--watch"]].concat(),
    )
    .await?;
    assert_eq!(
        (&ended["matched"], &ended["done"], &ended["skipped"]),
        (&json!(3), &json!(1), &json!(2)),
        "{ended}"
    );
    let job = host.job_in(QUEUE, &ids[1], "completed").await?["job"].clone();
    assert!(
        job["data"]
            .as_str()
            .is_some_and(|data| data.contains(r#""message":"lead@missing""#)),
        "{job}"
    );
    let mut database = world.database().await?;
    let details: Value = sqlx::query_scalar(
        "select details from patchbay.operator_actions where action = 'bulk.edit-and-retry'",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(
        (&details["replace"], &details["set"]),
        (&json!(["/message"]), &json!(["/n"])),
        "{details}"
    );
    assert!(
        !details.to_string().contains("1 is"),
        "paths only: {details}"
    );
    Ok(())
}

#[tokio::test]
async fn a_preview_of_an_edit_hides_what_the_manifest_redacts_until_it_is_revealed()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let component = hostile_component()?;
    host.deploy("hostile", declaring(&component, "0.1.0", &["message"])?)
        .await?;
    failed_jobs(&world, 1).await?;
    let look = json!({ "kind": "edit-and-retry", "filter": { "queue": QUEUE }, "dryRun": true,
        "replace": [{ "path": "message", "find": " is ", "with": "@" }], "set": { "n": 2 } });
    let (status, hidden) = host.post("/api/admin/bulk", look.clone()).await?;
    assert_eq!(status, 200, "{hidden}");
    assert_eq!(
        hidden["data"]["sample"][0]["changes"],
        json!([{ "path": "n", "before": 0, "after": 2 },
            { "path": "message", "before": "[redacted]", "after": "[redacted]" }])
    );
    assert!(!hidden.to_string().contains("lead 0"), "{hidden}");
    let mut reveal = look;
    reveal["reveal"] = true.into();
    reveal["reason"] = "a test".into();
    let (_, shown) = host.post("/api/admin/bulk", reveal).await?;
    assert_eq!(
        shown["data"]["sample"][0]["changes"][1],
        json!({ "path": "message", "before": "lead 0 is missing", "after": "lead 0@missing" }),
        "{shown}"
    );
    let reveals: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.operator_actions where action = 'bulk.reveal'",
    )
    .fetch_one(&mut world.database().await?)
    .await?;
    assert_eq!(reveals, 1, "it is recorded");
    Ok(())
}

#[tokio::test]
async fn replacements_that_make_no_sense_are_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let component = hostile_component()?;
    host.deploy("hostile", declaring(&component, "0.1.0", &[])?)
        .await?;
    let replace = |find: &str, with: &str| json!([{ "path": "to", "find": find, "with": with }]);
    let long = "x".repeat(65 << 10);
    for (kind, replace, status, says) in [
        ("edit-and-retry", replace("", "a"), 400, "must not be empty"),
        ("edit-and-retry", replace("a", &long), 400, "65536 bytes"),
        (
            "edit-and-retry",
            replace("[redacted]", ""),
            400,
            "hidden from you",
        ),
        ("retry", replace("a", "b"), 400, "only for edit-and-retry"),
        (
            "edit-and-retry",
            json!([{ "path": "to", "find": "a" }]),
            422,
            "with is missing",
        ),
        ("edit-and-retry", json!(["to"]), 422, "replace"),
    ] {
        let request = json!({ "kind": kind, "filter": { "queue": QUEUE }, "replace": replace });
        let (got, answer) = host.post("/api/admin/bulk", request).await?;
        assert_eq!(
            (got, &answer["code"]),
            (status, &json!("invalid-input")),
            "{answer}"
        );
        assert!(text(&answer).contains(says), "{says}: {answer}");
    }
    let short = patchbay(
        &host,
        &["bulk", "edit-and-retry", "queue=q", "--replace", "to", "a"],
    )
    .await?;
    assert_eq!(short.status.code(), Some(2), "three values are needed");
    let forgotten = [
        "bulk",
        "edit-and-retry",
        "queue=q",
        "--replace",
        "to",
        "a",
        "--yes",
    ];
    let forgotten = patchbay(&host, &forgotten).await?;
    assert_eq!(forgotten.status.code(), Some(4), "an option is no text");
    Ok(())
}

#[tokio::test]
async fn data_is_shown_and_edits_are_previewed_whatever_selected_the_jobs() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[SECRETS_KEY]).await?;
    let component = hostile_component()?;
    host.deploy("hostile", declaring(&component, "0.1.0", &["retry"])?)
        .await?;
    let ids = failed_jobs(&world, 2).await?;
    let mut database = world.database().await?;
    until(Duration::from_secs(20), "both are recorded with their data", async || {
        let query = "select count(*) from patchbay.attempts where outcome = 'failed' and body is not null";
        let there: i64 = sqlx::query_scalar(query).fetch_one(&mut database).await?;
        Ok((there == 2).then_some(()))
    })
    .await?;
    let preview = async |mut request: Value| {
        request["dryRun"] = true.into();
        let (status, answer) = host.post("/api/admin/bulk", request).await?;
        anyhow::ensure!(status == 200, "{status} {answer}");
        let sample = answer["data"]["sample"].as_array().context("a sample")?;
        anyhow::ensure!(sample.len() == 2, "{answer}");
        anyhow::Ok(sample.clone())
    };
    let shows = |job: &Value| {
        let data = job["data"].as_str().unwrap_or_default();
        assert!(
            data.contains("is missing") && data.contains(r#""retry":"[redacted]""#),
            "shown without what is redacted: {job}"
        );
    };
    let group = until(
        Duration::from_secs(20),
        "both are one dead letter",
        async || {
            let (_, answer) = host.get("/api/admin/dead-letters").await?;
            let group = &answer["data"][0];
            Ok((group["jobs"] == 2).then(|| group["id"].to_string()))
        },
    )
    .await?;
    for filter in [
        json!({ "queue": QUEUE }),
        json!({ "queue": QUEUE, "outcome": "failed" }),
        json!({ "plugin": "hostile" }),
        json!({ "dead-letter": group }),
    ] {
        for kind in ["retry", "remove"] {
            let request = json!({ "kind": kind, "filter": filter, "withData": true });
            preview(request).await?.iter().for_each(shows);
        }
    }
    let edit =
        json!({ "kind": "edit-and-retry", "filter": { "plugin": "hostile" }, "set": { "n": 7 } });
    for job in preview(edit).await? {
        assert_eq!(job["changes"][0]["after"], 7, "{job}");
    }
    // Redis forgets them; the history has their data sealed.
    host.post(
        &format!("/api/admin/queues/{QUEUE}/clean"),
        json!({ "state": "failed" }),
    )
    .await?;
    for kind in ["retry", "enqueue-again"] {
        let request = json!({ "kind": kind, "filter": { "queue": QUEUE }, "source": "history", "key": "new", "withData": true });
        preview(request).await?.iter().for_each(shows);
    }
    sqlx::query("update patchbay.attempts set body = null, body_key = null where job_id = $1")
        .bind(&ids[0])
        .execute(&mut database)
        .await?;
    let request = json!({ "kind": "retry", "filter": { "queue": QUEUE }, "source": "history", "key": "keep", "withData": true });
    let sample = preview(request).await?;
    let without = sample.iter().find(|job| job["id"] == ids[0]);
    let without = without.context("the job without data")?;
    assert_eq!(
        (&without["data"], &without["refused"]),
        (&Value::Null, &json!("the history has no data of this job")),
        "{without}"
    );
    assert_eq!(without["dataWithheld"], without["refused"], "{without}");
    // What the preview says is what happens.
    let bulk = json!({ "kind": "retry", "filter": { "queue": QUEUE }, "source": "history", "key": "keep" });
    let (_, begun) = host.post("/api/admin/bulk", bulk).await?;
    let ended = bulk_in(&host, &begun["data"]["id"], &["done"]).await?;
    assert_eq!(
        (&ended["done"], &ended["skipped"]),
        (&json!(1), &json!(1)),
        "{ended}"
    );
    Ok(())
}
