//! Health probes answer correctly and quickly.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Executor;

use crate::harness::{World, until};

#[tokio::test]
async fn health_has_the_old_shape_and_real_latencies() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[("NODE_ENV", "staging")]).await?;
    let (status, body) = host.get("/api/health").await?;
    assert_eq!(status, 200);
    assert_eq!(body["success"], true);
    let data = &body["data"];
    assert_eq!(data["status"], "OK");
    assert_eq!(data["environment"], "staging");
    assert_eq!(data["database"]["type"], "postgresql");
    assert_eq!(data["database"]["connected"], true);
    assert_eq!(data["redis"]["connected"], true);
    assert!(
        data["redis"]["latencyMs"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0)
    );
    assert!(data["uptime"].is_f64());
    assert_eq!(host.get("/readyz").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_background_service_that_fails_is_named_by_readyz_and_keeps_the_host_ready()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HISTORY_MIRROR_EVERY_S", "1")])
        .await?;
    assert!(
        host.metrics()
            .await?
            .contains("patchbay_service_restarts_total{service=\"mirror\"} 0")
    );
    let mut database = world.database().await?;
    database
        .execute("alter table patchbay.mirror_places rename to elsewhere")
        .await?;
    let failing = |ready: &Value| {
        ready["details"]
            .as_array()
            .and_then(|all| all.first().cloned())
    };
    let told = until(
        Duration::from_secs(20),
        "that the mirror fails",
        async || {
            let (status, ready) = host.get("/readyz").await?;
            assert_eq!(
                (status, &ready["ready"], &ready["reasons"]),
                (200, &json!(true), &json!([])),
                "{ready}"
            );
            Ok(failing(&ready))
        },
    )
    .await?;
    assert_eq!(told["code"], "service-failing");
    assert_eq!(
        told["message"],
        "The background service mirror fails: jobs that other workers ran are not copied to the history. It tries again by itself"
    );
    database
        .execute("alter table patchbay.elsewhere rename to mirror_places")
        .await?;
    until(Duration::from_secs(20), "that it works again", async || {
        Ok(failing(&host.get("/readyz").await?.1)
            .is_none()
            .then_some(()))
    })
    .await
}

#[tokio::test]
async fn unknown_routes_answer_as_the_old_backend_did() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let (status, body) = host.get("/api/nothing/here").await?;
    assert_eq!(status, 404);
    assert_eq!(
        body,
        json!({
            "success": false,
            "code": "route-not-found",
            "message": "Route not found",
            "path": "/api/nothing/here"
        })
    );
    Ok(())
}

#[tokio::test]
async fn admin_routes_need_the_operators_credentials() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let response = host
        .http
        .get(format!("{}/api/admin/queues", host.url))
        .send()
        .await?;
    assert_eq!(response.status(), 401);
    assert!(
        response.headers()["www-authenticate"]
            .to_str()?
            .starts_with("Basic")
    );
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_process_cleanly() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    assert!(host.stop().await?.success());
    Ok(())
}
