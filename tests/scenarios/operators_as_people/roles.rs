//! What each role may do, and who may see data of jobs.

use patchbay_api::operation::{JobData, Operation};
use patchbay_model::operator::OperatorRole;

use super::*;
use crate::harness::{email_plugin, mail_job};

/// The path with a value in each place.
fn filled(operation: &Operation) -> String {
    let parts = operation.path.split('/');
    let parts = parts.map(|part| if part.starts_with('{') { "1" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn each_operation_asks_for_the_role_that_the_table_names() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut cookies = Vec::new();
    for (name, role) in [
        ("vera", OperatorRole::Viewer),
        ("otto", OperatorRole::Operator),
    ] {
        let mut person = enrolled(&host, name, role.as_str(), true).await?;
        cookies.push((role, session(&host, &mut person).await?));
    }
    let changes: Vec<&str> = patchbay_api::operations()
        .filter(|operation| operation.may_change())
        .filter_map(|operation| operation.audit)
        .collect();
    let mut refused = 0;
    for operation in patchbay_api::operations() {
        let Some(needed) = operation.access.role() else {
            continue;
        };
        for (role, cookie) in &cookies {
            let is_allowed = *role >= needed;
            // What an operator may change stays as it is.
            if operation.may_change() && is_allowed {
                continue;
            }
            let method = format!("{:?}", operation.method);
            let request = host
                .http
                .request(method.parse()?, host.url.clone() + &filled(operation))
                .header("cookie", cookie);
            let response = request.send().await?;
            let status = response.status().as_u16();
            let body = response.text().await?;
            let is_refused = status == 403 && body.contains("\"forbidden\"");
            assert_eq!(
                is_refused, !is_allowed,
                "{role} {}: {status} {body}",
                operation.id
            );
            assert_ne!(status, 401, "{}", operation.id);
            if is_refused {
                assert!(
                    body.contains(needed.as_str()) && body.contains(role.as_str()),
                    "{}: {body}",
                    operation.id
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
    let mut database = world.database().await?;
    let changed: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.operator_actions where actor in ('vera', 'otto') and action = any($1)",
    )
    .bind(&changes)
    .fetch_one(&mut database)
    .await?;
    assert_eq!(changed, 0);
    // Ten a minute of each are in the trail.
    let noted = entries_once(&world, "operator.refused", 20).await?;
    assert!(noted.len() <= 60, "{}", noted.len());
    assert_eq!(noted[0].2["code"], "forbidden", "{noted:?}");
    Ok(())
}

#[tokio::test]
async fn a_change_of_an_operator_acts_on_the_next_request_on_every_host() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&ENV).await?, world.host(&ENV).await?);
    let mut ada = enrolled(&host, "ada", "operator", false).await?;
    let cookie = session(&host, &mut ada).await?;
    let may_push = async |host: &Host| {
        // Refused for its content, not for its sender.
        let (status, body) =
            with(host, &cookie, "POST", "/api/admin/queues/none/pause", None).await?;
        anyhow::Ok(status != 403 && body["code"] != "forbidden")
    };
    assert!(may_push(&host).await? && may_push(&other).await?);
    let (status, changed) = host
        .put("/api/admin/operators/ada/role", json!({ "role": "viewer" }))
        .await?;
    assert_eq!(
        (status, &changed["data"]["role"]),
        (200, &json!("viewer")),
        "{changed}"
    );
    assert!(!may_push(&host).await?, "the next request");
    until(
        Duration::from_secs(1),
        "the role on the other host",
        async || Ok((!may_push(&other).await?).then_some(())),
    )
    .await?;
    let (status, changed) = host
        .post("/api/admin/operators/ada/disable", json!({}))
        .await?;
    assert_eq!(
        (status, &changed["data"]["state"]),
        (200, &json!("disabled")),
        "{changed}"
    );
    assert_eq!(get(&host, &cookie, "/api/admin/session").await?.0, 401);
    until(
        Duration::from_secs(1),
        "the end on the other host",
        async || Ok((get(&other, &cookie, "/api/admin/session").await?.0 == 401).then_some(())),
    )
    .await?;
    let code = ada.recovery_codes.pop().context("a code")?;
    let body = json!({ "name": "ada", "password": PASSWORD, "recoveryCode": code });
    assert_eq!(log_in(&host, body.clone()).await?.0, 401, "disabled");
    let (status, changed) = host
        .post("/api/admin/operators/ada/enable", json!({}))
        .await?;
    assert_eq!(
        (status, &changed["data"]["state"]),
        (200, &json!("active")),
        "{changed}"
    );
    assert_eq!(log_in(&host, body).await?.0, 200, "the code was not used");
    assert_eq!(
        get(&host, &cookie, "/api/admin/session").await?.0,
        401,
        "ended for good"
    );
    Ok(())
}

#[tokio::test]
async fn of_two_owners_who_disable_each_other_at_once_one_stays() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let other = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let mut bob = enrolled(&host, "bob", "owner", false).await?;
    let (of_ada, of_bob) = (
        session(&host, &mut ada).await?,
        session(&host, &mut bob).await?,
    );
    let at_once = futures::future::try_join(
        with(
            &host,
            &of_ada,
            "POST",
            "/api/admin/operators/bob/disable",
            None,
        ),
        with(
            &other,
            &of_bob,
            "POST",
            "/api/admin/operators/ada/disable",
            None,
        ),
    );
    let (one, two) = at_once.await?;
    let done = [&one, &two]
        .iter()
        .filter(|(status, _)| *status == 200)
        .count();
    assert_eq!(done, 1, "{one:?} {two:?}");
    let mut database = world.database().await?;
    let owners: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.operators where role = 'owner' and state = 'active'",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(owners, 1);
    for (method, path, body) in [
        ("PUT", "role", json!({ "role": "viewer" })),
        ("POST", "disable", json!({})),
    ] {
        let name = if one.0 == 200 { "ada" } else { "bob" };
        let path = format!("/api/admin/operators/{name}/{path}");
        let (status, refused) = match method {
            "PUT" => host.put(&path, body).await?,
            _ => host.post(&path, body).await?,
        };
        assert_eq!(
            (status, &refused["code"]),
            (409, &json!("conflict")),
            "{refused}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn names_are_for_people_and_are_never_used_again() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let create = async |name: &str| {
        let body = json!({ "name": name, "role": "viewer" });
        host.post("/api/admin/operators", body).await
    };
    for name in [
        "",
        "Ada",
        "operator",
        "host",
        "user",
        "1ada",
        "ada lovelace",
        "a/b",
        &"a".repeat(64),
    ] {
        let (status, refused) = create(name).await?;
        assert_eq!(
            (status, &refused["code"]),
            (400, &json!("invalid-input")),
            "{name}"
        );
    }
    assert_eq!(create("ada.l-1_x").await?.0, 200);
    let (status, refused) = create("ada.l-1_x").await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("conflict")),
        "{refused}"
    );
    let (status, _) = host.get("/api/admin/operators/nobody").await?;
    assert_eq!(status, 404);
    let (status, refused) = host
        .post(
            "/api/admin/operators",
            json!({ "name": "bob", "role": "root" }),
        )
        .await?;
    assert_eq!(status, 422, "{refused}");
    Ok(())
}

#[tokio::test]
async fn whoever_may_not_see_data_gets_answers_without_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(7) }))
        .await?;
    host.job_in("emailQueue", &id, "completed").await?;
    let mut vera = enrolled(&host, "vera", "viewer", false).await?;
    let cookie = session(&host, &mut vera).await?;
    let job = format!("/api/admin/queues/emailQueue/jobs/{id}");
    let (status, shown) = get(&host, &cookie, &job).await?;
    assert_eq!(status, 200, "{shown}");
    let view = &shown["data"]["job"];
    assert_eq!(
        (&view["data"], &view["returnValue"], &view["state"]),
        (
            &json!("[redacted]"),
            &json!("[redacted]"),
            &json!("completed")
        ),
        "{shown}"
    );
    let (_, listed) = get(
        &host,
        &cookie,
        "/api/admin/queues/emailQueue/jobs?state=completed",
    )
    .await?;
    assert_eq!(listed["data"][0]["data"], "[redacted]", "{listed}");
    let refused = |path: &str| format!("/api/admin/{path}");
    for path in [
        format!("queues/emailQueue/jobs/{id}?reveal=true"),
        "queues/emailQueue/search?state=completed&data.to=person7@example.com".to_owned(),
        "history/search?data.to=person7@example.com".to_owned(),
        "history/count?data.to=person7@example.com".to_owned(),
        "history/export?bodies=true".to_owned(),
        format!("history/bodies/emailQueue/{id}"),
        "audit".to_owned(),
        "audit?trail=login_logs".to_owned(),
    ] {
        let (status, body) = get(&host, &cookie, &refused(&path)).await?;
        assert_eq!(
            (status, &body["code"]),
            (403, &json!("data-hidden")),
            "{path}"
        );
        assert!(
            text(&body["message"]).contains("patchbay operator data vera on"),
            "{body}"
        );
    }
    assert_eq!(
        get(&host, &cookie, &refused("audit?trail=operators"))
            .await?
            .0,
        200
    );
    let (status, changed) = host
        .put(
            "/api/admin/operators/vera/data",
            json!({ "maySeeData": true }),
        )
        .await?;
    assert_eq!(
        (status, &changed["data"]["maySeeData"]),
        (200, &json!(true)),
        "{changed}"
    );
    let (_, shown) = get(&host, &cookie, &job).await?;
    let data = text(&shown["data"]["job"]["data"]);
    assert!(
        data.contains("subject"),
        "as the manifest redacts it: {data}"
    );
    let (status, shown) = get(&host, &cookie, &format!("{job}?reveal=true")).await?;
    assert_eq!(status, 200, "{shown}");
    let data = text(&shown["data"]["job"]["data"]);
    assert!(data.contains("person7@example.com"), "{data}");
    Ok(())
}

#[tokio::test]
async fn an_operator_without_the_right_cannot_learn_data_by_searches_and_bulk_operations()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    host.deploy("email", email_plugin()?).await?;
    let mut otto = enrolled(&host, "otto", "operator", false).await?;
    let cookie = session(&host, &mut otto).await?;
    let search = json!({ "filter": { "queue": "emailQueue", "data.to": "person7@example.com" }, "state": "failed" });
    let (status, saved) = host.put("/api/admin/history/searches/mine", search).await?;
    assert_eq!(status, 200, "{saved}");
    let (_, listed) = get(&host, &cookie, "/api/admin/history/searches").await?;
    assert!(!listed.to_string().contains("person7"), "{listed}");
    let (status, refused) = get(&host, &cookie, "/api/admin/history/searches/mine/run").await?;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("data-hidden")),
        "{refused}"
    );
    for body in [
        json!({ "kind": "retry", "state": "failed", "filter": { "queue": "emailQueue", "data.to": "a" }, "dryRun": true }),
        json!({ "kind": "retry", "state": "failed", "filter": { "queue": "emailQueue" }, "dryRun": true, "withData": true }),
        json!({ "kind": "edit-and-retry", "state": "failed", "filter": { "queue": "emailQueue" }, "set": { "to": "x" }, "dryRun": true }),
    ] {
        let (status, refused) = with(
            &host,
            &cookie,
            "POST",
            "/api/admin/bulk",
            Some(body.clone()),
        )
        .await?;
        assert_eq!(
            (status, &refused["code"]),
            (403, &json!("data-hidden")),
            "{body}"
        );
    }
    let body = json!({ "kind": "retry", "state": "failed", "filter": { "queue": "emailQueue" }, "dryRun": true });
    let (status, preview) = with(&host, &cookie, "POST", "/api/admin/bulk", Some(body)).await?;
    assert_eq!(status, 200, "{preview}");
    Ok(())
}

#[tokio::test]
async fn an_operator_replaces_a_plugin_but_gives_it_no_rights() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut otto = enrolled(&host, "otto", "operator", false).await?;
    let cookie = session(&host, &mut otto).await?;
    let push = host
        .http
        .post(format!("{}/api/admin/plugins", host.url))
        .header("cookie", &cookie)
        .body(email_plugin()?);
    let (status, staged) = answer(push).await?;
    assert_eq!(status, 200, "{staged}");
    let digest = &staged["data"]["digest"];
    let activate = async |grant: bool| {
        let body = json!({ "digest": digest, "grant": grant });
        with(
            &host,
            &cookie,
            "POST",
            "/api/admin/plugins/email/activate",
            Some(body),
        )
        .await
    };
    let (status, refused) = activate(false).await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("not-granted")),
        "{refused}"
    );
    let (status, refused) = activate(true).await?;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("forbidden")),
        "{refused}"
    );
    Ok(())
}

#[test]
fn what_shows_data_of_jobs_says_so_in_the_table() {
    let needing: Vec<&str> = patchbay_api::operations()
        .filter(|operation| operation.data == JobData::Needed)
        .map(|operation| operation.id)
        .collect();
    assert_eq!(needing, ["plugins.call", "jobs.set_data", "history.bodies"]);
}
