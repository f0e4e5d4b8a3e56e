//! Alerts about webhooks: requests that wait, that are rejected, and that no longer come.

use anyhow::Context;
use serde_json::json;

use crate::alerts::{Receiver, host, impatient};
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, until};
use crate::inbox::{KEY, SOON, TOKEN, plugin, post, set_secret, wait_for};
use crate::postgres_server::PostgresServer;

async fn set_rule(host: &Host, rule: &str, change: serde_json::Value) -> anyhow::Result<()> {
    let path = format!("/api/admin/alerts/rules/{rule}");
    let (status, answer) = host.put(&path, change).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok(())
}

async fn change(world: &World, statement: &'static str) -> anyhow::Result<()> {
    let changed = sqlx::query(statement)
        .execute(&mut world.database().await?)
        .await?;
    anyhow::ensure!(changed.rows_affected() > 0, "{statement}");
    Ok(())
}

/// Waits until it is written down that a request to the webhook was accepted.
async fn until_noted(world: &World, webhook: &str) -> anyhow::Result<()> {
    until(SOON, "the network of the vendor", async || {
        let noted: i64 =
            sqlx::query_scalar("select count(*) from patchbay.inbox_sources where webhook = $1")
                .bind(webhook)
                .fetch_one(&mut world.database().await?)
                .await?;
        Ok((noted > 0).then_some(()))
    })
    .await
}

/// The reason and the next step of the first message about a subject.
fn said(receiver: &Receiver, subject: &str) -> anyhow::Result<(String, String)> {
    let messages = receiver.messages("/webhook", 200).into_iter();
    let message = messages
        .rev()
        .find(|body| body["subject"] == subject && body["event"] == "firing")
        .context("a message")?;
    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
    Ok((text("reason"), text("next")))
}

#[tokio::test]
async fn requests_that_nobody_can_judge_are_told_after_five_minutes_and_when_they_are_judged()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let host = host(&world, &receiver, &[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    let path = format!("token?token={TOKEN}");
    let answer = post(&host, &path, &json!({ "id": "early" })).await?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    wait_for(&world, &["deferred"]).await?;
    change(
        &world,
        "update patchbay.inbox set received_at = received_at - interval '6 minutes'",
    )
    .await?;
    receiver.until_told("hooks.token", &["firing"]).await?;
    let (reason, next) = said(&receiver, "hooks.token")?;
    assert!(
        reason.starts_with("1 request to hooks.token waits to be judged, for 6 min")
            && reason.ends_with("(secret-missing)"),
        "{reason}"
    );
    assert!(
        next.starts_with("patchbay inbox list --webhook hooks.token --state deferred;"),
        "{next}"
    );
    set_secret(&host, "SIGNING", "anything").await?;
    set_secret(&host, "TOKEN", TOKEN).await?;
    wait_for(&world, &["enqueued"]).await?;
    receiver
        .until_told("hooks.token", &["firing", "recovered"])
        .await
}

#[tokio::test]
async fn requests_that_wait_in_redis_while_postgres_is_away_are_told() -> anyhow::Result<()> {
    let (mut world, receiver) = (World::new().await?, Receiver::new().await?);
    let server = PostgresServer::start_new(world.dir.path()).await?;
    world.database_url.clone_from(&server.url);
    let host = host(&world, &receiver, &[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    set_secret(&host, "TOKEN", TOKEN).await?;
    set_secret(&host, "SIGNING", "anything").await?;
    let before = post(&host, "open", &json!({ "id": "before" })).await?;
    assert_eq!(before.status, 200, "{}", before.text);
    wait_for(&world, &["enqueued"]).await?;
    let at_once = json!({ "subject": "spill", "threshold": 0.1 });
    set_rule(&host, "inbox-waiting", at_once).await?;
    // Once this one is told, the leader has read the change before it, too.
    impatient(&host).await?;
    host.add("idleQueue", json!({ "name": "job" })).await?;
    receiver.until_told("idleQueue", &["firing"]).await?;
    server.stop().await?;
    let away = post(&host, "open", &json!({ "id": "away" })).await?;
    assert_eq!(away.status, 200, "{}", away.text);
    receiver.until_told("spill", &["firing"]).await?;
    let (reason, _) = said(&receiver, "spill")?;
    assert!(
        reason.contains("wait in Redis to be written to Postgres: 1 (0.0 MiB), the oldest for "),
        "{reason}"
    );
    server.start().await?;
    wait_for(&world, &["enqueued", "enqueued"]).await?;
    receiver.until_told("spill", &["firing", "recovered"]).await
}

#[tokio::test]
async fn rejected_requests_of_a_known_network_are_told_until_they_are_accepted_after_all()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let host = host(&world, &receiver, &[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    set_secret(&host, "TOKEN", TOKEN).await?;
    set_secret(&host, "SIGNING", "anything").await?;
    // Of many requests in a second, only two are kept: no number of them is many here.
    let never = json!({ "subject": "hooks.token", "atLeast": 100_000 });
    set_rule(&host, "webhook-rejected", never).await?;
    let good = post(
        &host,
        &format!("token?token={TOKEN}"),
        &json!({ "id": "good" }),
    )
    .await?;
    assert_eq!(good.status, 200, "{}", good.text);
    wait_for(&world, &["enqueued"]).await?;
    until_noted(&world, "token").await?;
    // The vendor has a new token. Three of its requests are kept.
    let mut sent = 0;
    let ids = until(SOON, "three rejected requests", async || {
        let ids: Vec<String> =
            sqlx::query_scalar("select id::text from patchbay.inbox where state = 'rejected'")
                .fetch_all(&mut world.database().await?)
                .await?;
        if ids.len() >= 3 {
            return Ok(Some(ids));
        }
        sent += 1;
        let event = json!({ "id": format!("lost-{sent}") });
        let answer = post(&host, "token?token=the-new-one", &event).await?;
        anyhow::ensure!(answer.status == 401, "{}", answer.text);
        Ok(None)
    })
    .await?;
    receiver.until_told("hooks.token", &["firing"]).await?;
    let (reason, next) = said(&receiver, "hooks.token")?;
    assert!(
        reason.contains(
            "were rejected (the newest: bad-token), though requests from the same networks"
        ),
        "{reason}"
    );
    assert!(
        next.contains("--webhook hooks.token --state rejected")
            && next.contains("patchbay secret set hooks TOKEN")
            && next
                .contains("patchbay inbox verify --webhook hooks.token --state rejected --apply"),
        "{next}"
    );
    // Where nobody was accepted, it is a matter of how many are rejected.
    set_rule(
        &host,
        "webhook-rejected",
        json!({ "subject": "hooks.signed", "atLeast": 5 }),
    )
    .await?;
    for n in 0..5 {
        let answer = post(&host, "signed", &json!({ "id": n })).await?;
        assert_eq!(answer.status, 401, "{}", answer.text);
    }
    receiver.until_told("hooks.signed", &["firing"]).await?;
    let (reason, _) = said(&receiver, "hooks.signed")?;
    assert_eq!(
        reason,
        "5 of 5 requests to hooks.signed in the last 10 min were rejected"
    );
    set_secret(&host, "TOKEN", "the-new-one").await?;
    all_are_verified_and_the_rest_erased(&world, &host, ids.len()).await?;
    receiver
        .until_told("hooks.token", &["firing", "recovered"])
        .await
}

/// The lost requests are accepted by one filter, and those to another webhook stay rejected.
async fn all_are_verified_and_the_rest_erased(
    world: &World,
    host: &Host,
    lost: usize,
) -> anyhow::Result<()> {
    const VERIFY: &str = "/api/admin/inbox/verify";
    for (asked, status) in [
        (json!({}), 400),
        (
            json!({ "webhook": "hooks.token", "state": "enqueued" }),
            400,
        ),
        (json!({ "webhook": "hooks.token", "again": true }), 400),
        (json!({ "token": "x.y" }), 400),
        (json!({ "webhook": "hooks.token", "cursor": "1-a" }), 400),
    ] {
        let (given, answer) = host.post(VERIFY, asked.clone()).await?;
        assert_eq!(given, status, "{asked}: {answer}");
    }
    let which = json!({ "webhook": "hooks.token", "code": "bad-token", "apply": true });
    let (status, answer) = host.post(VERIFY, which).await?;
    let preview = &answer["data"]["preview"];
    assert_eq!((status, &preview["total"]), (200, &json!(lost)), "{answer}");
    assert_eq!(
        preview["groups"],
        json!([{ "webhook": "hooks.token", "state": "rejected", "count": lost }])
    );
    // What comes after the preview is not meant.
    until(SOON, "one more rejected request", async || {
        let late = post(host, "token?token=a-stranger", &json!({ "id": "late" })).await?;
        anyhow::ensure!(late.status == 401, "{}", late.text);
        let rejected: i64 = sqlx::query_scalar(
            "select count(*) from patchbay.inbox where webhook = 'token' and state = 'rejected'",
        )
        .fetch_one(&mut world.database().await?)
        .await?;
        Ok((rejected > i64::try_from(lost)?).then_some(()))
    })
    .await?;
    let with_token = json!({ "token": preview["token"] });
    for (handled, accepted) in [(lost, lost), (0, 0)] {
        let (status, answer) = host.post(VERIFY, with_token.clone()).await?;
        let progress = &answer["data"]["progress"];
        assert_eq!(
            (status, &progress["handled"], &progress["accepted"]),
            (200, &json!(handled), &json!(accepted)),
            "{answer}"
        );
        assert!(answer["data"]["nextCursor"].is_null(), "{answer}");
    }
    let which = [
        "inbox",
        "verify",
        "--webhook",
        "hooks",
        "--state",
        "rejected",
    ];
    let dry = patchbay(host, &[&which[..], &["--dry-run"]].concat()).await?;
    let dry = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(
        dry.contains("hooks.token  1 rejected") && dry.contains("hooks.signed"),
        "{dry}"
    );
    let unconfirmed = patchbay(host, &[&which[..], &["--apply"]].concat()).await?;
    assert_eq!(unconfirmed.status.code(), Some(4));
    let applied = patchbay(host, &[&which[..], &["--apply", "--yes"]].concat()).await?;
    let text = String::from_utf8_lossy(&applied.stdout).into_owned();
    assert_eq!(applied.status.code(), Some(4), "{text}");
    assert!(
        text.contains("still rejected") && text.contains("rejected: missing-signature"),
        "{text}"
    );
    let erased = [
        "inbox",
        "erase",
        "--webhook",
        "hooks.signed",
        "--yes",
        "--json",
    ];
    let erased = json_of(host, &erased).await?;
    assert!(erased["erased"].as_i64() >= Some(1), "{erased}");
    let of_many: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.operator_actions where action in ('inbox.verify-many', 'inbox.erase-many') \
         and error is null",
    )
    .fetch_one(&mut world.database().await?)
    .await?;
    assert_eq!(of_many, 4);
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_is_silent_for_too_long_is_told_while_its_plugin_is_active()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let host = host(&world, &receiver, &[KEY]).await?;
    let hourly = |manifest: &mut serde_json::Value| {
        manifest["webhooks"][0]["silent_after_s"] = json!(3_600);
    };
    host.deploy("hooks", plugin(hourly)?).await?;
    set_secret(&host, "TOKEN", TOKEN).await?;
    set_secret(&host, "SIGNING", "anything").await?;
    // No request has come yet: the activation counts.
    let two_hours_ago =
        "update patchbay.revisions set activated_at = activated_at - interval '2 hours'";
    change(&world, two_hours_ago).await?;
    change(
        &world,
        "update patchbay.activations set at = at - interval '2 hours'",
    )
    .await?;
    receiver.until_told("hooks.open", &["firing"]).await?;
    let (reason, next) = said(&receiver, "hooks.open")?;
    assert!(
        reason.contains("for 2 h") && reason.contains("there has been none yet"),
        "{reason}"
    );
    assert!(next.contains("patchbay webhook show hooks.open"), "{next}");
    for path in ["open", &format!("token?token={TOKEN}")] {
        let answer = post(&host, path, &json!({ "id": "first" })).await?;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    receiver
        .until_told("hooks.open", &["firing", "recovered"])
        .await?;
    // From then on the last accepted request counts.
    until_noted(&world, "token").await?;
    change(
        &world,
        "update patchbay.inbox_sources set last_accepted_at = last_accepted_at - interval '90 minutes'",
    )
    .await?;
    receiver
        .until_told("hooks.open", &["firing", "recovered", "firing"])
        .await?;
    let (reason, _) = said(&receiver, "hooks.open")?;
    assert!(
        reason.contains("for 90 min; the last one was on "),
        "{reason}"
    );
    // The manifest names no time for the other one: what came in the last weeks counts.
    assert!(receiver.told("hooks.token").is_empty());
    change(
        &world,
        "insert into patchbay.inbox_counts (plugin, webhook, hour, outcome, code, count) \
         select 'hooks', 'token', hour, 'accepted', '', 20 from generate_series( \
           date_trunc('hour', now()) - interval '14 days', date_trunc('hour', now()) - interval '2 hours', interval '1 hour') hour \
         union all select '', '', hour, 'running', '', 1 from generate_series( \
           date_trunc('hour', now()) - interval '14 days', date_trunc('hour', now()), interval '1 hour') hour \
         on conflict do nothing",
    )
    .await?;
    receiver.until_told("hooks.token", &["firing"]).await?;
    let (reason, _) = said(&receiver, "hooks.token")?;
    // 20 an hour for 90 min, less a little, since the last full hour has brought nothing.
    let expected = reason
        .split_once("By the last 28 days, about ")
        .and_then(|(_, rest)| rest.split_once(" were to be expected"))
        .and_then(|(number, _)| number.parse::<u32>().ok());
    assert!(matches!(expected, Some(24..=30)), "{reason}");
    let (status, answer) = host
        .post("/api/admin/plugins/hooks/deactivate", json!({}))
        .await?;
    assert_eq!(status, 200, "{answer}");
    receiver
        .until_told(
            "hooks.open",
            &["firing", "recovered", "firing", "recovered"],
        )
        .await?;
    receiver
        .until_told("hooks.token", &["firing", "recovered"])
        .await
}
