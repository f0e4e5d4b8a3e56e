//! The incident bundle: what it has, what it must not have, and what is in it during an outage.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::cable::Cable;
use crate::commands::patchbay;
use crate::harness::{Host, PASSWORD, USER, World, email_plugin, hostile_plugin, until};
use crate::leak::places;
use crate::redis_server::RedisServer;

/// The files of an archive by name, without its directory.
pub fn unpacked(archive: &[u8]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(archive)).entries()? {
        let mut entry = entry?;
        let name = entry
            .path()?
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        files.insert(name, text);
    }
    Ok(files)
}

pub async fn fetched(host: &Host) -> anyhow::Result<BTreeMap<String, String>> {
    let request = host
        .http
        .get(format!("{}/api/admin/incident", host.url))
        .basic_auth(USER, Some(PASSWORD));
    let response = request.send().await?;
    ensure!(response.status() == 200, "{}", response.status());
    unpacked(&response.bytes().await?)
}

fn parsed(files: &BTreeMap<String, String>, name: &str) -> anyhow::Result<Value> {
    let text = files
        .get(name)
        .with_context(|| format!("{name} among {:?}", files.keys()))?;
    Ok(serde_json::from_str(text)?)
}

#[tokio::test]
async fn a_bundle_tells_what_happened_and_not_to_whom() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_LOG_FILTER", "warn,patchbay::boot=info")])
        .await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    host.deploy("email", email_plugin()?).await?;
    let job = json!({ "name": "fail", "id": "p3rson-id", "data": { "retry": "never", "note": "p3rsonal-note" } });
    let id = host.add("hostileQueue", job).await?;
    host.job_in("hostileQueue", &id, "failed").await?;
    for action in ["retry", "promote"] {
        // The second one is refused; the refusal contains the job's name.
        host.post(
            &format!("/api/admin/queues/hostileQueue/jobs/{id}/{action}"),
            json!({}),
        )
        .await?;
    }
    // The failure's message quotes what was sent.
    let mail = json!({ "to": "asha.p3rson", "subject": "s", "text": "t" });
    let id = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": mail, "attempts": 1 }),
        )
        .await?;
    host.job_in("emailQueue", &id, "failed").await?;
    until(
        Duration::from_secs(30),
        "both failures in the bundle",
        async || {
            let failures = parsed(&fetched(&host).await?, "failures.json")?;
            Ok((failures.as_array().map(Vec::len) == Some(3)).then_some(()))
        },
    )
    .await?;

    let out = world.dir.path().join("bundle.tar.gz");
    let args = [
        "incident",
        "bundle",
        "--since",
        "10m",
        "--out",
        out.to_str().context("a path")?,
    ];
    let written = patchbay(&host, &args).await?;
    let (said, complaint) = (
        String::from_utf8(written.stdout)?,
        String::from_utf8(written.stderr)?,
    );
    assert!(written.status.success(), "{complaint}");
    assert!(
        said.contains("failures.json") && complaint.contains("Written: "),
        "{said}{complaint}"
    );
    assert_eq!(std::fs::metadata(&out)?.permissions().mode() & 0o777, 0o600);
    assert_eq!(
        patchbay(&host, &args).await?.status.code(),
        Some(1),
        "nothing is overwritten"
    );

    let files = unpacked(&std::fs::read(&out)?)?;
    let contents = parsed(&files, "contents.json")?;
    for entry in contents.as_array().context("a list")? {
        let name = entry["name"].as_str().context("a name")?;
        assert!(
            entry["missing"].is_null() && files.contains_key(name),
            "{entry}"
        );
        assert!(files["README.md"].contains(name), "{name}");
    }
    let failures = parsed(&files, "failures.json")?;
    let failure = failures
        .as_array()
        .into_iter()
        .flatten()
        .find(|failure| failure["queue"] == "hostileQueue");
    let failure = failure.context("the failure of hostileQueue")?;
    assert_eq!(
        ["queue", "plugin", "outcome", "verdict", "code", "message"]
            .map(|name| failure[name].as_str()),
        [
            "hostileQueue",
            "hostile",
            "failed",
            "fail",
            "on-request",
            "on-request: failed on request"
        ]
        .map(Some)
    );
    let actions = parsed(&files, "actions.json")?;
    let done = |action: &str| {
        actions
            .as_array()
            .into_iter()
            .flatten()
            .any(|row| row["action"] == action)
    };
    assert!(
        done("plugin.activate") && done("job.retry") && done("incident.bundle"),
        "{actions}"
    );
    let plugins = parsed(&files, "plugins.json")?;
    assert!(
        plugins
            .as_array()
            .into_iter()
            .flatten()
            .all(|row| row["runsHere"] == true),
        "{plugins}"
    );
    let queues = parsed(&files, "queues.json")?;
    assert!(
        queues
            .as_array()
            .into_iter()
            .flatten()
            .all(|queue| queue["why"][0]["code"].is_string()),
        "{queues}"
    );
    assert!(
        parsed(&files, "doctor.json")?
            .as_array()
            .is_some_and(|findings| findings.len() > 5)
    );
    assert_eq!(
        parsed(&files, "versions.json")?["hosts"][0]["version"],
        "0.1.0"
    );
    assert!(files["metrics.txt"].contains("patchbay_queue_jobs"));
    assert!(
        files["log.jsonl"].contains("revision activated"),
        "also what log.filter keeps from standard output"
    );
    let all = files.values().cloned().collect::<String>();
    for hidden in [
        "p3rson",
        PASSWORD,
        "tests@patchbay.example",
        "test-password",
    ] {
        assert!(!all.contains(hidden), "{hidden}: {all}");
    }
    let bare = host
        .http
        .get(format!("{}/api/admin/incident", host.url))
        .send()
        .await?;
    assert_eq!(bare.status(), 401);
    Ok(())
}

#[tokio::test]
async fn without_postgres_and_redis_a_bundle_holds_the_rest_and_names_what_is_missing()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = redis.url.clone();
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port()))
        .ok()
        .context("a port")?;
    world.database_url = url.into();
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    cable.cut.send_replace(true);
    redis.stop().await?;
    let files = fetched(&host).await?;
    let contents = parsed(&files, "contents.json")?;
    let missing: Vec<&str> = contents
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["missing"].is_string())
        .filter_map(|entry| entry["name"].as_str())
        .collect();
    assert_eq!(
        missing,
        [
            "queues.json",
            "plugins.json",
            "actions.json",
            "failures.json",
            "schedules.json",
            "audited.json"
        ],
        "{contents}"
    );
    assert!(files["README.md"].contains("**Missing**"));
    let health = parsed(&files, "health.json")?;
    assert!(
        health["notReady"]
            .as_array()
            .is_some_and(|reasons| reasons.contains(&json!("redis"))),
        "{health}"
    );
    assert!(files["metrics.txt"].contains("patchbay_dependency_up{dependency=\"postgres\"} 0"));
    assert!(files.contains_key("log.jsonl") && files.contains_key("config.json"));
    Ok(())
}

#[tokio::test]
async fn without_a_host_the_command_writes_what_it_can_see_and_says_where_to_look()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let env = [
        ("PATCHBAY_URL", "http://127.0.0.1:1"),
        ("PATCHBAY_USER", USER),
        ("PATCHBAY_PASSWORD", PASSWORD),
        ("DATABASE_URL", world.database_url.as_str()),
        ("REDIS_URL", world.redis_url.as_str()),
        ("PATCHBAY_RUNTIME_CACHE_DIR", "cache"),
    ];
    let args = ["incident", "bundle", "--out", "here.tar.gz"];
    let said = String::from_utf8(places::command(&world, &env, &args).await?)?;
    assert!(
        said.contains("journalctl") && said.contains("patchbay doctor"),
        "{said}"
    );
    let files = unpacked(&std::fs::read(world.dir.path().join("here.tar.gz"))?)?;
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "README.md",
            "config.json",
            "contents.json",
            "doctor.json",
            "versions.json"
        ]
    );
    assert!(
        files["doctor.json"].contains("schema is up to date")
            || files["doctor.json"].contains("migrations")
    );
    Ok(())
}
