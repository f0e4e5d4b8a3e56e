//! All failures together: hosts are killed, Redis and Postgres restart, connections are cut, while
//! jobs run. Nothing is lost.
//!
//! Fixed seeds decide what happens when. Counts come from three independent sources: the producer,
//! Redis, and the history.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use patchbay_model::job::{Keep, NewJob};
use patchbay_queue::{Broker, RedisConfig};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use redis::AsyncCommands;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cable::Cable;
use crate::harness::{Host, World, full_length, steady_plugin_with, until};
use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;

const QUEUE: &str = "steadyQueue";
const TICKS: &str = "tickQueue";
const HOSTS: usize = 3;
/// Long enough that a kill interrupts some of them.
const NAP: Duration = Duration::from_millis(20);
/// Longer than the scenario takes, and less than a lock that nobody renews may take from a job.
const DRAIN_LIMIT: Duration = Duration::from_secs(180);

struct Form {
    seeds: &'static [u64],
    jobs: u64,
    per_second: u64,
    lock: Duration,
    renew: Duration,
    postgres_away: Duration,
    /// Milliseconds between two disturbances.
    calm: std::ops::Range<u64>,
}

const FULL: Form = Form {
    seeds: &[1, 2, 3],
    jobs: 20_000,
    per_second: 200,
    lock: Duration::from_secs(30),
    renew: Duration::from_secs(10),
    postgres_away: Duration::from_secs(30),
    calm: 2_000..5_000,
};

const SHORT: Form = Form {
    seeds: &[1],
    jobs: 1_000,
    per_second: 100,
    lock: Duration::from_secs(6),
    renew: Duration::from_secs(2),
    postgres_away: Duration::from_secs(5),
    calm: 1_000..2_000,
};

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

/// A machine on which a host is started again and again. Its proxies to both servers stay the same.
struct Place {
    redis: Cable,
    postgres: Cable,
    host: Option<Host>,
}

/// Everything that is disturbed.
struct Stage {
    world: World,
    redis: RedisServer,
    postgres: PostgresServer,
    places: Vec<Place>,
    /// Jobs that a killed host was running, with the time of the kill.
    victims: HashMap<String, u64>,
    kills: usize,
    cuts: usize,
    form: &'static Form,
}

impl Stage {
    async fn set(form: &'static Form) -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let mut world = World::new().await?;
        // Postgres runs as another user.
        std::fs::set_permissions(world.dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let redis = RedisServer::start_new(world.dir.path()).await?;
        let postgres = PostgresServer::start_new(world.dir.path()).await?;
        world.redis_url = redis.url.clone();
        world.database_url = postgres.url.clone();
        let mut places = Vec::new();
        for _ in 0..HOSTS {
            places.push(Place {
                redis: Cable::to(redis.address().to_string()).await?,
                postgres: Cable::to(format!("127.0.0.1:{}", postgres.port)).await?,
                host: None,
            });
        }
        let mut stage = Self {
            world,
            redis,
            postgres,
            places,
            victims: HashMap::new(),
            kills: 0,
            cuts: 0,
            form,
        };
        for place in 0..HOSTS {
            stage.start(place).await?;
        }
        Ok(stage)
    }

    async fn start(&mut self, place: usize) -> anyhow::Result<()> {
        let place = &mut self.places[place];
        let database = format!("postgres://postgres@{}/postgres", place.postgres.address);
        let redis = format!("redis://{}/", place.redis.address);
        let [lock, renew] =
            [self.form.lock, self.form.renew].map(|time| time.as_secs().to_string());
        let environment = [
            ("DATABASE_URL", database.as_str()),
            ("REDIS_URL", redis.as_str()),
            ("PATCHBAY_WORK_LOCK_S", lock.as_str()),
            ("PATCHBAY_WORK_RENEW_S", renew.as_str()),
        ];
        place.host = Some(self.world.host(&environment).await?);
        Ok(())
    }

    fn key(&self, queue: &str, name: &str) -> String {
        format!("{}:{queue}:{name}", self.world.prefix)
    }

    /// `kill -9`. The jobs that it was running are read afterwards; no other host can take them
    /// before their locks expire.
    async fn kill(&mut self, place: usize) -> anyhow::Result<()> {
        let mut host = self.places[place].host.take().context("a running host")?;
        let name = format!(":{}", host.child.id().context("running")?);
        host.child.kill().await?;
        let killed = now_ms();
        self.kills += 1;
        let Ok(mut redis) = self.world.redis().await else {
            return Ok(());
        };
        let active: Vec<String> = redis.lrange(self.key(QUEUE, "active"), 0, -1).await?;
        for id in active {
            let worker: Option<String> = redis.hget(self.key(QUEUE, &id), "pb").await?;
            if worker.is_some_and(|worker| worker.ends_with(&name)) {
                self.victims.insert(id, killed);
            }
        }
        Ok(())
    }

    async fn cut(&mut self, random: &mut StdRng) {
        let place = self.places.choose(random).expect("places");
        let cable = if random.random_bool(0.5) {
            &place.redis
        } else {
            &place.postgres
        };
        cable.cut.send_replace(true);
        sleep(Duration::from_millis(random.random_range(50..800))).await;
        cable.cut.send_replace(false);
        self.cuts += 1;
    }

    /// Runs until all jobs are added and the large disturbances have happened: Redis twice,
    /// Postgres once, each together with a kill.
    async fn disturb(&mut self, random: &mut StdRng, added: &AtomicU64) -> anyhow::Result<()> {
        let mut great = [(1, "redis"), (2, "postgres"), (3, "redis")]
            .into_iter()
            .peekable();
        loop {
            let share = added.load(Ordering::SeqCst) * 4 / self.form.jobs;
            if share >= 4 && great.peek().is_none() {
                return Ok(());
            }
            sleep(Duration::from_millis(
                random.random_range(self.form.calm.clone()),
            ))
            .await;
            let place = random.random_range(0..HOSTS);
            match great.next_if(|(due, _)| share >= *due) {
                Some((_, "redis")) => {
                    self.redis.stop().await?;
                    sleep(Duration::from_millis(random.random_range(200..2_000))).await;
                    self.redis.start().await?;
                    continue;
                }
                Some(_) => {
                    let back = Instant::now() + self.form.postgres_away;
                    self.postgres.stop().await?;
                    self.kill(place).await?;
                    // It starts from its snapshot, since Postgres is away.
                    self.start(place).await?;
                    tokio::time::sleep_until(back).await;
                    self.postgres.start().await?;
                    continue;
                }
                None => {}
            }
            if self.kills <= self.cuts {
                self.kill(place).await?;
                self.start(place).await?;
            } else {
                self.cut(random).await;
            }
        }
    }
}

/// Chooses the ids, so that an addition without an answer can be repeated. Never gives up.
async fn produce(
    url: String,
    prefix: String,
    form: &Form,
    added: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut ticks =
        tokio::time::interval(Duration::from_secs(1) / u32::try_from(form.per_second / 10)?);
    let config = || RedisConfig {
        url: url.clone(),
        prefix: prefix.clone(),
        own_prefix: "test".into(),
        ..RedisConfig::default()
    };
    let mut queues = Broker::connect(config()).await?;
    for first in (0..form.jobs).step_by(10) {
        ticks.tick().await;
        loop {
            let jobs = (first..first + 10).map(|n| {
                let mut job = NewJob::new(
                    QUEUE.parse()?,
                    "nap",
                    json!({ "ms": NAP.as_millis() as u64 }).to_string(),
                );
                job.id = Some(format!("job-{n}").parse()?);
                job.keep_completed = Some(Keep::default());
                Ok(job)
            });
            match queues.add(jobs.collect::<anyhow::Result<_>>()?).await {
                Ok(_) => break,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
            if let Ok(connected) = Broker::connect(config()).await {
                queues = connected;
            }
        }
        added.fetch_add(10, Ordering::SeqCst);
    }
    Ok(())
}

/// From Redis, for every job: when it ended and how often it was started.
async fn all_completed(stage: &Stage) -> anyhow::Result<BTreeMap<String, (u64, u64)>> {
    let mut redis = stage.world.redis().await?;
    let jobs = stage.form.jobs;
    let done = until(DRAIN_LIMIT, "the end of every job", async || {
        let completed: u64 = redis.zcard(stage.key(QUEUE, "completed")).await?;
        let failed: u64 = redis.zcard(stage.key(QUEUE, "failed")).await?;
        ensure!(failed == 0, "{failed} failed");
        Ok((completed >= jobs).then_some(()))
    });
    let counted =
        async |redis: &mut redis::aio::MultiplexedConnection| -> anyhow::Result<[u64; 4]> {
            Ok([
                redis.llen(stage.key(QUEUE, "wait")).await?,
                redis.llen(stage.key(QUEUE, "active")).await?,
                redis.zcard(stage.key(QUEUE, "delayed")).await?,
                redis.zcard(stage.key(QUEUE, "completed")).await?,
            ])
        };
    let ended = done.await;
    let counts = counted(&mut redis).await?;
    ended.with_context(|| format!("waiting, active, delayed, completed: {counts:?}"))?;
    assert_eq!(
        counts,
        [0, 0, 0, jobs],
        "waiting, active, delayed, completed"
    );
    let mut all = BTreeMap::new();
    for n in 0..jobs {
        let id = format!("job-{n}");
        let (ended, starts): (Option<u64>, Option<u64>) = redis
            .hmget(stage.key(QUEUE, &id), &["finishedOn", "ats"])
            .await?;
        all.insert(
            id.clone(),
            (
                ended.with_context(|| format!("{id} is in no state"))?,
                starts.unwrap_or(0),
            ),
        );
    }
    Ok(all)
}

/// In the history each job has completed once, on a host.
async fn check_history(stage: &Stage) -> anyhow::Result<()> {
    let jobs = i64::try_from(stage.form.jobs)?;
    until(DRAIN_LIMIT, "all completions in the history", async || {
        let mut database = stage.world.database().await?;
        let (completions, of): (i64, i64) = sqlx::query_as(
            "select count(*), count(distinct job_id) from patchbay.attempts \
             where queue = $1 and verdict = 'complete' and source = 'host'",
        )
        .bind(QUEUE)
        .fetch_one(&mut database)
        .await?;
        ensure!(completions == of, "{completions} completions of {of} jobs");
        ensure!(completions <= jobs, "{completions} of {jobs}");
        Ok((completions == jobs).then_some(()))
    })
    .await?;
    let mut database = stage.world.database().await?;
    let bad: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.attempts where queue = $1 and verdict = 'fail'",
    )
    .bind(QUEUE)
    .fetch_one(&mut database)
    .await?;
    assert_eq!(bad, 0, "failures in the history");
    Ok(())
}

/// Waits for two more ticks.
async fn check_schedule(stage: &Stage) -> anyhow::Result<()> {
    let mut redis = stage.world.redis().await?;
    let count = async |redis: &mut redis::aio::MultiplexedConnection| -> anyhow::Result<u64> {
        let ids: Vec<String> = redis.zrange(stage.key(TICKS, "completed"), 0, -1).await?;
        Ok(ids.len() as u64)
    };
    let before = count(&mut redis).await?;
    ensure!(before > 0, "the schedule never ticked");
    until(
        Duration::from_secs(60),
        "two more ticks of the schedule",
        async || Ok((count(&mut redis).await? >= before + 2).then_some(())),
    )
    .await
}

async fn act(form: &'static Form, seed: u64) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::set(form).await?;
    let plugin = steady_plugin_with(|manifest| {
        format!(
            "{manifest}\n[[queues]]\nname = \"{TICKS}\"\nretention = {{ completed = {{ count = 100_000 }} }}\n"
        )
    })?;
    let host = stage.places[0].host.as_ref().context("running")?;
    host.deploy("steady", plugin).await?;
    let schedule = json!({ "id": "chaos-tick", "queue": TICKS, "name": "tick", "everyMs": 1_000 });
    let (status, answer) = host.post("/api/admin/schedules", schedule).await?;
    ensure!(status == 200, "schedule: {status} {answer}");
    for place in &stage.places {
        let host = place.host.as_ref().context("running")?;
        until(Duration::from_secs(30), "every host works", async || {
            Ok((host.get("/readyz").await?.0 == 200
                && host.metrics().await?.contains("patchbay_revision_active{"))
            .then_some(()))
        })
        .await?;
    }

    let added = Arc::new(AtomicU64::new(0));
    let failure = Arc::new(Mutex::new(None));
    let producer = tokio::spawn({
        let (url, prefix) = (stage.redis.url.clone(), stage.world.prefix.clone());
        let (added, failure) = (Arc::clone(&added), Arc::clone(&failure));
        async move {
            if let Err(error) = produce(url, prefix, form, added).await {
                *failure.lock().expect("no holder panics") = Some(error);
            }
        }
    });
    let began = Instant::now();
    let disturbed = stage.disturb(&mut random, &added).await;
    ensure!(
        failure.lock().expect("no holder panics").is_none(),
        "the producer gave up: {failure:?}"
    );
    disturbed?;
    producer.await?;
    let all = all_completed(&stage).await?;
    let took = began.elapsed();
    check_history(&stage).await?;
    check_schedule(&stage).await?;

    let mut recoveries: Vec<u64> = stage
        .victims
        .iter()
        .map(|(id, killed)| all[id].0.saturating_sub(*killed))
        .collect();
    recoveries.sort_unstable();
    let p99 = Duration::from_millis(
        recoveries
            .get(recoveries.len() * 99 / 100)
            .copied()
            .unwrap_or_default(),
    );
    let twice = all.values().filter(|(_, starts)| *starts > 1).count();
    println!(
        "seed {seed}: {} jobs in {took:.1?}, {} kills, {} cuts, Redis restarted twice, Postgres away {:?}; 0 lost, 0 failed, 0 in no state; \
         {} in hand of killed hosts, back after p99 {p99:?}; {twice} started more than once",
        all.len(),
        stage.kills,
        stage.cuts,
        form.postgres_away,
        recoveries.len(),
    );
    assert!(
        p99 <= form.lock + 2 * form.renew,
        "jobs of killed hosts came back after {p99:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amid_chaos_no_job_is_lost_or_fails_and_every_completion_is_in_the_history_once()
-> anyhow::Result<()> {
    let form = if full_length() { &FULL } else { &SHORT };
    for seed in form.seeds {
        act(form, *seed)
            .await
            .with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}
