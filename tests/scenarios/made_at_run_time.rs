//! What plugins make at run time: schedules of their own, and credentials that they hand over.

use std::time::Duration;

use patchbay_stand_ins::graphy::{self, Account};
use serde_json::{Value, json};
use sqlx::Row;

use crate::harness::{Host, World, as_guest, until};
use crate::people::{PEOPLE, verified};

const QUEUE: &str = "keeperQueue";
const SOON: Duration = Duration::from_secs(10);
/// It has characters that encodings change.
const KEY: &str = "k3y+of/a school?";

/// The answers of the steps.
async fn steps(host: &Host, steps: Value) -> anyhow::Result<Value> {
    let id = host
        .add(QUEUE, json!({ "name": "steps", "data": steps }))
        .await?;
    let story = host.job_in(QUEUE, &id, "completed").await?;
    let result = story["job"]["returnValue"].as_str().unwrap_or("null");
    let result = serde_json::from_str(result)?;
    println!("{result:#}");
    Ok(result)
}

fn code(answer: &Value) -> &str {
    answer["code"].as_str().unwrap_or("none")
}

async fn schedule(host: &Host, id: &str) -> anyhow::Result<Option<Value>> {
    let (_, answer) = host.get("/api/admin/schedules").await?;
    let all = answer["data"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().find(|one| one["id"] == id))
}

/// The schedule, once it has a next tick.
async fn ticking(host: &Host, id: &str) -> anyhow::Result<Value> {
    until(SOON, "a next tick", async || {
        let found = schedule(host, id).await?;
        Ok(found.filter(|one| one["nextAt"].is_string()))
    })
    .await
}

#[tokio::test]
async fn a_plugin_owns_schedules_under_its_prefix_and_hands_over_credentials_that_nobody_reads()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let account = Account {
        mid: "school-1".into(),
        key: KEY.into(),
    };
    let vendor = graphy::start("127.0.0.1:0".parse()?, account).await?;
    let host = world.host(&PEOPLE).await?;
    let plugin = as_guest("keeper", |manifest| {
        manifest.replace("http://127.0.0.1:9/", &format!("{}/", vendor.url()))
    })?;
    let digest = host.deploy("keeper", plugin).await?;

    // Schedules: only its own ids and queues, not too many and not too often.
    let every = 3_600_000;
    let put = |id: &str| json!({ "do": "put-schedule", "id": id, "everyMs": every });
    let with = |id: &str, name: &str, value: Value| {
        let mut step = put(id);
        step[name] = value;
        step
    };
    let cron = json!({ "do": "put-schedule", "id": "keeper-made-2", "cron": "0 9 * * *", "tz": "Asia/Kolkata" });
    let answers = steps(
        &host,
        json!([
            put("keeper-made-1"),
            put("keeper-made-1"),
            cron,
            put("other-1"),
            put("keeper-made-"),
            put("keeper-made-by-manifest"),
            with("keeper-made-3", "queue", json!("keeperOtherQueue")),
            with("keeper-made-3", "everyMs", json!(1_000)),
            with("keeper-made-3", "cron", json!("0 9 * * *")),
            json!({ "do": "put-schedule", "id": "keeper-made-3", "cron": "*/5 * * * * *" }),
            json!({ "do": "put-schedule", "id": "keeper-made-3", "cron": "0 0 31 2 *" }),
            with("keeper-made-3", "data", json!("{")),
            with("keeper-made-3", "missed", json!("twice")),
            put("keeper-made-3"),
            put("keeper-made-4"),
            json!({ "do": "remove-schedule", "id": "keeper-made-3" }),
            json!({ "do": "remove-schedule", "id": "keeper-made-3" }),
            json!({ "do": "remove-schedule", "id": "keeper-made-by-manifest" }),
        ]),
    )
    .await?;
    let codes: Vec<&str> = answers.as_array().into_iter().flatten().map(code).collect();
    let (invalid, denied) = ("invalid", "denied");
    assert_eq!(
        codes,
        [
            "none", "none", "none", denied, denied, "conflict", denied, invalid, invalid, invalid,
            invalid, invalid, invalid, "none", "conflict", "none", "none", "none"
        ]
    );
    assert_eq!(
        (&answers[0], &answers[1], &answers[2]),
        (&json!(true), &json!(false), &json!(true)),
        "the second changes nothing"
    );
    assert_eq!(
        (&answers[15], &answers[16], &answers[17]),
        (&json!(true), &json!(false), &json!(false))
    );

    // Operators see and pause it like any other; a pause outlives a put, and the plugin's absence.
    let made = ticking(&host, "keeper-made-1").await?;
    assert_eq!(
        (&made["plugin"], &made["atRunTime"]),
        (&json!("keeper"), &json!(true))
    );
    let (status, answer) = host
        .post("/api/admin/schedules/keeper-made-1/pause", json!({}))
        .await?;
    assert_eq!(status, 200, "{answer}");
    let answers = steps(
        &host,
        json!([
            with("keeper-made-1", "everyMs", json!(every * 2)),
            { "do": "list-schedules" },
        ]),
    )
    .await?;
    assert_eq!(
        answers[1][0],
        json!({ "id": "keeper-made-1", "everyMs": every * 2, "paused": true, "ticks": false })
    );
    assert_eq!(
        (&answers[1][1]["id"], &answers[1][1]["ticks"]),
        (&json!("keeper-made-2"), &json!(true))
    );
    let (status, answer) = host
        .post("/api/admin/plugins/keeper/deactivate", json!({}))
        .await?;
    assert_eq!(status, 200, "{answer}");
    until(SOON, "no schedule of a stopped plugin", async || {
        Ok(schedule(&host, "keeper-made-2")
            .await?
            .is_none()
            .then_some(()))
    })
    .await?;
    let (status, answer) = host
        .post(
            "/api/admin/plugins/keeper/activate",
            json!({ "digest": digest }),
        )
        .await?;
    assert_eq!(status, 200, "{answer}");
    ticking(&host, "keeper-made-2").await?;
    let paused = schedule(&host, "keeper-made-1").await?;
    assert!(paused.is_some_and(|one| one["pausedBy"] == "operator"));

    // Credentials: kept under the prefix, used where the rule says, and never read.
    let keep = |name: &str, key: &str| json!({ "do": "put-credential", "name": name, "fields": { "mid": "school-1", "key": key } });
    let (asked, plain) = (
        format!("{}/public/v1/learners", vendor.url()),
        format!("{}/plain/x", vendor.url()),
    );
    let send =
        |url: &str, name: Option<&str>| json!({ "do": "send", "url": url, "credential": name });
    let answers = steps(
        &host,
        json!([
            send(&asked, Some("school-1")),
            keep("school-1", "wrong"),
            send(&asked, Some("school-1")),
            keep("school-1", KEY),
            send(&asked, Some("school-1")),
            send(&asked, None),
            send(&plain, Some("school-1")),
            send(&plain, None),
            send(&format!("{asked}?key=mine"), Some("school-1")),
            keep("other-1", KEY),
            keep("School-1", KEY),
            { "do": "put-credential", "name": "school-2", "fields": { "mid": "m" } },
            keep("school-2", KEY),
            keep("school-3", KEY),
            { "do": "list-credentials" },
            { "do": "remove-credential", "name": "school-2" },
            { "do": "remove-credential", "name": "school-2" },
            send(&asked, Some("school-2")),
        ]),
    )
    .await?;
    let of = |place: usize| code(&answers[place]);
    assert_eq!(
        (of(0), &answers[1], &answers[2]),
        (denied, &json!(1), &json!(401))
    );
    assert_eq!((&answers[3], &answers[4]), (&json!(2), &json!(200)));
    // Another rule's calls carry no credential, so the vendor refuses them.
    assert_eq!((of(5), of(6), &answers[7]), (denied, denied, &json!(401)));
    assert!(of(8).contains("Invalid"), "{}", of(8));
    assert_eq!((of(9), of(10), of(11)), (denied, invalid, invalid));
    assert_eq!((&answers[12], of(13)), (&json!(1), "conflict"));
    assert_eq!(
        answers[14],
        json!([{ "name": "[redacted]", "version": 2 }, { "name": "[redacted]", "version": 1 }]),
        "names are hidden in results of jobs"
    );
    assert_eq!(
        (&answers[15], &answers[16], of(17)),
        (&json!(true), &json!(false), denied)
    );
    let (_, listed) = host.get("/api/admin/plugins/keeper/secrets").await?;
    assert_eq!(listed["data"][0]["name"], "KEPT_SCHOOL_1", "{listed}");
    let (status, answer) = host
        .put(
            "/api/admin/plugins/keeper/secrets/KEPT_SCHOOL_1",
            json!({ "value": "x" }),
        )
        .await?;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")));

    // Recorded under the plugin's name, without values; and in no log.
    let (_, recorded) = host
        .get("/api/admin/audit?trail=plugins&entity=keeper&limit=200")
        .await?;
    let recorded = recorded.to_string();
    for told in [
        "schedule.put",
        "schedule.remove",
        "secret.set",
        "secret.remove",
        "plugin keeper",
    ] {
        assert!(recorded.contains(told), "{told}: {recorded}");
    }
    let jobs = host
        .get("/api/admin/jobs/keeperQueue/1")
        .await?
        .1
        .to_string();
    let log = host
        .log
        .lock()
        .map_err(|_| anyhow::anyhow!("poisoned"))?
        .clone();
    assert!(!recorded.contains(KEY) && !log.contains(KEY), "{log}");
    assert!(!log.contains("k3y%2Bof"), "{log}");
    drop(jobs);
    let row = sqlx::query(
        "select count(*) from patchbay.secrets where encode(ciphertext, 'escape') like '%k3y%'",
    )
    .fetch_one(&mut world.database().await?)
    .await?;
    assert_eq!(row.get::<i64, _>(0), 0, "sealed");

    // What is revoked is denied from the next call on.
    for ask in ["schedules keeper-made-*", "credentials school-*"] {
        let (_, grants) = host.get("/api/admin/plugins/keeper/grants").await?;
        let all = grants["data"].as_array().cloned().unwrap_or_default();
        let text = all
            .iter()
            .filter_map(|grant| grant["ask"].as_str())
            .find(|text| text.starts_with(ask))
            .unwrap_or_default()
            .to_owned();
        let (status, answer) = host
            .post(
                "/api/admin/plugins/keeper/grants/revoke",
                json!({ "asks": [text] }),
            )
            .await?;
        assert_eq!(status, 200, "{text}: {answer}");
    }
    let answers = steps(
        &host,
        json!([
            put("keeper-made-1"),
            keep("school-1", KEY),
            send(&asked, Some("school-1"))
        ]),
    )
    .await?;
    assert_eq!(
        [code(&answers[0]), code(&answers[1]), code(&answers[2])],
        [denied, denied, denied]
    );
    Ok(())
}

#[tokio::test]
async fn a_plugin_proposes_plain_accounts_that_only_their_owners_can_claim() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let ada = verified(&world, &host, "ada@example.com").await?;
    host.deploy("keeper", as_guest("keeper", |manifest| manifest)?)
        .await?;
    let propose = |email: &str| json!({ "do": "propose-account", "email": email, "name": "Bo", "phone": "+911234567890" });
    let answers = steps(
        &host,
        json!([
            propose("Bo@Example.com"),
            propose("bo@example.com"),
            propose("ada@example.com"),
            propose("nobody"),
            { "do": "propose-account", "email": "c@example.com", "name": "two\nlines" },
            propose("c@example.com"),
            propose("d@example.com"),
            propose("c@example.com"),
        ]),
    )
    .await?;
    let codes: Vec<&str> = answers.as_array().into_iter().flatten().map(code).collect();
    assert_eq!(
        codes,
        [
            "none", "none", "none", "invalid", "invalid", "none", "conflict", "none"
        ],
        "two a day"
    );
    let is_new = |place: usize| answers[place]["isNew"].as_bool();
    assert_eq!(
        [0, 1, 2, 5, 7].map(is_new),
        [true, false, false, true, false].map(Some)
    );
    assert_eq!(answers[0]["id"], answers[1]["id"]);
    assert_eq!(answers[2]["id"], ada["user"]["id"], "hers stays hers");

    // A plain user without a password, who is not verified; said by whom, without the address.
    let row = sqlx::query(
        "select role::text, password is null, \"isVerified\", \"fullName\", phone from public.users where id::text = $1",
    )
    .bind(answers[0]["id"].as_str())
    .fetch_one(&mut world.database().await?)
    .await?;
    let told: (String, bool, bool, String, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    assert_eq!(
        told,
        (
            "user".into(),
            true,
            false,
            "Bo".into(),
            "+911234567890".into()
        )
    );
    let entries = sqlx::query(
        "select actor_id, entity, entry::text from patchbay.audit_entries where trail = 'plugins' and action = 'account.propose' order by id",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    let told: Vec<(String, String, String)> = entries
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].0 == "plugin keeper" && told[0].1 == "keeper" && !told[0].2.contains('@'),
        "{told:?}"
    );
    // Nobody can log in until the owner of the address has claimed it.
    let login = json!({ "email": "bo@example.com", "password": "" });
    let (status, answer) = host.post("/api/auth/login", login).await?;
    assert!([400, 401].contains(&status), "{status} {answer}");
    let bo = verified(&world, &host, "bo@example.com").await?;
    assert_eq!(bo["user"]["id"], answers[0]["id"]);
    assert_eq!(bo["user"]["name"], "Bo", "{bo}");

    // More of them is another ask, which nobody has granted yet.
    let more = as_guest("keeper", |manifest| {
        manifest.replace("max_per_day = 2", "max_per_day = 3")
    })?;
    let (status, staged) = host.push(more).await?;
    assert_eq!(status, 200, "{staged}");
    assert_eq!(
        staged["data"]["missing"],
        json!(["accounts with role user at most 3 a day"]),
        "{staged}"
    );
    Ok(())
}
