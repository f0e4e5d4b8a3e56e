//! Job schedulers and repeatables that BullMQ's clients made: shown and removed, and everything else
//! refused with what can be done. Schedules that were removed are found again.

use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::commands::json_of;
use crate::harness::{Host, PASSWORD, USER, World};
use crate::operators::{QUEUE, run, with_jobs};

/// In 2100.
const TICK: u64 = 4_102_444_800_000;

/// A job scheduler as BullMQ's clients leave it, with the delayed job of its next tick.
async fn scheduler(
    world: &World,
    queue: &str,
    id: &str,
    fields: &[(&str, &str)],
) -> anyhow::Result<()> {
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{queue}:{name}", world.prefix);
    redis
        .hset_multiple::<_, _, _, ()>(key(&format!("repeat:{id}")), fields)
        .await?;
    redis.zadd::<_, _, _, ()>(key("repeat"), id, TICK).await?;
    let job = format!("repeat:{id}:{TICK}");
    let of_job = [
        ("name", "report"),
        ("data", r#"{"n":1}"#),
        ("opts", "{}"),
        ("timestamp", "1"),
        ("rjk", id),
    ];
    redis
        .hset_multiple::<_, _, _, ()>(key(&job), &of_job)
        .await?;
    Ok(redis
        .zadd::<_, _, _, ()>(key("delayed"), &job, TICK * 4096)
        .await?)
}

const DAILY: [(&str, &str); 5] = [
    ("name", "report"),
    ("pattern", "0 9 * * *"),
    ("tz", "Asia/Kolkata"),
    ("ic", "1"),
    ("data", r#"{"n":1}"#),
];
/// As BullMQ 5 keeps a repeatable.
const REPEATABLE: [(&str, &str); 2] = [("name", "report"), ("pattern", "0 4 * * *")];
const DIGEST: &str = "0123456789abcdef0123456789abcdef";

async fn says(host: &Host, args: &[&str], code: i32, parts: &[&str]) -> anyhow::Result<()> {
    let printed = run(host, args).await?;
    let text = format!("{}{}", printed.out, printed.err);
    anyhow::ensure!(
        printed.code == Some(code),
        "{args:?}: {:?} {text}",
        printed.code
    );
    for part in parts {
        anyhow::ensure!(text.contains(part), "{args:?} lacks {part:?}: {text}");
    }
    Ok(())
}

async fn left(world: &World, queue: &str) -> anyhow::Result<(u64, u64)> {
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{queue}:{name}", world.prefix);
    Ok((
        redis.zcard(key("repeat")).await?,
        redis.zcard(key("delayed")).await?,
    ))
}

#[tokio::test]
async fn what_a_client_made_is_listed_shown_and_removed_as_the_client_would() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    scheduler(&world, QUEUE, "my daily", &DAILY).await?;
    scheduler(&world, QUEUE, DIGEST, &REPEATABLE).await?;
    says(
        &host,
        &["schedule", "list"],
        0,
        &["my daily", "a BullMQ client", "0 9 * * * Asia/Kolkata"],
    )
    .await?;
    says(
        &host,
        &["schedule", "show", "my daily"],
        0,
        &[
            "Next: 2100-01-01",
            "Created by: a BullMQ client, which alone can change it",
            "Data: {\"n\":1}",
            "patchbay schedule remove 'my daily' --queue plainQueue",
        ],
    )
    .await?;
    says(
        &host,
        &["schedule", "show", DIGEST],
        0,
        &[
            "as a repeatable",
            "patchbay queue migrate-repeatables plainQueue",
        ],
    )
    .await?;
    let remove = ["schedule", "remove", "my daily"];
    says(
        &host,
        &remove,
        4,
        &[
            "Nothing was done",
            "job scheduler 'my daily' of a BullMQ client in queue plainQueue",
        ],
    )
    .await?;
    assert_eq!(left(&world, QUEUE).await?, (2, 2));
    let yes = [&remove[..], &["--yes", "--reason", "INC-7"]].concat();
    says(
        &host,
        &yes,
        0,
        &["It comes back if the client makes it again"],
    )
    .await?;
    assert_eq!(left(&world, QUEUE).await?, (1, 1), "with its next tick");
    let by_queue = ["schedule", "remove", DIGEST, "--queue", QUEUE, "--yes"];
    says(&host, &by_queue, 0, &["Removed: job scheduler"]).await?;
    assert_eq!(left(&world, QUEUE).await?, (0, 0));
    let activity = ["activity", "--target", QUEUE, "my daily"];
    says(
        &host,
        &activity,
        0,
        &["job-scheduler.remove", "plainQueue 'my daily'", "INC-7"],
    )
    .await?;
    says(&host, &yes, 4, &["not a schedule id"]).await?;
    Ok(())
}

#[tokio::test]
async fn what_bullmq_cannot_do_with_a_scheduler_is_refused_with_what_can_be_done()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    scheduler(&world, QUEUE, "daily", &DAILY).await?;
    for (args, part) in [
        (
            &["schedule", "pause", "daily"][..],
            "BullMQ cannot pause one. To hold all jobs of its queue: patchbay queue pause plainQueue",
        ),
        (
            &["schedule", "resume", "daily"],
            "there is nothing to resume",
        ),
        (
            &["schedule", "edit", "daily", "--cron", "0 8 * * *"],
            "Change it where it was made, with upsertJobScheduler",
        ),
        (
            &["schedule", "run", "daily"],
            "To add such a job: patchbay job add plainQueue NAME",
        ),
    ] {
        says(&host, args, 3, &[part, "(made-by-client)"]).await?;
    }
    let (status, refused) = host
        .post("/api/admin/schedules/daily/pause", json!({}))
        .await?;
    assert_eq!((status, &refused["code"]), (404, &json!("made-by-client")));
    assert_eq!(refused["details"]["queues"], json!([QUEUE]));
    says(
        &host,
        &["schedule", "pause", "dayli"],
        3,
        &["Did you mean daily?"],
    )
    .await?;

    let other = json!({ "name": "work", "newQueue": true });
    host.add("otherQueue", other).await?;
    scheduler(&world, "otherQueue", "daily", &DAILY).await?;
    let show = ["schedule", "show", "daily"];
    says(
        &host,
        &show,
        4,
        &["Add --queue with one of them", "otherQueue"],
    )
    .await?;
    let one = [&show[..], &["--queue", "otherQueue"]].concat();
    says(&host, &one, 0, &["daily  otherQueue report"]).await?;
    let path = "/api/admin/job-schedulers/otherQueue/dayli";
    let (status, unknown) = host.get(path).await?;
    assert_eq!(status, 404, "{unknown}");
    assert!(
        unknown.to_string().contains("Did you mean daily?"),
        "{unknown}"
    );
    let url = format!("{}/api/admin/job-schedulers/otherQueue/daily", host.url);
    let delete = || host.http.delete(&url);
    let refused = delete().basic_auth(USER, Some(PASSWORD)).send().await?;
    assert_eq!(refused.status().as_u16(), 428);
    let (status, removed) = host
        .request(delete().query(&[("confirm", "daily")]))
        .await?;
    assert_eq!(status, 200, "{removed}");
    assert_eq!(left(&world, "otherQueue").await?, (0, 0));
    let ours = json!({ "id": "ours", "queue": QUEUE, "name": "work", "everyMs": 60_000 });
    let (status, made) = host.post("/api/admin/schedules", ours).await?;
    assert_eq!(status, 200, "{made}");
    let path = format!("/api/admin/job-schedulers/{QUEUE}/ours");
    let (status, refused) = host.get(&path).await?;
    assert_eq!(status, 409, "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_removed_schedule_is_listed_until_it_is_restored_and_a_zone_can_be_changed_alone()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    says(
        &host,
        &["schedule", "list", "--removed"],
        0,
        &["No schedule was removed in the last 30 days"],
    )
    .await?;
    says(&host, &["schedule", "list"], 0, &["No schedules. Add one"]).await?;
    let add = [
        "schedule",
        "add",
        "nightly",
        QUEUE,
        "work",
        "--cron",
        "0 3 * * *",
        "--tz",
        "Asia/Kolkata",
    ];
    says(&host, &add, 0, &["0 3 * * * Asia/Kolkata"]).await?;
    says(
        &host,
        &["schedule", "edit", "nightly", "--tz", "Europe/Berlin"],
        0,
        &["0 3 * * * Europe/Berlin"],
    )
    .await?;
    let add = [
        "schedule",
        "add",
        "often",
        QUEUE,
        "work",
        "--every-ms",
        "1h",
    ];
    says(&host, &add, 0, &["every 60 min"]).await?;
    let edit = ["schedule", "edit", "often", "--tz", "Europe/Berlin"];
    says(&host, &edit, 4, &["schedule often has an interval"]).await?;
    says(
        &host,
        &[
            "schedule",
            "add",
            "x",
            QUEUE,
            "work",
            "--every-ms",
            "1h",
            "--tz",
            "UTC",
        ],
        2,
        &["cannot be used with"],
    )
    .await?;
    says(
        &host,
        &["schedule", "preview", "--tz", "UTC"],
        4,
        &["--tz needs --cron"],
    )
    .await?;
    let remove = [
        "schedule", "remove", "nightly", "--yes", "--reason", "INC-9",
    ];
    says(&host, &remove, 0, &["patchbay schedule restore nightly"]).await?;
    says(
        &host,
        &["schedule", "list", "--removed"],
        0,
        &["nightly", "0 3 * * * Europe/Berlin", "INC-9", "Restore one"],
    )
    .await?;
    let removed = json_of(&host, &["--json", "schedule", "list", "--removed"]).await?;
    assert_eq!(removed[0]["removedBy"], "operator", "{removed}");
    assert!(removed[0]["restorableUntil"].is_string() && removed[0]["data"] == Value::Null);
    let typo = ["schedule", "restore", "nightyl"];
    says(
        &host,
        &typo,
        3,
        &["Did you mean nightly?", "schedule list --removed"],
    )
    .await?;
    says(
        &host,
        &["schedule", "restore", "nightly"],
        0,
        &["Europe/Berlin"],
    )
    .await?;
    let removed = json_of(&host, &["--json", "schedule", "list", "--removed"]).await?;
    assert_eq!(removed, json!([]));
    Ok(())
}
