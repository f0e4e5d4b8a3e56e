//! What somebody without the right to see data cannot learn or do by another way.

use super::*;
use crate::harness::hostile_plugin_with;

/// What a failure of the guest says, and nobody without the right may read.
const SECRET: &str = "lead 4711 of Asha";

#[tokio::test]
async fn whoever_may_not_see_data_gets_failures_without_their_messages() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    host.deploy("hostile", crate::harness::hostile_plugin()?)
        .await?;
    let job = json!({ "name": "fail", "data": { "message": SECRET, "retry": "never" } });
    let id = host.add("hostileQueue", job).await?;
    host.job_in("hostileQueue", &id, "failed").await?;
    until(Duration::from_secs(10), "a dead letter", async || {
        let (_, listed) = host.get("/api/admin/dead-letters").await?;
        Ok((listed["data"].as_array().map_or(0, Vec::len) == 1).then_some(()))
    })
    .await?;
    let (_, whole) = host.get("/api/admin/history/search").await?;
    assert!(whole.to_string().contains(SECRET), "{whole}");

    let mut otto = enrolled(&host, "otto", "operator", false).await?;
    let cookie = session(&host, &mut otto).await?;
    let job = format!("queues/hostileQueue/jobs/{id}");
    for path in [
        "queues/hostileQueue/jobs?state=failed".to_owned(),
        "queues/hostileQueue/search?state=failed".into(),
        job.clone(),
        format!("{job}/timeline"),
        "dead-letters".into(),
        "dead-letters/1".into(),
        "history/search".into(),
        "history/export".into(),
        "history/export?format=csv".into(),
        "queues/hostileQueue/why".into(),
        "status".into(),
        "alerts".into(),
        "alerts/history".into(),
        "activity".into(),
    ] {
        let request = host
            .http
            .get(format!("{}/api/admin/{path}", host.url))
            .header("cookie", &cookie);
        let response = request.send().await?;
        assert_eq!(response.status(), 200, "{path}");
        let shown = response.text().await?;
        assert!(!shown.contains("Asha"), "{path}: {shown}");
    }
    assert!(!host.metrics().await?.contains("Asha"));
    let (_, listed) = get(&host, &cookie, "/api/admin/dead-letters").await?;
    let group = &listed["data"][0];
    assert_eq!(
        (&group["code"], &group["message"], &group["jobs"]),
        (&json!("on-request"), &json!("[redacted]"), &json!(1)),
        "{listed}"
    );
    let preview = json!({ "kind": "retry", "state": "failed", "filter": { "queue": "hostileQueue" }, "dryRun": true });
    let (status, preview) = with(&host, &cookie, "POST", "/api/admin/bulk", Some(preview)).await?;
    assert_eq!(
        (status, &preview["data"]["sample"][0]["failure"]),
        (200, &json!("[redacted]")),
        "{preview}"
    );
    for path in [
        "queues/hostileQueue/search?state=failed&text=Asha",
        "history/search?text=Asha",
        "history/count?text=Asha",
        "history/export?text=Asha",
    ] {
        let (status, refused) = get(&host, &cookie, &format!("/api/admin/{path}")).await?;
        assert_eq!(
            (status, &refused["code"]),
            (403, &json!("data-hidden")),
            "{path}"
        );
    }
    let by_text = json!({ "kind": "retry", "state": "failed", "filter": { "queue": "hostileQueue", "text": "Asha" }, "dryRun": true });
    let (status, refused) = with(&host, &cookie, "POST", "/api/admin/bulk", Some(by_text)).await?;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("data-hidden")),
        "{refused}"
    );
    Ok(())
}

#[tokio::test]
async fn a_revision_that_takes_a_queue_or_redacts_less_needs_somebody_who_may_see_data()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let redacting = |more: &str| {
        let more = more.to_owned();
        hostile_plugin_with(move |manifest| {
            manifest.replace(
                "name = \"hostileQueue\"\n",
                &format!("name = \"hostileQueue\"\n{more}"),
            )
        })
    };
    host.deploy("hostile", redacting("redact = [\"to\"]\n")?)
        .await?;
    let mut otto = enrolled(&host, "otto", "operator", false).await?;
    let cookie = session(&host, &mut otto).await?;
    let staged = async |component: Vec<u8>| -> anyhow::Result<Value> {
        let (status, staged) = host.push(component).await?;
        assert_eq!(status, 200, "{staged}");
        Ok(staged["data"]["digest"].clone())
    };
    let activate = async |digest: &Value| {
        let body = json!({ "digest": digest });
        let path = "/api/admin/plugins/hostile/activate";
        with(&host, &cookie, "POST", path, Some(body)).await
    };
    let wider = hostile_plugin_with(|manifest| {
        let manifest = manifest.replace(
            "name = \"hostileQueue\"\n",
            "name = \"hostileQueue\"\nredact = [\"to\"]\n",
        );
        format!("{manifest}\n[[queues]]\nname = \"emailQueue\"\n")
    })?;
    for (component, what) in [
        (redacting("")?, "no longer redacts to"),
        (wider, "takes the queue emailQueue"),
    ] {
        let (status, refused) = activate(&staged(component).await?).await?;
        assert_eq!(
            (status, &refused["code"]),
            (403, &json!("data-hidden")),
            "{refused}"
        );
        assert!(text(&refused["message"]).contains(what), "{refused}");
    }
    let same = staged(redacting("redact = [\"to\", \"more\"]\n")?).await?;
    let (status, activated) = activate(&same).await?;
    assert_eq!(status, 200, "{activated}");
    // Stopping it first does not help.
    let path = "/api/admin/plugins/hostile/deactivate";
    assert_eq!(with(&host, &cookie, "POST", path, None).await?.0, 200);
    let (status, refused) = activate(&staged(redacting("")?).await?).await?;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("data-hidden")),
        "{refused}"
    );
    assert_eq!(activate(&same).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_flood_of_wrong_tokens_hides_no_refusal_of_a_named_operator() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = [
        &ENV[..],
        &[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")],
    ]
    .concat();
    let host = world.host(&env).await?;
    let mut vera = enrolled(&host, "vera", "viewer", false).await?;
    let cookie = session(&host, &mut vera).await?;
    for n in 0..150 {
        let request = host
            .http
            .get(format!("{}/api/admin/queues", host.url))
            .header("x-forwarded-for", format!("192.0.2.{}", n % 15 + 1))
            .bearer_auth("pbt_wrong_token");
        assert_eq!(request.send().await?.status(), 401);
    }
    let path = "/api/admin/queues/emailQueue/pause";
    assert_eq!(with(&host, &cookie, "POST", path, None).await?.0, 403);
    let refused = entries_once(&world, "operator.refused", 1).await?;
    assert_eq!(
        (refused[0].0.as_str(), refused[0].1.as_deref()),
        ("vera", Some("queues.pause"))
    );
    Ok(())
}

#[tokio::test]
async fn a_link_on_another_site_writes_no_reveal_and_no_export_into_an_operators_record()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    host.deploy("hostile", crate::harness::hostile_plugin()?)
        .await?;
    let id = host
        .add("hostileQueue", json!({ "name": "ok", "data": {} }))
        .await?;
    let mut ada = enrolled(&host, "ada", "owner", true).await?;
    let cookie = session(&host, &mut ada).await?;
    let follow = async |path: &str, site: &str| -> anyhow::Result<(u16, String)> {
        let request = host
            .http
            .get(format!("{}/api/admin/{path}", host.url))
            .header("cookie", &cookie)
            .header("sec-fetch-site", site)
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document");
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    };
    let job = format!("queues/hostileQueue/jobs/{id}");
    let mut database = world.database().await?;
    let actions = "select count(*) from patchbay.operator_actions";
    let before: i64 = sqlx::query_scalar(actions).fetch_one(&mut database).await?;
    for path in [
        format!("{job}?reveal=true&reason=curious"),
        format!("{job}/timeline?reveal=true"),
        "queues/hostileQueue/jobs?state=failed&reveal=true".into(),
        "plugins/hostile/settings?reveal=true".into(),
        "history/export".into(),
        format!("history/bodies/hostileQueue/{id}"),
        "incident".into(),
        "audit/export".into(),
    ] {
        for site in ["cross-site", "same-site"] {
            let (status, refused) = follow(&path, site).await?;
            assert_eq!(status, 403, "{path}: {refused}");
            assert!(refused.contains("\"cross-site\""), "{path}: {refused}");
        }
    }
    let after: i64 = sqlx::query_scalar(actions).fetch_one(&mut database).await?;
    assert_eq!(after, before, "nothing was done under ada's name");
    for path in [
        job.as_str(),
        "queues/hostileQueue/jobs?state=failed",
        "status",
    ] {
        assert_eq!(follow(path, "cross-site").await?.0, 200, "{path}");
    }
    let (status, shown) = follow(&format!("{job}?reveal=true"), "none").await?;
    assert_eq!(status, 200, "from the address bar: {shown}");
    Ok(())
}

#[tokio::test]
async fn a_viewer_neither_raises_nor_clears_a_finding_of_an_audit_trail_and_each_verification_is_recorded()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut vera = enrolled(&host, "vera", "viewer", false).await?;
    let cookie = session(&host, &mut vera).await?;
    let path = "/api/admin/audit/verify";
    let verify = async |body: Value| with(&host, &cookie, "POST", path, Some(body)).await;
    let mut database = world.database().await?;
    until(Duration::from_secs(10), "a batch", async || {
        let (_, anchors) = host.get("/api/admin/audit/anchors").await?;
        Ok(anchors["data"]
            .as_array()
            .filter(|all| !all.is_empty())
            .map(drop))
    })
    .await?;
    let mut stored = async || -> anyhow::Result<Option<String>> {
        let found = "select result from patchbay.audit_verifications where trail = 'operators'";
        Ok(sqlx::query_scalar(found)
            .fetch_optional(&mut database)
            .await?)
    };
    let (status, report) = verify(json!({})).await?;
    assert_eq!(
        (status, &report["data"]["result"]),
        (200, &json!("whole")),
        "{report}"
    );
    assert_eq!(stored().await?.as_deref(), Some("whole"));
    let invented = json!({ "trail": "operators", "epoch": 9, "n": 9_999, "chain": "a".repeat(64) });
    let (status, report) = verify(json!({ "anchors": [invented] })).await?;
    assert_eq!(
        (status, &report["data"]["result"]),
        (200, &json!("shorter")),
        "its asker is told"
    );
    assert_eq!(stored().await?.as_deref(), Some("whole"), "nobody else is");
    // A host that reads an anchor outside has found the trail to be shorter. One that does not read
    // it verifies now.
    let mut other = world.database().await?;
    sqlx::query(
        "update patchbay.audit_verifications set result = 'shorter', anchors = $1 where trail = 'operators'",
    )
    .bind(json!([invented]))
    .execute(&mut other)
    .await?;
    let (status, report) = verify(json!({})).await?;
    assert_eq!(
        (status, &report["data"]["result"]),
        (200, &json!("shorter")),
        "{report}"
    );
    assert_eq!(stored().await?.as_deref(), Some("shorter"), "it stays");
    let (_, activity) = host
        .get("/api/admin/activity?actor=vera&action=audit.verify")
        .await?;
    assert_eq!(
        activity["data"].as_array().map_or(0, Vec::len),
        3,
        "{activity}"
    );
    Ok(())
}
