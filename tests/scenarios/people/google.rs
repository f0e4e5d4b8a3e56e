//! Logging in with Google.

use super::*;

/// Keys and ID tokens as Google makes them, by Node's own cryptography.
fn google_world() -> anyhow::Result<Value> {
    let output = std::process::Command::new("node")
        .arg("google.mjs")
        .current_dir(crate::harness::repository().join("tests/interop"))
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
