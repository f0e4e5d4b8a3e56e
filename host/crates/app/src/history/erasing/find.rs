//! Finds the jobs that hold a person's data, and where they are.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use patchbay_model::redaction::{Mask, forms, spellings};
use patchbay_model::{JobId, QueueName};
use patchbay_queue::{Copy, Deduplicated, Located};
use patchbay_store::{ErasedJob, Person, Term};

use super::{EraseError, EraseTarget, Erasing, key_of, of_key};

/// Limit of the scan of jobs in Redis: an operator waits for it.
pub(super) const LOOK_FOR: Duration = Duration::from_secs(60);
/// Texts are not searched for shorter values, since those are parts of other words.
const LEAST_IN_TEXTS: usize = 9;
/// Levels of parents above a job.
const MAX_GENERATIONS: usize = 16;
/// Results of one parent that are searched.
const MOST_RESULTS: i64 = 100;

pub(super) struct Found {
    pub(super) jobs: BTreeSet<ErasedJob>,
    pub(super) located: Vec<Located>,
    pub(super) copies: Vec<Copy>,
    pub(super) schedules: Vec<String>,
    pub(super) and_more: bool,
    pub(super) complete: bool,
}

/// The person, with all spellings of the value by which its data are found.
pub(super) struct Subject {
    pub(super) path: String,
    pub(super) values: Vec<String>,
    pub(super) spellings: Vec<String>,
    pub(super) mask: Mask,
    pub(super) terms: Vec<Term>,
}

impl Subject {
    pub(super) fn person(&self) -> Person<'_> {
        Person {
            path: &self.path,
            values: &self.values,
            spellings: &self.spellings,
            mask: &self.mask,
        }
    }
}

impl Erasing<'_> {
    pub(super) async fn subject(
        &self,
        wanted: &EraseTarget,
    ) -> Result<Option<Subject>, EraseError> {
        let Some((path, value)) = &wanted.person else {
            return Ok(None);
        };
        // Spelled as addresses within a text are found.
        let mut values: Vec<String> = Vec::new();
        for form in forms(value) {
            let small = form.contains('@').then(|| form.to_lowercase());
            for form in std::iter::once(form).chain(small) {
                if !values.contains(&form) {
                    values.push(form);
                }
            }
        }
        let spellings: BTreeSet<String> = forms(value)
            .iter()
            .flat_map(|form| spellings(form))
            .collect();
        let key = self.store.term_key().await?;
        let terms = values.iter().map(|value| key.term(path, value)).collect();
        let mask = if value.len() >= LEAST_IN_TEXTS {
            Mask::new([value.clone()])
        } else {
            Mask::default()
        };
        let spellings = spellings.into_iter().collect();
        Ok(Some(Subject {
            path: path.to_string(),
            values,
            spellings,
            mask,
            terms,
        }))
    }

    pub(super) async fn find(
        &self,
        wanted: &EraseTarget,
        subject: Option<&Subject>,
    ) -> Result<Found, EraseError> {
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
                    found
                        .jobs
                        .extend(jobs.into_iter().filter(|job| job.prefix == prefix));
                }
                found
                    .jobs
                    .extend(store.jobs_saying(prefix, queue, &subject.person()).await?);
                let queues = match &wanted.queue {
                    Some(queue) => vec![queue.clone()],
                    None => self.queues.list().await?,
                };
                for queue in &queues {
                    let (located, complete) = self
                        .queues
                        .jobs_with(queue, path, &subject.values, &subject.mask, until)
                        .await?;
                    found.located.extend(located);
                    found.complete &= complete;
                    found.schedules.extend(
                        self.queues
                            .schedulers_with(queue, path, &subject.values)
                            .await?,
                    );
                }
                for row in store.schedules().await? {
                    let is_meant = queue.is_none_or(|queue| row.queue == queue)
                        && path.holds(&row.data, &subject.values);
                    if is_meant && !found.schedules.contains(&row.id) {
                        found.schedules.push(row.id);
                    }
                }
                found.copies = self
                    .queues
                    .copies(|copy| copy.has(path, &subject.values))
                    .await?;
            }
            _ => {
                if let (Some(queue), Some(id)) = (&wanted.queue, &wanted.job) {
                    found
                        .jobs
                        .extend(store.jobs_named(prefix, queue, id).await?);
                    found.located.extend(self.queues.locate(queue, id).await?);
                }
            }
        }
        if let Some(id) = &wanted.job {
            found.jobs.retain(|job| job.job_id == id.as_str());
            found.located.retain(|job| job.key.id == *id);
        }
        found
            .jobs
            .extend(found.located.iter().map(|located| of_key(&located.key)));
        if let Some(subject) = subject {
            self.find_parents(&mut found, subject).await?;
        }
        // Redis may have some of the history's jobs with other data. Their place decides what can
        // be done.
        for job in &found.jobs {
            let is_known = |located: &Located| {
                located.key.queue.as_str() == job.queue && located.key.id.as_str() == job.job_id
            };
            if found.located.iter().any(is_known) {
                continue;
            }
            let (Ok(queue), Ok(id)) = (job.queue.parse::<QueueName>(), job.job_id.parse::<JobId>())
            else {
                continue;
            };
            let located = self.queues.locate(&queue, &id).await?;
            found
                .located
                .extend(located.filter(|located| of_key(&located.key) == *job));
        }
        let named: HashSet<(String, i64)> = found
            .jobs
            .iter()
            .map(|job| (format!("{}:{}", job.queue, job.job_id), job.job_created_ms))
            .collect();
        let known: HashSet<(i64, String)> = found
            .copies
            .iter()
            .map(|copy| (copy.bulk, copy.job.clone()))
            .collect();
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
            let job = copy
                .job
                .split_once(':')
                .zip(copy.created_ms.and_then(|at| i64::try_from(at).ok()));
            if let Some(((queue, id), job_created_ms)) = job {
                let prefix = prefix.to_owned();
                found.jobs.insert(ErasedJob {
                    prefix,
                    queue: queue.into(),
                    job_id: id.into(),
                    job_created_ms,
                });
            }
        }
        Ok(found)
    }

    /// Finds parents whose result in the history holds a value that a child has returned.
    async fn find_parents(&self, found: &mut Found, subject: &Subject) -> Result<(), EraseError> {
        let (Some(bodies), false) = (self.bodies, subject.mask.is_empty()) else {
            return Ok(());
        };
        let mut seen: HashSet<(String, String)> = HashSet::new();
        let mut children: Vec<ErasedJob> = found.jobs.iter().cloned().collect();
        for _ in 0..MAX_GENERATIONS {
            let parents = self.store.parents_of(&children).await?;
            children.clear();
            for (queue, id) in parents
                .into_iter()
                .filter(|parent| seen.insert(parent.clone()))
            {
                let (Ok(queue), Ok(id)) = (queue.parse::<QueueName>(), id.parse::<JobId>()) else {
                    continue;
                };
                for row in self
                    .store
                    .bodies(self.queues.prefix(), &queue, &id, MOST_RESULTS)
                    .await?
                {
                    let (job_created_ms, started) =
                        (row.job_created_ms, row.started.unsigned_abs());
                    let prefix = self.queues.prefix().to_owned();
                    let job = ErasedJob {
                        prefix,
                        queue: row.queue.clone(),
                        job_id: row.job_id.clone(),
                        job_created_ms,
                    };
                    let Some(key) = key_of(&job) else { continue };
                    // Without its key nobody can read it.
                    let Ok(body) = bodies.open(&key, started, &row.sealed()).await else {
                        continue;
                    };
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

    /// Finds jobs that de-duplication keeps until another one has ended.
    pub(super) async fn kept(
        &self,
        wanted: &EraseTarget,
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
}
