//! The vendor is slow, breaks off, refuses, answers with pages of HTML, or is away; the host is
//! killed half-way. No call is placed twice, and what is not known is not guessed.

use std::time::Instant;

use anyhow::Context;
use patchbay_stand_ins::exotel::{Fault, Misdeed, Operation};
use serde_json::{Value, json};

use super::{NOWHERE, PATIENCE, QUEUE, SOON, Setting, TOKEN, plugin, secret};
use crate::cable::Cable;
use crate::disturbance::{Killer, away, kills};
use crate::harness::{full_length, until};
use crate::people::PEOPLE;

#[tokio::test]
async fn a_call_without_an_answer_is_found_at_the_vendor_and_not_placed_again() -> anyhow::Result<()>
{
    let setting = Setting::new().await?;
    for (n, misdeed) in [
        Misdeed::Slow(3_000),
        Misdeed::Reset,
        Misdeed::Html(502),
        Misdeed::Html(200),
        Misdeed::Status(500),
        Misdeed::Status(503),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k{n}");
        setting
            .vendor
            .fault(Fault::new(Operation::Connect, misdeed.clone()).done());
        let answer = setting.call(Some(&key)).await?;
        assert_eq!(
            (answer.status, &answer.data()["status"]),
            (200, &json!("in-progress")),
            "{misdeed:?}: {}",
            answer.told()
        );
        let again = setting.call(Some(&key)).await?;
        assert_eq!(again.data()["callId"], answer.data()["callId"]);
        let calls = setting.vendor.calls();
        assert_eq!(calls.len(), n + 1, "{misdeed:?}");
        let id = answer.data()["callId"]
            .as_str()
            .context("an id")?
            .to_owned();
        let row = setting.row("lead_call_logs", &id).await?;
        assert_eq!(row["call_sid"], calls[n].sid.as_str(), "{misdeed:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_the_vendor_does_not_have_is_unknown_and_not_placed_again() -> anyhow::Result<()>
{
    let setting = Setting::new().await?;
    // Somebody else's calls, and the same numbers a day ago, are not it.
    let (_, sid) = setting.placed().await?;
    setting.vendor.end_call(&sid, "busy");
    for (n, misdeed) in [Misdeed::Reset, Misdeed::Html(504), Misdeed::Status(500)]
        .into_iter()
        .enumerate()
    {
        let key = format!("k{n}");
        setting
            .vendor
            .fault(Fault::new(Operation::Connect, misdeed.clone()));
        for attempt in ["first", "again"] {
            let answer = setting.call(Some(&key)).await?;
            assert_eq!(
                (answer.status, &answer.data()["status"]),
                (202, &json!("unknown")),
                "{attempt} {misdeed:?}: {}",
                answer.told()
            );
        }
        assert_eq!(setting.vendor.calls().len(), 1, "{misdeed:?}");
        assert_eq!(setting.vendor.asked(Operation::Connect), n + 2);
    }
    let told = setting.reconcile().await?;
    assert!(told["open"].as_u64() >= Some(3), "{told}");
    assert_eq!(setting.vendor.calls().len(), 1);
    // The vendor's list does not answer either.
    setting
        .vendor
        .fault(Fault::new(Operation::Connect, Misdeed::Reset));
    setting
        .vendor
        .fault(Fault::new(Operation::Calls, Misdeed::Status(500)).times(9));
    let answer = setting.call(Some("list")).await?;
    assert_eq!(answer.status, 202, "{}", answer.told());
    Ok(())
}

#[tokio::test]
async fn a_call_that_was_refused_may_be_placed_by_the_same_request_later() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    for (n, (misdeed, status, code)) in [
        (Misdeed::Status(429), 429, "rate-limited"),
        (Misdeed::Status(401), 502, "bad-credentials"),
        (Misdeed::Status(404), 502, "bad-credentials"),
        (Misdeed::Status(403), 502, "upstream"),
        (Misdeed::Status(400), 502, "upstream"),
        (Misdeed::Html(402), 502, "upstream"),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k{n}");
        setting
            .vendor
            .fault(Fault::new(Operation::Connect, misdeed.clone()));
        let refused = setting.call(Some(&key)).await?;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (status, &json!(code)),
            "{misdeed:?}: {}",
            refused.told()
        );
        if code == "bad-credentials" {
            assert!(
                refused.told().contains("check SID, key, token and cluster"),
                "{}",
                refused.told()
            );
        }
        assert_eq!(setting.vendor.calls().len(), n);
        let placed = setting.call(Some(&key)).await?;
        assert_eq!(
            (placed.status, &placed.data()["status"]),
            (200, &json!("queued")),
            "{}",
            placed.told()
        );
        assert_eq!(setting.vendor.calls().len(), n + 1);
    }
    assert_eq!(
        setting.count("lead_call_logs").await?,
        6,
        "one row for each"
    );
    // Nobody listens.
    setting
        .set(json!({ "apiUrl": "http://127.0.0.1:9" }))
        .await?;
    let away = setting.call(Some("away")).await?;
    assert_eq!(
        (away.status, &away.json()["code"]),
        (503, &json!("unavailable")),
        "{}",
        away.told()
    );
    setting
        .set(json!({ "apiUrl": setting.vendor.url() }))
        .await?;
    assert_eq!(setting.call(Some("away")).await?.status, 200);
    let entries = setting.trail(&setting.lead, 14).await?;
    assert_eq!(
        entries.iter().filter(|one| *one == "call_refused").count(),
        7,
        "{entries:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_killed_while_a_call_is_placed_leaves_one_call() -> anyhow::Result<()> {
    let mut setting = Setting::new().await?;
    for done in [true, false] {
        let before = setting.vendor.calls().len();
        let asked = setting.vendor.asked(Operation::Connect);
        let slow = Fault::new(Operation::Connect, Misdeed::Slow(5_000));
        setting
            .set(json!({ "connectTimeoutMs": 10_000, "publicUrl": setting.host.url }))
            .await?;
        setting.vendor.fault(if done {
            slow.done()
        } else {
            Fault::new(Operation::Connect, Misdeed::Reset)
        });
        let key = format!("killed {done}");
        if done {
            let request = setting.calling(&setting.sales, &setting.lead, Some(&key));
            let waiting = tokio::spawn(request.send());
            until(SOON, "the vendor has the call", async || {
                Ok((setting.vendor.calls().len() > before).then_some(()))
            })
            .await?;
            setting.host.child.kill().await?;
            assert!(waiting.await?.is_err(), "no answer came");
            setting.host = setting.world.host(&PEOPLE).await?;
        } else {
            // Killed before the vendor was reached: the row as it then is.
            let key = format!("call:{}:{key}", setting.sales.id);
            sqlx::query(
                "insert into mas_crm.lead_call_logs (lead_id, request_key, called_by, from_number, to_number, status, placed_at) \
                 values ($1::uuid, $2, $3, '+919876543210', '+919123456789', 'placing', now() - interval '1 hour')",
            )
            .bind(&setting.lead)
            .bind(key)
            .bind(&setting.sales.id)
            .execute(&mut setting.world.database().await?)
            .await?;
            setting.vendor.remove_faults();
        }
        setting
            .set(json!({ "publicUrl": setting.host.url }))
            .await?;
        let soon = setting.call(Some(&key)).await?;
        // Of the request that was killed, the host says for a while that it may still go on.
        let expected: &[u16] = if done { &[409, 200] } else { &[202] };
        assert!(expected.contains(&soon.status), "{}", soon.told());
        setting.reconcile().await?;
        let after = setting.call_in_time(&setting.lead, &key).await?;
        if done {
            assert_eq!(
                (after.status, &after.data()["status"]),
                (200, &json!("in-progress")),
                "{}",
                after.told()
            );
            assert_eq!(setting.vendor.asked(Operation::Connect), asked + 1);
        } else {
            assert_eq!(
                (after.status, &after.data()["status"]),
                (202, &json!("unknown")),
                "{}",
                after.told()
            );
            assert_eq!(setting.vendor.asked(Operation::Connect), asked);
        }
        assert_eq!(setting.vendor.calls().len(), before + usize::from(done));
    }
    Ok(())
}

#[tokio::test]
async fn whenever_the_host_is_killed_no_call_is_placed_twice() -> anyhow::Result<()> {
    if !full_length() {
        // It waits for leases; the test above kills a host once, at the worst moment.
        println!("only at full length");
        return Ok(());
    }
    let mut setting = Setting::new().await?;
    let mut killer = Killer::new();
    let mut rounds = Vec::new();
    for n in 0..kills() {
        // Each with a number of its own: the vendor's list tells the calls apart.
        let lead = setting.lead_of(Some(&setting.sales), None).await?;
        sqlx::query("update mas_crm.raw_leads set phone = $1 where id = $2::uuid")
            .bind(format!("91234567{:02}", n + 10))
            .bind(&lead)
            .execute(&mut setting.world.database().await?)
            .await?;
        let key = format!("k{n}");
        let request = setting.calling(&setting.sales, &lead, Some(&key));
        let waiting = tokio::spawn(request.send());
        let moment = killer.kills_only(&mut setting.host, 150).await?;
        let answered = waiting.await?.is_ok();
        setting.host = setting.world.host(&PEOPLE).await?;
        setting
            .set(json!({ "publicUrl": setting.host.url }))
            .await?;
        setting.reconcile().await?;
        rounds.push((lead, key, format!("after {moment:?}, answered {answered}")));
    }
    // The same requests again, as soon as the host no longer takes the killed ones for going on.
    let mut all = 0;
    for (lead, key, what) in rounds {
        let again = setting.call_in_time(&lead, &key).await?;
        let id = again.data()["callId"].as_str().map(str::to_owned);
        let reference = format!("call-{}", id.context("an id")?);
        let calls = setting.vendor.calls();
        let placed = calls
            .iter()
            .filter(|call| call.form["CustomField"] == reference)
            .count();
        let told = format!("{what}: {placed} placed, {}", again.told());
        println!("{told}");
        match again.status {
            200 => assert_eq!(placed, 1, "{told}"),
            202 => assert_eq!(placed, 0, "{told}"),
            _ => panic!("{told}"),
        }
        all += placed;
    }
    assert_eq!(setting.vendor.calls().len(), all, "no other call");
    Ok(())
}

#[tokio::test]
async fn while_the_vendor_is_away_nothing_is_lost_and_afterwards_nothing_is_done_twice()
-> anyhow::Result<()> {
    const CALLS: u32 = 10;
    let away = away();
    let setting = Setting::new().await?;
    let vendor = setting.vendor.address.to_string();
    let cable = Cable::to(vendor.clone()).await?;
    let address = cable.address;
    let url = format!("http://{address}");
    setting
        .host
        .deploy("exotel", plugin(&url, NOWHERE)?)
        .await?;
    setting.set(json!({ "apiUrl": url })).await?;
    let (open, sid) = setting.placed().await?;
    setting.vendor.answer_call(&sid);

    cable.refuse().await;
    let left = Instant::now();
    // What happens to the call meanwhile, nobody is told.
    setting
        .vendor
        .behave(|behaviour| behaviour.callbacks = false);
    setting.vendor.end_call(&sid, "completed");
    let text = setting.text("text", json!({ "body": "Hello" })).await?;
    assert_eq!(text.status, 202, "{}", text.told());
    let message = text.data()["smsId"].as_str().context("an id")?.to_owned();
    for n in 0..CALLS {
        let refused = setting.call(Some(&format!("away {n}"))).await?;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (503, &json!("unavailable")),
            "{}",
            refused.told()
        );
        // How long it is away is what is tested.
        let next = away * (n + 1) / CALLS;
        tokio::time::sleep(next.saturating_sub(left.elapsed())).await;
    }
    let checked = super::check_credentials(&setting.host).await?;
    assert!(!checked.0, "{}", checked.1);
    assert_eq!(setting.vendor.asked(Operation::Connect), 1);
    assert_eq!(setting.vendor.asked(Operation::SendSms), 0);

    let _cable = Cable::at(address, vendor).await?;
    let back = Instant::now();
    for n in 0..CALLS {
        let key = format!("away {n}");
        let placed = setting.call(Some(&key)).await?;
        assert_eq!(placed.status, 200, "the same request: {}", placed.told());
        let again = setting.call(Some(&key)).await?;
        assert_eq!(again.data()["callId"], placed.data()["callId"]);
    }
    setting.reconcile().await?;
    let row = setting.row("lead_call_logs", &open).await?;
    assert_eq!(row["status"], "completed", "{row}");
    let calls_after = back.elapsed();
    until(PATIENCE, "the message", async || {
        let row = setting.row("lead_sms_logs", &message).await?;
        Ok((row["status"] == "submitted").then_some(()))
    })
    .await?;
    assert_eq!(setting.vendor.calls().len(), 1 + CALLS as usize);
    assert_eq!(setting.vendor.asked(Operation::Connect), 1 + CALLS as usize);
    assert_eq!(setting.vendor.messages().len(), 1);
    assert_eq!(setting.vendor.asked(Operation::SendSms), 1);
    println!(
        "away for {away:?}: {CALLS} calls refused, each placed once by the same request within {calls_after:?} of its return; the message sent after {:?}",
        back.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_vendor_whose_clock_is_wrong_is_still_understood() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    for (n, skew) in [-300_i64, 300].into_iter().enumerate() {
        setting
            .vendor
            .behave(|behaviour| behaviour.clock_skew_s = skew);
        setting
            .vendor
            .fault(Fault::new(Operation::Connect, Misdeed::Reset).done());
        let answer = setting.call(None).await?;
        assert_eq!(
            (answer.status, &answer.data()["status"]),
            (200, &json!("in-progress")),
            "{skew}: {}",
            answer.told()
        );
        assert_eq!(setting.vendor.calls().len(), n + 1);
    }
    Ok(())
}

/// The only job of its kind, in this state.
async fn sending(setting: &Setting, state: &str) -> anyhow::Result<Value> {
    until(SOON, &format!("a send-sms that is {state}"), async || {
        let path = format!("/api/admin/queues/{QUEUE}/jobs?state={state}");
        let (_, answer) = setting.host.get(&path).await?;
        let jobs = answer["data"].as_array().cloned().unwrap_or_default();
        Ok(jobs.into_iter().find(|job| job["name"] == "send-sms"))
    })
    .await
}

#[tokio::test]
async fn a_message_waits_for_a_busy_vendor_and_is_not_sent_again_when_nobody_knows()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let id = |answer: &super::Answered| {
        answer.data()["smsId"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    setting
        .vendor
        .fault(Fault::new(Operation::SendSms, Misdeed::Status(429)).times(2));
    let busy = setting.text("busy", json!({ "body": "Hello" })).await?;
    setting
        .row_in("lead_sms_logs", &id(&busy), "submitted")
        .await?;
    assert_eq!(
        (
            setting.vendor.messages().len(),
            setting.vendor.asked(Operation::SendSms)
        ),
        (1, 3)
    );

    for (n, fault) in [
        Fault::new(Operation::SendSms, Misdeed::Reset).done(),
        Fault::new(Operation::SendSms, Misdeed::Html(502)),
        Fault::new(Operation::SendSms, Misdeed::Slow(3_000)).done(),
    ]
    .into_iter()
    .enumerate()
    {
        let sent = setting.vendor.messages().len() + usize::from(fault.done);
        setting.vendor.fault(fault);
        let answer = setting
            .text(&format!("unknown {n}"), json!({ "body": "Hello" }))
            .await?;
        setting
            .row_in("lead_sms_logs", &id(&answer), "unknown")
            .await?;
        assert_eq!(setting.vendor.messages().len(), sent);
        let again = setting
            .job("send-sms", json!({ "smsId": id(&answer) }))
            .await?;
        assert_eq!(again, json!({ "status": "unknown" }));
        assert_eq!(setting.vendor.messages().len(), sent);
    }

    // Wrong credentials: the job fails at once, and is retried when they are right.
    setting.vendor.set_token("rotated");
    let waiting = setting.text("stale", json!({ "body": "Hello" })).await?;
    let failed = sending(&setting, "failed").await?;
    let told = failed.to_string();
    assert!(told.contains("check SID, key, token and cluster"), "{told}");
    assert_eq!(
        setting.row("lead_sms_logs", &id(&waiting)).await?["error_code"],
        "bad-credentials"
    );
    secret(&setting.host, "EXOTEL_API_TOKEN", "rotated").await?;
    let job = failed["id"].as_str().context("an id")?;
    let (status, answer) = setting
        .host
        .post(
            &format!("/api/admin/queues/{QUEUE}/jobs/{job}/retry"),
            json!({}),
        )
        .await?;
    assert_eq!(status, 200, "{answer}");
    setting
        .row_in("lead_sms_logs", &id(&waiting), "submitted")
        .await?;
    secret(&setting.host, "EXOTEL_API_TOKEN", TOKEN).await?;
    setting.vendor.set_token(TOKEN);

    // A message that the vendor refuses for good.
    setting
        .vendor
        .fault(Fault::new(Operation::SendSms, Misdeed::Status(400)));
    let refused = setting.text("refused", json!({ "body": "Hello" })).await?;
    let row = setting
        .row_in("lead_sms_logs", &id(&refused), "failed")
        .await?;
    assert_eq!(row["error_code"], "upstream");
    Ok(())
}
