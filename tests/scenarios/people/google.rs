//! Logging in with Google.

use super::*;

/// Keys and ID tokens as Google makes them, by Node's own cryptography.
fn google_world() -> anyhow::Result<Value> {
    let script = r#"
        const { generateKeyPairSync, createSign, createHmac } = require("crypto");
        const pair = generateKeyPairSync("rsa", { modulusLength: 2048 });
        const other = generateKeyPairSync("rsa", { modulusLength: 2048 });
        const jwk = { ...pair.publicKey.export({ format: "jwk" }), kid: "g1", alg: "RS256", use: "sig" };
        const b64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
        const now = Math.floor(Date.now() / 1000);
        const claims = (more) => ({ iss: "https://accounts.google.com", aud: "client-1", sub: "1001", email: "ada@gmail.com",
            email_verified: true, name: "Ada Lovelace", picture: "https://example.com/a.png", iat: now, exp: now + 3600, ...more });
        const signed = (claims, key = pair.privateKey, header = { alg: "RS256", kid: "g1", typ: "JWT" }) => {
            const text = b64(header) + "." + b64(claims);
            return text + "." + createSign("RSA-SHA256").update(text).sign(key).toString("base64url");
        };
        const hs = (() => {
            const text = b64({ alg: "HS256", kid: "g1" }) + "." + b64(claims({}));
            const secret = pair.publicKey.export({ format: "pem", type: "spki" });
            return text + "." + createHmac("sha256", secret).update(text).digest("base64url");
        })();
        console.log(JSON.stringify({ keys: { keys: [jwk] }, good: signed(claims({})), again: signed(claims({ name: "Another" })),
            workspace: signed(claims({ sub: "1002", email: "bob@company.example", hd: "company.example" })),
            stranger: signed(claims({ sub: "1003", email: "bob@company.example" })),
            admin: signed(claims({ sub: "1004", email: "root@gmail.com" })),
            bad: {
                audience: signed(claims({ aud: "client-2" })), issuer: signed(claims({ iss: "https://evil.example" })),
                expired: signed(claims({ exp: now - 60 })), future: signed(claims({ iat: now + 3600, exp: now + 7200 })),
                unverified: signed(claims({ email_verified: false })), other_key: signed(claims({}), other.privateKey),
                unknown_kid: signed(claims({}), pair.privateKey, { alg: "RS256", kid: "g9" }),
                none: b64({ alg: "none", kid: "g1" }) + "." + b64(claims({})) + ".", secret_of_public_key: hs,
                no_token: "x", no_address: signed(claims({ email: undefined })) } }));
    "#;
    let output = std::process::Command::new("node")
        .arg("-e")
        .arg(script)
        .output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn an_account_logs_in_with_google_and_nobody_gets_anothers() -> anyhow::Result<()> {
    let world = World::new().await?;
    let google = google_world()?;
    let keys = world.dir.path().join("keys.json");
    std::fs::write(&keys, google["keys"].to_string())?;
    let keys = keys.to_str().context("a path")?.to_owned();
    let env = [
        ("GOOGLE_CLIENT_ID", "client-1"),
        ("PATCHBAY_PEOPLE_GOOGLE_KEYS_FILE", keys.as_str()),
    ];
    let host = world.host(&with(&env)).await?;
    let log_in =
        async |token: &Value| post(&host, "/api/auth/google", json!({ "idToken": token })).await;
    for (what, token) in google["bad"].as_object().context("tokens")? {
        let (status, body) = log_in(token).await?;
        assert_eq!(
            (status, &body["message"]),
            (400, &json!("Google sign-in failed")),
            "{what}: {body}"
        );
    }
    // A stranger has signed up with the address before its owner comes.
    post(
        &host,
        "/api/auth/signup",
        json!({ "email": "ada@gmail.com", "password": "the stranger's own" }),
    )
    .await?;
    let waiting = code(&world, "ada@gmail.com", 1).await?;
    let (status, body) = log_in(&google["good"]).await?;
    assert_eq!(
        (status, &body["message"]),
        (200, &json!("Google sign-in successful")),
        "{body}"
    );
    assert_eq!(profile(&host, &text(&body["token"])).await?, 200);
    let late = post(
        &host,
        "/api/auth/verify-otp",
        json!({ "email": "ada@gmail.com", "otp": waiting }),
    )
    .await?;
    assert_eq!(late.0, 400, "the stranger's code has ended: {late:?}");
    let stranger = post(
        &host,
        "/api/auth/login",
        json!({ "email": "ada@gmail.com", "password": "the stranger's own" }),
    )
    .await?;
    assert_eq!(stranger.0, 401);
    let (_, again) = log_in(&google["again"]).await?;
    assert_eq!(again["user"]["id"], body["user"]["id"], "the same account");
    // An address of another domain is only its owner's where Google vouches for the domain.
    verified(&world, &host, "bob@company.example").await?;
    assert_eq!(log_in(&google["stranger"]).await?.0, 400);
    assert_eq!(log_in(&google["workspace"]).await?.0, 200);
    // An administrator is not linked by an address.
    let root = verified(&world, &host, "root@gmail.com").await?;
    let path = format!("/api/admin/people/{}/role", text(&root["user"]["id"]));
    assert_eq!(host.put(&path, json!({ "role": "admin" })).await?.0, 200);
    assert_eq!(log_in(&google["admin"]).await?.0, 400);
    Ok(())
}

#[tokio::test]
async fn keys_of_google_are_read_from_an_address() -> anyhow::Result<()> {
    let world = World::new().await?;
    let google = google_world()?;
    let keys = google["keys"].to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/certs", listener.local_addr()?);
    let serve = axum::Router::new().route("/certs", axum::routing::get(async move || keys));
    tokio::spawn(async move { axum::serve(listener, serve).await });
    let env = [
        ("GOOGLE_CLIENT_ID", "client-1"),
        ("PATCHBAY_PEOPLE_GOOGLE_KEYS_URL", url.as_str()),
    ];
    let host = world.host(&with(&env)).await?;
    let log_in = async |token: &Value| {
        let answer = post(&host, "/api/auth/google", json!({ "idToken": token })).await;
        answer.map(|(status, _)| status)
    };
    assert_eq!(log_in(&google["bad"]["unknown_kid"]).await?, 400);
    assert_eq!(log_in(&google["good"]).await?, 200);
    Ok(())
}
