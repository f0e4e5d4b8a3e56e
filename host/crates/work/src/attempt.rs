//! The work path: a delivered job → the active revision → the verdict → the record → the
//! settlement.
//!
//! This module owns only the order of those steps: the queue crate owns Redis, the runtime owns the
//! sandbox, `model::retry` owns the decision. It never touches Postgres: the record of an attempt
//! goes to a Redis stream in one transaction with the settlement (see the recorder of the history),
//! so that a job never waits for the database, nor loses its history when a process is killed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use patchbay_model::attempt::{AttemptRecord, Body, Source};
use patchbay_model::confidential::is_confidential;
use patchbay_model::outcome::{Failure, Outcome, OutcomeKind, Retry};
use patchbay_model::redaction::Mask;
use patchbay_model::retry::{Past, RetryPolicy, Verdict, decide, least_deferral};
use patchbay_queue::{Delivery, Disposition, Handler, Refusal, Settlement};
use patchbay_telemetry::traces::{Span, SpanKind, Traces};
use tracing::{Instrument, warn};

use crate::body_budget::BodyBudget;
use crate::breaker_gate::QueueGates;
use crate::executor::{Execution, Executor, correlation_id};
use crate::meters::AttemptMeters;
use crate::quarantine::{self, Quarantine};

/// The failure code of jobs that wait for an outside host.
const BREAKER_OPEN: &str = "breaker-open";
/// Shortest wait, so that a job does not spin while its breaker is about to close.
const LEAST_WAIT: Duration = Duration::from_millis(100);
const SPREAD: f64 = 0.2;

/// Handles every delivery of every queue of this process.
pub struct AttemptHandler {
    executor: Arc<dyn Executor>,
    host: String,
    quarantine: Arc<Quarantine>,
    pub(crate) gates: QueueGates,
    budget: Arc<BodyBudget>,
    attempts: Arc<AttemptMeters>,
    traces: Traces,
}

impl AttemptHandler {
    /// `host` names this process in records. `budget` decides what is recorded.
    pub fn new(
        executor: Arc<dyn Executor>,
        host: String,
        quarantine: Arc<Quarantine>,
        budget: Arc<BodyBudget>,
        traces: Traces,
    ) -> Arc<Self> {
        let gates = QueueGates::new(Arc::clone(&quarantine));
        Arc::new(Self {
            executor,
            host,
            quarantine,
            gates,
            budget,
            attempts: Arc::default(),
            traces,
        })
    }

    pub fn attempts(&self) -> Arc<AttemptMeters> {
        Arc::clone(&self.attempts)
    }

    async fn run(&self, mut delivery: Delivery) -> Settlement {
        if self.quarantine.holds(&delivery.key.queue) {
            return Settlement {
                disposition: Disposition::HandBack,
                record: None,
                again_after: None,
            };
        }
        let started_at = Utc::now();
        let execution = match &delivery.refusal {
            Some(refusal) => Execution {
                ran_by: None,
                policy: self.executor.policy(&delivery),
                outcome: refused(refusal),
                stack: None,
                refused: None,
                calls: Vec::new(),
            },
            None => self.executor.execute(&delivery).await,
        };
        let mut execution = unless_refused(unless_killed(execution, &delivery), rand::random());
        // The history does not have the data when it shows a failure, so redact the text now.
        let mask = match execution.outcome.kind() {
            OutcomeKind::Completed => Mask::default(),
            _ => self.executor.mask(&delivery).await,
        };
        execution.outcome.cut(&mask);
        self.gates
            .note(&delivery.key.queue, execution.refused.as_ref());
        let past = past(&delivery, &execution, rand::random());
        let verdict = decide(&execution.outcome, &execution.policy, &past, rand::random());
        let mut deferrals = delivery.deferrals;
        if let Verdict::Defer(delay) = verdict {
            match &execution.refused {
                Some(refused) => refused.breaker.count_deferred(),
                None => {
                    deferrals = deferrals.saturating_add(1);
                    tell_deferral(&execution.outcome, delay, deferrals);
                }
            }
        }
        if self.is_of_a_broken_plugin(&delivery, &execution) {
            // Whatever is decided about the plugin, the job keeps its attempts.
            let verdict = Verdict::Defer(Duration::ZERO);
            let record = self.record(&mut delivery, &mut execution, verdict, started_at, &mask);
            return Settlement {
                disposition: Disposition::HandBack,
                record,
                again_after: None,
            };
        }
        let record = self.record(&mut delivery, &mut execution, verdict, started_at, &mask);
        let again_after = again_after(&execution.policy, past.attempts_made);
        Settlement {
            disposition: disposition(execution, verdict, deferrals),
            record,
            again_after,
        }
    }

    /// Records how the call ended. Returns whether it crashed in a quarantined revision, even if
    /// this very crash caused the quarantine.
    fn is_of_a_broken_plugin(&self, delivery: &Delivery, execution: &Execution) -> bool {
        let Some((plugin, revision)) = &execution.ran_by else {
            return false;
        };
        let kind = execution.outcome.kind();
        self.quarantine.note(plugin, *revision, &delivery.key, kind);
        quarantine::is_crash(kind) && self.quarantine.has(revision)
    }

    /// The job's id and name are left out, because its producer has chosen them.
    fn step(&self, delivery: &Delivery) -> Span {
        let queue = &delivery.key.queue;
        let mut step = self.traces.span(
            SpanKind::Attempt,
            || format!("attempt {queue}"),
            &delivery.trace,
        );
        step.set("messaging.system", "bullmq");
        step.set("messaging.destination.name", queue.to_string());
        step.set(
            "patchbay.attempt",
            i64::from(delivery.attempts_made.saturating_add(1)),
        );
        step
    }

    /// Moves the data and other values out of the delivery and the execution, because nothing needs
    /// them afterwards.
    fn record(
        &self,
        delivery: &mut Delivery,
        execution: &mut Execution,
        verdict: Verdict,
        started_at: chrono::DateTime<Utc>,
        mask: &Mask,
    ) -> Option<AttemptRecord> {
        if !self.budget.recording().attempts {
            return None;
        }
        let values = self.executor.searchable(delivery);
        let (mut message, mut stack) = (execution.outcome.reason(), execution.stack.clone());
        mask.hide(message.iter_mut().chain(&mut stack));
        let body = self.body(delivery, execution, verdict);
        let (plugin, revision) = execution.ran_by.clone().unzip();
        Some(AttemptRecord {
            job: delivery.key.clone(),
            started: delivery.started,
            attempt: delivery.attempts_made.saturating_add(1),
            name: delivery.name.clone(),
            plugin,
            revision,
            host: self.host.clone(),
            started_at,
            finished_at: Utc::now(),
            outcome: execution.outcome.kind(),
            verdict: verdict.into(),
            code: execution.outcome.code().map(str::to_owned),
            message,
            stack,
            correlation_id: correlation_id(delivery),
            source: Source::Host,
            platform: delivery.trace.platform.clone(),
            parent: delivery.parent.take(),
            calls: std::mem::take(&mut execution.calls),
            stalled: delivery.stalled,
            values,
            body,
        })
    }

    /// Only at the end of a job, and while the budget has room.
    fn body(
        &self,
        delivery: &mut Delivery,
        execution: &Execution,
        verdict: Verdict,
    ) -> Option<Body> {
        let is_end =
            matches!(verdict, Verdict::Complete | Verdict::Fail) && !delivery.data.is_empty();
        if is_confidential(delivery.key.id.as_str()) {
            return None;
        }
        let result = match &execution.outcome {
            Outcome::Completed(value) => Some(value),
            _ => None,
        };
        let bytes = delivery.data.len() + result.map_or(0, String::len);
        (is_end && self.budget.takes(bytes)).then(|| Body {
            data: std::mem::take(&mut delivery.data),
            result: result.cloned(),
        })
    }
}

#[async_trait]
impl Handler for AttemptHandler {
    async fn handle(&self, mut delivery: Delivery) -> Settlement {
        let mut step = self.step(&delivery);
        let span = tracing::info_span!(
            "attempt",
            queue = %delivery.key.queue,
            job = %delivery.key.id,
            name = %delivery.name,
            attempt = delivery.attempts_made.saturating_add(1),
            correlation_id = %correlation_id(&delivery),
            trace_id = tracing::field::Empty,
        );
        step.name_in(&span);
        delivery.trace = step.causes(delivery.trace);
        let waited = delivery
            .ready_at_ms
            .map(|ready| Duration::from_millis(delivery.taken_at_ms.saturating_sub(ready)));
        let settlement = self.run(delivery).instrument(span).await;
        if let Some(record) = &settlement.record {
            self.attempts.count(record, waited);
            step.set("patchbay.outcome", record.outcome.as_str());
            step.set("patchbay.verdict", record.verdict.as_str());
            if record.outcome != OutcomeKind::Completed {
                step.failed(record.outcome.as_str());
            }
        }
        settlement
    }
}

/// Skipping a missed tick is what its schedule asks for, so it counts as completed. Everything else
/// is a failure.
fn refused(refusal: &Refusal) -> Outcome {
    match refusal {
        Refusal::Missed(why) => {
            Outcome::Completed(serde_json::json!({ "skipped": why }).to_string())
        }
        Refusal::Unreadable(_) | Refusal::Condemned(_) | Refusal::Expired(_) => {
            Outcome::Failed(Failure {
                code: refusal.code().into(),
                message: refusal.message().into(),
                retry: Retry::Never,
                details: None,
            })
        }
    }
}

/// If an operator killed the job, that order is the reason, whatever the interrupted call ended in.
fn unless_killed(execution: Execution, delivery: &Delivery) -> Execution {
    match (delivery.end.killed_by(), &execution.outcome) {
        (Some(operator), Outcome::HostFault(_)) => Execution {
            outcome: Outcome::Failed(Failure {
                code: "killed".into(),
                message: format!("ended by {operator}"),
                retry: Retry::Never,
                details: None,
            }),
            ..execution
        },
        _ => execution,
    }
}

/// If the guest failed because of an open breaker, its job waits without using up an attempt,
/// whatever the guest reported. `refused` is kept only if it is the reason. `random` is uniform in
/// 0.0..1.0.
fn unless_refused(execution: Execution, random: f64) -> Execution {
    let failed = matches!(
        execution.outcome,
        Outcome::Failed(_) | Outcome::Trapped(_) | Outcome::Deadline(_)
    );
    let Some(refused) = execution.refused.as_ref().filter(|_| failed) else {
        return Execution {
            refused: None,
            ..execution
        };
    };
    let reason = execution.outcome.reason().unwrap_or_default();
    let host = refused.breaker.host();
    let why = match refused.breaker.opened_by() {
        Some((by, because)) => {
            format!("calls to {host} are refused: its breaker was opened by {by}: {because}")
        }
        None => format!("calls to {host} are refused while its breaker is open"),
    };
    let failure = Failure {
        code: BREAKER_OPEN.into(),
        message: format!("{why}; the plugin says: {reason}"),
        // Spread in time, so that jobs that were refused together do not return together.
        retry: Retry::Defer(
            refused
                .retry_in
                .max(LEAST_WAIT)
                .mul_f64(1.0 + SPREAD * random),
        ),
        details: None,
    };
    Execution {
        outcome: Outcome::Failed(failure.sanitized()),
        ..execution
    }
}

fn since_first_deferral(delivery: &Delivery) -> Duration {
    let since = |first| Duration::from_millis(delivery.taken_at_ms.saturating_sub(first));
    delivery.first_deferred_at_ms.map_or(Duration::ZERO, since)
}

/// A breaker itself sets how long its jobs wait. Other deferrals have a least delay, which grows
/// while they come in a row.
fn past(delivery: &Delivery, execution: &Execution, random: f64) -> Past {
    let least_deferral = match execution.refused {
        Some(_) => Duration::ZERO,
        None => least_deferral(delivery.deferrals, random),
    };
    Past {
        attempts_made: delivery.attempts_made.saturating_add(1),
        since_first_deferral: since_first_deferral(delivery),
        least_deferral,
    }
}

fn tell_deferral(outcome: &Outcome, delay: Duration, in_a_row: u32) {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::HostFault(reason) => {
            warn!(
                reason,
                delay_ms,
                in_a_row,
                "The host could not run the job. It runs again without using up an attempt."
            );
        }
        Outcome::Failed(Failure {
            retry: Retry::Defer(asked),
            ..
        }) if *asked < delay => {
            let asked_ms = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
            warn!(
                asked_ms,
                delay_ms,
                in_a_row,
                "The plugin deferred the job for less than the minimum. It waits longer."
            );
        }
        _ => {}
    }
}

/// The delay before a job runs again that returned before its children had ended; `None` if this
/// was its last attempt.
fn again_after(policy: &RetryPolicy, attempts_made: u32) -> Option<Duration> {
    let backoff = || {
        policy.backoff.map_or(Duration::ZERO, |backoff| {
            backoff.delay_after(attempts_made, rand::random())
        })
    };
    (attempts_made < policy.attempts).then(backoff)
}

fn disposition(execution: Execution, verdict: Verdict, deferrals: u32) -> Disposition {
    let reason = execution.outcome.reason().unwrap_or_default();
    // The first line of a stack trace is the error itself, as JavaScript writes it and Bull Board
    // shows it.
    let stack = match execution.stack {
        Some(frames) => format!("{reason}\n{frames}"),
        None => reason.clone(),
    };
    match verdict {
        Verdict::Complete => match execution.outcome {
            Outcome::Completed(value) => Disposition::Complete { value },
            _ => Disposition::Fail { reason, stack },
        },
        Verdict::RetryAfter(delay) => Disposition::Retry {
            delay,
            reason,
            stack,
        },
        Verdict::Defer(delay) => Disposition::Defer {
            delay,
            deferrals,
            reason,
            stack,
        },
        Verdict::Fail => Disposition::Fail { reason, stack },
    }
}

#[cfg(test)]
mod tests;
