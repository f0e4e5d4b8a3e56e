//! The plugin `slots`: who may call its routes, what they answer, and which slots a cleanup deletes,
//! leaves, and refunds, also while somebody books.

mod load;
mod races;
mod refunds;

use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::harness::{Host, World, repository, slots_plugin, until};
use crate::people::{PEOPLE, verified};

const FOLDER: &str = "plugins/slots";
const QUEUE: &str = "cleanupQueue";

/// The tables of the old backend, as the plugin's folder has them, and the indexes that its README
/// asks for.
async fn with_tables(change: impl FnOnce(String) -> String) -> anyhow::Result<World> {
    let world = World::new().await?;
    let mut database = world.database().await?;
    let file = |name: &str| std::fs::read_to_string(repository().join(FOLDER).join(name));
    let tables = change(file("tables.sql")?);
    database
        .execute(sqlx::raw_sql(AssertSqlSafe(tables)))
        .await?;
    // Each by itself: `concurrently` takes no transaction.
    for index in file("indexes.sql")?.split_inclusive(';') {
        if index.contains("create index") {
            database
                .execute(sqlx::raw_sql(AssertSqlSafe(index.to_owned())))
                .await?;
        }
    }
    Ok(world)
}

async fn world_and_host() -> anyhow::Result<(World, Host)> {
    let world = with_tables(|tables| tables).await?;
    let host = world.host(&[]).await?;
    host.deploy("slots", slots_plugin()?).await?;
    Ok((world, host))
}

/// The plugin under a changed manifest.
fn slots_plugin_with(change: impl FnOnce(String) -> String) -> anyhow::Result<Vec<u8>> {
    let dir = repository().join(FOLDER);
    let component = repository().join("plugins/target/wasm32-wasip2/release/slots.wasm");
    let manifest = change(std::fs::read_to_string(dir.join("plugin.toml"))?);
    let manifest = Manifest::from_toml(&manifest, |file| {
        std::fs::read_to_string(dir.join(file)).map_err(|error| error.to_string())
    })?;
    Ok(patchbay_runtime::pack(
        &std::fs::read(component).context("run `make test`")?,
        &manifest,
    )?)
}

/// A mentor or a student.
fn person(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A slot of mentor 1 that ended so many hours ago, half an hour after its start. Gives its id.
async fn slot(
    database: &mut PgConnection,
    ended_hours_ago: i32,
    student: Option<u32>,
    status: &str,
) -> anyhow::Result<String> {
    let id = sqlx::query_scalar(
        "insert into slots (\"startDateTime\", \"endDateTime\", \"mentorId\", \"studentId\", \"isAvailable\", status) \
         values (now() - make_interval(hours => $1, mins => 30), now() - make_interval(hours => $1), $2::uuid, $3::uuid, true, \
           $4::slots_status_enum) returning id::text",
    );
    let id = id
        .bind(ended_hours_ago)
        .bind(person(1))
        .bind(student.map(person))
        .bind(status);
    Ok(id.fetch_one(database).await?)
}

async fn ids(database: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    let ids = sqlx::query_scalar("select id::text from slots order by 1");
    Ok(ids.fetch_all(database).await?)
}

/// Calls an operation as an operator does.
async fn call(host: &Host, operation: &str) -> anyhow::Result<(u16, Value)> {
    let body = json!({ "operation": operation, "input": {} });
    host.post("/api/admin/plugins/slots/call", body).await
}

/// Runs a cleanup; gives the count and the details.
async fn cleanup(host: &Host) -> anyhow::Result<(i64, Value)> {
    let (status, mut answer) = call(host, "cleanup").await?;
    anyhow::ensure!(status == 200, "{status}: {answer}");
    let data = answer["data"]["data"].take();
    let count = data["deletedCount"].as_i64().context("a count")?;
    Ok((count, data["details"].clone()))
}

async fn set(host: &Host, settings: Value) -> anyhow::Result<()> {
    let (status, answer) = host
        .put("/api/admin/plugins/slots/settings", settings)
        .await?;
    anyhow::ensure!(status == 200, "{status}: {answer}");
    Ok(())
}

/// A client with an account of this role, or without one.
struct Client<'a> {
    host: &'a Host,
    token: Option<String>,
}

impl<'a> Client<'a> {
    async fn new(world: &World, host: &'a Host, role: &str) -> anyhow::Result<Self> {
        let body = verified(world, host, &format!("{role}@example.com")).await?;
        let id = body["user"]["id"].as_str().context("an id")?;
        let path = format!("/api/admin/people/{id}/role");
        let (status, answer) = host.put(&path, json!({ "role": role })).await?;
        anyhow::ensure!(status == 200, "{status}: {answer}");
        let token = body["token"].as_str().map(str::to_owned);
        Ok(Self { host, token })
    }

    async fn send(&self, method: &str, path: &str) -> anyhow::Result<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let url = format!("{}/api/cleanup{path}", self.host.url);
        let mut request = self.host.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }
}

#[tokio::test]
async fn the_five_routes_are_for_administrators_and_answer_in_the_old_shapes() -> anyhow::Result<()>
{
    let world = with_tables(|tables| tables).await?;
    let host = world.host(&PEOPLE).await?;
    host.deploy("slots", slots_plugin()?).await?;
    let mut database = world.database().await?;
    for _ in 0..3 {
        slot(&mut database, 2, None, "tentative").await?;
    }
    let booked = slot(&mut database, 1, Some(7), "confirmed").await?;
    let future = slot(&mut database, -2, None, "tentative").await?;

    let admin = Client::new(&world, &host, "admin").await?;
    let sales = Client::new(&world, &host, "sales").await?;
    let nobody = Client {
        host: &host,
        token: None,
    };
    let of_mentor = format!("/statistics/{}", person(1));
    for (method, path) in [
        ("DELETE", "/slots"),
        ("POST", "/schedule"),
        ("GET", "/statistics"),
        ("GET", of_mentor.as_str()),
        ("GET", "/slots/all"),
    ] {
        for (client, expected) in [(&nobody, 401), (&sales, 403)] {
            let (status, answer) = client.send(method, path).await?;
            assert_eq!(status, expected, "{method} {path}: {answer}");
            assert!(answer["data"].is_null(), "{answer}");
        }
    }
    assert_eq!(ids(&mut database).await?.len(), 5, "nothing was deleted");

    let counts = json!({ "total": 5, "available": 4, "booked": 1, "future": 1, "expired": 4, "expiredUnbooked": 3 });
    let counted = json!({ "success": true, "data": counts });
    assert_eq!(
        admin.send("GET", "/statistics").await?,
        (200, counted.clone())
    );
    assert_eq!(admin.send("GET", &of_mentor).await?, (200, counted));
    let other = format!("/statistics/{}", person(99));
    let (status, none) = admin.send("GET", &other).await?;
    assert_eq!((status, &none["data"]["total"]), (200, &json!(0)), "{none}");

    for (filter, count) in [
        ("all", 5),
        ("available", 4),
        ("booked", 1),
        ("future", 1),
        ("expired", 4),
        ("expiredUnbooked", 3),
        ("all?limit=2", 2),
        ("all?limit=1000", 5),
    ] {
        let (status, answer) = admin.send("GET", &format!("/slots/{filter}")).await?;
        assert_eq!(
            (
                status,
                &answer["count"],
                answer["data"].as_array().map(Vec::len)
            ),
            (200, &json!(count), Some(count)),
            "{filter}: {answer}"
        );
    }
    let (_, answer) = admin.send("GET", "/slots/future").await?;
    let first = &answer["data"][0];
    assert_eq!(
        (&first["id"], &first["studentId"]),
        (&json!(future), &json!(null))
    );
    let start = first["startDateTime"].as_str().context("a time")?;
    assert!(start.len() == 24 && start.ends_with('Z'), "{start}");

    for (method, path, expected, says) in [
        ("GET", "/slots/total", 400, "path.filter"),
        ("GET", "/slots/EXPIRED", 400, "path.filter"),
        ("GET", "/slots/all?limit=0", 400, "query.limit"),
        ("GET", "/slots/all?limit=-5", 400, "query.limit"),
        ("GET", "/slots/all?limit=1001", 400, "query.limit"),
        ("GET", "/slots/all?limit=many", 400, "query.limit"),
        ("GET", "/slots/all?limit=1&limit=2", 400, "query.limit"),
        ("GET", "/slots", 405, ""),
        ("DELETE", "/slots/all", 405, ""),
        ("GET", "/statistics/asha", 400, "path.mentorId"),
        (
            "GET",
            "/statistics/1%27%20or%20true--",
            400,
            "path.mentorId",
        ),
        ("GET", "/statistics/a/b", 404, ""),
        ("GET", "/slots/all%2Fbooked", 400, ""),
        ("GET", "", 404, ""),
    ] {
        let (status, answer) = admin.send(method, path).await?;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        let message = answer["message"].as_str().context("a message")?;
        assert!(message.contains(says), "{method} {path}: {answer}");
        assert!(!answer.to_string().contains("asha"), "{answer}");
    }

    let (status, answer) = admin.send("DELETE", "/slots").await?;
    assert_eq!(
        (
            status,
            &answer["data"]["deletedCount"],
            &answer["data"]["details"]["complete"]
        ),
        (200, &json!(3), &json!(true)),
        "{answer}"
    );
    assert_eq!(answer["message"], "3 expired unbooked slots deleted");
    let mut left = vec![booked, future];
    left.sort();
    assert_eq!(ids(&mut database).await?, left);
    let (_, again) = admin.send("DELETE", "/slots").await?;
    assert_eq!(again["data"]["deletedCount"], 0, "{again}");

    slot(&mut database, 1, None, "tentative").await?;
    let (status, answer) = admin.send("POST", "/schedule").await?;
    assert_eq!(
        (status, &answer["data"]["queue"]),
        (200, &json!(QUEUE)),
        "{answer}"
    );
    let job = answer["data"]["jobId"].as_str().context("a job")?;
    let story = host.job_in(QUEUE, job, "completed").await?;
    let result: Value = serde_json::from_str(story["job"]["returnValue"].as_str().context("one")?)?;
    assert_eq!(result["deletedCount"], 1, "{result}");
    Ok(())
}

#[tokio::test]
async fn unbooked_means_that_there_is_no_student_whatever_else_the_row_says() -> anyhow::Result<()>
{
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    slot(&mut database, 3, None, "tentative").await?;
    let mut stays = vec![
        // Booked, in every status. Booking leaves isAvailable true; cancelling keeps the student.
        slot(&mut database, 3, Some(1), "tentative").await?,
        slot(&mut database, 3, Some(1), "confirmed").await?,
        slot(&mut database, 3, Some(1), "cancelled").await?,
        slot(&mut database, 3, Some(1), "completed").await?,
        slot(&mut database, 3, Some(1), "cancellation_requested").await?,
        // Without a student, but not free either: somebody should look at it.
        slot(&mut database, 3, None, "confirmed").await?,
        // Not over.
        slot(&mut database, -1, None, "tentative").await?,
        slot(&mut database, 0, None, "tentative").await?,
    ];
    database
        .execute(sqlx::raw_sql(AssertSqlSafe(format!(
            "update slots set \"endDateTime\" = now() + interval '10 min' where id = '{}'",
            stays[7]
        ))))
        .await?;
    stays.sort();
    let (_, answer) = call(&host, "statistics").await?;
    let counts = json!({ "total": 9, "available": 3, "booked": 5, "future": 1, "expired": 7, "expiredUnbooked": 1 });
    assert_eq!(answer["data"]["data"], counts, "{answer}");
    assert_eq!(cleanup(&host).await?.0, 1);
    assert_eq!(ids(&mut database).await?, stays);

    // What has begun is over, if the operator says so; and a grace delays it.
    set(&host, json!({ "expiredBy": "start", "graceMinutes": 60 })).await?;
    assert_eq!(cleanup(&host).await?.0, 0);
    set(&host, json!({ "expiredBy": "start" })).await?;
    assert_eq!(cleanup(&host).await?.0, 1);
    set(&host, json!({ "unbookedStatuses": ["confirmed"] })).await?;
    assert_eq!(cleanup(&host).await?.0, 1);
    assert_eq!(ids(&mut database).await?.len(), 6);
    set(&host, json!({ "unbookedStatuses": ["free"] })).await?;
    let (status, answer) = call(&host, "cleanup").await?;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(status == 500 && message.contains("free"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn columns_without_a_time_zone_and_ids_that_are_numbers_serve_as_well() -> anyhow::Result<()>
{
    let world = with_tables(|tables| {
        tables
            .replace("timestamptz", "timestamp")
            .replace(
                "id uuid primary key default gen_random_uuid()",
                "id serial primary key",
            )
            .replace("\"slotId\" uuid", "\"slotId\" integer")
            .replace("Id\" uuid", "Id\" integer")
            .replace("status public.slots_status_enum", "status varchar(32)")
    })
    .await?;
    let host = world.host(&[]).await?;
    host.deploy("slots", slots_plugin()?).await?;
    let mut database = world.database().await?;
    // Times of India. One ended half an hour ago, one ends in half an hour; one meeting was paid.
    let rows = "insert into slots (\"startDateTime\", \"endDateTime\", \"mentorId\", \"studentId\", status) \
        select t - interval '30 min', t, 7, s, case when s is null then 'tentative' else 'confirmed' end \
        from (values (-30, null::int), (30, null), (-120, 5)) as v (m, s), \
          lateral (select now() at time zone 'Asia/Kolkata' + make_interval(mins => m) as t) as x; \
        insert into tokens (token, \"userId\") values (4, 5); \
        insert into token_usage (\"userId\", \"slotId\", \"usageType\", \"tokensUsed\", \"balanceBefore\", \"balanceAfter\") \
        values (5, 3, 'meeting_booking', 2, 6, 4);";
    database.execute(sqlx::raw_sql(rows)).await?;
    set(
        &host,
        json!({ "utcOffset": "+05:30", "batchSize": 1, "refund": { "enabled": true, "graceMinutes": 0 } }),
    )
    .await?;
    let (deleted, details) = cleanup(&host).await?;
    assert_eq!(
        (deleted, &details["refunds"]["tokens"]),
        (1, &json!(2)),
        "{details}"
    );
    let balance: i64 = sqlx::query_scalar("select token from tokens")
        .fetch_one(&mut database)
        .await?;
    assert_eq!(balance, 6);
    let body = json!({ "operation": "list", "input": { "path": { "filter": "all" } } });
    let (_, answer) = host.post("/api/admin/plugins/slots/call", body).await?;
    let slots = &answer["data"]["data"];
    assert_eq!(
        (&slots[0]["id"], &slots[0]["status"]),
        (&json!(3), &json!("cancelled")),
        "{slots}"
    );
    let ends = slots[1]["endDateTime"].as_str().context("a time")?;
    let ends = chrono::DateTime::parse_from_rfc3339(ends)?.to_utc() - chrono::Utc::now();
    assert!((25..=30).contains(&ends.num_minutes()), "{ends}");
    Ok(())
}

#[tokio::test]
async fn the_schedule_runs_every_quarter_of_an_hour_and_other_names_must_be_known()
-> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let schedule = until(Duration::from_secs(20), "the schedule", async || {
        let (_, answer) = host.get("/api/admin/schedules").await?;
        let all = answer["data"].as_array().cloned().unwrap_or_default();
        let found = all
            .into_iter()
            .find(|one| one["id"] == "slot-cleanup" && one["nextAt"].is_string());
        Ok(found)
    })
    .await?;
    assert_eq!(
        (&schedule["queue"], &schedule["everyMs"], &schedule["name"]),
        (&json!(QUEUE), &json!(900_000), &json!("cleanup")),
        "{schedule}"
    );
    let mut database = world.database().await?;
    slot(&mut database, 1, None, "tentative").await?;
    let old_name = json!({ "name": "cleanExpiredSlots", "data": { "triggeredBy": "node" } });
    let id = host.add(QUEUE, old_name.clone()).await?;
    let story = host.job_in(QUEUE, &id, "failed").await?;
    let reason = story["job"]["failedReason"].as_str().unwrap_or_default();
    assert!(reason.contains("otherJobNames"), "{story}");
    assert_eq!(ids(&mut database).await?.len(), 1);
    set(&host, json!({ "otherJobNames": ["cleanExpiredSlots"] })).await?;
    let id = host.add(QUEUE, old_name).await?;
    host.job_in(QUEUE, &id, "completed").await?;
    assert_eq!(ids(&mut database).await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_run_whose_time_is_over_is_continued_by_further_jobs_until_nothing_is_left()
-> anyhow::Result<()> {
    let world = with_tables(|tables| tables).await?;
    let host = world.host(&[]).await?;
    // Half of it is kept for the last batch and the answer.
    let hurried = slots_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 240_000", "deadline_ms = 3_000")
    })?;
    host.deploy("slots", hurried).await?;
    set(&host, json!({ "batchSize": 1 })).await?;
    let mut database = world.database().await?;
    load::fill(&mut database, 2_500).await?;
    let expected: i64 = load::expired_unbooked(&mut database).await?;
    let id = host
        .add(QUEUE, json!({ "name": "cleanup", "data": {} }))
        .await?;
    let story = host.job_in(QUEUE, &id, "completed").await?;
    let first: Value = serde_json::from_str(story["job"]["returnValue"].as_str().context("one")?)?;
    assert_eq!(first["details"]["complete"], false, "{first}");
    let progress = story["job"]["progress"].to_string();
    let so_far = format!("{}", first["deletedCount"]);
    assert!(progress.contains(&so_far), "{progress} of {first}");
    let next = first["details"]["continuedBy"].as_str().context("a job")?;
    assert!(next.starts_with("continues-"), "{first}");
    until(Duration::from_secs(120), "nothing is left", async || {
        let left = load::expired_unbooked(&mut database).await?;
        Ok((left == 0).then_some(()))
    })
    .await?;
    let all = load::deleted_by_jobs(&world, &host, expected).await?;
    println!("{expected} slots were deleted by {all} jobs");
    assert!(all > 1);
    Ok(())
}
