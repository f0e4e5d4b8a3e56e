//! Mails about accounts hold codes that open an account: no operator sees one.

use super::*;

/// What an operator with every right could ask of a mail about an account.
fn ways_to_see(id: &str, address: &str) -> Vec<String> {
    let job = format!("queues/emailQueue/jobs/{id}");
    vec![
        job.clone(),
        format!("{job}?reveal=true"),
        format!("{job}/timeline?reveal=true"),
        "queues/emailQueue/jobs?state=waiting&reveal=true".into(),
        "queues/emailQueue/jobs?state=completed&reveal=true".into(),
        "queues/emailQueue/search?state=waiting".into(),
        format!("history/bodies/emailQueue/{id}?reveal=true"),
        "history/search?queue=emailQueue".into(),
        "history/export?queue=emailQueue&bodies=true&reveal=true".into(),
        format!("history/search?data.to={address}"),
        "dead-letters?state=all".into(),
    ]
}

#[tokio::test]
async fn the_code_of_a_forgotten_password_is_in_no_answer_for_an_operator_and_still_arrives()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let address = "ada@example.com";
    verified(&world, &host, address).await?;
    let (status, _) = post(
        &host,
        "/api/auth/forgot-password",
        json!({ "email": address }),
    )
    .await?;
    assert_eq!(status, 200);
    let reset = code(&world, address, 2).await?;
    let mut redis = world.redis().await?;
    let keys: Vec<String> = redis
        .keys(format!("{}:emailQueue:account-mail-*", world.prefix))
        .await?;
    let key = keys.iter().max().context("the mail")?;
    let id = key
        .rsplit_once(':')
        .map(|(_, id)| id.to_owned())
        .context("an id")?;
    let asked = async |path: String| -> anyhow::Result<String> {
        let request = host
            .http
            .get(format!("{}/api/{path}", host.url))
            .basic_auth(crate::harness::USER, Some(crate::harness::PASSWORD));
        Ok(request.send().await?.text().await?)
    };
    let never_seen = async || -> anyhow::Result<()> {
        let mut paths: Vec<String> = ways_to_see(&id, address)
            .into_iter()
            .map(|path| format!("admin/{path}"))
            .collect();
        paths.push("redis/keys".into());
        for path in paths {
            let shown = asked(path.clone()).await?;
            anyhow::ensure!(!shown.contains(&reset), "{path}: {shown}");
        }
        Ok(())
    };
    never_seen().await?;
    let (status, shown) = host
        .get(&format!(
            "/api/admin/queues/emailQueue/jobs/{id}?reveal=true"
        ))
        .await?;
    assert_eq!(
        (status, &shown["data"]["job"]["data"]),
        (200, &json!("[redacted]")),
        "{shown}"
    );
    // A filter would tell it a digit at a time.
    let (_, found) = host
        .get(&format!(
            "/api/admin/queues/emailQueue/search?state=waiting&data.to={address}"
        ))
        .await?;
    assert_eq!(found["data"], json!([]), "{found}");
    for kind in ["retry", "remove", "enqueue-again"] {
        let body = json!({
            "kind": kind, "state": "waiting", "filter": { "queue": "emailQueue" },
            "dryRun": true, "withData": true, "reveal": true,
        });
        let (_, preview) = host.post("/api/admin/bulk", body).await?;
        anyhow::ensure!(!preview.to_string().contains(&reset), "{preview}");
    }
    let job = format!("/api/admin/queues/emailQueue/jobs/{id}");
    let (status, refused) = host.post(&format!("{job}/duplicate"), json!({})).await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("conflict")),
        "a copy would have another id: {refused}"
    );
    let (status, refused) = host
        .put(
            &format!("{job}/data"),
            json!({ "to": "mallory@example.com" }),
        )
        .await?;
    assert_eq!(status, 409, "{refused}");

    host.deploy("email", email_plugin()?).await?;
    until(Duration::from_secs(30), "the mail is sent", async || {
        let (_, found) = host
            .get(&format!(
                "/api/admin/history/search?job={id}&outcome=completed"
            ))
            .await?;
        Ok((found["data"].as_array().map_or(0, Vec::len) == 1).then_some(()))
    })
    .await?;
    never_seen().await?;
    let mut database = world.database().await?;
    let bodies: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.attempts where body is not null and queue = 'emailQueue'",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(bodies, 0, "what a mail says is recorded nowhere");
    let body =
        json!({ "email": address, "resetToken": reset, "newPassword": "a new long password" });
    let (status, body) = post(&host, "/api/auth/reset-password", body).await?;
    assert_eq!(status, 200, "{body}");
    Ok(())
}

#[tokio::test]
async fn a_mail_about_an_account_that_failed_is_retried_without_showing_why() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let failing = crate::harness::hostile_plugin_with(|manifest| {
        manifest.replace("hostileQueue", "emailQueue")
    })?;
    host.deploy("hostile", failing).await?;
    // Under an id that only the host uses: hidden like its own.
    let job = json!({ "name": "fail", "id": "account-mail-7", "data": { "message": "code 314159", "retry": "never" } });
    host.add("emailQueue", job).await?;
    let path = "/api/admin/queues/emailQueue/jobs/account-mail-7";
    let ended = async |attempts: usize| {
        until(Duration::from_secs(20), "an attempt", async || {
            let (_, found) = host
                .get("/api/admin/history/search?job=account-mail-7")
                .await?;
            Ok((found["data"].as_array().map_or(0, Vec::len) == attempts).then_some(found))
        })
        .await
    };
    let found = ended(1).await?;
    assert_eq!(found["data"][0]["code"], "on-request", "{found}");
    for path in [
        format!("{path}?reveal=true"),
        format!("{path}/timeline?reveal=true"),
        "/api/admin/queues/emailQueue/search?state=failed".to_owned(),
        "/api/admin/history/search".to_owned(),
        "/api/admin/dead-letters".to_owned(),
    ] {
        let (status, shown) = host.get(&path).await?;
        assert_eq!(status, 200, "{shown}");
        anyhow::ensure!(!shown.to_string().contains("314159"), "{path}: {shown}");
    }
    let (_, none) = host
        .get("/api/admin/queues/emailQueue/search?state=failed&text=314")
        .await?;
    assert_eq!(none["data"], json!([]), "{none}");
    let (status, retried) = host.post(&format!("{path}/retry"), json!({})).await?;
    assert_eq!(status, 200, "{retried}");
    ended(2).await?;
    host.job_in("emailQueue", "account-mail-7", "failed")
        .await?;
    let (status, removed) = host.delete(path).await?;
    assert_eq!(status, 200, "{removed}");
    Ok(())
}
