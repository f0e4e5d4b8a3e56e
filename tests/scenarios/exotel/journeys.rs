//! What salespeople, sales heads, administrators and others can do.

use patchbay_stand_ins::exotel::Operation;
use serde_json::json;

use super::{EXOPHONE, Setting, TOKEN, WEBHOOK_TOKEN, check_credentials, person, secret};
use crate::harness::{PASSWORD, USER};

#[tokio::test]
async fn a_salesperson_calls_a_lead_and_hears_the_recording() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let config = setting.get(&setting.sales, "/api/exotel/config").await?;
    assert_eq!(config.data(), json!({ "enabled": true, "sms": true }));
    let (id, sid) = setting.placed().await?;
    let call = setting.vendor.calls()[0].clone();
    for (name, value) in [
        ("From", "+919876543210"),
        ("To", "+919123456789"),
        ("CallerId", EXOPHONE),
        ("Record", "true"),
        ("StatusCallbackEvents[0]", "terminal"),
        ("StatusCallbackEvents[1]", "answered"),
        ("CustomField", &format!("call-{id}")),
    ] {
        assert_eq!(call.form[name], value, "{name}");
    }
    let callback = &call.form["StatusCallback"];
    let expected = format!(
        "{}/api/exotel/status?reference=call-{id}&token=",
        setting.host.url
    );
    assert!(callback.starts_with(&expected), "{callback}");
    assert!(
        !callback.contains(WEBHOOK_TOKEN),
        "the secret stays here: {callback}"
    );

    setting.vendor.answer_call(&sid);
    setting.reconcile().await?;
    setting.row_in("lead_call_logs", &id, "in-progress").await?;
    let path = format!("/api/sales/crm/leads/{}/calls/{id}/recording", setting.lead);
    let early = setting.get(&setting.sales, &path).await?;
    assert_eq!(early.status, 404, "{}", early.told());
    setting.vendor.end_call(&sid, "completed");
    setting.reconcile().await?;
    let row = setting.row("lead_call_logs", &id).await?;
    assert_eq!(
        (
            &row["status"],
            &row["duration_s"],
            &row["conversation_s"],
            &row["call_source"]
        ),
        (
            &json!("completed"),
            &json!(57),
            &json!(42),
            &json!("exotel")
        ),
        "{row}"
    );
    assert_eq!(
        setting.trail(&setting.lead, 2).await?,
        ["call_ended", "call_placed"]
    );

    let timeline = format!("/api/sales/crm/leads/{}/timeline", setting.lead);
    let timeline = setting.get(&setting.sales, &timeline).await?;
    let entry = &timeline.data()["entries"][0];
    assert_eq!(
        (&entry["status"], &entry["durationSeconds"], &entry["by"]),
        (&json!("completed"), &json!(42), &json!(setting.sales.id)),
        "{entry}"
    );
    assert_eq!(entry["recording"], path.as_str());
    let whole = setting.get(&setting.sales, &path).await?;
    assert_eq!((whole.status, whole.body.len()), (200, 100_000));
    let url = setting.host.url.clone() + &path;
    let part = setting.host.http.get(url).bearer_auth(&setting.sales.token);
    let part = setting
        .sent(part.header("range", "bytes=1000-1999"))
        .await?;
    assert_eq!(
        (part.status, &part.body[..]),
        (206, &whole.body[1000..2000])
    );
    assert!(
        part.headers.contains("bytes 1000-1999/100000"),
        "{}",
        part.headers
    );
    let vendor = setting.vendor.address.to_string();
    for answered in [&timeline, &whole, &part] {
        let shown = format!("{}{}", answered.headers, answered.told());
        for secret in [
            vendor.as_str(),
            TOKEN,
            WEBHOOK_TOKEN,
            "exotelrecordings",
            &sid,
        ] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn salespeople_reach_their_own_leads_heads_their_pool_and_administrators_all()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let head = person(&setting.world, &setting.host, "head", "sales_head").await?;
    let admin = person(&setting.world, &setting.host, "admin", "admin").await?;
    let other = person(&setting.world, &setting.host, "other", "sales").await?;
    let student = person(&setting.world, &setting.host, "student", "user").await?;
    let pooled = setting.lead_of(Some(&other), Some(&head)).await?;
    let unknown = "00000000-0000-4000-8000-000000000000";
    for (person, name, lead, status) in [
        (&setting.sales, "sales", &setting.lead, 200),
        (&setting.sales, "sales", &pooled, 404),
        (&other, "other", &pooled, 200),
        (&other, "other", &setting.lead, 404),
        (&head, "head", &pooled, 200),
        (&head, "head", &setting.lead, 404),
        (&admin, "admin", &setting.lead, 200),
        (&admin, "admin", &pooled, 200),
        (&admin, "admin", &unknown.to_owned(), 404),
        (&student, "student", &setting.lead, 403),
    ] {
        let path = format!("/api/sales/crm/leads/{lead}/timeline");
        let seen = setting.get(person, &path).await?;
        assert_eq!(seen.status, status, "{name}: {}", seen.told());
        let call = setting.sent(setting.calling(person, lead, None)).await?;
        assert_eq!(call.status, status, "{name}: {}", call.told());
    }
    assert_eq!(setting.vendor.calls().len(), 5);
    setting.set(json!({ "salesHeadScope": "all" })).await?;
    let path = format!("/api/sales/crm/leads/{}/timeline", setting.lead);
    assert_eq!(setting.get(&head, &path).await?.status, 200);

    // Somebody else's call under a lead of one's own is not there either.
    let (id, sid) = setting.placed().await?;
    setting.vendor.answer_call(&sid);
    setting.vendor.end_call(&sid, "completed");
    setting.reconcile().await?;
    let path = format!("/api/sales/crm/leads/{pooled}/calls/{id}/recording");
    assert_eq!(setting.get(&other, &path).await?.status, 404);

    let url = format!(
        "{}/api/sales/crm/leads/{}/call",
        setting.host.url, setting.lead
    );
    let anonymous = setting.sent(setting.host.http.post(&url)).await?;
    assert_eq!(anonymous.status, 401);
    let operator = setting
        .host
        .http
        .post(&url)
        .basic_auth(USER, Some(PASSWORD));
    assert_eq!(setting.sent(operator).await?.status, 401);
    let input =
        json!({ "operation": "connect-call", "input": { "path": { "leadId": setting.lead } } });
    let (status, answer) = setting
        .host
        .post("/api/admin/plugins/exotel/call", input)
        .await?;
    assert_eq!(
        (status, &answer["code"]),
        (403, &json!("forbidden")),
        "{answer}"
    );
    for wrong in ["1", "..%2f", "'; drop table x; --", "%00"] {
        let path = format!("/api/sales/crm/leads/{wrong}/timeline");
        assert_eq!(setting.get(&admin, &path).await?.status, 400, "{wrong}");
    }
    Ok(())
}

#[tokio::test]
async fn the_same_request_again_is_the_same_call_however_often_and_at_once_it_comes()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    setting.set(json!({ "repeatGuardSeconds": 60 })).await?;
    let requests = (0..10).map(|_| setting.call(Some("once")));
    let answers = futures::future::join_all(requests).await;
    let mut ids = Vec::new();
    for answer in answers {
        let answer = answer?;
        // One that comes while the vendor is asked is told to wait.
        assert!([200, 409].contains(&answer.status), "{}", answer.told());
        if answer.status == 200 {
            ids.push(answer.data()["callId"].clone());
        }
    }
    let again = setting.call(Some("once")).await?;
    assert_eq!(again.status, 200);
    assert!(
        again.headers.contains("idempotent-replayed"),
        "{}",
        again.headers
    );
    ids.push(again.data()["callId"].clone());
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(setting.vendor.calls().len(), 1);
    // Without a key, or with another, somebody who has just begun a call cannot begin another.
    for key in [None, Some("twice")] {
        let answer = setting.call(key).await?;
        assert_eq!(answer.status, 409, "{}", answer.told());
    }
    let other = setting.lead_of(Some(&setting.sales), None).await?;
    let request = setting.calling(&setting.sales, &other, Some("once"));
    let reused = setting.sent(request).await?;
    assert_eq!(
        (reused.status, &reused.json()["code"]),
        (422, &json!("idempotency-key-reused")),
        "{}",
        reused.told()
    );
    assert_eq!(setting.vendor.asked(Operation::Connect), 1);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_called_is_said_before_the_vendor_is_asked() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let mut database = setting.world.database().await?;
    for phone in [
        None,
        Some(""),
        Some("12"),
        Some("call me"),
        Some("+91 98765 43210; 1"),
    ] {
        sqlx::query("update mas_crm.raw_leads set phone = $1 where id = $2::uuid")
            .bind(phone)
            .bind(&setting.lead)
            .execute(&mut database)
            .await?;
        let answer = setting.call(None).await?;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (409, &json!("conflict")),
            "{phone:?}"
        );
    }
    sqlx::query("update mas_crm.raw_leads set phone = '9123456789'")
        .execute(&mut database)
        .await?;
    sqlx::query("update public.users set phone = null")
        .execute(&mut database)
        .await?;
    let answer = setting.call(Some("mended")).await?;
    assert_eq!(answer.status, 409, "{}", answer.told());
    assert!(answer.told().contains("your profile"), "{}", answer.told());
    assert_eq!(setting.vendor.asked(Operation::Connect), 0);
    assert_eq!(setting.count("lead_call_logs").await?, 0);
    // With a number in the profile, the same request is a call.
    sqlx::query("update public.users set phone = '9876543210'")
        .execute(&mut database)
        .await?;
    let answer = setting.call(Some("mended")).await?;
    assert_eq!(answer.status, 200, "{}", answer.told());
    Ok(())
}

#[tokio::test]
async fn without_its_settings_or_with_the_plugin_away_clients_are_told_to_dial_themselves()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let config = async || {
        anyhow::Ok(
            setting
                .get(&setting.sales, "/api/exotel/config")
                .await?
                .data(),
        )
    };
    let path = "/api/admin/plugins/exotel/settings";
    let (_, all) = setting.host.get(path).await?;
    let mut fewer = all["data"].clone();
    for (name, sms_only) in [("smsSenderId", true), ("callerId", false)] {
        if let Some(fewer) = fewer.as_object_mut() {
            fewer.remove(name);
        }
        let (status, answer) = setting.host.put(path, fewer.clone()).await?;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            config().await?,
            json!({ "enabled": sms_only, "sms": false }),
            "{name}"
        );
    }
    let off = setting.call(None).await?;
    assert_eq!(
        (off.status, &off.json()["code"]),
        (503, &json!("unavailable")),
        "{}",
        off.told()
    );
    let text = setting.text("k", json!({ "body": "Hello" })).await?;
    assert_eq!(text.status, 503, "{}", text.told());
    let (ok, said) = check_credentials(&setting.host).await?;
    assert!(!ok && said.contains("callerId not set"), "{said}");
    let mended = json!({ "callerId": EXOPHONE, "smsSenderId": "PATCHB" });
    setting.set(mended).await?;
    assert_eq!(config().await?, json!({ "enabled": true, "sms": true }));
    let text = setting.text("k", json!({ "body": "Hello" })).await?;
    assert_eq!(text.status, 202, "the same request: {}", text.told());
    secret(&setting.host, "EXOTEL_API_TOKEN", TOKEN).await?;
    let removed = setting
        .host
        .delete("/api/admin/plugins/exotel/secrets/EXOTEL_API_KEY")
        .await?;
    assert_eq!(removed.0, 200, "{}", removed.1);
    assert_eq!(config().await?, json!({ "enabled": false, "sms": false }));
    assert_eq!(setting.vendor.asked(Operation::Connect), 0);
    Ok(())
}
