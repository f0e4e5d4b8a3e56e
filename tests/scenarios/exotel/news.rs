//! Callbacks as jobs: repeated, late, in any order, for calls that nobody knows; and what is asked
//! for because it was never told.

use futures::future::try_join_all;
use serde_json::{Value, json};

use super::{QUEUE, SOON, Setting};
use crate::harness::until;

/// The data that `verify` makes of a callback whose URL names the row.
fn event(row: &str, sid: &str, name: &str, more: Value) -> Value {
    let mut event = json!({
        "kind": "call", "sid": sid, "event": name, "reference": format!("call-{row}"),
        "receivedAt": 1_790_000_000_000_i64,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        event[key] = value.clone();
    }
    event
}

fn answered(row: &str, sid: &str) -> Value {
    let more = json!({ "status": "in-progress", "dateUpdated": "2026-10-05 12:00:10" });
    event(row, sid, "answered", more)
}

fn ended(row: &str, sid: &str, status: &str) -> Value {
    let more = json!({
        "status": status, "durationS": 335, "conversationS": 320, "dateUpdated": "2026-10-05 12:05:40",
        "endTime": "2026-10-05 12:05:40", "recordingUrl": "https://recordings.exotel.com/exotelrecordings/a/b.mp3",
    });
    event(row, sid, "terminal", more)
}

/// The row without what the time of the test changes.
fn told(mut row: Value) -> Value {
    for name in [
        "id",
        "call_sid",
        "request_key",
        "placed_at",
        "created_at",
        "updated_at",
        "checked_at",
    ] {
        row[name].take();
    }
    row
}

#[tokio::test]
async fn repeated_and_reordered_news_ends_in_the_same_row_and_is_told_once() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let mut rows = Vec::new();
    for order in ["answered first", "ended first", "five times, all at once"] {
        let lead = setting.lead_of(Some(&setting.sales), None).await?;
        let request = setting.calling(&setting.sales, &lead, None);
        let placed = setting.sent(request).await?;
        assert_eq!(placed.status, 200, "{}", placed.told());
        let id = placed.data()["callId"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let sid = setting.vendor.calls().last().expect("a call").sid.clone();
        let (first, last) = (answered(&id, &sid), ended(&id, &sid, "completed"));
        let events = match order {
            "answered first" => vec![first, last],
            "ended first" => vec![last, first],
            _ => [vec![last; 5], vec![first; 5]].concat(),
        };
        if events.len() == 2 {
            for event in events {
                setting.job("event", event).await?;
            }
        } else {
            try_join_all(events.into_iter().map(|event| setting.job("event", event))).await?;
        }
        let mut row = told(setting.row("lead_call_logs", &id).await?);
        assert_eq!(row["lead_id"].take(), lead.as_str());
        rows.push(row);
        // Late news, and such as would take it back.
        setting.job("event", answered(&id, &sid)).await?;
        setting.job("event", ended(&id, &sid, "failed")).await?;
        setting
            .job(
                "event",
                event(&id, &sid, "ringing", json!({ "status": "ringing" })),
            )
            .await?;
        let mut after = told(setting.row("lead_call_logs", &id).await?);
        after["lead_id"].take();
        assert_eq!(&after, rows.last().expect("a row"), "{order}");
        let told = setting.trail(&lead, 2).await?;
        assert_eq!(told, ["call_ended", "call_placed"], "{order}");
    }
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
    let row = &rows[0];
    assert_eq!(
        (&row["status"], &row["duration_s"], &row["conversation_s"]),
        (&json!("completed"), &json!(335), &json!(320))
    );
    assert_eq!(row["answered_at"], "2026-10-05T06:30:10+00:00", "{row}");
    assert_eq!(row["ended_at"], "2026-10-05T06:35:40+00:00", "{row}");
    Ok(())
}

#[tokio::test]
async fn news_changes_only_the_row_that_its_url_names() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    // The URL names the row, although the vendor's id is not known yet.
    let (id, sid) = setting.placed().await?;
    let forget =
        "update mas_crm.lead_call_logs set call_sid = null, status = 'unknown' where id = $1::uuid";
    let mut database = setting.world.database().await?;
    sqlx::query(forget).bind(&id).execute(&mut database).await?;
    assert_eq!(
        setting.job("event", answered(&id, &sid)).await?,
        json!({ "status": "in-progress" })
    );
    let row = setting.row("lead_call_logs", &id).await?;
    assert_eq!(row["call_sid"], sid.as_str());
    // News of another call under this URL changes neither this one nor the other one, whether the
    // other row has its id or not yet.
    let (other, other_sid) = setting.placed().await?;
    let ignored = json!({ "ignored": true });
    for knows in [true, false] {
        if !knows {
            let forget = sqlx::query(forget).bind(&other);
            forget.execute(&mut database).await?;
        }
        let before = setting.row("lead_call_logs", &other).await?;
        let forged = ended(&id, &other_sid, "failed");
        assert_eq!(setting.job("event", forged).await?, ignored, "{knows}");
        assert_eq!(setting.row("lead_call_logs", &other).await?, before);
        assert_eq!(setting.row("lead_call_logs", &id).await?, row);
    }
    assert_eq!(setting.count("exotel_events").await?, 0, "nothing waits");
    // Nor does a row take an id that another row has.
    let forged = ended(&other, &sid, "failed");
    assert_eq!(setting.job("event", forged).await?, ignored);
    assert_eq!(setting.row("lead_call_logs", &id).await?, row);
    // The other one's own news is news.
    assert_eq!(
        setting
            .job("event", ended(&other, &other_sid, "busy"))
            .await?,
        json!({ "status": "busy" })
    );
    Ok(())
}

#[tokio::test]
async fn news_for_a_row_that_is_not_there_is_kept_for_this_row_alone() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let absent = |n: u8| format!("00000000-0000-4000-8000-00000000000{n}");
    let kept = json!({ "kept": true });
    // What is kept under one URL, first and with the same id of the vendor, is in the way of nothing.
    for (row, status) in [(1, "failed"), (2, "no-answer"), (2, "no-answer")] {
        let news = ended(&absent(row), "late", status);
        assert_eq!(setting.job("event", news).await?, kept);
    }
    assert_eq!(setting.count("exotel_events").await?, 2, "each once");
    let mut database = setting.world.database().await?;
    sqlx::query(
        "insert into mas_crm.lead_call_logs (id, lead_id, status, call_sid, placed_at) \
         values ($1::uuid, $2::uuid, 'queued', 'late', now() - interval '2 days')",
    )
    .bind(absent(2))
    .bind(&setting.lead)
    .execute(&mut database)
    .await?;
    setting.reconcile().await?;
    let row = setting.row("lead_call_logs", &absent(2)).await?;
    assert_eq!(row["status"], "no-answer", "{row}");
    assert_eq!(
        setting.count("exotel_events").await?,
        1,
        "of the row that is not there"
    );
    sqlx::query("update mas_crm.exotel_events set received_at = now() - interval '31 days'")
        .execute(&mut database)
        .await?;
    let told = setting.reconcile().await?;
    assert_eq!(told["callbacksDropped"], 1, "{told}");
    Ok(())
}

#[tokio::test]
async fn what_was_never_told_is_asked_for() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    setting.vendor.behave(|behaviour| {
        behaviour.callbacks = false;
        behaviour.settle_after_ms = 3_600_000;
    });
    let (first, first_sid) = setting.placed().await?;
    let (second, _) = setting.placed().await?;
    setting.set(json!({ "reconcileAfterMinutes": 60 })).await?;
    assert_eq!(setting.reconcile().await?["asked"], 0, "they are too young");
    setting.set(json!({ "reconcileAfterMinutes": 0 })).await?;
    setting.vendor.end_call(&first_sid, "busy");
    let told = setting.reconcile().await?;
    assert_eq!(
        (&told["asked"], &told["settled"], &told["open"]),
        (&json!(2), &json!(1), &json!(1)),
        "{told}"
    );
    let row = setting.row("lead_call_logs", &first).await?;
    assert_eq!(
        (&row["status"], &row["ended_at"]),
        (&json!("busy"), &Value::Null),
        "{row}"
    );
    // The vendor computes the times later.
    setting
        .vendor
        .behave(|behaviour| behaviour.settle_after_ms = 0);
    setting.reconcile().await?;
    let row = setting.row("lead_call_logs", &first).await?;
    assert_ne!(row["ended_at"], Value::Null, "{row}");
    assert_eq!(
        setting.row("lead_call_logs", &second).await?["status"],
        "in-progress"
    );
    // After a day it is given up.
    sqlx::query("update mas_crm.lead_call_logs set placed_at = now() - interval '25 hours'")
        .execute(&mut setting.world.database().await?)
        .await?;
    assert_eq!(setting.reconcile().await?["asked"], 0);
    Ok(())
}

#[tokio::test]
async fn a_message_is_sent_once_and_its_delivery_is_told() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    setting
        .set(json!({ "dltEntityId": "1101", "dltTemplateId": "1107" }))
        .await?;
    let body = json!({ "body": "Hello ₹ नमस्ते" });
    let accepted = setting.text("one", body.clone()).await?;
    assert_eq!(
        (accepted.status, &accepted.data()["status"]),
        (202, &json!("queued"))
    );
    let id = accepted.data()["smsId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let row = setting.row_in("lead_sms_logs", &id, "submitted").await?;
    let sent = setting.vendor.messages();
    assert_eq!(sent.len(), 1);
    for (name, value) in [
        ("From", "PATCHB"),
        ("To", "+919123456789"),
        ("Body", "Hello ₹ नमस्ते"),
        ("EncodingType", "unicode"),
        ("DltEntityId", "1101"),
        ("DltTemplateId", "1107"),
        ("SmsType", "transactional"),
    ] {
        assert_eq!(sent[0].form[name], value, "{name}");
    }
    let again = setting.text("one", body).await?;
    assert_eq!((again.status, &again.data()["smsId"]), (202, &json!(id)));
    let other = setting.text("one", json!({ "body": "Other" })).await?;
    assert_eq!(
        (other.status, &other.json()["code"]),
        (422, &json!("idempotency-key-reused")),
        "{}",
        other.told()
    );
    assert_eq!(setting.vendor.messages().len(), 1);
    let sid = row["sms_sid"].as_str().unwrap_or_default();
    let news = |status: &str, code: &str, detail: &str| {
        json!({
            "kind": "sms", "sid": sid, "event": status, "reference": format!("sms-{id}"), "status": status,
            "detailedCode": code, "detailedStatus": detail,
        })
    };
    setting
        .job("event", news("sent", "20005", "DELIVERED_TO_HANDSET"))
        .await?;
    setting
        .job("event", news("queued", "21010", "PENDING_TO_OPERATOR"))
        .await?;
    let row = setting.row("lead_sms_logs", &id).await?;
    assert_eq!(
        (
            &row["status"],
            &row["detailed_code"],
            &row["detailed_status"]
        ),
        (
            &json!("delivered"),
            &json!("20005"),
            &json!("DELIVERED_TO_HANDSET")
        ),
        "{row}"
    );
    assert_eq!(
        setting.trail(&setting.lead, 3).await?,
        ["sms_ended", "sms_requested", "sms_sent"]
    );
    for (n, wrong) in [
        json!({}),
        json!({ "body": "" }),
        json!({ "body": " \n" }),
        json!({ "body": "a\u{0}b" }),
        json!({ "body": 5 }),
        json!({ "body": "x".repeat(2_001) }),
        json!({ "body": "x", "dltTemplateId": "a b" }),
        json!({ "body": "x", "from": "y" }),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = setting.text(&format!("wrong {n}"), wrong.clone()).await?;
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.told());
    }
    let path = format!("/api/admin/queues/{QUEUE}/jobs?state=failed");
    until(SOON, "no job fails", async || {
        let (_, jobs) = setting.host.get(&path).await?;
        Ok(jobs["data"]
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_timeline_comes_in_pages_and_in_order() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let mut expected = Vec::new();
    for n in 0..3 {
        expected.push(setting.placed().await?.0);
        let sms = setting
            .text(&format!("k{n}"), json!({ "body": format!("Text {n}") }))
            .await?;
        expected.push(sms.data()["smsId"].as_str().unwrap_or_default().to_owned());
    }
    expected.reverse();
    let mut seen = Vec::new();
    let mut cursor = String::new();
    for page in 0..3 {
        let path = format!(
            "/api/sales/crm/leads/{}/timeline?limit=2{cursor}",
            setting.lead
        );
        let answer = setting.get(&setting.sales, &path).await?;
        let data = answer.data();
        let entries = data["entries"].as_array().cloned().unwrap_or_default();
        assert_eq!(entries.len(), 2, "{}", answer.told());
        seen.extend(
            entries
                .iter()
                .filter_map(|one| Some(one["id"].as_str()?.to_owned())),
        );
        match data["nextCursor"].as_str() {
            Some(next) => {
                let mut encoded = url_encoded(next);
                encoded.insert_str(0, "&cursor=");
                cursor = encoded;
            }
            None => assert_eq!(page, 2, "{}", answer.told()),
        }
    }
    assert_eq!(seen, expected);
    for wrong in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "cursor=infinity%2Cx",
    ] {
        let path = format!("/api/sales/crm/leads/{}/timeline?{wrong}", setting.lead);
        assert_eq!(
            setting.get(&setting.sales, &path).await?.status,
            400,
            "{wrong}"
        );
    }
    Ok(())
}

fn url_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
