//! Health probes answer correctly and quickly.

use crate::harness::World;

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
    assert!(data["redis"]["latencyMs"].as_f64().is_some_and(|ms| ms > 0.0));
    assert!(data["uptime"].is_f64());
    assert_eq!(host.get("/readyz").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn unknown_routes_answer_as_the_old_backend_did() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let (status, body) = host.get("/api/nothing/here").await?;
    assert_eq!(status, 404);
    assert_eq!(
        body,
        serde_json::json!({ "success": false, "message": "Route not found", "path": "/api/nothing/here" })
    );
    Ok(())
}

#[tokio::test]
async fn admin_routes_need_the_operators_credentials() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let response = host.http.get(format!("{}/api/admin/queues", host.url)).send().await?;
    assert_eq!(response.status(), 401);
    assert!(response.headers()["www-authenticate"].to_str()?.starts_with("Basic"));
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_process_cleanly() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    assert!(host.stop().await?.success());
    Ok(())
}
