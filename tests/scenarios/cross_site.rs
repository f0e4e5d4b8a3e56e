//! Other sites' pages in a real browser with the operator's credentials cannot change anything.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{PASSWORD, USER, World, hostile_plugin, repository};

const QUEUE: &str = "hostileQueue";

/// Every documented operation that changes something, with values for its path parameters.
fn ways(document: &Value) -> Vec<(String, String)> {
    let mut ways = Vec::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        let path = path.split('/').map(|part| match part {
            "{queue}" => QUEUE,
            "{name}" | "{plugin}" => "hostile",
            _ if part.starts_with('{') => "1",
            part => part,
        });
        let path = path.collect::<Vec<_>>().join("/");
        let methods = methods
            .as_object()
            .into_iter()
            .flatten()
            .map(|(method, _)| method.to_ascii_uppercase());
        ways.extend(
            methods
                .filter(|method| method != "GET")
                .map(|method| (method, path.clone())),
        );
    }
    ways
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_with_the_operators_cached_credentials()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let (_, document) = host.get("/api/openapi.json").await?;
    let ways = ways(&document);
    ensure!(ways.len() > 50, "{ways:?}");
    let mut database = world.database().await?;
    let actions = "select count(*) from patchbay.operator_actions";
    let before: i64 = sqlx::query_scalar(actions).fetch_one(&mut database).await?;

    let mut browser = Command::new("node");
    browser
        .arg("cross-site.mjs")
        .current_dir(repository().join("tests/interop"))
        .kill_on_drop(true);
    let login = format!("//{USER}:{PASSWORD}@");
    browser
        .env("HOST", &host.url)
        .env("HOST_WITH_LOGIN", host.url.replacen("//", &login, 1));
    browser
        .env("WAYS", serde_json::to_string(&ways)?)
        .env("QUEUE", QUEUE);
    browser.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::time::timeout(Duration::from_secs(120), browser.output()).await??;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout)?;

    assert_eq!(
        seen["ownPage"],
        json!([200, 200]),
        "a page of the host's own pauses and resumes a queue"
    );
    let after: i64 = sqlx::query_scalar(actions).fetch_one(&mut database).await?;
    assert_eq!(after - before, 2, "nothing else was done");
    let page = host.metrics().await?;
    let count = |method: &str, status: &str| -> f64 {
        let lines = page
            .lines()
            .filter(|line| line.starts_with("patchbay_http_requests_total{"));
        let lines = lines.filter(|line| line.contains(method) && line.contains(status));
        lines
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    };
    let sent = seen["sent"].as_u64().context("a count")? as f64;
    ensure!(sent >= ways.len() as f64 * 3.0, "{seen}");
    assert_eq!(
        count(r#"method="POST""#, r#"status="403""#),
        sent,
        "each was refused, and for its site"
    );
    assert_eq!(
        seen["read"],
        json!("nothing"),
        "nor does it get anything to read"
    );
    ensure!(
        seen["headers"]["x-content-type-options"] == "nosniff",
        "{}",
        seen["headers"]
    );
    ensure!(
        seen["headers"]["x-frame-options"] == "DENY",
        "{}",
        seen["headers"]
    );
    ensure!(
        seen["headers"]["cache-control"] == "no-store",
        "{}",
        seen["headers"]
    );
    Ok(())
}
