//! Erasing a person's data, or a job's, from all that this installation holds: Postgres, BullMQ's keys and our own.
//!
//! The jobs are found first and written down; then they are taken out of Redis, and then out of the history. Whatever cuts that short, the
//! host that looks after the history ends it ([`Erasing::go_on`]); jobs that run are erased once they have ended. Doing it again changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use patchbay_api::history::{Erasure, Live, LiveJob, Places};
use patchbay_model::job::{JobKey, JobState};
use patchbay_model::redaction::{Mask, forms, spellings};
use patchbay_model::{DataPath, JobId, QueueName};
use patchbay_queue::{Broker, Copy, Deduplicated, Erasing as Fate, Located, QueueError};
use patchbay_store::{Erased, ErasedJob, NewErasure, PendingErasure, Person, Store, StoreError, Term, Texts};
use tracing::info;

use super::SealedBodies;

/// For looking through the jobs in Redis: somebody waits.
const LOOK_FOR: Duration = Duration::from_secs(60);
/// For the recorder to copy what has ended just now.
const RECORDER_LIMIT: Duration = Duration::from_secs(3);
const RECORDER_PAUSE: Duration = Duration::from_millis(50);
/// Jobs named.
const MOST_NAMED: usize = 100;
/// Shorter values are parts of other words: they are not looked for in texts.
const LEAST_IN_TEXTS: usize = 9;
/// A parent's parents.
const MAX_GENERATIONS: usize = 16;
/// Results of a parent that are looked through.
const MOST_RESULTS: i64 = 100;
/// Jobs per round of whoever ends what was cut short.
const PER_ROUND: i64 = 200;

/// What is erased.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Where a value stands in the data of jobs, and the value.
    pub person: Option<(DataPath, String)>,
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Only this one; with a queue.
    pub job: Option<JobId>,
    /// Jobs that are still to run, too.
    pub unfinished: bool,
}

/// Who asks, and why.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub(crate) struct Asker<'a> {
    pub actor: &'a str,
    pub reason: &'a str,
}

/// With what texts hold the value.
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

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EraseError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Erases.
pub(crate) struct Erasing<'a> {
    /// Postgres.
    pub store: &'a Store,
    /// Redis.
    pub queues: &'a Broker,
    /// Opens what parents in flows have returned; whoever only goes on knows the jobs.
    pub bodies: Option<&'a SealedBodies>,
}

/// What was found.
struct Found {
    jobs: BTreeSet<ErasedJob>,
    located: Vec<Located>,
    copies: Vec<Copy>,
    schedules: Vec<String>,
    and_more: bool,
    complete: bool,
}

/// Whom it is about, in the spellings that they are found by.
struct Subject {
    path: String,
    values: Vec<String>,
    spellings: Vec<String>,
    mask: Mask,
    terms: Vec<Term>,
}

impl Subject {
    fn person(&self) -> Person<'_> {
        Person { path: &self.path, values: &self.values, spellings: &self.spellings, mask: &self.mask }
    }
}

impl Erasing<'_> {
    /// What [`Erasing::erase`] would do.
    pub(crate) async fn preview(&self, wanted: &Wanted) -> Result<Erasure, EraseError> {
        let subject = self.subject(wanted).await?;
        let found = self.find(wanted, subject.as_ref()).await?;
        let (meant, mut left) = self.sort(&found, wanted.unfinished);
        let jobs: Vec<ErasedJob> = found.jobs.iter().cloned().collect();
        let mut places = Places::default();
        let kept = self.kept(wanted, subject.as_ref()).await?;
        let kept_count = kept.len() as u64;
        for located in &found.located {
            match left.iter().any(|job| job.id == located.key.id.as_str() && job.queue == located.key.queue.as_str()) {
                true => {}
                false if is_ended(located.state) => places.redis_ended += 1,
                false => places.redis_unfinished += 1,
            }
        }
        if let Some(subject) = &subject {
            let texts = self.store.forget_texts(self.queues.prefix(), &subject.person(), true).await?;
            places = with_texts(places, &texts);
        }
        places.undo_copies = found.copies.len() as u64;
        if wanted.unfinished {
            places.redis_unfinished += kept_count;
        } else {
            left.extend(kept.iter().map(left_kept));
        }
        let mask = subject.map(|subject| subject.mask).unwrap_or_default();
        self.elsewhere(&mut places, &meant, &left_keys(&found, &meant), &mask, true).await?;
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

    /// Erases.
    pub(crate) async fn erase(&self, wanted: &Wanted, asker: Asker<'_>) -> Result<Erasure, EraseError> {
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
        // First, since nobody can go on with it: the value is written down nowhere.
        let texts = match &subject {
            Some(subject) => self.store.forget_texts(prefix, &subject.person(), false).await?,
            None => Texts::default(),
        };
        let mut places = with_texts(Places::default(), &texts);
        // Before the jobs are looked for: one that becomes a job meanwhile is found there.
        let mut left_behind = Vec::new();
        for kept in self.kept(wanted, subject.as_ref()).await? {
            if !wanted.unfinished {
                left_behind.push(left_kept(&kept));
            } else if self.queues.forget_kept(&kept.1).await? {
                places.redis_unfinished += 1;
            }
        }
        let found = self.find(wanted, subject.as_ref()).await?;
        let jobs: Vec<ErasedJob> = found.jobs.iter().cloned().collect();
        self.store.list_erased_jobs(erasure, &jobs).await?;
        let mask = subject.map(|subject| subject.mask).unwrap_or_default();
        let (erased, mut left) = self.erase_jobs(erasure, &jobs, wanted.unfinished, &mask, &mut places).await?;
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
        self.store.count_erasure(erasure, &serde_json::json!({ "attempts": done.attempts, "places": places })).await?;
        info!(erasure, jobs = done.jobs, attempts = done.attempts, left = done.live.found, "data was erased");
        Ok(done)
    }

    /// Ends erasures that were cut short, and those of jobs that ran. Gives how many jobs were erased now.
    pub(crate) async fn go_on(&self) -> Result<usize, EraseError> {
        let pending = self.store.pending_erasures(self.queues.prefix(), PER_ROUND).await?;
        if pending.is_empty() {
            return Ok(0);
        }
        let mut by_erasure: BTreeMap<(i64, bool), Vec<ErasedJob>> = BTreeMap::new();
        for PendingErasure { erasure, unfinished, job, .. } in pending {
            by_erasure.entry((erasure, unfinished)).or_default().push(job);
        }
        let mut done = 0;
        for ((erasure, unfinished), jobs) in by_erasure {
            let mut places = Places::default();
            let (_, left) = self.erase_jobs(erasure, &jobs, unfinished, &Mask::default(), &mut places).await?;
            let erased = jobs.len() - left.len();
            if erased > 0 {
                info!(erasure, jobs = erased, "data was erased");
            }
            done += erased;
        }
        self.store.end_erasures(self.queues.prefix()).await?;
        Ok(done)
    }

    async fn subject(&self, wanted: &Wanted) -> Result<Option<Subject>, EraseError> {
        let Some((path, value)) = &wanted.person else { return Ok(None) };
        // As the addresses within a text are found.
        let mut values: Vec<String> = Vec::new();
        for form in forms(value) {
            let small = form.contains('@').then(|| form.to_lowercase());
            for form in std::iter::once(form).chain(small) {
                if !values.contains(&form) {
                    values.push(form);
                }
            }
        }
        let spellings: BTreeSet<String> = forms(value).iter().flat_map(|form| spellings(form)).collect();
        let key = self.store.term_key().await?;
        let terms = values.iter().map(|value| key.term(path, value)).collect();
        let mask = if value.len() >= LEAST_IN_TEXTS { Mask::new([value.clone()]) } else { Mask::default() };
        let spellings = spellings.into_iter().collect();
        Ok(Some(Subject { path: path.to_string(), values, spellings, mask, terms }))
    }

    async fn find(&self, wanted: &Wanted, subject: Option<&Subject>) -> Result<Found, EraseError> {
        let (store, prefix) = (self.store, self.queues.prefix());
        let until = Instant::now() + LOOK_FOR;
        let mut found = Found {
            jobs: BTreeSet::new(),
            located: Vec::new(),
            copies: Vec::new(),
            schedules: Vec::new(),
            and_more: false,
            complete: true,
        };
        let queue = wanted.queue.as_ref().map(QueueName::as_str);
        match (&wanted.person, subject) {
            (Some((path, _)), Some(subject)) => {
                for term in &subject.terms {
                    let (jobs, and_more) = store.jobs_with(term, queue).await?;
                    found.and_more |= and_more;
                    found.jobs.extend(jobs.into_iter().filter(|job| job.prefix == prefix));
                }
                found.jobs.extend(store.jobs_saying(prefix, queue, &subject.person()).await?);
                let queues = match &wanted.queue {
                    Some(queue) => vec![queue.clone()],
                    None => self.queues.list().await?,
                };
                for queue in &queues {
                    let (located, complete) =
                        self.queues.jobs_with(queue, path, &subject.values, &subject.mask, until).await?;
                    found.located.extend(located);
                    found.complete &= complete;
                    found.schedules.extend(self.queues.schedulers_with(queue, path, &subject.values).await?);
                }
                for row in store.schedules().await? {
                    let is_meant =
                        queue.is_none_or(|queue| row.queue == queue) && path.holds(&row.data, &subject.values);
                    if is_meant && !found.schedules.contains(&row.id) {
                        found.schedules.push(row.id);
                    }
                }
                found.copies = self.queues.copies(|copy| copy.has(path, &subject.values)).await?;
            }
            _ => {
                if let (Some(queue), Some(id)) = (&wanted.queue, &wanted.job) {
                    found.jobs.extend(store.jobs_named(prefix, queue, id).await?);
                    found.located.extend(self.queues.locate(queue, id).await?);
                }
            }
        }
        if let Some(id) = &wanted.job {
            found.jobs.retain(|job| job.job_id == id.as_str());
            found.located.retain(|job| job.key.id == *id);
        }
        found.jobs.extend(found.located.iter().map(|located| of_key(&located.key)));
        if let Some(subject) = subject {
            self.find_parents(&mut found, subject).await?;
        }
        // Of history's jobs Redis may have some under other data; where they are tells what can be done.
        for job in &found.jobs {
            let is_known =
                |located: &Located| located.key.queue.as_str() == job.queue && located.key.id.as_str() == job.job_id;
            if found.located.iter().any(is_known) {
                continue;
            }
            let (Ok(queue), Ok(id)) = (job.queue.parse::<QueueName>(), job.job_id.parse::<JobId>()) else { continue };
            let located = self.queues.locate(&queue, &id).await?;
            found.located.extend(located.filter(|located| of_key(&located.key) == *job));
        }
        let named: HashSet<(String, i64)> =
            found.jobs.iter().map(|job| (format!("{}:{}", job.queue, job.job_id), job.job_created_ms)).collect();
        let known: HashSet<(i64, String)> = found.copies.iter().map(|copy| (copy.bulk, copy.job.clone())).collect();
        let is_named = |copy: &Copy| {
            let created = copy.created_ms.and_then(|at| i64::try_from(at).ok());
            let is_job = |at| {
                named.contains(&(copy.job.clone(), at))
                    || wanted
                        .queue
                        .as_ref()
                        .zip(wanted.job.as_ref())
                        .is_some_and(|(queue, id)| copy.job == format!("{queue}:{id}"))
            };
            created.is_some_and(is_job) && !known.contains(&(copy.bulk, copy.job.clone()))
        };
        let more = self.queues.copies(is_named).await?;
        found.copies.extend(more);
        // Removed jobs that never ran are known by their copies only.
        for copy in &found.copies {
            let job = copy.job.split_once(':').zip(copy.created_ms.and_then(|at| i64::try_from(at).ok()));
            if let Some(((queue, id), job_created_ms)) = job {
                let prefix = prefix.to_owned();
                found.jobs.insert(ErasedJob { prefix, queue: queue.into(), job_id: id.into(), job_created_ms });
            }
        }
        Ok(found)
    }

    /// Parents whose result, as the history has it, holds what a child has told them.
    async fn find_parents(&self, found: &mut Found, subject: &Subject) -> Result<(), EraseError> {
        let (Some(bodies), false) = (self.bodies, subject.mask.is_empty()) else { return Ok(()) };
        let mut seen: HashSet<(String, String)> = HashSet::new();
        let mut children: Vec<ErasedJob> = found.jobs.iter().cloned().collect();
        for _ in 0..MAX_GENERATIONS {
            let parents = self.store.parents_of(&children).await?;
            children.clear();
            for (queue, id) in parents.into_iter().filter(|parent| seen.insert(parent.clone())) {
                let (Ok(queue), Ok(id)) = (queue.parse::<QueueName>(), id.parse::<JobId>()) else { continue };
                for row in self.store.bodies(self.queues.prefix(), &queue, &id, MOST_RESULTS).await? {
                    let (job_created_ms, started) = (row.job_created_ms, row.started.unsigned_abs());
                    let prefix = self.queues.prefix().to_owned();
                    let job =
                        ErasedJob { prefix, queue: row.queue.clone(), job_id: row.job_id.clone(), job_created_ms };
                    let Some(key) = key_of(&job) else { continue };
                    // Without its key nobody can read it.
                    let Ok(body) = bodies.open(&key, started, &row.sealed()).await else { continue };
                    let is_meant = |text: &String| subject.mask.finds(text);
                    if is_meant(&body.data) || body.result.iter().any(is_meant) {
                        children.push(job);
                    }
                }
            }
            if children.is_empty() {
                return Ok(());
            }
            found.jobs.extend(children.iter().cloned());
        }
        Ok(())
    }

    /// Jobs that de-duplication keeps until another one has ended.
    async fn kept(
        &self,
        wanted: &Wanted,
        subject: Option<&Subject>,
    ) -> Result<Vec<(QueueName, Deduplicated)>, EraseError> {
        let queues = match &wanted.queue {
            Some(queue) => vec![queue.clone()],
            None => self.queues.list().await?,
        };
        let mut found = Vec::new();
        for queue in queues {
            for kept in self.queues.kept(&queue).await? {
                let is_named = wanted.job.as_ref().is_none_or(|id| kept.id == id.as_str());
                let has_value = match (&wanted.person, subject) {
                    (Some((path, _)), Some(subject)) => kept.has(path, &subject.values),
                    _ => true,
                };
                if is_named && has_value {
                    found.push((queue.clone(), kept));
                }
            }
        }
        Ok(found)
    }

    /// Jobs that are erased, and those that are left.
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
                Some(LiveJob { queue, id, state: located.state, why: why.to_owned() })
            })
            .collect();
        let is_left = |job: &ErasedJob| left.iter().any(|left| left.queue == job.queue && left.id == job.job_id);
        (found.jobs.iter().filter(|job| !is_left(job)).cloned().collect(), left)
    }

    /// Out of Redis, then out of the history; jobs that are left lose only what the history has of them.
    async fn erase_jobs(
        &self,
        erasure: i64,
        jobs: &[ErasedJob],
        unfinished: bool,
        mask: &Mask,
        places: &mut Places,
    ) -> Result<(Erased, Vec<LiveJob>), EraseError> {
        let (mut gone, mut left, mut fates) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            let Some(key) = key_of(job) else {
                // Redis can have no such job.
                gone.push(job.clone());
                fates.push((job, Fate::Gone));
                continue;
            };
            let before = self.queues.locate(&key.queue, &key.id).await?.filter(|located| located.key == key);
            let fate = self.queues.erase_job(&key, unfinished).await?;
            fates.push((job, fate));
            let state = before.as_ref().map(|located| located.state);
            let why = match fate {
                Fate::Gone => {
                    match state {
                        Some(state) if is_ended(state) => places.redis_ended += 1,
                        Some(_) => places.redis_unfinished += 1,
                        None => {}
                    }
                    gone.push(job.clone());
                    continue;
                }
                Fate::Runs => "running",
                Fate::Unfinished(_) => "unfinished",
                Fate::OfSchedule => "of-schedule",
            };
            let (queue, id, state) = (job.queue.clone(), job.job_id.clone(), state.unwrap_or(JobState::Unknown));
            left.push(LiveJob { queue, id, state, why: why.to_owned() });
        }
        // Whoever has ended by now has told the stream.
        let recorded = self.recorded_since(Instant::now()).await?;
        let erased = self.store.erase(jobs).await?;
        let spared: HashSet<String> =
            jobs.iter().filter(|job| !gone.contains(job)).filter_map(key_of).map(|key| key.idempotency_key()).collect();
        self.elsewhere(places, &gone, &spared, mask, false).await?;
        for (job, fate) in fates {
            let state = match fate {
                Fate::Gone if recorded => "done",
                // What has ended just now may still come to the history.
                Fate::Gone => "pending",
                Fate::Runs => "running",
                Fate::Unfinished(_) => "unfinished",
                Fate::OfSchedule => "of-schedule",
            };
            self.store.settle_erased_job(erasure, job, state).await?;
        }
        Ok((erased, left))
    }

    /// Waits until Postgres has the attempts that had ended by then; whether it has.
    async fn recorded_since(&self, began: Instant) -> Result<bool, EraseError> {
        loop {
            // By Redis's clock, hence an age and no time.
            let oldest = self.queues.attempts_waiting_for().await?;
            if oldest.is_none_or(|oldest| oldest < began.elapsed()) {
                return Ok(true);
            }
            if began.elapsed() > RECORDER_LIMIT {
                return Ok(false);
            }
            tokio::time::sleep(RECORDER_PAUSE).await;
        }
    }

    /// What Redis has of these jobs beside them.
    async fn elsewhere(
        &self,
        places: &mut Places,
        jobs: &[ErasedJob],
        spared: &HashSet<String>,
        mask: &Mask,
        only_count: bool,
    ) -> Result<(), EraseError> {
        if jobs.is_empty() && mask.is_empty() {
            return Ok(());
        }
        let mut by_queue: BTreeMap<QueueName, HashSet<String>> = BTreeMap::new();
        for key in jobs.iter().filter_map(key_of) {
            by_queue.entry(key.queue).or_default().insert(key.id.to_string());
        }
        if !mask.is_empty() {
            // A parent may be gone, and its event be left.
            for queue in self.queues.list().await? {
                by_queue.entry(queue).or_default();
            }
        }
        for (queue, ids) in &by_queue {
            places.events += self.queues.erase_events(queue, ids, mask, only_count).await?;
        }
        let keys: Vec<JobKey> = jobs.iter().filter_map(key_of).collect();
        places.flow_results += self.queues.erase_told(&keys, mask, only_count).await?;
        let keys: HashSet<String> = keys.iter().map(JobKey::idempotency_key).collect();
        places.key_value += self.queues.erase_kept(&keys, spared, mask, only_count).await?;
        let names: HashSet<String> = jobs.iter().map(|job| format!("{}:{}", job.queue, job.job_id)).collect();
        places.set_aside += self.queues.erase_set_aside(&names, mask, only_count).await?;
        if !only_count {
            let made: HashSet<(String, i64)> =
                jobs.iter().map(|job| (format!("{}:{}", job.queue, job.job_id), job.job_created_ms)).collect();
            let is_meant = |copy: &Copy| {
                let at = copy.created_ms.and_then(|at| i64::try_from(at).ok());
                at.is_some_and(|at| made.contains(&(copy.job.clone(), at)))
            };
            let copies = self.queues.copies(is_meant).await?;
            places.undo_copies += self.forget_copies(&copies).await?;
        }
        Ok(())
    }

    async fn forget_copies(&self, copies: &[Copy]) -> Result<u64, EraseError> {
        self.queues.delete_copies(copies).await?;
        for copy in copies {
            self.store.forget_removed(copy.bulk, &copy.job).await?;
        }
        Ok(copies.len() as u64)
    }
}

fn is_ended(state: JobState) -> bool {
    matches!(state, JobState::Completed | JobState::Failed | JobState::Unknown)
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
    LiveJob { queue: queue.to_string(), id: kept.id.clone(), state: JobState::Waiting, why: "unfinished".to_owned() }
}

/// Idempotency keys of the jobs that are left.
fn left_keys(found: &Found, meant: &[ErasedJob]) -> HashSet<String> {
    found.jobs.iter().filter(|job| !meant.contains(job)).filter_map(key_of).map(|key| key.idempotency_key()).collect()
}

fn report(found: Found, left: Vec<LiveJob>) -> Erasure {
    let live = Live { found: left.len(), complete: found.complete, jobs: left.into_iter().take(MOST_NAMED).collect() };
    Erasure {
        and_more: found.and_more,
        live,
        schedules: found.schedules,
        beyond: [
            "backups of Postgres and Redis",
            "incident bundles, exports and logs that were taken before",
            "audit trails, which are kept for good",
            "tables and services of plugins, and what was sent",
            "copies of other programs that work on the queues",
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
