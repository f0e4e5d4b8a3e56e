//! From a taken job to its settlement: one round trip that records the attempt, moves the job and takes the next one.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use patchbay_model::attempt::VerdictKind;
use patchbay_model::retry::least_deferral;
use redis::Value;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{error, warn};

use super::cancelled;
use super::fetch::{self, FetchOpts, Look, Next, Taken, unwritable};
use super::retention::KeepJobs;
use super::{Disposition, End, Inner, Pass, Settlement};
use crate::opts::JobOpts;
use crate::scripts::{self, Call};
use crate::{QueueError, attempts, now_ms};

/// Traces kept on a job, as in BullMQ's own default order of magnitude.
const MAX_TRACES: usize = 10;
/// Two weeks: the longest that BullMQ itself names. One number per minute in which a job ended, and per minute before it.
const METRICS_MINUTES: &str = "20160";
/// A job that stalled this often is suspected of killing its host: it runs alone, so that it takes no other job with it.
const STALLS_BEFORE_RUNNING_ALONE: u32 = 2;
/// Least wait after a panic of ours, which burns no attempt.
const AFTER_OUR_PANIC: Duration = Duration::from_secs(5);
/// Between tries to settle while Redis is away.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// A script's answers: the job waits for children, or has failed ones.
const PENDING_CHILDREN: i64 = -4;
const FAILED_CHILDREN: i64 = -9;

/// What `moveToFinished` takes besides what fetching takes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FinishOpts<'a> {
    #[serde(flatten)]
    fetch: FetchOpts<'a>,
    keep_jobs: KeepJobs,
    /// For the event `retries-exhausted`.
    attempts: u32,
    /// Minutes for which finished jobs are counted, for `getMetrics` and Bull Board; BullMQ keeps none when it is empty.
    max_metrics_size: &'static str,
}

/// What settling needs to know of a job.
pub(super) struct Settling<'a> {
    pub(super) token: &'a str,
    pub(super) taken: &'a Taken,
    opts: Option<&'a JobOpts>,
    /// Another worker waits for this one's place, so no next job is taken.
    yields: bool,
}

impl Inner {
    /// Runs a job and settles it. Gives what the settlement fetched.
    pub(super) async fn process(&self, token: &str, mut taken: Taken, pass: &dyn Pass) -> Next {
        if let Some(bulk) = cancelled::by(&taken) {
            return self.drop_cancelled(&taken, bulk).await;
        }
        let end = End::default();
        let id = taken.id.clone();
        let held = self.locks.hold(&id, token, end.clone());
        self.schedule_next_tick(&taken).await;
        let damage = self.repair(&mut taken).await;
        let opts = JobOpts::parse(taken.fields.get("opts").map_or("{}", String::as_str));
        let settlement = match self.delivery(&taken, &opts, damage, end.clone()) {
            Ok(delivery) if delivery.stalled >= STALLS_BEFORE_RUNNING_ALONE => {
                self.run_alone(delivery, pass, &end).await
            }
            Ok(delivery) => self.run(delivery).await,
            // Not even its failure could be recorded.
            Err(error) => fail(format!("invalid-input: {error}")),
        };
        let job = Settling { token, taken: &taken, opts: opts.as_ref().ok(), yields: pass.is_wanted() };
        let next = self.settle(job, settlement, &end).await;
        drop(held);
        next
    }

    async fn run_alone(&self, delivery: super::Delivery, pass: &dyn Pass, end: &End) -> Settlement {
        let Some(alone) = pass.alone() else {
            // Two suspects: if one kills us, the other must not be here. This process takes no job until the first has ended.
            return Settlement { disposition: Disposition::HandBack, record: None };
        };
        let _alone = tokio::select! {
            alone = alone => Some(alone),
            // Killed, or its lock is lost: it does not run at all.
            () = end.now.cancelled() => None,
        };
        self.run(delivery).await
    }

    async fn run(&self, delivery: super::Delivery) -> Settlement {
        let (job, name, before) = (delivery.key.id.clone(), delivery.name.clone(), delivery.deferrals);
        let handled = AssertUnwindSafe(self.handler.handle(delivery)).catch_unwind().await;
        handled.unwrap_or_else(|_| {
            error!(%job, name, "the host panicked while running a job");
            let reason = "host-fault: the host panicked".to_owned();
            let delay = least_deferral(before, 0.0).max(AFTER_OUR_PANIC);
            let deferrals = before.saturating_add(1);
            let disposition = Disposition::Defer { delay, deferrals, stack: reason.clone(), reason };
            Settlement { disposition, record: None }
        })
    }

    async fn settle(&self, job: Settling<'_>, settlement: Settlement, end: &End) -> Next {
        let give_up = Instant::now() + self.config.lock;
        loop {
            match self.try_settle(&job, &settlement).await {
                Ok(Ok(next)) => return next,
                Ok(Err(code @ (PENDING_CHILDREN | FAILED_CHILDREN))) => {
                    let mut failure = fail(format!("invalid-result: it has children that are not done (code {code})"));
                    // The stream has this attempt already, and keeps what came first.
                    failure.record = settlement
                        .record
                        .map(|record| patchbay_model::attempt::AttemptRecord { verdict: VerdictKind::Fail, ..record });
                    return Box::pin(self.settle(job, failure, end)).await;
                }
                Ok(Err(code)) => {
                    self.queues.unsettled.lost.fetch_add(1, Ordering::Relaxed);
                    warn!(job = job.taken.id, queue = %self.config.queue, code, "not settled: its lock was lost or it was removed");
                    return Next::Nothing(Look::Now);
                }
                // Trying again would find the job in no list, or stop at the same place.
                Err(error) if QueueError::from(error.clone()).is_damage() => {
                    return self.settle_by_hand(&job, &settlement.disposition, error).await;
                }
                // Trying again is safe: a settlement that did arrive has released the lock.
                Err(error) if Instant::now() < give_up && !end.lock_is_lost() => {
                    self.queues.unsettled.tried_again.fetch_add(1, Ordering::Relaxed);
                    warn!(%error, job = job.taken.id, queue = %self.config.queue, "not settled yet; trying again");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
                Err(error) => {
                    self.queues.unsettled.given_up.fetch_add(1, Ordering::Relaxed);
                    warn!(%error, job = job.taken.id, queue = %self.config.queue, "not settled: it runs again when its lock has expired");
                    return Next::Nothing(Look::Now);
                }
            }
        }
    }

    async fn try_settle(&self, job: &Settling<'_>, settlement: &Settlement) -> redis::RedisResult<Result<Next, i64>> {
        let call = self.settling_call(job, &settlement.disposition)?;
        let mut connection = self.queues.connection.get();
        let reply = match &settlement.record {
            None => call.invoke(&mut connection).await?,
            Some(record) => {
                // In one transaction, so that no crash comes between: what ran is remembered exactly when it is settled.
                let mut pipe = redis::pipe();
                pipe.atomic().ignore_errors();
                pipe.add_command(attempts::append(&self.queues.attempts_key(), record)?);
                pipe.add_command(call.command());
                let (recorded, moved): (redis::RedisResult<Value>, redis::RedisResult<Value>) =
                    pipe.query_async(&mut connection).await?;
                recorded?;
                match moved {
                    // The record is written; only the script is missing.
                    Err(error) if scripts::is_unknown(&error) => call.invoke(&mut connection).await?,
                    moved => moved?,
                }
            }
        };
        if let Disposition::HandBack = settlement.disposition {
            return Ok(Ok(Next::Nothing(Look::Now)));
        }
        Ok(match fetch::next(reply)? {
            // Not asked for one, so this says nothing of the queue.
            Ok(Next::Nothing(_)) if job.yields => Ok(Next::Nothing(Look::Now)),
            // `moveToDelayed` does not tell when the next delayed job is due, and this one may be that.
            Ok(Next::Nothing(_)) if !settlement.disposition.is_final() => Ok(Next::Nothing(Look::Now)),
            next => next,
        })
    }

    fn settling_call(&self, job: &Settling<'_>, disposition: &Disposition) -> redis::RedisResult<Call> {
        match disposition {
            Disposition::Complete { value } => self.finish(job, "completed", "returnvalue", value, &[]),
            Disposition::Fail { reason, stack } => {
                let traces = traces(job.taken, stack);
                self.finish(job, "failed", "failedReason", reason, &["stacktrace", &traces])
            }
            Disposition::Retry { delay, reason, stack } => {
                let traces = traces(job.taken, stack);
                let mut fields = vec!["failedReason", reason, "stacktrace", &traces];
                if job.taken.fields.contains_key("pdc") {
                    // The next deferral is the first of a new row.
                    fields.extend(["pdc", "0"]);
                }
                self.delay(job, *delay, true, &fields)
            }
            Disposition::Defer { delay, deferrals, reason, stack } => {
                let traces = traces(job.taken, stack);
                let first = job.taken.fields.get("pfd").cloned().unwrap_or_else(|| now_ms().to_string());
                let deferrals = deferrals.to_string();
                let fields = ["failedReason", reason, "stacktrace", &traces, "pfd", &first, "pdc", deferrals.as_str()];
                self.delay(job, *delay, false, &fields)
            }
            Disposition::HandBack => {
                let keys = &self.names.keys;
                let names = [
                    keys.active(),
                    keys.wait(),
                    keys.stalled(),
                    keys.paused(),
                    keys.meta(),
                    keys.limiter(),
                    keys.prioritized(),
                    keys.marker(),
                    keys.events(),
                ];
                let id = &job.taken.id;
                Ok(Call::new(&scripts::MOVE_TO_WAIT, &names).arg(id).arg(job.token).arg(keys.job_key(id)))
            }
        }
    }

    fn finish(
        &self,
        job: &Settling<'_>,
        target: &str,
        property: &str,
        value: &str,
        fields: &[&str],
    ) -> redis::RedisResult<Call> {
        let keys = &self.names.keys;
        let wish = job.opts.and_then(|opts| opts.retention(target)).and_then(KeepJobs::of_job);
        let default = if target == "completed" { &self.config.keep_completed } else { &self.config.keep_failed };
        let opts = FinishOpts {
            fetch: self.fetch_opts(job.token),
            keep_jobs: wish.unwrap_or_else(|| default.into()),
            attempts: job.opts.and_then(|opts| opts.attempts).unwrap_or(1),
            max_metrics_size: METRICS_MINUTES,
        };
        let mut names = self.names.moving.to_vec();
        names.extend([
            keys.get(target),
            keys.job_key(&job.taken.id),
            keys.get(&format!("metrics:{target}")),
            self.names.marker.clone(),
        ]);
        let fields = if fields.is_empty() { Vec::new() } else { rmp_serde::to_vec(fields).map_err(unwritable)? };
        Ok(Call::new(&scripts::MOVE_TO_FINISHED, &names)
            .arg(&job.taken.id)
            .arg(now_ms())
            .arg(property)
            .arg(value)
            .arg(target)
            .arg(self.fetches_next(job))
            .arg(&self.names.prefix)
            .arg(rmp_serde::to_vec_named(&opts).map_err(unwritable)?)
            .arg(fields))
    }

    fn delay(&self, job: &Settling<'_>, delay: Duration, counts: bool, fields: &[&str]) -> redis::RedisResult<Call> {
        let keys = &self.names.keys;
        let names = [
            keys.marker(),
            keys.active(),
            keys.prioritized(),
            keys.delayed(),
            keys.job_key(&job.taken.id),
            keys.events(),
            keys.meta(),
            keys.stalled(),
            keys.wait(),
            keys.limiter(),
            keys.pc(),
        ];
        Ok(Call::new(&scripts::MOVE_TO_DELAYED, &names)
            .arg(&self.names.prefix)
            .arg(now_ms())
            .arg(&job.taken.id)
            .arg(job.token)
            .arg(delay.as_millis() as u64)
            .arg(if counts { "0" } else { "1" })
            .arg(rmp_serde::to_vec(fields).map_err(unwritable)?)
            .arg(self.fetches_next(job))
            .arg(rmp_serde::to_vec_named(&self.fetch_opts(job.token)).map_err(unwritable)?))
    }

    /// Whether a settlement takes the next job: not when paused, not when fewer may run now than do, not when its place is wanted.
    fn fetches_next(&self, job: &Settling<'_>) -> &'static str {
        let control = *self.control.borrow();
        if job.yields || control.paused || control.stopping || self.running.len() > control.concurrency {
            "0"
        } else {
            "1"
        }
    }
}

impl Disposition {
    fn is_final(&self) -> bool {
        matches!(self, Self::Complete { .. } | Self::Fail { .. })
    }
}

fn fail(reason: String) -> Settlement {
    Settlement { disposition: Disposition::Fail { stack: reason.clone(), reason }, record: None }
}

/// The job's stack traces with this one added, as BullMQ stores them.
fn traces(taken: &Taken, stack: &str) -> String {
    let known = taken.fields.get("stacktrace").and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    let mut traces = known.unwrap_or_default();
    traces.push(stack.to_owned());
    let surplus = traces.len().saturating_sub(MAX_TRACES);
    serde_json::Value::from(traces.split_off(surplus)).to_string()
}
