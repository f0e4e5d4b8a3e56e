//! The stand-in of a mail server, driven by an independent client, and its control server.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use patchbay_stand_ins::smtp::{self, Account, Behaviour, Fault, Stage};
use serde_json::{Value, json};
use tokio::process::Command;

#[tokio::test]
async fn a_client_of_pythons_meets_what_it_asks_for() -> anyhow::Result<()> {
    let account = Account::default();
    let server = smtp::start("127.0.0.1:0".parse()?, account.clone()).await?;
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop/smtp-client.py"))
        .args([
            server.address.to_string(),
            account.username,
            account.password,
        ])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("python3")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let told = String::from_utf8(output.stdout)?;
    let steps: Vec<Value> = told
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let expected = [
        json!({ "step": "stale", "code": 535 }),
        json!({ "step": "login", "code": 235 }),
        json!({ "step": "taken", "refused": {} }),
        json!({ "step": "some", "refused": { "rcpt-550-5.1.1@example.com": 550, "rcpt-452@example.com": 452 } }),
        json!({ "step": "all", "refused": { "rcpt-571@example.com": 571 } }),
        json!({ "step": "end", "refused": 550 }),
        json!({ "step": "middle", "refused": "closed" }),
        json!({ "step": "unknown", "refused": "closed" }),
    ];
    assert_eq!(steps, expected, "{told}");
    let mails = server.mails();
    assert_eq!(mails.len(), 2);
    assert!(
        mails[0].message.contains("\r\n.leading dot"),
        "{}",
        mails[0].message
    );
    assert_eq!(mails[1].recipients, ["b@example.com"]);
    Ok(())
}

#[tokio::test]
async fn the_control_server_changes_how_it_behaves() -> anyhow::Result<()> {
    let server = smtp::start("127.0.0.1:0".parse()?, Account::default()).await?;
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = |path: &str| format!("http://{}/_control/{path}", server.control);
    let changed: Behaviour = client
        .put(url("behaviour"))
        .json(&json!({ "daily_limit": 0 }))
        .send()
        .await?
        .json()
        .await?;
    assert!(changed.daily_limit == Some(0) && changed.smtp_utf8);
    let wrong = client
        .put(url("behaviour"))
        .json(&json!({ "dayly_limit": 0 }))
        .send()
        .await?;
    assert_eq!(wrong.status(), 422);
    let fault = Fault::reply(Stage::Mail, "421 4.7.0 later");
    let added = client.post(url("faults")).json(&fault).send().await?;
    assert_eq!(added.status(), 200);
    let state: Value = client.get(url("state")).send().await?.json().await?;
    assert_eq!(state["faults"][0]["stage"], "mail", "{state}");
    assert!(!state.to_string().contains(&Account::default().password));
    Ok(())
}
