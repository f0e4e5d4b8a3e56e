//! Two versions of the contract in one host.

use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};

use crate::commands::json_of;
use crate::harness::{Host, World, guest_component, hostile_plugin, repository, until};

const QUEUE: &str = "draftQueue";
const DRAFTS: [(&str, &str); 1] = [("PATCHBAY_PLUGINS_DRAFT_WIT", "true")];

/// The plugin `draft` with this component, under a manifest that names this version.
fn draft(component: &str, wit: &str) -> anyhow::Result<Vec<u8>> {
    let manifest = std::fs::read_to_string(repository().join("tests/guests/draft/plugin.toml"))?;
    let manifest = manifest.replace("wit = \"0.2\"", &format!("wit = {wit:?}"));
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(
        &guest_component(component)?,
        &manifest,
    )?)
}

async fn result(host: &Host, queue: &str, name: &str) -> anyhow::Result<Value> {
    let id = host.add(queue, json!({ "name": name, "data": {} })).await?;
    let job = host.job_in(queue, &id, "completed").await?;
    Ok(serde_json::from_str(
        job["job"]["returnValue"]
            .as_str()
            .context("a return value")?,
    )?)
}

#[tokio::test]
async fn plugins_of_two_versions_serve_jobs_side_by_side_in_one_host() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&DRAFTS).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    host.deploy("draft", draft("draft", "0.2")?).await?;
    for n in 1..=20 {
        assert_eq!(
            result(&host, QUEUE, "any").await?,
            json!({ "wit": "0.2", "count": n }),
            "a capability of both"
        );
        assert_eq!(result(&host, "hostileQueue", "echo").await?["attempt"], 1);
    }
    let deferred = result(&host, QUEUE, "defer").await?;
    assert!(
        deferred["deferredSince"]
            .as_u64()
            .is_some_and(|since| since > 1_700_000_000_000),
        "{deferred}"
    );
    let call = json!({ "operation": "any", "input": [1] });
    let (status, answer) = host.post("/api/admin/plugins/draft/call", call).await?;
    assert_eq!(
        (status, &answer["data"]),
        (200, &json!({ "wit": "0.2", "input": [1] })),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn a_plugin_goes_from_one_version_to_the_next_and_back() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&DRAFTS).await?;
    // Jobs of `curious` report what WASI gave them, whatever the job's name.
    host.deploy("draft", draft("curious", "0.1")?).await?;
    assert!(result(&host, QUEUE, "any").await?["refused"].is_object());
    host.deploy("draft", draft("draft", "0.2")?).await?;
    assert_eq!(result(&host, QUEUE, "any").await?["wit"], "0.2");
    json_of(&host, &["--json", "plugin", "rollback", "draft"]).await?;
    assert!(result(&host, QUEUE, "any").await?["refused"].is_object());
    json_of(&host, &["--json", "plugin", "rollback", "draft"]).await?;
    assert_eq!(result(&host, QUEUE, "any").await?["wit"], "0.2");
    Ok(())
}

#[tokio::test]
async fn a_draft_is_refused_where_drafts_are_not_accepted_and_a_wrong_manifest_everywhere()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, careless) = (world.host(&[]).await?, world.host(&DRAFTS).await?);
    let refused = async |host: &Host, component: Vec<u8>| -> anyhow::Result<String> {
        let (status, answer) = host.push(component).await?;
        anyhow::ensure!(
            (status, &answer["code"]) == (422, &json!("rejected")),
            "{status} {answer}"
        );
        Ok(answer["message"].as_str().context("a message")?.to_owned())
    };
    let message = refused(&host, draft("draft", "0.2")?).await?;
    println!("{message}");
    assert!(
        message.contains("WIT 0.2, a draft") && message.contains("plugins.draft_wit"),
        "{message}"
    );
    for (component, wit) in [("draft", "0.1"), ("curious", "0.2")] {
        let message = refused(&careless, draft(component, wit)?).await?;
        println!("{message}");
        assert!(
            message.contains("the manifest says wit = ")
                && message.contains("use the same version in both"),
            "{message}"
        );
    }
    // One host accepts and activates it; the other keeps its revision, and reports why.
    let incumbent = careless.deploy("draft", draft("curious", "0.1")?).await?;
    let status = "/api/admin/plugins/draft/status";
    until(Duration::from_secs(10), "both run it", async || {
        Ok((host.get(status).await?.1["data"]["running"] == incumbent).then_some(()))
    })
    .await?;
    careless.deploy("draft", draft("draft", "0.2")?).await?;
    let story = until(
        Duration::from_secs(10),
        "the other says why not",
        async || {
            let story = host.get(status).await?.1["data"].clone();
            Ok(story["failure"]
                .as_str()
                .is_some_and(|why| why.contains("a draft"))
                .then_some(story))
        },
    )
    .await?;
    assert_eq!(story["running"], incumbent, "{story}");
    Ok(())
}
