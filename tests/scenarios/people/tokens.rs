//! Access tokens, refresh tokens and cookies.

use super::*;

#[tokio::test]
async fn of_a_hundred_refreshes_with_one_token_one_wins_and_the_session_ends() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let body = verified(&world, &host, "ada@example.com").await?;
    let first = text(&body["refreshToken"]);
    let (status, renewed) =
        post(&host, "/api/auth/refresh", json!({ "refreshToken": first })).await?;
    assert_eq!(status, 200, "{renewed}");
    let next = text(&renewed["refreshToken"]);
    assert_ne!(next, first);
    let began = Instant::now();
    let tries = (0..100).map(|_| post(&host, "/api/auth/refresh", json!({ "refreshToken": next })));
    let answers = futures::future::try_join_all(tries).await?;
    let won: Vec<&Value> = answers
        .iter()
        .filter(|(status, _)| *status == 200)
        .map(|(_, body)| body)
        .collect();
    assert_eq!(won.len(), 1, "in {:?}", began.elapsed());
    assert!(
        answers
            .iter()
            .all(|(status, _)| [200, 401].contains(status))
    );
    let (status, _) = post(
        &host,
        "/api/auth/refresh",
        json!({ "refreshToken": won[0]["refreshToken"] }),
    )
    .await?;
    assert_eq!(status, 401, "the session has ended");
    assert_eq!(profile(&host, &text(&won[0]["token"])).await?, 401);
    let told = mails(&world).await?;
    let ended = told
        .iter()
        .filter(|mail| mail["subject"] == "You were logged out")
        .count();
    assert_eq!(ended, 1, "its owner is told once");
    assert_eq!(log_in(&host, "ada@example.com", PASSWORD).await?.0, 200);
    Ok(())
}

fn encoded(value: &Value) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
}

fn signed(header: &Value, claims: &Value, secret: &[u8]) -> anyhow::Result<String> {
    use hmac::{Hmac, KeyInit, Mac};
    let text = format!("{}.{}", encoded(header), encoded(claims));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret)?;
    mac.update(text.as_bytes());
    let signature =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    Ok(format!("{text}.{signature}"))
}

#[tokio::test]
async fn a_token_that_is_forged_changed_or_of_another_kind_is_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    let secret = "0123456789abcdef0123456789abcdef-current";
    let old = "0123456789abcdef0123456789abcdef-legacy";
    let secrets = format!("k1:{secret}");
    let env = [
        ("PATCHBAY_PEOPLE_JWT_SECRETS", secrets.as_str()),
        ("JWT_SECRET", old),
    ];
    let host = world.host(&with(&env)).await?;
    let body = verified(&world, &host, "ada@example.com").await?;
    let (token, refresh, id) = (
        text(&body["token"]),
        text(&body["refreshToken"]),
        text(&body["user"]["id"]),
    );
    let claims: Value = serde_json::from_slice(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).context("claims")?)?,
    )?;
    let header = json!({ "alg": "HS256", "typ": "at+jwt", "kid": "k1" });
    assert_eq!(
        profile(&host, &signed(&header, &claims, secret.as_bytes())?).await?,
        200,
        "the key is this one"
    );
    let now = chrono::Utc::now().timestamp();
    let changed = |field: &str, value: Value| {
        let mut claims = claims.clone();
        claims[field] = value;
        claims
    };
    let legacy = json!({ "id": id, "email": "ada@example.com", "role": "admin", "iat": now, "exp": now + 900 });
    assert_eq!(
        profile(
            &host,
            &signed(
                &json!({ "alg": "HS256", "typ": "JWT" }),
                &legacy,
                old.as_bytes()
            )?
        )
        .await?,
        200,
        "the old backend's"
    );
    let mut long = legacy.clone();
    long["exp"] = json!(now + 120 * 86_400);
    let none = format!(
        "{}.{}.",
        encoded(&json!({ "alg": "none", "typ": "at+jwt", "kid": "k1" })),
        encoded(&claims)
    );
    let header_with = |field: &str, value: Value| {
        let mut header = header.clone();
        header[field] = value;
        header
    };
    let key = secret.as_bytes();
    let bad = [
        ("unsigned", none),
        ("no token", "x".to_owned()),
        ("empty", String::new()),
        ("a refresh token", refresh),
        ("huge", "a".repeat(20_000)),
        (
            "another key",
            signed(&header, &claims, b"another key of thirty-two bytes!!")?,
        ),
        (
            "the key of another kid",
            signed(&header, &claims, old.as_bytes())?,
        ),
        (
            "unknown kid",
            signed(&header_with("kid", json!("k2")), &claims, key)?,
        ),
        (
            "a path as kid",
            signed(
                &header_with("kid", json!("../../../dev/null")),
                &claims,
                b"",
            )?,
        ),
        (
            "SQL as kid",
            signed(
                &header_with("kid", json!("x' union select 'y")),
                &claims,
                b"y",
            )?,
        ),
        (
            "no kid",
            signed(
                &json!({ "alg": "HS256", "typ": "at+jwt" }),
                &claims,
                old.as_bytes(),
            )?,
        ),
        (
            "RS256",
            signed(&header_with("alg", json!("RS256")), &claims, key)?,
        ),
        (
            "HS512",
            signed(&header_with("alg", json!("HS512")), &claims, key)?,
        ),
        (
            "typ JWT",
            signed(&header_with("typ", json!("JWT")), &claims, key)?,
        ),
        (
            "crit",
            signed(&header_with("crit", json!(["x"])), &claims, key)?,
        ),
        (
            "expired",
            signed(
                &header,
                &{
                    let mut c = changed("iat", json!(now - 906));
                    c["exp"] = json!(now - 6);
                    c
                },
                key,
            )?,
        ),
        (
            "of the future",
            signed(
                &header,
                &{
                    let mut c = changed("iat", json!(now + 3_600));
                    c["exp"] = json!(now + 4_500);
                    c
                },
                key,
            )?,
        ),
        (
            "lives too long",
            signed(&header, &changed("exp", json!(now + 86_400)), key)?,
        ),
        (
            "another issuer",
            signed(&header, &changed("iss", json!("somebody")), key)?,
        ),
        (
            "another audience",
            signed(&header, &changed("aud", json!("other")), key)?,
        ),
        (
            "another account",
            signed(
                &header,
                &{
                    let mut c = changed("sub", json!("x"));
                    c["id"] = json!("x");
                    c
                },
                key,
            )?,
        ),
        (
            "no session",
            signed(&header, &changed("sid", Value::Null), key)?,
        ),
        (
            "unknown session",
            signed(&header, &changed("sid", json!(uuid::Uuid::now_v7())), key)?,
        ),
        (
            "negative times",
            signed(
                &header,
                &{
                    let mut c = changed("iat", json!(i64::MIN));
                    c["exp"] = json!(i64::MAX);
                    c
                },
                key,
            )?,
        ),
        (
            "the old backend's of 120 days",
            signed(&json!({ "alg": "HS256" }), &long, old.as_bytes())?,
        ),
    ];
    for (what, token) in bad {
        let (status, body) = with_token(&host, "/api/users/profile", &token).await?;
        assert_eq!(
            (status, &body["message"]),
            (401, &json!("Invalid token")),
            "{what}: {body}"
        );
    }
    let (status, body) = answer(host.http.get(format!("{}/api/users/profile", host.url))).await?;
    assert_eq!(
        (status, &body["message"]),
        (401, &json!("Authorization token missing"))
    );
    // No operator's route takes it, and no route of accounts takes an operator.
    let (status, _) = with_token(&host, "/api/admin/queues", &token).await?;
    assert_eq!(status, 401);
    assert_eq!(host.get("/api/users/profile").await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn cookies_carry_a_login_where_they_are_configured() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&with(&[("PATCHBAY_PEOPLE_COOKIES", "true")]))
        .await?;
    verified(&world, &host, "ada@example.com").await?;
    let request = host
        .http
        .post(format!("{}/api/auth/login", host.url))
        .json(&json!({ "email": "ada@example.com", "password": PASSWORD }));
    let response = request.send().await?;
    let set: Vec<String> = response
        .headers()
        .get_all("set-cookie")
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    assert_eq!(set.len(), 2, "{set:?}");
    assert!(
        set.iter()
            .all(|cookie| cookie.contains("HttpOnly") && cookie.contains("Secure")),
        "{set:?}"
    );
    let body: Value = response.json().await?;
    let token = text(&body["token"]);
    let ask = async |cookie: String| {
        let request = host
            .http
            .get(format!("{}/api/users/profile", host.url))
            .header("cookie", cookie);
        anyhow::Ok(answer(request).await?.0)
    };
    assert_eq!(ask(format!("token={token}")).await?, 200);
    assert_eq!(ask(format!("a=b; authToken={token}")).await?, 200);
    assert_eq!(
        ask(format!("token={token}; token=evil")).await?,
        401,
        "tossed by a neighbouring host"
    );
    assert_eq!(ask(format!("token={token}; authToken=evil")).await?, 401);
    let refresh = host
        .http
        .post(format!("{}/api/auth/refresh", host.url))
        .header(
            "cookie",
            format!("refreshToken={}", text(&body["refreshToken"])),
        );
    assert_eq!(answer(refresh).await?.0, 200);
    Ok(())
}
