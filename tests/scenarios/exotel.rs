//! The plugin exotel: calls and messages through real HTTP, queue, plugin, Postgres and a stand-in
//! of the vendor, which also misbehaves.

mod callbacks;
mod faults;
mod journeys;
mod news;
mod runbook_g;

use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use patchbay_stand_ins::exotel::{self as vendor, Account, Exotel};
use serde_json::{Value, json};
use sqlx::{Executor, Row};

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, repository, until};
use crate::people::{PEOPLE, verified};

const QUEUE: &str = "exotelQueue";
const TOKEN: &str = "stand-in-token";
const WEBHOOK_TOKEN: &str = "a-token-for-callbacks-0123456789";
const EXOPHONE: &str = "08047112233";
const SOON: Duration = Duration::from_secs(20);
/// Longer than the host takes a request of a killed one for going on: the route's `deadline_ms` and 6 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// One account of the API.
struct Person {
    id: String,
    token: String,
}

/// A host with the plugin and its account at the stand-in.
struct Setting {
    world: World,
    host: Host,
    vendor: Exotel,
    sales: Person,
    /// A lead of `sales`.
    lead: String,
}

struct Answered {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn data(&self) -> Value {
        self.json()["data"].clone()
    }

    fn told(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// The plugin with rules for servers of the test instead of the vendor's: two clusters.
fn plugin(cluster: &str, other: &str) -> anyhow::Result<Vec<u8>> {
    let dir = repository().join("plugins/exotel");
    let text = std::fs::read_to_string(dir.join("plugin.toml"))?
        .replace("https://api.exotel.com/", &format!("{cluster}/"))
        .replace("https://api.in.exotel.com/", &format!("{other}/"))
        .replace("https://recordings.exotel.com/", &format!("{cluster}/"))
        .replace(
            "timeout_ms = ",
            "allow_addresses = [\"127.0.0.0/8\"]\nbreaker = { failures = 1_000 }\ntimeout_ms = ",
        );
    let manifest = Manifest::from_toml(&text, |file| {
        std::fs::read_to_string(dir.join(file)).map_err(|error| error.to_string())
    })?;
    let component = repository().join("plugins/target/wasm32-wasip2/release/exotel.wasm");
    let component = std::fs::read(component).context("run `make test`")?;
    Ok(patchbay_runtime::pack(&component, &manifest)?)
}

/// Sends nothing to anybody: no vendor is there.
const NOWHERE: &str = "http://127.0.0.1:9";

impl Setting {
    async fn new() -> anyhow::Result<Self> {
        let world = World::new().await?;
        let vendor = vendor::start("127.0.0.1:0".parse()?, Account::default()).await?;
        vendor.behave(|behaviour| {
            behaviour.plays = false;
            behaviour.settle_after_ms = 0;
            behaviour.callback_retry_ms = 50;
        });
        let host = world.host(&PEOPLE).await?;
        let tables = std::fs::read_to_string(repository().join("plugins/exotel/tables.sql"))?;
        let mut database = world.database().await?;
        database.execute(sqlx::AssertSqlSafe(tables)).await?;
        let pack = repository().join("deploy/trails/lead_activity_log.json");
        let pack = pack.to_str().context("a path")?;
        json_of(&host, &["--json", "audit", "trail", "install", pack]).await?;
        host.deploy("exotel", plugin(&vendor.url(), NOWHERE)?)
            .await?;
        for (name, value) in [
            ("EXOTEL_API_KEY", "stand-in-key"),
            ("EXOTEL_API_TOKEN", TOKEN),
            ("EXOTEL_WEBHOOK_TOKEN", WEBHOOK_TOKEN),
        ] {
            secret(&host, name, value).await?;
        }
        let sales = person(&world, &host, "sales", "sales").await?;
        let setting = Self {
            lead: String::new(),
            world,
            host,
            vendor,
            sales,
        };
        setting
            .set(json!({
                "sid": "patchbay1", "callerId": EXOPHONE, "apiUrl": setting.vendor.url(), "publicUrl": setting.host.url,
                "smsSenderId": "PATCHB", "connectTimeoutMs": 1_000, "repeatGuardSeconds": 0, "reconcileAfterMinutes": 0,
            }))
            .await?;
        let lead = setting.lead_of(Some(&setting.sales), None).await?;
        Ok(Self { lead, ..setting })
    }

    /// Changes these settings.
    async fn set(&self, change: Value) -> anyhow::Result<()> {
        let path = "/api/admin/plugins/exotel/settings";
        let (_, answer) = self.host.get(path).await?;
        let mut all = answer["data"].clone();
        if !all.is_object() {
            all = json!({});
        }
        for (name, value) in change.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let (status, answer) = self.host.put(path, all).await?;
        anyhow::ensure!(status == 200, "{status} {answer}");
        Ok(())
    }

    /// A new lead with these owners.
    async fn lead_of(
        &self,
        assigned: Option<&Person>,
        head: Option<&Person>,
    ) -> anyhow::Result<String> {
        let id = |person: Option<&Person>| person.map(|person| person.id.clone());
        let row = sqlx::query(
            "insert into mas_crm.raw_leads (name, phone, assigned_to, owning_sales_head_id) \
             values ('Asha', '09123456789', $1::uuid, $2::uuid) returning id::text",
        )
        .bind(id(assigned))
        .bind(id(head))
        .fetch_one(&mut self.world.database().await?)
        .await?;
        Ok(row.get(0))
    }

    async fn sent(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answered> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = format!("{:?}", response.headers());
        let body = response.bytes().await?.to_vec();
        let answered = Answered {
            status,
            headers,
            body,
        };
        println!("{}", answered.told().chars().take(400).collect::<String>());
        Ok(answered)
    }

    async fn get(&self, person: &Person, path: &str) -> anyhow::Result<Answered> {
        let url = self.host.url.clone() + path;
        self.sent(self.host.http.get(url).bearer_auth(&person.token))
            .await
    }

    fn calling(&self, person: &Person, lead: &str, key: Option<&str>) -> reqwest::RequestBuilder {
        let url = format!("{}/api/sales/crm/leads/{lead}/call", self.host.url);
        let request = self.host.http.post(url).bearer_auth(&person.token);
        match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
    }

    /// The salesperson calls the lead.
    async fn call(&self, key: Option<&str>) -> anyhow::Result<Answered> {
        self.sent(self.calling(&self.sales, &self.lead, key)).await
    }

    /// The answer to the same request once none says any more that it is still being answered or the
    /// call is being placed.
    async fn call_in_time(&self, lead: &str, key: &str) -> anyhow::Result<Answered> {
        until(PATIENCE, "an answer other than 409", async || {
            let request = self.calling(&self.sales, lead, Some(key));
            let answered = self.sent(request).await?;
            Ok((answered.status != 409).then_some(answered))
        })
        .await
    }

    /// A call that the vendor has; its row, and the vendor's id.
    async fn placed(&self) -> anyhow::Result<(String, String)> {
        let answer = self.call(None).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.told());
        let calls = self.vendor.calls();
        let sid = calls.last().context("a call")?.sid.clone();
        let id = answer.data()["callId"]
            .as_str()
            .context("an id")?
            .to_owned();
        Ok((id, sid))
    }

    /// A message to the lead.
    async fn text(&self, key: &str, body: Value) -> anyhow::Result<Answered> {
        let url = format!("{}/api/sales/crm/leads/{}/sms", self.host.url, self.lead);
        let request = self.host.http.post(url).bearer_auth(&self.sales.token);
        self.sent(request.header("idempotency-key", key).json(&body))
            .await
    }

    /// The row of a table, as JSON.
    async fn row(&self, table: &str, id: &str) -> anyhow::Result<Value> {
        let text = format!("select to_jsonb(t) from mas_crm.{table} t where id = $1::uuid");
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(id)
            .fetch_one(&mut self.world.database().await?)
            .await?;
        Ok(row.get(0))
    }

    async fn count(&self, table: &str) -> anyhow::Result<i64> {
        let text = format!("select count(*) from mas_crm.{table}");
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .fetch_one(&mut self.world.database().await?)
            .await?;
        Ok(row.get(0))
    }

    /// The row, once it has this status.
    async fn row_in(&self, table: &str, id: &str, status: &str) -> anyhow::Result<Value> {
        until(SOON, &format!("{table} {status}"), async || {
            let row = self.row(table, id).await?;
            Ok((row["status"] == status).then_some(row))
        })
        .await
    }

    /// Activities of the lead in the trail, once there are so many, sorted.
    async fn trail(&self, lead: &str, count: usize) -> anyhow::Result<Vec<String>> {
        until(SOON, &format!("{count} entries of the trail"), async || {
            let path = format!("/api/admin/audit?trail=lead_activity_log&entity={lead}");
            let (_, answer) = self.host.get(&path).await?;
            let entries = answer["data"].as_array().context("entries")?;
            let mut activities: Vec<String> = entries
                .iter()
                .filter_map(|one| Some(one["entry"]["activityType"].as_str()?.to_owned()))
                .collect();
            activities.sort();
            Ok((activities.len() >= count).then_some(activities))
        })
        .await
    }

    /// Runs the job to its end; its result.
    async fn job(&self, name: &str, data: Value) -> anyhow::Result<Value> {
        let id = self
            .host
            .add(QUEUE, json!({ "name": name, "data": data }))
            .await?;
        let story = self.host.job_in(QUEUE, &id, "completed").await?;
        let result = story["job"]["returnValue"].as_str().context("a result")?;
        Ok(serde_json::from_str(result)?)
    }

    /// The clock of the schedule does this each five minutes.
    async fn reconcile(&self) -> anyhow::Result<Value> {
        self.job("reconcile", json!({})).await
    }
}

async fn secret(host: &Host, name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/api/admin/plugins/exotel/secrets/{name}");
    let (status, answer) = host.put(&path, json!({ "value": value })).await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    Ok(())
}

/// An account with this role and a telephone.
async fn person(world: &World, host: &Host, name: &str, role: &str) -> anyhow::Result<Person> {
    let body = verified(world, host, &format!("{name}@example.com")).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (id, token) = (text(&body["user"]["id"]), text(&body["token"]));
    let path = format!("/api/admin/people/{id}/role");
    let (status, answer) = host.put(&path, json!({ "role": role })).await?;
    anyhow::ensure!(status == 200, "{answer}");
    sqlx::query("update public.users set phone = '+91 98765 43210' where id::text = $1")
        .bind(&id)
        .execute(&mut world.database().await?)
        .await?;
    Ok(Person { id, token })
}

/// `patchbay plugin call exotel check-credentials`: whether it succeeds, and what it prints.
async fn check_credentials(host: &Host) -> anyhow::Result<(bool, String)> {
    let output = patchbay(host, &["plugin", "call", "exotel", "check-credentials"]).await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
