//! Links, logins and sessions.

use super::*;

#[tokio::test]
async fn an_operator_uses_a_link_logs_in_acts_under_the_own_name_and_logs_out() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", true).await?;
    let body = json!({ "name": "Ada", "password": PASSWORD, "totp": ada.code()? });
    let (status, opened, cookie) = log_in(&host, body).await?;
    assert_eq!(status, 200, "{opened}");
    assert_eq!(
        (
            &opened["data"]["name"],
            &opened["data"]["role"],
            &opened["data"]["maySeeData"]
        ),
        (&json!("ada"), &json!("owner"), &json!(true))
    );
    let cookie = cookie.context("a cookie")?;
    assert!(cookie.starts_with("patchbay="), "{cookie}");
    let (_, who) = get(&host, &cookie, "/api/admin/session").await?;
    assert_eq!(
        (&who["data"]["name"], &who["data"]["credential"]),
        (&json!("ada"), &json!("session"))
    );
    let silence = json!({ "rule": "all", "forS": 60, "reason": "a test" });
    let (status, made) = with(
        &host,
        &cookie,
        "POST",
        "/api/admin/alerts/silences",
        Some(silence),
    )
    .await?;
    assert_eq!(status, 200, "{made}");
    let (_, activity) = get(&host, &cookie, "/api/admin/activity?actor=ada").await?;
    let actions: Vec<String> = activity["data"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|entry| text(&entry["action"]))
        .collect();
    assert_eq!(actions, ["alert.silence"], "{activity}");
    let (_, shown) = host.get("/api/admin/operators/ada").await?;
    assert_eq!(
        shown["data"]["sessions"].as_array().map(Vec::len),
        Some(1),
        "{shown}"
    );
    assert_eq!(shown["data"]["recoveryCodesLeft"], 10);
    let (status, ended) = with(&host, &cookie, "DELETE", "/api/admin/session", None).await?;
    assert_eq!(
        (status, &ended["data"]["name"]),
        (200, &json!("ada")),
        "{ended}"
    );
    let (status, refused) = get(&host, &cookie, "/api/admin/queues").await?;
    assert_eq!((status, &refused["code"]), (401, &json!("unauthorized")));
    let logins = entries(&world, "operator.login").await?;
    assert_eq!(logins.len(), 1);
    assert_eq!(
        (logins[0].0.as_str(), logins[0].2["method"].as_str()),
        ("ada", Some("password"))
    );
    Ok(())
}

#[tokio::test]
async fn a_link_works_once_and_the_next_one_ends_the_one_before() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let (_, made) = host
        .post(
            "/api/admin/operators",
            json!({ "name": "ada", "role": "owner" }),
        )
        .await?;
    let first = text(&made["data"]["link"]);
    let (status, made) = host
        .post("/api/admin/operators/ada/link", json!({}))
        .await?;
    assert_eq!(status, 200, "{made}");
    let second = text(&made["data"]["link"]);
    let begin =
        async |link: &str| post(&host, "/api/admin/enrolment/begin", json!({ "link": link })).await;
    assert_eq!(begin(&first).await?.0, 404, "replaced");
    let (_, one) = begin(&second).await?;
    let (_, two) = begin(&second).await?;
    assert_eq!(one["data"]["totpSecret"], two["data"]["totpSecret"]);
    let uri = text(&one["data"]["totpUri"]);
    assert!(
        uri.starts_with("otpauth://totp/Patchbay:ada?secret="),
        "{uri}"
    );
    let complete = async |password: &str, code: &str| {
        let body = json!({ "link": second, "password": password, "totp": code });
        post(&host, "/api/admin/enrolment/complete", body).await
    };
    let code = totp(
        &text(&one["data"]["totpSecret"]),
        chrono::Utc::now().timestamp() / 30,
    )?;
    let wrong = if code == "000000" { "000001" } else { "000000" };
    let (status, body) = complete(PASSWORD, wrong).await?;
    assert_eq!(status, 400, "{body}");
    assert!(
        text(&body["message"]).starts_with("totp: the code is wrong"),
        "{body}"
    );
    for (password, why) in [("short", "12 characters"), ("passwordpassword\u{0}", "NUL")] {
        let (status, body) = complete(password, &code).await?;
        assert_eq!(status, 400, "{body}");
        assert!(text(&body["message"]).contains(why), "{body}");
    }
    let (status, body) = complete(PASSWORD, &code).await?;
    assert_eq!(status, 200, "{body}");
    let (status, body) = complete(PASSWORD, &code).await?;
    assert_eq!(
        (status, &body["code"]),
        (404, &json!("not-found")),
        "used once"
    );
    let mut database = world.database().await?;
    host.post("/api/admin/operators/ada/link", json!({}))
        .await?;
    sqlx::query("update patchbay.operator_links set ends_at = now() - interval '1 second'")
        .execute(&mut database)
        .await?;
    let (_, made) = host
        .post("/api/admin/operators/ada/link", json!({}))
        .await?;
    sqlx::query("update patchbay.operator_links set ends_at = now() - interval '1 second' where used_at is null")
        .execute(&mut database)
        .await?;
    assert_eq!(begin(&text(&made["data"]["link"])).await?.0, 404, "too old");
    Ok(())
}

#[tokio::test]
async fn a_code_and_a_recovery_code_each_open_one_session() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&ENV).await?, world.host(&ENV).await?);
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let code = ada.code()?;
    let body = json!({ "name": "ada", "password": PASSWORD, "totp": code });
    let at_once = futures::future::try_join(log_in(&host, body.clone()), log_in(&other, body));
    let (one, two) = at_once.await?;
    let mut statuses = [one.0, two.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401], "on two hosts at once");
    let recovery = ada.recovery_codes.pop().context("a code")?;
    let body =
        json!({ "name": "ada", "password": PASSWORD, "recoveryCode": recovery.to_uppercase() });
    assert_eq!(log_in(&host, body.clone()).await?.0, 200);
    let (status, refused, cookie) = log_in(&other, body).await?;
    assert_eq!(
        (status, &refused["code"]),
        (401, &json!("invalid-credentials"))
    );
    assert_eq!(cookie, None);
    let (_, shown) = host.get("/api/admin/operators/ada").await?;
    assert_eq!(shown["data"]["recoveryCodesLeft"], 9);
    let (status, refused, _) =
        log_in(&host, json!({ "name": "ada", "password": PASSWORD })).await?;
    assert_eq!(status, 401, "a password alone: {refused}");
    Ok(())
}

#[tokio::test]
async fn whoever_guesses_waits_and_every_refusal_looks_the_same() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let mut messages = Vec::new();
    let code = ada.recovery_codes.pop().context("a code")?;
    for body in [
        json!({ "name": "ada", "password": "another long password", "recoveryCode": code }),
        json!({ "name": "ada", "password": PASSWORD, "totp": "000000" }),
        json!({ "name": "nobody", "password": PASSWORD, "totp": "000000" }),
        json!({ "name": "x'; drop table operators", "password": PASSWORD }),
    ] {
        let (status, refused, _) = log_in(&host, body).await?;
        messages.push((status, refused.to_string()));
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0].0, 401);
    let wrong = |n: usize| json!({ "name": "bob", "password": format!("wrong {n}") });
    let mut statuses = Vec::new();
    for n in 0..8 {
        statuses.push(log_in(&host, wrong(n)).await?.0);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    // Another name is not kept waiting.
    session(&host, &mut ada).await?;
    let failed = entries_once(&world, "operator.login-failed", 9).await?;
    let told = format!("{failed:?}");
    assert!(
        !told.contains("wrong") && !told.contains("drop table"),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_with_the_cookie() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let cookie = session(&host, &mut ada).await?;
    let ask = async |header: &str, value: &str| {
        let request = host
            .http
            .post(format!("{}/api/admin/operators/ada/link", host.url))
            .header("cookie", &cookie)
            .header(header, value);
        answer(request).await
    };
    for (header, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let (status, refused) = ask(header, value).await?;
        assert_eq!(
            (status, &refused["code"]),
            (403, &json!("cross-site")),
            "{header}: {value}"
        );
    }
    assert_eq!(ask("origin", &host.url).await?.0, 200);
    // Nor logs in.
    let request = host
        .http
        .post(format!("{}/api/admin/session", host.url))
        .header("origin", "https://evil.example")
        .json(&json!({ "name": "ada", "password": PASSWORD }));
    assert_eq!(answer(request).await?.0, 403);
    // A cookie that is there twice may come from a neighbouring host.
    let (status, _) = get(
        &host,
        &format!("patchbay=x; {cookie}"),
        "/api/admin/session",
    )
    .await?;
    assert_eq!(status, 401);
    Ok(())
}

#[tokio::test]
async fn a_session_ends_when_it_is_over_or_not_used() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let mut database = world.database().await?;
    for change in [
        "last_seen_at = now() - interval '121 minutes'",
        "ends_at = now()",
    ] {
        let cookie = session(&host, &mut ada).await?;
        let set = format!("update patchbay.operator_sessions set {change}");
        sqlx::query(sqlx::AssertSqlSafe(set))
            .execute(&mut database)
            .await?;
        assert_eq!(
            get(&host, &cookie, "/api/admin/session").await?.0,
            401,
            "{change}"
        );
    }
    let cookie = session(&host, &mut ada).await?;
    assert_eq!(get(&host, &cookie, "/api/admin/session").await?.0, 200);
    let request = host
        .http
        .delete(format!("{}/api/admin/operators/ada/sessions", host.url))
        .basic_auth(crate::harness::USER, Some(crate::harness::PASSWORD));
    let (status, ended) = answer(request).await?;
    assert_eq!(
        (status, &ended["data"]["ended"]),
        (200, &json!(1)),
        "{ended}"
    );
    assert_eq!(get(&host, &cookie, "/api/admin/session").await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn without_a_required_second_factor_a_password_suffices() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = [
        ENV.as_slice(),
        &[("PATCHBAY_OPERATORS_REQUIRE_TOTP", "false")],
    ]
    .concat();
    let host = world.host(&env).await?;
    let strict = world.host(&ENV).await?;
    let (_, made) = host
        .post(
            "/api/admin/operators",
            json!({ "name": "ada", "role": "viewer" }),
        )
        .await?;
    let body = json!({ "link": made["data"]["link"], "password": PASSWORD });
    let (status, refused) = post(&strict, "/api/admin/enrolment/complete", body.clone()).await?;
    assert_eq!(status, 400, "{refused}");
    let (status, done) = post(&host, "/api/admin/enrolment/complete", body).await?;
    assert_eq!(
        (status, &done["data"]["recoveryCodes"]),
        (200, &json!([])),
        "{done}"
    );
    let body = json!({ "name": "ada", "password": PASSWORD });
    assert_eq!(log_in(&host, body.clone()).await?.0, 200);
    // Another answer than that of a wrong password would confirm the right one.
    let (status, refused, _) = log_in(&strict, body).await?;
    let wrong = json!({ "name": "ada", "password": "another long password" });
    let (_, as_wrong, _) = log_in(&strict, wrong).await?;
    assert_eq!((status, &refused), (401, &as_wrong));
    assert!(
        text(&refused["message"]).contains("patchbay operator link NAME"),
        "{refused}"
    );
    Ok(())
}

#[tokio::test]
async fn nothing_secret_of_operators_is_in_the_log_the_activity_or_the_database()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", true).await?;
    let cookie = session(&host, &mut ada).await?;
    let token = json!({ "name": "ci", "scopes": ["queues:read"] });
    let (status, made) = with(&host, &cookie, "POST", "/api/admin/tokens", Some(token)).await?;
    assert_eq!(status, 200, "{made}");
    let secret = text(&made["data"]["secret"]);
    answer(
        host.http
            .get(format!("{}/api/admin/queues", host.url))
            .bearer_auth(&secret),
    )
    .await?;
    answer(
        host.http
            .post(format!("{}/api/admin/tokens", host.url))
            .bearer_auth(&secret),
    )
    .await?;
    entries_once(&world, "operator.refused", 1).await?;
    let value = cookie.split_once('=').context("a value")?.1;
    let link = ada.link.trim_start_matches("pbe_");
    // pbt_ID_SECRET: the secret may have underscores itself.
    let secret_part = secret.splitn(3, '_').nth(2).context("a secret")?;
    let mut needles: Vec<&str> = vec![PASSWORD, value, link, secret_part, &ada.totp_secret];
    needles.extend(ada.recovery_codes.iter().map(String::as_str));
    let plain: Vec<String> = ada
        .recovery_codes
        .iter()
        .map(|code| code.replace('-', ""))
        .collect();
    needles.extend(plain.iter().map(String::as_str));
    let mut database = world.database().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables where table_schema = 'patchbay' and table_type = 'BASE TABLE'",
    )
    .fetch_all(&mut database)
    .await?;
    let mut places = vec![(
        "log".to_owned(),
        host.log.lock().expect("no writer panics").clone(),
    )];
    let (_, activity) = host.get("/api/admin/activity").await?;
    places.push(("activity".to_owned(), activity.to_string()));
    for table in tables {
        let query =
            format!("select coalesce(string_agg(t::text, ' '), '') from patchbay.\"{table}\" t");
        let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(&mut database)
            .await?;
        places.push((table, rows));
    }
    for (place, content) in &places {
        for needle in &needles {
            assert!(!content.contains(needle), "{needle} is in {place}");
        }
    }
    Ok(())
}

/// A host behind a proxy that names the networks of these tests.
async fn proxied(world: &World) -> anyhow::Result<Host> {
    let proxies = [("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")];
    world.host(&[ENV.as_slice(), &proxies].concat()).await
}

/// The status of a login from this network, and how many seconds it must wait.
async fn log_in_from(
    host: &Host,
    network: &str,
    body: Value,
) -> anyhow::Result<(u16, Option<u64>)> {
    let request = host
        .http
        .post(format!("{}/api/admin/session", host.url))
        .header("x-forwarded-for", network)
        .json(&body);
    let response = request.send().await?;
    let wait = response.headers().get("retry-after");
    let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
    Ok((response.status().as_u16(), wait))
}

#[tokio::test]
async fn a_network_that_tries_a_password_with_many_names_waits_and_others_do_not()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = proxied(&world).await?;
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let mut statuses = Vec::new();
    for n in 0..150 {
        let body = json!({ "name": format!("name{n}"), "password": PASSWORD });
        statuses.push(log_in_from(&host, "203.0.113.1", body).await?.0);
    }
    assert_eq!(&statuses[..100], &[401; 100], "{statuses:?}");
    let limited = statuses.iter().filter(|status| **status == 429).count();
    assert!(limited >= 30, "{statuses:?}");
    let body = json!({ "name": "ada", "password": PASSWORD, "totp": ada.code()? });
    assert_eq!(log_in_from(&host, "198.51.100.1", body).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn an_operator_whom_many_networks_guess_at_makes_them_wait_and_gets_in_elsewhere()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = proxied(&world).await?;
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let wrong = |n: usize| json!({ "name": "ada", "password": format!("a wrong one {n}") });
    for n in 0..52 {
        let tried = log_in_from(&host, &format!("203.0.113.{n}"), wrong(n)).await?;
        assert_eq!(tried, (401, None), "{n}");
    }
    // Of the last ones, each waits after its first failure; others have five free ones.
    let (status, wait) = log_in_from(&host, "203.0.113.51", wrong(100)).await?;
    assert_eq!(status, 429);
    assert!(
        wait.is_some_and(|wait| (30..=60).contains(&wait)),
        "{wait:?}"
    );
    let body = json!({ "name": "ada", "password": PASSWORD, "totp": ada.code()? });
    assert_eq!(log_in_from(&host, "198.51.100.1", body).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn whoever_knows_a_password_does_not_lock_its_operator_out() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = proxied(&world).await?;
    let (home, elsewhere) = ("198.51.100.1", "192.0.2.1");
    // Without a code, nothing is guessed.
    let mut eve = enrolled(&host, "eve", "viewer", false).await?;
    let without = json!({ "name": "eve", "password": PASSWORD });
    for n in 0..30 {
        let network = format!("203.0.113.{n}");
        assert_eq!(log_in_from(&host, &network, without.clone()).await?.0, 401);
    }
    let body = json!({ "name": "eve", "password": PASSWORD, "totp": eve.code()? });
    assert_eq!(log_in_from(&host, elsewhere, body).await?.0, 200);
    // With wrong codes from many networks, unknown networks wait.
    let mut dan = enrolled(&host, "dan", "owner", false).await?;
    let mut recovery = Vec::new();
    for _ in 0..2 {
        let code = dan.recovery_codes.pop().context("a code")?;
        recovery.push(json!({ "name": "dan", "password": PASSWORD, "recoveryCode": code }));
    }
    let first = recovery.pop().context("a code")?;
    assert_eq!(log_in_from(&host, home, first).await?.0, 200);
    let now = chrono::Utc::now().timestamp() / 30;
    let mut good = Vec::new();
    for step in now - 2..=now + 4 {
        good.push(totp(&dan.totp_secret, step)?);
    }
    let mut codes = (0..).map(|number| format!("{number:06}"));
    let wrong = codes.find(|code| !good.contains(code)).context("a code")?;
    let guess = json!({ "name": "dan", "password": PASSWORD, "totp": wrong });
    for n in 100..115 {
        let network = format!("203.0.113.{n}");
        assert_eq!(log_in_from(&host, &network, guess.clone()).await?.0, 401);
    }
    // Neither the operator's own network, nor a recovery code.
    let second = recovery.pop().context("a code")?;
    assert_eq!(log_in_from(&host, elsewhere, second).await?.0, 200);
    let body = json!({ "name": "dan", "password": PASSWORD, "totp": dan.code()? });
    assert_eq!(log_in_from(&host, home, body).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn without_a_master_key_nobody_gets_a_link_that_cannot_be_used() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let ada = json!({ "name": "ada", "role": "owner" });
    let (status, refused) = host.post("/api/admin/operators", ada).await?;
    assert_eq!(
        (status, refused["code"].as_str()),
        (409, Some("no-vault-key")),
        "{refused}"
    );
    let told = refused["message"].as_str().unwrap_or_default();
    assert!(told.contains("secrets.key_file"), "{told}");
    let (_, listed) = host.get("/api/admin/operators").await?;
    assert_eq!(listed["data"], json!([]), "nobody was made");
    Ok(())
}
