//! Requests at a steady rate while the plugin is replaced, quarantined and released.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{get, stamped};
use crate::harness::{Host, World, full_length, until};

/// What a request has seen: the stamp of the revision that answered, or the code of a refusal.
enum Seen {
    Stamp(String),
    Code(String),
}

async fn asked(host: &Host) -> anyhow::Result<Seen> {
    let answer = get(host, "/api/t/stamp").await?;
    let json = answer.json();
    if answer.status != 200 {
        let code = json["code"].as_str().unwrap_or(&answer.text);
        return Ok(Seen::Code(code.to_owned()));
    }
    let stamp = json["data"]["stamp"].as_str().context("a stamp")?;
    // Data, header and the output schema that has let it through are of one revision.
    anyhow::ensure!(
        answer.header("x-stamp") == stamp,
        "{stamp} {:?}",
        answer.headers
    );
    Ok(Seen::Stamp(stamp.to_owned()))
}

/// An operator tries again while Postgres is too slow.
async fn ordered(host: &Host, what: &str, order: Value) -> anyhow::Result<()> {
    let path = format!("/api/admin/plugins/tester/{what}");
    until(Duration::from_secs(60), "the order", async || {
        let (status, answer) = host.post(&path, order.clone()).await?;
        anyhow::ensure!(status == 200 || status == 503, "{status} {answer}");
        Ok((status == 200).then_some(()))
    })
    .await
}

/// At full length with a host from the release build: `PATCHBAY_TEST_FULL=1 PATCHBAY_BIN=…`. A host
/// without optimisation does not keep up with that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_because_its_plugin_is_replaced_and_each_is_answered_by_one_revision()
-> anyhow::Result<()> {
    let (rate, length, swaps) = match full_length() {
        true => (1_000, Duration::from_secs(60), 20),
        false => (40, Duration::from_secs(8), 4),
    };
    let world = World::new().await?;
    let host = Arc::new(world.host(&[]).await?);
    let staging = Instant::now();
    host.deploy("tester", stamped(0)?).await?;
    let mut digests = Vec::new();
    for n in 1..=swaps {
        let (status, staged) = host.push(stamped(n)?).await?;
        anyhow::ensure!(status == 200, "{status} {staged}");
        digests.push(staged["data"]["digest"].clone());
    }
    println!("{swaps} revisions were staged in {:?}", staging.elapsed());
    let began = Instant::now();
    let (is_over, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients = tokio::spawn({
        let (host, is_over, sent) = (Arc::clone(&host), Arc::clone(&is_over), Arc::clone(&sent));
        async move {
            // Whether or not the answers keep up: a slow host gets no less to do.
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
            let mut requests = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                ticks.tick().await;
                let host = Arc::clone(&host);
                requests.push(tokio::spawn(async move {
                    let began = Instant::now();
                    let seen = asked(&host).await?;
                    anyhow::Ok((seen, began.elapsed()))
                }));
                sent.fetch_add(1, Ordering::Relaxed);
            }
            let mut seen = Vec::new();
            for request in requests {
                seen.push(request.await??);
            }
            anyhow::Ok(seen)
        }
    });
    // The swaps are spread over the requests, not over a clock.
    let all = usize::try_from(u64::from(rate) * length.as_secs())?;
    let after = async |share: usize| {
        let most = length * 4;
        until(most, "the requests", async || {
            let sent = sent.load(Ordering::Relaxed);
            Ok((sent >= all * share / (swaps + 3)).then_some(()))
        })
        .await
    };
    for (n, digest) in digests.iter().enumerate() {
        after(n + 1).await?;
        let order = json!({ "digest": digest, "grant": true });
        ordered(&host, "activate", order).await?;
    }
    after(swaps + 1).await?;
    let mut database = world.database().await?;
    sqlx::raw_sql(
        "insert into patchbay.quarantines (plugin, digest, reason, began_by)
         select plugin, digest, 'crashed', 'host elsewhere' from patchbay.revisions where state = 'active';
         update patchbay.revisions set state = 'quarantined' where state = 'active';
         select pg_notify('patchbay_changed', '')",
    )
    .execute(&mut database)
    .await?;
    until(Duration::from_secs(20), "the quarantine", async || {
        Ok(matches!(asked(&host).await?, Seen::Code(_)).then_some(()))
    })
    .await?;
    let release = json!({ "reason": "a drill" });
    ordered(&host, "release", release).await?;
    assert!(matches!(asked(&host).await?, Seen::Stamp(_)), "at once");
    after(swaps + 3).await?;
    is_over.store(true, Ordering::Relaxed);
    let took = began.elapsed();
    let (mut stamps, mut codes) = (BTreeMap::new(), BTreeMap::new());
    let mut times = Vec::new();
    for (seen, time) in clients.await?? {
        times.push(time);
        match seen {
            Seen::Stamp(stamp) => *stamps.entry(stamp).or_insert(0) += 1,
            Seen::Code(code) => *codes.entry(code).or_insert(0) += 1,
        }
    }
    times.sort_unstable();
    let answered: usize = stamps.values().sum();
    let failed: usize = codes
        .iter()
        .filter_map(|(code, count)| (code != "quarantined").then_some(*count))
        .sum();
    let per_s = times.len() as f64 / took.as_secs_f64();
    println!(
        "{} requests in {took:?} ({per_s:.0}/s), {swaps} swaps, a quarantine and its release: {answered} answered, {failed} failed, \
         refused {codes:?}; by revision {stamps:?}; p50 {:?}, p99 {:?}, slowest {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
    );
    let expected = ["quarantined".to_owned()];
    assert!(
        codes.keys().eq(expected.iter()),
        "only by the quarantine: {codes:?}"
    );
    assert_eq!(
        stamps.len(),
        swaps + 1,
        "every revision has answered: {stamps:?}"
    );
    assert!(
        !full_length() || per_s > f64::from(rate) * 0.95,
        "the load was not there: {per_s:.0}/s"
    );
    Ok(())
}
