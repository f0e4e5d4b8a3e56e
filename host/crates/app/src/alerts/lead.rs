//! The rounds: each process says what only it can see; the one that holds the lock looks at everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchbay_model::QueueName;
use patchbay_store::{AlertChange, Duty, Lead, Singleton, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::evaluate::{AlertState, evaluate};
use super::observe::{HostReport, RuleObservations, Sources};
use super::{AlertWatch, answered, channel};

/// For one whole round; the questions have limits of their own.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
/// Dead-man services expect a sign each minute or so.
const PING_EVERY: Duration = Duration::from_secs(60);
/// Rows that nobody asks for any more go.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
/// Queues of which only Redis knows are looked for once in so many rounds: it is a walk over all keys.
const ROUNDS_PER_WALK: u32 = 20;
/// Others find out by themselves.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
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

pub(super) async fn run(alerts: Arc<AlertWatch>, stop: CancellationToken) {
    let mut claim = alerts.sources.store.singleton(Duty::Alerts);
    let mut memory = Memory::default();
    loop {
        let round = tokio::time::timeout(ROUND_LIMIT, round(&alerts, &mut claim, &mut memory));
        tokio::select! {
            () = stop.cancelled() => break,
            ended = round => if ended.is_err() {
                warn!("a round of alerts takes too long and is given up; the next one follows");
            }
        }
        tokio::select! { () = stop.cancelled() => break, () = tokio::time::sleep(alerts.every) => {} }
    }
    let store = &alerts.sources.store;
    // Otherwise its breakers would be open for others a while longer.
    let farewell = async { tokio::join!(claim.resign(), store.forget_sightings(alerts.host())) };
    tokio::time::timeout(FAREWELL_LIMIT, farewell).await.ok();
}

async fn round(alerts: &AlertWatch, claim: &mut Singleton, memory: &mut Memory) {
    let own = alerts.sources.own(alerts.channel_names()).await;
    let report = serde_json::to_value(&own).unwrap_or_default();
    let said = answered(alerts.sources.store.report_sightings(alerts.host(), &report));
    let (said, lead) = tokio::join!(said, claim.try_lead());
    if let Err(error) = said {
        debug!(%error, "what this process sees is not told to the others");
    }
    let ended = match lead {
        Ok(Some(mut lead)) => alerts.evaluate_as_leader(&mut lead, own.clone(), memory).await,
        Ok(None) => alerts.follow(memory).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        // Nothing is half done: it was one transaction.
        claim.resign().await;
        if memory.known.is_some() {
            warn!(%error, "alerts are evaluated without Postgres, by what this process remembers");
            alerts.evaluate_alone(&own, memory).await;
        } else {
            debug!(%error, "nobody can say who evaluates alerts");
        }
    }
}

impl AlertWatch {
    async fn evaluate_as_leader(
        &self,
        lead: &mut Lead<'_>,
        own: HostReport,
        memory: &mut Memory,
    ) -> Result<(), StoreError> {
        if !memory.alone.is_empty() {
            answered(lead.save_alerts(&memory.alone)).await?;
            memory.alone.clear();
        }
        self.deliveries.store_remembered().await?;
        if memory.known.is_none() {
            info!("this process evaluates the alerts of all hosts");
        }
        let (mut known, mut sightings) = answered(self.known()).await?;
        // Whether or not Postgres has taken the newest.
        sightings.retain(|(host, _)| host != self.host());
        sightings.push((self.host().to_owned(), own));
        let (seen, is_complete) = self.look(&sightings, memory).await?;
        let changes = evaluate(&known, &seen, &self.round(self.passed(memory)));
        if let Err(error) = answered(lead.save_alerts(&changes)).await {
            // A Postgres that may only be read gives the lock and takes no alert: this process goes on with what it has read.
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

    async fn evaluate_alone(&self, own: &HostReport, memory: &mut Memory) {
        let mut seen = self.sources.of_this_process(own);
        // The same as before: one that is not looked at would count as in order.
        memory.queues.extend(self.sources.plugins.queues());
        if let Ok(in_redis) = tokio::time::timeout(super::ANSWER_WITHIN, self.sources.in_redis(&memory.queues)).await {
            seen.extend(in_redis.unwrap_or_default());
        }
        let passed = self.passed(memory);
        let Some(known) = &mut memory.known else { return };
        let changes = evaluate(known, &seen, &self.round(passed));
        known.apply(&changes);
        self.note_firing(known);
        self.log(&changes);
        self.tell_directly(&changes);
        let events = changes.into_iter().filter(|change| change.event.is_some());
        memory.alone.extend(events.map(|change| AlertChange { tell: None, ..change }));
    }

    /// Everything; false when not everything could be looked at.
    async fn look(
        &self,
        sightings: &[(String, HostReport)],
        memory: &mut Memory,
    ) -> Result<(Vec<RuleObservations>, bool), StoreError> {
        let Sources { store, queues, plugins, .. } = &self.sources;
        let hosts = answered(store.hosts()).await?.into_iter();
        let silent: Vec<_> = hosts.filter_map(|host| Some((host.host, host.silent_for?))).collect();
        let mut seen = self.sources.of_processes(sightings, &silent);
        seen.extend(self.sources.in_postgres().await?);
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
        let in_redis = tokio::time::timeout(super::ANSWER_WITHIN, self.sources.in_redis(&names)).await;
        let is_complete = schedules.is_some() && matches!(in_redis, Ok(Ok(_)));
        seen.extend(schedules.into_iter().flatten());
        seen.extend(in_redis.ok().and_then(Result::ok).unwrap_or_default());
        Ok((seen, is_complete))
    }

    /// Since this process's last look.
    fn passed(&self, memory: &mut Memory) -> Duration {
        let passed = memory.looked.replace(Instant::now()).map_or(Duration::ZERO, |at| at.elapsed());
        passed.min(self.every * ROUNDS_COUNTED)
    }

    /// Says that alerts work. Nobody waits for it, and a service that hangs gets one question at a time.
    fn send_ping(&self, memory: &mut Memory) {
        let Some((http, url)) = self.ping.clone() else { return };
        if memory.pinged.is_some_and(|at| at.elapsed() < PING_EVERY) {
            return;
        }
        memory.pinged = Some(Instant::now());
        let request = http.get(url);
        tokio::spawn(async move {
            if let Err(error) = channel::ask(request).await {
                warn!(error, "alerts.ping_url was not reached");
            }
        });
    }
}
