//! What is recorded of an attempt.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::Row;

use super::*;
use crate::commands::json_of;
use crate::harness::hostile_plugin;

async fn server() -> anyhow::Result<std::net::SocketAddr> {
    let app = axum::Router::new()
        .fallback(|| async { (axum::http::StatusCode::IM_A_TEAPOT, "short and stout") });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

#[tokio::test]
async fn an_attempt_leaves_its_outside_calls_and_its_data_which_only_the_host_can_read()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let address = server().await?;
    let calling = plugin(|manifest| {
        manifest
            .replace("127.0.0.1:9/", &format!("{address}/"))
            .replace("deadline_ms = 200", "deadline_ms = 2_000")
    })?;
    host.deploy("hostile", calling).await?;
    let mut data = lead(42);
    data["url"] = format!("http://{address}/leads/42?phone=1").into();
    let id = ran(&world, &host, "upstream", data).await?;

    let query =
        "select calls, body, body_key, host, source from patchbay.attempts where job_id = $1";
    let row = sqlx::query(query)
        .bind(&id)
        .fetch_one(&mut world.database().await?)
        .await?;
    let calls: Value = row.try_get("calls")?;
    assert_eq!(calls.as_array().map(Vec::len), Some(1), "{calls}");
    let call = &calls[0];
    assert_eq!(
        (
            &call["kind"],
            &call["method"],
            &call["host"],
            &call["result"]
        ),
        (
            &json!("http"),
            &json!("GET"),
            &json!(address.to_string()),
            &json!("418")
        )
    );
    assert!(
        call["afterMs"].is_u64() && call["tookMs"].is_u64() && !calls.to_string().contains("phone"),
        "{calls}"
    );
    let body: Vec<u8> = row.try_get("body")?;
    let readable = String::from_utf8_lossy(&body);
    assert!(
        !readable.contains("98765") && !readable.contains("lead"),
        "{readable}"
    );
    assert_eq!(
        count(&world, "select count(*) from patchbay.attempt_terms").await?,
        2
    );

    let bodies = get(&host, &format!("bodies/{QUEUE}/{id}")).await?;
    assert_eq!(
        bodies[0]["data"]["lead"],
        json!({ "id": 42, "phone": "[redacted]" }),
        "{bodies}"
    );
    assert_eq!(bodies[0]["result"], 418);
    let read = "select count(*) from patchbay.operator_actions where action = 'history.read-body' and result is not null";
    assert_eq!(count(&world, read).await?, 1, "who reads is recorded");
    Ok(())
}

#[tokio::test]
async fn an_attempt_that_is_cut_short_tells_which_call_it_waited_for_and_mail_is_a_call_too()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let host = world.host(&[]).await?;
    host.deploy(
        "hostile",
        plugin(|manifest| {
            manifest
                .replace("127.0.0.1:9/", &format!("{address}/"))
                .replace("deadline_ms = 200", "deadline_ms = 2_000")
        })?,
    )
    .await?;
    host.deploy("email", crate::harness::email_plugin()?)
        .await?;
    let id = ran(
        &world,
        &host,
        "outside",
        json!({ "url": format!("http://{address}/") }),
    )
    .await?;
    let mail = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": crate::harness::mail_job(1) }),
        )
        .await?;
    has_ended(&world, "emailQueue", &mail).await?;
    let query = "select calls from patchbay.attempts where queue = $1 and job_id = $2";
    let mut database = world.database().await?;
    let calls: Value = sqlx::query_scalar(query)
        .bind(QUEUE)
        .bind(&id)
        .fetch_one(&mut database)
        .await?;
    assert_eq!(calls[0]["result"], "unfinished", "{calls}");
    assert!(calls[0]["tookMs"].as_u64() >= Some(100), "{calls}");
    let calls: Value = sqlx::query_scalar(query)
        .bind("emailQueue")
        .bind(&mail)
        .fetch_one(&mut database)
        .await?;
    assert_eq!(
        (&calls[0]["kind"], &calls[0]["result"]),
        (&json!("mail"), &json!("taken")),
        "{calls}"
    );
    assert_eq!(calls[0]["host"], world.mail.address.to_string());
    Ok(())
}

#[tokio::test]
async fn a_child_of_a_flow_names_its_parent() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[]).await?;
    let flow = ran(&world, &host, "enqueue-flow", json!({})).await?;
    let story = host.job_in(QUEUE, &flow, "completed").await?;
    let ids: Vec<String> =
        serde_json::from_str(story["job"]["returnValue"].as_str().context("ids")?)?;
    has_ended(&world, QUEUE, &ids[0]).await?;
    let parents: Vec<Option<String>> = sqlx::query_scalar(
        "select parent from patchbay.attempts where job_id = any($1) order by job_id = $2, started_at",
    )
    .bind(&ids)
    .bind(&ids[0])
    .fetch_all(&mut world.database().await?)
    .await?;
    let parent = Some(format!("{QUEUE}:{}", ids[0]));
    assert_eq!(parents, [parent.clone(), parent, None]);
    Ok(())
}

#[tokio::test]
async fn without_a_master_key_no_data_is_kept_and_the_status_says_so() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[]).await?;
    let id = ran(&world, &host, "noop", lead(1)).await?;
    assert_eq!(
        count(
            &world,
            "select count(*) from patchbay.attempts where body is not null"
        )
        .await?,
        0
    );
    assert_eq!(
        count(&world, "select count(*) from patchbay.attempt_terms").await?,
        2,
        "it is found all the same"
    );
    let status = json_of(&host, &["history", "status", "--json"]).await?;
    assert_eq!(status["bodies"]["kept"], false, "{status}");
    assert!(
        status["bodies"]["reason"]
            .as_str()
            .is_some_and(|why| why.contains("secrets.key_file")),
        "{status}"
    );
    let oldest = status["oldest"].as_str().context("an oldest")?;
    assert!(oldest.starts_with("20"), "{status}");
    assert!(
        status["partitions"]
            .as_array()
            .is_some_and(|months| months.len() >= 4),
        "{status}"
    );
    assert_eq!(status["stream"]["attempts"], 0, "{status}");
    let (code, answer) = host
        .get(&format!("/api/admin/history/bodies/{QUEUE}/{id}"))
        .await?;
    assert_eq!(code, 404, "{answer}");
    Ok(())
}

#[tokio::test]
async fn data_can_be_read_after_the_master_key_was_changed() -> anyhow::Result<()> {
    const NEW: &str = "0303030303030303030303030303030303030303030303030303030303030304";
    let world = World::new().await?;
    let first = host(&world, &[KEY]).await?;
    let id = ran(&world, &first, "noop", lead(7)).await?;
    assert!(first.stop().await?.success());
    let both = world
        .host(&[
            ("PATCHBAY_SECRETS_KEY", NEW),
            ("PATCHBAY_SECRETS_OLD_KEY", KEY.1),
        ])
        .await?;
    let done = json_of(&both, &["secret", "rekey", "--json"]).await?;
    assert_eq!(
        (&done["historyKeys"], &done["unreadable"]),
        (&json!(1), &json!([])),
        "{done}"
    );
    assert!(both.stop().await?.success());
    let host = world.host(&[("PATCHBAY_SECRETS_KEY", NEW)]).await?;
    let bodies = get(&host, &format!("bodies/{QUEUE}/{id}")).await?;
    assert_eq!(bodies[0]["data"]["lead"]["id"], 7, "{bodies}");
    let after = ran(&world, &host, "noop", lead(8)).await?;
    assert_eq!(
        get(&host, &format!("bodies/{QUEUE}/{after}")).await?[0]["data"]["lead"]["id"],
        8
    );
    assert_eq!(
        count(&world, "select count(*) from patchbay.history_keys").await?,
        1,
        "the same key"
    );
    Ok(())
}

#[tokio::test]
async fn a_large_body_is_left_out_and_the_outcome_stays() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[KEY]).await?;
    ran(
        &world,
        &host,
        "noop",
        json!({ "text": "x".repeat(300 << 10) }),
    )
    .await?;
    ran(
        &world,
        &host,
        "noop",
        json!({ "text": "x".repeat(200 << 10) }),
    )
    .await?;
    let kept = "select count(body) from patchbay.attempts";
    assert_eq!(
        (
            count(&world, kept).await?,
            count(&world, "select count(*) from patchbay.attempts").await?
        ),
        (1, 2)
    );
    Ok(())
}

#[tokio::test]
async fn with_the_history_off_jobs_run_and_leave_nothing() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[KEY, ("PATCHBAY_HISTORY_ENABLED", "false")]).await?;
    let id = host
        .add(QUEUE, json!({ "name": "noop", "data": lead(1) }))
        .await?;
    host.job_in(QUEUE, &id, "completed").await?;
    let status = get(&host, "status").await?;
    assert_eq!(
        (&status["enabled"], &status["stream"]["attempts"]),
        (&json!(false), &json!(0)),
        "{status}"
    );
    assert!(
        host.stop().await?.success(),
        "what a drain leaves is flushed"
    );
    assert_eq!(
        count(&world, "select count(*) from patchbay.attempts").await?,
        0
    );
    Ok(())
}

#[tokio::test]
async fn an_attempt_whose_host_was_killed_is_in_the_history_until_somebody_tells_how_it_went()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let locks = [
        ("PATCHBAY_WORK_LOCK_S", "3"),
        ("PATCHBAY_WORK_RENEW_S", "1"),
    ];
    let mut first = world.host(&locks).await?;
    let sleepy = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 4_000")
    })?;
    first.deploy("hostile", sleepy).await?;
    let id = first
        .add(QUEUE, json!({ "name": "sleep", "data": {} }))
        .await?;
    first.job_in(QUEUE, &id, "active").await?;
    first.child.kill().await?;
    let second = world.host(&locks).await?;
    has_ended(&world, QUEUE, &id).await?;
    let story =
        "select started, source, outcome from patchbay.attempts where job_id = $1 order by started";
    let told = async |rows: &[(i32, &str, &str)]| {
        let mut database = world.database().await?;
        until(Duration::from_secs(60), &format!("{rows:?}"), async || {
            let found: Vec<(i32, String, String)> = sqlx::query_as(story)
                .bind(&id)
                .fetch_all(&mut database)
                .await?;
            let found: Vec<_> = found
                .iter()
                .map(|(n, source, outcome)| (*n, source.as_str(), outcome.as_str()))
                .collect();
            Ok((found == rows).then_some(()))
        })
        .await
    };
    told(&[(1, "worker-lost", "host-fault"), (2, "host", "deadline")]).await?;
    // A host that was only slow, not dead, records the attempt later.
    let (_, answer) = second
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/{id}"))
        .await?;
    let mut late = record(
        &world,
        &id,
        json!({ "outcome": "deadline", "verdict": "retry" }),
    );
    late["job"]["created_ms"] = answer["data"]["job"]["timestamp"].clone();
    append(&world, &late).await?;
    told(&[(1, "host", "deadline"), (2, "host", "deadline")]).await
}

#[tokio::test]
async fn jobs_that_were_handed_back_lost_no_worker() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    // Started three times, and never stalled: a quarantined queue hands jobs back like this.
    append(
        &world,
        &record(&world, "handed-back", json!({ "started": 3 })),
    )
    .await?;
    append(
        &world,
        &record(&world, "stalled", json!({ "started": 3, "stalled": 1 })),
    )
    .await?;
    let mut database = world.database().await?;
    until(Duration::from_secs(60), "the gap is filled", async || {
        let lost: Vec<(String, i32)> = sqlx::query_as(
            "select job_id, started from patchbay.attempts where source = 'worker-lost'",
        )
        .fetch_all(&mut database)
        .await?;
        Ok((lost == [("stalled".to_owned(), 2)]).then_some(()))
    })
    .await?;
    let gaps = count(&world, "select count(*) from patchbay.history_gaps").await?;
    assert_eq!(gaps, 0, "it is done with");
    Ok(())
}
