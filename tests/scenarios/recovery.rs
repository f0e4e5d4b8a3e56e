//! Killed and cut off: the jobs survive.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{World, email_plugin, mail_job, until};

#[tokio::test]
async fn a_killed_host_loses_no_job_and_repeats_only_those_in_flight() -> anyhow::Result<()> {
    const JOBS: usize = 1_000;
    // The plugin's concurrency on its queue: at most so many were running when the host died.
    const IN_FLIGHT: usize = 10;
    let world = World::new().await?;
    let mut host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    for n in 0..JOBS {
        host.add("emailQueue", json!({ "name": "send", "data": mail_job(n) })).await?;
    }
    until(Duration::from_secs(60), "some mails", async || Ok((world.mail.count() > 100).then_some(()))).await?;
    host.child.kill().await?;
    let killed = Instant::now();
    let host = world.host(&[]).await?;
    until(Duration::from_secs(60), "all jobs completed", async || {
        let (_, answer) = host.get("/api/admin/queues").await?;
        let counts = &answer["data"][0]["counts"];
        let open =
            ["waiting", "active", "delayed"].iter().map(|state| counts[state].as_u64().unwrap_or(0)).sum::<u64>();
        Ok((open == 0).then_some(()))
    })
    .await?;
    let mut copies: HashMap<String, usize> = HashMap::new();
    for mail in world.mail.list() {
        *copies.entry(mail.message_id).or_default() += 1;
    }
    let twice = copies.values().filter(|&&n| n > 1).count();
    println!("recovered {:?} after the kill; {twice} of {JOBS} jobs ran twice", killed.elapsed());
    assert_eq!(copies.len(), JOBS);
    assert!(twice <= IN_FLIGHT, "{twice} ran twice");
    Ok(())
}
