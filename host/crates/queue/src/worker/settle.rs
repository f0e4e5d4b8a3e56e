//! From a taken job to its settlement: one round trip that records the attempt, moves the job and takes the next one.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use patchbay_model::attempt::{AttemptRecord, Body, VerdictKind};
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::retry::least_deferral;
use redis::Value;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{error, warn};

use super::cancelled;
use super::delivery::ADDITION;
use super::fetch::{self, FetchOpts, Look, Next, Taken};
use super::{Disposition, End, Inner, Pass, Settlement};
use crate::opts::JobOpts;
use crate::retention::KeepJobs;
use crate::scripts::{self, Call, unwritable};
use crate::transaction::is_full;
use crate::{QueueError, attempt_stream};

/// Traces kept on a job that does not say how many; BullMQ keeps all.
const DEFAULT_TRACES: usize = 10;
/// Two weeks: the longest that BullMQ itself names. One number per minute in which a job ended, and per minute before it.
const METRICS_MINUTES: &str = "20160";
/// A job that stalled this often is suspected of killing its host: it runs alone, so that it takes no other job with it.
const STALLS_BEFORE_RUNNING_ALONE: u32 = 2;
/// Least wait after a panic of ours, which burns no attempt.
const AFTER_OUR_PANIC: Duration = Duration::from_secs(5);
/// Between tries to settle while Redis is away.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// A script's answers: the job has children that are not done, or that failed and so fail it.
const PENDING_CHILDREN: i64 = -4;
const FAILED_CHILDREN: i64 = -9;

/// Why a script did not move a job.
struct Unmoved {
    code: i64,
    /// The record of the attempt, which is in its stream nevertheless.
    record: Option<String>,
}

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
        if let Ok(opts) = &opts {
            if !opts.odd.is_empty() {
                warn!(job = taken.id, queue = %self.config.queue, odd = opts.odd.join("; "), "some of the job's options cannot be taken as they are");
            }
            self.mark_addition(&mut taken, opts).await;
        }
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
            return Settlement { disposition: Disposition::HandBack, record: None, again_after: None };
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
            Settlement { disposition, record: None, again_after: None }
        })
    }

    async fn settle(&self, job: Settling<'_>, settlement: Settlement, end: &End) -> Next {
        let give_up = Instant::now() + self.config.lock;
        loop {
            match self.try_settle(&job, &settlement).await {
                Ok(Ok(next)) => return next,
                Ok(Err(Unmoved { code: code @ (PENDING_CHILDREN | FAILED_CHILDREN), record })) => {
                    self.take_record_back(record).await;
                    return Box::pin(self.settle(job, not_completed(settlement, code), end)).await;
                }
                Ok(Err(Unmoved { code, .. })) => {
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

    /// Jobs of one id that were made at the same time, as their producers say, are still jobs of their own: a plugin must not take the
    /// second for a repeat of the first. Only before the first start: later, the key must stay what it was. Where it cannot be written, the job
    /// runs under the key that its next attempt finds, too.
    async fn mark_addition(&self, taken: &mut Taken, opts: &JobOpts) {
        let field = |name: &str| taken.fields.get(name).map(String::as_str);
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let may_repeat =
            !field("timestamp").is_some_and(is_number) || (opts.has_own_timestamp && !is_number(&taken.id));
        if !may_repeat || field(ADDITION).is_some() || field("ats") != Some("1") {
            return;
        }
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let mut command = redis::cmd("HSET");
        command.arg(self.names.keys.job_key(&taken.id)).arg(ADDITION).arg(&mark);
        match command.query_async::<()>(&mut self.queues.connection.get()).await {
            Ok(()) => drop(taken.fields.insert(ADDITION.into(), mark)),
            Err(error) => {
                warn!(%error, job = taken.id, queue = %self.config.queue, "the job's idempotency key may be another job's");
            }
        }
    }

    /// Best effort: who has read it already keeps what came first.
    async fn take_record_back(&self, entry: Option<String>) {
        let Some(entry) = entry else { return };
        let mut command = redis::cmd("XDEL");
        command.arg(self.queues.attempts_key()).arg(entry);
        if let Err(error) = command.query_async::<()>(&mut self.queues.connection.get()).await {
            warn!(%error, queue = %self.config.queue, "an attempt may be remembered as completed that was not");
        }
    }

    async fn try_settle(
        &self,
        job: &Settling<'_>,
        settlement: &Settlement,
    ) -> redis::RedisResult<Result<Next, Unmoved>> {
        let call = self.settling_call(job, &settlement.disposition)?;
        let mut connection = self.queues.connection.get();
        let mut entry = None;
        let reply = match &settlement.record {
            None => call.invoke(&mut connection).await?,
            Some(record) => {
                // In one transaction, so that no crash comes between: what ran is remembered exactly when it is settled.
                let key = self.queues.attempts_key();
                let mut pipe = redis::pipe();
                pipe.atomic().ignore_errors();
                pipe.add_command(attempt_stream::append(&key, record)?);
                pipe.add_command(call.command());
                let answered = match pipe.query_async(&mut connection).await {
                    Err(error) if is_full(&error) => {
                        // Both are scripts then, and loaded: in a full Redis the job must not stay unsettled and run twice.
                        let append = attempt_stream::append_when_full(&key, &self.queues.config.probe_key(), record)?;
                        append.load(&mut connection).await?;
                        call.load(&mut connection).await?;
                        let mut pipe = redis::pipe();
                        pipe.ignore_errors().add_command(append.command()).add_command(call.command());
                        pipe.query_async(&mut connection).await
                    }
                    answered => answered,
                };
                let (recorded, moved): (redis::RedisResult<String>, redis::RedisResult<Value>) = answered?;
                entry = Some(recorded?);
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
        Ok(match fetch::next(reply, self.queues.now_ms())? {
            // Not asked for one, so this says nothing of the queue.
            Ok(Next::Nothing(_)) if job.yields => Ok(Next::Nothing(Look::Now)),
            // `moveToDelayed` does not tell when the next delayed job is due, and this one may be that.
            Ok(Next::Nothing(_)) if !settlement.disposition.is_final() => Ok(Next::Nothing(Look::Now)),
            next => next.map_err(|code| Unmoved { code, record: entry }),
        })
    }

    fn settling_call(&self, job: &Settling<'_>, disposition: &Disposition) -> redis::RedisResult<Call> {
        match disposition {
            Disposition::Complete { value } => self.finish(job, "completed", "returnvalue", value, &[]),
            Disposition::Fail { reason, stack } => {
                let traces = traces(job, stack);
                self.finish(job, "failed", "failedReason", reason, &["stacktrace", &traces])
            }
            Disposition::Retry { delay, reason, stack } if delay.is_zero() => {
                let traces = traces(job, stack);
                let row = ends_row(job);
                self.retry(job, &[&["failedReason", reason, "stacktrace", &traces], row].concat())
            }
            Disposition::Retry { delay, reason, stack } => {
                let traces = traces(job, stack);
                let row = ends_row(job);
                let fields = [&["failedReason", reason, "stacktrace", &traces], row].concat();
                self.delay(job, *delay, true, &fields)
            }
            Disposition::Defer { delay, deferrals, reason, stack } => {
                let traces = traces(job, stack);
                let first = job.taken.fields.get("pfd").cloned().unwrap_or_else(|| self.queues.now_ms().to_string());
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
        let wish = job.opts.and_then(|opts| opts.retention(target));
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
            .arg(self.queues.now_ms())
            .arg(property)
            .arg(value)
            .arg(target)
            .arg(self.fetches_next(job))
            .arg(&self.names.prefix)
            .arg(rmp_serde::to_vec_named(&opts).map_err(unwritable)?)
            .arg(fields))
    }

    /// Behind what waits or, as its options say, before it. The script takes no next job.
    fn retry(&self, job: &Settling<'_>, fields: &[&str]) -> redis::RedisResult<Call> {
        let keys = &self.names.keys;
        let names = [
            keys.active(),
            keys.wait(),
            keys.paused(),
            keys.job_key(&job.taken.id),
            keys.meta(),
            keys.events(),
            keys.delayed(),
            keys.prioritized(),
            keys.pc(),
            keys.marker(),
            keys.stalled(),
        ];
        Ok(Call::new(&scripts::RETRY, &names)
            .arg(&self.names.prefix)
            .arg(self.queues.now_ms())
            .arg(job.opts.map_or("LPUSH", JobOpts::push))
            .arg(&job.taken.id)
            .arg(job.token)
            .arg(rmp_serde::to_vec(fields).map_err(unwritable)?))
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
            .arg(self.queues.now_ms())
            .arg(&job.taken.id)
            .arg(job.token)
            .arg(delay.as_nanos().div_ceil(1_000_000) as u64)
            .arg(if counts { "0" } else { "1" })
            .arg(rmp_serde::to_vec(fields).map_err(unwritable)?)
            .arg(self.fetches_next(job))
            .arg(rmp_serde::to_vec_named(&self.fetch_opts(job.token)).map_err(unwritable)?))
    }

    /// Whether a settlement takes the next job: not when our clock is wrong, not when paused, not when fewer may run now than do, not when its place is wanted.
    fn fetches_next(&self, job: &Settling<'_>) -> &'static str {
        let control = *self.control.borrow();
        if job.yields
            || !self.queues.connection.takes_jobs()
            || control.paused
            || control.stopping
            || self.running.len() > control.concurrency
        {
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
    Settlement { disposition: Disposition::Fail { stack: reason.clone(), reason }, record: None, again_after: None }
}

/// What becomes of a job that returned before its children were done. As in BullMQ, that is a failed attempt like any other, unless a child
/// has failed that fails its parent: no attempt could complete then.
fn not_completed(settlement: Settlement, code: i64) -> Settlement {
    let (word, message) = match code {
        FAILED_CHILDREN => ("failed-children", "the job returned, but a child has failed that fails its parent"),
        _ => ("pending-children", "the job returned before its children had ended"),
    };
    let reason = format!("{word}: {message}");
    let again_after = settlement.again_after.filter(|_| code == PENDING_CHILDREN);
    let (disposition, verdict) = match again_after {
        Some(delay) => {
            (Disposition::Retry { delay, stack: reason.clone(), reason: reason.clone() }, VerdictKind::Retry)
        }
        None => (Disposition::Fail { stack: reason.clone(), reason: reason.clone() }, VerdictKind::Fail),
    };
    let record = settlement.record.map(|record| AttemptRecord {
        outcome: OutcomeKind::Failed,
        verdict,
        code: Some(word.into()),
        message: Some(reason),
        // PriorIdentity with the end of a job only, and it has no result.
        body: record.body.filter(|_| verdict == VerdictKind::Fail).map(|body| Body { result: None, ..body }),
        ..record
    });
    Settlement { disposition, record, again_after: None }
}

/// After an attempt that counts, the next deferral is the first of a new row.
fn ends_row(job: &Settling<'_>) -> &'static [&'static str] {
    if job.taken.fields.contains_key("pdc") { &["pdc", "0"] } else { &[] }
}

/// The job's stack traces with this one added, as BullMQ stores them.
fn traces(job: &Settling<'_>, stack: &str) -> String {
    let known = job.taken.fields.get("stacktrace").and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    let mut traces = known.unwrap_or_default();
    traces.push(stack.to_owned());
    let most = job.opts.and_then(|opts| opts.keep_traces).unwrap_or(DEFAULT_TRACES);
    let surplus = traces.len().saturating_sub(most);
    serde_json::Value::from(traces.split_off(surplus)).to_string()
}
