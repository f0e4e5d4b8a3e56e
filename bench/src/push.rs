//! From pushing a file to the end of the first job that ran on it, while jobs keep coming: with
//! code that is compiled on the way, and with code that this host has compiled before.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use patchbay_model::job::NewJob;
use patchbay_queue::Broker;
use redis::AsyncCommands;
use sqlx::PgConnection;

use crate::email;
use crate::host_process::{HostProcess, Services};
use crate::servers::Servers;
use crate::statistics::{Spread, verdict};

const QUEUE: &str = "emailQueue";
/// Between two jobs of the stream: the first job on new code comes at most that late.
const JOB_EVERY: Duration = Duration::from_millis(5);
/// Between two swaps.
const SETTLE: Duration = Duration::from_millis(300);

/// Of one swap, in milliseconds since its start.
struct Swap {
    staged: f64,
    activated: f64,
    first_job: f64,
}

pub async fn run(pairs: usize) -> anyhow::Result<()> {
    let services = Services::fresh("push").await?;
    let dir = tempfile::tempdir()?;
    let servers = Servers::start(String::new(), &dir.path().join("mail"))?;
    let host =
        HostProcess::start(&services, dir.path(), &servers.mail_settings(), "/readyz").await?;
    let first = email::revision("email", QUEUE, 0)?;
    let digest = host.push(first.clone()).await?;
    host.activate("email", &digest).await?;
    let stream = tokio::spawn(keep_adding(services.queues().await?));
    let mut observer = Observer {
        postgres: services.postgres().await?,
        redis: services.redis().await?,
    };

    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        for (component, swaps) in [
            (email::revision("email", QUEUE, pair + 1)?, &mut cold),
            (first.clone(), &mut warm),
        ] {
            tokio::time::sleep(SETTLE).await;
            let swap = swap(&host, &mut observer, component).await?;
            if pair > 0 {
                swaps.push(swap);
            }
        }
    }
    anyhow::ensure!(
        !stream.is_finished(),
        "the stream of jobs ended: {:?}",
        stream.await
    );
    stream.abort();
    println!(
        "from pushing the email plugin ({} KiB) to its first job, a job every 5 ms, ms",
        first.len() >> 10
    );
    report("compiled on the way", &cold, 1500.0);
    report("compiled before", &warm, 60.0);
    Ok(())
}

fn report(name: &str, swaps: &[Swap], target: f64) {
    let spread = |part: fn(&Swap) -> f64| Spread::of(swaps.iter().map(part).collect());
    let first_job = spread(|swap| swap.first_job);
    println!(
        "  {name}: {first_job}  {}",
        verdict(first_job.median, target, false)
    );
    let (staged, activated) = (spread(|swap| swap.staged), spread(|swap| swap.activated));
    println!("    of which until staged {staged}; the activation's answer after {activated}");
}

async fn keep_adding(queues: Broker) -> anyhow::Result<()> {
    let data = r#"{"to":"ada@example.org","subject":"Hello","text":"A job of a stream"}"#;
    let mut ticks = tokio::time::interval(JOB_EVERY);
    loop {
        ticks.tick().await;
        queues
            .add(vec![NewJob::new(QUEUE.parse()?, "send", data)])
            .await?;
    }
}

async fn swap(
    host: &HostProcess,
    observer: &mut Observer,
    component: Vec<u8>,
) -> anyhow::Result<Swap> {
    let (started, started_at_ms) = (Instant::now(), now_ms()?);
    let ms = || started.elapsed().as_secs_f64() * 1e3;
    let digest = host.push(component).await?;
    let staged = ms();
    host.activate("email", &digest).await?;
    let activated = ms();
    let first_job = observer.first_end(&digest, started_at_ms).await? - started_at_ms;
    Ok(Swap {
        staged,
        activated,
        first_job,
    })
}

fn now_ms() -> anyhow::Result<f64> {
    Ok(SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs_f64()
        * 1e3)
}

/// Looks afterwards, at what was recorded.
struct Observer {
    postgres: PgConnection,
    redis: redis::aio::MultiplexedConnection,
}

impl Observer {
    /// When the first job since then that ran on this revision was completed; both in milliseconds
    /// since 1970.
    async fn first_end(&mut self, digest: &str, since_ms: f64) -> anyhow::Result<f64> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let job: Option<String> = sqlx::query_scalar(
                "select job_id from patchbay.attempts where revision = $1 and outcome = 'completed' \
                 and finished_at >= to_timestamp($2 / 1000) order by finished_at limit 1",
            )
            .bind(digest)
            .bind(since_ms)
            .fetch_optional(&mut self.postgres)
            .await?;
            if let Some(job) = job {
                let ended: Option<f64> = self
                    .redis
                    .hget(format!("bull:{QUEUE}:{job}"), "finishedOn")
                    .await?;
                return ended.with_context(|| format!("job {job} is gone"));
            }
            if Instant::now() > deadline {
                bail!("no job ran on {digest}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
