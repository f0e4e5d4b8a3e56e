//! The plugin mrlearn: configs, syncs and reminders through real HTTP, schedules, queues, plugin,
//! Postgres and a stand-in of the vendor, which also misbehaves.

mod disturbed;
mod journeys;
mod length;
mod runbook_e;

use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use patchbay_stand_ins::graphy::{self as vendor, Account, Graphy, Learner};
use serde_json::{Value, json};
use sqlx::{Executor, Row};

use crate::harness::{Host, World, repository, until};
use crate::people::{PEOPLE, verified};

const SYNC: &str = "mrlearnSyncQueue";
const NEW_STUDENTS: &str = "mrlearnNewStudentSyncQueue";
const REMINDERS: &str = "mrlearnReminderQueue";
const CONFIGS: &str = "/api/graphy/sync/configs";
const KEY: &str = "the-key-of-the-school";
const SOON: Duration = Duration::from_secs(30);

/// A host with the plugin, an administrator, and a school at the stand-in.
struct Setting {
    world: World,
    host: Host,
    vendor: Graphy,
    admin: String,
}

/// The plugin with rules for the test's server instead of the vendor's, and without long waits.
fn plugin(url: &str) -> anyhow::Result<Vec<u8>> {
    plugin_with(url, 20)
}

/// With this first pause before another attempt.
fn plugin_with(url: &str, delay_ms: u128) -> anyhow::Result<Vec<u8>> {
    let dir = repository().join("plugins/mrlearn");
    let text = std::fs::read_to_string(dir.join("plugin.toml"))?
        .replace("https://api.ongraphy.com/", &format!("{url}/"))
        .replace("delay_ms = 5_000", &format!("delay_ms = {delay_ms}"))
        .replace(
            "timeout_ms = ",
            "allow_addresses = [\"127.0.0.0/8\"]\nbreaker = { failures = 1_000 }\ntimeout_ms = ",
        );
    let manifest = Manifest::from_toml(&text, |file| {
        std::fs::read_to_string(dir.join(file)).map_err(|error| error.to_string())
    })?;
    let component = repository().join("plugins/target/wasm32-wasip2/release/mrlearn.wasm");
    let component = std::fs::read(component).context("run `make test`")?;
    Ok(patchbay_runtime::pack(&component, &manifest)?)
}

/// As every host of these tests starts.
fn env() -> Vec<(&'static str, &'static str)> {
    // A killed host's jobs are taken over soon.
    PEOPLE
        .iter()
        .copied()
        .chain([
            ("PATCHBAY_WORK_LOCK_S", "3"),
            ("PATCHBAY_WORK_RENEW_S", "1"),
        ])
        .collect()
}

impl Setting {
    async fn new() -> anyhow::Result<Self> {
        Self::with(&[]).await
    }

    /// With more in the environment of the host.
    async fn with(more: &[(&str, &str)]) -> anyhow::Result<Self> {
        let world = World::new().await?;
        let account = Account {
            key: KEY.into(),
            ..Account::default()
        };
        let vendor = vendor::start("127.0.0.1:0".parse()?, account).await?;
        let mut all: Vec<(&str, &str)> = env();
        all.extend(more);
        let host = world.host(&all).await?;
        let tables = std::fs::read_to_string(repository().join("plugins/mrlearn/tables.sql"))?;
        world
            .database()
            .await?
            .execute(sqlx::AssertSqlSafe(tables))
            .await?;
        host.deploy("mrlearn", plugin(&vendor.url())?).await?;
        let admin = administrator(&world, &host).await?;
        let setting = Self {
            world,
            host,
            vendor,
            admin,
        };
        setting.set(json!({})).await?;
        // A tick in the middle of a test would ask the vendor, too.
        for id in ["mrlearn-new-students", "mrlearn-reconcile"] {
            let path = format!("/api/admin/schedules/{id}/pause");
            until(SOON, id, async || {
                let (status, _) = setting.host.post(&path, json!({})).await?;
                Ok((status == 200).then_some(()))
            })
            .await?;
        }
        Ok(setting)
    }

    /// Settings of the plugin, beside those of the tests.
    async fn set(&self, more: Value) -> anyhow::Result<()> {
        let mut all = json!({ "apiUrl": self.vendor.url(), "pageSize": 50 });
        for (name, value) in more.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let path = "/api/admin/plugins/mrlearn/settings";
        let (status, answer) = self.host.put(path, all).await?;
        anyhow::ensure!(status == 200, "{status} {answer}");
        Ok(())
    }

    async fn asked(&self, method: &str, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        self.asked_with(method, path, body, None).await
    }

    /// With a key by which a repeat of the request is known.
    async fn asked_with(
        &self,
        method: &str,
        path: &str,
        body: Value,
        key: Option<&str>,
    ) -> anyhow::Result<(u16, Value)> {
        let url = format!("{}{path}", self.host.url);
        let mut request = self
            .host
            .http
            .request(method.parse()?, url)
            .bearer_auth(&self.admin);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = match body.is_null() {
            true => request,
            false => request.json(&body),
        };
        let response = request.send().await?;
        let (status, text) = (response.status().as_u16(), response.text().await?);
        println!(
            "{method} {path}: {status} {}",
            text.chars().take(600).collect::<String>()
        );
        anyhow::ensure!(!text.contains(KEY), "a credential in an answer: {text}");
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.asked("GET", path, Value::Null).await?;
        anyhow::ensure!(status == 200, "{path}: {status} {answer}");
        Ok(answer["data"].clone())
    }

    /// A config of this course, whose credentials the vendor takes; its id.
    async fn config(&self, course: &str, more: Value) -> anyhow::Result<i64> {
        let (status, answer) = self.asked("POST", CONFIGS, wanted(course, more)).await?;
        anyhow::ensure!(status == 201, "{status} {answer}");
        anyhow::ensure!(answer["data"]["state"] == "ok", "{answer}");
        answer["data"]["id"].as_i64().context("an id")
    }

    /// The state of a config, as it is shown.
    async fn state(&self, id: i64) -> anyhow::Result<String> {
        let config = self.get(&format!("{CONFIGS}/{id}")).await?;
        Ok(config["state"].as_str().unwrap_or_default().to_owned())
    }

    async fn trigger(&self, id: i64) -> anyhow::Result<u16> {
        let path = format!("{CONFIGS}/{id}/trigger");
        Ok(self.asked("POST", &path, Value::Null).await?.0)
    }

    /// The newest run, once it is this one or later and has ended.
    async fn ended_run(&self, id: i64, least: usize) -> anyhow::Result<Value> {
        let path = format!("{CONFIGS}/{id}/runs");
        // The route has a limit of requests, the table has none.
        let ended = format!(
            "select count(*) from mrlearn.sync_runs where config_id = {id} and state <> 'running'"
        );
        let least_ended = i64::try_from(least)?;
        until(SOON * 2, &format!("run {least} of {id}"), async || {
            Ok((self.count(&ended).await? >= least_ended).then_some(()))
        })
        .await?;
        let runs = self.get(&path).await?;
        runs.as_array()
            .and_then(|all| all.first())
            .cloned()
            .context("runs")
    }

    /// A sync from the request to its end.
    async fn sync(&self, id: i64) -> anyhow::Result<Value> {
        let before = self.get(&format!("{CONFIGS}/{id}/runs")).await?;
        let before = before.as_array().map_or(0, Vec::len);
        let status = self.trigger(id).await?;
        anyhow::ensure!(status == 202, "{status}");
        self.ended_run(id, before + 1).await
    }

    /// Runs a job to its end; its result.
    async fn job(&self, queue: &str, name: &str, data: Value) -> anyhow::Result<Value> {
        let job = json!({ "name": name, "data": data });
        let id = self.host.add(queue, job).await?;
        let story = self.host.job_in(queue, &id, "completed").await?;
        let result = story["job"]["returnValue"].as_str().context("a result")?;
        Ok(serde_json::from_str(result)?)
    }

    async fn count(&self, statement: &str) -> anyhow::Result<i64> {
        let row = sqlx::query(sqlx::AssertSqlSafe(statement))
            .fetch_one(&mut self.world.database().await?)
            .await?;
        Ok(row.get(0))
    }

    /// Who is enrolled in a course, as the plugin knows it.
    async fn enrolled(&self, course: &str) -> anyhow::Result<i64> {
        self.count(&format!(
            "select count(*) from mrlearn.enrolments where course_id = '{course}' and left_at is null"
        ))
        .await
    }

    async fn schedule(&self, id: &str) -> anyhow::Result<Option<Value>> {
        let (_, answer) = self.host.get("/api/admin/schedules").await?;
        let all = answer["data"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().find(|one| one["id"] == id))
    }

    /// The schedule, once it has a next tick.
    async fn ticking(&self, id: &str) -> anyhow::Result<Value> {
        until(SOON, &format!("ticks of {id}"), async || {
            let found = self.schedule(id).await?;
            Ok(found.filter(|one| one["nextAt"].is_string()))
        })
        .await
    }

    /// Nothing that the host has printed, stored or shows has the key.
    async fn keeps_the_key(&self) -> anyhow::Result<()> {
        let log = self.host.log.lock().map(|log| log.clone());
        let log = log.map_err(|_| anyhow::anyhow!("poisoned"))?;
        anyhow::ensure!(!log.contains(KEY), "the log has the key");
        let tables = "select coalesce(string_agg(t::text, ' '), '') from mrlearn.sync_runs t";
        let row = sqlx::query(tables)
            .fetch_one(&mut self.world.database().await?)
            .await?;
        anyhow::ensure!(!row.get::<String, _>(0).contains(KEY));
        Ok(())
    }
}

/// What a client sends to make a config.
fn wanted(course: &str, more: Value) -> Value {
    let mut body = json!({
        "courseId": course, "courseTitle": format!("Course {course}"), "intervalHours": 6,
        "credentials": { "mid": Account::default().mid, "key": KEY },
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

fn learners(count: usize, course: &str) -> Vec<Learner> {
    (0..count).map(|n| Learner::new(n, course)).collect()
}

/// The token of an account with the role admin.
async fn administrator(world: &World, host: &Host) -> anyhow::Result<String> {
    let body = verified(world, host, "admin@example.com").await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let path = format!("/api/admin/people/{}/role", text(&body["user"]["id"]));
    let (status, answer) = host.put(&path, json!({ "role": "admin" })).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok(text(&body["token"]))
}
