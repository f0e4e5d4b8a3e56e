//! Use cases of queues: listing and diagnosing them, and changing whole ones.

mod catalog;
mod changes;
pub mod diagnosis;
mod reason;
mod repeatables;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_api::answer::Page;
use patchbay_api::queues::{
    AllDone, Already, Clean, Cleared, Concurrency, Done, Drain, Failure, JobStatistics,
    MigrateRepeatables, MigratedRepeatable, Obliterate, PausedBy, PutBack, Queue, QueueOverview,
    QueuesClean, QueuesConcurrency, QueuesDrain, QueuesMigrateRepeatables, QueuesObliterate,
    QueuesPause, QueuesPauseAll, QueuesPutBack, QueuesRateLimit, QueuesResume, QueuesResumeAll,
    Rate, Reason, Switched,
};
use patchbay_model::grant::Ask;
use patchbay_model::job::JobState;
use patchbay_model::schedule::Zone;
use patchbay_model::{PluginName, QueueName};
use patchbay_queue::{Broker, QueueError, SchedulerView, Start};
use patchbay_store::{ActionRow, NamedRevision, PluginSql, ScheduleRow, Store, StoreError};
use patchbay_work::Workers;
use serde_json::json;

pub use self::catalog::Catalog;
use self::diagnosis::{QueueObservation, ScheduleObservation};
use crate::Parts;
use crate::actions::{Actions, Caller, Confirmation};
use crate::breakers::OutsideHosts;
use crate::error::{Error, Kind};
use crate::health::Health;
use crate::plugins::{AbsentPlugin, Plugins};
use crate::scheduling::{Reconciler, spec};

/// Failures of this time are told of an empty queue.
const LATELY: Duration = Duration::from_secs(3_600);

/// Default number of jobs that one `clean` removes.
const DEFAULT_CLEAN: u64 = 10_000;

#[derive(Clone)]
pub struct Queues {
    broker: Broker,
    store: Store,
    sql: PluginSql,
    plugins: Arc<Plugins>,
    outside: Arc<OutsideHosts>,
    health: Arc<Health>,
    workers: Arc<Workers>,
    schedules: Arc<Reconciler>,
    actions: Actions,
    catalog: Catalog,
    /// Whether BullMQ 5 works on the same queues. With it, some operations lose jobs.
    node_may_be_bullmq_5: bool,
}

impl Queues {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            store: parts.store.clone(),
            sql: parts.sql.clone(),
            plugins: Arc::clone(&parts.plugins),
            outside: Arc::clone(&parts.outside),
            health: Arc::clone(&parts.health),
            workers: Arc::clone(&parts.workers),
            schedules: Arc::clone(&parts.schedules),
            actions: parts.actions.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
            node_may_be_bullmq_5: parts.node_may_be_bullmq_5,
        }
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Lists every queue in Redis, in active manifests, and with history. While Postgres is away the
    /// list is partial: without queues that are only in the history.
    pub async fn list(&self) -> Result<Page<QueueOverview>, Error> {
        let (names, missing) = self.catalog.names_now().await?;
        let names: Vec<QueueName> = names.into_iter().collect();
        let mut items = self.broker.overview(&names).await?;
        let unknown = self.say_who_paused(&mut items).await?;
        Ok(Page {
            items,
            next_cursor: None,
            partial: missing.is_some() || unknown.is_some(),
        })
    }

    /// Returns why it is not known now.
    async fn say_who_paused(&self, queues: &mut [QueueOverview]) -> Result<Option<String>, Error> {
        let paused: Vec<&str> = queues
            .iter()
            .filter(|queue| queue.counts.paused)
            .map(|queue| queue.name.as_str())
            .collect();
        if paused.is_empty() {
            return Ok(None);
        }
        let switches = self.store.last_switches(&paused).await;
        let (switches, unavailable) = without_postgres(switches)?;
        for queue in queues.iter_mut().filter(|queue| queue.counts.paused) {
            let mut switches = switches.iter();
            let last = switches.find(|last| last.target == queue.name.as_str());
            queue.paused_by = last
                .filter(|last| last.action == "queue.pause")
                .map(|last| PausedBy {
                    by: last.actor.clone(),
                    at: last.began_at,
                    reason: last.reason.clone(),
                });
        }
        Ok(unavailable)
    }

    async fn overview(&self, queue: &QueueName) -> Result<QueueOverview, Error> {
        let overview = self
            .broker
            .overview(std::slice::from_ref(queue))
            .await?
            .into_iter()
            .next();
        overview.ok_or_else(Error::internal)
    }

    pub async fn show(&self, queue: &str) -> Result<Queue, Error> {
        let queue = self.catalog.known(queue).await?;
        let statistics = self.store.job_statistics(self.broker.prefix(), &queue);
        let (statistics, unavailable) = without_postgres(statistics.await)?;
        let mut overview = self.overview(&queue).await?;
        self.say_who_paused(std::slice::from_mut(&mut overview))
            .await?;
        Ok(Queue {
            overview,
            plugin: self
                .plugins
                .handler_of(&queue)
                .map(|plugin| plugin.to_string()),
            workers: self.broker.workers(&queue).await?,
            jobs: statistics.into_iter().map(statistics_view).collect(),
            unavailable,
        })
    }

    /// Diagnoses why a queue does not move.
    pub async fn why(&self, queue: &str) -> Result<Vec<Reason>, Error> {
        self.reasons(&self.catalog.known(queue).await?).await
    }

    /// As [`Self::why`], for a queue that is known to exist.
    pub async fn reasons(&self, queue: &QueueName) -> Result<Vec<Reason>, Error> {
        let plugin = self.plugins.handler_of(queue);
        let schedulers = match self.broker.schedulers(queue).await {
            // The overview says what is damaged.
            Err(QueueError::Damaged { .. }) => Vec::new(),
            schedulers => schedulers?,
        };
        let recorded = match self.recorded(queue, plugin.as_ref()).await {
            // What Redis and this process know is told all the same, and that Postgres is away.
            Err(error) if error.is_passing() => Recorded::default(),
            recorded => recorded?,
        };
        let now_ms = self.broker.now_ms();
        let mut ticks: Vec<&SchedulerView> = schedulers
            .iter()
            .filter(|view| view.alive && view.next_at > now_ms)
            .collect();
        ticks.sort_by_key(|view| view.next_at);
        let seen = QueueObservation {
            now: Utc::now(),
            queue: self.overview(queue).await?,
            workers: self.broker.workers(queue).await?,
            local: self.workers.local(queue).await,
            taken: self
                .broker
                .taken_keys(std::slice::from_ref(queue))
                .await?
                .into_iter()
                .flatten()
                .collect(),
            absent: recorded.absent,
            missing: recorded.missing,
            quarantined: self.plugins.quarantined_handler_of(queue),
            earlier_revision: recorded.earlier_revision,
            is_recorded: recorded.is_known,
            since: recorded.since,
            sql: plugin.as_ref().map(|plugin| self.sql.places_of(plugin)),
            breakers: plugin
                .iter()
                .flat_map(|plugin| self.outside.of(plugin))
                .collect(),
            plugin: plugin.map(|plugin| plugin.to_string()),
            changes: recorded.changes,
            only_delayed_job: self.only_delayed_job(queue).await,
            ticks: ticks.len() as u64,
            next_tick: ticks.first().map(|view| {
                let is_ours = recorded.schedules.iter().any(|row| row.id == view.id);
                (view.id.clone(), is_ours)
            }),
            schedules: schedules(&recorded.schedules, &schedulers, now_ms),
            failed_lately: recorded.failed_lately,
            acknowledged: recorded.acknowledged,
            not_ready: self.health.not_ready().await,
            redis_full: self.broker.is_full().await?,
        };
        Ok(diagnosis::diagnose(&seen))
    }

    /// The id of the delayed job, if there is exactly one and it can be read.
    async fn only_delayed_job(&self, queue: &QueueName) -> Option<String> {
        let (state, start) = (JobState::Delayed, Start::Place(0));
        let listed = self.broker.jobs(queue, state, start, 2).await.ok()?;
        match &listed.jobs[..] {
            [job] => Some(job.id.clone()),
            _ => None,
        }
    }

    /// What Postgres knows that may explain how the queue stands.
    async fn recorded(
        &self,
        queue: &QueueName,
        plugin: Option<&PluginName>,
    ) -> Result<Recorded, StoreError> {
        let absent = match plugin {
            Some(_) => None,
            None => self.plugins.absent_handler_of(queue).await?,
        };
        let missing = match plugin {
            Some(plugin) => self.plugins.missing_grants(plugin).await?,
            None => Vec::new(),
        };
        let schedules: Vec<ScheduleRow> = self.store.schedules().await?;
        let schedules: Vec<ScheduleRow> = schedules
            .into_iter()
            .filter(|row| row.queue == queue.as_str())
            .collect();
        let its_plugin = plugin.or(absent.as_ref().map(|absent| &absent.plugin));
        let ids: Vec<&str> = schedules.iter().map(|row| row.id.as_str()).collect();
        let (prefix, queues) = (self.broker.prefix(), Some(queue));
        let failed = self.store.failed_lately(prefix, queues, LATELY).await?;
        let acknowledged = self.store.acknowledged_failures(prefix, queues).await?;
        Ok(Recorded {
            is_known: true,
            changes: self.changes(queue, its_plugin, &ids).await?,
            failed_lately: Some(jobs_in(&failed)),
            acknowledged: jobs_in(&acknowledged),
            earlier_revision: match self.plugins.quarantined_handler_of(queue) {
                Some(quarantined) => self.store.rollback_target(&quarantined.plugin).await?,
                None => None,
            },
            since: self
                .store
                .first_trace_of_queue(self.broker.prefix(), queue)
                .await?,
            absent,
            missing,
            schedules,
        })
    }

    /// The newest first.
    async fn changes(
        &self,
        queue: &QueueName,
        plugin: Option<&PluginName>,
        schedules: &[&str],
    ) -> Result<Vec<ActionRow>, StoreError> {
        let plugin: Vec<&str> = plugin.map(PluginName::as_str).into_iter().collect();
        let breaker = async {
            match plugin.first() {
                Some(plugin) => self.store.last_breaker_actions(plugin).await,
                None => Ok(Vec::new()),
            }
        };
        let (queue, plugin, schedules, breaker, bulk) = tokio::try_join!(
            self.store.last_actions_on_queue(&changes::OF_QUEUE, queue),
            self.store.last_actions(&changes::OF_PLUGIN, &plugin),
            self.store.last_actions(&changes::OF_SCHEDULE, schedules),
            breaker,
            self.store.last_bulk_of_queue(self.broker.prefix(), queue),
        )?;
        let mut changes = [queue, plugin, schedules, breaker].concat();
        changes.extend(bulk);
        changes.sort_by_key(|change| std::cmp::Reverse(change.began_at));
        Ok(changes)
    }

    /// Refuses to pause: where BullMQ 5 may resume, a pause by Patchbay would lose jobs.
    fn refuse_in_a_mixed_fleet(&self) -> Result<(), Error> {
        if !self.node_may_be_bullmq_5 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Conflict,
            "mixed-fleet",
            "Not paused: while a queue is paused by BullMQ 6 its jobs stay where they are, and a resume by BullMQ 5 would overwrite them. Pause \
             with the Node side's own queue.pause(), or stop the workers (patchbay plugin deactivate NAME); resuming with Patchbay is safe \
             (redis.node_bullmq_major = 5 is configured)",
        ))
    }

    /// Who last paused or resumed the queue, if that is what `action` says. To be asked before the
    /// next such action is recorded.
    async fn last_switch(&self, queue: &QueueName, action: &str) -> Result<Already, Error> {
        let actions = ["queue.pause", "queue.resume"];
        let last = self.store.last_actions_on_queue(&actions, queue).await?;
        let last = last.into_iter().next().filter(|last| last.action == action);
        Ok(last.map_or_else(Already::default, |last| Already {
            by: Some(last.actor),
            at: Some(last.began_at),
            reason: last.reason,
        }))
    }

    pub async fn pause(&self, who: &Caller, queue: &str) -> Result<Switched, Error> {
        let queue = self.catalog.known(queue).await?;
        let already = match self.broker.counts(&queue).await?.paused {
            true => Some(self.last_switch(&queue, "queue.pause").await?),
            false => None,
        };
        let act = async {
            self.refuse_in_a_mixed_fleet()?;
            self.broker.pause(&queue).await?;
            Ok(switched(already))
        };
        self.actions
            .record::<QueuesPause, _>(who, queue.as_str(), json!({}), act)
            .await
    }

    pub async fn resume(&self, who: &Caller, queue: &str) -> Result<Switched, Error> {
        let queue = self.catalog.known(queue).await?;
        let before = self.overview(&queue).await?;
        // A resume also puts back what BullMQ 5 has put aside.
        let already = match before.counts.paused || before.put_aside > 0 {
            false => Some(self.last_switch(&queue, "queue.resume").await?),
            true => None,
        };
        let act = async {
            self.broker.resume(&queue).await?;
            Ok(switched(already))
        };
        self.actions
            .record::<QueuesResume, _>(who, queue.as_str(), json!({}), act)
            .await
    }

    /// `all` must be true: the caller confirms that every queue is meant.
    pub async fn pause_all(&self, who: &Caller, all: bool) -> Result<AllDone, Error> {
        require_all(all)?;
        let act = async {
            self.refuse_in_a_mixed_fleet()?;
            let mut done = AllDone::default();
            for queue in self.all().await? {
                match queue.counts.paused {
                    true => done.unchanged.push(queue.name.to_string()),
                    false => note(&mut done, &queue.name, self.broker.pause(&queue.name).await)?,
                }
            }
            Ok(done)
        };
        self.actions
            .record::<QueuesPauseAll, _>(who, "*", json!({}), act)
            .await
    }

    pub async fn resume_all(&self, who: &Caller, all: bool) -> Result<AllDone, Error> {
        require_all(all)?;
        let act = async {
            let mut done = AllDone::default();
            for queue in self.all().await? {
                // What is damaged is tried, so that it is told.
                let is_open = !queue.counts.paused && queue.put_aside == 0;
                match is_open && queue.error.is_none() {
                    true => done.unchanged.push(queue.name.to_string()),
                    false => note(
                        &mut done,
                        &queue.name,
                        self.broker.resume(&queue.name).await,
                    )?,
                }
            }
            Ok(done)
        };
        self.actions
            .record::<QueuesResumeAll, _>(who, "*", json!({}), act)
            .await
    }

    async fn all(&self) -> Result<Vec<QueueOverview>, Error> {
        let names: Vec<QueueName> = self.catalog.names().await?.into_iter().collect();
        Ok(self.broker.overview(&names).await?)
    }

    pub async fn drain(
        &self,
        who: &Caller,
        queue: &str,
        Drain { delayed, dry_run }: Drain,
    ) -> Result<Cleared, Error> {
        let queue = self.catalog.known(queue).await?;
        if dry_run {
            return Ok(cleared(self.broker.drainable(&queue, delayed).await?));
        }
        let act = async { Ok(cleared(self.broker.drain(&queue, delayed).await?)) };
        self.actions
            .record::<QueuesDrain, _>(who, queue.as_str(), json!({ "delayed": delayed }), act)
            .await
    }

    pub async fn clean(&self, who: &Caller, queue: &str, what: Clean) -> Result<Cleared, Error> {
        let queue = self.catalog.known(queue).await?;
        let Clean {
            state,
            older_than_ms,
            limit,
            dry_run,
        } = what;
        let details = json!({ "state": state, "olderThanMs": older_than_ms, "limit": limit });
        let (age, most) = (
            Duration::from_millis(older_than_ms),
            limit.unwrap_or(DEFAULT_CLEAN),
        );
        if dry_run {
            let there = cleared(self.broker.cleanable(&queue, state, age).await?);
            return Ok(Cleared {
                count: there.count.min(most),
                ..there
            });
        }
        let act = async { Ok(cleared(self.broker.clean(&queue, state, age, most).await?)) };
        self.actions
            .record::<QueuesClean, _>(who, queue.as_str(), details, act)
            .await
    }

    pub async fn put_back(
        &self,
        who: &Caller,
        queue: &str,
        PutBack { state, dry_run }: PutBack,
    ) -> Result<Done, Error> {
        let queue = self.catalog.known(queue).await?;
        if dry_run {
            return Ok(Done {
                count: self.broker.movable_to_wait(&queue, state).await?,
            });
        }
        let act = async {
            Ok(Done {
                count: self.broker.move_all_to_wait(&queue, state).await?,
            })
        };
        self.actions
            .record::<QueuesPutBack, _>(who, queue.as_str(), json!({ "state": state }), act)
            .await
    }

    pub async fn obliterate(
        &self,
        who: &Caller,
        queue: &str,
        sure: Obliterate,
    ) -> Result<Done, Error> {
        let queue = self.catalog.known(queue).await?;
        if sure
            .confirm
            .as_ref()
            .is_some_and(|name| name != queue.as_str())
        {
            return Err(Error::invalid(format!(
                "Nothing was done: `confirm` is not the queue's name. Set it to {queue}"
            )));
        }
        let act = async {
            Ok(Done {
                count: self.broker.obliterate(&queue).await?,
            })
        };
        let mut who = who.clone();
        if sure.confirm.is_some() {
            who.confirmation = Confirmation::Given;
        }
        self.actions
            .record::<QueuesObliterate, _>(&who, queue.as_str(), json!({}), act)
            .await
    }

    pub async fn limit_concurrency(
        &self,
        who: &Caller,
        queue: &str,
        limit: Concurrency,
    ) -> Result<(), Error> {
        let queue = self.catalog.known(queue).await?;
        let before = self.overview(&queue).await?.concurrency;
        let is_same = before == limit.max.map(u64::from);
        let act = async { Ok(self.broker.set_concurrency(&queue, limit.max).await?) };
        let details = json!({ "max": limit.max });
        self.actions
            .record_as::<QueuesConcurrency, _>(
                who,
                queue.as_str(),
                details,
                act,
                |()| json!({ "already": is_same }),
            )
            .await
    }

    pub async fn limit_rate(
        &self,
        who: &Caller,
        queue: &str,
        Rate { max, per_ms }: Rate,
    ) -> Result<(), Error> {
        let queue = self.catalog.known(queue).await?;
        let per_ms = per_ms.unwrap_or(1_000);
        let rate = max.map(|max| (max, Duration::from_millis(per_ms)));
        let is_same = self.overview(&queue).await?.rate == max.map(|max| (max, per_ms));
        let act = async { Ok(self.broker.set_rate(&queue, rate).await?) };
        let details = json!({ "max": max, "perMs": per_ms });
        self.actions
            .record_as::<QueuesRateLimit, _>(
                who,
                queue.as_str(),
                details,
                act,
                |()| json!({ "already": is_same }),
            )
            .await
    }

    /// Turns legacy repeatables into schedules, or previews that.
    pub async fn migrate_repeatables(
        &self,
        who: &Caller,
        queue: &str,
        MigrateRepeatables { dry_run }: MigrateRepeatables,
    ) -> Result<Vec<MigratedRepeatable>, Error> {
        let queue = self.catalog.known(queue).await?;
        let act = self.migrate(&who.actor, &queue, dry_run);
        // Data of jobs may be personal, so it is not recorded.
        let named = |migrated: &Vec<MigratedRepeatable>| {
            let one = |one: &MigratedRepeatable| json!({ "key": one.repeatable.key, "schedule": one.schedule, "reason": one.reason });
            migrated.iter().map(one).collect()
        };
        let details = json!({ "dryRun": dry_run });
        self.actions
            .record_as::<QueuesMigrateRepeatables, _>(who, queue.as_str(), details, act, named)
            .await
    }
}

fn switched(already: Option<Already>) -> Switched {
    Switched {
        count: u64::from(already.is_none()),
        already,
    }
}

/// What is known from Postgres.
#[derive(Default)]
struct Recorded {
    /// False while Postgres is away.
    is_known: bool,
    changes: Vec<ActionRow>,
    absent: Option<AbsentPlugin>,
    earlier_revision: Option<NamedRevision>,
    since: Option<DateTime<Utc>>,
    missing: Vec<Ask>,
    schedules: Vec<ScheduleRow>,
    failed_lately: Option<u64>,
    acknowledged: u64,
}

/// Of numbers of jobs by queue, the sum.
fn jobs_in(counts: &[(String, i64)]) -> u64 {
    counts.iter().map(|(_, jobs)| jobs.unsigned_abs()).sum()
}

/// Schedules of the queue, and job schedulers of BullMQ's clients.
fn schedules(
    rows: &[ScheduleRow],
    schedulers: &[SchedulerView],
    now_ms: u64,
) -> Vec<ScheduleObservation> {
    let late = |view: &SchedulerView| {
        let late = now_ms.saturating_sub(view.next_at);
        Duration::from_millis(if view.alive { late } else { 0 })
    };
    let ours = rows.iter().map(|row| {
        let scheduler = schedulers.iter().find(|view| view.id == row.id);
        ScheduleObservation {
            id: row.id.clone(),
            paused: row.paused_by.clone().map(|by| (by, row.paused_at)),
            late: scheduler.map(late).unwrap_or_default(),
            trouble: spec(row, Zone::UTC)
                .err()
                .or_else(|| scheduler.and_then(|view| view.trouble.clone())),
        }
    });
    let is_ours = |view: &SchedulerView| rows.iter().any(|row| row.id == view.id);
    let others = schedulers.iter().filter(|view| !is_ours(view));
    let others = others.map(|view| ScheduleObservation {
        id: view.id.clone(),
        paused: None,
        late: late(view),
        trouble: view.trouble.clone(),
    });
    ours.chain(others).collect()
}

fn cleared(done: patchbay_queue::Cleared) -> Cleared {
    Cleared {
        count: done.removed,
        removed_before: done.removed_before,
    }
}

/// What Postgres knows; while it is away nothing, and why.
pub(crate) fn without_postgres<T: Default>(
    known: Result<T, StoreError>,
) -> Result<(T, Option<String>), Error> {
    match known {
        Ok(known) => Ok((known, None)),
        Err(error) if error.is_passing() => Ok((T::default(), Some(Error::from(error).message))),
        Err(error) => Err(error.into()),
    }
}

fn require_all(all: bool) -> Result<(), Error> {
    if all {
        return Ok(());
    }
    Err(Error::invalid(
        "Nothing was done. To act on every queue, send the body {\"all\": true}. For the queue whose name is a point, write ~. in the path",
    ))
}

/// Continues after an error of one queue's data. Fails on any other error.
fn note(all: &mut AllDone, queue: &QueueName, done: Result<(), QueueError>) -> Result<(), Error> {
    match done {
        Ok(()) => {
            all.count += 1;
            all.queues.push(queue.to_string());
        }
        Err(error @ QueueError::Damaged { .. }) => {
            all.failures.push(Failure {
                queue: queue.to_string(),
                message: error.to_string(),
            });
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn statistics_view(row: patchbay_store::JobStatistics) -> JobStatistics {
    JobStatistics {
        name: row.name,
        last_minute: row.last_minute,
        last_15_minutes: row.last_15_minutes,
        last_day: row.last_day,
        not_completed: row.not_completed,
        p50_ms: row.p50_ms,
        p95_ms: row.p95_ms,
        p99_ms: row.p99_ms,
    }
}
