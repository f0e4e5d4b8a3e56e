//! Accounts of API clients: signing up, logging in, sessions, passwords, and what strangers cannot
//! find out or break.

use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine;
use redis::AsyncCommands;
use serde_json::{Value, json};
use sqlx::Executor;

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

/// As the old backend's ORM made it, with an account in it.
async fn old_table(world: &World) -> anyhow::Result<()> {
    let hash = bcrypt_of(PASSWORD);
    let mut database = world.database().await?;
    database
        .execute(sqlx::AssertSqlSafe(format!(
            "create extension if not exists \"uuid-ossp\";
             create type users_role_enum as enum ('user', 'admin', 'expert', 'external_hr', 'finance');
             create type users_stage_enum as enum ('1', '2', '3');
             create table users (id uuid primary key default uuid_generate_v4(), \"fullName\" character varying(255),
               email character varying(255) not null, password character varying(255), phone character varying(20),
               role users_role_enum not null default 'user', \"isVerified\" boolean not null default false,
               \"isProfileComplete\" boolean not null default false, stage users_stage_enum not null default '1',
               \"deviceInfo\" text, \"createdAt\" timestamp not null default now(), \"updatedAt\" timestamp not null default now(),
               constraint uq_email unique (email));
             insert into users (email, password, role, \"isVerified\", stage, \"fullName\") values
               ('Grace@Example.com', '{hash}', 'admin', true, '3', 'Grace Hopper'),
               ('hr@example.com', '{hash}', 'external_hr', true, '3', null),
               ('new@example.com', '{hash}', 'user', false, '1', null)"
        )))
        .await?;
    Ok(())
}

/// Made by the old backend's library with cost 4.
fn bcrypt_of(password: &str) -> String {
    let output = std::process::Command::new("node")
        .arg("-e")
        .arg("console.log(require('bcryptjs').hashSync(process.argv[1], 4))")
        .arg(password)
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

async fn catalogue(world: &World) -> anyhow::Result<Vec<(String,)>> {
    let mut database = world.database().await?;
    let query = "select format('%s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull) from pg_attribute a \
         where a.attrelid = 'public.users'::regclass and a.attnum > 0 \
         union all select format('%s %s', conname, pg_get_constraintdef(oid)) from pg_constraint where conrelid = 'public.users'::regclass or confrelid = 'public.users'::regclass \
         union all select indexdef from pg_indexes where schemaname = 'public' and tablename = 'users' \
         union all select tgname::text from pg_trigger where tgrelid = 'public.users'::regclass order by 1";
    Ok(sqlx::query_as(query).fetch_all(&mut database).await?)
}

#[tokio::test]
async fn accounts_of_the_old_backend_log_in_their_hash_becomes_argon2id_and_their_table_stays_as_it_is()
-> anyhow::Result<()> {
    let world = World::new().await?;
    old_table(&world).await?;
    let before = catalogue(&world).await?;
    let host = world.host(&PEOPLE).await?;
    let (status, body) = log_in(&host, "grace@example.com", PASSWORD).await?;
    assert_eq!(status, 200, "{body}");
    let token = text(&body["token"]);
    let mut database = world.database().await?;
    let hash = until(Duration::from_secs(10), "the new hash", async || {
        let (hash,): (String,) =
            sqlx::query_as("select password from users where email = 'Grace@Example.com'")
                .fetch_one(&mut database)
                .await?;
        Ok(hash.starts_with("$argon2id$").then_some(hash))
    })
    .await?;
    assert_eq!(
        profile(&host, &token).await?,
        200,
        "the session goes on: {hash}"
    );
    assert_eq!(log_in(&host, "Grace@Example.com", PASSWORD).await?.0, 200);
    assert_eq!(log_in(&host, "grace@example.com", "another").await?.0, 401);
    // Somebody new, in the same table: a column that it lacks is kept beside it.
    verified(&world, &host, "ada@example.com").await?;
    let (stage, verified): (String, bool) = sqlx::query_as(
        "select stage::text, \"isVerified\" from users where email = 'ada@example.com'",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!((stage.as_str(), verified), ("2", true));
    let (status, body) = log_in(&host, "new@example.com", PASSWORD).await?;
    assert_eq!(
        (status, &body["message"]),
        (403, &json!("Email not verified"))
    );
    code(&world, "new@example.com", 1).await?;
    assert_eq!(catalogue(&world).await?, before);
    Ok(())
}

#[tokio::test]
async fn only_some_roles_log_in_on_the_closed_platform() -> anyhow::Result<()> {
    let world = World::new().await?;
    old_table(&world).await?;
    let host = world.host(&PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    for (email, expected) in [
        ("hr@example.com", 200),
        ("grace@example.com", 200),
        ("ada@example.com", 403),
    ] {
        let request = host
            .http
            .post(format!("{}/api/auth/login", host.url))
            .header("x-platform", "mr-hire")
            .json(&json!({ "email": email, "password": PASSWORD }));
        let (status, body) = answer(request).await?;
        assert_eq!(status, expected, "{email}: {body}");
    }
    Ok(())
}

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
    assert_eq!(
        host.post("/api/admin/people/ada@example.com/unblock", json!({}))
            .await?
            .0,
        200
    );
    assert_eq!(log_in(&other, "ada@example.com", PASSWORD).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn what_another_program_changes_in_the_table_shows_within_seconds() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let token = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    assert_eq!(profile(&host, &token).await?, 200);
    let mut database = world.database().await?;
    let hash = bcrypt_of("another password");
    sqlx::query("update users set password = $1")
        .bind(hash)
        .execute(&mut database)
        .await?;
    until(
        Duration::from_secs(7),
        "the end of the session",
        async || Ok((profile(&host, &token).await? == 401).then_some(())),
    )
    .await?;
    assert_eq!(
        log_in(&host, "ada@example.com", "another password")
            .await?
            .0,
        200
    );
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
async fn the_emergency_login_works_once_per_code_and_is_recorded() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (exit, printed) = world.output(&["hash-password"], &[]).await?;
    assert_eq!(exit, Some(4), "no password on standard input: {printed}");
    let hash = hashed("the emergency password")?;
    let secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
    let env = [
        ("PATCHBAY_PEOPLE_MASTER_PASSWORD_HASH", hash.as_str()),
        ("PATCHBAY_PEOPLE_MASTER_TOTP_SECRET", secret),
    ];
    let host = world.host(&with(&env)).await?;
    verified(&world, &host, "ada@example.com").await?;
    let log_in = async |password: &str, totp: &str| {
        post(
            &host,
            "/api/auth/master-login",
            json!({ "email": "ada@example.com", "masterPassword": password, "totp": totp }),
        )
        .await
    };
    let now = chrono::Utc::now().timestamp() / 30;
    let (status, body) = log_in("the emergency password", &totp(secret, now - 1)?).await?;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["refreshToken"], Value::Null);
    let token = text(&body["token"]);
    assert_eq!(profile(&host, &token).await?, 200);
    assert_eq!(
        log_in("the emergency password", &totp(secret, now - 1)?)
            .await?
            .0,
        401,
        "the code was used"
    );
    assert_eq!(
        log_in("another password", &totp(secret, now)?).await?.0,
        401
    );
    assert_eq!(
        log_in("the emergency password", &totp(secret, now)?)
            .await?
            .0,
        401,
        "spent with the wrong password"
    );
    let request = host
        .http
        .post(format!("{}/api/auth/change-password", host.url))
        .bearer_auth(&token)
        .json(&json!({ "currentPassword": PASSWORD, "newPassword": "another password" }));
    assert_eq!(answer(request).await?.0, 403);
    let mut database = world.database().await?;
    let actions: Vec<(String,)> = sqlx::query_as(
        "select action from patchbay.audit_entries where trail = 'login_logs' order by id",
    )
    .fetch_all(&mut database)
    .await?;
    let actions: Vec<&str> = actions.iter().map(|(action,)| action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "login",
            "master_login",
            "master_login_failed",
            "master_login_failed",
            "master_login_failed"
        ]
    );
    Ok(())
}

fn hashed(password: &str) -> anyhow::Result<String> {
    use std::io::Write;
    let mut child = std::process::Command::new(binary())
        .args(["hash-password"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(password.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// RFC 6238, computed a second time.
fn totp(secret: &str, step: i64) -> anyhow::Result<String> {
    use hmac::{Hmac, KeyInit, Mac};
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (mut bits, mut length, mut key) = (0_u64, 0, Vec::new());
    for c in secret.chars() {
        bits = (bits << 5) | u64::try_from(alphabet.find(c).context("base32")?)?;
        length += 5;
        if length >= 8 {
            length -= 8;
            key.push((bits >> length) as u8);
        }
    }
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&key)?;
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest[19] & 15);
    let number = u32::from_be_bytes(digest[offset..offset + 4].try_into()?) & 0x7fff_ffff;
    Ok(format!("{:06}", number % 1_000_000))
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
            415,
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
async fn administrators_see_rediss_keys_and_other_accounts_do_not() -> anyhow::Result<()> {
    let world = World::new().await?;
    old_table(&world).await?;
    let host = world.host(&PEOPLE).await?;
    let admin = text(&log_in(&host, "grace@example.com", PASSWORD).await?.1["token"]);
    let user = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    assert_eq!(with_token(&host, "/api/redis/keys", &admin).await?.0, 200);
    let (status, body) = with_token(&host, "/api/redis/keys", &user).await?;
    assert_eq!(
        (status, &body["message"]),
        (403, &json!("Access denied. Admin role required."))
    );
    assert_eq!(with_token(&host, "/api/redis/keys", "x").await?.0, 401);
    assert_eq!(host.get("/api/redis/keys").await?.0, 200, "an operator");
    let nobody = host
        .http
        .get(format!("{}/api/redis/keys", host.url))
        .send()
        .await?;
    assert_eq!(nobody.status().as_u16(), 401);
    let key = format!("{}-kpi", world.prefix);
    let mut redis = world.redis().await?;
    let _: () = redis.set(&key, "cached").await?;
    let remove = host
        .http
        .delete(format!("{}/api/redis/keys/{key}", host.url));
    let (status, body) = answer(remove.bearer_auth(&admin)).await?;
    assert_eq!((status, &body["deletedCount"]), (200, &json!(1)), "{body}");
    let mut database = world.database().await?;
    let (actor,): (String,) = sqlx::query_as(
        "select actor from patchbay.operator_actions where action = 'redis-key.remove'",
    )
    .fetch_one(&mut database)
    .await?;
    assert!(actor.starts_with("user "), "{actor}");
    Ok(())
}

#[tokio::test]
async fn logins_are_entries_of_their_trail_and_rows_of_the_old_table() -> anyhow::Result<()> {
    let world = World::new().await?;
    old_table(&world).await?;
    let mut database = world.database().await?;
    database
        .execute(
            "create type login_action as enum ('login', 'logout', 'master_login');
             create table login_logs (id uuid primary key, \"userId\" uuid, action login_action not null, \"ipAddress\" varchar(45),
               \"userAgent\" text, timestamp timestamp not null)",
        )
        .await?;
    let host = world.host(&PEOPLE).await?;
    let request = host
        .http
        .post(format!("{}/api/auth/login", host.url))
        .header("user-agent", "Tests/1.0")
        .json(&json!({ "email": "grace@example.com", "password": PASSWORD }));
    let (_, body) = answer(request).await?;
    let logged_out = host
        .http
        .post(format!("{}/api/auth/logout", host.url))
        .bearer_auth(text(&body["token"]));
    assert_eq!(answer(logged_out).await?.0, 200);
    let rows: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
        "select \"userId\"::text, action::text, \"ipAddress\", \"userAgent\" from login_logs order by timestamp",
    )
    .fetch_all(&mut database)
    .await?;
    let id = text(&body["user"]["id"]);
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(
        rows[0],
        (
            id.clone(),
            "login".into(),
            "127.0.0.1".into(),
            Some("Tests/1.0".into())
        )
    );
    assert_eq!(
        (rows[1].0.as_str(), rows[1].1.as_str()),
        (id.as_str(), "logout")
    );
    let (status, entries) = host
        .get(&format!("/api/admin/audit?trail=login_logs&actor={id}"))
        .await?;
    assert_eq!(status, 200, "{entries}");
    assert_eq!(
        entries["data"].as_array().map(Vec::len),
        Some(2),
        "{entries}"
    );
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
