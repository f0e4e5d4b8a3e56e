//! /metrics reports exactly what happened, in a format for strict readers, without secrets.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::{
    Host, PASSWORD, World, email_plugin, hostile_plugin, hostile_plugin_calling,
    hostile_plugin_with, mail_job, repository, until, variant,
};
use crate::redis_server::RedisServer;

/// One sample: its name, and its labels sorted by name.
type Series = (String, Vec<(String, String)>);

/// A page that the strict reader has accepted.
pub struct Page {
    text: String,
    samples: HashMap<Series, f64>,
}

impl Page {
    /// The value of the only series with at least these labels; `None` when there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |series: &Series| {
            series.0 == name
                && labels.iter().all(|(key, value)| {
                    series
                        .1
                        .iter()
                        .any(|(k, v)| (k.as_str(), v.as_str()) == (*key, *value))
                })
        };
        let mut found = self.samples.iter().filter(|(series, _)| fits(series));
        let first = found.next();
        assert!(
            found.next().is_none(),
            "more than one {name} has {labels:?}"
        );
        first.map(|(_, value)| *value)
    }

    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        self.find(name, labels)
            .with_context(|| format!("no {name}{labels:?} in\n{}", self.text))
    }
}

pub async fn scrape(host: &Host) -> anyhow::Result<Page> {
    read(host.metrics().await?)
}

/// Reads the text format 0.0.4, more strictly than Prometheus: every family is described once,
/// before its samples, in one piece; every series occurs once; counters end in `_total`; buckets
/// grow and end with the count.
fn read(text: String) -> anyhow::Result<Page> {
    ensure!(text.ends_with('\n'), "the last line is not ended");
    let mut samples = HashMap::new();
    let mut families = HashSet::new();
    let mut order: Vec<(Series, f64)> = Vec::new();
    let (mut family, mut kind, mut described) = (String::new(), String::new(), None);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, about) = help
                .split_once(' ')
                .with_context(|| format!("no help: {line}"))?;
            ensure!(
                !about.is_empty() && families.insert(name.to_owned()),
                "described twice, or with nothing: {line}"
            );
            described = Some(name.to_owned());
        } else if let Some(of_type) = line.strip_prefix("# TYPE ") {
            let (name, of_type) = of_type
                .split_once(' ')
                .with_context(|| format!("no type: {line}"))?;
            ensure!(
                described.take().as_deref() == Some(name),
                "a type without help before it: {line}"
            );
            ensure!(
                ["counter", "gauge", "histogram"].contains(&of_type),
                "{line}"
            );
            ensure!((of_type == "counter") == name.ends_with("_total"), "{line}");
            (family, kind) = (name.to_owned(), of_type.to_owned());
        } else {
            let (series, value) = sample(line).with_context(|| format!("not a sample: {line}"))?;
            let suffix = series
                .0
                .strip_prefix(&family)
                .with_context(|| format!("outside its family {family}: {line}"))?;
            match kind.as_str() {
                "histogram" => ensure!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                _ => ensure!(suffix.is_empty(), "{line}"),
            }
            ensure!(kind == "gauge" || value >= 0.0, "negative: {line}");
            ensure!(
                samples.insert(series.clone(), value).is_none(),
                "twice: {line}"
            );
            order.push((series, value));
        }
    }
    check_buckets(&order, &samples)?;
    Ok(Page { text, samples })
}

fn check_buckets(order: &[(Series, f64)], samples: &HashMap<Series, f64>) -> anyhow::Result<()> {
    let mut last: Option<(Series, f64, f64)> = None;
    for ((name, labels), count) in order {
        let Some(base) = name.strip_suffix("_bucket") else {
            continue;
        };
        let (le, rest): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(key, _)| key == "le");
        let bound = match le.first().map(|(_, le)| le.as_str()) {
            Some("+Inf") => f64::INFINITY,
            Some(le) => le.parse()?,
            None => bail!("a bucket without le: {name}{labels:?}"),
        };
        let of = (base.to_owned(), rest);
        if let Some((before, lower, fewer)) = last.take().filter(|(before, ..)| *before == of) {
            ensure!(
                lower < bound && fewer <= *count,
                "buckets do not grow: {before:?} at {bound}"
            );
        }
        if bound.is_infinite() {
            let total = samples
                .get(&(format!("{base}_count"), of.1))
                .context("a histogram without count")?;
            ensure!(total == count, "the last bucket of {base} is not its count");
        } else {
            last = Some((of, bound, *count));
        }
    }
    ensure!(last.is_none(), "buckets without +Inf: {last:?}");
    Ok(())
}

fn sample(line: &str) -> Option<(Series, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        text => text.parse().ok()?,
    };
    let (name, mut rest) = match head.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (head, ""),
    };
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        labels.push((key.to_owned(), after[..end].to_owned()));
        rest = &after[end + 1..];
        rest = if rest.is_empty() {
            rest
        } else {
            rest.strip_prefix(',').filter(|rest| !rest.is_empty())?
        };
    }
    let valid = |name: &str| {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    labels.sort();
    let all_valid = valid(name) && labels.iter().all(|(key, _)| valid(key));
    all_valid.then(|| ((name.to_owned(), labels), value))
}

async fn run(host: &Host, name: &str, data: Value, state: &str) -> anyhow::Result<()> {
    let id = host
        .add("hostileQueue", json!({ "name": name, "data": data }))
        .await?;
    host.job_in("hostileQueue", &id, state).await.map(drop)
}

#[test]
fn the_strict_reader_refuses_what_is_wrong() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{k=\"v \\\" }\",l=\"\"} 1\n";
    assert!(read(good.into()).is_ok_and(|page| page.samples.len() == 1));
    let bad = [
        good.trim_end().to_owned(),
        good.repeat(2),
        good.replace("# HELP a_total x\n", ""),
        good.replace("a_total", "a"),
        good.replace(" 1\n", " one\n"),
        good.replace("k=", "1k="),
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n".into(),
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n".into(),
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n".into(),
    ];
    for text in bad {
        assert!(read(text.clone()).is_err(), "{text}");
    }
}

#[tokio::test]
async fn counters_say_exactly_how_the_calls_of_a_hostile_guest_ended() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let digest = host.deploy("hostile", hostile_plugin()?).await?;
    let of = [("plugin", "hostile"), ("revision", &digest[..12])];
    let page = scrape(&host).await?;
    let outcomes = [
        "completed",
        "failed",
        "trapped",
        "deadline",
        "memory-limit",
        "invalid-result",
        "host-fault",
    ];
    for outcome in outcomes {
        let labels = [of[0], of[1], ("outcome", outcome)];
        assert_eq!(
            page.value("patchbay_calls_total", &labels)?,
            0.0,
            "{outcome} begins at zero"
        );
    }

    for (name, state) in [
        ("echo", "completed"),
        ("kv", "completed"),
        ("panic", "failed"),
        ("loop", "failed"),
        ("memory", "failed"),
    ] {
        run(&host, name, json!({}), state).await?;
    }
    run(&host, "fail", json!({ "retry": "never" }), "failed").await?;
    run(&host, "echo", json!({}), "completed").await?;

    let page = scrape(&host).await?;
    for (outcome, calls) in outcomes
        .into_iter()
        .zip([3.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    {
        let labels = [of[0], of[1], ("outcome", outcome)];
        assert_eq!(
            page.value("patchbay_calls_total", &labels)?,
            calls,
            "{outcome}\n{}",
            page.text
        );
    }
    assert_eq!(
        page.value("patchbay_call_duration_seconds_count", &of)?,
        7.0
    );
    assert_eq!(
        page.value("patchbay_call_peak_memory_bytes_count", &of)?,
        7.0
    );
    let below = |le| {
        page.value(
            "patchbay_call_peak_memory_bytes_bucket",
            &[of[0], of[1], ("le", le)],
        )
    };
    assert_eq!(below("6.7108864e+07")?, 7.0, "nobody got more than 64 MiB");
    assert_eq!(below("3.3554432e+07")?, 6.0, "and one nearly got that");
    let (cpu, wall) = (
        page.value("patchbay_call_cpu_seconds_total", &of)?,
        page.value("patchbay_call_duration_seconds_sum", &of)?,
    );
    assert!(
        cpu > 0.0 && cpu <= wall,
        "{cpu} s of processor time in {wall} s"
    );
    // Set, increment, get, delete.
    let kv = [of[0], of[1], ("capability", "kv")];
    assert_eq!(
        page.value("patchbay_host_call_duration_seconds_count", &kv)?,
        4.0
    );
    for idle in ["patchbay_calls_in_flight", "patchbay_calls_waiting"] {
        assert_eq!(page.value(idle, &of)?, 0.0);
    }
    assert_eq!(page.value("patchbay_pool_slots_in_use", &[])?, 0.0);
    assert_eq!(page.value("patchbay_pool_slots", &[])?, 400.0);
    Ok(())
}

#[tokio::test]
async fn processor_time_follows_what_a_guest_computes_and_not_how_long_it_waits()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let patient = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 60_000")
    })?;
    host.deploy("hostile", patient).await?;
    let cpu = async || {
        scrape(&host)
            .await?
            .value("patchbay_call_cpu_seconds_total", &[])
    };
    let mut spent = Vec::new();
    for iterations in [1_000_000, 40_000_000] {
        let before = cpu().await?;
        run(
            &host,
            "compute",
            json!({ "iterations": iterations }),
            "completed",
        )
        .await?;
        spent.push(cpu().await? - before);
    }
    // Forty times the work, plus a fixed cost per call. Other processes do not change this.
    assert!(spent[0] > 0.0 && spent[1] > 4.0 * spent[0], "{spent:?}");

    let digest = host.deploy("hostile", hostile_plugin()?).await?;
    let of = [("revision", &digest[..12])];
    run(&host, "sleep", json!({}), "failed").await?;
    let page = scrape(&host).await?;
    let wall = page.value("patchbay_call_duration_seconds_sum", &of)?;
    let cpu = page.value("patchbay_call_cpu_seconds_total", &of)?;
    assert!(
        wall >= 0.2 && cpu > 0.0 && cpu < wall / 2.0,
        "{cpu} s of processor time in {wall} s"
    );
    Ok(())
}

#[tokio::test]
async fn a_swap_begins_new_series_and_the_old_ones_go_when_their_last_call_has_ended()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_METRICS_KEEP_RETIRED_S", "0")])
        .await?;
    let patient = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 120_000")
    })?;
    let old = host.deploy("hostile", patient.clone()).await?;
    let old = [("revision", &old[..12])];
    let id = host.add("hostileQueue", json!({ "name": "sleep" })).await?;
    until(Duration::from_secs(30), "the call in flight", async || {
        Ok((scrape(&host)
            .await?
            .value("patchbay_calls_in_flight", &old)?
            == 1.0)
            .then_some(()))
    })
    .await?;

    let new = host.deploy("hostile", variant(&patient, "next")).await?;
    let new = [("revision", &new[..12])];
    run(&host, "echo", json!({}), "completed").await?;
    let page = scrape(&host).await?;
    assert_eq!(page.value("patchbay_revision_active", &old)?, 0.0);
    assert_eq!(
        page.value("patchbay_calls_in_flight", &old)?,
        1.0,
        "its call goes on, and is shown"
    );
    assert_eq!(page.value("patchbay_revision_active", &new)?, 1.0);
    assert_eq!(
        page.value("patchbay_calls_total", &[new[0], ("outcome", "completed")])?,
        1.0
    );
    // The other job's task ends a moment after its settlement.
    until(Duration::from_secs(10), "one job in flight", async || {
        let jobs = scrape(&host)
            .await?
            .value("patchbay_jobs_in_flight", &[("queue", "hostileQueue")])?;
        Ok((jobs == 1.0).then_some(()))
    })
    .await?;

    let (status, answer) = host
        .post(
            &format!("/api/admin/queues/hostileQueue/jobs/{id}/kill"),
            json!({}),
        )
        .await?;
    ensure!(status == 200, "kill: {status} {answer}");
    until(
        Duration::from_secs(30),
        "the end of the old series",
        async || {
            let page = scrape(&host).await?;
            let gone = !page
                .samples
                .keys()
                .any(|(_, labels)| labels.iter().any(|(_, value)| value == old[0].1));
            Ok(gone.then_some(()))
        },
    )
    .await?;
    assert_eq!(
        scrape(&host)
            .await?
            .value("patchbay_calls_total", &[new[0], ("outcome", "completed")])?,
        1.0
    );
    Ok(())
}

#[tokio::test]
async fn calls_beyond_the_pool_are_shown_as_waiting_and_killed_ones_are_counted_once()
-> anyhow::Result<()> {
    let world = World::new().await?;
    // The smallest pool: 16 slots.
    let host = world.host(&[("PATCHBAY_RUNTIME_MAX_CALLS", "1")]).await?;
    host.deploy(
        "hostile",
        hostile_plugin_with(|m| m.replace("deadline_ms = 200", "deadline_ms = 120_000"))?,
    )
    .await?;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(host.add("hostileQueue", json!({ "name": "sleep" })).await?);
    }
    let page = until(
        Duration::from_secs(30),
        "two calls behind four",
        async || {
            let page = scrape(&host).await?;
            Ok((page.value("patchbay_calls_waiting", &[])? == 2.0).then_some(page))
        },
    )
    .await?;
    assert_eq!(page.value("patchbay_calls_in_flight", &[])?, 4.0);
    let slots = (
        page.value("patchbay_pool_slots_in_use", &[])?,
        page.value("patchbay_pool_slots", &[])?,
    );
    assert_eq!(slots, (16.0, 16.0));
    for id in ids {
        let (status, answer) = host
            .post(
                &format!("/api/admin/queues/hostileQueue/jobs/{id}/kill"),
                json!({}),
            )
            .await?;
        ensure!(status == 200, "kill: {status} {answer}");
    }
    let page = until(Duration::from_secs(30), "no call", async || {
        let page = scrape(&host).await?;
        let busy = page.value("patchbay_calls_waiting", &[])?
            + page.value("patchbay_calls_in_flight", &[])?;
        let ended = page.value("patchbay_calls_total", &[("outcome", "host-fault")])?;
        Ok((busy == 0.0 && ended == 6.0).then_some(page))
    })
    .await?;
    assert_eq!(
        page.value("patchbay_call_duration_seconds_count", &[])?,
        6.0
    );
    Ok(())
}

#[tokio::test]
async fn outside_calls_are_counted_without_what_is_secret_or_personal() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut env = vec![("PATCHBAY_SECRET_HOSTILE_TOKEN", "s3cret-t0ken")];
    env.extend(crate::people::PEOPLE);
    let host = world.host(&env).await?;
    let app =
        axum::Router::new().route("/allowed/{*rest}", axum::routing::any(|| async { "hello" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    // The first outside call reads the system's certificates, which takes long on a busy machine.
    let patient = hostile_plugin_with(|manifest| {
        let manifest = manifest.replace("deadline_ms = 200", "deadline_ms = 60_000");
        manifest.replace("127.0.0.1:9/", &format!("{server}/"))
    })?;
    host.deploy("hostile", patient).await?;
    host.deploy("email", email_plugin()?).await?;

    run(
        &host,
        "outside",
        json!({ "url": format!("http://{server}/allowed/x?key=qu3ry-key") }),
        "completed",
    )
    .await?;
    run(
        &host,
        "outside",
        json!({ "url": format!("http://{server}/elsewhere") }),
        "completed",
    )
    .await?;
    // A guest chooses this name: it must not become a series.
    run(
        &host,
        "outside",
        json!({ "url": "http://chosen-by-guest.example/" }),
        "failed",
    )
    .await?;
    run(
        &host,
        "secret",
        json!({ "note": "p3rsonal-note" }),
        "completed",
    )
    .await?;
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    host.job_in("emailQueue", &id, "completed").await?;
    // Its metrics exist from then on.
    let (status, verified) = host.post("/api/admin/audit/verify", json!({})).await?;
    assert_eq!(status, 200, "{verified}");

    let page = scrape(&host).await?;
    everything_is_documented(&page)?;
    let requests = |host, status| {
        page.find(
            "patchbay_egress_requests_total",
            &[("host", host), ("status", status)],
        )
    };
    assert_eq!(requests("127.0.0.1", "2xx"), Some(1.0), "{}", page.text);
    assert_eq!(requests("127.0.0.1", "4xx"), Some(1.0), "{}", page.text);
    assert_eq!(requests("other", "denied"), Some(1.0), "{}", page.text);
    assert_eq!(
        page.value(
            "patchbay_host_call_duration_seconds_count",
            &[("capability", "http")]
        )?,
        3.0
    );
    assert_eq!(
        page.value(
            "patchbay_mail_sends_total",
            &[("plugin", "email"), ("phase", "sent")]
        )?,
        1.0
    );
    let hidden = [
        "s3cret-t0ken",
        "qu3ry-key",
        "p3rsonal-note",
        "chosen-by-guest",
        "person1",
        "@",
        PASSWORD,
        &world.prefix,
        "/allowed",
        "postgres://",
        "redis://",
    ];
    for text in hidden {
        assert!(!page.text.contains(text), "{text} is in\n{}", page.text);
    }
    Ok(())
}

/// The metrics in the tables of the documentation.
fn documented() -> anyhow::Result<BTreeSet<String>> {
    let tables = std::fs::read_to_string(repository().join("docs/operations/metrics.md"))?;
    let rows = tables
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    Ok(rows
        .flat_map(|(names, _)| names.split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .collect())
}

#[test]
fn dashboards_and_alert_rules_ask_only_for_metrics_that_exist() -> anyhow::Result<()> {
    let known = documented()?;
    let mut seen = 0;
    for dir in ["deploy/grafana", "deploy/prometheus"] {
        for entry in std::fs::read_dir(repository().join(dir))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path)?;
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                serde_json::from_str::<Value>(&text).with_context(|| path.display().to_string())?;
            }
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            // Recording rules have colons in their names; their sources are checked where they are
            // used.
            let names =
                words.filter(|word| word.starts_with("patchbay_") || word.starts_with("process_"));
            for name in names {
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix));
                let exists = known.contains(name) || base.is_some_and(|base| known.contains(base));
                ensure!(exists, "{}: there is no metric {name}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "only {seen} were found");
    Ok(())
}

/// The tables name every metric, and no other. Those of routes are there from the first request to a
/// route on: `plugin_routes::kept` looks for them.
fn everything_is_documented(page: &Page) -> anyhow::Result<()> {
    let mut named = documented()?;
    named.retain(|name| !name.starts_with("patchbay_route_"));
    let types = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut there: BTreeSet<String> = types.map(|(name, _)| name.to_owned()).collect();
    // Without a webhook there are none; the scenarios of the inbox look at them.
    let of_webhooks = [
        "requests_total",
        "refused_total",
        "rows",
        "ack_seconds",
        "verify_seconds",
    ];
    there.extend(of_webhooks.map(|name| format!("patchbay_inbox_{name}")));
    assert_eq!(named, there);
    Ok(())
}

#[tokio::test]
async fn without_redis_the_page_answers_and_counts_the_settlements_that_fail() -> anyhow::Result<()>
{
    let mut world = World::new().await?;
    let mut redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = redis.url.clone();
    let host = world.host(&[]).await?;
    let patient = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 4_000")
    })?;
    host.deploy("hostile", patient).await?;
    let id = host.add("hostileQueue", json!({ "name": "sleep" })).await?;
    until(Duration::from_secs(30), "the call in flight", async || {
        Ok((scrape(&host)
            .await?
            .value("patchbay_calls_in_flight", &[])?
            == 1.0)
            .then_some(()))
    })
    .await?;
    redis.stop().await?;
    let page = until(
        Duration::from_secs(30),
        "a settlement that failed",
        async || {
            let page = scrape(&host).await?;
            let failures =
                page.value("patchbay_settle_failures_total", &[("kind", "tried-again")])?;
            Ok((failures > 0.0).then_some(page))
        },
    )
    .await?;
    let redis_is_up =
        |page: &Page| page.value("patchbay_dependency_up", &[("dependency", "redis")]);
    assert_eq!(redis_is_up(&page)?, 0.0);
    assert_eq!(
        page.find(
            "patchbay_dependency_probe_seconds",
            &[("dependency", "redis")]
        ),
        None
    );
    assert_eq!(page.find("patchbay_attempts_waiting", &[]), None);
    assert_eq!(
        page.value("patchbay_dependency_up", &[("dependency", "postgres")])?,
        1.0
    );
    assert_eq!(
        page.value("patchbay_calls_total", &[("outcome", "deadline")])?,
        1.0,
        "the call itself ended as ever"
    );

    redis.start().await?;
    host.job_in("hostileQueue", &id, "failed").await?;
    until(Duration::from_secs(10), "Redis on the page", async || {
        Ok((redis_is_up(&scrape(&host).await?)? == 1.0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_request_that_the_deadline_cuts_short_is_counted_as_abandoned() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // Accepts connections and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    host.deploy("hostile", hostile_plugin_calling(server)?)
        .await?;
    run(
        &host,
        "outside",
        json!({ "url": format!("http://{server}/") }),
        "failed",
    )
    .await?;
    let abandoned = [("host", "127.0.0.1"), ("status", "abandoned")];
    // The host's side ends a moment after the guest's.
    until(Duration::from_secs(10), "the request", async || {
        Ok((scrape(&host)
            .await?
            .find("patchbay_egress_requests_total", &abandoned)
            == Some(1.0))
        .then_some(()))
    })
    .await?;
    drop(listener);
    Ok(())
}

#[tokio::test]
async fn the_process_and_its_dependencies_are_on_the_page() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let page = scrape(&host).await?;
    assert_eq!(
        page.value("patchbay_build_info", &[("version", "0.1.0")])?,
        1.0
    );
    for dependency in ["postgres", "redis"] {
        let labels = [("dependency", dependency)];
        assert_eq!(page.value("patchbay_dependency_up", &labels)?, 1.0);
        let trip = page.value("patchbay_dependency_probe_seconds", &labels)?;
        assert!(trip > 0.0 && trip < 1.5, "{dependency}: {trip}");
    }
    assert!(page.value("patchbay_convergence_age_seconds", &[])? < 15.0);
    assert_eq!(
        page.value("patchbay_jobs_in_flight", &[("queue", "hostileQueue")])?,
        0.0
    );
    assert_eq!(page.value("patchbay_jobs_limit", &[])?, 100.0);
    for kind in ["tried-again", "lost", "given-up"] {
        assert_eq!(
            page.value("patchbay_settle_failures_total", &[("kind", kind)])?,
            0.0
        );
    }
    page.value("patchbay_attempts_waiting", &[])?;
    assert!(page.value("process_resident_memory_bytes", &[])? > 1e6);
    assert!(page.value("process_cpu_seconds_total", &[])? > 0.0);
    assert!(page.value("process_open_fds", &[])? < page.value("process_max_fds", &[])?);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs_f64();
    assert!((0.0..600.0).contains(&(now - page.value("process_start_time_seconds", &[])?)));
    promtool(&page.text).await
}

#[tokio::test]
async fn queues_attempts_and_requests_are_on_the_page() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let digest = host.deploy("hostile", hostile_plugin()?).await?;
    let page = scrape(&host).await?;
    let queue = ("queue", "hostileQueue");
    let jobs = |page: &Page, state| page.value("patchbay_queue_jobs", &[queue, ("state", state)]);
    for state in [
        "waiting",
        "prioritized",
        "delayed",
        "waiting-children",
        "active",
        "completed",
        "failed",
    ] {
        assert_eq!(jobs(&page, state)?, 0.0, "{state}");
    }
    for idle in [
        "patchbay_queue_oldest_waiting_seconds",
        "patchbay_schedules_overdue",
        "patchbay_queue_wait_seconds_count",
    ] {
        assert_eq!(page.value(idle, &[queue])?, 0.0, "{idle}");
    }
    let activated = page.value(
        "patchbay_revision_activated_timestamp_seconds",
        &[("revision", &digest[..12])],
    )?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs_f64();
    assert!((now - activated).abs() < 60.0, "{activated}");

    run(&host, "echo", json!({}), "completed").await?;
    run(&host, "fail", json!({ "retry": "never" }), "failed").await?;
    let (status, answer) = host
        .post("/api/admin/queues/hostileQueue/pause", json!({}))
        .await?;
    ensure!(status == 200, "pause: {status} {answer}");
    host.add("hostileQueue", json!({ "name": "echo" })).await?;
    host.add("hostileQueue", json!({ "name": "echo", "priority": 5 }))
        .await?;
    host.add("hostileQueue", json!({ "name": "echo", "delayMs": 60_000 }))
        .await?;
    let page = until(
        Duration::from_secs(10),
        "a waiting job that has an age",
        async || {
            let page = scrape(&host).await?;
            Ok(
                (page.value("patchbay_queue_oldest_waiting_seconds", &[queue])? > 0.0)
                    .then_some(page),
            )
        },
    )
    .await?;
    for (state, count) in [
        ("waiting", 1.0),
        ("prioritized", 1.0),
        ("delayed", 1.0),
        ("completed", 1.0),
        ("failed", 1.0),
    ] {
        assert_eq!(jobs(&page, state)?, count, "{state}");
    }
    assert_eq!(page.value("patchbay_queue_paused", &[queue])?, 1.0);
    for (name, label, counted) in [
        ("patchbay_attempts_total", ("outcome", "completed"), 1.0),
        ("patchbay_attempts_total", ("outcome", "failed"), 1.0),
        (
            "patchbay_attempt_verdicts_total",
            ("verdict", "complete"),
            1.0,
        ),
        ("patchbay_attempt_verdicts_total", ("verdict", "fail"), 1.0),
        ("patchbay_attempt_verdicts_total", ("verdict", "retry"), 0.0),
    ] {
        assert_eq!(
            page.value(name, &[queue, label])?,
            counted,
            "{name} {label:?}"
        );
    }
    assert_eq!(
        page.value("patchbay_attempt_duration_seconds_count", &[queue])?,
        2.0
    );
    assert_eq!(
        page.value("patchbay_queue_wait_seconds_count", &[queue])?,
        2.0
    );

    host.get("/api/admin/queues/chosen-by-client").await?;
    host.get("/chosen-by-client").await?;
    let page = scrape(&host).await?;
    let requests = |method, route, status| {
        let labels = [("method", method), ("route", route), ("status", status)];
        page.find("patchbay_http_requests_total", &labels)
    };
    assert_eq!(
        requests("POST", "/api/admin/queues/{queue}/jobs", "200"),
        Some(5.0),
        "{}",
        page.text
    );
    assert_eq!(
        requests("GET", "/api/admin/queues/{queue}", "404"),
        Some(1.0)
    );
    assert_eq!(requests("GET", "unmatched", "404"), Some(1.0));
    assert!(!page.text.contains("chosen-by-client"));
    let in_use = page.value("patchbay_postgres_connections", &[("state", "in-use")])?;
    assert!(in_use <= page.value("patchbay_postgres_connections_limit", &[])?);
    assert!(page.value("patchbay_redis_memory_used_bytes", &[])? > 0.0);
    assert!(page.value("patchbay_history_lag_seconds", &[])? < 60.0);
    Ok(())
}

#[tokio::test]
async fn a_quarantined_plugin_s_queues_stay_on_the_page() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = [
        ("PATCHBAY_QUARANTINE_CRASHES", "3"),
        ("PATCHBAY_QUARANTINE_CALLS", "3"),
    ];
    let host = world.host(&env).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    for _ in 0..4 {
        host.add("hostileQueue", json!({ "name": "panic" })).await?;
    }
    let page = until(Duration::from_secs(30), "the quarantine", async || {
        let page = scrape(&host).await?;
        let still = page.find("patchbay_plugin_quarantined", &[("plugin", "hostile")]) == Some(1.0);
        // Until Postgres has the quarantine, the held queue still has its worker.
        let stopped = page
            .find("patchbay_jobs_in_flight", &[("queue", "hostileQueue")])
            .is_none();
        Ok((still && stopped).then_some(page))
    })
    .await?;
    let waiting = page.value(
        "patchbay_queue_jobs",
        &[("queue", "hostileQueue"), ("state", "waiting")],
    )?;
    assert!(waiting >= 1.0, "{}", page.text);
    Ok(())
}

/// Checks the text with Prometheus's own tool, where it is installed.
async fn promtool(text: &str) -> anyhow::Result<()> {
    // scripts/check-deploy puts it there.
    let unpacked = repository().join("target/tools/promtool");
    let program = if unpacked.exists() {
        unpacked
    } else {
        "promtool".into()
    };
    let mut command = tokio::process::Command::new(program);
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        return Ok(());
    };
    let mut input = child.stdin.take().context("stdin")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "promtool: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[tokio::test]
async fn metrics_are_for_the_operator_unless_the_configuration_says_otherwise() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let bare = |host: &Host| host.http.get(format!("{}/metrics", host.url)).send();
    let refused = bare(&host).await?;
    assert_eq!(refused.status(), 401);
    assert!(
        refused.headers()["www-authenticate"]
            .to_str()?
            .starts_with("Basic")
    );
    assert!(!refused.text().await?.contains("patchbay_"));
    scrape(&host).await?;

    std::fs::write(
        world.dir.path().join("patchbay.toml"),
        "[metrics]\nrequire_operator = false\n",
    )?;
    let open = world.host(&[]).await?;
    assert_eq!(bare(&open).await?.status(), 200);
    Ok(())
}
