//! From a config to mirrored learners, reminders and back, with a vendor that misbehaves.

use patchbay_stand_ins::graphy::{Fault, Learner, Misdeed};
use serde_json::{Value, json};

use super::{CONFIGS, KEY, NEW_STUDENTS, REMINDERS, SOON, SYNC, Setting, env, learners, wanted};
use crate::harness::until;
use crate::people::verified;

#[tokio::test]
async fn a_course_is_mirrored_by_its_own_schedule_and_a_second_sync_writes_only_what_changed()
-> anyhow::Result<()> {
    let setting = Setting::new().await?;
    setting.vendor.change_learners(|all| {
        all.extend(learners(130, "rust"));
        all.extend((500..530).map(|n| Learner::new(n, "go")));
    });

    // Who may, and what is refused; nothing is left of a config that cannot be.
    let (status, _) = setting.host.get(CONFIGS).await?;
    assert!([401, 403].contains(&status), "{status}");
    for (more, field) in [
        (json!({ "intervalHours": 0 }), "intervalHours"),
        (json!({ "credentials": { "mid": "m" } }), "key"),
        (
            json!({ "reminder": { "cron": "99 9 * * *", "channel": "email" } }),
            "cron",
        ),
        (
            json!({ "reminder": { "cron": "* * * * * *", "channel": "email" } }),
            "cron",
        ),
    ] {
        let (status, answer) = setting.asked("POST", CONFIGS, wanted("rust", more)).await?;
        let told = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && told.contains(field), "{status} {answer}");
    }
    assert_eq!(setting.get(CONFIGS).await?, json!([]));

    // Wrong credentials are found when they are saved, and asked about once.
    let wrong = json!({ "credentials": { "mid": "m", "key": "k" } });
    let (status, answer) = setting
        .asked("POST", CONFIGS, wanted("rust", wrong))
        .await?;
    assert_eq!(
        (status, &answer["data"]["state"]),
        (201, &json!("bad-credentials"))
    );
    let id = answer["data"]["id"].as_i64().unwrap_or_default();
    let path = format!("{CONFIGS}/{id}");
    assert_eq!(setting.trigger(id).await?, 409);
    let skipped = setting
        .job(
            SYNC,
            "sync",
            json!({ "configId": id, "trigger": "schedule" }),
        )
        .await?;
    assert_eq!(skipped, json!({ "skipped": "bad-credentials" }));
    setting.job(NEW_STUDENTS, "new-students", json!({})).await?;
    assert_eq!(
        (setting.vendor.requests(), setting.vendor.refused()),
        (1, 1)
    );
    let (status, answer) = setting
        .asked("POST", CONFIGS, wanted("rust", json!({})))
        .await?;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")));

    // With right ones it goes. Its schedule is its own, and stays with the same id.
    let (status, answer) = setting
        .asked("PUT", &path, wanted("rust", json!({})))
        .await?;
    assert_eq!((status, &answer["data"]["state"]), (200, &json!("ok")));
    let name = format!("mrlearn-sync-{id}");
    let schedule = setting.ticking(&name).await?;
    assert_eq!(
        (&schedule["everyMs"], &schedule["plugin"]),
        (&json!(6 * 3_600_000), &json!("mrlearn"))
    );
    let run = setting.sync(id).await?;
    assert_eq!(
        (&run["state"], &run["written"], &run["trigger"]),
        (&json!("completed"), &json!(260), &json!("manual")),
        "130 learners and as many enrolments: {run}"
    );
    assert_eq!(setting.enrolled("rust").await?, 130);
    assert_eq!(setting.enrolled("go").await?, 0);

    // Nothing has changed: nothing is written. One progress, one who left, one who is new.
    let run = setting.sync(id).await?;
    assert_eq!(
        (&run["state"], &run["written"]),
        (&json!("completed"), &json!(0))
    );
    setting.vendor.change_learners(|all| {
        all[3].courses.insert("rust".into(), 77);
        all[4].courses.clear();
        all.insert(0, Learner::new(800, "rust"));
    });
    let found = setting.job(NEW_STUDENTS, "new-students", json!({})).await?;
    assert_eq!(
        (&found["configs"], &found["written"]),
        (&json!(1), &json!(4))
    );
    let run = setting.sync(id).await?;
    assert_eq!(
        run["written"], 0,
        "the fast sync has seen it already: {run}"
    );
    assert_eq!(setting.enrolled("rust").await?, 130);
    let (status, answer) = setting
        .asked(
            "PUT",
            &path,
            wanted("rust", json!({ "credentials": { "mid": "", "key": "k" } })),
        )
        .await?;
    assert_eq!(status, 400, "{answer}");

    // Over all courses, in pages; detailed reports cost a question per learner whose row changes.
    let detailed = json!({ "detailedReports": true, "intervalHours": 1 });
    let go = setting.config("go", detailed).await?;
    let run = setting.sync(go).await?;
    assert_eq!(
        (&run["state"], &run["written"]),
        (&json!("completed"), &json!(60))
    );
    assert_eq!(setting.vendor.asked("GET usage"), 30);
    let run = setting.sync(go).await?;
    assert_eq!(
        (&run["written"], setting.vendor.asked("GET usage")),
        (&json!(0), 30)
    );
    let timed = "select count(*) from mrlearn.enrolments where course_id = 'go' and time_spent_s = progress * 61";
    assert_eq!(setting.count(timed).await?, 30);
    let students = setting
        .get("/api/graphy/sync/students?limit=100&search=learner5")
        .await?;
    let first = &students["students"][0];
    assert_eq!(
        (&first["courses"], &first["email"]),
        (&json!(1), &json!("learner5@example.com"))
    );
    let (mut seen, mut after) = (0, String::new());
    loop {
        let page = setting
            .get(&format!("/api/graphy/sync/students?limit=100{after}"))
            .await?;
        seen += page["students"].as_array().map_or(0, Vec::len);
        match page["nextCursor"].as_str() {
            Some(cursor) => after = format!("&after={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, 160);

    // A learner becomes an account, once; its owner claims it. One without an address cannot.
    let promote = |learner: &str| format!("/api/graphy/sync/students/{learner}/account");
    let (status, made) = setting
        .asked("POST", &promote("learner000001"), Value::Null)
        .await?;
    assert_eq!((status, &made["data"]["isNew"]), (201, &json!(true)));
    let account = made["data"]["accountId"].clone();
    let (status, again) = setting
        .asked("POST", &promote("learner000001"), Value::Null)
        .await?;
    assert_eq!(
        (status, &again["data"]["isNew"], &again["data"]["accountId"]),
        (200, &json!(false), &account)
    );
    let claimed = verified(&setting.world, &setting.host, "learner1@example.com").await?;
    assert_eq!(claimed["user"]["id"], account);
    let (status, _) = setting
        .asked("POST", &promote("nobody"), Value::Null)
        .await?;
    assert_eq!(status, 404);
    let without = "update mrlearn.learners set email = null where id = 'learner000002'";
    sqlx::query(without)
        .execute(&mut setting.world.database().await?)
        .await?;
    let (status, answer) = setting
        .asked("POST", &promote("learner000002"), Value::Null)
        .await?;
    assert_eq!(status, 409, "{answer}");
    let search = "/api/graphy/sync/students?search=learner1@example.com";
    let listed = setting.get(search).await?;
    assert_eq!(listed["students"][0]["accountId"], account);

    // Gone with everything that belongs to it.
    let (status, _) = setting.asked("DELETE", &path, Value::Null).await?;
    assert_eq!(status, 204);
    assert!(setting.schedule(&name).await?.is_none());
    assert_eq!(setting.asked("GET", &path, Value::Null).await?.0, 404);
    let (_, secrets) = setting
        .host
        .get("/api/admin/plugins/mrlearn/secrets")
        .await?;
    let secrets = secrets.to_string();
    assert!(!secrets.contains(&format!("KEPT_GRAPHY_{id}\"")) && secrets.contains("KEPT_GRAPHY_"));
    let skipped = setting.job(SYNC, "sync", json!({ "configId": id })).await?;
    assert_eq!(skipped, json!({ "skipped": "no-such-config" }));
    assert_eq!(setting.vendor.misplaced(), 0);
    setting.keeps_the_key().await
}

#[tokio::test]
async fn a_vendor_that_misbehaves_costs_attempts_and_loses_nobody() -> anyhow::Result<()> {
    let mut setting = Setting::new().await?;
    setting
        .vendor
        .change_learners(|all| all.extend(learners(400, "rust")));
    let id = setting.config("rust", json!({})).await?;

    // Whatever breaks in the middle, the run goes on where it was.
    for misdeed in [
        Misdeed::Status(500),
        Misdeed::Html(502),
        Misdeed::Html(200),
        Misdeed::Error(7),
        Misdeed::Reset,
        Misdeed::Slow(300),
    ] {
        let asked = setting.vendor.asked("GET learners");
        setting
            .vendor
            .fault(Fault::new(misdeed.clone(), 2).after(4));
        let run = setting.sync(id).await?;
        assert_eq!(
            (&run["state"], &run["error"]),
            (&json!("completed"), &Value::Null),
            "{misdeed:?}: {run}"
        );
        let pages = setting.vendor.asked("GET learners") - asked;
        assert!(pages <= 14, "{misdeed:?}: {pages} questions for 11 pages");
    }
    assert_eq!(setting.enrolled("rust").await?, 400);
    setting.vendor.fault(Fault::new(Misdeed::Status(404), 1));
    let run = setting.sync(id).await?;
    assert_eq!(
        (&run["state"], &run["error"]["code"]),
        (&json!("failed"), &json!("upstream"))
    );

    // The list changes under its reader: 20 leave at the front and 7 come before each page.
    setting.vendor.behave(|behaviour| {
        behaviour.removes_per_page = 20;
        behaviour.adds_per_page = 7;
        behaviour.changes = 9;
    });
    let clear = "delete from mrlearn.enrolments";
    sqlx::query(clear)
        .execute(&mut setting.world.database().await?)
        .await?;
    let run = setting.sync(id).await?;
    assert_eq!(run["state"], "completed", "{run}");
    let there = setting.vendor.learners();
    let there = there
        .iter()
        .filter(|learner| learner.courses.contains_key("rust"));
    let mut lost = 0;
    for learner in there.clone() {
        let known = format!(
            "select count(*) from mrlearn.enrolments where learner_id = '{}' and course_id = 'rust'",
            learner.id
        );
        lost += i64::from(setting.count(&known).await? == 0);
    }
    assert_eq!((lost, there.count() > 200), (0, true));

    // The credentials end: one failure, one mark, no further question. New ones, and it goes on.
    setting.vendor.set_key("another");
    let run = setting.sync(id).await?;
    assert_eq!(
        (&run["state"], &run["error"]["code"]),
        (&json!("failed"), &json!("bad-credentials"))
    );
    assert_eq!(setting.state(id).await?, "bad-credentials");
    let asked = setting.vendor.requests();
    assert_eq!(setting.trigger(id).await?, 409);
    setting.job(SYNC, "sync", json!({ "configId": id })).await?;
    setting.job(NEW_STUDENTS, "new-students", json!({})).await?;
    assert_eq!(setting.vendor.requests(), asked, "nothing is asked");
    setting.vendor.set_key(KEY);
    let path = format!("{CONFIGS}/{id}");
    let (_, answer) = setting
        .asked("PUT", &path, wanted("rust", json!({})))
        .await?;
    assert_eq!(answer["data"]["state"], "ok");

    // The host is killed in the middle of the run; the next one goes on with it.
    setting.vendor.behave(|behaviour| {
        behaviour.removes_per_page = 0;
        behaviour.adds_per_page = 0;
        behaviour.delay_ms = 150;
    });
    assert_eq!(setting.trigger(id).await?, 202);
    let open =
        "select coalesce(max(pages), 0)::int8 from mrlearn.sync_runs where state = 'running'";
    until(SOON, "some pages", async || {
        Ok((setting.count(open).await? >= 3).then_some(()))
    })
    .await?;
    setting.host.child.kill().await?;
    let read = setting.count(open).await?;
    let asked = setting.vendor.asked("GET learners");
    setting.vendor.behave(|behaviour| behaviour.delay_ms = 0);
    setting.host = setting.world.host(&env()).await?;
    let runs = setting.get(&format!("{path}/runs")).await?;
    let count = runs.as_array().map_or(0, Vec::len);
    let run = setting.ended_run(id, count).await?;
    let pages = run["pages"].as_i64().unwrap_or_default();
    assert_eq!(run["state"], "completed", "{run}");
    let more = i64::try_from(setting.vendor.asked("GET learners") - asked)?;
    assert!(
        more <= pages - read + 1,
        "{pages} pages, {read} before: {more} questions"
    );
    assert_eq!(setting.vendor.misplaced(), 0);
    setting.keeps_the_key().await
}

#[tokio::test]
async fn learners_are_enrolled_once_and_reminded_at_most_once_a_day() -> anyhow::Result<()> {
    let setting = Setting::new().await?;
    setting.vendor.change_learners(|all| {
        all.extend(learners(120, "rust"));
        // In both courses, and one who has finished.
        all[7].courses.insert("go".into(), 5);
        all[8].courses.insert("rust".into(), 100);
        all[9].email.clear();
    });
    let mail = json!({ "cron": "0 9 * * *", "tz": "Asia/Kolkata", "channel": "email", "belowPercent": 50 });
    let rust = setting.config("rust", json!({ "reminder": mail })).await?;
    let phone = json!({ "cron": "0 10 * * *", "channel": "whatsapp" });
    let go = setting.config("go", json!({ "reminder": phone })).await?;
    let schedule = setting.ticking(&format!("mrlearn-remind-{rust}")).await?;
    assert_eq!(
        (&schedule["cron"], &schedule["tz"], &schedule["queue"]),
        (
            &json!("0 9 * * *"),
            &json!("Asia/Kolkata"),
            &json!(REMINDERS)
        )
    );

    // Enrolling is a success whatever was done before, once the vendor shows it.
    let person = json!({ "email": "new@example.com", "name": "New", "mobile": "+919876543210" });
    let path = format!("{CONFIGS}/{go}/enrolments");
    let jobs = async |outcome: &str| {
        let path = format!("/api/admin/queues/{SYNC}/jobs?state={outcome}&limit=100");
        let (_, answer) = setting.host.get(&path).await?;
        let all = answer["data"].as_array().cloned().unwrap_or_default();
        anyhow::Ok(all.iter().filter(|job| job["name"] == "enrol").count())
    };
    for (round, (creates, assigns)) in [(1, 1), (2, 1)].into_iter().enumerate() {
        let (status, answer) = setting.asked("POST", &path, person.clone()).await?;
        assert_eq!(status, 202, "{answer}");
        until(SOON, "it is enrolled", async || {
            Ok((jobs("completed").await? > round).then_some(()))
        })
        .await?;
        let made = (
            setting.vendor.asked("POST learners"),
            setting.vendor.asked("POST assign"),
        );
        assert_eq!(made, (creates, assigns), "round {round}");
    }
    let bare = Learner {
        id: "bare".into(),
        email: "bare@example.com".into(),
        courses: std::collections::BTreeMap::from([("go".into(), 3)]),
        ..Learner::new(777, "go")
    };
    setting.vendor.change_learners(|all| all.push(bare));
    let there = json!({ "configId": go, "email": "bare@example.com", "name": "Bare" });
    let result = setting.job(SYNC, "enrol", there).await?;
    assert_eq!(
        result,
        json!({ "learnerId": "[redacted]", "learnerIsNew": false, "courseIsNew": false })
    );
    let (status, answer) = setting
        .asked("POST", &path, json!({ "email": "no address", "name": "N" }))
        .await?;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(setting.vendor.misplaced(), 0);

    // Reminders: by mail under 50 percent, then by WhatsApp whoever was not reminded today.
    setting.sync(rust).await?;
    setting.sync(go).await?;
    let waiting = async |queue: &str| {
        let path = format!("/api/admin/queues/{queue}");
        let (_, answer) = setting.host.get(&path).await?;
        let counts = &answer["data"]["counts"];
        anyhow::Ok(counts["waiting"].as_i64().unwrap_or_default())
    };
    let before = waiting("emailQueue").await?;
    let first = setting
        .job(REMINDERS, "remind", json!({ "configId": rust }))
        .await?;
    // 0 to 49 and 100 to 119, without number 9, and number 8 has finished.
    assert_eq!(first, json!({ "reminded": 68, "channel": "email" }));
    for _ in 0..2 {
        let again = setting
            .job(REMINDERS, "remind", json!({ "configId": rust }))
            .await?;
        assert_eq!(again["reminded"], 0);
    }
    let second = setting
        .job(REMINDERS, "remind", json!({ "configId": go }))
        .await?;
    assert_eq!(
        second,
        json!({ "reminded": 2, "channel": "whatsapp" }),
        "number 7 had one today"
    );
    until(SOON, "the messages", async || {
        let mails = waiting("emailQueue").await? - before;
        Ok((mails == 68 && waiting("whatsappQueue").await? == 2).then_some(()))
    })
    .await?;
    let (_, mails) = setting
        .host
        .get("/api/admin/queues/emailQueue/jobs?state=waiting&limit=100")
        .await?;
    let mails = mails["data"].as_array().cloned().unwrap_or_default();
    let ids: std::collections::BTreeSet<_> =
        mails.iter().map(|job| job["id"].to_string()).collect();
    assert_eq!(ids.len(), mails.len());
    let day = "select count(*) from mrlearn.reminders group by learner_id, day having count(*) > 1";
    let row = sqlx::query(day)
        .fetch_optional(&mut setting.world.database().await?)
        .await?;
    assert!(row.is_none());

    // What got lost comes back by itself, and what belongs to nobody goes.
    sqlx::query("delete from patchbay.schedules where id like 'mrlearn-remind-%'")
        .execute(&mut setting.world.database().await?)
        .await?;
    sqlx::query("delete from mrlearn.sync_configs where id = $1")
        .bind(go)
        .execute(&mut setting.world.database().await?)
        .await?;
    let mended = setting.job(NEW_STUDENTS, "reconcile", json!({})).await?;
    assert_eq!(
        (&mended["schedulesRestored"], &mended["schedulesRemoved"]),
        (&json!(1), &json!(1)),
        "{mended}"
    );
    setting.ticking(&format!("mrlearn-remind-{rust}")).await?;
    assert!(
        setting
            .schedule(&format!("mrlearn-sync-{go}"))
            .await?
            .is_none()
    );
    setting.keeps_the_key().await
}
