//! The page to read and try the API, in a real browser.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{World, repository};

#[tokio::test]
async fn a_person_reads_the_api_in_a_browser_and_tries_it_and_nothing_comes_from_elsewhere()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let browser = Command::new("node")
        .arg("api-docs.mjs")
        .current_dir(repository().join("tests/interop"))
        .env("HOST", &host.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(150), browser).await??;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(seen["status"], 200);
    let list = |name: &str| {
        seen[name]
            .as_array()
            .cloned()
            .with_context(|| format!("{name}: {seen}"))
    };
    assert_eq!(list("refused")?, Vec::<Value>::new(), "{seen:#}");
    assert_eq!(list("errors")?, Vec::<Value>::new(), "{seen:#}");
    for url in list("requests")? {
        let url = url.as_str().context("a URL")?;
        assert!(
            url.starts_with(&host.url) || url.starts_with("data:"),
            "{url}"
        );
    }
    let policy = seen["policy"].as_str().context("a policy")?;
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
    let tags = list("tags")?;
    for tag in ["queues", "jobs", "auth", "audit", "plugins"] {
        assert!(tags.contains(&tag.into()), "{tag}: {tags:?}");
    }
    assert!(seen["operations"].as_u64().is_some_and(|count| count > 30));
    let tried = seen["tried"].as_str().context("an answer")?;
    assert!(
        tried.contains("200") && tried.contains("postgresql"),
        "{tried}"
    );
    assert!(list("logins")?.len() >= 3, "{seen}");

    // Its files are kept for ever, and their addresses change with them.
    let page = host.http.get(format!("{}/api/docs", host.url));
    let page = page.send().await?.text().await?;
    let script = page
        .split('"')
        .find(|part| part.ends_with("swagger-ui-bundle.js"))
        .context("a script")?;
    let plain = reqwest::Client::builder().no_gzip().no_proxy().build()?;
    for encoding in ["gzip", "identity"] {
        let request = plain.get(host.url.clone() + script);
        let answer = request.header("accept-encoding", encoding).send().await?;
        assert_eq!(answer.status(), 200);
        let headers = answer.headers();
        assert_eq!(
            headers["cache-control"],
            "public, max-age=31536000, immutable"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(
            headers.get("content-encoding").is_some(),
            encoding == "gzip"
        );
        let size = answer.bytes().await?.len();
        assert!(size < 600 << 10 || encoding == "identity", "{size}");
    }
    let other = format!(
        "{}/api/docs/0000000000000000/swagger-ui-bundle.js",
        host.url
    );
    assert_eq!(host.http.get(other).send().await?.status(), 404);
    Ok(())
}
