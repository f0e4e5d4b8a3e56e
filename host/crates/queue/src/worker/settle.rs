//! From a taken job to its settlement: one round trip records the attempt, moves the job and takes
//! the next one.

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
use super::fetch::{self, FetchOpts, Next, NextCheck, Taken};
use super::{Disposition, End, Inner, Pass, Settlement};
use crate::opts::JobOpts;
use crate::retention::KeepJobs;
use crate::scripts::{self, Call, unwritable};
use crate::transaction::refused_as_full;
use crate::{QueueError, attempt_stream};

/// Stack traces kept on a job that does not set a limit. BullMQ keeps all.
const DEFAULT_TRACES: usize = 10;
/// Two weeks, the longest period that BullMQ itself names. BullMQ stores one number per minute, up
/// to the last minute in which a job ended.
const METRICS_MINUTES: &str = "20160";
/// A job that stalled this often may be what kills its host. It runs alone, so that it takes no
/// other job with it.
const STALLS_BEFORE_RUNNING_ALONE: u32 = 2;
/// Shortest delay after a panic of the host, which costs no attempt.
const AFTER_OUR_PANIC: Duration = Duration::from_secs(5);
/// Between retries of a settlement while Redis is away.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Return codes of a script: the job has children that are not done, or a failed child that fails
/// its parent.
const PENDING_CHILDREN: i64 = -4;
const FAILED_CHILDREN: i64 = -9;

struct Unmoved {
    code: i64,
    /// Id of the attempt's record, which is in the stream nevertheless.
    record: Option<String>,
}

/// Options of `moveToFinished` in addition to those for fetching.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FinishOpts<'a> {
    #[serde(flatten)]
    fetch: FetchOpts<'a>,
    keep_jobs: KeepJobs,
    /// For the event `retries-exhausted`.
    attempts: u32,
    /// For how many minutes finished jobs are counted, for `getMetrics` and Bull Board. If empty,
    /// BullMQ keeps no counts.
    max_metrics_size: &'static str,
}

pub(super) struct Settling<'a> {
    pub(super) token: &'a str,
    pub(super) taken: &'a Taken,
    opts: Option<&'a JobOpts>,
    /// Another worker waits for this job's slot, so no next job is taken.
    yields: bool,
}

impl Inner {
    /// Runs a job and settles it. Returns what the settlement fetched.
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
                warn!(job = taken.id, queue = %self.config.queue, odd = opts.odd.join("; "), "Some of the job's options are not valid and are replaced or ignored");
            }
            self.mark_addition(&mut taken, opts).await;
        }
        let settlement = match self.delivery(&taken, &opts, damage, end.clone()) {
            Ok(delivery) if delivery.stalled >= STALLS_BEFORE_RUNNING_ALONE => {
                self.run_alone(delivery, pass, &end).await
            }
            Ok(delivery) => self.run(delivery).await,
            // With such an id, not even the failure could be recorded.
            Err(error) => fail(format!("invalid-input: {error}")),
        };
        let job = Settling {
            token,
            taken: &taken,
            opts: opts.as_ref().ok(),
            yields: pass.is_wanted(),
        };
        let next = self.settle(job, settlement, &end).await;
        drop(held);
        next
    }

    async fn run_alone(&self, delivery: super::Delivery, pass: &dyn Pass, end: &End) -> Settlement {
        let Some(alone) = pass.alone() else {
            // Two suspects: if one kills the host, the other must not be in it. This process takes
            // no job until the first has ended.
            return Settlement {
                disposition: Disposition::HandBack,
                record: None,
                again_after: None,
            };
        };
        let _alone = tokio::select! {
            alone = alone => Some(alone),
            // It was killed or lost its lock, so it does not run at all.
            () = end.now.cancelled() => None,
        };
        self.run(delivery).await
    }

    async fn run(&self, delivery: super::Delivery) -> Settlement {
        let (job, name, before) = (
            delivery.key.id.clone(),
            delivery.name.clone(),
            delivery.deferrals,
        );
        let handled = AssertUnwindSafe(self.handler.handle(delivery))
            .catch_unwind()
            .await;
        handled.unwrap_or_else(|_| {
            error!(%job, name, "The host panicked while it ran a job");
            let reason = "host-fault: the host panicked".to_owned();
            let delay = least_deferral(before, 0.0).max(AFTER_OUR_PANIC);
            let deferrals = before.saturating_add(1);
            let disposition = Disposition::Defer {
                delay,
                deferrals,
                stack: reason.clone(),
                reason,
            };
            Settlement {
                disposition,
                record: None,
                again_after: None,
            }
        })
    }

    async fn settle(&self, job: Settling<'_>, settlement: Settlement, end: &End) -> Next {
        let give_up = Instant::now() + self.config.lock;
        loop {
            match self.try_settle(&job, &settlement).await {
                Ok(Ok(next)) => return next,
                Ok(Err(Unmoved {
                    code: code @ (PENDING_CHILDREN | FAILED_CHILDREN),
                    record,
                })) => {
                    self.take_record_back(record).await;
                    return Box::pin(self.settle(job, not_completed(settlement, code), end)).await;
                }
                Ok(Err(Unmoved { code, .. })) => {
                    self.queues.unsettled.lost.fetch_add(1, Ordering::Relaxed);
                    warn!(job = job.taken.id, queue = %self.config.queue, code, "A job was not settled, because its lock was lost or it was removed");
                    return Next::Nothing(NextCheck::Now);
                }
                // A retry would find the job in no list, or stop at the same place.
                Err(error) if QueueError::from(error.clone()).is_damage() => {
                    return self
                        .settle_by_hand(&job, &settlement.disposition, error)
                        .await;
                }
                // A retry is safe: a settlement that did arrive has released the lock.
                Err(error) if Instant::now() < give_up && !end.lock_is_lost() => {
                    self.queues
                        .unsettled
                        .tried_again
                        .fetch_add(1, Ordering::Relaxed);
                    warn!(%error, job = job.taken.id, queue = %self.config.queue, "A job is not settled yet; trying again");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
                Err(error) => {
                    self.queues
                        .unsettled
                        .given_up
                        .fetch_add(1, Ordering::Relaxed);
                    warn!(%error, job = job.taken.id, queue = %self.config.queue, "A job was not settled; it runs again when its lock has expired");
                    return Next::Nothing(NextCheck::Now);
                }
            }
        }
    }

    /// Marks a job whose id and creation time (both set by its producer) may be those of another
    /// job. They are different jobs, and a plugin must not take the second for a repeat of the
    /// first. Marks only before the first start, because the idempotency key must not change later.
    /// If the mark cannot be written, the job runs under the key that its next attempt will have,
    /// too.
    async fn mark_addition(&self, taken: &mut Taken, opts: &JobOpts) {
        let field = |name: &str| taken.fields.get(name).map(String::as_str);
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let may_repeat = !field("timestamp").is_some_and(is_number)
            || (opts.has_own_timestamp && !is_number(&taken.id));
        if !may_repeat || field(ADDITION).is_some() || field("ats") != Some("1") {
            return;
        }
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let mut command = redis::cmd("HSET");
        command
            .arg(self.names.keys.job_key(&taken.id))
            .arg(ADDITION)
            .arg(&mark);
        match command
            .query_async::<()>(&mut self.queues.connection.get())
            .await
        {
            Ok(()) => drop(taken.fields.insert(ADDITION.into(), mark)),
            Err(error) => {
                warn!(%error, job = taken.id, queue = %self.config.queue, "The job's idempotency key may be the key of another job, too");
            }
        }
    }

    /// Best effort: a reader that already has the record keeps the first one.
    async fn take_record_back(&self, entry: Option<String>) {
        let Some(entry) = entry else { return };
        let mut command = redis::cmd("XDEL");
        command.arg(self.queues.attempts_key()).arg(entry);
        if let Err(error) = command
            .query_async::<()>(&mut self.queues.connection.get())
            .await
        {
            warn!(%error, queue = %self.config.queue, "The history may show an attempt as completed that was not");
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
                // One transaction, so that no crash comes in between: an attempt is recorded
                // exactly when it is settled.
                let key = self.queues.attempts_key();
                let mut pipe = redis::pipe();
                pipe.atomic().ignore_errors();
                pipe.add_command(attempt_stream::append(&key, record)?);
                pipe.add_command(call.command());
                let answered = match pipe.query_async(&mut connection).await {
                    Err(error) if refused_as_full(&error) => {
                        // Then both are scripts, and loaded first: in a full Redis the job must not
                        // stay unsettled and run twice.
                        let append = attempt_stream::append_when_full(
                            &key,
                            &self.queues.config.probe_key(),
                            record,
                        )?;
                        append.load(&mut connection).await?;
                        call.load(&mut connection).await?;
                        let mut pipe = redis::pipe();
                        pipe.ignore_errors()
                            .add_command(append.command())
                            .add_command(call.command());
                        pipe.query_async(&mut connection).await
                    }
                    answered => answered,
                };
                let (recorded, moved): (redis::RedisResult<String>, redis::RedisResult<Value>) =
                    answered?;
                entry = Some(recorded?);
                match moved {
                    // The record is written; only the script was unknown.
                    Err(error) if scripts::is_unknown(&error) => {
                        call.invoke(&mut connection).await?
                    }
                    moved => moved?,
                }
            }
        };
        if let Disposition::HandBack = settlement.disposition {
            return Ok(Ok(Next::Nothing(NextCheck::Now)));
        }
        Ok(match fetch::next(reply, self.queues.now_ms())? {
            // The script was not asked for a job, so its answer says nothing about the queue.
            Ok(Next::Nothing(_)) if job.yields => Ok(Next::Nothing(NextCheck::Now)),
            // `moveToDelayed` does not return when the next delayed job is due, which may be this
            // one.
            Ok(Next::Nothing(_)) if !settlement.disposition.is_final() => {
                Ok(Next::Nothing(NextCheck::Now))
            }
            next => next.map_err(|code| Unmoved {
                code,
                record: entry,
            }),
        })
    }

    fn settling_call(
        &self,
        job: &Settling<'_>,
        disposition: &Disposition,
    ) -> redis::RedisResult<Call> {
        match disposition {
            Disposition::Complete { value } => {
                self.finish(job, "completed", "returnvalue", value, &[])
            }
            Disposition::Fail { reason, stack } => {
                let traces = traces(job, stack);
                self.finish(
                    job,
                    "failed",
                    "failedReason",
                    reason,
                    &["stacktrace", &traces],
                )
            }
            Disposition::Retry {
                delay,
                reason,
                stack,
            } if delay.is_zero() => {
                let traces = traces(job, stack);
                let row = ends_row(job);
                self.retry(
                    job,
                    &[&["failedReason", reason, "stacktrace", &traces], row].concat(),
                )
            }
            Disposition::Retry {
                delay,
                reason,
                stack,
            } => {
                let traces = traces(job, stack);
                let row = ends_row(job);
                let fields = [&["failedReason", reason, "stacktrace", &traces], row].concat();
                self.delay(job, *delay, true, &fields)
            }
            Disposition::Defer {
                delay,
                deferrals,
                reason,
                stack,
            } => {
                let traces = traces(job, stack);
                let first = job
                    .taken
                    .fields
                    .get("pfd")
                    .cloned()
                    .unwrap_or_else(|| self.queues.now_ms().to_string());
                let deferrals = deferrals.to_string();
                let fields = [
                    "failedReason",
                    reason,
                    "stacktrace",
                    &traces,
                    "pfd",
                    &first,
                    "pdc",
                    deferrals.as_str(),
                ];
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
                Ok(Call::new(&scripts::MOVE_TO_WAIT, &names)
                    .arg(id)
                    .arg(job.token)
                    .arg(keys.job_key(id)))
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
        let default = if target == "completed" {
            &self.config.keep_completed
        } else {
            &self.config.keep_failed
        };
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
        let fields = if fields.is_empty() {
            Vec::new()
        } else {
            rmp_serde::to_vec(fields).map_err(unwritable)?
        };
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

    /// Moves the job behind the waiting ones or, if its options say so, before them. The script
    /// takes no next job.
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

    fn delay(
        &self,
        job: &Settling<'_>,
        delay: Duration,
        counts: bool,
        fields: &[&str],
    ) -> redis::RedisResult<Call> {
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

    /// Whether a settlement takes the next job. It does not if this machine's clock is wrong, if
    /// the worker is paused, if more jobs run than are now allowed, or if the job's slot is wanted.
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
    Settlement {
        disposition: Disposition::Fail {
            stack: reason.clone(),
            reason,
        },
        record: None,
        again_after: None,
    }
}

/// The settlement of a job that returned before its children were done. As in BullMQ, this is a
/// failed attempt like any other. If a failed child fails its parent, the job fails for good,
/// because no attempt could complete.
fn not_completed(settlement: Settlement, code: i64) -> Settlement {
    let (word, message) = match code {
        FAILED_CHILDREN => (
            "failed-children",
            "the job returned, but a child failed whose failure fails its parent",
        ),
        _ => (
            "pending-children",
            "the job returned before its children had ended",
        ),
    };
    let reason = format!("{word}: {message}");
    let again_after = settlement.again_after.filter(|_| code == PENDING_CHILDREN);
    let (disposition, verdict) = match again_after {
        Some(delay) => (
            Disposition::Retry {
                delay,
                stack: reason.clone(),
                reason: reason.clone(),
            },
            VerdictKind::Retry,
        ),
        None => (
            Disposition::Fail {
                stack: reason.clone(),
                reason: reason.clone(),
            },
            VerdictKind::Fail,
        ),
    };
    let record = settlement.record.map(|record| AttemptRecord {
        outcome: OutcomeKind::Failed,
        verdict,
        code: Some(word.into()),
        message: Some(reason),
        // The body is kept only with the end of a job, and this job has no result.
        body: record
            .body
            .filter(|_| verdict == VerdictKind::Fail)
            .map(|body| Body {
                result: None,
                ..body
            }),
        ..record
    });
    Settlement {
        disposition,
        record,
        again_after: None,
    }
}

/// After an attempt that counts, the next deferral starts a new row.
fn ends_row(job: &Settling<'_>) -> &'static [&'static str] {
    if job.taken.fields.contains_key("pdc") {
        &["pdc", "0"]
    } else {
        &[]
    }
}

/// The job's stack traces and this new one, as BullMQ stores them.
fn traces(job: &Settling<'_>, stack: &str) -> String {
    let known = job
        .taken
        .fields
        .get("stacktrace")
        .and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    let mut traces = known.unwrap_or_default();
    traces.push(stack.to_owned());
    let most = job
        .opts
        .and_then(|opts| opts.keep_traces)
        .unwrap_or(DEFAULT_TRACES);
    let surplus = traces.len().saturating_sub(most);
    serde_json::Value::from(traces.split_off(surplus)).to_string()
}
