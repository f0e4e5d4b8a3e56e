//! One job's life in the order in which it happened: a pure function of what Postgres and Redis know.
//!
//! An id that was used again, for example after Redis was emptied, has several lives, told apart by when the job was made.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use patchbay_queue::{Family, JobView};
use patchbay_store::{FoundRow, JobAction, JobAudit, JobBulk, JobErasure, Relative};
use serde::Serialize;
use serde_json::Value;

/// What was seen of a job.
#[derive(Debug)]
pub struct Seen {
    /// Its name in full, `queue:id`.
    pub key: String,
    /// Oldest first, of all its lives.
    pub attempts: Vec<FoundRow>,
    /// Of operators.
    pub actions: Vec<JobAction>,
    /// That chose it or added it.
    pub bulks: Vec<JobBulk>,
    /// Of plugins.
    pub audit: Vec<JobAudit>,
    /// That took its data away.
    pub erasures: Vec<JobErasure>,
    /// Of the same requests.
    pub relatives: Vec<Relative>,
    /// Versions of revisions by digest.
    pub versions: BTreeMap<String, String>,
    /// As Redis has it now.
    pub job: Option<JobView>,
    /// The same.
    pub family: Family,
    /// The same.
    pub logs: Vec<String>,
}

/// All lives under one id, the oldest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// Of the job.
    pub queue: String,
    /// Its id.
    pub id: String,
    /// One per job that had this id.
    pub lives: Vec<Life>,
}

/// From being made to what is left of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Life {
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
    /// Its kind.
    pub name: String,
    /// Of the request that caused it.
    pub correlation_id: Option<String>,
    /// What that was made under.
    pub platform: Option<String>,
    /// `queue:id`.
    pub parent: Option<String>,
    /// By `queue:id`, how far they are.
    pub children: BTreeMap<String, String>,
    /// Other jobs of the same request, and how their newest attempt ended.
    pub same_request: BTreeMap<String, String>,
    /// In the order of their beginning.
    pub events: Vec<Event>,
    /// Lines of the job's log that bear no time: in their order, and as long as Redis has the job.
    pub logs: Vec<String>,
    /// Its state in Redis; absent: Redis has forgotten it.
    pub state: Option<String>,
}

/// Something that happened.
#[derive(Debug, Serialize)]
pub struct Event {
    /// When it began.
    pub at: DateTime<Utc>,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
// A timeline has hundreds of events at most, and most are attempts.
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum What {
    /// The job was made.
    Added,
    /// It ran.
    Attempt {
        started: i32,
        attempt: i32,
        ended_at: DateTime<Utc>,
        /// Since it was made, the attempt before ended, or an operator put it back; absent when nobody knows who put it back.
        #[serde(skip_serializing_if = "Option::is_none")]
        waited_ms: Option<i64>,
        took_ms: i64,
        host: String,
        plugin: Option<String>,
        revision: Option<String>,
        version: Option<String>,
        outcome: String,
        /// What came of it: complete, retry, defer or fail.
        verdict: String,
        code: Option<String>,
        message: Option<String>,
        /// Of the plugin's code, where it trapped.
        #[serde(skip_serializing_if = "Option::is_none")]
        stack: Option<String>,
        /// Outside calls: what, where, how they ended and how long they took.
        calls: Value,
        /// Who says so: the host that ran it, or somebody who saw it from outside.
        source: String,
    },
    /// It was started, and the end of that never came: its worker is gone.
    WorkerLost { started: i32, host: String },
    /// An operator did something to it.
    Operator { actor: String, action: String, error: Option<String> },
    /// A bulk operation did something to it.
    Bulk {
        bulk: i64,
        /// `retry`, `remove`, `enqueue-again` or `edit-and-retry`.
        action: String,
        actor: String,
        /// `pending`, `done`, `skipped`, `failed`, `restored` or `lost`.
        state: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Id of the job that was added.
        #[serde(skip_serializing_if = "Option::is_none")]
        added: Option<String>,
        /// Id of the job that this one was added like.
        #[serde(skip_serializing_if = "Option::is_none")]
        like: Option<String>,
    },
    /// A plugin wrote into an audit trail.
    Audit {
        trail: String,
        entry_key: String,
        plugin: String,
        /// The job that wrote it, where it is another one of the same request.
        by: Option<String>,
    },
    /// Its data was erased; the others of its events stay.
    Erased { actor: String, reason: String, erasure: i64 },
    /// It wrote a line with a time into its log.
    Log { line: String },
}

/// Puts it together.
pub fn timeline(queue: &str, id: &str, seen: Seen) -> Timeline {
    let mut lives: BTreeMap<i64, Life> = BTreeMap::new();
    for row in &seen.attempts {
        let life = lives.entry(row.job_created_ms).or_insert_with(|| Life::new(row.job_created_ms));
        life.name.clone_from(&row.attempt.name);
        life.correlation_id.get_or_insert_with(|| row.attempt.correlation_id.clone());
        life.platform = life.platform.take().or_else(|| row.attempt.platform.clone());
        life.parent = life.parent.take().or_else(|| row.attempt.parent.clone());
        life.events.push(attempt(row, &seen.versions));
    }
    if let Some(job) = seen.job {
        let made = job.timestamp.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0);
        lives.entry(made).or_insert_with(|| Life::new(made)).is_in_redis(job, seen.family, seen.logs);
    }
    for erasure in &seen.erasures {
        // Of a job that never ran, nothing else is left.
        lives.entry(erasure.job_created_ms).or_insert_with(|| Life::new(erasure.job_created_ms));
    }
    for relative in &seen.relatives {
        let key = format!("{}:{}", relative.queue, relative.job_id);
        for life in lives.values_mut() {
            if relative.parent.as_deref() == Some(&seen.key) {
                life.children.entry(key.clone()).or_insert_with(|| relative.outcome.clone());
            } else {
                life.same_request.insert(key.clone(), relative.outcome.clone());
            }
        }
    }
    for item in seen.bulks {
        // It chose this job, or added it. One that was added with the id that it had goes on with its life.
        let adds = item.job_id != id;
        let place = if adds { made_at(&lives, item.at.timestamp_millis()) } else { Some(item.job_created_ms) };
        if let Some(life) = place.and_then(|made| lives.get_mut(&made)) {
            life.events.push(Event { at: item.at, what: bulk(&item, adds) });
        }
    }
    for erasure in seen.erasures {
        let JobErasure { erasure, job_created_ms, at, actor, reason } = erasure;
        if let Some(life) = lives.get_mut(&job_created_ms) {
            life.events.push(Event { at, what: What::Erased { actor, reason, erasure } });
        }
    }
    let actions = seen.actions.into_iter().map(|action| {
        let JobAction { actor, action, began_at, error, .. } = action;
        Event { at: began_at, what: What::Operator { actor, action, error } }
    });
    let entries = seen.audit.into_iter().map(|entry| {
        let by = entry.queue.zip(entry.job_id).map(|(queue, id)| format!("{queue}:{id}")).filter(|by| *by != seen.key);
        let JobAudit { at, trail, entry_key, plugin, .. } = entry;
        Event { at, what: What::Audit { trail, entry_key, plugin, by } }
    });
    for event in actions.chain(entries) {
        let at = event.at.timestamp_millis();
        let place = match event.adds() {
            true => made_at(&lives, at),
            // What came before the first, by another clock, is of the first.
            false => lives.range(..=at).next_back().or(lives.iter().next()).map(|(made, _)| *made),
        };
        if let Some(life) = place.and_then(|made| lives.get_mut(&made)) {
            life.events.push(event);
        }
    }
    for life in lives.values_mut() {
        // When a job was made is known to the millisecond.
        let rank = |event: &Event| match &event.what {
            What::Operator { .. } | What::Bulk { .. } if event.adds() => 0,
            What::Added => 1,
            _ => 2,
        };
        life.events.sort_by_key(|event| (event.at.timestamp_millis(), rank(event), event.at));
        life.tell_waits();
    }
    Timeline { queue: queue.to_owned(), id: id.to_owned(), lives: lives.into_values().collect() }
}

/// The life that began when something was added, as good as then: that was written down by the clock of another machine.
fn made_at(lives: &BTreeMap<i64, Life>, at: i64) -> Option<i64> {
    lives.keys().min_by_key(|made| made.abs_diff(at)).copied()
}

impl Event {
    /// An order that made the job.
    fn adds(&self) -> bool {
        match &self.what {
            What::Operator { action, .. } => action.ends_with(".add"),
            What::Bulk { like, .. } => like.is_some(),
            _ => false,
        }
    }

    /// An order after which a job that had ended waits again.
    fn puts_back(&self) -> bool {
        match &self.what {
            What::Operator { action, error, .. } => action == "job.retry" && error.is_none(),
            What::Bulk { action, state, added, like, .. } => {
                action != "remove" && state == "done" && added.is_none() && like.is_none()
            }
            _ => false,
        }
    }
}

impl Life {
    fn new(created_ms: i64) -> Self {
        let created_at = DateTime::from_timestamp_millis(created_ms);
        let added = created_at.map(|at| Event { at, what: What::Added });
        Self {
            created_at,
            name: String::new(),
            correlation_id: None,
            platform: None,
            parent: None,
            children: BTreeMap::new(),
            same_request: BTreeMap::new(),
            events: added.into_iter().collect(),
            logs: Vec::new(),
            state: None,
        }
    }

    /// For how long it had waited for each attempt: what happened before is known now.
    fn tell_waits(&mut self) {
        let mut since = None;
        for event in &mut self.events {
            if event.puts_back() || matches!(event.what, What::Added) {
                since = Some(event.at);
            }
            if let What::Attempt { waited_ms, ended_at, verdict, .. } = &mut event.what {
                // A clock that was set back must not make it wait for less than nothing.
                *waited_ms = since.map(|since| (event.at - since).num_milliseconds().max(0));
                let is_over = ["fail", "complete"].contains(&verdict.as_str());
                since = (!is_over).then_some(*ended_at);
            }
        }
    }

    fn is_in_redis(&mut self, job: JobView, family: Family, logs: Vec<String>) {
        self.name = job.name;
        self.state = Some(job.state.to_string());
        self.correlation_id = self.correlation_id.take().or(family.correlation_id);
        self.platform = self.platform.take().or(family.platform);
        self.parent = self.parent.take().or(family.parent);
        self.children = family.children.into_iter().map(|(key, state)| (key, state.to_owned())).collect();
        for line in logs {
            let time = line.split_whitespace().next().and_then(|word| DateTime::parse_from_rfc3339(word).ok());
            match time {
                Some(at) => self.events.push(Event { at: at.to_utc(), what: What::Log { line } }),
                None => self.logs.push(line),
            }
        }
    }
}

fn bulk(item: &JobBulk, adds: bool) -> What {
    What::Bulk {
        bulk: item.bulk,
        action: item.kind.clone(),
        actor: item.actor.clone(),
        state: item.state.clone(),
        reason: item.reason.clone(),
        added: item.new_id.clone().filter(|new| !adds && *new != item.job_id),
        like: adds.then(|| item.job_id.clone()),
    }
}

fn attempt(row: &FoundRow, versions: &BTreeMap<String, String>) -> Event {
    let at = row.attempt.clone();
    if at.source == "worker-lost" {
        return Event { at: at.started_at, what: What::WorkerLost { started: at.started, host: at.host } };
    }
    let what = What::Attempt {
        started: at.started,
        attempt: at.attempt,
        ended_at: at.finished_at,
        waited_ms: None,
        took_ms: (at.finished_at - at.started_at).num_milliseconds().max(0),
        version: at.revision.as_ref().and_then(|digest| versions.get(digest).cloned()),
        host: at.host,
        plugin: at.plugin,
        revision: at.revision,
        outcome: at.outcome,
        verdict: at.verdict,
        code: at.code,
        message: at.message,
        stack: at.stack,
        calls: at.calls.unwrap_or_else(|| Value::Array(Vec::new())),
        source: at.source,
    };
    Event { at: at.started_at, what }
}
