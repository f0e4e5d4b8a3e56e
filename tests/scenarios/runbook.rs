//! Runbooks as drills: the test causes the problem, runs the document's own commands, and expects
//! the document's output. This file is runbook A.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use crate::alerts::{self, Receiver};
use crate::commands::json_of;
use crate::harness::{Host, PASSWORD, USER, World, binary, hostile_plugin, repository, until};
use crate::redis_server::RedisServer;

const QUEUE: &str = "hostileQueue";

/// A command of the document, with the output that it shows.
pub struct Step {
    command: String,
    shows: Vec<String>,
}

/// The steps under the heading that begins with `letter`.
pub fn steps(document: &str, letter: char) -> Vec<Step> {
    let section = document
        .split("\n## ")
        .find(|section| section.starts_with(&format!("{letter}. ")))
        .unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for block in section.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    command: command.to_owned(),
                    shows: Vec::new(),
                }),
                (None, Some(step)) => step.shows.push(line.trim().to_owned()),
                (None, None) => {}
            }
        }
    }
    steps
}

impl Step {
    /// Repeats the command until it prints the lines: the state may take a moment. `env` is for
    /// commands that run beside a host.
    pub async fn run(
        &self,
        host: &Host,
        env: &[(&str, &str)],
        names: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let fill = |text: &str| {
            names.iter().fold(text.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            })
        };
        let command = fill(&self.command);
        let mut words = command.split_whitespace();
        anyhow::ensure!(words.next() == Some("patchbay"), "{command}");
        let args: Vec<&str> = words.collect();
        let mut said = String::new();
        let shown = until(Duration::from_secs(15), &command, async || {
            let mut patchbay = tokio::process::Command::new(binary());
            patchbay
                .args(&args)
                .env("PATCHBAY_URL", &host.url)
                .envs(env.iter().copied());
            patchbay
                .env("PATCHBAY_USER", USER)
                .env("PATCHBAY_PASSWORD", PASSWORD);
            let output = patchbay.output().await?;
            said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            Ok(self
                .shows
                .iter()
                .all(|line| said.contains(&fill(line)))
                .then_some(()))
        });
        shown.await.with_context(|| {
            format!(
                "{command} showed:\n{said}instead of:\n{}",
                self.shows.join("\n")
            )
        })?;
        println!("$ {command}\n{said}");
        Ok(())
    }

    /// Whether it is this command, such as `job retry`.
    pub fn is_command(&self, words: &str) -> bool {
        self.command.starts_with(&format!("patchbay {words} "))
    }

    /// Whether this is one of its lines.
    pub fn shows(&self, line: &str) -> bool {
        self.shows.iter().any(|shown| shown == line)
    }
}

/// The runbook that the alert's page names for its rule.
fn leads_to(runbook: &serde_json::Value) -> anyhow::Result<Option<&'static str>> {
    let (page, rule) = runbook
        .as_str()
        .and_then(|link| link.split_once('#'))
        .context("a page and a place in it")?;
    let page = std::fs::read_to_string(repository().join(page))?;
    let row = page
        .lines()
        .find(|line| line.contains(&format!("id=\"{rule}\"")))
        .context("the rule has a place there")?;
    Ok(["runbook-a.md", "runbook-b.md", "runbook-f.md"]
        .into_iter()
        .find(|document| row.contains(document)))
}

#[tokio::test]
async fn runbook_a_finds_and_mends_what_it_says() -> anyhow::Result<()> {
    let document = std::fs::read_to_string(repository().join("docs/operations/runbook-a.md"))?;
    let (mut world, receiver) = (World::new().await?, Receiver::new().await?);
    let mut redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = redis.url.clone();
    let host = alerts::host(&world, &receiver, &[]).await?;
    alerts::impatient(&host).await?;
    json_of(
        &host,
        &["--json", "alert", "rule", "set", "health", "--for", "0s"],
    )
    .await?;
    let digest = host.deploy("hostile", hostile_plugin()?).await?;
    let drill = async |letter: char, job: &str| {
        let names = [
            ("QUEUE", QUEUE),
            ("JOB", job),
            ("PLUGIN", "hostile"),
            ("DIGEST", &digest[..12]),
        ];
        let steps = steps(&document, letter);
        anyhow::ensure!(!steps.is_empty(), "section {letter} has commands");
        for step in steps {
            // The last step of C is for when Redis is back.
            if letter == 'C' && step.shows("Nothing waiting") {
                break;
            }
            step.run(&host, &[], &names).await?;
        }
        anyhow::Ok(())
    };

    host.post("/api/admin/plugins/hostile/deactivate", json!({}))
        .await?;
    let waiting = host.add(QUEUE, json!({ "name": "noop" })).await?;
    receiver.until_told(QUEUE, &["firing"]).await?;
    let message = receiver.messages("/webhook", 200)[0].clone();
    println!("{message:#}");
    assert_eq!(
        message["next"],
        format!("patchbay queue why {QUEUE}"),
        "the document's first question"
    );
    assert_eq!(leads_to(&message["runbook"])?, Some("runbook-a.md"));
    drill('A', &waiting).await?;
    receiver.until_told(QUEUE, &["firing", "recovered"]).await?;

    let poison = host.add(QUEUE, json!({ "name": "panic" })).await?;
    host.job_in(QUEUE, &poison, "failed").await?;
    drill('B', &poison).await?;

    redis.stop().await?;
    let of_health = async |event: &str| {
        until(
            Duration::from_secs(20),
            &format!("health: {event}"),
            async || {
                let messages = receiver.messages("/webhook", 200);
                Ok(messages
                    .into_iter()
                    .find(|body| body["alert"] == "health" && body["event"] == event))
            },
        )
        .await
    };
    println!("{:#}", of_health("firing").await?);
    drill('C', "none").await?;
    redis.start().await?;
    let recovery = steps(&document, 'C')
        .pop()
        .context("how to know that it is mended")?;
    recovery.run(&host, &[], &[("QUEUE", QUEUE)]).await?;
    of_health("recovered").await?;
    let after = host.add(QUEUE, json!({ "name": "noop" })).await?;
    host.job_in(QUEUE, &after, "completed").await?;
    Ok(())
}
