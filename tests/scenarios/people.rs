//! Accounts of API clients: signing up, logging in, sessions, passwords, and what strangers cannot
//! find out or break.

mod alerting;
mod confidential;
mod emergency;
mod google;
mod keys;
mod old_backend;
mod passwords;
mod strangers;
mod timing;
mod tokens;

pub use emergency::totp;

use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine;
use redis::AsyncCommands;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::commands::patchbay;
use crate::fleet::proxied;
use crate::harness::{Host, World, binary, email_plugin, until};
use crate::redis_server::RedisServer;

const KEY: &str = "8f3c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

pub const PASSWORD: &str = "correct horse battery";

/// Cheap hashes: what they cost is tested elsewhere.
pub const PEOPLE: [(&str, &str); 4] = [
    ("PATCHBAY_PEOPLE_ENABLED", "true"),
    ("PATCHBAY_SECRETS_KEY", KEY),
    ("PATCHBAY_PEOPLE_HASH_MEMORY_KIB", "64"),
    ("PATCHBAY_PEOPLE_HASH_PASSES", "1"),
];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    PEOPLE.iter().copied().chain(more.iter().copied()).collect()
}

async fn post(host: &Host, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
    let request = host.http.post(host.url.clone() + path).json(&body);
    answer(request).await
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    let body = serde_json::from_str(&text).with_context(|| format!("{status}: {text:?}"))?;
    Ok((status, body))
}

async fn with_token(host: &Host, path: &str, token: &str) -> anyhow::Result<(u16, Value)> {
    answer(host.http.get(host.url.clone() + path).bearer_auth(token)).await
}

async fn profile(host: &Host, token: &str) -> anyhow::Result<u16> {
    Ok(with_token(host, "/api/users/profile", token).await?.0)
}

/// The data of the mails in the queue, the newest last.
async fn mails(world: &World) -> anyhow::Result<Vec<Value>> {
    let mut redis = world.redis().await?;
    let pattern = format!("{}:emailQueue:account-mail-*", world.prefix);
    let mut keys: Vec<String> = redis.keys(pattern).await?;
    // Ids are in the order of time.
    keys.sort();
    let mut mails = Vec::new();
    for key in keys {
        let data: Option<String> = redis.hget(&key, "data").await?;
        mails.extend(
            data.map(|data| serde_json::from_str::<Value>(&data))
                .transpose()?,
        );
    }
    Ok(mails)
}

/// The digits in the last mail to this address, once there are `count` mails.
async fn code(world: &World, to: &str, count: usize) -> anyhow::Result<String> {
    until(Duration::from_secs(10), "a mail", async || {
        let mails: Vec<Value> = mails(world)
            .await?
            .into_iter()
            .filter(|mail| mail["to"] == to)
            .collect();
        let Some(last) = mails.last().filter(|_| mails.len() >= count) else {
            return Ok(None);
        };
        let text = match last["otp"].as_str() {
            Some(otp) => otp.to_owned(),
            None => last["text"].as_str().unwrap_or_default().to_owned(),
        };
        let found = text
            .split(|c: char| !c.is_ascii_digit())
            .find(|part| part.len() == 6)
            .map(str::to_owned);
        Ok(found)
    })
    .await
}

async fn sign_up(host: &Host, email: &str) -> anyhow::Result<(u16, Value)> {
    post(
        host,
        "/api/auth/signup",
        json!({ "email": email, "password": PASSWORD }),
    )
    .await
}

/// A verified account, and the answer of its verification.
pub async fn verified(world: &World, host: &Host, email: &str) -> anyhow::Result<Value> {
    let (status, body) = sign_up(host, email).await?;
    assert_eq!(status, 200, "{body}");
    let otp = code(world, email, 1).await?;
    let (status, body) = post(
        host,
        "/api/auth/verify-otp",
        json!({ "email": email, "otp": otp }),
    )
    .await?;
    assert_eq!(status, 200, "{body}");
    Ok(body)
}

async fn log_in(host: &Host, email: &str, password: &str) -> anyhow::Result<(u16, Value)> {
    post(
        host,
        "/api/auth/login",
        json!({ "email": email, "password": password }),
    )
    .await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn somebody_signs_up_verifies_the_address_completes_the_profile_and_logs_in_and_out()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    host.deploy("email", email_plugin()?).await?;
    let email = "ada@example.com";
    let (status, body) = sign_up(&host, "Ada@Example.com").await?;
    assert_eq!((status, &body["success"]), (200, &json!(true)), "{body}");
    // The mail has really gone out.
    let mail = until(Duration::from_secs(20), "the mail", async || {
        let all = world.mail.list();
        Ok(all
            .into_iter()
            .find(|mail| mail.to.iter().any(|to| to.contains(email))))
    })
    .await?;
    let written = std::fs::read_to_string(world.dir.path().join("mail").join(&mail.file))?;
    let body = written
        .split_once("\r\n\r\n")
        .context("a body")?
        .1
        .to_owned();
    let otp = body
        .split(|c: char| !c.is_ascii_digit())
        .find(|part| part.len() == 6)
        .context("a code")?
        .to_owned();
    let (status, body) = log_in(&host, email, PASSWORD).await?;
    assert_eq!(
        (status, &body["message"]),
        (401, &json!("Invalid credentials")),
        "no password before the code: {body}"
    );
    let (status, body) = post(
        &host,
        "/api/auth/verify-otp",
        json!({ "email": email, "otp": otp }),
    )
    .await?;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["expiresIn"], 900);
    let token = text(&body["token"]);
    let (status, again) = post(
        &host,
        "/api/auth/verify-otp",
        json!({ "email": email, "otp": otp }),
    )
    .await?;
    assert_eq!(
        (status, &again["message"]),
        (400, &json!("Invalid OTP")),
        "used once"
    );
    let (status, body) = answer(
        host.http
            .post(format!("{}/api/auth/complete-profile", host.url))
            .bearer_auth(&token)
            .json(&json!({ "fullName": "Ada Lovelace", "phone": "+91 1234", "profession": "engineer", "domain": "maths", "profilePhoto": "https://example.com/a.png" })),
    )
    .await?;
    assert_eq!(
        (status, &body["message"]),
        (200, &json!("Signup successful")),
        "{body}"
    );
    let (_, body) = with_token(&host, "/api/users/profile", &token).await?;
    assert_eq!(body["data"]["fullName"], "Ada Lovelace");
    assert_eq!(
        (&body["data"]["stage"], &body["data"]["role"]),
        (&json!(3), &json!("user"))
    );
    let (status, body) = log_in(&host, " ADA@example.com", PASSWORD).await?;
    assert_eq!(
        (status, &body["message"]),
        (200, &json!("Login successful")),
        "{body}"
    );
    assert_eq!(
        body["user"],
        json!({ "id": body["user"]["id"], "email": email, "name": "Ada Lovelace", "image": "https://example.com/a.png" })
    );
    let (second, refresh) = (text(&body["token"]), text(&body["refreshToken"]));
    let (_, listed) = with_token(&host, "/api/auth/sessions", &second).await?;
    let sessions = listed["data"].as_array().context("sessions")?;
    assert_eq!(sessions.len(), 2, "{listed}");
    assert_eq!(
        sessions
            .iter()
            .filter(|session| session["isCurrent"] == true)
            .count(),
        1
    );
    let logged_out = answer(
        host.http
            .post(format!("{}/api/auth/logout", host.url))
            .bearer_auth(&second),
    )
    .await?;
    assert_eq!(logged_out.0, 200, "{logged_out:?}");
    assert_eq!(profile(&host, &second).await?, 401, "at once");
    assert_eq!(
        profile(&host, &token).await?,
        200,
        "the other session goes on"
    );
    let (status, _) = post(
        &host,
        "/api/auth/refresh",
        json!({ "refreshToken": refresh }),
    )
    .await?;
    assert_eq!(status, 401);
    let everywhere = answer(
        host.http
            .post(format!("{}/api/auth/logout-all", host.url))
            .bearer_auth(&token),
    );
    assert_eq!(everywhere.await?.0, 200);
    assert_eq!(profile(&host, &token).await?, 401);
    // The code is nowhere in Redis once its mail has gone out.
    let mut redis = world.redis().await?;
    let left: Vec<String> = redis
        .keys(format!("{}:emailQueue:account-mail-*", world.prefix))
        .await?;
    assert_eq!(left, Vec::<String>::new());
    let mut database = world.database().await?;
    let actions: Vec<(String,)> = sqlx::query_as(
        "select action from patchbay.audit_entries where trail = 'login_logs' order by id",
    )
    .fetch_all(&mut database)
    .await?;
    let actions: Vec<&str> = actions.iter().map(|(action,)| action.as_str()).collect();
    assert_eq!(actions, ["login", "login", "logout", "logout"]);
    Ok(())
}

/// Made by the old backend's library with cost 4.
fn bcrypt_of(password: &str) -> String {
    bcrypt_of_cost(password, 4)
}

fn bcrypt_of_cost(password: &str, cost: u32) -> String {
    let output = std::process::Command::new("node")
        .arg("-e")
        .arg("console.log(require('bcryptjs').hashSync(process.argv[1], Number(process.argv[2])))")
        .arg(password)
        .arg(cost.to_string())
        .current_dir(crate::harness::repository().join("tests/interop"))
        .output()
        .expect("node runs");
    let hash = String::from_utf8(output.stdout).expect("a text");
    assert!(
        hash.starts_with("$2"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    hash.trim().to_owned()
}

#[tokio::test]
async fn a_change_of_an_account_is_seen_by_the_next_request_on_every_host() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&PEOPLE).await?, world.host(&PEOPLE).await?);
    let body = verified(&world, &host, "ada@example.com").await?;
    let (token, id) = (text(&body["token"]), text(&body["user"]["id"]));
    for host in [&host, &other] {
        assert_eq!(profile(host, &token).await?, 200);
    }
    let (status, changed) = host
        .put(
            &format!("/api/admin/people/{id}/role"),
            json!({ "role": "finance" }),
        )
        .await?;
    assert_eq!(
        (status, &changed["data"]["role"]),
        (200, &json!("finance")),
        "{changed}"
    );
    let role = async |host: &Host| {
        anyhow::Ok(text(
            &with_token(host, "/api/users/profile", &token).await?.1["data"]["role"],
        ))
    };
    assert_eq!(role(&host).await?, "finance");
    let began = Instant::now();
    until(
        Duration::from_secs(1),
        "the role on the other host",
        async || Ok((role(&other).await? == "finance").then_some(())),
    )
    .await
    .with_context(|| format!("after {:?}", began.elapsed()))?;
    let (status, blocked) = host
        .post(
            &format!("/api/admin/people/{id}/block?reason=spam"),
            json!({}),
        )
        .await?;
    assert_eq!(
        (status, &blocked["data"]["blockReason"]),
        (200, &json!("spam")),
        "{blocked}"
    );
    assert_eq!(profile(&host, &token).await?, 401);
    until(
        Duration::from_secs(1),
        "the block on the other host",
        async || Ok((profile(&other, &token).await? == 401).then_some(())),
    )
    .await?;
    let (status, body) = log_in(&other, "ada@example.com", PASSWORD).await?;
    assert_eq!(
        (status, &body["message"]),
        (403, &json!("Account is blocked"))
    );
    assert_eq!(
        log_in(&other, "ada@example.com", "wrong").await?.0,
        401,
        "only the owner is told"
    );
    let again = format!("/api/admin/people/{id}/block?reason=other");
    let (_, again) = host.post(&again, json!({})).await?;
    assert_eq!(
        (&again["data"]["already"], &again["data"]["blockReason"]),
        (&json!(true), &json!("spam")),
        "{again}"
    );
    for already in [Value::Null, json!(true)] {
        let (status, unblocked) = host
            .post("/api/admin/people/ada@example.com/unblock", json!({}))
            .await?;
        assert_eq!((status, &unblocked["data"]["already"]), (200, &already));
    }
    let same = format!("/api/admin/people/{id}/role");
    let (_, same) = host.put(&same, json!({ "role": "FINANCE" })).await?;
    assert_eq!(same["data"]["already"], true, "{same}");
    let (_, activity) = host.get("/api/admin/activity?result=no-effect").await?;
    let rows = activity["data"].as_array().context("actions")?;
    let seen: Vec<_> = rows.iter().map(|row| &row["noEffect"]).collect();
    let expected = ["had this role", "was not blocked", "was already blocked"];
    assert_eq!(seen, expected, "{activity}");
    for command in ["block", "logout"] {
        let nobody = patchbay(&host, &["user", command, "nobody@example.com"]).await?;
        assert_eq!(nobody.status.code(), Some(3), "it looks before it asks");
    }
    assert_eq!(log_in(&other, "ada@example.com", PASSWORD).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn two_hundred_logins_at_once_all_get_in() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    let logins = (0..200).map(|_| log_in(&host, "ada@example.com", PASSWORD));
    let answers = futures::future::try_join_all(logins).await?;
    for (status, body) in &answers {
        assert_eq!(*status, 200, "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn two_signups_of_one_address_at_once_make_one_account() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&PEOPLE).await?, world.host(&PEOPLE).await?);
    let at_once = futures::future::try_join(
        sign_up(&host, "ada@example.com"),
        sign_up(&other, "ADA@example.com"),
    );
    let (one, two) = at_once.await?;
    assert_eq!((one.0, two.0), (200, 200), "{one:?} {two:?}");
    let mut database = world.database().await?;
    let (accounts, codes): (i64, i64) = sqlx::query_as("select (select count(*) from users), (select count(*) from patchbay.one_time_codes where used_at is null)").fetch_one(&mut database).await?;
    assert_eq!((accounts, codes), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_host_without_accounts_says_so() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for path in ["/api/auth/login", "/api/auth/signup"] {
        let (status, body) = post(
            &host,
            path,
            json!({ "email": "a@example.com", "password": PASSWORD }),
        )
        .await?;
        assert_eq!(
            (status, &body["code"]),
            (404, &json!("accounts-off")),
            "{body}"
        );
    }
    assert_eq!(with_token(&host, "/api/users/profile", "x").await?.0, 404);
    let (exit, text) = world
        .output(&["serve"], &[("PATCHBAY_PEOPLE_ENABLED", "true")])
        .await?;
    assert_ne!(exit, Some(0));
    assert!(
        text.contains("people.enabled is true, but no master key is configured"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn several_reasons_hide_in_one_failed_start() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = with(&[
        (
            "PATCHBAY_PEOPLE_MASTER_PASSWORD_HASH",
            "$2b$10$abcdefghijklmnopqrstuv",
        ),
        ("PATCHBAY_PEOPLE_COOKIES_CROSS_SITE", "true"),
        ("PATCHBAY_PEOPLE_JWT_SECRETS", "k1:short"),
        ("PATCHBAY_PEOPLE_TABLE", "users"),
    ]);
    let (exit, text) = world.output(&["serve"], &env).await?;
    assert_ne!(exit, Some(0));
    for expected in [
        "people.master_password_hash",
        "people.master_totp_secret",
        "people.cookies_cross_site",
        "people.jwt_secrets",
        "people.table",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(
        !text.contains("k1:short") && !text.contains("abcdefghij"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn while_postgres_is_silent_or_away_accounts_are_told_within_two_seconds_and_nothing_stale_is_served()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (proxy, database) = proxied(&world).await?;
    let host = world
        .host(&with(&[("DATABASE_URL", database.as_str())]))
        .await?;
    let token = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    assert_eq!(profile(&host, &token).await?, 200);
    proxy.refuse(true);
    proxy.go_silent();
    // What was remembered may serve until the host notices that it hears no changes.
    until(
        Duration::from_secs(3),
        "the end of what is remembered",
        async || Ok((profile(&host, &token).await? == 503).then_some(())),
    )
    .await?;
    let began = Instant::now();
    let (status, body) = with_token(&host, "/api/users/profile", &token).await?;
    assert_eq!((status, &body["code"]), (503, &json!("unavailable")));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let (status, body) = log_in(&host, "ada@example.com", PASSWORD).await?;
    assert_eq!((status, &body["code"]), (503, &json!("unavailable")));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    proxy.refuse(false);
    until(Duration::from_secs(20), "Postgres is back", async || {
        Ok((profile(&host, &token).await? == 200).then_some(()))
    })
    .await
}

#[tokio::test]
async fn while_redis_is_away_nobody_logs_in_and_sessions_go_on() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut server = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = format!("redis://127.0.0.1:{}/", server.port);
    let host = world.host(&PEOPLE).await?;
    let token = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    server.stop().await?;
    let began = Instant::now();
    let (status, body) = log_in(&host, "ada@example.com", PASSWORD).await?;
    assert_eq!(
        (status, &body["code"]),
        (503, &json!("unavailable")),
        "{body}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(profile(&host, &token).await?, 200);
    server.start().await?;
    until(Duration::from_secs(20), "Redis is back", async || {
        let (status, _) = log_in(&host, "ada@example.com", PASSWORD).await?;
        Ok((status == 200).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_mistyped_address_is_answered_with_the_account_that_may_be_meant() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let (status, signed) = sign_up(&host, "ada@example.com").await?;
    assert_eq!(status, 200, "{signed}");
    let (status, unknown) = host.get("/api/admin/people/ada@exmaple.com").await?;
    assert_eq!(status, 404, "{unknown}");
    assert!(
        unknown
            .to_string()
            .contains("Did you mean ada@example.com?"),
        "{unknown}"
    );
    Ok(())
}
