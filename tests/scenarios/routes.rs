//! Routes and webhooks of plugins: each path has one owner, for every caller, by command or API, at
//! staging and at activation.

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, answers_plugin_with, guest_component};

/// The plugin `answers` under this name and version, with these routes.
fn plugin(name: &str, version: &str, routes: &[(&str, &str)]) -> anyhow::Result<Vec<u8>> {
    let routes: String = routes
        .iter()
        .enumerate()
        .map(|(n, (method, path))| {
            format!("[[routes]]\nid = \"r{n}\"\nmethod = {method:?}\npath = {path:?}\nroles = [\"sales\"]\noperation = \"echo\"\n")
        })
        .collect();
    answers_plugin_with(|manifest| {
        let manifest = manifest.replace("name = \"answers\"", &format!("name = {name:?}"));
        manifest.replace("version = \"0.1.0\"", &format!("version = {version:?}")) + &routes
    })
}

async fn staged(host: &Host, component: Vec<u8>) -> anyhow::Result<String> {
    let (status, answer) = host.push(component).await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    Ok(answer["data"]["digest"]
        .as_str()
        .context("a digest")?
        .to_owned())
}

async fn activate(host: &Host, plugin: &str, digest: &str) -> anyhow::Result<(u16, Value)> {
    let path = format!("/api/admin/plugins/{plugin}/activate");
    host.post(&path, json!({ "digest": digest, "grant": true }))
        .await
}

/// The message of a conflict.
fn conflict((status, answer): (u16, Value)) -> anyhow::Result<String> {
    anyhow::ensure!(
        (status, &answer["code"]) == (409, &json!("conflict")),
        "{status} {answer}"
    );
    Ok(answer["message"].as_str().context("a message")?.to_owned())
}

#[tokio::test]
async fn a_path_has_one_owner_at_staging_by_command_and_api_and_lists_name_it() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let crm = host
        .deploy(
            "crm",
            plugin("crm", "0.1.0", &[("GET", "/api/leads/{leadId}/call")])?,
        )
        .await?;

    let dialer = plugin(
        "dialer",
        "0.1.0",
        &[("GET", "/api/calls"), ("POST", "/api/leads/{id}/call")],
    )?;
    let expected = format!(
        "POST /api/leads/{{id}}/call of dialer overlaps GET /api/leads/{{leadId}}/call of crm (active, revision {}). \
         Change one of them, or deactivate crm: patchbay plugin deactivate crm",
        &crm[..12]
    );
    assert_eq!(conflict(host.push(dialer.clone()).await?)?, expected);
    let file = world.dir.path().join("dialer.wasm");
    std::fs::write(&file, &dialer)?;
    let file = file.to_str().context("a path")?;
    let refused = patchbay(&host, &["plugin", "push", file]).await?;
    assert_eq!(refused.status.code(), Some(4));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains(&expected), "{told}");
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    assert_eq!(
        plugins["data"].as_array().map(Vec::len),
        Some(1),
        "nothing of it is kept"
    );

    // The host's path is refused where the manifest is written, and by the host in any case.
    let written = plugin(
        "greedy",
        "0.1.0",
        &[("GET", "/api/admin/queues/{queue}/mine")],
    )
    .err()
    .context("refused")?;
    let message = "GET /api/admin/queues/{queue}/mine of greedy overlaps /api/admin of the host. Choose another path";
    assert!(format!("{written:#}").contains(message), "{written:#}");
    let packed = json!({
        "format": 1, "name": "greedy", "version": "0.1.0", "wit": "0.1",
        "secrets": [{ "name": "TOKEN" }],
        "egress": [{ "url": "https://a.example/**", "methods": ["GET"] }],
        "routes": [
            { "method": "GET", "path": "/api/admin/queues/{queue}/mine", "roles": ["admin"], "operation": "echo" },
        ],
    });
    let manifest = Manifest::from_packed(packed.to_string().as_bytes())?;
    let greedy = patchbay_runtime::pack(&guest_component("answers")?, &manifest)?;
    assert_eq!(conflict(host.push(greedy).await?)?, message);

    // A new revision of the same plugin may use its own paths again, and others.
    let changed = plugin(
        "crm",
        "0.2.0",
        &[("GET", "/api/leads/{id}/call"), ("POST", "/api/leads")],
    )?;
    std::fs::write(file, &changed)?;
    let pushed = patchbay(&host, &["plugin", "push", file, "--activate", "--grant"]).await?;
    assert!(
        pushed.status.success(),
        "{}",
        String::from_utf8_lossy(&pushed.stderr)
    );
    let routes = json!(["GET /api/leads/{id}/call", "POST /api/leads"]);
    let listed = json_of(&host, &["--json", "plugin", "list"]).await?;
    assert_eq!(
        (&listed[0]["routes"], &listed[0]["webhooks"]),
        (&routes, &json!([])),
        "{listed}"
    );
    let table = patchbay(&host, &["plugin", "list"]).await?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.contains("ROUTES") && table.contains("2: patchbay route list"),
        "{table}"
    );
    assert!(!table.contains("WEBHOOKS"), "{table}");
    let inspected = patchbay(&host, &["plugin", "inspect", file]).await?;
    let inspected = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(
        inspected.contains("\nroute:    POST /api/leads\n"),
        "{inspected}"
    );
    let inspected = json_of(&host, &["--json", "plugin", "inspect", file]).await?;
    let route = json!({ "id": "r1", "method": "POST", "path": "/api/leads", "access": "sales", "operation": "echo" });
    assert_eq!(inspected["asks"]["routes"][1], route, "{inspected}");
    Ok(())
}

#[tokio::test]
async fn of_two_staged_plugins_with_one_path_the_second_is_not_activated_on_any_host()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&[]).await?, world.host(&[]).await?);
    let first = staged(
        &host,
        plugin("first", "0.1.0", &[("GET", "/api/leads/{id}")])?,
    )
    .await?;
    let second = staged(
        &host,
        plugin("second", "0.1.0", &[("DELETE", "/api/leads/newest")])?,
    )
    .await?;

    // On two hosts at once: one of them wins, never both.
    let (one, two) = tokio::join!(
        activate(&host, "first", &first),
        activate(&other, "second", &second)
    );
    let (one, two) = (one?, two?);
    let (winner, loser) = if one.0 == 200 {
        ("first", two)
    } else {
        ("second", one)
    };
    let message = conflict(loser)?;
    assert!(
        message.contains(&format!("of {winner} (active, revision ")),
        "{message}"
    );
    assert!(
        message.contains(&format!("patchbay plugin deactivate {winner}")),
        "{message}"
    );

    let (loser, digest) = if winner == "first" {
        ("second", &second)
    } else {
        ("first", &first)
    };
    let refused = patchbay(
        &host,
        &["plugin", "activate", loser, &digest[..12], "--grant"],
    )
    .await?;
    assert_eq!(refused.status.code(), Some(4));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        told.contains("GET /api/leads/{id} of first")
            && told.contains("DELETE /api/leads/newest of second"),
        "{told}"
    );

    // The message's advice works; after that, the other plugin is refused.
    json_of(&host, &["--json", "plugin", "deactivate", winner, "--yes"]).await?;
    json_of(
        &host,
        &["--json", "plugin", "activate", loser, digest, "--grant"],
    )
    .await?;
    let back = if winner == "first" { &first } else { &second };
    let message = conflict(activate(&other, winner, back).await?)?;
    assert!(
        message.contains(&format!("of {loser} (active, revision ")),
        "{message}"
    );
    Ok(())
}

#[tokio::test]
async fn a_webhook_has_its_path_alone_too() -> anyhow::Result<()> {
    let world = World::new().await?;
    // What vendors send is kept sealed only.
    let key = "8f3c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let host = world
        .host(&[
            ("PATCHBAY_PLUGINS_DRAFT_WIT", "true"),
            ("PATCHBAY_SECRETS_KEY", key),
        ])
        .await?;
    host.deploy(
        "crm",
        plugin("crm", "0.1.0", &[("GET", "/api/exotel/{what}")])?,
    )
    .await?;
    let hooked = |path: &str| -> anyhow::Result<Vec<u8>> {
        let manifest = std::fs::read_to_string(
            crate::harness::repository().join("tests/guests/draft/plugin.toml"),
        )?;
        let webhook =
            format!("\n[[webhooks]]\nname = \"status\"\npath = {path:?}\nqueue = \"draftQueue\"\n");
        let manifest = Manifest::from_toml(&(manifest + &webhook), |file| {
            Err(format!("{file} is not expected"))
        })?;
        Ok(patchbay_runtime::pack(
            &guest_component("draft")?,
            &manifest,
        )?)
    };
    let message = conflict(host.push(hooked("/api/exotel/status")?).await?)?;
    assert!(
        message
            .starts_with("POST /api/exotel/status of draft overlaps GET /api/exotel/{what} of crm"),
        "{message}"
    );
    host.deploy("draft", hooked("/api/exotel/status/calls")?)
        .await?;
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    let draft = plugins["data"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|plugin| plugin["name"] == "draft");
    let webhooks = &draft.context("the plugin")?["webhooks"];
    assert_eq!(webhooks, &json!(["status POST /api/exotel/status/calls"]));
    Ok(())
}
