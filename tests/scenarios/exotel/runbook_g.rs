//! docs/operations/runbook-g.md as a drill: calls are off, the wrong cluster, a stale token, and no
//! callbacks.

use patchbay_stand_ins::exotel::{self as vendor, Account};
use serde_json::json;

use super::{EXOPHONE, Setting, TOKEN, check_credentials, plugin};
use crate::harness::repository;
use crate::runbook::steps;

#[tokio::test]
async fn runbook_g_finds_and_mends_what_it_says() -> anyhow::Result<()> {
    let document = std::fs::read_to_string(repository().join("docs/operations/runbook-g.md"))?;
    let setting = Setting::new().await?;
    let other = Account {
        sid: "somebody".into(),
        key: "else".into(),
        ..Account::default()
    };
    let other = vendor::start("127.0.0.1:0".parse()?, other).await?;
    let clusters = plugin(&setting.vendor.url(), &other.url())?;
    setting.host.deploy("exotel", clusters).await?;
    let file = setting.world.dir.path().join("token");
    std::fs::write(&file, "the-new-token\n")?;
    let names = [
        ("ACCOUNT", "patchbay1"),
        ("EXOPHONE", EXOPHONE),
        ("CLUSTER", &setting.vendor.url()),
        ("WRONG", &other.url()),
        ("FILE", file.to_str().unwrap_or_default()),
        ("HOST", setting.host.url.as_str()),
    ];
    let drill = async |letter: char| {
        let steps = steps(&document, letter);
        anyhow::ensure!(!steps.is_empty(), "section {letter} has commands");
        for step in steps {
            step.run(&setting.host, &[], &names).await?;
        }
        let (ok, said) = check_credentials(&setting.host).await?;
        anyhow::ensure!(ok, "section {letter}: {said}");
        for secret in [TOKEN, "the-new-token", "stand-in-key"] {
            anyhow::ensure!(!said.contains(secret), "{said}");
        }
        anyhow::Ok(())
    };
    let settings = "/api/admin/plugins/exotel/settings";
    let clusters = json!([setting.vendor.url(), other.url()]);
    let (status, answer) = setting
        .host
        .put(settings, json!({ "apiUrl": setting.vendor.url(), "clusters": clusters, "smsSenderId": "PATCHB", "repeatGuardSeconds": 0 }))
        .await?;
    assert_eq!(status, 200, "{answer}");
    drill('A').await?;

    setting.set(json!({ "apiUrl": other.url() })).await?;
    let refused = setting.call(None).await?;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (502, &json!("bad-credentials"))
    );
    drill('B').await?;
    assert_eq!(setting.call(None).await?.status, 200);

    setting.vendor.set_token("the-new-token");
    let waiting = setting.text("stale", json!({ "body": "Hello" })).await?;
    let id = waiting.data()["smsId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let refused = setting.call(None).await?;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (502, &json!("bad-credentials"))
    );
    drill('C').await?;
    setting.row_in("lead_sms_logs", &id, "submitted").await?;
    assert_eq!(setting.call(None).await?.status, 200);

    let (status, answer) = setting
        .host
        .delete("/api/admin/plugins/exotel/secrets/EXOTEL_WEBHOOK_TOKEN")
        .await?;
    assert_eq!(status, 200, "{answer}");
    let (id, sid) = setting.placed().await?;
    let call = setting.vendor.calls().pop().map(|call| call.form);
    assert!(call.is_some_and(|form| !form.contains_key("StatusCallback")));
    setting.vendor.end_call(&sid, "no-answer");
    setting.set(json!({ "reconcileAfterMinutes": 0 })).await?;
    drill('D').await?;
    setting.row_in("lead_call_logs", &id, "no-answer").await?;
    let (_, sid) = setting.placed().await?;
    let calls = setting.vendor.calls();
    let call = calls.iter().find(|call| call.sid == sid);
    assert!(call.is_some_and(|call| call.form["StatusCallback"].starts_with(&setting.host.url)));
    Ok(())
}
