//! Invalid input is refused with the reason, and it loses and changes nothing.

use anyhow::Context;
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::harness::{World, email_plugin, hostile_component, hostile_plugin};

#[tokio::test]
async fn files_that_are_no_plugins_are_rejected_with_the_reason() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let core_module = b"\0asm\x01\0\0\0".to_vec();
    let bare_component = b"\0asm\x0d\0\x01\0".to_vec();
    for (file, reason) in [
        (b"hello".to_vec(), "component"),
        (core_module, "component"),
        (bare_component, "manifest"),
    ] {
        let (status, answer) = host.push(file).await?;
        assert_eq!(status, 422, "{answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains(reason)),
            "{answer}"
        );
    }
    let doubled = with_manifest(email_plugin()?, b"{}");
    let (status, answer) = host.push(doubled).await?;
    assert_eq!(status, 422, "{answer}");
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    assert_eq!(plugins["data"], json!([]), "nothing was kept");
    Ok(())
}

/// Appends a manifest section with any content.
fn with_manifest(mut component: Vec<u8>, manifest: &[u8]) -> Vec<u8> {
    let name = b"patchbay:manifest";
    let mut length = 1 + name.len() + manifest.len();
    component.push(0);
    while length >= 0x80 {
        component.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    component.push(length as u8);
    component.push(name.len() as u8);
    component.extend(name);
    component.extend(manifest);
    component
}

#[tokio::test]
async fn a_plugin_that_asks_for_less_than_it_imports_or_contradicts_itself_is_rejected()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let manifest = |extra: Value| {
        let mut manifest = json!({
            "format": 1, "name": "hostile", "version": "1.0.0", "wit": "0.1",
            "secrets": [{ "name": "TOKEN" }], "enqueue": { "queues": ["otherQueue"] },
            "egress": [{ "url": "https://example.com/**", "methods": ["GET"] }],
            "queues": [{ "name": "hostileQueue" }], "kv": {},
        });
        for (key, value) in extra.as_object().into_iter().flatten() {
            manifest[key] = value.clone();
        }
        manifest.to_string().into_bytes()
    };
    for (extra, status, reason) in [
        (
            json!({ "kv": null }),
            422,
            "imports 1 interface that plugin.toml does not ask for: kv. Build it against its own world",
        ),
        (
            json!({ "egress": [] }),
            422,
            "that plugin.toml does not ask for: ",
        ),
        (
            json!({ "queues": [{ "name": "hostileQueue", "attempts": 0 }] }),
            422,
            "attempts",
        ),
        (
            json!({ "queues": [{ "name": "q" }, { "name": "q" }] }),
            422,
            "queues",
        ),
        (json!({ "wit": "0.9" }), 422, "wit"),
        (json!({ "limitz": {} }), 422, "limitz"),
        (json!({ "description": "a\0b" }), 400, "NUL"),
        (
            json!({ "routes": [{}] }),
            422,
            "routes[0].method is missing",
        ),
        (
            json!({ "routes": [{ "method": "GET", "path": "/api/a/../b", "roles": ["user"], "operation": "a" }] }),
            422,
            "routes[0].path: has the segment \"..\"",
        ),
        (
            json!({ "routes": [{ "method": "GET", "path": "/api/a", "roles": ["user"], "operation": "a" }] }),
            422,
            "names routes, but the component does not export the interface operations",
        ),
        (
            json!({ "webhooks": [{ "name": "w", "path": "/api/w", "queue": "hostileQueue" }] }),
            422,
            "names webhooks, but the component does not export the interface webhooks",
        ),
        (
            json!({ "queues": [{ "name": "emailQueue" }] }),
            409,
            "hostile and email both want queue emailQueue",
        ),
    ] {
        let (answered, answer) = host
            .push(with_manifest(
                hostile_component()?,
                &manifest(extra.clone()),
            ))
            .await?;
        assert_eq!(answered, status, "{extra}: {answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains(reason)),
            "{extra}: {answer}"
        );
    }
    // A component of another world: it is valid, but Patchbay cannot use it.
    let other_world = with_manifest(b"\0asm\x0d\0\x01\0".to_vec(), &manifest(json!({})));
    let (status, answer) = host.push(other_world).await?;
    assert!(
        status == 422
            && answer["message"]
                .as_str()
                .is_some_and(|message| message.contains("wrong world")),
        "{answer}"
    );
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    assert_eq!(
        plugins["data"].as_array().map(Vec::len),
        Some(1),
        "only the incumbent is there"
    );
    Ok(())
}

#[tokio::test]
async fn a_file_of_200_mb_is_refused_before_it_is_read() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // The host may answer and close while the test still sends: both count as a refusal.
    if let Ok((status, answer)) = host.push(vec![0; 200 << 20]).await {
        assert_eq!((status, &answer["code"]), (413, &json!("too-large")));
    }
    assert_eq!(host.get("/api/health").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn data_that_is_not_json_fails_the_job_and_is_kept() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": {}, "delayMs": 3_600_000 }),
        )
        .await?;
    let mut redis = world.redis().await?;
    let key = format!("{}:emailQueue:{id}", world.prefix);
    let _: () = redis.hset(&key, "data", "{not json").await?;
    world.promote("emailQueue", &id).await?;
    let story = host.job_in("emailQueue", &id, "failed").await?;
    assert!(
        story["job"]["failedReason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("invalid-input"))
    );
    // The manifest is unknown, so all data is redacted.
    assert_eq!(story["job"]["data"], "[redacted]");
    let revealed = host.revealed_job_in("emailQueue", &id, "failed").await?;
    assert_eq!(revealed["job"]["data"], "{not json");
    Ok(())
}

#[tokio::test]
async fn unknown_names_and_bodies_answer_in_the_one_envelope() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for (path, expected) in [
        ("/api/admin/queues/emailQueue/jobs/77", 404),
        ("/api/admin/queues/a:b/jobs/1", 400),
        ("/api/admin/queues/emailQueue/jobs?state=sleeping", 400),
        ("/api/admin/plugins/nobody/revisions", 404),
        ("/api/admin/plugins/No%20Name/revisions", 400),
    ] {
        let (status, answer) = host.get(path).await?;
        assert_eq!(status, expected, "{path}: {answer}");
        assert_eq!(answer["success"], false, "{path}");
        assert!(
            answer["code"].is_string() && answer["message"].is_string(),
            "{path}: {answer}"
        );
    }
    let (status, answer) = host
        .post(
            "/api/admin/plugins/nobody/activate",
            json!({ "digest": "abcd1234" }),
        )
        .await?;
    assert_eq!(status, 404, "{answer}");
    Ok(())
}

#[tokio::test]
async fn compiled_code_that_somebody_swapped_on_disk_is_not_run_but_compiled_again()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let cache = world.dir.path().join("cache");
    let env = [(
        "PATCHBAY_RUNTIME_CACHE_DIR",
        cache.to_str().context("a path")?,
    )];
    let host = world.host(&env).await?;
    let hostile = host.deploy("hostile", hostile_plugin()?).await?;
    let email = host.deploy("email", email_plugin()?).await?;
    let file = |digest: &str| cache.join(format!("{digest}.cwasm"));
    let genuine = std::fs::read(file(&hostile))?;
    assert!(host.stop().await?.success());

    // Another plugin's code, changed code, half a file, and random bytes.
    let mut changed = genuine.clone();
    *changed.last_mut().context("code")? ^= 1;
    for swapped in [
        std::fs::read(file(&email))?,
        changed,
        genuine[..genuine.len() / 2].to_vec(),
        b"code".to_vec(),
    ] {
        std::fs::write(file(&hostile), swapped)?;
        let host = world.host(&env).await?;
        assert!(
            host.log
                .lock()
                .expect("no writer panics")
                .contains("is compiled again")
        );
        let id = host
            .add("hostileQueue", json!({ "name": "noop", "data": {} }))
            .await?;
        host.job_in("hostileQueue", &id, "completed").await?;
        assert!(host.stop().await?.success());
        assert_eq!(
            std::fs::read(file(&hostile))?.len(),
            genuine.len(),
            "the cache is mended"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_names_the_field_and_what_may_stand_there() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let jobs = "/api/admin/queues/emailQueue/jobs";
    let backoff =
        |kind: Value| json!({ "name": "send", "backoff": { "type": kind, "delayMs": 5 } });
    for (body, message) in [
        (json!({ "data": {} }), "name is missing"),
        (json!({ "name": 7 }), "name: must be text, not a number"),
        (
            json!({ "name": "send", "attemps": 3 }),
            "attemps is not a known field; known: name, data, id",
        ),
        (
            json!({ "name": "send", "attempts": "many" }),
            "attempts: must be a whole number from 0 to 4294967295, not text",
        ),
        (
            backoff(json!("linear")),
            "backoff.type: must be one of fixed, exponential, not \"linear\"",
        ),
    ] {
        let (status, answer) = host.post(jobs, body).await?;
        assert_eq!(
            (status, &answer["code"]),
            (422, &json!("invalid-input")),
            "{answer}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.starts_with(message)),
            "{message}: {answer}"
        );
    }
    for (query, message) in [
        ("", "state is missing"),
        ("?state=lost", "state: must be one of waiting"),
        ("?state=failed&limit=ten", "limit: must be a whole number"),
        (
            "?state=failed&offsets=1",
            "offsets is not a known field; known: state, offset, cursor, limit",
        ),
    ] {
        let (status, answer) = host.get(&format!("{jobs}{query}")).await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{answer}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.starts_with(message)),
            "{message}: {answer}"
        );
    }
    let request = host
        .http
        .post(format!("{}{jobs}", host.url))
        .header("content-type", "application/json")
        .body("{");
    let (status, answer) = host.request(request).await?;
    assert_eq!(status, 400);
    assert!(
        answer["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("The body is not JSON: ")),
        "{answer}"
    );
    Ok(())
}
