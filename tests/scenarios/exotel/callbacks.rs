//! Callbacks over HTTP: from the vendor through the inbox to the rows.

use anyhow::Context;
use patchbay_stand_ins::exotel::{Encoding, Operation};
use serde_json::json;

use super::{NOWHERE, QUEUE, SOON, Setting, WEBHOOK_TOKEN, plugin, secret};
use crate::harness::{until, variant};

/// Whether all callbacks of the call were answered with 200.
async fn delivered(setting: &Setting, sid: &str, count: usize) -> anyhow::Result<()> {
    until(SOON, "the callbacks are delivered", async || {
        let deliveries = setting.vendor.deliveries();
        let of_call: Vec<_> = deliveries.iter().filter(|one| one.sid == sid).collect();
        if of_call.len() >= count {
            anyhow::ensure!(
                of_call.iter().all(|one| one.status == Some(200)),
                "{of_call:?}"
            );
        }
        Ok((of_call.len() >= count).then_some(()))
    })
    .await
}

#[tokio::test]
async fn callbacks_in_every_encoding_repeated_and_reversed_reach_the_row_once() -> anyhow::Result<()>
{
    let setting = Setting::new().await?;
    let mut expected = 0;
    for (encoding, reverses) in [
        (Encoding::Multipart, false),
        (Encoding::Multipart, true),
        (Encoding::Urlencoded, true),
        (Encoding::Json, false),
    ] {
        setting.vendor.behave(|behaviour| {
            behaviour.encoding = Some(encoding);
            behaviour.reverses = reverses;
            behaviour.copies = 5;
        });
        let (id, sid) = setting.placed().await?;
        setting.vendor.answer_call(&sid);
        setting.vendor.end_call(&sid, "completed");
        delivered(&setting, &sid, 10).await?;
        let row = setting.row_in("lead_call_logs", &id, "completed").await?;
        assert_eq!(
            (&row["conversation_s"], &row["duration_s"]),
            (&json!(42), &json!(57)),
            "{row}"
        );
        until(SOON, "the answer is told", async || {
            let row = setting.row("lead_call_logs", &id).await?;
            Ok((!row["answered_at"].is_null()).then_some(()))
        })
        .await?;
        expected += 2;
        let told = setting.trail(&setting.lead, expected).await?;
        assert_eq!(told.len(), expected, "{told:?}");
        // Late, and once more.
        setting.vendor.repeat_callbacks(&sid);
        delivered(&setting, &sid, 20).await?;
        assert_eq!(
            setting.row("lead_call_logs", &id).await?["status"],
            "completed"
        );
    }
    // Nothing had to be asked for.
    assert_eq!(setting.vendor.asked(Operation::Call), 0);
    Ok(())
}

#[tokio::test]
async fn a_message_is_delivered_and_a_forged_or_stale_callback_changes_nothing()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    setting.vendor.behave(|behaviour| behaviour.plays = true);
    let text = setting.text("one", json!({ "body": "Hello" })).await?;
    let id = text.data()["smsId"].as_str().unwrap_or_default().to_owned();
    setting.row_in("lead_sms_logs", &id, "delivered").await?;

    setting.vendor.behave(|behaviour| behaviour.plays = false);
    let (call, sid) = setting.placed().await?;
    let url = setting.vendor.calls()[0].form["StatusCallback"].clone();
    let send = async |url: &str| {
        let form = format!("CallSid={sid}&EventType=terminal&Status=completed");
        let request = setting.host.http.post(url);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        anyhow::Ok(setting.sent(request.body(form)).await?.status)
    };
    let (base, _) = url.split_once('?').unwrap_or_default();
    let other = format!("{base}?reference=call-00000000-0000-4000-8000-000000000000&token=");
    let token = url.rsplit('=').next().unwrap_or_default();
    for forged in [
        base.to_owned(),
        format!("{base}?token={WEBHOOK_TOKEN}"),
        format!("{base}?reference=call-{call}&token={WEBHOOK_TOKEN}"),
        other + token,
        format!("{url}00"),
        url.replace("token", "Token"),
    ] {
        assert_eq!(send(&forged).await?, 401, "{forged}");
    }
    assert_eq!(
        setting.row("lead_call_logs", &call).await?["status"],
        "queued"
    );
    assert_eq!(send(&url).await?, 200);
    setting.row_in("lead_call_logs", &call, "completed").await?;

    // Replaced at once: URLs of before are worth nothing any more.
    secret(
        &setting.host,
        "EXOTEL_WEBHOOK_TOKEN",
        "another-token-for-callbacks",
    )
    .await?;
    assert_eq!(send(&url).await?, 401);
    Ok(())
}

/// Waits until so many callbacks were worked off.
async fn worked_off(setting: &Setting, count: usize) -> anyhow::Result<()> {
    until(SOON, "the callbacks are worked off", async || {
        let path = format!("/api/admin/queues/{QUEUE}/jobs?state=completed");
        let (_, answer) = setting.host.get(&path).await?;
        let jobs = answer["data"].as_array().cloned().unwrap_or_default();
        let done = jobs.iter().filter(|job| job["name"] == "event").count();
        Ok((done >= count).then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_url_of_one_call_or_message_changes_no_other_one_and_swallows_none_of_its_news()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let post = async |url: &str, form: String| {
        let request = setting.host.http.post(url);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        anyhow::Ok(setting.sent(request.body(form)).await?.status)
    };
    let (mine, _) = setting.placed().await?;
    let (other, sid) = setting.placed().await?;
    let own = setting.row("lead_call_logs", &mine).await?;
    let before = setting.row("lead_call_logs", &other).await?;
    let urls: Vec<String> = setting
        .vendor
        .calls()
        .iter()
        .map(|call| call.form["StatusCallback"].clone())
        .collect();
    let news =
        |event: &str, status: &str| format!("CallSid={sid}&EventType={event}&Status={status}");
    for (event, status) in [("answered", "in-progress"), ("terminal", "failed")] {
        assert_eq!(post(&urls[0], news(event, status)).await?, 200);
    }
    worked_off(&setting, 2).await?;
    assert_eq!(setting.row("lead_call_logs", &other).await?, before);
    assert_eq!(setting.row("lead_call_logs", &mine).await?, own);
    assert_eq!(setting.count("exotel_events").await?, 0);
    // The same event of the same call under its own URL is not a repeat.
    assert_eq!(post(&urls[1], news("terminal", "completed")).await?, 200);
    setting
        .row_in("lead_call_logs", &other, "completed")
        .await?;
    // A URL of a call is none of a message.
    let of_message = format!("SmsSid={sid}&Status=sent");
    assert_eq!(post(&urls[0], of_message).await?, 400);

    let mut ids = Vec::new();
    for key in ["mine", "other"] {
        let answer = setting.text(key, json!({ "body": key })).await?;
        let id = answer.data()["smsId"].as_str().map(str::to_owned);
        let id = id.context("an id")?;
        setting.row_in("lead_sms_logs", &id, "submitted").await?;
        ids.push(id);
    }
    let urls: Vec<String> = setting
        .vendor
        .messages()
        .iter()
        .map(|message| message.form["StatusCallback"].clone())
        .collect();
    let before = setting.row("lead_sms_logs", &ids[1]).await?;
    let sid = before["sms_sid"].as_str().context("an id")?;
    let failed = format!("SmsSid={sid}&Status=failed");
    assert_eq!(post(&urls[0], failed.clone()).await?, 200);
    worked_off(&setting, 4).await?;
    assert_eq!(setting.row("lead_sms_logs", &ids[1]).await?, before);
    assert_eq!(
        setting.row("lead_sms_logs", &ids[0]).await?["status"],
        "submitted"
    );
    assert_eq!(post(&urls[1], failed).await?, 200);
    setting.row_in("lead_sms_logs", &ids[1], "failed").await?;
    Ok(())
}

#[tokio::test]
async fn a_plugin_swapped_and_a_secret_rotated_half_way_lose_no_callback() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let component = plugin(&setting.vendor.url(), NOWHERE)?;
    // Placed with a URL of the first token, and answered.
    let (id, sid) = setting.placed().await?;
    setting.vendor.answer_call(&sid);
    delivered(&setting, &sid, 1).await?;
    setting
        .host
        .deploy("exotel", variant(&component, "next"))
        .await?;
    let path = "/api/admin/plugins/exotel/secrets/EXOTEL_WEBHOOK_TOKEN/rotate";
    let rotated = json!({ "value": "the-next-token-for-callbacks", "overlapMs": 3_600_000 });
    let (status, answer) = setting.host.post(path, rotated).await?;
    assert_eq!(status, 200, "{answer}");
    // Another one with the new revision and the new token.
    let (other, other_sid) = setting.placed().await?;
    for (id, sid, callbacks) in [(id, sid, 2), (other, other_sid, 1)] {
        setting.vendor.end_call(&sid, "completed");
        delivered(&setting, &sid, callbacks).await?;
        setting.row_in("lead_call_logs", &id, "completed").await?;
    }
    Ok(())
}
