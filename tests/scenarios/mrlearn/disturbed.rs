//! Syncs, enrolments and reminders while the vendor is away or slow, while jobs come twice, while
//! the plugin or a credential is replaced, and while hosts are killed.

use patchbay_stand_ins::graphy::Learner;
use serde_json::{Value, json};

use super::{CONFIGS, REMINDERS, SOON, SYNC, Setting, env, learners, plugin_with, wanted};
use crate::cable::Cable;
use crate::disturbance::{Killer, away, kills};
use crate::harness::{until, variant};

/// The pages that the open run has read, once there are so many.
async fn pages(setting: &Setting, least: i64) -> anyhow::Result<i64> {
    let open =
        "select coalesce(max(pages), 0)::int8 from mrlearn.sync_runs where state = 'running'";
    until(SOON, "pages of an open run", async || {
        let pages = setting.count(open).await?;
        Ok((pages >= least).then_some(pages))
    })
    .await
}

/// How many runs of a config have ended.
async fn ended(setting: &Setting, id: i64) -> anyhow::Result<usize> {
    let ended = format!(
        "select count(*) from mrlearn.sync_runs where config_id = {id} and state <> 'running'"
    );
    Ok(usize::try_from(setting.count(&ended).await?)?)
}

#[tokio::test]
async fn whatever_happens_around_a_sync_nobody_is_lost_and_nothing_is_done_twice()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    let vendor = setting.vendor.address.to_string();
    let cable = Cable::to(vendor.clone()).await?;
    let (address, away) = (cable.address, away());
    let url = format!("http://{address}");
    // Five attempts outlast the vendor's absence, as those of the plugin outlast a minute.
    let plugin = plugin_with(&url, away.as_millis() / 10)?;
    setting.host.deploy("mrlearn", plugin.clone()).await?;
    setting.set(json!({ "apiUrl": url })).await?;
    setting
        .vendor
        .change_learners(|all| all.extend(learners(260, "rust")));
    let id = setting.config("rust", json!({})).await?;
    setting.sync(id).await?;
    assert_eq!(setting.enrolled("rust").await?, 260);

    // The vendor is away. What is asked meanwhile is done afterwards, once.
    cable.refuse().await;
    setting
        .vendor
        .change_learners(|all| all.insert(0, Learner::new(800, "rust")));
    let enrolments = format!("{CONFIGS}/{id}/enrolments");
    let person = json!({ "email": "new@example.com", "name": "New" });
    let trigger = format!("{CONFIGS}/{id}/trigger");
    for _ in 0..2 {
        for (path, body) in [(&enrolments, &person), (&trigger, &Value::Null)] {
            let (status, answer) = setting
                .asked_with("POST", path, body.clone(), Some("once"))
                .await?;
            assert_eq!(status, 202, "{answer}");
        }
    }
    let asked = setting.vendor.requests();
    // How long it is away is what is tested.
    tokio::time::sleep(away).await;
    assert_eq!(setting.vendor.requests(), asked);
    let _cable = Cable::at(address, vendor).await?;
    let run = setting.ended_run(id, 2).await?;
    assert_eq!(
        (&run["state"], &run["error"]),
        (&json!("completed"), &Value::Null),
        "{run}"
    );
    until(SOON, "the enrolment", async || {
        let all = setting.vendor.learners();
        let new = all.iter().find(|one| one.email == "new@example.com");
        Ok(new
            .is_some_and(|new| new.courses.contains_key("rust"))
            .then_some(()))
    })
    .await?;
    assert_eq!(
        (
            ended(&setting, id).await?,
            setting.vendor.asked("POST learners"),
            setting.vendor.asked("POST assign")
        ),
        (2, 1, 1),
        "each was asked for twice with one key"
    );

    // The vendor is slow, and further jobs read on in the same run: no page counts twice.
    setting.vendor.behave(|behaviour| behaviour.delay_ms = 100);
    let clear = "delete from mrlearn.enrolments";
    sqlx::query(clear)
        .execute(&mut setting.world.database().await?)
        .await?;
    assert_eq!(setting.trigger(id).await?, 202);
    pages(&setting, 1).await?;
    let open = "select id from mrlearn.sync_runs where state = 'running'";
    let open = setting.count(open).await?;
    let mut more = Vec::new();
    for _ in 0..2 {
        let data = json!({ "configId": id, "runId": open });
        let job = json!({ "name": "sync", "data": data });
        more.push(setting.host.add(SYNC, job).await?);
    }
    let run = setting.ended_run(id, 3).await?;
    for job in &more {
        setting.host.job_in(SYNC, job, "completed").await?;
    }
    let count = setting.enrolled("rust").await?;
    assert_eq!((&run["state"], count), (&json!("completed"), 262), "{run}");
    let seen = run["seen"].as_i64().unwrap_or_default();
    assert!(
        (262..262 * 2).contains(&seen),
        "every page once, with its overlap, and the front again: {run}"
    );

    // Another revision takes over in the middle.
    assert_eq!(setting.trigger(id).await?, 202);
    pages(&setting, 2).await?;
    let next = variant(&plugin, "next");
    setting.host.deploy("mrlearn", next).await?;
    let run = setting.ended_run(id, 4).await?;
    assert_eq!(run["state"], "completed", "{run}");

    // The key is replaced in the middle: the run fails, and the next one has everybody.
    sqlx::query(clear)
        .execute(&mut setting.world.database().await?)
        .await?;
    assert_eq!(setting.trigger(id).await?, 202);
    pages(&setting, 2).await?;
    setting.vendor.set_key("the-next-key");
    let run = setting.ended_run(id, 5).await?;
    assert_eq!(run["error"]["code"], "bad-credentials", "{run}");
    let mut body = wanted("rust", json!({}));
    body["credentials"]["key"] = json!("the-next-key");
    let path = format!("{CONFIGS}/{id}");
    let (status, answer) = setting.asked("PUT", &path, body).await?;
    assert_eq!((status, &answer["data"]["state"]), (200, &json!("ok")));
    let run = setting.sync(id).await?;
    assert_eq!(run["state"], "completed", "{run}");
    assert_eq!(setting.enrolled("rust").await?, 262);
    assert_eq!(setting.vendor.misplaced(), 0);
    setting.keeps_the_key().await
}

#[tokio::test]
async fn whenever_the_host_is_killed_nobody_is_lost_and_nobody_is_reminded_twice()
-> anyhow::Result<()> {
    const LEARNERS: usize = 60;
    let mut setting = Setting::new().await?;
    setting.vendor.behave(|behaviour| behaviour.delay_ms = 30);
    let waiting = async |setting: &Setting| {
        let (_, answer) = setting.host.get("/api/admin/queues/emailQueue").await?;
        let waiting = answer["data"]["counts"]["waiting"].as_i64();
        anyhow::Ok(waiting.unwrap_or_default())
    };
    let before = waiting(&setting).await?;
    let (mut killer, kills, env) = (Killer::new(), kills(), env());
    let mut moments = Vec::new();
    for n in 0..kills {
        let course = format!("course{n}");
        let first = n * LEARNERS;
        setting.vendor.change_learners(|all| {
            all.extend((first..first + LEARNERS).map(|n| Learner::new(n, &course)));
        });
        let reminder = json!({ "cron": "0 9 * * *", "tz": "Asia/Kolkata", "channel": "email" });
        let id = setting
            .config(&course, json!({ "reminder": reminder }))
            .await?;
        assert_eq!(setting.trigger(id).await?, 202);
        // Once while it reads, once while it reminds.
        if n % 2 == 0 {
            let moment = killer.kills(&setting.world, &mut setting.host, &env, 300);
            moments.push(moment.await?);
        }
        let run = setting.ended_run(id, 1).await?;
        assert_eq!(run["state"], "completed", "{run}");
        assert_eq!(setting.enrolled(&course).await?, i64::try_from(LEARNERS)?);
        let job = json!({ "name": "remind", "data": { "configId": id } });
        let job = setting.host.add(REMINDERS, job).await?;
        if n % 2 == 1 {
            let moment = killer.kills(&setting.world, &mut setting.host, &env, 100);
            moments.push(moment.await?);
        }
        setting.host.job_in(REMINDERS, &job, "completed").await?;
        let expected = i64::try_from(LEARNERS * (n + 1))?;
        let marks = "select count(*) from mrlearn.reminders";
        assert_eq!(setting.count(marks).await?, expected);
        until(SOON, "the messages", async || {
            Ok((waiting(&setting).await? - before >= expected).then_some(()))
        })
        .await?;
        assert_eq!(waiting(&setting).await? - before, expected, "one each");
    }
    println!(
        "{kills} kills, half of them amid a sync and half amid reminders, after {moments:?}: {} learners mirrored and reminded, none twice",
        kills * LEARNERS
    );
    setting.keeps_the_key().await
}
