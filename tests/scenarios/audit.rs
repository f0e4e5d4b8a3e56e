//! Plugins append to audit trails: entries that fit and are granted, once per job and key, for
//! ever.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::cable::Cable;
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, clerk_plugin, until};

const QUEUE: &str = "clerkQueue";
const TRAIL: &str = "lead_activity_log";
const TRAILS: &str = "/api/admin/audit/trails";
const GRANTS: &str = "/api/admin/plugins/clerk/grants";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "leadId": { "type": "string" },
            "activity": { "enum": ["status", "owner"] },
            "old": {},
            "new": {},
        },
        "required": ["leadId", "activity"],
        "additionalProperties": false,
    })
}

async fn world_and_host() -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    prepare(&host).await?;
    Ok((world, host))
}

async fn prepare(host: &Host) -> anyhow::Result<()> {
    let (status, answer) = host
        .put(&format!("{TRAILS}/{TRAIL}"), json!({ "schema": schema() }))
        .await?;
    anyhow::ensure!(status == 200, "{answer}");
    host.deploy("clerk", clerk_plugin()?).await?;
    Ok(())
}

fn moved(to: &str) -> Value {
    json!({ "leadId": "lead-7", "activity": "status", "old": "new", "new": to })
}

fn step(key: &str, entry: Value) -> Value {
    json!({ "trail": TRAIL, "key": key, "entry": entry })
}

/// The result of each step.
async fn each(host: &Host, steps: Value) -> anyhow::Result<Vec<Value>> {
    let id = host
        .add(QUEUE, json!({ "name": "each", "data": steps }))
        .await?;
    let story = host.job_in(QUEUE, &id, "completed").await?;
    Ok(serde_json::from_str(
        story["job"]["returnValue"]
            .as_str()
            .context("a return value")?,
    )?)
}

async fn listed(host: &Host, query: &str) -> anyhow::Result<Value> {
    let (status, answer) = host.get(&format!("/api/admin/audit{query}")).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok(answer)
}

async fn entries(host: &Host) -> anyhow::Result<Vec<Value>> {
    Ok(listed(host, &format!("?trail={TRAIL}")).await?["data"]
        .as_array()
        .context("a list")?
        .clone())
}

#[tokio::test]
async fn a_job_that_runs_three_times_writes_its_entry_once_with_who_wrote_it_and_why()
-> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let job = json!({ "name": "append-then-fail-twice", "data": step("status", moved("won")) });
    let id = host.add(QUEUE, job).await?;
    let story = host.job_in(QUEUE, &id, "completed").await?;
    assert_eq!(story["job"]["attemptsMade"], 3, "{story}");
    let entries = entries(&host).await?;
    assert_eq!(entries.len(), 1, "{entries:?}");
    let entry = &entries[0];
    let digest = host.get("/api/admin/plugins").await?.1["data"][0]["digest"].clone();
    assert_eq!(
        (&entry["plugin"], &entry["revision"]),
        (&json!("clerk"), &digest)
    );
    assert_eq!(
        (&entry["queue"], &entry["jobId"]),
        (&json!(QUEUE), &json!(id))
    );
    assert_eq!(
        (&entry["trail"], &entry["entryKey"], &entry["entry"]),
        (&json!(TRAIL), &json!("status"), &moved("won"))
    );
    assert!(
        entry["correlationId"]
            .as_str()
            .is_some_and(|id| !id.is_empty())
            && entry["at"].is_string(),
        "{entry}"
    );
    let page = host.metrics().await?;
    let counted = page.lines().find(|line| {
        line.starts_with("patchbay_host_call_duration_seconds_count{")
            && line.contains("capability=\"audit\"")
    });
    assert_eq!(
        counted.and_then(|line| line.rsplit(' ').next()),
        Some("3"),
        "{page}"
    );
    Ok(())
}

#[tokio::test]
async fn of_two_entries_under_one_key_the_first_stands_and_each_job_and_key_has_its_own()
-> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let ends = each(
        &host,
        json!([
            step("a", moved("won")),
            step("a", moved("lost")),
            step("b", moved("lost"))
        ]),
    )
    .await?;
    assert_eq!(ends, ["written", "written", "written"]);
    each(&host, json!([step("a", moved("lost"))])).await?;
    let written: Vec<(Value, Value)> = entries(&host)
        .await?
        .into_iter()
        .map(|entry| (entry["entryKey"].clone(), entry["entry"]["new"].clone()))
        .collect();
    let expected = [("a", "lost"), ("b", "lost"), ("a", "won")];
    assert_eq!(
        written,
        expected.map(|(key, new)| (json!(key), json!(new))),
        "the newest first"
    );
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_or_is_too_large_or_belongs_nowhere_is_refused_with_the_reason()
-> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let person = "asha@example.com";
    let raw = |text: &str| json!({ "trail": TRAIL, "key": "k", "raw": text });
    let large = json!({ "leadId": "x".repeat(64 << 10), "activity": "status" });
    let nested = (0..64).fold(json!(1), |inner, _| json!([inner]));
    let steps = json!([
        step("k", json!({ "leadId": "7", "activity": person })),
        step("k", json!({ "activity": "status" })),
        raw("{"),
        raw(r#"{"leadId":"a\u0000b","activity":"status"}"#),
        step("k", large),
        step("", moved("won")),
        step(&"k".repeat(201), moved("won")),
        step("a\0b", moved("won")),
        step("k", json!({ "leadId": "7", "activity": "status", "old": nested })),
        { "trail": "gst_audit_log", "key": "k", "entry": {} },
        { "trail": "login_logs", "key": "k", "entry": {} },
    ]);
    let ends = each(&host, steps).await?;
    let expected = [
        ("invalid", "/activity: "),
        ("invalid", "leadId"),
        ("invalid", "not JSON"),
        ("invalid", "NUL"),
        ("too-large", "65536 bytes"),
        ("invalid", "1 to 200 bytes"),
        ("invalid", "1 to 200 bytes"),
        ("invalid", "NUL"),
        ("invalid", "nests more than 64 levels"),
        ("invalid", "No audit trail is called gst_audit_log"),
        ("denied", "the manifest does not ask"),
    ];
    for (end, (code, words)) in ends.iter().zip(expected) {
        assert_eq!(end["code"], code, "{end}");
        assert!(
            end["message"]
                .as_str()
                .is_some_and(|message| message.contains(words)),
            "{words}: {end}"
        );
        assert!(
            !end.to_string().contains(person),
            "no value is repeated: {end}"
        );
    }
    assert_eq!(ends.len(), expected.len());
    assert_eq!(entries(&host).await?, Vec::<Value>::new());
    Ok(())
}

#[tokio::test]
async fn what_plugins_write_neither_breaks_the_list_nor_steers_the_terminal() -> anyhow::Result<()>
{
    let (_world, host) = world_and_host().await?;
    let nested = (0..62).fold(json!(1), |inner, _| json!([inner]));
    let steps = json!([
        step(
            "first\n\u{1b}[2J\u{202e}",
            json!({ "leadId": "x".repeat(60_000), "activity": "status" })
        ),
        step(
            "second",
            json!({ "leadId": "7", "activity": "status", "old": nested })
        ),
    ]);
    assert_eq!(each(&host, steps).await?, ["written", "written"]);
    let listed = patchbay(&host, &["audit", "list", "--trail", TRAIL]).await?;
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let shown = String::from_utf8(listed.stdout)?;
    assert_eq!(shown.lines().count(), 3);
    assert!(
        shown.contains("first\\n\\u{1b}[2J\\u{202e}") && !shown.contains(['\u{1b}', '\u{202e}'])
    );
    Ok(())
}

#[tokio::test]
async fn a_trail_must_be_granted_and_a_revoked_one_is_denied_from_the_next_call_on()
-> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let (_, grants) = host.get(GRANTS).await?;
    let asks: Vec<&str> = grants["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|g| g["ask"].as_str())
        .collect();
    assert_eq!(asks, ["audit gst_audit_log", "audit lead_activity_log"]);
    assert_eq!(
        each(&host, json!([step("a", moved("won"))])).await?,
        ["written"]
    );
    let ask = json!({ "asks": ["audit lead_activity_log"] });
    assert_eq!(
        host.post(&format!("{GRANTS}/revoke"), ask.clone()).await?.0,
        200
    );
    let ends = each(&host, json!([step("b", moved("lost"))])).await?;
    assert_eq!(ends[0]["code"], "denied", "{ends:?}");
    assert_eq!(host.post(GRANTS, ask).await?.0, 200);
    assert_eq!(
        each(&host, json!([step("c", moved("lost"))])).await?,
        ["written"],
        "restored without a swap"
    );
    assert_eq!(entries(&host).await?.len(), 2);
    until(
        Duration::from_secs(20),
        "its uses are counted",
        async || {
            let grants = host.get(GRANTS).await?.1["data"].clone();
            Ok((grants[1]["uses"] == 2).then_some(()))
        },
    )
    .await
}

#[tokio::test]
async fn a_trails_new_schema_holds_from_the_next_entry_on_and_its_removal_keeps_the_entries()
-> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    each(&host, json!([step("a", moved("won"))])).await?;
    let narrow = world.dir.path().join("narrow.json");
    std::fs::write(
        &narrow,
        json!({ "type": "object", "maxProperties": 1 }).to_string(),
    )?;
    let narrow = narrow.to_str().context("a path")?;
    let set = [
        "--json",
        "audit",
        "trail",
        "set",
        TRAIL,
        narrow,
        "--description",
        "What happened to leads",
    ];
    assert_eq!(
        json_of(&host, &set).await?["description"],
        "What happened to leads"
    );
    let ends = each(&host, json!([step("b", moved("won"))])).await?;
    assert_eq!(ends[0]["code"], "invalid", "{ends:?}");
    let shown = String::from_utf8(patchbay(&host, &["audit", "trail", "list"]).await?.stdout)?;
    println!("{shown}");
    assert!(
        shown.contains("What happened to leads") && shown.contains("maxProperties"),
        "{shown}"
    );
    let refused = patchbay(&host, &["audit", "trail", "remove", TRAIL]).await?;
    assert!(
        refused.status.code() == Some(4)
            && String::from_utf8_lossy(&refused.stderr).contains("--yes")
    );
    json_of(
        &host,
        &["--json", "audit", "trail", "remove", TRAIL, "--yes"],
    )
    .await?;
    let ends = each(&host, json!([step("c", moved("won"))])).await?;
    assert!(
        ends[0]["message"]
            .as_str()
            .is_some_and(|text| text.contains("No audit trail is called")),
        "{ends:?}"
    );
    assert_eq!(entries(&host).await?.len(), 1);
    let again = patchbay(&host, &["audit", "trail", "remove", TRAIL]).await?;
    assert_eq!(
        again.status.code(),
        Some(3),
        "and nobody is asked whether he means it"
    );
    Ok(())
}

#[tokio::test]
async fn entries_are_read_page_by_page_and_changed_by_nobody() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let steps: Value = (0..7)
        .map(|n| step(&format!("key-{n}"), moved(&n.to_string())))
        .collect();
    each(&host, steps).await?;
    let (mut cursor, mut seen) = (Some(String::new()), Vec::new());
    for expected in [3, 3, 1] {
        let query = cursor
            .filter(|cursor| !cursor.is_empty())
            .map(|cursor| format!("&cursor={cursor}"));
        let page = listed(
            &host,
            &format!("?trail={TRAIL}&limit=3{}", query.unwrap_or_default()),
        )
        .await?;
        let entries = page["data"].as_array().context("a list")?;
        assert_eq!(entries.len(), expected, "{page}");
        seen.extend(
            entries
                .iter()
                .filter_map(|entry| entry["entryKey"].as_str().map(str::to_owned)),
        );
        cursor = page["nextCursor"].as_str().map(str::to_owned);
    }
    assert_eq!(cursor, None);
    assert_eq!(
        seen,
        (0..7).rev().map(|n| format!("key-{n}")).collect::<Vec<_>>()
    );
    let job = entries(&host).await?[0]["jobId"]
        .as_str()
        .context("a job")?
        .to_owned();
    for (arguments, expected) in [
        (vec!["--plugin", "clerk", "--job", &job], 7),
        (vec!["--plugin", "other"], 0),
        (vec!["--queue", QUEUE, "--since", "1h"], 7),
        (vec!["--since", "2999-01-01T00:00:00Z"], 0),
    ] {
        let page = json_of(
            &host,
            &[&["--json", "audit", "list"], &arguments[..]].concat(),
        )
        .await?;
        assert_eq!(
            page.as_array().map(Vec::len),
            Some(expected),
            "{arguments:?}"
        );
    }
    let shown = String::from_utf8(
        patchbay(&host, &["audit", "list", "--trail", TRAIL, "--limit", "2"])
            .await?
            .stdout,
    )?;
    println!("{shown}");
    assert!(
        shown.contains("key-6") && !shown.contains("key-4"),
        "{shown}"
    );
    let all = json_of(
        &host,
        &["--json", "audit", "list", "--trail", TRAIL, "--all"],
    )
    .await?;
    assert_eq!(all.as_array().map(Vec::len), Some(7));
    let wrong = [
        "?limit=0",
        "?limit=201",
        "?since=yesterday",
        "?trail=A",
        "?nothing=1",
        "?cursor=x",
    ];
    for wrong in wrong.into_iter().chain([
        "?since=-5000-01-01T00:00:00Z",
        "?since=%2B262142-01-01T00:00:00Z",
    ]) {
        assert_eq!(
            host.get(&format!("/api/admin/audit{wrong}")).await?.0,
            400,
            "{wrong}"
        );
    }
    let mut database = world.database().await?;
    for change in [
        "update patchbay.audit_entries set entry = '{}'",
        "delete from patchbay.audit_entries",
        "truncate patchbay.audit_entries",
    ] {
        let refused = database
            .execute(change)
            .await
            .expect_err(change)
            .to_string();
        assert!(refused.contains("append-only"), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_schema_makes_no_trail() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for (name, schema, words) in [
        ("Leads", json!({}), "audit trail name"),
        ("leads", json!({ "type": "lead" }), "not a JSON Schema"),
        (
            "leads",
            json!({ "properties": { "a": { "type": 5 } } }),
            "#/properties/a/type: must be one of array, boolean",
        ),
        ("leads", json!({ "$ref": "#/nowhere" }), "schema: "),
        (
            "leads",
            json!({ "$ref": "http://127.0.0.1:9/schema.json" }),
            "schema: ",
        ),
        ("leads", json!({ "$ref": "#" }), "refers back to itself"),
        (
            "leads",
            json!({ "description": "x".repeat(70_000) }),
            "limit is 65536",
        ),
    ] {
        let (status, answer) = host
            .put(&format!("{TRAILS}/{name}"), json!({ "schema": schema }))
            .await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{answer}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains(words)),
            "{words}: {answer}"
        );
    }
    for description in ["two\nlines", "\u{1b}[2J", "a\0b"] {
        let body = json!({ "schema": {}, "description": description });
        let (status, answer) = host.put(&format!("{TRAILS}/leads"), body).await?;
        assert_eq!(
            (status, &answer["message"]),
            (
                400,
                &json!("description: must be one line without control characters")
            )
        );
    }
    assert_eq!(host.get(TRAILS).await?.1["data"], json!([]));
    Ok(())
}

/// Each schema refers to two others, without end: 3 KB that would take for ever to check.
fn endless() -> Value {
    let to = |i: usize| json!({ "$ref": format!("#/$defs/a{}", i % 30) });
    let definition =
        |i: usize| json!({ "unevaluatedProperties": false, "allOf": [to(i + 1), to(i + 2)] });
    let definitions: serde_json::Map<String, Value> =
        (0..30).map(|i| (format!("a{i}"), definition(i))).collect();
    json!({ "$ref": "#/$defs/a0", "$defs": definitions })
}

#[tokio::test]
async fn a_schema_that_would_never_end_is_refused_at_once_and_holds_nobody_up() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let path = format!("{TRAILS}/leads");
    let asked = async {
        let started = std::time::Instant::now();
        let answers = futures::future::join_all(
            (0..8).map(|_| host.put(&path, json!({ "schema": endless() }))),
        )
        .await;
        (started.elapsed(), answers)
    };
    let health = async {
        let started = std::time::Instant::now();
        (host.get("/api/health").await, started.elapsed())
    };
    let ((took, answers), (health, waited)) = tokio::join!(asked, health);
    for answer in answers {
        let (status, answer) = answer?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{answer}"
        );
    }
    assert_eq!(health?.0, 200);
    assert!(
        took < Duration::from_secs(10) && waited < Duration::from_secs(5),
        "{took:?} {waited:?}"
    );
    Ok(())
}

#[tokio::test]
async fn while_postgres_is_away_the_job_hears_unavailable_and_its_own_retry_writes_the_entry()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let host = world.host(&[("DATABASE_URL", url.as_str())]).await?;
    prepare(&host).await?;
    let job = json!({
        "name": "append", "data": step("a", moved("won")), "delayMs": 3_600_000, "attempts": 100,
        "backoff": { "type": "fixed", "delayMs": 300 },
    });
    let id = host.add(QUEUE, job).await?;
    cable.cut.send_replace(true);
    world.promote(QUEUE, &id).await?;
    let reason = until(Duration::from_secs(20), "its first failure", async || {
        let (_, jobs) = host
            .get(&format!("/api/admin/queues/{QUEUE}/jobs?state=delayed"))
            .await?;
        Ok(jobs["data"][0]["failedReason"].as_str().map(str::to_owned))
    })
    .await?;
    assert!(
        reason.contains("unavailable") && reason.contains("Postgres does not answer"),
        "{reason}"
    );
    cable.cut.send_replace(false);
    let story = host.job_in(QUEUE, &id, "completed").await?;
    assert!(
        story["job"]["attemptsMade"]
            .as_u64()
            .is_some_and(|made| made > 1),
        "{story}"
    );
    assert_eq!(entries(&host).await?.len(), 1);
    Ok(())
}
