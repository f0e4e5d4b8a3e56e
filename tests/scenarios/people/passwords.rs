//! Forgotten and changed passwords.

use super::*;

#[tokio::test]
async fn a_forgotten_password_is_replaced_by_a_code_and_every_session_ends() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let token = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    let (status, body) = post(&host, "/api/auth/forgot-password", json!({})).await?;
    assert_eq!(
        (status, &body["message"]),
        (400, &json!("Email is required"))
    );
    assert_eq!(
        post(
            &host,
            "/api/auth/forgot-password",
            json!({ "email": "ada@example.com" })
        )
        .await?
        .0,
        200
    );
    let reset = code(&world, "ada@example.com", 2).await?;
    let set = async |token: &str, password: &str| {
        post(
            &host,
            "/api/auth/reset-password",
            json!({ "email": "ada@example.com", "resetToken": token, "newPassword": password }),
        )
        .await
    };
    let (status, body) = set(&reset, "short").await?;
    assert_eq!(status, 400, "{body}");
    let wrong = format!("{:06}", (reset.parse::<u32>()? + 1) % 1_000_000);
    let (status, body) = set(&wrong, "a new password").await?;
    assert_eq!(
        (status, &body["message"]),
        (400, &json!("Password reset failed: Invalid reset token"))
    );
    let mut database = world.database().await?;
    sqlx::query("update patchbay.one_time_codes set expires_at = now() where purpose = 'reset'")
        .execute(&mut database)
        .await?;
    let (status, body) = set(&reset, "a new password").await?;
    assert_eq!(
        (status, &body["message"]),
        (
            400,
            &json!("Password reset failed: Reset token has expired")
        )
    );
    sqlx::query("update patchbay.one_time_codes set expires_at = now() + interval '5 minutes' where purpose = 'reset'").execute(&mut database).await?;
    let (status, body) = set(&reset, "a new password").await?;
    assert_eq!(status, 200, "{body}");
    assert_eq!(set(&reset, "another password").await?.0, 400, "used once");
    assert_eq!(profile(&host, &token).await?, 401);
    assert_eq!(log_in(&host, "ada@example.com", PASSWORD).await?.0, 401);
    assert_eq!(
        log_in(&host, "ada@example.com", "a new password").await?.0,
        200
    );
    Ok(())
}

#[tokio::test]
async fn a_changed_password_ends_the_other_sessions_and_continues_this_one() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let first = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    let (_, second) = log_in(&host, "ada@example.com", PASSWORD).await?;
    let change = async |current: &str, new: &str| {
        let request = host
            .http
            .post(format!("{}/api/auth/change-password", host.url))
            .bearer_auth(text(&second["token"]))
            .json(&json!({ "currentPassword": current, "newPassword": new }));
        answer(request).await
    };
    let (status, body) = change("wrong", "a new password").await?;
    assert_eq!(
        (status, &body["message"]),
        (400, &json!("Current password is incorrect"))
    );
    assert_eq!(change(PASSWORD, "12345678").await?.0, 400);
    let (status, changed) = change(PASSWORD, "a new password").await?;
    assert_eq!(status, 200, "{changed}");
    assert_eq!(profile(&host, &first).await?, 401);
    assert_eq!(profile(&host, &text(&second["token"])).await?, 200);
    assert_eq!(profile(&host, &text(&changed["token"])).await?, 200);
    let (status, _) = post(
        &host,
        "/api/auth/refresh",
        json!({ "refreshToken": changed["refreshToken"] }),
    )
    .await?;
    assert_eq!(status, 200);
    Ok(())
}
