//! Swaps, rollbacks and revoked grants under a steady load: no job is lost or fails because of
//! them, and at full length none waits longer.
//!
//! A host without optimisation may not handle the full load: with
//! `PATCHBAY_BIN=target/release/patchbay` another binary is tested.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use patchbay_model::job::NewJob;
use patchbay_queue::{Broker, RedisConfig};
use redis::AsyncCommands;
use serde_json::{Value, json};
use sqlx::Row;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::harness::{Host, World, full_length, steady_plugin, until, variant};

const QUEUE: &str = "steadyQueue";
const PLUGIN: &str = "/api/admin/plugins/steady";
/// Time between two additions.
const TICK: Duration = Duration::from_millis(10);
/// One job in this number uses the grant.
const USES_GRANT: u64 = 10;
/// Percentiles below this are not compared: scheduling and a busy processor cause differences.
const UNNOTICED: Duration = Duration::from_millis(20);

struct Form {
    jobs_per_s: u64,
    length: Duration,
    /// The undisturbed time at the beginning, as a baseline.
    quiet: Duration,
    swaps: u32,
    revocations: u32,
    rollbacks: u32,
}

const FULL: Form = Form {
    jobs_per_s: 1_000,
    length: Duration::from_secs(60),
    quiet: Duration::from_secs(10),
    swaps: 20,
    revocations: 5,
    rollbacks: 2,
};

/// A third of the rate, which a host without optimisation handles even beside other work.
const SHORT: Form = Form {
    jobs_per_s: 300,
    length: Duration::from_secs(9),
    quiet: Duration::from_secs(3),
    swaps: 4,
    revocations: 2,
    rollbacks: 1,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Swap,
    Rollback,
    Revoke,
    Restore,
}

/// A step and when it happened: two times in milliseconds since 1970.
struct Done {
    step: Step,
    asked: u64,
    answered: u64,
}

/// A finished job, as BullMQ stores it; times in milliseconds since 1970.
struct Finished {
    added: u64,
    began: u64,
    ended: u64,
    /// The result of its use of the grant.
    result: Option<String>,
}

impl Form {
    fn steps(&self) -> Vec<Step> {
        let falls_on = |n: u32, times: u32| n * times % self.swaps < times;
        let mut steps = Vec::new();
        for n in 1..=self.swaps {
            steps.push(Step::Swap);
            if falls_on(n, self.revocations) {
                steps.extend([Step::Revoke, Step::Restore]);
            }
            if falls_on(n, self.rollbacks) {
                steps.push(Step::Rollback);
            }
        }
        steps
    }

    fn total(&self) -> u64 {
        self.jobs_per_s * self.length.as_secs()
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

/// Adds jobs at a steady rate, whatever happens to them; returns the actual rate.
async fn produce(world: &World, form: &Form) -> anyhow::Result<f64> {
    let config = RedisConfig {
        url: world.redis_url.clone(),
        prefix: world.prefix.clone(),
        own_prefix: format!("{}-own", world.prefix),
        ..RedisConfig::default()
    };
    let queues = Broker::connect(config).await?;
    let per_tick = form.jobs_per_s * TICK.as_millis() as u64 / 1_000;
    let mut ticks = interval(TICK);
    // A late tick is caught up, so that the load does not decrease.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    for first in (0..form.total()).step_by(per_tick as usize) {
        ticks.tick().await;
        let jobs = (first..first + per_tick).map(|n| {
            let name = if n.is_multiple_of(USES_GRANT) {
                "count"
            } else {
                "noop"
            };
            Ok(NewJob::new(
                QUEUE.parse()?,
                name,
                json!({ "n": n, "text": "x".repeat(400) }).to_string(),
            ))
        });
        queues.add(jobs.collect::<anyhow::Result<_>>()?).await?;
    }
    Ok(form.total() as f64 / started.elapsed().as_secs_f64())
}

/// Takes the steps one after another, evenly spread over the time after the undisturbed part.
async fn disturb(host: &Host, digests: &[String; 2], form: &Form) -> anyhow::Result<Vec<Done>> {
    let began = Instant::now() + form.quiet;
    let steps = form.steps();
    let apart = (form.length - form.quiet) / (steps.len() as u32 + 1);
    let mut active = digests[0].clone();
    let mut done = Vec::new();
    for (n, step) in steps.into_iter().enumerate() {
        sleep_until(began + apart * n as u32).await;
        let asks = json!({ "asks": ["kv"] });
        let other = if active == digests[0] {
            &digests[1]
        } else {
            &digests[0]
        };
        let (path, body) = match step {
            Step::Swap => ("activate", json!({ "digest": other })),
            Step::Rollback => ("rollback", json!({})),
            Step::Revoke => ("grants/revoke", asks),
            Step::Restore => ("grants", asks),
        };
        let asked = now_ms();
        let (status, answer) = host.post(&format!("{PLUGIN}/{path}"), body).await?;
        done.push(Done {
            step,
            asked,
            answered: now_ms(),
        });
        ensure!(status == 200, "{step:?}: {answer}");
        if matches!(step, Step::Swap | Step::Rollback) {
            ensure!(
                answer["data"]["digest"] == *other,
                "{step:?} went elsewhere: {answer}"
            );
            active.clone_from(other);
        }
    }
    Ok(done)
}

/// Every job that was added, in order; each must have completed.
async fn finished(world: &World, total: u64) -> anyhow::Result<Vec<Finished>> {
    let mut redis = world.redis().await?;
    let key = |name: &dyn std::fmt::Display| format!("{}:{QUEUE}:{name}", world.prefix);
    until(
        Duration::from_secs(300),
        "the end of every job",
        async || {
            let (completed, failed): (u64, u64) = (
                redis.zcard(key(&"completed")).await?,
                redis.zcard(key(&"failed")).await?,
            );
            Ok((completed + failed >= total).then_some(()))
        },
    )
    .await?;
    let mut all = Vec::new();
    for ids in (1..=total).collect::<Vec<_>>().chunks(1_000) {
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.hmget(
                key(id),
                &[
                    "timestamp",
                    "processedOn",
                    "finishedOn",
                    "returnvalue",
                    "failedReason",
                ],
            );
        }
        type Row = (u64, u64, u64, Option<String>, Option<String>);
        let rows: Vec<Row> = pipe.query_async(&mut redis).await?;
        for (id, (added, began, ended, result, failure)) in ids.iter().zip(rows) {
            ensure!(failure.is_none(), "job {id} failed: {failure:?}");
            all.push(Finished {
                added,
                began,
                ended,
                result: result.filter(|text| text != "null"),
            });
        }
    }
    Ok(all)
}

/// Each job has completed once, and both revisions ran jobs.
async fn check_attempts(world: &World, total: u64, digests: &[String; 2]) -> anyhow::Result<()> {
    let mut database = world.database().await?;
    let row = until(Duration::from_secs(120), "all attempts in Postgres", async || {
        let row = sqlx::query(
            "select count(*) as attempts, count(distinct job_id) as jobs, count(*) filter (where outcome = 'completed') as completed, \
             array_agg(distinct revision) as revisions from patchbay.attempts where queue = $1",
        )
        .bind(QUEUE)
        .fetch_one(&mut database)
        .await?;
        Ok((row.try_get::<i64, _>("jobs")? >= total as i64).then_some(row))
    })
    .await?;
    for count in ["attempts", "jobs", "completed"] {
        assert_eq!(row.try_get::<i64, _>(count)?, total as i64, "{count}");
    }
    let revisions: BTreeSet<String> = row
        .try_get::<Vec<String>, _>("revisions")?
        .into_iter()
        .collect();
    assert_eq!(revisions, digests.iter().cloned().collect());
    Ok(())
}

/// The grant is denied from the answer to its revocation until it is requested again, and granted
/// from the answer to that request.
fn check_grants(jobs: &[Finished], done: &[Done]) {
    let mut denied = 0;
    for job in jobs {
        let Some(result) = &job.result else { continue };
        denied += usize::from(result.contains("denied"));
        // Jobs that ran during a step may see either.
        let under_way = |step: &Done| step.asked <= job.ended && job.began <= step.answered;
        let of_grants = || {
            done.iter()
                .filter(|step| matches!(step.step, Step::Revoke | Step::Restore))
        };
        if of_grants().any(under_way) {
            continue;
        }
        let last = of_grants().rfind(|step| step.answered < job.began);
        let expected = if last.is_some_and(|step| step.step == Step::Revoke) {
            "\"denied\""
        } else {
            "\"granted\""
        };
        assert_eq!(
            result, expected,
            "a job that ran from {} to {}",
            job.began, job.ended
        );
    }
    assert!(denied > 0, "the revocations were seen");
}

/// From adding to the end, of the jobs that were added in this time.
fn p99(jobs: &[Finished], added: impl Fn(u64) -> bool) -> Duration {
    let mut waits: Vec<u64> = jobs
        .iter()
        .filter(|job| added(job.added))
        .map(|job| job.ended - job.added)
        .collect();
    waits.sort_unstable();
    Duration::from_millis(
        waits
            .get(waits.len() * 99 / 100)
            .copied()
            .unwrap_or_default(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_rollbacks_and_revoked_grants_under_load_lose_and_fail_no_job() -> anyhow::Result<()>
{
    let form = if full_length() { FULL } else { SHORT };
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let first = host.deploy("steady", steady_plugin()?).await?;
    // Staged beforehand, so that only the swaps happen while jobs run.
    let (status, staged) = host.push(variant(&steady_plugin()?, "second")).await?;
    ensure!(status == 200, "push: {status} {staged}");
    let digests = [
        first,
        staged["data"]["digest"]
            .as_str()
            .context("digest")?
            .to_owned(),
    ];

    let began = now_ms();
    let (rate, done) = tokio::try_join!(produce(&world, &form), disturb(&host, &digests, &form))?;
    let jobs = finished(&world, form.total()).await?;
    check_attempts(&world, form.total(), &digests).await?;
    let (_, queues) = host.get("/api/admin/queues").await?;
    let counts: &Value = &queues["data"][0]["counts"];
    assert_eq!(
        (&counts["failed"], &counts["completed"]),
        (&json!(0), &json!(form.total())),
        "{counts}"
    );
    check_grants(&jobs, &done);

    // The first second is for warming up.
    let quiet_end = done[0].asked.min(began + form.quiet.as_millis() as u64);
    let before = p99(&jobs, |added| (began + 1_000..quiet_end).contains(&added));
    let mut seconds: Vec<Duration> = done
        .iter()
        .filter(|step| matches!(step.step, Step::Swap | Step::Rollback))
        .map(|step| {
            p99(&jobs, |added| {
                (step.asked..step.asked + 1_000).contains(&added)
            })
        })
        .collect();
    seconds.sort_unstable();
    let (median, worst) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    let longest = done.iter().map(|step| step.answered - step.asked).max();
    // For comparison: the same load, without any step, over one second.
    let last = jobs.iter().map(|job| job.added).max().unwrap_or_default();
    let is_undisturbed = |second: &u64| {
        !done
            .iter()
            .any(|step| (second - 1_000..second + 1_000).contains(&step.asked))
    };
    let others = (quiet_end..last.saturating_sub(1_000))
        .step_by(500)
        .filter(is_undisturbed);
    let others = others.map(|second| p99(&jobs, |added| (second..second + 1_000).contains(&added)));
    println!(
        "{rate:.0} jobs/s; p99 before {before:?}; in the seconds that begin with a swap: median {median:?}, worst {worst:?}, of {}; \
         worst of the others {:?}; longest step {longest:?} ms; all: p99 {:?}",
        seconds.len(),
        others.max(),
        p99(&jobs, |_| true)
    );
    // Times are meaningful only where nothing else runs, which is where the full length is run.
    if full_length() {
        assert!(
            rate > form.jobs_per_s as f64 * 0.95,
            "the load was not there: {rate} jobs/s"
        );
        let limit = (before * 2).max(UNNOTICED);
        assert!(median <= limit, "swaps are felt");
        // Without optimisation, some seconds have a delay that no swap caused.
        assert!(
            worst <= limit || std::env::var_os("PATCHBAY_BIN").is_none(),
            "a swap is felt"
        );
    }
    Ok(())
}
