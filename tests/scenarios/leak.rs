//! Secret values are planted in every place where the host accepts one, used in every way, and
//! repeated by every outside service. Then the test searches for them in everything that the host
//! stores, writes and answers, and in the memory of its guests.
//!
//! Each search must also find a harmless value that is meant to be there.

mod commands;
mod needles;
mod operators;
pub mod places;
mod vendor;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::{Executor, Row};

use self::needles::{Needles, Planted};
use self::vendor::{MailServer, Vendor};
use crate::harness::{Host, PASSWORD, World, repository, until, variant};
use crate::incident;
use crate::redis_server::RedisServer;

const PLUGIN: &str = "seeker";
const QUEUE: &str = "seekerQueue";
/// The ways to send a credential; outside services send it back.
const AUTHS: [&str; 6] = ["basic", "bearer", "header", "query", "form", "oauth2"];
const ANSWERS: [&str; 10] = [
    "harmless",
    "raw",
    "percent",
    "base64",
    "json",
    "header",
    "redirect",
    "error",
    "unauthorized",
    "cut",
];
/// Characters between the pieces of secrets: for any kind of text, and for headers.
const ODD: &str = "+/=%& é";
const ODD_ASCII: &str = "+/=%&~";

/// All secret values, by their name in findings.
struct Secrets(BTreeMap<&'static str, Planted>);

impl Secrets {
    fn new() -> Self {
        let master: [u8; 32] = rand::random();
        let random = [
            ("HMAC", ODD),
            ("USERNAME", ODD_ASCII),
            ("BASIC", ODD),
            ("BEARER", ODD_ASCII),
            ("HEADER", ODD_ASCII),
            ("QUERY", ODD),
            ("FORM", ODD),
            ("CLIENT", ODD),
            ("access token", "-._~+/"),
            ("database password", ODD),
            ("Redis password", ODD),
            ("mail password", ODD_ASCII),
            ("webhook", "%2B"),
        ];
        let mut all: BTreeMap<_, _> = random
            .into_iter()
            .map(|(name, between)| (name, Planted::new(name, between)))
            .collect();
        for (name, value) in [
            ("master key", hex::encode(master)),
            ("operator's password", PASSWORD.to_owned()),
        ] {
            all.insert(name, Planted::given(name, &value));
        }
        Self(all)
    }

    fn value(&self, name: &str) -> &str {
        &self.0[name].value
    }
}

/// The needles as the guest compares them: every byte is changed.
fn changed(spelling: &[u8]) -> String {
    hex::encode(spelling.iter().map(|byte| byte ^ 0x5a).collect::<Vec<u8>>())
}

fn manifest(vendor: &Vendor) -> anyhow::Result<Manifest> {
    let mut text = std::fs::read_to_string(repository().join("tests/guests/seeker/plugin.toml"))?;
    for name in [
        "USERNAME",
        "BASIC",
        "BEARER",
        "HEADER",
        "QUERY",
        "FORM",
        "CLIENT_ID",
        "CLIENT",
    ] {
        text.push_str(&format!("[[secrets]]\nname = \"{name}\"\n"));
    }
    let at = format!("http://{}", vendor.address);
    let oauth2 = |path: &str| {
        format!(
            r#"oauth2 = {{ token_url = "{at}/{path}", client_id = "CLIENT_ID", client_secret = "CLIENT" }}"#
        )
    };
    let bearer = r#"bearer = { token = "BEARER" }"#;
    for (url, method, auth) in [
        (
            format!("{at}/basic/**"),
            "GET",
            r#"basic = { username = "USERNAME", password = "BASIC" }"#.to_owned(),
        ),
        (format!("{at}/bearer/**"), "GET", bearer.to_owned()),
        (
            format!("{at}/header/**"),
            "GET",
            r#"header = { name = "x-key", value = "HEADER" }"#.to_owned(),
        ),
        (
            format!("{at}/query/**"),
            "GET",
            r#"query = { name = "key", value = "QUERY" }"#.to_owned(),
        ),
        (
            format!("{at}/form/**"),
            "POST",
            r#"form = { name = "key", value = "FORM" }"#.to_owned(),
        ),
        (format!("{at}/oauth2/**"), "GET", oauth2("token")),
        (format!("{at}/refused/**"), "GET", oauth2("refusing-token")),
        // Without TLS, an unknown name, and a closed port.
        (
            format!("https://{}/**", vendor.address),
            "GET",
            bearer.to_owned(),
        ),
        (
            "https://nobody.invalid/**".to_owned(),
            "GET",
            bearer.to_owned(),
        ),
        ("http://127.0.0.1:1/**".to_owned(), "GET", bearer.to_owned()),
    ] {
        text.push_str(&format!(
            "[[egress]]\nurl = \"{url}\"\nmethods = [\"{method}\"]\nauth = {{ {auth} }}\ntimeout_ms = 60_000\n\
             allow_addresses = [\"127.0.0.0/8\"]\nbreaker = {{ failures = 1_000 }}\n"
        ));
    }
    Ok(Manifest::from_toml(&text, |file| {
        Err(format!("{file} is not expected"))
    })?)
}

/// Name and data of every job, and whether its guest must have got the harmless answer.
fn jobs(vendor: &Vendor) -> Vec<(&'static str, Value, bool)> {
    let at = format!("http://{}", vendor.address);
    let mut jobs = Vec::new();
    for auth in AUTHS {
        for answer in ANSWERS {
            let (url, method) = (
                format!("{at}/{auth}/{answer}"),
                if auth == "form" { "POST" } else { "GET" },
            );
            jobs.push((
                "http",
                json!({ "url": url, "method": method }),
                answer == "harmless",
            ));
            if method == "GET" {
                jobs.push(("wasi-http", json!({ "url": url }), answer == "harmless"));
            }
        }
    }
    for url in [
        format!("{at}/refused/harmless"),
        format!("https://{}/", vendor.address),
        "https://nobody.invalid/".to_owned(),
        "http://127.0.0.1:1/".to_owned(),
    ] {
        jobs.push(("http", json!({ "url": url, "method": "GET" }), false));
        jobs.push(("wasi-http", json!({ "url": url }), false));
    }
    for (answer, met) in [("harmless", true), ("raw", false), ("slow", false)] {
        let url = format!("{at}/bearer/{answer}");
        jobs.push((
            "http",
            json!({ "url": url, "method": "GET", "end": "fail" }),
            met,
        ));
    }
    jobs.push((
        "wasi-http",
        json!({ "url": format!("{at}/query/slow") }),
        false,
    ));
    for call in [
        "secrets.is-configured",
        "secrets.matches",
        "secrets.sign-hmac",
        "secrets.verify-hmac",
    ] {
        jobs.push((call, json!({ "secret": "HMAC" }), false));
    }
    for text in [
        "select id, name from crm.leads",
        "select phone from crm.nothing",
        "select * from pg_authid",
    ] {
        for call in ["sql.query", "sql.execute", "sql.batch", "sql.transaction"] {
            jobs.push((call, json!({ "text": text }), false));
        }
    }
    for call in ["kv", "queue", "flows", "settings"] {
        jobs.push((call, json!({ "value": "a value" }), false));
    }
    jobs
}

fn mail(recipient: &str) -> Value {
    let mime = "Subject: x\r\n\r\nbody\r\n";
    json!({ "sender": "us@example.com", "recipient": recipient, "mime": mime })
}

/// A host with all secrets, and its outside services.
struct Drill {
    world: World,
    /// Kept only to be stopped at the end.
    _redis: RedisServer,
    host: Host,
    secrets: Secrets,
    harmless: Planted,
    vendor: Vendor,
    mail: MailServer,
    env: Vec<(&'static str, String)>,
    job_ids: Vec<String>,
}

impl Drill {
    async fn start() -> anyhow::Result<Self> {
        let secrets = Secrets::new();
        let harmless = Planted::new("the harmless answer", "-");
        let mut world = World::new().await?;
        let redis = RedisServer::start_new(world.dir.path()).await?;
        let mut connection = redis::Client::open(redis.url.as_str())?
            .get_multiplexed_async_connection()
            .await?;
        let password = secrets.value("Redis password");
        let () = redis::cmd("CONFIG")
            .arg("SET")
            .arg("requirepass")
            .arg(password)
            .query_async(&mut connection)
            .await?;
        world.redis_url = with_password(&redis.url, password)?;
        world.database_url =
            with_password(&world.database_url, secrets.value("database password"))?;
        world.database().await?.execute(sqlx::raw_sql(
            "create schema crm; create table crm.leads (id int primary key, name text); insert into crm.leads values (1, 'Asha')",
        )).await?;
        let vendor = Vendor::start(&harmless.value, secrets.value("access token")).await?;
        let mail = MailServer::start().await?;
        let cache = world
            .dir
            .path()
            .join("cache")
            .to_string_lossy()
            .into_owned();
        let env = vec![
            ("DATABASE_URL", world.database_url.clone()),
            ("REDIS_URL", world.redis_url.clone()),
            (
                "PATCHBAY_SECRETS_KEY",
                secrets.value("master key").to_owned(),
            ),
            (
                "PATCHBAY_SECRET_SEEKER_FORM",
                secrets.value("FORM").to_owned(),
            ),
            (
                "PATCHBAY_ALERTS_WEBHOOK_URL",
                format!(
                    "http://{}/{}/hook",
                    vendor.address,
                    secrets.value("webhook")
                ),
            ),
            (
                "PATCHBAY_ALERTS_SLACK_URL",
                format!(
                    "http://{}/{}/slack",
                    vendor.address,
                    secrets.value("webhook")
                ),
            ),
            (
                "PATCHBAY_ALERTS_PING_URL",
                format!(
                    "http://{}/{}/hook",
                    vendor.address,
                    secrets.value("webhook")
                ),
            ),
            ("PATCHBAY_MAIL_HOST", mail.address.ip().to_string()),
            ("PATCHBAY_MAIL_PORT", mail.address.port().to_string()),
            ("PATCHBAY_MAIL_TLS", "none".to_owned()),
            ("EMAIL_USER", "us@example.com".to_owned()),
            ("EMAIL_PASS", secrets.value("mail password").to_owned()),
            ("PATCHBAY_RUNTIME_CACHE_DIR", cache),
            ("PATCHBAY_QUARANTINE_CRASHES", "3".to_owned()),
            ("PATCHBAY_LOG_FILTER", "trace".to_owned()),
            ("PATCHBAY_ENVIRONMENT", harmless.value.clone()),
        ];
        let host = world.host(&borrowed(&env)).await?;
        Ok(Self {
            world,
            _redis: redis,
            host,
            secrets,
            harmless,
            vendor,
            mail,
            env,
            job_ids: Vec::new(),
        })
    }

    /// Deploys the plugin with its secrets, in two revisions; the second one is active.
    async fn deploy(&mut self) -> anyhow::Result<Vec<String>> {
        let file = repository().join("tests/guests/target/wasm32-wasip2/release/seeker.wasm");
        let component = std::fs::read(file).context("run `make test`")?;
        let packed = patchbay_runtime::pack(&component, &manifest(&self.vendor)?)?;
        let mut digests = vec![self.host.deploy(PLUGIN, variant(&packed, "first")).await?];
        digests.push(self.host.deploy(PLUGIN, packed).await?);
        for name in [
            "HMAC", "USERNAME", "BASIC", "BEARER", "HEADER", "QUERY", "CLIENT",
        ] {
            let path = format!("/api/admin/plugins/{PLUGIN}/secrets/{name}");
            let value = self.secrets.value(name);
            let (status, answer) = self.host.put(&path, json!({ "value": value })).await?;
            ensure!(status == 200, "{answer}");
            let (status, _) = self
                .host
                .put(&path, json!({ "value": [value], value: value }))
                .await?;
            ensure!(status >= 400, "refused, and what was sent is not sent back");
        }
        let id = json!({ "value": "the-client-id" });
        ensure!(
            self.host
                .put(
                    &format!("/api/admin/plugins/{PLUGIN}/secrets/CLIENT_ID"),
                    id
                )
                .await?
                .0
                == 200
        );
        let path = format!("/api/admin/plugins/{PLUGIN}/secrets/HMAC/rotate");
        let rotation = json!({ "value": self.secrets.value("HMAC"), "overlapMs": 600_000 });
        ensure!(self.host.post(&path, rotation).await?.0 == 200);
        self.secrets.0.insert(
            "password of the plugin's login",
            login_password(&self.world).await?,
        );
        Ok(digests)
    }

    /// Runs jobs to their end; returns what each guest found in its memory, if it could report it.
    async fn run(
        &mut self,
        jobs: Vec<(&str, Value)>,
        needles: &[&Planted],
    ) -> anyhow::Result<Vec<Option<BTreeSet<&'static str>>>> {
        let (names, needles): (Vec<&'static str>, Vec<String>) = needles
            .iter()
            .flat_map(|one| {
                one.spellings()
                    .into_iter()
                    .map(|spelling| (one.name, changed(&spelling)))
            })
            .unzip();
        let mut ids = Vec::new();
        for (name, mut data) in jobs {
            data["needles"] = json!(needles);
            ids.push(
                self.host
                    .add(QUEUE, json!({ "name": name, "data": data }))
                    .await?,
            );
        }
        let mut results = Vec::new();
        for id in &ids {
            let path = format!("/api/admin/queues/{QUEUE}/jobs/{id}");
            let job = until(Duration::from_secs(120), "the end of a job", async || {
                let job = self.host.get(&path).await?.1["data"]["job"].clone();
                Ok(matches!(job["state"].as_str(), Some("completed" | "failed")).then_some(job))
            })
            .await?;
            let result = job["returnValue"]
                .as_str()
                .map(serde_json::from_str::<Value>)
                .transpose()?;
            results.push(result.map(|result| {
                let found = result["found"].as_array().into_iter().flatten();
                found
                    .filter_map(|place| Some(*names.get(usize::try_from(place.as_u64()?).ok()?)?))
                    .collect()
            }));
        }
        self.job_ids.extend(ids);
        Ok(results)
    }
}

fn with_password(url: &str, password: &str) -> anyhow::Result<String> {
    let mut url: reqwest::Url = url.parse()?;
    let password =
        percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC)
            .to_string();
    url.set_password(Some(&password))
        .ok()
        .context("a URL that takes a password")?;
    Ok(url.into())
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    env.iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

/// Computed as the host computes it; it is stored nowhere.
async fn login_password(world: &World) -> anyhow::Result<Planted> {
    let row = sqlx::query("select left(id::text, 8) as prefix, key from patchbay.installation")
        .fetch_one(&mut world.database().await?)
        .await?;
    let role = format!("pb_{}_{PLUGIN}", row.try_get::<String, _>("prefix")?);
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&row.try_get::<Vec<u8>, _>("key")?)?;
    for part in ["password of a plugin's login", &role] {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    Ok(Planted::given(
        "password of the plugin's login",
        &hex::encode(mac.finalize().into_bytes()),
    ))
}

#[tokio::test]
async fn planted_secrets_are_found_nowhere_outside_the_vault() -> anyhow::Result<()> {
    let mut drill = Drill::start().await?;
    let digests = drill.deploy().await?;
    let key = operators::plant(&mut drill).await?;
    let secrets: Vec<Planted> = drill.secrets.0.values().cloned().collect();
    let harmless = drill.harmless.clone();
    let mut needles: Vec<&Planted> = secrets.iter().collect();
    needles.push(&harmless);

    // What a guest can find in its memory.
    let freed = drill.run(vec![("freed", json!({}))], &[&harmless]).await?;
    assert_eq!(
        freed[0].as_ref().map(BTreeSet::len),
        Some(1),
        "what is freed is found"
    );
    drill.mail.refuses_logins.store(true, Ordering::SeqCst);
    let mut memories = vec![(
        "smtp: login refused",
        drill
            .run(vec![("smtp", mail("a@example.com"))], &needles)
            .await?,
    )];
    drill.mail.refuses_logins.store(false, Ordering::SeqCst);
    let mails = ["a@example.com", "refuse@example.com"]
        .map(|to| ("smtp", mail(to)))
        .to_vec();
    memories.push(("smtp", drill.run(mails, &needles).await?));
    for (what, found) in memories
        .iter()
        .flat_map(|(what, all)| all.iter().map(move |found| (what, found)))
    {
        assert_eq!(found, &Some(BTreeSet::new()), "{what}");
    }
    let jobs = jobs(&drill.vendor);
    let found = drill
        .run(
            jobs.iter()
                .map(|(name, data, _)| (*name, data.clone()))
                .collect(),
            &needles,
        )
        .await?;
    for ((name, data, met), found) in jobs.iter().zip(found) {
        let expected: BTreeSet<&str> = met.then_some(harmless.name).into_iter().collect();
        let ends_early = data["end"] == "fail"
            || data["url"]
                .as_str()
                .is_some_and(|url| url.ends_with("/slow"));
        assert_eq!(found, (!ends_early).then_some(expected), "{name} {data}");
    }

    // The secrets did go out. Then the guest crashes until the quarantine notifies an operator.
    let sent =
        Needles::new(&secrets)?.found_in((drill.vendor.seen() + &drill.mail.seen()).as_bytes());
    let sent: BTreeSet<&str> = sent.iter().map(|(name, _)| *name).collect();
    let expected = [
        "USERNAME",
        "BASIC",
        "BEARER",
        "HEADER",
        "QUERY",
        "FORM",
        "CLIENT",
        "access token",
        "mail password",
    ];
    assert!(expected.iter().all(|name| sent.contains(name)), "{sent:?}");
    let crash = json!({ "url": format!("http://{}/bearer/raw", drill.vendor.address), "method": "GET", "end": "trap" });
    // These do not run to their end: the last one stays in the stopped queue.
    for _ in 0..3 {
        drill
            .host
            .add(QUEUE, json!({ "name": "http", "data": crash }))
            .await?;
    }
    until(Duration::from_secs(20), "the alert", async || {
        Ok(drill.vendor.seen().contains("/hook").then_some(()))
    })
    .await?;

    let kept = search(&drill, &digests, &key).await?;
    assert_eq!(kept, Vec::<String>::new(), "{}", kept.join("\n"));
    Ok(())
}

/// Searches everything; returns what must not be there, and what is missing.
async fn search(drill: &Drill, digests: &[String], key: &str) -> anyhow::Result<Vec<String>> {
    let Drill {
        world,
        host,
        harmless,
        ..
    } = drill;
    let schedule =
        json!({ "id": "a-schedule", "queue": QUEUE, "name": "kv", "everyMs": 3_600_000 });
    ensure!(host.post("/api/admin/schedules", schedule).await?.0 == 200);
    let runs = drill.job_ids.len() as i64;
    until(
        Duration::from_secs(30),
        "every attempt in Postgres",
        async || {
            let count = sqlx::query_scalar::<_, i64>(
                "select count(*) from patchbay.attempts where queue = $1",
            )
            .bind(QUEUE);
            Ok((count.fetch_one(&mut world.database().await?).await? >= runs).then_some(()))
        },
    )
    .await?;
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let parameters = BTreeMap::from([
        ("name", texts(&[PLUGIN])),
        ("route", texts(&["none.such"])),
        ("webhook", texts(&["none.such"])),
        ("queue", texts(&[QUEUE, "otherQueue"])),
        (
            "id",
            [drill.job_ids.clone(), texts(&["a-schedule"])].concat(),
        ),
        (
            "state",
            texts(&["waiting", "delayed", "active", "completed", "failed"]),
        ),
        ("account", texts(&["ada@example.com"])),
        ("trail", texts(&["operators", "login_logs"])),
        ("operator", texts(&["nobody", "ada"])),
        ("key", texts(&["abcdefghijkl", key])),
        ("offset", texts(&["0"])),
        ("limit", texts(&["200"])),
        ("from", texts(&[&digests[0]])),
        ("to", texts(&[&digests[1]])),
    ]);
    let mut places = vec![
        (
            "the API's answers",
            places::answers(host, &parameters).await?,
        ),
        ("/metrics", host.metrics().await?.into_bytes()),
        (
            "an incident bundle",
            incident::fetched(host)
                .await?
                .into_values()
                .collect::<String>()
                .into_bytes(),
        ),
        ("Redis", places::redis(world).await?),
        ("a backup of the database", places::dump(world).await?),
        (
            "files of the host, and Redis's of everything that was ever in it",
            places::files(world.dir.path())?,
        ),
    ];
    places.extend(commands::printed(drill).await?);
    places.push((
        "the log",
        host.log
            .lock()
            .expect("no writer panics")
            .clone()
            .into_bytes(),
    ));

    let secrets = Needles::new(&drill.secrets.0.values().cloned().collect::<Vec<_>>())?;
    let control = ["the plugin's name", "its revision", "the name of a secret"]
        .into_iter()
        .zip([PLUGIN, &digests[1][..12], "USERNAME"]);
    let control: Vec<Planted> = control
        .map(|(name, value)| Planted::given(name, value))
        .chain([harmless.clone()])
        .collect();
    let control = Needles::new(&control)?;
    let mut findings = Vec::new();
    for (place, content) in places {
        println!("{place}: {} bytes", content.len());
        if control.found_in(&content).is_empty() {
            findings.push(format!("nothing of what should be is in {place}"));
        }
        let found = secrets.found_in(&content).into_iter();
        findings.extend(found.map(|(name, around)| format!("{name} is in {place}: {around}")));
    }
    Ok(findings)
}
