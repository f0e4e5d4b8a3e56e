//! What strangers cannot find out, guess or break.

use super::*;

#[tokio::test]
async fn answers_do_not_tell_who_has_an_account() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    for (path, body) in [
        ("/api/auth/signup", json!({ "password": PASSWORD })),
        ("/api/auth/login", json!({ "password": "wrong password" })),
        ("/api/auth/verify-otp", json!({ "otp": "000000" })),
        ("/api/auth/forgot-password", json!({})),
        (
            "/api/auth/reset-password",
            json!({ "resetToken": "000000", "newPassword": "another one!" }),
        ),
    ] {
        let ask = async |email: &str| {
            let mut body = body.clone();
            body["email"] = json!(email);
            let request = host.http.post(host.url.clone() + path).json(&body);
            let response = request.send().await?;
            let mut names: Vec<String> = response
                .headers()
                .keys()
                .map(|name| name.to_string())
                .collect();
            names.sort();
            anyhow::Ok((response.status(), names, response.text().await?))
        };
        assert_eq!(
            ask("ada@example.com").await?,
            ask("nobody@example.com").await?,
            "{path}"
        );
    }
    let told = mails(&world).await?;
    let exists = told
        .iter()
        .filter(|mail| mail["subject"] == "You already have an account")
        .count();
    assert_eq!(exists, 1, "the owner is told: {told:?}");
    Ok(())
}

#[tokio::test]
async fn with_the_old_texts_a_signup_says_that_the_address_is_taken() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&with(&[("PATCHBAY_PEOPLE_REVEAL_ACCOUNTS", "true")]))
        .await?;
    verified(&world, &host, "ada@example.com").await?;
    let (status, body) = sign_up(&host, "ADA@example.com").await?;
    assert_eq!(
        (status, &body["message"]),
        (400, &json!("Sign up failed: User already exists"))
    );
    let (status, body) = post(
        &host,
        "/api/auth/verify-otp",
        json!({ "email": "x@example.com", "otp": "123456" }),
    )
    .await?;
    assert_eq!((status, &body["message"]), (404, &json!("User not found")));
    Ok(())
}

#[tokio::test]
async fn whoever_signs_up_with_anothers_address_gains_nothing() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = with(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let host = world.host(&env).await?;
    let from = async |network: &str, path: &str, body: Value| {
        let request = host
            .http
            .post(host.url.clone() + path)
            .header("x-forwarded-for", network)
            .json(&body);
        answer(request).await
    };
    let victim = "ada@example.com";
    let evil = json!({ "email": victim, "password": "the attacker's own" });
    from("203.0.113.1", "/api/auth/signup", evil.clone()).await?;
    let attackers = code(&world, victim, 1).await?;
    from(
        "198.51.100.1",
        "/api/auth/signup",
        json!({ "email": victim, "password": PASSWORD }),
    )
    .await?;
    let own = code(&world, victim, 2).await?;
    from("203.0.113.2", "/api/auth/signup", evil).await?;
    code(&world, victim, 3).await?;
    // The owner reads all three mails, and types any of them.
    let typed = if attackers == own {
        own.clone()
    } else {
        attackers
    };
    let (status, body) = from(
        "198.51.100.1",
        "/api/auth/verify-otp",
        json!({ "email": victim, "otp": typed }),
    )
    .await?;
    assert_eq!(status, 200, "{body}");
    for (network, password) in [
        ("203.0.113.1", "the attacker's own"),
        ("198.51.100.1", "the attacker's own"),
    ] {
        let (status, _) = from(
            network,
            "/api/auth/login",
            json!({ "email": victim, "password": password }),
        )
        .await?;
        assert_eq!(status, 401, "{network}");
    }
    Ok(())
}

#[tokio::test]
async fn a_code_cannot_be_guessed() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = with(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let host = world.host(&env).await?;
    sign_up(&host, "ada@example.com").await?;
    let right = code(&world, "ada@example.com", 1).await?;
    let wrong = |n: usize| {
        format!(
            "{:06}",
            (right.parse::<usize>().unwrap_or_default() + n + 1) % 1_000_000
        )
    };
    let guess = async |network: String, otp: String| {
        let request = host
            .http
            .post(format!("{}/api/auth/verify-otp", host.url))
            .header("x-forwarded-for", network)
            .json(&json!({ "email": "ada@example.com", "otp": otp }));
        anyhow::Ok(answer(request).await?.0)
    };
    for n in 0..26 {
        assert_eq!(guess(format!("203.0.113.{}", n % 6), wrong(n)).await?, 400);
    }
    for n in 0..7 {
        assert_eq!(
            guess(format!("203.0.113.{n}"), right.clone()).await?,
            400,
            "also the right one"
        );
    }
    let (status, body) = post(
        &host,
        "/api/auth/verify-otp",
        json!({ "email": "ada@example.com", "otp": right }),
    )
    .await?;
    assert_eq!(status, 200, "whoever asked for it still gets in: {body}");
    Ok(())
}

#[tokio::test]
async fn whoever_guesses_a_password_waits_and_the_owner_elsewhere_does_not() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = with(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let host = world.host(&env).await?;
    verified(&world, &host, "ada@example.com").await?;
    let try_from = async |network: &str, password: &str| {
        let request = host
            .http
            .post(format!("{}/api/auth/login", host.url))
            .header("x-forwarded-for", network)
            .json(&json!({ "email": "ada@example.com", "password": password }));
        let response = request.send().await?;
        let wait = response.headers().get("retry-after").is_some();
        anyhow::Ok((response.status().as_u16(), wait))
    };
    let mut statuses = Vec::new();
    for n in 0..12 {
        statuses.push(try_from("203.0.113.1", &format!("guess {n}")).await?);
    }
    assert_eq!(&statuses[..5], &[(401, false); 5], "{statuses:?}");
    assert!(
        statuses[6..].iter().all(|tried| *tried == (429, true)),
        "{statuses:?}"
    );
    assert_eq!(try_from("203.0.113.1", PASSWORD).await?.0, 429);
    assert_eq!(try_from("198.51.100.1", PASSWORD).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn an_account_that_many_networks_guess_at_makes_them_wait_and_not_its_owner()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let env = with(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let host = world.host(&env).await?;
    verified(&world, &host, "ada@example.com").await?;
    let try_from = async |network: &str, password: &str| {
        let request = host
            .http
            .post(format!("{}/api/auth/login", host.url))
            .header("x-forwarded-for", network)
            .json(&json!({ "email": "ada@example.com", "password": password }));
        let response = request.send().await?;
        let wait = response.headers().get("retry-after");
        let wait = wait.and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
        anyhow::Ok((response.status().as_u16(), wait))
    };
    for n in 0..52 {
        let network = format!("203.0.113.{n}");
        assert_eq!(try_from(&network, "a guess").await?, (401, None), "{n}");
    }
    // Of the last ones, each waits after its first failure; others have five free ones.
    let (status, wait) = try_from("203.0.113.51", "another guess").await?;
    assert_eq!(status, 429);
    assert!(
        wait.is_some_and(|wait| (50..=60).contains(&wait)),
        "{wait:?}"
    );
    assert_eq!(try_from("203.0.113.51", PASSWORD).await?.0, 429);
    assert_eq!(
        try_from("198.51.100.1", PASSWORD).await?.0,
        200,
        "the owner"
    );
    Ok(())
}

#[tokio::test]
async fn a_form_logs_in_under_auth_without_what_a_browser_adds_by_itself() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let form = format!(
        "email=+Ada%40example.com&password={}",
        PASSWORD.replace(' ', "+")
    );
    let ask = |headers: &[(&str, &str)]| {
        let request = host.http.post(format!("{}/api/auth/login", host.url));
        let headers = headers.iter().chain([&kind]);
        let request = headers.fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        answer(request.body(form.clone()))
    };
    let (status, body) = ask(&[]).await?;
    assert_eq!(
        (status, &body["message"]),
        (200, &json!("Login successful")),
        "{body}"
    );
    let token = text(&body["token"]);
    assert_eq!(
        ask(&[("authorization", &format!("Bearer {token}"))])
            .await?
            .0,
        200
    );
    assert_eq!(ask(&[("cookie", &format!("token={token}"))]).await?.0, 415);
    assert_eq!(ask(&[("authorization", "Basic YTpi")]).await?.0, 415);
    let (status, body) = ask(&[("origin", "https://evil.example")]).await?;
    assert_eq!((status, &body["code"]), (403, &json!("cross-site")));
    // Elsewhere a form is no body.
    let elsewhere = host
        .http
        .put(format!("{}/api/admin/people/x/role", host.url));
    let elsewhere = elsewhere.header(kind.0, kind.1).body("role=admin");
    let (status, _) = host.request(elsewhere).await?;
    assert_eq!(status, 415);
    Ok(())
}

#[tokio::test]
async fn bad_input_is_refused_in_the_one_envelope_and_never_quoted() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let raw = async |body: Vec<u8>, kind: &str| {
        let request = host
            .http
            .post(format!("{}/api/auth/login", host.url))
            .header("content-type", kind)
            .body(body);
        answer(request).await
    };
    let json_kind = "application/json";
    let huge = json!({ "email": "a".repeat(10 << 20), "password": "x" })
        .to_string()
        .into_bytes();
    for (body, kind, expected) in [
        (b"{".to_vec(), json_kind, 400),
        (b"[]".to_vec(), json_kind, 400),
        (b"\"secret-of-somebody\"".to_vec(), json_kind, 400),
        (
            b"{\"email\":\"secret-of-somebody\",\"password\":7}".to_vec(),
            json_kind,
            400,
        ),
        (
            b"{\"email\":[\"secret-of-somebody\"],\"password\":\"x\"}".to_vec(),
            json_kind,
            400,
        ),
        (b"{\"email\":\"a@example.com\"}".to_vec(), json_kind, 400),
        (
            b"{\"email\":\"a@example.com\",\"password\":\"a\\u0000b\"}".to_vec(),
            json_kind,
            401,
        ),
        (
            b"{\"email\":\"a\\u0000@example.com\",\"password\":\"x\"}".to_vec(),
            json_kind,
            401,
        ),
        (
            b"{\"email\":\"\xff\",\"password\":\"x\"}".to_vec(),
            json_kind,
            400,
        ),
        (
            b"{\"email\":\"a@example.com\",\"password\":\"x\"} x".to_vec(),
            json_kind,
            400,
        ),
        (
            b"email=a%40example.com&password=x".to_vec(),
            "application/x-www-form-urlencoded",
            401,
        ),
        (
            b"email=a%40example.com&password=secret-of-somebody&password=x".to_vec(),
            "application/x-www-form-urlencoded",
            400,
        ),
        (
            b"email=a%40example.com&password=%ff".to_vec(),
            "application/x-www-form-urlencoded; charset=utf-8",
            400,
        ),
        (
            b"{\"email\":\"a@example.com\",\"password\":\"x\"}".to_vec(),
            "text/plain",
            415,
        ),
        (huge, json_kind, 413),
        (Vec::new(), json_kind, 400),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, body) = raw(body, kind).await?;
        assert_eq!(status, expected, "{shown}: {body}");
        assert_eq!(body["success"], false);
        assert!(
            body["code"].is_string() && body["message"].is_string(),
            "{body}"
        );
        assert!(!body.to_string().contains("secret-of-somebody"), "{body}");
    }
    for email in [
        "",
        "x",
        "а@example.com",
        "a@b",
        "a@example.com\r\nBcc: b@example.com",
    ] {
        let (status, body) = sign_up(&host, email).await?;
        assert_eq!(status, 400, "{email:?}: {body}");
    }
    for id in [
        "x",
        "1' or '1'='1",
        "00000000-0000-0000-0000-000000000000",
        "nobody@example.com",
    ] {
        let path = format!(
            "/api/admin/people/{}",
            percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC)
        );
        assert_eq!(host.get(&path).await?.0, 404, "{id}");
    }
    assert_eq!(host.get("/api/admin/people?limit=0").await?.0, 400);
    assert_eq!(host.get("/api/admin/people?role=emperor").await?.0, 400);
    let log = host.log.lock().expect("no writer panics").clone();
    assert!(!log.contains("secret-of-somebody"));
    Ok(())
}

#[tokio::test]
async fn a_page_of_a_configured_origin_may_log_in_and_others_may_not() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = with(&[("PATCHBAY_HTTP_CORS_ORIGINS", "https://app.example")]);
    let host = world.host(&env).await?;
    verified(&world, &host, "ada@example.com").await?;
    let ask = async |method: &str, path: &str, origin: &str| {
        let request = host
            .http
            .request(method.parse()?, host.url.clone() + path)
            .header("origin", origin)
            .header("sec-fetch-site", "cross-site")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type")
            .json(&json!({ "email": "ada@example.com", "password": PASSWORD }));
        let response = request.send().await?;
        let allowed = response.headers().get("access-control-allow-origin");
        let allowed = allowed.and_then(|value| value.to_str().ok().map(str::to_owned));
        anyhow::Ok((response.status().as_u16(), allowed))
    };
    let ours = "https://app.example";
    let preflight = ask("OPTIONS", "/api/auth/login", ours).await?;
    assert_eq!(preflight, (200, Some(ours.to_owned())));
    let logged_in = ask("POST", "/api/auth/login", ours).await?;
    assert_eq!(logged_in, (200, Some(ours.to_owned())));
    assert_eq!(
        ask("POST", "/api/auth/login", "https://evil.example").await?,
        (403, None)
    );
    assert_eq!(ask("POST", "/api/auth/login", "null").await?, (403, None));
    let operators = ask("OPTIONS", "/api/admin/queues/q/pause", ours).await?;
    assert_eq!(operators.1, None);
    Ok(())
}

/// All clients of such a proxy have its address: one of them must not use up the limit of all.
#[tokio::test]
async fn clients_of_an_unknown_proxy_are_not_counted_as_one_network() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let ask = async |number: usize| {
        let request = host
            .http
            .post(host.url.clone() + "/api/auth/refresh")
            .header("x-forwarded-for", format!("198.51.100.{}", number % 250))
            .json(&json!({ "refreshToken": format!("nobody's {number}") }));
        anyhow::Ok(request.send().await?.status().as_u16())
    };
    for number in 0..350 {
        assert_eq!(ask(number).await?, 401, "request {number}");
    }
    Ok(())
}

/// Signs up, and returns the cookie of this signup.
async fn sign_up_with(
    host: &Host,
    email: &str,
    password: &str,
    network: Option<&str>,
) -> anyhow::Result<String> {
    let mut request = host
        .http
        .post(format!("{}/api/auth/signup", host.url))
        .json(&json!({ "email": email, "password": password }));
    if let Some(network) = network {
        request = request.header("x-forwarded-for", network);
    }
    let response = request.send().await?;
    assert_eq!(response.status(), 200, "{}", response.text().await?);
    let cookie = response.headers().get("set-cookie").context("a cookie")?;
    let cookie = cookie.to_str()?.split(';').next().context("a cookie")?;
    Ok(cookie.to_owned())
}

async fn type_code(
    host: &Host,
    email: &str,
    otp: &str,
    header: Option<(&str, &str)>,
) -> anyhow::Result<u16> {
    let mut request = host
        .http
        .post(format!("{}/api/auth/verify-otp", host.url))
        .json(&json!({ "email": email, "otp": otp }));
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    Ok(answer(request).await?.0)
}

const EVIL: &str = "the attacker's own";

#[tokio::test]
async fn the_cookie_of_a_signup_says_whose_password_counts_also_in_one_network()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let email = "ada@example.com";
    let own = sign_up_with(&host, email, PASSWORD, None).await?;
    sign_up_with(&host, email, EVIL, None).await?;
    // The owner types the newest code, which is the attacker's.
    let newest = code(&world, email, 2).await?;
    assert_eq!(
        type_code(&host, email, &newest, Some(("cookie", &own))).await?,
        200
    );
    assert_eq!(log_in(&host, email, EVIL).await?.0, 401);
    assert_eq!(log_in(&host, email, PASSWORD).await?.0, 200);
    // A cookie that belongs to no signup is not the network either.
    let email = "bob@example.com";
    sign_up_with(&host, email, EVIL, None).await?;
    let newest = code(&world, email, 1).await?;
    assert_eq!(
        type_code(&host, email, &newest, Some(("cookie", &own))).await?,
        200
    );
    assert_eq!(log_in(&host, email, EVIL).await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn of_two_signups_in_one_network_without_a_cookie_neither_password_counts()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    // In one network, and behind a proxy that nobody knows.
    for (email, proxied) in [("ada@example.com", false), ("bob@example.com", true)] {
        let network = |network| Some(network).filter(|_| proxied);
        let forwarded = Some(("x-forwarded-for", "198.51.100.1")).filter(|_| proxied);
        sign_up_with(&host, email, PASSWORD, network("198.51.100.1")).await?;
        // The second one replaces none of another password.
        for _ in 0..2 {
            sign_up_with(&host, email, EVIL, network("203.0.113.1")).await?;
        }
        let newest = code(&world, email, 3).await?;
        assert_eq!(type_code(&host, email, &newest, forwarded).await?, 200);
        for password in [EVIL, PASSWORD] {
            assert_eq!(log_in(&host, email, password).await?.0, 401, "{password}");
        }
    }
    // Once, or again with the same password, as clients without cookies do.
    for (email, times) in [("eve@example.com", 1), ("dan@example.com", 2)] {
        for _ in 0..times {
            sign_up_with(&host, email, PASSWORD, Some("198.51.100.1")).await?;
        }
        let newest = code(&world, email, times).await?;
        assert_eq!(type_code(&host, email, &newest, None).await?, 200);
        assert_eq!(log_in(&host, email, PASSWORD).await?.0, 200, "{email}");
    }
    Ok(())
}

#[tokio::test]
async fn one_network_has_a_limit_of_mails_to_whatever_addresses() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = with(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let host = world.host(&env).await?;
    let ask = async |path: &str, network: &str, n: usize| {
        let body = json!({ "email": format!("somebody{n}@example.com"), "password": PASSWORD });
        let request = host.http.post(host.url.clone() + path).json(&body);
        answer(request.header("x-forwarded-for", network)).await
    };
    let mut statuses = Vec::new();
    for n in 0..40 {
        statuses.push(ask("/api/auth/signup", "203.0.113.1", n).await?.0);
    }
    assert_eq!(&statuses[..30], &[200; 30], "{statuses:?}");
    // One more comes every two minutes.
    let sent = statuses.iter().filter(|status| **status == 200).count();
    assert!(sent <= 32 && statuses.contains(&429), "{statuses:?}");
    let mut limited = (200, json!({}));
    for n in 100..104 {
        limited = ask("/api/auth/forgot-password", "203.0.113.1", n).await?;
    }
    assert_eq!(
        (limited.0, &limited.1["code"]),
        (429, &json!("rate-limited")),
        "{}",
        limited.1
    );
    let (status, body) = ask("/api/auth/signup", "198.51.100.1", 200).await?;
    assert_eq!(status, 200, "{body}");
    Ok(())
}

#[tokio::test]
async fn a_photo_of_a_profile_is_an_address_of_the_web_or_none() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let token = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    let complete = async |photo: &str| {
        let request = host
            .http
            .post(format!("{}/api/auth/complete-profile", host.url))
            .bearer_auth(&token)
            .json(&json!({ "fullName": "Ada", "profilePhoto": photo }));
        answer(request).await
    };
    for photo in [
        "javascript:alert(1)",
        " JavaScript:alert(1)",
        "data:text/html,x",
        "a.png",
    ] {
        let (status, body) = complete(photo).await?;
        assert_eq!(
            (status, &body["success"], &body["code"]),
            (400, &json!(false), &json!("invalid-input")),
            "{photo}: {body}"
        );
    }
    let (_, shown) = with_token(&host, "/api/users/profile", &token).await?;
    assert_eq!(shown["data"]["isProfileComplete"], false, "{shown}");
    for photo in ["https://example.com/a.png", ""] {
        let (status, body) = complete(photo).await?;
        assert_eq!(status, 200, "{photo}: {body}");
    }
    Ok(())
}
