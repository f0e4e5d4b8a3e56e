//! docs/operations/runbook-b.md as a drill: a stale password, a poison job, and a worker that is gone.

use patchbay_stand_ins::smtp::{self, Account};
use serde_json::json;

use super::server::{PASSWORD, environment};
use super::to;
use crate::alerts::{self, Receiver};
use crate::harness::{World, email_plugin, repository};
use crate::runbook::steps;

const QUEUE: &str = "emailQueue";

#[tokio::test]
async fn runbook_b_finds_and_mends_what_it_says_without_a_restart() -> anyhow::Result<()> {
    let document = std::fs::read_to_string(repository().join("docs/operations/runbook-b.md"))?;
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let server = smtp::start("127.0.0.1:0".parse()?, Account::default()).await?;
    let password = world.dir.path().join("password");
    std::fs::write(&password, PASSWORD)?;
    let env = environment(server.address, &password);
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let host = alerts::host(&world, &receiver, &env).await?;
    let digest = host.deploy("email", email_plugin()?).await?;
    let file = world.dir.path().join("data.json");
    std::fs::write(&file, to(json!("mended@example.com")).to_string())?;
    let file = file.to_string_lossy();
    let drill = async |letter: char, job: &str, mend: &dyn Fn() -> anyhow::Result<()>| {
        let names = [
            ("QUEUE", QUEUE),
            ("JOB", job),
            ("DIGEST", &digest[..12]),
            ("FILE", &*file),
        ];
        let steps = steps(&document, letter);
        anyhow::ensure!(!steps.is_empty(), "section {letter} has commands");
        for step in steps {
            // Before this one, the document says what to do outside.
            if step.is_command("job retry") || step.is_command("job set-data") {
                mend()?;
            }
            step.run(&host, &[], &names).await?;
        }
        anyhow::Ok(())
    };
    let add = async |address: &str| {
        host.add(QUEUE, json!({ "name": "send", "data": to(json!(address)) }))
            .await
    };

    // The password is rotated at the provider. Nobody is logged in yet.
    server.set_password("the-new-password");
    let mut failed = Vec::new();
    for n in 0..3 {
        failed.push(add(&format!("p{n}@example.com")).await?);
    }
    for id in &failed {
        let story = host.job_in(QUEUE, id, "failed").await?;
        assert_eq!(story["job"]["attemptsMade"], 1, "no hammering: {story}");
    }
    receiver.until_told("email", &["firing"]).await?;
    let messages = receiver.messages("/webhook", 200);
    let message = messages
        .iter()
        .find(|message| message["alert"] == "bad-credentials");
    let message = message.unwrap_or(&serde_json::Value::Null);
    println!("{message:#}");
    let next = message["next"].as_str().unwrap_or_default();
    assert!(
        next.contains("mail.password_file") && next.contains("retry-all emailQueue"),
        "{message}"
    );
    assert!(!message.to_string().contains(PASSWORD));
    let rotate = || -> anyhow::Result<()> { Ok(std::fs::write(&password, "the-new-password\n")?) };
    drill('A', &failed[0], &rotate).await?;
    receiver
        .until_told("email", &["firing", "recovered"])
        .await?;
    for (n, id) in failed.iter().enumerate() {
        host.job_in(QUEUE, id, "completed").await?;
        assert_eq!(server.taken_for(&format!("p{n}@example.com")), 1);
    }

    let nothing = || -> anyhow::Result<()> { Ok(()) };
    let poison = add("nobody").await?;
    host.job_in(QUEUE, &poison, "failed").await?;
    drill('B', &poison, &nothing).await?;
    assert_eq!(server.taken_for("mended@example.com"), 1);

    alerts::impatient(&host).await?;
    host.post("/api/admin/plugins/email/deactivate", json!({}))
        .await?;
    let waiting = add("waits@example.com").await?;
    receiver.until_told(QUEUE, &["firing"]).await?;
    drill('C', &waiting, &nothing).await?;
    receiver.until_told(QUEUE, &["firing", "recovered"]).await?;
    assert_eq!(server.taken_for("waits@example.com"), 1);
    Ok(())
}
