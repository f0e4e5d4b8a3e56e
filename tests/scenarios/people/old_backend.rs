//! Accounts beside the old backend: its table, hashes, roles, tokens' platforms and records of logins.

use super::*;

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

/// A host that has noted the spellings of the addresses in the table that it found.
async fn host_that_knows(world: &World) -> anyhow::Result<Host> {
    let host = world.host(&PEOPLE).await?;
    let mut database = world.database().await?;
    until(
        Duration::from_secs(10),
        "the addresses are noted",
        async || {
            let (noted,): (i64,) =
                sqlx::query_as("select count(*) from patchbay.people where email_norm is not null")
                    .fetch_one(&mut database)
                    .await?;
            Ok((noted > 0).then_some(()))
        },
    )
    .await?;
    Ok(host)
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
    let host = host_that_knows(&world).await?;
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
async fn only_some_roles_log_in_on_a_closed_platform() -> anyhow::Result<()> {
    let world = World::new().await?;
    old_table(&world).await?;
    let closed = [(
        "PATCHBAY_PEOPLE_PLATFORM_ROLES",
        "mr-hire:external_hr+admin",
    )];
    let host = world.host(&with(&closed)).await?;
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

#[tokio::test]
async fn administrators_see_rediss_keys_and_other_accounts_do_not() -> anyhow::Result<()> {
    let world = World::new().await?;
    old_table(&world).await?;
    let host = host_that_knows(&world).await?;
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
    let host = host_that_knows(&world).await?;
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
