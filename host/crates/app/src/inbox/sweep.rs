//! What is left to do for requests that were answered: jobs of processes that ended before they
//! added them, deferred requests, and counts. Every process does this; they take different rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use patchbay_model::job::{NewJob, Trace};
use patchbay_model::webhook::InboxState;
use patchbay_store::{InboxRequest, Judgement, PendingJobs, Settled, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

use super::InboxParts;
use super::counts::Outcome;
use super::event::Content;
use super::judging::{Asked, Judged};
use super::receive::jobs_to_bytes;
use super::seal::Part;
use super::writer::{Enqueuing, add_jobs};
use crate::Parts;
use crate::error::Error;
use crate::plugins::{Runner, Webhook};
use crate::service::{Service, task};

const POLL: Duration = Duration::from_secs(1);
const FLUSH: Duration = Duration::from_secs(10);
/// How often it is read from which networks requests are accepted, and how many of them count.
const READ_NETWORKS: Duration = Duration::from_secs(600);
const MAX_NETWORKS: i64 = 10_000;
/// The wait of an event whose jobs could not be added; doubled with each try.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Deferred requests that a process takes at once, and judges at once.
const JUDGED: i64 = 32;
const AT_ONCE: usize = 4;
/// How long another process leaves them to it.
const LEASE: Duration = Duration::from_secs(60);
/// While the plugin cannot be asked, without counting.
const UNASKED_WAIT: Duration = Duration::from_secs(10);
/// A request that could not be judged so often is rejected.
const MAX_TRIES: i32 = 10;
/// Between tries: 10 of them take about a day.
const FIRST_TRY_WAIT: Duration = Duration::from_secs(5);
const LONGEST_TRY_WAIT: Duration = Duration::from_secs(4 * 3_600);

/// Adds jobs that their process did not add.
pub fn sweep(parts: &Parts) -> Arc<dyn Service> {
    let inbox = Arc::clone(&parts.inbox);
    task("inbox-sweep", move |stop| {
        keep_sweeping(Arc::clone(&inbox), stop)
    })
}

/// Judges deferred requests.
pub fn judging(parts: &Parts) -> Arc<dyn Service> {
    let inbox = Arc::clone(&parts.inbox);
    task("inbox-judging", move |stop| {
        keep_judging(Arc::clone(&inbox), stop)
    })
}

/// Writes down what was counted.
pub fn counting(parts: &Parts) -> Arc<dyn Service> {
    let inbox = Arc::clone(&parts.inbox);
    task("inbox-counts", move |stop| {
        keep_counting(Arc::clone(&inbox), stop)
    })
}

async fn keep_sweeping(inbox: Arc<InboxParts>, stop: CancellationToken) {
    let mut was_failing = false;
    loop {
        let swept = async {
            inbox.warm_up().await.ok();
            inbox.sweep().await
        };
        tell(
            swept.await,
            &mut was_failing,
            "jobs of webhooks cannot be looked after; trying again",
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn keep_judging(inbox: Arc<InboxParts>, stop: CancellationToken) {
    let mut was_failing = false;
    loop {
        let judged = async {
            let counts = inbox.store.deferred_counts().await?;
            let is_any = !counts.is_empty();
            inbox.deferred.set(counts);
            while is_any && !stop.is_cancelled() && inbox.judge_deferred().await? {}
            Ok(())
        };
        tell(
            judged.await,
            &mut was_failing,
            "deferred requests to webhooks cannot be judged; trying again",
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn keep_counting(inbox: Arc<InboxParts>, stop: CancellationToken) {
    let mut was_failing = false;
    let mut read_at: Option<Instant> = None;
    loop {
        if read_at.is_none_or(|at| at.elapsed() > READ_NETWORKS)
            && let Ok(known) = inbox.store.inbox_networks(MAX_NETWORKS).await
        {
            inbox.counts.set_known(known);
            read_at = Some(Instant::now());
        }
        let is_stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(FLUSH) => false,
        };
        inbox.counts.note_running();
        let flushed = inbox.counts.flush(&inbox.store).await;
        tell(
            flushed,
            &mut was_failing,
            "counts of requests to webhooks cannot be written; trying again",
        );
        if is_stopped {
            return;
        }
    }
}

/// Of what fails, the first is told.
fn tell(ended: Result<(), StoreError>, was_failing: &mut bool, what: &str) {
    match ended {
        Ok(()) => *was_failing = false,
        Err(error) if !*was_failing => {
            *was_failing = true;
            warn!(%error, "{what}");
        }
        Err(_) => {}
    }
}

fn wait(first: Duration, tries: i32, longest: Duration) -> Duration {
    let doubled = 1_u32
        .checked_shl(tries.clamp(0, 30).unsigned_abs())
        .unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(longest)
}

impl InboxParts {
    /// Adds the jobs of requests that were left accepted.
    async fn sweep(&self) -> Result<(), StoreError> {
        while let Some(mut batch) = self.store.take_accepted().await? {
            let (mut enqueuing, mut later): (Vec<Enqueuing>, Vec<(Uuid, Duration)>) =
                <_>::default();
            let mut done = Vec::new();
            let rows = std::mem::take(&mut batch.rows);
            for row in &rows {
                match self.jobs_of(row).await? {
                    Some(jobs) => {
                        let jobs = self.unknown(jobs).await?;
                        if jobs.is_empty() {
                            done.push(row.id);
                            continue;
                        }
                        enqueuing.push(Enqueuing {
                            id: row.id,
                            made_ms: u64::try_from(row.received_at.timestamp_millis())
                                .unwrap_or_default(),
                            jobs,
                        });
                    }
                    None => {
                        error!(id = %row.id, plugin = %row.plugin, webhook = row.webhook, key = row.sealed_key, "the jobs of a request to a webhook cannot be opened: set secrets.old_key_file to the previous master key, then run patchbay secret rekey");
                        later.push((row.id, LONGEST_WAIT));
                    }
                }
            }
            let added = match enqueuing.is_empty() {
                true => Vec::new(),
                false => add_jobs(&self.broker, &enqueuing).await,
            };
            for row in &rows {
                if enqueuing.iter().any(|of| of.id == row.id) && !added.contains(&row.id) {
                    later.push((row.id, wait(FIRST_WAIT, row.tries, LONGEST_WAIT)));
                }
            }
            let waits = !later.is_empty();
            done.extend(added);
            batch.done(&done, &later).await?;
            if waits {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn jobs_of(&self, row: &PendingJobs) -> Result<Option<Vec<NewJob>>, StoreError> {
        let Some(sealed) = &row.jobs_sealed else {
            return Ok(Some(Vec::new()));
        };
        let Some(key) = self.seals.key(&row.sealed_key).await? else {
            return Ok(None);
        };
        let opened = key.open(row.id, Part::Jobs, sealed);
        Ok(opened.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Jobs that have run are not added again, although Redis may have forgotten them.
    async fn unknown(&self, jobs: Vec<NewJob>) -> Result<Vec<NewJob>, StoreError> {
        let Some(queue) = jobs.first().map(|job| job.queue.clone()) else {
            return Ok(jobs);
        };
        let ids: Vec<String> = jobs
            .iter()
            .filter_map(|job| job.id.as_ref().map(ToString::to_string))
            .collect();
        let known = self
            .store
            .recorded_jobs(self.broker.prefix(), &queue, &ids)
            .await?;
        let is_new = |job: &NewJob| {
            job.id
                .as_ref()
                .is_none_or(|id| !known.iter().any(|known| known == id.as_str()))
        };
        Ok(jobs.into_iter().filter(is_new).collect())
    }

    /// Judges some deferred requests of webhooks that can judge now; whether there may be more.
    async fn judge_deferred(&self) -> Result<bool, StoreError> {
        let table = self.plugins.route_table();
        let able: Vec<&Arc<Webhook>> = table
            .webhooks()
            .iter()
            .filter(|webhook| matches!(webhook.runner, Runner::Revision(_)))
            .collect();
        let names: Vec<(&str, &str)> = able
            .iter()
            .map(|webhook| (webhook.plugin.as_str(), webhook.spec.name.as_str()))
            .collect();
        if names.is_empty() {
            return Ok(false);
        }
        let rows = self.store.take_deferred(&names, JUDGED, LEASE).await?;
        let is_full = rows.len() as i64 == JUDGED;
        let judge = |row: InboxRequest| {
            let webhook = able
                .iter()
                .find(|webhook| webhook.plugin == row.plugin && webhook.spec.name == row.webhook);
            let webhook = webhook.map(|webhook| Arc::clone(webhook));
            async move {
                match webhook {
                    Some(webhook) => self.judge_again(&webhook, &row).await.map(drop),
                    None => Ok(()),
                }
            }
        };
        let judged = futures::stream::iter(rows.into_iter().map(judge));
        futures::TryStreamExt::try_collect::<()>(futures::StreamExt::buffer_unordered(
            judged, AT_ONCE,
        ))
        .await?;
        Ok(is_full)
    }

    /// Judges a kept request at its original time, and writes down what was said.
    pub(super) async fn judge_again(
        &self,
        webhook: &Webhook,
        row: &InboxRequest,
    ) -> Result<Settled, StoreError> {
        let (judgement, jobs) = match self.judgement(webhook, row).await {
            Ok(judgement) => judgement,
            Err(error) => {
                let judgement = Judgement::Unjudged {
                    code: "host-fault".into(),
                    message: error.message,
                    wait: UNASKED_WAIT,
                    is_counted: false,
                };
                (judgement, Vec::new())
            }
        };
        self.apply(webhook, row, &judgement, jobs).await
    }

    /// Writes down what is said of a kept request, and adds its jobs.
    pub(super) async fn apply(
        &self,
        webhook: &Webhook,
        row: &InboxRequest,
        judgement: &Judgement,
        jobs: Vec<NewJob>,
    ) -> Result<Settled, StoreError> {
        let settled = self.store.settle(row.id, judgement).await?;
        match settled {
            Settled::State(InboxState::Accepted) => {
                self.counts.count(webhook, Outcome::Accepted, "");
                self.counts.note_source(webhook, None);
                self.writer.enqueue(Enqueuing {
                    id: row.id,
                    made_ms: u64::try_from(row.received_at.timestamp_millis()).unwrap_or_default(),
                    jobs,
                });
            }
            Settled::State(InboxState::Recorded) => {
                self.counts.count(webhook, Outcome::Accepted, "");
                self.counts.note_source(webhook, None);
            }
            // One that was rejected before has been counted.
            Settled::State(InboxState::Rejected) if row.state != InboxState::Rejected => {
                if let Judgement::Rejected { code, .. } = judgement {
                    self.counts.count(webhook, Outcome::Rejected, code);
                }
            }
            Settled::State(InboxState::Repeat) => self.counts.count(webhook, Outcome::Repeat, ""),
            Settled::State(_) | Settled::Changed => {}
        }
        Ok(settled)
    }

    /// What a kept request was; `None` where its content is gone or cannot be opened.
    pub(super) async fn content(&self, row: &InboxRequest) -> Result<Option<Content>, StoreError> {
        let Some(sealed) = &row.sealed else {
            return Ok(None);
        };
        let Some(key) = self.seals.key(&row.sealed_key).await? else {
            return Ok(None);
        };
        let opened = key.open(row.id, Part::Request, sealed);
        Ok(opened.and_then(|bytes| Content::from_bytes(&bytes)))
    }

    pub(super) async fn judgement(
        &self,
        webhook: &Webhook,
        row: &InboxRequest,
    ) -> Result<(Judgement, Vec<NewJob>), Error> {
        let Some(content) = self.content(row).await? else {
            let judgement = Judgement::Unjudged {
                code: "sealed".into(),
                message: format!(
                    "Its content cannot be opened: sealed with the key {}, which no configured master key opens",
                    row.sealed_key
                ),
                wait: LONGEST_TRY_WAIT,
                is_counted: false,
            };
            return Ok((judgement, Vec::new()));
        };
        let trace = Trace {
            correlation_id: Some(row.correlation_id.clone()),
            platform: content.platform.clone(),
            traceparent: None,
        };
        let checked = self.check(webhook, &content.request);
        let judged = self
            .judge(webhook, &content, checked, Asked::Again(0), &trace)
            .await?;
        let revision = Some(webhook.digest.to_string());
        let accepted = match judged {
            Judged::Accepted(accepted) => accepted,
            Judged::Rejected(rejected) => {
                let judgement = Judgement::Rejected {
                    code: rejected.code,
                    message: rejected.message,
                    revision,
                };
                return Ok((judgement, Vec::new()));
            }
            Judged::Unjudged {
                code,
                message,
                is_counted,
            } => {
                let is_last = is_counted && row.tries + 1 >= MAX_TRIES;
                let judgement = match is_last {
                    true => Judgement::Rejected {
                        code: code.into(),
                        message: format!("{message}. It was tried {MAX_TRIES} times"),
                        revision,
                    },
                    false => Judgement::Unjudged {
                        code: code.into(),
                        message,
                        wait: match is_counted {
                            true => wait(FIRST_TRY_WAIT, row.tries * 3 / 2, LONGEST_TRY_WAIT),
                            false => UNASKED_WAIT,
                        },
                        is_counted,
                    },
                };
                return Ok((judgement, Vec::new()));
            }
        };
        let content = Content {
            event_id: accepted.event_id,
            ..content
        };
        let (sealed, sealed_key) = self.seal(row.id, Part::Request, content.to_bytes()).await?;
        let jobs_sealed = match accepted.jobs.is_empty() {
            true => None,
            false => Some(
                self.seal(row.id, Part::Jobs, jobs_to_bytes(&accepted.jobs))
                    .await?
                    .0,
            ),
        };
        let now = Utc::now();
        let spec = &webhook.spec;
        let judgement = Judgement::Accepted {
            event_key: accepted.key,
            kind: accepted.kind,
            revision,
            sealed,
            jobs_sealed,
            sealed_key,
            jobs: i32::try_from(accepted.jobs.len()).unwrap_or(i32::MAX),
            keep_until: now + chrono::TimeDelta::days(spec.retention_days.into()),
            remember_until: now + chrono::TimeDelta::days(spec.dedupe_days.into()),
        };
        Ok((judgement, accepted.jobs))
    }
}
