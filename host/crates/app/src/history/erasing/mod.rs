//! Erases a person's data, or a job's, from all that this installation holds: Postgres, BullMQ's
//! keys and Patchbay's own keys in Redis.
//!
//! The jobs are found first and written down. Then they are removed from Redis, and after that from
//! the history. When that is interrupted, the leader of the history's duty completes it
//! ([`Erasing::go_on`]); running jobs are erased once they have ended. A repetition changes
//! nothing.

mod find;
mod remove;

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use patchbay_api::history::{Erasure, Live, LiveJob, Places};
use patchbay_model::job::{JobKey, JobState};
use patchbay_model::redaction::Mask;
use patchbay_model::{DataPath, JobId, QueueName};
use patchbay_queue::{Broker, Deduplicated, QueueError};
use patchbay_store::{ErasedJob, NewErasure, PendingErasure, Store, StoreError, Texts};
use tracing::info;

use self::find::{Found, LOOK_FOR, Subject};
use super::SealedBodies;
use crate::inbox::{InboxParts, Sought};

/// Most jobs that an answer names.
const MOST_NAMED: usize = 100;
/// Jobs per round of completing interrupted erasures.
const PER_ROUND: i64 = 200;

#[derive(Debug, Clone)]
pub(crate) struct EraseTarget {
    /// A path in job data, and the person's value there.
    pub person: Option<(DataPath, String)>,
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Only this job. Needs a queue.
    pub job: Option<JobId>,
    /// Whether jobs that have not run yet are erased, too.
    pub unfinished: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester<'a> {
    pub actor: &'a str,
    pub reason: &'a str,
}

/// Adds the counts of texts that hold the value.
fn with_texts(mut places: Places, texts: &Texts) -> Places {
    places.saved_searches = texts.saved_searches;
    places.bulk_operations = texts.bulk_operations;
    places.dead_letters = texts.dead_letters;
    places.operator_actions = texts.operator_actions;
    places.alerts = texts.alerts;
    places.schedules = texts.schedules;
    places.reasons = texts.reasons;
    places.audit_entries_left = texts.audit_entries;
    places.bulk_operations_left = texts.active_bulk_operations;
    places.outbox_left = texts.outbox;
    places
}

#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(crate) struct Erasing<'a> {
    pub store: &'a Store,
    pub queues: &'a Broker,
    /// Opens the results of parents in flows. Not needed by [`Erasing::go_on`], which knows the
    /// jobs.
    pub bodies: Option<&'a SealedBodies>,
    /// Likewise: what vendors have sent.
    pub inbox: Option<&'a InboxParts>,
}

impl Erasing<'_> {
    /// Shows what [`Erasing::erase`] would do.
    pub(crate) async fn preview(&self, wanted: &EraseTarget) -> Result<Erasure, EraseError> {
        let subject = self.subject(wanted).await?;
        let mut found = self.find(wanted, subject.as_ref()).await?;
        let (meant, mut left) = self.sort(&found, wanted.unfinished);
        let jobs: Vec<ErasedJob> = found.jobs.iter().cloned().collect();
        let mut places = Places::default();
        self.in_inbox(wanted, subject.as_ref(), &mut found, &mut places, true)
            .await?;
        let kept = self.kept(wanted, subject.as_ref()).await?;
        let kept_count = kept.len() as u64;
        for located in &found.located {
            match left.iter().any(|job| {
                job.id == located.key.id.as_str() && job.queue == located.key.queue.as_str()
            }) {
                true => {}
                false if is_ended(located.state) => places.redis_ended += 1,
                false => places.redis_unfinished += 1,
            }
        }
        if let Some(subject) = &subject {
            let texts = self
                .store
                .forget_texts(self.queues.prefix(), &subject.person(), true)
                .await?;
            places = with_texts(places, &texts);
        }
        places.undo_copies = found.copies.len() as u64;
        if wanted.unfinished {
            places.redis_unfinished += kept_count;
        } else {
            left.extend(kept.iter().map(left_kept));
        }
        let mask = subject.map(|subject| subject.mask).unwrap_or_default();
        self.elsewhere(&mut places, &meant, &left_keys(&found, &meant), &mask, true)
            .await?;
        let erasable = self.store.erasable(&jobs).await?;
        Ok(Erasure {
            jobs: meant.len(),
            attempts: erasable.attempts,
            bodies: erasable.bodies,
            places,
            waiting: self.queues.attempts_waiting().await?,
            ..report(found, left)
        })
    }

    pub(crate) async fn erase(
        &self,
        wanted: &EraseTarget,
        asker: Requester<'_>,
    ) -> Result<Erasure, EraseError> {
        let prefix = self.queues.prefix();
        let subject = self.subject(wanted).await?;
        let person = wanted
            .person
            .as_ref()
            .zip(subject.as_ref())
            .and_then(|((path, _), subject)| Some((path.as_str(), *subject.terms.first()?)));
        let erasure = self
            .store
            .begin_erasure(&NewErasure {
                prefix,
                person,
                queue: wanted.queue.as_ref().map(QueueName::as_str),
                job_id: wanted.job.as_ref().map(JobId::as_str),
                unfinished: wanted.unfinished,
                actor: asker.actor,
                reason: asker.reason,
            })
            .await?;
        // Texts come first, since an interrupted erasure cannot continue with them: the value is
        // not stored anywhere.
        let texts = match &subject {
            Some(subject) => {
                self.store
                    .forget_texts(prefix, &subject.person(), false)
                    .await?
            }
            None => Texts::default(),
        };
        let mut places = with_texts(Places::default(), &texts);
        // Before the jobs are searched: if one of these becomes a job meanwhile, the search finds
        // it.
        let mut left_behind = Vec::new();
        for kept in self.kept(wanted, subject.as_ref()).await? {
            if !wanted.unfinished {
                left_behind.push(left_kept(&kept));
            } else if self.queues.forget_kept(&kept.1).await? {
                places.redis_unfinished += 1;
            }
        }
        let mut found = self.find(wanted, subject.as_ref()).await?;
        // Before the jobs are written down: an erasure that is interrupted here has to be repeated.
        self.in_inbox(wanted, subject.as_ref(), &mut found, &mut places, false)
            .await?;
        let jobs: Vec<ErasedJob> = found.jobs.iter().cloned().collect();
        self.store.list_erased_jobs(erasure, &jobs).await?;
        let mask = subject.map(|subject| subject.mask).unwrap_or_default();
        let (erased, mut left) = self
            .erase_jobs(erasure, &jobs, wanted.unfinished, &mask, &mut places)
            .await?;
        let done = jobs.len() - left.len();
        left.extend(left_behind);
        places.undo_copies += self.forget_copies(&found.copies).await?;
        self.store.end_erasures(prefix).await?;
        let done = Erasure {
            erasure: Some(erasure),
            jobs: done,
            attempts: erased.attempts,
            bodies: erased.bodies,
            places,
            waiting: self.queues.attempts_waiting().await?,
            ..report(found, left)
        };
        self.store
            .count_erasure(
                erasure,
                &serde_json::json!({ "attempts": done.attempts, "places": places }),
            )
            .await?;
        info!(
            erasure,
            jobs = done.jobs,
            attempts = done.attempts,
            left = done.live.found,
            "data was erased"
        );
        Ok(done)
    }

    /// Completes interrupted erasures, and those of jobs that were running. Returns how many jobs
    /// were erased now.
    pub(crate) async fn go_on(&self) -> Result<usize, EraseError> {
        let pending = self
            .store
            .pending_erasures(self.queues.prefix(), PER_ROUND)
            .await?;
        if pending.is_empty() {
            return Ok(0);
        }
        let mut by_erasure: BTreeMap<(i64, bool), Vec<ErasedJob>> = BTreeMap::new();
        for PendingErasure {
            erasure,
            unfinished,
            job,
            ..
        } in pending
        {
            by_erasure
                .entry((erasure, unfinished))
                .or_default()
                .push(job);
        }
        let mut done = 0;
        for ((erasure, unfinished), jobs) in by_erasure {
            let mut places = Places::default();
            let (_, left) = self
                .erase_jobs(erasure, &jobs, unfinished, &Mask::default(), &mut places)
                .await?;
            let erased = jobs.len() - left.len();
            if erased > 0 {
                info!(erasure, jobs = erased, "data was erased");
            }
            done += erased;
        }
        self.store.end_erasures(self.queues.prefix()).await?;
        Ok(done)
    }

    /// What vendors have sent of the person, or from which one of the jobs came.
    async fn in_inbox(
        &self,
        wanted: &EraseTarget,
        subject: Option<&Subject>,
        found: &mut Found,
        places: &mut Places,
        only_count: bool,
    ) -> Result<(), EraseError> {
        let Some(inbox) = self.inbox else {
            return Ok(());
        };
        let jobs: HashSet<String> = found.jobs.iter().map(|job| job.job_id.clone()).collect();
        let no_mask = Mask::default();
        let path = wanted.person.as_ref().map(|(path, _)| path);
        let sought = Sought {
            person: path
                .zip(subject)
                .map(|(path, subject)| (path, subject.values.as_slice())),
            mask: subject.map_or(&no_mask, |subject| &subject.mask),
            jobs: &jobs,
            queue: wanted.queue.as_ref(),
        };
        places.inbox_left = inbox.drained(self.queues).await?;
        let until = Instant::now() + LOOK_FOR;
        let holding = inbox.holding(sought, until).await?;
        places.inbox_left += holding.left;
        if only_count {
            places.inbox = holding.ids.len() as u64;
            return Ok(());
        }
        let (erased, left) = inbox.erase_all(&holding.ids).await?;
        places.inbox = erased;
        places.inbox_left += left;
        Ok(())
    }

    /// Splits the jobs into those that are erased and those that are left.
    fn sort(&self, found: &Found, unfinished: bool) -> (Vec<ErasedJob>, Vec<LiveJob>) {
        let left: Vec<LiveJob> = found
            .located
            .iter()
            .filter_map(|located| {
                let why = match (located.state, &located.schedule) {
                    (JobState::Active, _) => "running",
                    (state, _) if is_ended(state) => return None,
                    (_, Some(_)) => "of-schedule",
                    _ if !unfinished => "unfinished",
                    _ => return None,
                };
                let (queue, id) = (located.key.queue.to_string(), located.key.id.to_string());
                Some(LiveJob {
                    queue,
                    id,
                    state: located.state,
                    why: why.to_owned(),
                })
            })
            .collect();
        let is_left = |job: &ErasedJob| {
            left.iter()
                .any(|left| left.queue == job.queue && left.id == job.job_id)
        };
        (
            found
                .jobs
                .iter()
                .filter(|job| !is_left(job))
                .cloned()
                .collect(),
            left,
        )
    }
}

fn is_ended(state: JobState) -> bool {
    matches!(
        state,
        JobState::Completed | JobState::Failed | JobState::Unknown
    )
}

fn of_key(key: &JobKey) -> ErasedJob {
    ErasedJob {
        prefix: key.prefix.clone(),
        queue: key.queue.to_string(),
        job_id: key.id.to_string(),
        job_created_ms: key.created_ms.try_into().unwrap_or(i64::MAX),
    }
}

fn key_of(job: &ErasedJob) -> Option<JobKey> {
    Some(JobKey {
        prefix: job.prefix.clone(),
        queue: job.queue.parse().ok()?,
        id: job.job_id.parse().ok()?,
        created_ms: job.job_created_ms.try_into().ok()?,
    })
}

/// BullMQ makes a job of it when the one before it ends.
fn left_kept((queue, kept): &(QueueName, Deduplicated)) -> LiveJob {
    LiveJob {
        queue: queue.to_string(),
        id: kept.id.clone(),
        state: JobState::Waiting,
        why: "unfinished".to_owned(),
    }
}

/// Idempotency keys of the jobs that are left.
fn left_keys(found: &Found, meant: &[ErasedJob]) -> HashSet<String> {
    found
        .jobs
        .iter()
        .filter(|job| !meant.contains(job))
        .filter_map(key_of)
        .map(|key| key.idempotency_key())
        .collect()
}

fn report(found: Found, left: Vec<LiveJob>) -> Erasure {
    let live = Live {
        found: left.len(),
        complete: found.complete,
        jobs: left.into_iter().take(MOST_NAMED).collect(),
    };
    Erasure {
        and_more: found.and_more,
        live,
        schedules: found.schedules,
        beyond: [
            "backups of Postgres and Redis",
            "incident bundles, exports and logs that were taken before",
            "audit trails, which are kept for good",
            "the person's account, if there is one, with its sessions",
            "answers that are kept for a day under an Idempotency-Key",
            "tables and services of plugins, and what was sent",
            "copies of other programs that work on the queues",
            "Redis's append-only file, until Redis rewrites it (BGREWRITEAOF)",
            "mail that patchbay dev has caught in its folder",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Erasure::default()
    }
}

impl From<EraseError> for crate::Error {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::Queue(error) => error.into(),
            EraseError::Store(error) => error.into(),
        }
    }
}
