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
                let at = at.map(|at| format!(" since {}", time(at)));
                let why = changes::schedule_paused_by(&seen.changes, &schedule.id)
                    .map(|action| action.because());
                reasons.push(reason(
                    "schedule-paused",
                    format!(
                        "Schedule {id} adds no jobs: it is paused by {by}{}{}",
                        at.unwrap_or_default(),
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
mod tests {
    use patchbay_model::RevisionDigest;
    use patchbay_queue::QueueCounts;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: u32) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + i64::from(second), 0).expect("a time")
    }

    fn seen(counts: QueueCounts) -> QueueObservation {
        QueueObservation {
            now: at(3_600),
            queue: QueueOverview {
                name: "emailQueue".parse().expect("a name"),
                counts,
                oldest_waiting_ms: None,
                next_delayed_at: None,
                concurrency: None,
                rate: None,
                rate_limited_ms: None,
                put_aside: 0,
                paused_by: None,
                error: None,
            },
            taken: Vec::new(),
            workers: vec!["host:1".into()],
            local: None,
            plugin: Some("email".into()),
            absent: None,
            missing: Vec::new(),
            quarantined: None,
            earlier_revision: None,
            sql: None,
            breakers: Vec::new(),
            is_recorded: true,
            changes: Vec::new(),
            since: None,
            schedules: Vec::new(),
            ticks: 0,
            only_delayed_job: None,
            next_tick: None,
            failed_lately: Some(0),
            acknowledged: 0,
            not_ready: Vec::new(),
            redis_full: false,
        }
    }

    fn waiting(waiting: u64) -> QueueObservation {
        seen(QueueCounts {
            waiting,
            ..QueueCounts::default()
        })
    }

    fn action(action: &str, target: &str, second: u32, details: Value) -> ActionRow {
        ActionRow {
            actor: "ops".into(),
            action: action.into(),
            target: target.into(),
            began_at: at(second),
            details,
            result: None,
            reason: None,
        }
    }

    fn breaker(state: &str, probe_in_ms: Option<u64>) -> BreakerView {
        BreakerView {
            plugin: "email".parse().expect("a name"),
            host: "smtp://mail.example:465".into(),
            state: state.to_owned(),
            since: None,
            probe_in_ms,
            next_try_at: None,
            opened_at: Some("2026-11-24T12:00:00Z".into()),
            open_for_ms: Some(300_000),
            opened_after: Some(5),
            opened_by: None,
            reason: None,
            failures: 0,
            opens_at: 5,
            within_ms: 30_000,
            open_ms: 15_000,
            last_failure: Some("connect: refused".into()),
            times_opened: 1,
            deferred_jobs: 0,
            already: false,
        }
    }

    fn codes(seen: &QueueObservation) -> Vec<String> {
        diagnose(seen)
            .into_iter()
            .map(|reason| reason.code)
            .collect()
    }

    #[test]
    fn while_postgres_is_away_nobody_is_said_to_have_paused_the_queue() {
        let paused = QueueCounts {
            paused: true,
            ..QueueCounts::default()
        };
        let mut seen = seen(paused);
        assert!(
            diagnose(&seen)[0]
                .message
                .contains("by another BullMQ client")
        );
        seen.is_recorded = false;
        assert_eq!(
            diagnose(&seen)[0].message,
            "The queue is paused; who paused it is unknown while Postgres is away"
        );
    }

    #[test]
    fn who_set_a_limit_is_named_and_a_limit_of_a_worker_is_not_the_queues() {
        let mut seen = waiting(1);
        seen.queue.rate_limited_ms = Some(5_000);
        assert!(
            diagnose(&seen)[0]
                .message
                .starts_with("The rate limit of a worker")
        );
        seen.queue.rate = Some((10, 1_000));
        let details = json!({ "max": 10, "perMs": 1_000 });
        seen.changes = vec![action("queue.rate-limit", "emailQueue", 0, details)];
        let told = &diagnose(&seen)[0];
        assert!(told.message.contains("Set by ops at"), "{told:?}");
        assert!(told.next.ends_with("--none"), "{told:?}");
        seen.changes.clear();
        seen.is_recorded = false;
        assert!(
            diagnose(&seen)[0]
                .message
                .contains("unknown while Postgres")
        );
    }

    #[test]
    fn a_queue_that_only_another_worker_handles_is_not_helped_by_another_host() {
        let mut seen = waiting(2);
        seen.queue.counts.active = 1;
        assert!(diagnose(&seen)[0].next.contains("another host"));
        seen.plugin = None;
        let told = &diagnose(&seen)[0];
        assert!(
            told.message.contains("Another BullMQ worker handles"),
            "{told:?}"
        );
        assert!(!told.next.contains("host"), "{told:?}");
    }

    #[test]
    fn a_queue_without_trouble_says_so() {
        assert_eq!(codes(&seen(QueueCounts::default())), ["empty"]);
        assert_eq!(
            codes(&seen(QueueCounts {
                waiting: 5,
                active: 2,
                ..QueueCounts::default()
            })),
            ["busy"]
        );
    }

    #[test]
    fn a_job_in_the_place_of_a_key_is_named_with_what_takes_it_away() {
        let mut seen = seen(QueueCounts::default());
        seen.queue.name = "-my queue".parse().expect("a name");
        seen.queue.error = Some("bull:-my queue:failed: WRONGTYPE".into());
        let key = |name: &str, is_job| TakenKey {
            key: format!("bull:-my queue:{name}"),
            name: name.into(),
            wanted: "zset",
            found: "hash".into(),
            is_job,
        };
        seen.taken = vec![key("failed", true), key("marker", false)];
        let reasons = diagnose(&seen);
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(
            reasons[0]
                .next
                .contains("patchbay job remove -- '-my queue' failed"),
            "{}",
            reasons[0].next
        );
        assert!(
            reasons[1]
                .next
                .contains("redis-cli RENAME 'bull:-my queue:marker'"),
            "{}",
            reasons[1].next
        );
    }

    #[test]
    fn several_reasons_are_all_told() {
        let mut seen = seen(QueueCounts {
            waiting: 5,
            paused: true,
            ..QueueCounts::default()
        });
        seen.workers.clear();
        seen.plugin = None;
        seen.redis_full = true;
        assert_eq!(codes(&seen), ["paused", "redis-full", "no-worker"]);
    }

    #[test]
    fn a_tick_is_run_and_not_promoted_and_removed_jobs_are_told() {
        let mut seen = seen(QueueCounts {
            delayed: 1,
            ..QueueCounts::default()
        });
        let next = |seen: &QueueObservation| diagnose(seen)[0].next.clone();
        assert_eq!(next(&seen), "wait, or: patchbay job promote emailQueue ID");
        seen.only_delayed_job = Some("17".into());
        assert_eq!(next(&seen), "wait, or: patchbay job promote emailQueue 17");
        seen.only_delayed_job = None;
        seen.ticks = 1;
        seen.next_tick = Some(("nightly".into(), true));
        assert_eq!(next(&seen), "wait, or: patchbay schedule run nightly");
        seen.next_tick = Some(("of-node".into(), false));
        assert_eq!(next(&seen), "wait");
        seen.queue.counts.delayed = 2;
        assert_eq!(next(&seen), "wait, or: patchbay job promote emailQueue ID");
        seen.queue.counts = QueueCounts {
            removed: 2,
            ..QueueCounts::default()
        };
        assert_eq!(
            diagnose(&seen)[0].message,
            "Nothing waiting. 2 removed jobs leave Redis when a worker takes them"
        );
    }

    #[test]
    fn a_quarantined_plugin_is_the_reason_and_not_the_missing_worker() {
        let mut seen = seen(QueueCounts {
            waiting: 5,
            ..QueueCounts::default()
        });
        seen.workers.clear();
        seen.plugin = None;
        seen.quarantined = Some(Quarantined {
            plugin: "email".parse().expect("a name"),
            since: "2026-11-24T12:00:00Z".into(),
            by: "host a:1".into(),
            reason: "10 of the last 10 calls crashed".into(),
        });
        assert_eq!(codes(&seen), ["quarantined"]);
        let next = |seen: &QueueObservation| diagnose(seen)[0].next.clone();
        assert!(
            !next(&seen).contains("rollback"),
            "there is nothing to go back to"
        );
        seen.earlier_revision = Some(NamedRevision {
            digest: RevisionDigest::of(b"earlier"),
            version: "0.1.0".into(),
        });
        assert!(next(&seen).contains("or: patchbay plugin rollback email (back to 0.1.0 "));
        assert!(
            diagnose(&seen)[0]
                .next
                .contains("patchbay plugin release email")
        );
    }

    #[test]
    fn a_breaker_that_is_not_closed_is_named_with_what_it_waits_for() {
        let mut seen = seen(QueueCounts {
            waiting: 5,
            ..QueueCounts::default()
        });
        seen.breakers = vec![
            breaker("closed", None),
            breaker("open", Some(9_001)),
            breaker("half-open", None),
        ];
        let reasons = diagnose(&seen);
        assert_eq!(
            reasons
                .iter()
                .map(|reason| reason.code.as_str())
                .collect::<Vec<_>>(),
            ["breaker-open", "breaker-open"]
        );
        assert_eq!(
            reasons[0].message,
            "email cannot reach smtp://mail.example:465 for 5 min (refused); 5 jobs wait. Next try in 10 s. The breaker opened after \
             5 failures at 2026-11-24T12:00:00Z; jobs that need it wait without using up attempts"
        );
        assert!(
            reasons[1]
                .message
                .contains("The next call tests whether it works again")
        );
        assert!(
            reasons[0]
                .next
                .contains("patchbay breaker close email smtp://mail.example:465")
        );
    }

    #[test]
    fn calls_that_wait_for_a_database_connection_are_told_once_one_is_held_for_long() {
        let taken = |longest| PlacesTaken {
            in_use: 2,
            longest,
            waiting: 48,
        };
        let mut seen = seen(QueueCounts {
            waiting: 5,
            active: 50,
            ..QueueCounts::default()
        });
        seen.sql = Some(taken(Duration::from_millis(40)));
        assert_eq!(codes(&seen), ["busy"]);
        seen.sql = Some(taken(Duration::from_millis(3_140)));
        assert_eq!(codes(&seen), ["database-connections"]);
        let reason = &diagnose(&seen)[0];
        assert!(
            reason.message.contains("Calls of email")
                && reason.message.contains(": 48.")
                && reason.message.contains("3.1 s"),
            "{reason:?}"
        );
    }

    #[test]
    fn jobs_that_are_only_delayed_are_told_from_jobs_that_wait() {
        let mut seen = seen(QueueCounts {
            delayed: 3,
            ..QueueCounts::default()
        });
        seen.queue.next_delayed_at = Some(1_000);
        assert_eq!(codes(&seen), ["only-delayed"]);
        assert!(diagnose(&seen)[0].message.contains("1970-01-01T00:00:01Z"));
    }

    #[test]
    fn beside_an_open_breaker_a_worker_without_a_connection_is_no_reason() {
        let mut seen = waiting(5);
        seen.workers.clear();
        assert_eq!(codes(&seen), ["no-worker"]);
        seen.breakers = vec![breaker("open", Some(1_000))];
        assert_eq!(codes(&seen), ["breaker-open"]);
    }

    #[test]
    fn a_worker_that_was_just_started_runs_jobs_or_waits_for_a_slot_is_not_missing() {
        let mut seen = waiting(5);
        seen.workers.clear();
        let local = |age_s, active, host_is_full| {
            Some(LocalWorker {
                age: Duration::from_secs(age_s),
                active,
                host_is_full,
            })
        };
        seen.local = local(2, 0, false);
        assert_eq!(codes(&seen), ["worker-starting"]);
        seen.local = local(60, 0, false);
        assert_eq!(codes(&seen), ["no-worker"]);
        seen.local = local(60, 0, true);
        assert_eq!(codes(&seen), ["host-busy"]);
        seen.local = local(60, 3, true);
        seen.queue.counts.active = 3;
        assert_eq!(codes(&seen), ["busy"]);
    }

    #[test]
    fn a_deactivation_says_who_when_and_how_to_undo_it() {
        let mut seen = waiting(5);
        seen.workers.clear();
        seen.plugin = None;
        let digest = RevisionDigest::of(b"email");
        seen.absent = Some(AbsentPlugin {
            plugin: "email".parse().expect("a name"),
            digest,
            why: Absence::Deactivated {
                because: None,
                by: "ops".into(),
                at: at(0),
            },
        });
        seen.changes = vec![action("plugin.deactivate", "email", 0, json!({}))];
        let reasons = diagnose(&seen);
        assert_eq!(codes(&seen), ["plugin-deactivated"], "said once");
        assert_eq!(
            reasons[0].message,
            format!(
                "Plugin email was deactivated by ops at {}. Its jobs wait",
                time(at(0))
            )
        );
        assert_eq!(
            reasons[0].next,
            format!("patchbay plugin activate email {}", digest.short())
        );
        seen.workers = vec!["node:1".into()];
        assert_eq!(codes(&seen)[0], "about-to-start", "another worker does it");
    }

    #[test]
    fn a_plugin_that_does_not_run_here_or_dropped_the_queue_is_told_apart() {
        let mut seen = waiting(5);
        seen.workers.clear();
        seen.plugin = None;
        let mut code = |why| {
            seen.absent = Some(AbsentPlugin {
                plugin: "email".parse().expect("a name"),
                digest: RevisionDigest::of(b"email"),
                why,
            });
            codes(&seen)
        };
        assert_eq!(code(Absence::NeverActivated), ["plugin-not-active"]);
        let active = RevisionDigest::of(b"other");
        assert_eq!(code(Absence::Dropped { active }), ["plugin-not-active"]);
        let reason = Some("its signature is missing".to_owned());
        assert_eq!(code(Absence::NotLoaded { reason }), ["plugin-not-loaded"]);
    }

    #[test]
    fn a_revoked_grant_is_named_with_who_revoked_it_and_the_command_that_grants_it() {
        let mut seen = waiting(0);
        seen.missing = vec![Ask::new("secret API_KEY")];
        seen.changes = vec![action(
            "plugin.revoke",
            "email",
            7,
            json!({ "asks": ["smtp", "secret API_KEY"] }),
        )];
        assert_eq!(codes(&seen), ["grant-missing"]);
        let reason = &diagnose(&seen)[0];
        assert_eq!(
            reason.message,
            format!(
                "Plugin email asks for \"secret API_KEY\", but ops revoked it at {}: its calls that need it are denied",
                time(at(7))
            )
        );
        assert_eq!(reason.next, "patchbay plugin grant email 'secret API_KEY'");
        seen.changes.clear();
        assert!(diagnose(&seen)[0].message.contains("is not granted"));
    }

    #[test]
    fn an_empty_queue_with_failed_jobs_leads_to_them_and_not_to_the_producer() {
        let mut seen = seen(QueueCounts {
            failed: 350,
            ..QueueCounts::default()
        });
        seen.failed_lately = Some(201);
        let reasons = diagnose(&seen);
        assert_eq!(codes(&seen), ["failed-jobs"]);
        assert_eq!(
            reasons[0].message,
            "Nothing waiting. 201 jobs failed in the last hour; Redis holds 350 failed jobs of this queue"
        );
        assert_eq!(
            reasons[0].next,
            "patchbay dead-letter list --queue emailQueue"
        );
        seen.failed_lately = Some(0);
        assert_eq!(codes(&seen), ["empty"]);
        assert!(
            diagnose(&seen)[0]
                .message
                .ends_with("350 failed jobs of this queue, none of the last hour")
        );
        seen.queue.name = "-my queue".parse().expect("a name");
        assert!(diagnose(&seen)[0].next.contains("--queue='-my queue'"));
    }

    #[test]
    fn failed_jobs_of_acknowledged_groups_are_told_apart() {
        let mut seen = seen(QueueCounts {
            failed: 201,
            ..QueueCounts::default()
        });
        (seen.failed_lately, seen.acknowledged) = (Some(21), 180);
        let message = |seen: &QueueObservation| diagnose(seen)[0].message.clone();
        assert_eq!(
            message(&seen),
            "Nothing waiting. 21 jobs failed in the last hour; Redis holds 201 failed jobs of this queue, of which 180 are in \
             acknowledged groups"
        );
        (seen.failed_lately, seen.acknowledged) = (Some(0), 300);
        assert_eq!(
            message(&seen),
            "Nothing waiting. Redis holds 201 failed jobs of this queue, all of them in acknowledged groups"
        );
        seen.acknowledged = 1;
        assert!(message(&seen).ends_with("of which 1 is in an acknowledged group"));
    }

    #[test]
    fn of_a_queue_that_somebody_has_emptied_the_producer_is_not_asked_first() {
        let mut seen = seen(QueueCounts::default());
        seen.changes = vec![action("queue.drain", "emailQueue", 3_000, json!({}))];
        assert!(
            diagnose(&seen)[0]
                .next
                .starts_with("nothing to do: jobs of the queue were removed on purpose")
        );
        seen.changes
            .insert(0, action("queue.resume", "emailQueue", 3_100, json!({})));
        assert_eq!(diagnose(&seen)[0].next, "check that the producer adds jobs");
    }

    #[test]
    fn a_schedule_that_is_paused_late_or_stopped_is_a_reason() {
        let schedule = |id: &str| ScheduleObservation {
            id: id.into(),
            paused: None,
            late: Duration::ZERO,
            trouble: None,
        };
        let mut seen = waiting(0);
        seen.schedules = vec![
            ScheduleObservation {
                paused: Some(("ops".into(), Some(at(0)))),
                ..schedule("nightly")
            },
            ScheduleObservation {
                late: Duration::from_secs(600),
                ..schedule("hourly")
            },
            ScheduleObservation {
                trouble: Some("no zone".into()),
                ..schedule("weekly")
            },
            schedule("daily"),
        ];
        let expected = ["schedule-paused", "schedule-overdue", "schedule-stopped"];
        assert_eq!(codes(&seen), expected);
        let reasons = diagnose(&seen);
        assert_eq!(
            reasons[0].message,
            format!(
                "Schedule nightly adds no jobs: it is paused by ops since {}",
                time(at(0))
            )
        );
        assert_eq!(reasons[0].next, "patchbay schedule resume nightly");
        assert!(reasons[1].message.contains("due for 10 min"), "{reasons:?}");
        seen.queue.counts.paused = true;
        assert_eq!(codes(&seen)[0], "paused");
        assert!(!codes(&seen).contains(&"schedule-overdue".to_owned()));
    }

    #[test]
    fn what_operators_changed_last_is_named_unless_a_reason_says_it() {
        let mut seen = waiting(5);
        seen.changes = vec![
            action("queue.resume", "emailQueue", 9, json!({})),
            action("queue.pause", "*", 5, json!({})),
        ];
        assert_eq!(codes(&seen), ["about-to-start", "last-change"]);
        let last = diagnose(&seen).pop().expect("a reason");
        assert_eq!(
            last.message,
            format!("Last change: ops resumed the queue at {}", time(at(9)))
        );
        seen.changes.remove(0);
        seen.queue.counts.paused = true;
        assert_eq!(codes(&seen), ["paused"]);
        assert!(diagnose(&seen)[0].message.contains("by ops at"));
    }
}
