//! What should not be accepted is refused with the reason, and nothing is lost or changed by it.

use redis::AsyncCommands;
use serde_json::json;

use crate::harness::{World, email_plugin};

#[tokio::test]
async fn files_that_are_no_plugins_are_rejected_with_the_reason() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let core_module = b"\0asm\x01\0\0\0".to_vec();
    let bare_component = b"\0asm\x0d\0\x01\0".to_vec();
    for (file, reason) in [(b"hello".to_vec(), "component"), (core_module, "component"), (bare_component, "manifest")] {
        let (status, answer) = host.push(file).await?;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["message"].as_str().is_some_and(|message| message.contains(reason)), "{answer}");
    }
    let mut doubled = email_plugin()?;
    let manifest = b"{}";
    doubled.extend([0, (1 + 17 + manifest.len()) as u8, 17]);
    doubled.extend(b"patchbay:manifest");
    doubled.extend(manifest);
    let (status, answer) = host.push(doubled).await?;
    assert_eq!(status, 422, "{answer}");
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    assert_eq!(plugins["data"], json!([]), "nothing was kept");
    Ok(())
}

#[tokio::test]
async fn a_file_of_200_mb_is_refused_before_it_is_read() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // The host may answer and close while we still send: both are a refusal, a success is not.
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
    let id = host.add("emailQueue", json!({ "name": "send", "data": {}, "delayMs": 3_600_000 })).await?;
    let mut redis = world.redis().await?;
    let key = format!("{}:emailQueue:{id}", world.prefix);
    let _: () = redis.hset(&key, "data", "{not json").await?;
    world.promote("emailQueue", &id).await?;
    let story = host.job_in("emailQueue", &id, "failed").await?;
    assert!(story["job"]["failedReason"].as_str().is_some_and(|reason| reason.starts_with("invalid-input")));
    assert_eq!(story["job"]["data"], "{not json");
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
        assert!(answer["code"].is_string() && answer["message"].is_string(), "{path}: {answer}");
    }
    let (status, answer) = host.post("/api/admin/plugins/nobody/activate", json!({ "digest": "abcd1234" })).await?;
    assert_eq!(status, 404, "{answer}");
    Ok(())
}
