//! Numbers other than those of plugins' calls: queues in Redis, attempts by queue, HTTP, Redis's
//! memory, the Postgres pool.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::outcome::OutcomeKind;
use patchbay_model::{QueueName, RevisionDigest};
use patchbay_queue::{QueueOverview, ServerStats};
use patchbay_store::PoolUsage;
use patchbay_telemetry::metrics::family::{Labels, family};
use patchbay_telemetry::metrics::requests::RouteReading;
use patchbay_telemetry::traces::Counts;
use patchbay_work::meters::attempts::{QueueMeters, VERDICTS};
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use crate::routes::RouteReading as PluginRouteReading;

/// The numbers of one scrape.
#[derive(Debug)]
pub(super) struct Standing {
    /// From Redis, for all hosts. `None` when Redis did not answer.
    pub(super) queues: Option<(Vec<QueueOverview>, ServerStats)>,
    pub(super) attempts: Vec<(QueueName, Arc<QueueMeters>)>,
    pub(super) requests: Vec<RouteReading>,
    pub(super) routes: Vec<PluginRouteReading>,
    /// Answers that were not kept for repeats, by reason.
    pub(super) unkept: Vec<(&'static str, u64)>,
    /// Responses of other servers that are passed on now, and those that were cut off, by reason.
    pub(super) relays: (usize, Vec<(&'static str, u64)>),
    pub(super) spans: Arc<Counts>,
    pub(super) pool: PoolUsage,
    /// Wait for a connection of the pool. `None` when Postgres did not answer.
    pub(super) pool_wait: Option<Duration>,
    pub(super) activated: HashMap<RevisionDigest, DateTime<Utc>>,
}

fn of(queue: &QueueName) -> Labels<'_> {
    vec![("queue", queue.as_str())]
}

fn of_route(route: &PluginRouteReading) -> Labels<'_> {
    vec![
        ("plugin", route.plugin.as_str()),
        ("route", route.route.as_str()),
        ("revision", route.revision.as_str()),
    ]
}

fn with<'a>(queue: &'a QueueName, name: &'a str, value: &'a str) -> Labels<'a> {
    vec![("queue", queue.as_str()), (name, value)]
}

impl Standing {
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        self.in_redis(encoder)?;
        self.attempts(encoder)?;
        self.requests(encoder)?;
        self.routes(encoder)?;
        self.spans(encoder)?;
        self.pool(encoder)
    }

    fn in_redis(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some((queues, census)) = &self.queues else {
            return Ok(());
        };
        let jobs = queues.iter().flat_map(|queue| {
            let counts = &queue.counts;
            let states = [
                ("waiting", counts.waiting),
                ("prioritized", counts.prioritized),
                ("delayed", counts.delayed),
                ("waiting-children", counts.waiting_children),
                ("active", counts.active),
                ("completed", counts.completed),
                ("failed", counts.failed),
            ];
            states
                .into_iter()
                .map(|(state, count)| (with(&queue.name, "state", state), count))
        });
        family(
            encoder,
            "patchbay_queue_jobs",
            "Jobs in Redis, all hosts'; finished ones as long as they are kept",
            None,
        )
        .gauges(jobs)?;
        family(
            encoder,
            "patchbay_queue_paused",
            "1 while an operator or a BullMQ client has paused the queue",
            None,
        )
        .gauges(
            queues
                .iter()
                .map(|queue| (of(&queue.name), u32::from(queue.counts.paused))),
        )?;
        let oldest = queues.iter().map(|queue| {
            (
                of(&queue.name),
                queue.oldest_waiting_ms.unwrap_or(0) as f64 / 1e3,
            )
        });
        family(
            encoder,
            "patchbay_queue_oldest_waiting",
            "Age of the job that has waited longest; 0: none",
            Unit::Seconds,
        )
        .gauges(oldest)?;
        let damaged = queues
            .iter()
            .map(|queue| (of(&queue.name), u32::from(queue.error.is_some())));
        family(
            encoder,
            "patchbay_queue_damaged",
            "1 when what Redis holds of the queue cannot be read",
            None,
        )
        .gauges(damaged)?;
        family(
            encoder,
            "patchbay_schedules_overdue",
            "Schedules whose tick is due for a minute and has not started",
            None,
        )
        .gauges(
            census
                .overdue
                .iter()
                .map(|(queue, count)| (of(queue), *count)),
        )?;
        family(
            encoder,
            "patchbay_attempts_waiting",
            "Finished attempts that Postgres does not have yet, all hosts'",
            None,
        )
        .gauge(Some(census.attempts_waiting))?;
        let lag = census.history_lag_ms as f64 / 1e3;
        family(
            encoder,
            "patchbay_history_lag",
            "Age of the oldest attempt that Postgres does not have",
            Unit::Seconds,
        )
        .gauge(Some(lag))?;
        family(
            encoder,
            "patchbay_redis_memory_used",
            "What Redis uses",
            Unit::Bytes,
        )
        .gauge(census.memory.map(|(used, _)| used))?;
        family(
            encoder,
            "patchbay_redis_memory_max",
            "What Redis may use; 0: as much as there is",
            Unit::Bytes,
        )
        .gauge(census.memory.map(|(_, limit)| limit))
    }

    fn attempts(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let outcomes = self.attempts.iter().flat_map(|(queue, meters)| {
            let counts = OutcomeKind::ALL.iter().zip(&meters.outcomes);
            counts.map(|(outcome, n)| {
                (
                    with(queue, "outcome", outcome.as_str()),
                    n.load(Ordering::Relaxed),
                )
            })
        });
        family(
            encoder,
            "patchbay_attempts",
            "Attempts that have ended here, by outcome",
            None,
        )
        .counters(outcomes)?;
        let verdicts = self.attempts.iter().flat_map(|(queue, meters)| {
            let counts = VERDICTS.iter().zip(&meters.verdicts);
            counts.map(|(verdict, n)| {
                (
                    with(queue, "verdict", verdict.as_str()),
                    n.load(Ordering::Relaxed),
                )
            })
        });
        family(
            encoder,
            "patchbay_attempt_verdicts",
            "The same by what was done with the job then",
            None,
        )
        .counters(verdicts)?;
        let durations = self
            .attempts
            .iter()
            .map(|(queue, meters)| (of(queue), meters.duration.read()));
        family(
            encoder,
            "patchbay_attempt_duration",
            "Wall clock of an attempt, from taken to decided",
            Unit::Seconds,
        )
        .histograms(durations)?;
        let waits = self
            .attempts
            .iter()
            .map(|(queue, meters)| (of(queue), meters.wait.read()));
        family(
            encoder,
            "patchbay_queue_wait",
            "From when a job could run until its first attempt began",
            Unit::Seconds,
        )
        .histograms(waits)
    }

    fn requests(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let counts = self.requests.iter().flat_map(|reading| {
            reading.statuses.iter().map(|(status, count)| {
                (
                    vec![
                        ("method", reading.method),
                        ("route", &*reading.route),
                        ("status", &**status),
                    ],
                    *count,
                )
            })
        });
        family(
            encoder,
            "patchbay_http_requests",
            "HTTP requests by template of their route",
            None,
        )
        .counters(counts)?;
        let durations = self.requests.iter().map(|reading| {
            (
                vec![
                    ("method", reading.method),
                    ("route", reading.route.as_str()),
                ],
                reading.duration.clone(),
            )
        });
        family(
            encoder,
            "patchbay_http_request_duration",
            "From a request's head to its answer's",
            Unit::Seconds,
        )
        .histograms(durations)
    }

    fn routes(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let requests = self.routes.iter().flat_map(|route| {
            route.statuses.iter().map(move |(status, count)| {
                let mut labels = of_route(route);
                labels.push(("status", status));
                (labels, *count)
            })
        });
        family(
            encoder,
            "patchbay_route_requests",
            "Requests to routes of plugins, by the revision that answered; of the two newest",
            None,
        )
        .counters(requests)?;
        family(
            encoder,
            "patchbay_route",
            "Time from a request to a route until its answer begins",
            Unit::Seconds,
        )
        .histograms(
            self.routes
                .iter()
                .map(|route| (of_route(route), route.duration.clone())),
        )?;
        let unkept = self.unkept.iter();
        family(
            encoder,
            "patchbay_route_answers_not_kept",
            "Answers to requests with an Idempotency-Key of which only the mark was kept",
            None,
        )
        .counters(unkept.map(|(reason, count)| (vec![("reason", *reason)], *count)))?;
        let (open, ended) = &self.relays;
        family(
            encoder,
            "patchbay_relays",
            "Responses of other servers that are passed on to clients now",
            None,
        )
        .gauge(Some(*open as i64))?;
        family(
            encoder,
            "patchbay_relays_cut_off",
            "Responses of other servers that were cut off before their end",
            None,
        )
        .counters(
            ended
                .iter()
                .map(|(reason, count)| (vec![("reason", *reason)], *count)),
        )
    }

    fn spans(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Counts {
            sent,
            failed,
            dropped,
        } = &*self.spans;
        let results = [("sent", sent), ("failed", failed), ("dropped", dropped)];
        family(
            encoder,
            "patchbay_trace_spans",
            "Spans that have ended, by what became of them",
            None,
        )
        .counters(
            results
                .map(|(result, count)| (vec![("result", result)], count.load(Ordering::Relaxed))),
        )
    }

    fn pool(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let states = [("in-use", self.pool.in_use), ("idle", self.pool.idle)];
        family(
            encoder,
            "patchbay_postgres_connections",
            "Connections of the host's own pool",
            None,
        )
        .gauges(states.map(|(state, count)| (vec![("state", state)], count)))?;
        family(
            encoder,
            "patchbay_postgres_connections_limit",
            "Limit of the host's own pool",
            None,
        )
        .gauge(Some(self.pool.limit))?;
        let wait = self.pool_wait.map(|wait| wait.as_secs_f64());
        family(
            encoder,
            "patchbay_postgres_pool_wait",
            "This scrape's wait for a connection of the pool",
            Unit::Seconds,
        )
        .gauge(wait)
    }
}
