//! Why a queue does not move: reasons in the order in which an operator should look at them, each
//! with what to do next.
//!
//! Owns only the rules: [`diagnose`] is a pure function of what was observed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_api::breakers::BreakerView;
use patchbay_api::queues::Reason;
use patchbay_model::QueueName;
use patchbay_model::grant::Ask;
use patchbay_model::shell::{arguments, arguments_with, option, word};
use patchbay_model::words::{counted, lasted};
use patchbay_queue::{QueueOverview, TakenKey};
use patchbay_store::{ActionRow, NamedRevision, PlacesTaken};
use patchbay_work::LocalWorker;
use patchbay_work::quarantine::Quarantined;

use super::changes;
use super::reason::{reason, time};
use crate::breakers::outage::{NextTry, Outage};
use crate::health::NotReady;
use crate::plugins::{Absence, AbsentPlugin, way_out};

#[derive(Debug)]
pub struct QueueObservation {
    /// By this process's clock.
    pub now: DateTime<Utc>,
    pub queue: QueueOverview,
    /// The queue's keys in Redis that hold something else.
    pub taken: Vec<TakenKey>,
    /// Names of its workers with a connection of their own in Redis.
    pub workers: Vec<String>,
    /// Its worker in this process, which may have no such connection.
    pub local: Option<LocalWorker>,
    /// The plugin that handles the queue, active on this host.
    pub plugin: Option<String>,
    /// The plugin that would handle it, if none does.
    pub absent: Option<AbsentPlugin>,
    /// What the active plugin asks for and is not granted.
    pub missing: Vec<Ask>,
    /// The plugin that handles the queue, if it is quarantined.
    pub quarantined: Option<Quarantined>,
    /// The revision to which that plugin can be rolled back.
    pub earlier_revision: Option<NamedRevision>,
    /// Breakers of the active plugin on this host.
    pub breakers: Vec<BreakerView>,
    /// Database places of the active plugin on this host.
    pub sql: Option<PlacesTaken>,
    /// Whether Postgres answered; if not, `changes` and the like are empty because nobody knows.
    pub is_recorded: bool,
    /// What operators last did to the queue, its plugin and its schedules.
    pub changes: Vec<ActionRow>,
    /// What is known first of the queue; an older change of all queues was none of it.
    pub since: Option<DateTime<Utc>>,
    /// Schedules that add jobs to the queue.
    pub schedules: Vec<ScheduleObservation>,
    /// Delayed jobs that are ticks: those cannot be promoted.
    pub ticks: u64,
    /// The id of the delayed job, if there is only one.
    pub only_delayed_job: Option<String>,
    /// The schedule that makes the next of them, and whether it is one of Patchbay's.
    pub next_tick: Option<(String, bool)>,
    /// Jobs that failed for good in the last hour, have not run since, and were neither acknowledged
    /// nor removed; `None` if the history did not answer.
    pub failed_lately: Option<u64>,
    /// Jobs in the failed state that are in acknowledged groups of dead letters: not among
    /// `failed_lately`.
    pub acknowledged: u64,
    /// Why this host takes no jobs.
    pub not_ready: Vec<NotReady>,
    /// Whether Redis is nearly full.
    pub redis_full: bool,
}

#[derive(Debug, Clone)]
pub struct ScheduleObservation {
    pub id: String,
    /// Who paused it, and when.
    pub paused: Option<(String, Option<DateTime<Utc>>)>,
    /// How long its tick has been due.
    pub late: Duration,
    /// Why it has no further ticks.
    pub trouble: Option<String>,
}

/// A longer statement or transaction of a plugin delays its other calls.
const LONG_IN_THE_DATABASE: Duration = Duration::from_secs(1);
/// A worker that was started less than this ago may not be connected yet.
const WORKER_STARTS_WITHIN: Duration = Duration::from_secs(15);
/// A tick that is late by less than this is about to start.
const LATE_AFTER: Duration = Duration::from_secs(60);

/// What is at a key of the queue, and how to remove it.
pub fn taken(queue: &QueueName, key: &TakenKey) -> (String, String) {
    let TakenKey {
        key,
        name,
        wanted,
        found,
        is_job,
    } = key;
    let key = word(key);
    if *is_job {
        let job = arguments(&[queue.as_str(), name]);
        return (
            format!(
                "A job was added under the id {name}, and is stored in Redis at {key}, where BullMQ keeps a part of the queue (a {wanted}): the \
                 queue cannot work"
            ),
            format!(
                "read it: patchbay job show {job}; then remove it: patchbay job remove {job}. Add it again under another id"
            ),
        );
    }
    (
        format!(
            "The key {key} holds a {found}, and BullMQ keeps a {wanted} there: the queue cannot work"
        ),
        format!(
            "look at it with redis-cli; then rename it: redis-cli RENAME {key} {}",
            word(&format!("{key}-aside"))
        ),
    )
}

/// Every reason that applies. If nothing is wrong, one reason that says so. The last one may be what
/// operators changed last.
pub fn diagnose(seen: &QueueObservation) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = Vec::new();
    reasons.extend(damaged(seen));
    reasons.extend(held_back(seen));
    reasons.extend(not_ready(seen));
    reasons.extend(quarantined(seen));
    reasons.extend(missing_grants(seen));
    reasons.extend(breakers(seen));
    reasons.extend(database(seen));
    reasons.extend(no_worker(seen));
    reasons.extend(schedules(seen));
    reasons.extend(only_delayed(seen));
    reasons.extend(failed_jobs(seen));
    if reasons.is_empty() {
        reasons.push(in_order(seen));
    }
    let told: Vec<&str> = reasons.iter().map(|reason| reason.code.as_str()).collect();
    let last = changes::last(&seen.queue.name, &seen.changes, seen.since, seen.now, &told);
    reasons.extend(last);
    reasons
}

/// The queue's name as an argument of a command.
fn argument(seen: &QueueObservation) -> String {
    arguments(&[seen.queue.name.as_str()])
}

fn waiting(seen: &QueueObservation) -> u64 {
    seen.queue.counts.waiting + seen.queue.counts.prioritized
}

fn damaged(seen: &QueueObservation) -> Vec<Reason> {
    let queue = &seen.queue;
    let mut reasons: Vec<Reason> = Vec::new();
    for key in &seen.taken {
        let (stands, next) = taken(&queue.name, key);
        reasons.push(reason("damaged-data", stands, next));
    }
    let is_told = |error: &str| {
        let mut keys = seen.taken.iter();
        keys.any(|key| error.starts_with(&format!("{}:", key.key)))
    };
    if let Some(error) = queue.error.as_ref().filter(|error| !is_told(error)) {
        reasons.push(reason(
            "damaged-data",
            format!("What Redis holds of the queue is damaged: {error}"),
            "repair or remove that key with redis-cli; jobs there may not be taken until then",
        ));
    }
    reasons
}

/// What operators and limits keep back.
fn held_back(seen: &QueueObservation) -> Vec<Reason> {
    let (queue, name) = (&seen.queue, argument(seen));
    let counts = &queue.counts;
    let mut reasons: Vec<Reason> = Vec::new();
    if counts.paused {
        let who = match changes::paused_by(&seen.changes) {
            Some(action) => format!(" {}", by(action)),
            None if seen.is_recorded => " by another BullMQ client, such as Bull Board".to_owned(),
            None => "; who paused it is unknown while Postgres is away".to_owned(),
        };
        reasons.push(reason(
            "paused",
            format!("The queue is paused{who}"),
            format!("patchbay queue resume {name}"),
        ));
    }
    if queue.put_aside > 0 && !counts.paused {
        reasons.push(reason(
            "put-aside",
            format!(
                "{} in the list where BullMQ 5 puts jobs of a paused queue. No worker looks there",
                stand(queue.put_aside)
            ),
            format!(
                "patchbay queue resume {name} (it puts them back; a resume by BullMQ 5 would lose others)"
            ),
        ));
    }
    if let Some(ms) = queue.rate_limited_ms {
        let length = lasted(Duration::from_millis(ms));
        reasons.push(match queue.rate {
            Some((max, per_ms)) => reason(
                "rate-limited",
                format!(
                    "The queue's rate limit is reached ({} per {per_ms} ms): no job starts for {length}{}",
                    counted(max, "job"),
                    set_by(seen, "queue.rate-limit")
                ),
                format!(
                    "wait, or remove the limit: patchbay queue rate-limit {}",
                    arguments_with(&[queue.name.as_str()], "--none")
                ),
            ),
            None => reason(
                "rate-limited",
                format!("The rate limit of a worker is reached: no job starts for {length}"),
                "wait, or change the limit of the worker that handles the queue",
            ),
        });
    }
    if let Some(most) = queue.concurrency.filter(|most| counts.active >= *most) {
        reasons.push(reason(
            "concurrency-reached",
            format!(
                "{}, as many as the queue's limit over all workers allows ({most}){}",
                run(counts.active),
                set_by(seen, "queue.concurrency")
            ),
            format!(
                "wait, or remove the limit: patchbay queue concurrency {}",
                arguments_with(&[queue.name.as_str()], "--none")
            ),
        ));
    }
    if seen.redis_full {
        reasons.push(reason(
            "redis-full",
            "Redis is nearly full: new jobs are refused, running jobs still end",
            "patchbay queue clean QUEUE completed, or raise maxmemory of Redis",
        ));
    }
    reasons
}

/// `by ops at 2026-11-30T13:08:03Z: INC-7`
fn by(action: &ActionRow) -> String {
    let at = time(action.began_at);
    format!("by {} at {at}{}", action.actor, action.because())
}

/// Who set a limit of the queue, as a sentence.
fn set_by(seen: &QueueObservation, action: &str) -> String {
    match changes::limited_by(&seen.changes, action) {
        Some(change) => format!(". Set {}", by(change)),
        None if seen.is_recorded => ". Set by another BullMQ client".to_owned(),
        None => ". Who set it is unknown while Postgres is away".to_owned(),
    }
}

fn stand(count: u64) -> String {
    let verb = if count == 1 { "is" } else { "are" };
    format!("{} {verb}", counted(count, "job"))
}

fn run(count: u64) -> String {
    let verb = if count == 1 { "runs" } else { "run" };
    format!("{} {verb}", counted(count, "job"))
}

fn wait(count: u64) -> String {
    let verb = if count == 1 { "waits" } else { "wait" };
    format!("{} {verb}", counted(count, "job"))
}

fn not_ready(seen: &QueueObservation) -> impl Iterator<Item = Reason> {
    seen.not_ready.iter().map(|why| {
        reason(
            "host-not-ready",
            format!("This host is not ready ({}): {}", why.code, why.message),
            why.next.clone(),
        )
    })
}

fn quarantined(seen: &QueueObservation) -> Option<Reason> {
    let Quarantined {
        plugin,
        since,
        by,
        reason: why,
    } = seen.quarantined.as_ref()?;
    Some(reason(
        "quarantined",
        format!(
            "Plugin {plugin} was quarantined at {since} by {by}: {why}. Its jobs wait and keep their attempts"
        ),
        way_out(plugin.as_str(), seen.earlier_revision.as_ref()),
    ))
}

fn missing_grants(seen: &QueueObservation) -> Vec<Reason> {
    let Some(plugin) = &seen.plugin else {
        return Vec::new();
    };
    let asks = seen.missing.iter().map(|ask| {
        let ask = ask.as_str();
        let who = changes::revoked_by(&seen.changes, ask).map_or_else(
            || "but it is not granted".to_owned(),
            |action| {
                format!(
                    "but {} revoked it at {}",
                    action.actor,
                    time(action.began_at)
                )
            },
        );
        reason(
            "grant-missing",
            format!("Plugin {plugin} asks for {ask:?}, {who}: its calls that need it are denied"),
            format!("patchbay plugin grant {}", arguments(&[plugin, ask])),
        )
    });
    asks.collect()
}

fn breakers(seen: &QueueObservation) -> Vec<Reason> {
    let open = seen.breakers.iter().filter(|breaker| !breaker.is_closed());
    open.map(|breaker| {
        reason(
            "breaker-open",
            open_breaker(seen, breaker),
            closing(breaker),
        )
    })
    .collect()
}

fn open_breaker(seen: &QueueObservation, breaker: &BreakerView) -> String {
    let (plugin, host) = (breaker.plugin.as_str(), word(&breaker.host));
    let since = breaker.opened_at.as_deref();
    let at = since.map(|at| format!(" at {at}")).unwrap_or_default();
    if let Some(by) = &breaker.opened_by {
        let why = breaker.reason.as_deref().unwrap_or("no reason is known");
        return format!(
            "{by} opened the breaker of {plugin} to {host}{at}: {why}. Jobs that need it wait without using up attempts"
        );
    }
    let outage = Outage {
        plugin,
        host: &host,
        open_for: breaker.open_for_ms.map(Duration::from_millis),
        last_failure: breaker.last_failure.as_deref(),
        jobs: Some((waiting(seen), seen.queue.counts.delayed)),
        next_try: NextTry::of(breaker.probe_in_ms, breaker.state == "half-open"),
    };
    let after = breaker.opened_after.map(|failures| {
        format!(
            "The breaker opened after {}{at}; jobs",
            counted(failures, "failure")
        )
    });
    format!(
        "{}. {} that need it wait without using up attempts",
        outage.text(),
        after.as_deref().unwrap_or("Jobs")
    )
}

fn closing(breaker: &BreakerView) -> String {
    let (plugin, host) = (breaker.plugin.as_str(), breaker.host.as_str());
    let close = format!(
        "patchbay breaker close {}",
        arguments_with(&[plugin, host], "--reason WHY")
    );
    match breaker.opened_by {
        Some(_) => close,
        None => format!("check {}, or: {close}", word(host)),
    }
}

fn database(seen: &QueueObservation) -> Option<Reason> {
    let (plugin, sql) = (seen.plugin.as_ref()?, seen.sql?);
    if sql.waiting == 0 || sql.longest < LONG_IN_THE_DATABASE {
        return None;
    }
    Some(reason(
        "database-connections",
        format!(
            "Calls of {plugin} that wait for one of its database connections: {}. The one that is held longest is held for {:.1} s",
            sql.waiting,
            sql.longest.as_secs_f64()
        ),
        format!("patchbay plugin sql {plugin}"),
    ))
}

fn no_worker(seen: &QueueObservation) -> Option<Reason> {
    // When Redis cannot serve, its workers are connected elsewhere or wait for it.
    let redis_is_away = seen.not_ready.iter().any(|reason| reason.code == "redis");
    if !seen.workers.is_empty() || redis_is_away {
        return None;
    }
    match &seen.plugin {
        Some(plugin) => idle_worker(seen, plugin),
        None if seen.quarantined.is_some() => None,
        None => Some(seen.absent.as_ref().map_or_else(nobody, absent)),
    }
}

/// Of a plugin that is active here, and whose worker has no connection of its own.
fn idle_worker(seen: &QueueObservation, plugin: &str) -> Option<Reason> {
    // A worker that never waited for a job has none: it waits for the breaker, or is at its limit.
    if seen.breakers.iter().any(|breaker| !breaker.is_closed()) {
        return None;
    }
    let name = argument(seen);
    let unconnected = || {
        reason(
            "no-worker",
            format!("Plugin {plugin} handles the queue, but no worker is connected to Redis"),
            format!(
                "patchbay doctor; then look for queue={} in the host's log",
                word(seen.queue.name.as_str())
            ),
        )
    };
    let Some(local) = seen.local else {
        return Some(unconnected());
    };
    if local.active > 0 {
        return None;
    }
    if local.host_is_full {
        return Some(reason(
            "host-busy",
            "Jobs of other queues use all job slots of this host. The queue gets the next free one",
            "wait, raise work.max_jobs, reserve slots in the manifest, or start another host",
        ));
    }
    if local.age < WORKER_STARTS_WITHIN {
        return Some(reason(
            "worker-starting",
            format!(
                "The worker of plugin {plugin} was started {} ago and is about to connect",
                lasted(local.age)
            ),
            format!("repeat in some seconds: patchbay queue why {name}"),
        ));
    }
    Some(unconnected())
}

fn nobody() -> Reason {
    reason(
        "no-worker",
        "No plugin handles the queue, and no other worker is connected",
        "activate a plugin that handles it (patchbay plugin list), or start the Node worker",
    )
}

fn absent(absent: &AbsentPlugin) -> Reason {
    let AbsentPlugin {
        plugin,
        digest,
        why,
    } = absent;
    let activate = format!("patchbay plugin activate {plugin} {}", digest.short());
    match why {
        Absence::Deactivated { by, at, because } => {
            let why = because.as_ref().map(|why| format!(": {why}"));
            reason(
                "plugin-deactivated",
                format!(
                    "Plugin {plugin} was deactivated by {by} at {}{}. Its jobs wait",
                    time(*at),
                    why.unwrap_or_default()
                ),
                activate,
            )
        }
        Absence::NeverActivated => reason(
            "plugin-not-active",
            format!(
                "Plugin {plugin} would handle the queue, but none of its revisions was activated"
            ),
            activate,
        ),
        Absence::Dropped { active } => reason(
            "plugin-not-active",
            format!(
                "The active revision {} of plugin {plugin} does not handle the queue; revision {} does",
                active.short(),
                digest.short()
            ),
            format!("{activate}, or start another worker for the queue"),
        ),
        Absence::NotLoaded { reason: failure } => reason(
            "plugin-not-loaded",
            format!(
                "Plugin {plugin} is active, but does not run on this host: {}",
                failure.as_deref().unwrap_or("it is not loaded yet")
            ),
            format!("patchbay plugin status {plugin}; patchbay doctor on this machine"),
        ),
    }
}

fn schedules(seen: &QueueObservation) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = Vec::new();
    for schedule in &seen.schedules {
        let (id, as_argument) = (word(&schedule.id), arguments(&[&schedule.id]));
        if let Some((by, at)) = &schedule.paused {
            // Jobs that wait are not held up by a schedule that makes no more of them.
            if waiting(seen) == 0 {
                let paused = match at {
                    Some(at) => format!("has been paused by {by} since {}", time(*at)),
                    None => format!("is paused by {by}"),
                };
                let why = changes::schedule_paused_by(&seen.changes, &schedule.id)
                    .map(|action| action.because());
                reasons.push(reason(
                    "schedule-paused",
                    format!(
                        "Schedule {id} adds no jobs: it {paused}{}",
                        why.unwrap_or_default()
                    ),
                    format!("patchbay schedule resume {as_argument}"),
                ));
            }
        } else if let Some(trouble) = &schedule.trouble {
            reasons.push(reason(
                "schedule-stopped",
                format!("Schedule {id} stops: {trouble}"),
                format!("patchbay schedule show {as_argument}; correct it where it was made"),
            ));
        } else if schedule.late > LATE_AFTER && !seen.queue.counts.paused {
            reasons.push(reason(
                "schedule-overdue",
                format!(
                    "A job of schedule {id} has been due for {} and has not started",
                    lasted(schedule.late)
                ),
                format!("patchbay schedule show {as_argument}"),
            ));
        }
    }
    reasons
}

fn only_delayed(seen: &QueueObservation) -> Option<Reason> {
    let counts = &seen.queue.counts;
    if waiting(seen) > 0 || counts.delayed == 0 {
        return None;
    }
    let due = seen
        .queue
        .next_delayed_at
        .and_then(|ms| DateTime::from_timestamp_millis(i64::try_from(ms).ok()?))
        .map_or_else(|| "a time that is out of range".to_owned(), time);
    if let Some((id, is_ours)) = seen
        .next_tick
        .as_ref()
        .filter(|_| counts.delayed <= seen.ticks)
    {
        return Some(reason(
            "only-delayed",
            format!(
                "Nothing waiting now. The next job is a tick of schedule {}, due at {due}",
                word(id)
            ),
            match is_ours {
                true => format!("wait, or: patchbay schedule run {}", arguments(&[id])),
                false => "wait".to_owned(),
            },
        ));
    }
    let jobs = match counts.delayed {
        1 => "1 delayed job is due".to_owned(),
        n => format!("The next of {n} delayed jobs is due"),
    };
    let id = seen.only_delayed_job.as_deref().unwrap_or("ID");
    let job = arguments(&[seen.queue.name.as_str(), id]);
    Some(reason(
        "only-delayed",
        format!("Nothing waiting now. {jobs} at {due}"),
        format!("wait, or: patchbay job promote {job}"),
    ))
}

/// Jobs that failed while nothing waits: the producer is not what to look at.
fn failed_jobs(seen: &QueueObservation) -> Option<Reason> {
    let counts = &seen.queue.counts;
    let lately = seen.failed_lately.filter(|lately| *lately > 0)?;
    if waiting(seen) > 0 || counts.active > 0 {
        return None;
    }
    Some(reason(
        "failed-jobs",
        format!(
            "Nothing waiting. {} failed in the last hour; Redis holds {}",
            counted(lately, "job"),
            failed_in_redis(seen)
        ),
        dead_letters(seen),
    ))
}

/// `201 failed jobs of this queue, of which 180 are in acknowledged groups`
fn failed_in_redis(seen: &QueueObservation) -> String {
    let failed = seen.queue.counts.failed;
    // The groups were compared with Redis a moment ago.
    let acknowledged = match seen.acknowledged.min(failed) {
        0 => String::new(),
        1 if failed == 1 => ", which is in an acknowledged group".to_owned(),
        all if all == failed => ", all of them in acknowledged groups".to_owned(),
        1 => ", of which 1 is in an acknowledged group".to_owned(),
        some => format!(", of which {some} are in acknowledged groups"),
    };
    format!(
        "{} of this queue{acknowledged}",
        counted(failed, "failed job")
    )
}

fn dead_letters(seen: &QueueObservation) -> String {
    let queue = option("--queue", seen.queue.name.as_str());
    format!("patchbay dead-letter list {queue}")
}

fn in_order(seen: &QueueObservation) -> Reason {
    let (waiting, active, failed) = (
        waiting(seen),
        seen.queue.counts.active,
        seen.queue.counts.failed,
    );
    // They lie among the waiting jobs, and nothing is to be done about them.
    let removed = match seen.queue.counts.removed {
        0 => String::new(),
        1 => ". 1 removed job leaves Redis when a worker takes it".to_owned(),
        n => format!(". {n} removed jobs leave Redis when a worker takes them"),
    };
    match (waiting, active) {
        (0, 0) if failed > 0 => reason(
            "empty",
            format!(
                "Nothing waiting. Redis holds {}{}{removed}",
                failed_in_redis(seen),
                match (seen.failed_lately, seen.acknowledged) {
                    (Some(_), 0) => ", none of the last hour",
                    // Those of the last hour may be among the acknowledged ones.
                    _ => "",
                }
            ),
            format!("{}; for new jobs, check the producer", dead_letters(seen)),
        ),
        (0, 0) if changes::has_removed(&seen.changes, seen.now) => reason(
            "empty",
            format!("Nothing waiting{removed}"),
            "nothing to do: jobs of the queue were removed on purpose. For new jobs, check the producer",
        ),
        (0, 0) => reason(
            "empty",
            format!("Nothing waiting{removed}"),
            "check that the producer adds jobs",
        ),
        (0, active) => reason(
            "moving",
            format!("Nothing waiting. {}{removed}", run(active)),
            "nothing to do",
        ),
        (waiting, 0) => reason(
            "about-to-start",
            format!(
                "{}, and {} connected",
                wait(waiting),
                match seen.workers.len() {
                    1 => "1 worker is".to_owned(),
                    n => format!("{n} workers are"),
                }
            ),
            match seen.plugin {
                Some(_) => {
                    "repeat the command; jobs of a host that was killed run again after about 30 s"
                }
                None => {
                    "repeat the command; another BullMQ worker handles the queue, so look there if nothing changes"
                }
            },
        ),
        (waiting, active) if seen.plugin.is_none() => reason(
            "busy",
            format!(
                "{} behind {active} that run: all workers are busy. Another BullMQ worker handles the queue, and no plugin of Patchbay",
                wait(waiting)
            ),
            "wait, or raise the concurrency of that worker, or start another one",
        ),
        (waiting, active) => reason(
            "busy",
            format!(
                "{} behind {active} that run: all workers are busy",
                wait(waiting)
            ),
            "wait, raise the concurrency, or start another host",
        ),
    }
}

#[cfg(test)]
mod tests;
