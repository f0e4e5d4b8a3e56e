//! The rounds: each process says what only it can see; the leader looks at everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use patchbay_model::QueueName;
use patchbay_store::{AlertChange, LeaderTask, Leadership, StoreError};
use tracing::{debug, info, warn};

use super::evaluate::{AlertState, evaluate};
use super::observation::RuleObservations;
use super::observe::Sources;
use super::reports::HostReport;
use super::{AlertWatch, answered, channel, logins, operators};
use crate::leader::{LedTask, Next};

/// For one whole round; the questions have limits of their own.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
/// Dead-man services expect a sign each minute or so.
const PING_EVERY: Duration = Duration::from_secs(60);
/// Rows that nobody asks for any more go.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
/// Queues of which only Redis knows are looked for once in so many rounds: it is a walk over all
/// keys.
const ROUNDS_PER_WALK: u32 = 20;
/// Millions of keys take seconds.
const WALK_LIMIT: Duration = Duration::from_secs(20);
/// More time than this between two looks is not counted: nobody knows what was the case meanwhile.
const ROUNDS_COUNTED: u32 = 4;

/// What the evaluating process remembers between rounds.
#[derive(Default)]
struct Memory {
    /// As it stood after the last round; absent in a process that does not evaluate.
    known: Option<AlertState>,
    looked: Option<Instant>,
    /// What changed while Postgres was away, for when it is back.
    alone: Vec<AlertChange>,
    /// When Redis was walked for queues.
    walked: Option<Instant>,
    /// Those that it knew then.
    in_redis: BTreeSet<QueueName>,
    /// All queues that were looked at.
    queues: BTreeSet<QueueName>,
    pinged: Option<Instant>,
    forgot: Option<Instant>,
}

/// The rounds of this process.
pub(super) struct Rounds {
    alerts: Arc<AlertWatch>,
    memory: Memory,
    /// What this process has seen for this round.
    own: HostReport,
}

impl Rounds {
    pub(super) fn new(alerts: Arc<AlertWatch>) -> Self {
        Self {
            alerts,
            memory: Memory::default(),
            own: HostReport::default(),
        }
    }
}

#[async_trait]
impl LedTask for Rounds {
    const TASK: LeaderTask = LeaderTask::Alerts;
    const NAME: &'static str = "alerts";
    const FAILING: &'static str =
        "alerts are not evaluated for all hosts; the last leader continues with what it knows";

    fn every(&self) -> Duration {
        self.alerts.every
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        self.own = self.alerts.sources.own(self.alerts.channel_names()).await;
        Ok(true)
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        let evaluated = self
            .alerts
            .evaluate_as_leader(lead, self.own.clone(), &mut self.memory);
        let round = async { tokio::join!(self.alerts.report(&self.own), evaluated).1 };
        in_time(round).await?;
        Ok(Next::Later)
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        let followed = self.alerts.follow(&mut self.memory);
        let round = async { tokio::join!(self.alerts.report(&self.own), followed).1 };
        Ok(in_time(round).await?)
    }

    /// Nothing is half done: it was one transaction.
    async fn on_error(&mut self, _error: &anyhow::Error) {
        let alone = self.alerts.evaluate_alone(&self.own, &mut self.memory);
        tokio::join!(self.alerts.report(&self.own), alone);
    }

    /// Otherwise its breakers would be open for others a while longer.
    async fn farewell(&mut self) {
        self.alerts
            .sources
            .store
            .forget_sightings(self.alerts.host())
            .await
            .ok();
    }
}

async fn in_time(round: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
    tokio::time::timeout(ROUND_LIMIT, round)
        .await
        .unwrap_or_else(|_| {
            warn!("a round of alert rules took too long and was stopped; the next round follows");
            Ok(())
        })
}

impl AlertWatch {
    /// Tells the others what this process sees.
    async fn report(&self, own: &HostReport) {
        let report = serde_json::to_value(own).unwrap_or_default();
        if let Err(error) =
            answered(self.sources.store.report_sightings(self.host(), &report)).await
        {
            debug!(%error, "this host's observations could not be stored for the other hosts");
        }
    }

    async fn evaluate_as_leader(
        &self,
        lead: &mut Leadership<'_>,
        own: HostReport,
        memory: &mut Memory,
    ) -> Result<(), StoreError> {
        if !memory.alone.is_empty() {
            answered(lead.save_alerts(&memory.alone)).await?;
            memory.alone.clear();
        }
        self.deliveries.store_remembered().await?;
        if memory.known.is_none() {
            info!("this host evaluates the alerts of all hosts");
        }
        let (mut known, mut sightings) = answered(self.known()).await?;
        // Whether or not Postgres has taken the newest.
        sightings.retain(|(host, _)| host != self.host());
        sightings.push((self.host().to_owned(), own));
        let (seen, is_complete) = self.look(&sightings, memory).await?;
        let changes = evaluate(&known, &seen, &self.round(self.passed(memory)));
        if let Err(error) = answered(lead.save_alerts(&changes)).await {
            // A Postgres that may only be read gives the lock and takes no alert: this process goes
            // on with what it has read.
            memory.known = Some(known);
            return Err(error);
        }
        self.log(&changes);
        known.apply(&changes);
        self.note_firing(&known);
        memory.known = Some(known);
        if changes.iter().any(|change| change.tell.is_some()) {
            self.deliveries.wake();
        }
        if memory.forgot.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
            answered(lead.prune_alerts()).await?;
            memory.forgot = Some(Instant::now());
        }
        if is_complete {
            self.send_ping(memory);
        }
        Ok(())
    }

    /// Another process evaluates. What this one did while Postgres was away is handed over.
    async fn follow(&self, memory: &mut Memory) -> Result<(), StoreError> {
        if !memory.alone.is_empty() {
            answered(self.sources.store.save_alerts(&memory.alone)).await?;
        }
        *memory = Memory::default();
        self.deliveries.store_remembered().await?;
        let (known, _) = answered(self.known()).await?;
        self.note_firing(&known);
        Ok(())
    }

    /// In the process that evaluated last, by what it remembers.
    async fn evaluate_alone(&self, own: &HostReport, memory: &mut Memory) {
        if memory.known.is_none() {
            return;
        }
        let mut seen = self.sources.of_this_process(own);
        seen.push(logins::of_this_process(self.host(), own));
        // The same as before: one that is not looked at would count as in order.
        memory.queues.extend(self.sources.plugins.queues());
        if let Ok(in_redis) =
            tokio::time::timeout(super::ANSWER_WITHIN, self.sources.in_redis(&memory.queues)).await
        {
            seen.extend(in_redis.unwrap_or_default());
        }
        seen.extend(self.spill().await);
        let passed = self.passed(memory);
        let Some(known) = &mut memory.known else {
            return;
        };
        let changes = evaluate(known, &seen, &self.round(passed));
        known.apply(&changes);
        self.note_firing(known);
        self.log(&changes);
        self.tell_directly(&changes);
        let events = changes.into_iter().filter(|change| change.event.is_some());
        memory.alone.extend(events.map(|change| AlertChange {
            tell: None,
            ..change
        }));
    }

    /// Everything; false when not everything could be looked at.
    async fn look(
        &self,
        sightings: &[(String, HostReport)],
        memory: &mut Memory,
    ) -> Result<(Vec<RuleObservations>, bool), StoreError> {
        let Sources {
            store,
            queues,
            plugins,
            ..
        } = &self.sources;
        let hosts = answered(store.hosts()).await?.into_iter();
        let silent: Vec<_> = hosts
            .filter_map(|host| Some((host.host, host.silent_for?)))
            .collect();
        let mut seen = self.sources.of_processes(sightings, &silent);
        seen.extend(logins::of_processes(sightings));
        seen.extend(self.sources.in_postgres().await?);
        seen.extend(logins::in_postgres(store).await?);
        seen.extend(operators::in_postgres(store).await?);
        seen.extend(answered(self.sources.inbox_in_postgres(sightings)).await?);
        let schedules = self.sources.schedules().await?;
        let mut names: BTreeSet<QueueName> = plugins.queues().into_iter().collect();
        names.extend(answered(store.queues_with_history(queues.prefix())).await?);
        let walk_every = self.every * ROUNDS_PER_WALK;
        if memory.walked.is_none_or(|at| at.elapsed() >= walk_every) {
            if let Ok(Ok(found)) = tokio::time::timeout(WALK_LIMIT, queues.list()).await {
                memory.in_redis = found.into_iter().collect();
            }
            memory.walked = Some(Instant::now());
        }
        names.extend(memory.in_redis.iter().cloned());
        memory.queues.clone_from(&names);
        let in_redis =
            tokio::time::timeout(super::ANSWER_WITHIN, self.sources.in_redis(&names)).await;
        seen.extend(self.spill().await);
        let is_complete = schedules.is_some() && matches!(in_redis, Ok(Ok(_)));
        seen.extend(schedules.into_iter().flatten());
        seen.extend(in_redis.ok().and_then(Result::ok).unwrap_or_default());
        Ok((seen, is_complete))
    }

    /// Requests to webhooks that wait in Redis, while it answers.
    async fn spill(&self) -> Option<RuleObservations> {
        let look = self.sources.inbox_in_redis();
        tokio::time::timeout(super::ANSWER_WITHIN, look)
            .await
            .ok()?
            .ok()
    }

    /// Since this process's last look.
    fn passed(&self, memory: &mut Memory) -> Duration {
        let passed = memory
            .looked
            .replace(Instant::now())
            .map_or(Duration::ZERO, |at| at.elapsed());
        passed.min(self.every * ROUNDS_COUNTED)
    }

    /// Says that alerts work. Nobody waits for it, and a service that hangs gets one question at a
    /// time.
    fn send_ping(&self, memory: &mut Memory) {
        let Some((http, url)) = self.ping.clone() else {
            return;
        };
        if memory.pinged.is_some_and(|at| at.elapsed() < PING_EVERY) {
            return;
        }
        memory.pinged = Some(Instant::now());
        let request = http.get(url);
        tokio::spawn(async move {
            if let Err(error) = channel::ask(request).await {
                warn!(error, "alerts.ping_url could not be reached");
            }
        });
    }
}
